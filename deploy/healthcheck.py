"""Exit 0 if the teacher at host:port says SERVING, else 1: what Docker asks of a teacher's container.

python healthcheck.py 127.0.0.1:50051
"""

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def health(address: str) -> str:
    """Answer of the gRPC health service, or the gRPC status where there is none."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its methods are made at run time
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=3)
        except grpc.RpcError as error:
            return error.code().name  # pyright: ignore[reportAttributeAccessIssue]
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


if __name__ == "__main__":
    status = health(sys.argv[1])
    print(status)  # kept in `docker inspect`
    sys.exit(0 if status == "SERVING" else 1)
