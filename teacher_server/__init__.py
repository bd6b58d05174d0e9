"""The teacher: a gRPC server that scores a student's own answers, with the picture and without."""
