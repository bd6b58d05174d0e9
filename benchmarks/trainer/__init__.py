"""What a step of the student trainer costs."""
