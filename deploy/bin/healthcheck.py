#!/usr/bin/env python3
"""Exit 0 if the server at host:port says SERVING, else 1: what Docker and, with TLS, Kubernetes ask of a container.

healthcheck.py 127.0.0.1:50051
healthcheck.py localhost:50051 --ca-file ca.pem
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0


def health(address: str, ca_file: Path | None = None, server_name: str = "") -> str:
    """Answer of the gRPC health service, or the gRPC status where there is none."""
    with channel_to(address, ca_file, server_name) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its methods are made at run time
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            status: Any = error
            return status.code().name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def channel_to(address: str, ca_file: Path | None, server_name: str) -> grpc.Channel:
    """Over TLS where an authority is named. A proxy of the environment is not asked for the way to oneself."""
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if ca_file is None:
        return grpc.insecure_channel(address, options)
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca_file.read_bytes()), options)


def main() -> int:
    """Say what was found, which `docker inspect` keeps."""
    parser = argparse.ArgumentParser(description="Ask a server for its health.")
    parser.add_argument("address")
    parser.add_argument("--ca-file", type=Path, help="PEM of the authority to trust; means TLS")
    parser.add_argument("--server-name", default="", help="that the certificate bears")
    asked = parser.parse_args()
    status = health(asked.address, asked.ca_file, asked.server_name)
    print(status)
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
