"""How a client proves who it is, and whom it trusts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from protos.address import host_of, is_loopback
from protos.channel import ChannelOptions

STREAM_ID = "vgs-stream-id"
"""Metadata key: the name that a stream has in the logs of both sides."""
TOKEN = "authorization"
"""Metadata key of "Bearer ..."."""


@dataclass(frozen=True)
class Credentials:
    """Without any of these the line is plaintext, and the client is nobody in particular."""

    token: str = field(default="", repr=False)
    """Shown to the server; `teacher-server token` makes one."""
    tls: bool = False
    """Encrypt, and trust the system's certificate authorities. Naming any file below says so too."""
    ca_file: Path | None = None
    """PEM of the authorities to trust instead."""
    certificate_file: Path | None = None
    """PEM of the client's own certificate, for mutual TLS."""
    key_file: Path | None = None
    """PEM of its key."""
    server_name: str = ""
    """Name that the server's certificate must bear; empty: the host of the address."""
    plaintext_token: bool = False
    """Send the token without TLS even over a network; for one that is yours alone."""

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError(
                f"certificate_file {self.certificate_file} and key_file {self.key_file}: one needs the other"
            )
        if not self.token.isascii() or any(c.isspace() for c in self.token):
            raise ValueError("the token holds spaces or other than ASCII; is it the token alone?")

    @property
    def encrypted(self) -> bool:
        """Whether the line is TLS."""
        return self.tls or self.ca_file is not None or self.certificate_file is not None

    def metadata(self, stream_id: str) -> tuple[tuple[str, str], ...]:
        """Of every call."""
        named = ((STREAM_ID, stream_id),)
        return (*named, (TOKEN, f"Bearer {self.token}")) if self.token else named

    def channel(self, address: str, options: ChannelOptions) -> grpc.aio.Channel:
        """A channel to `address`. Files are read now, so that a renewed certificate counts from the next connection.

        Raises ValueError where a token would cross a network in plaintext, OSError where a file can't be read.
        """
        if not self.encrypted:
            if self.token and not (self.plaintext_token or is_loopback(host_of(address))):
                raise ValueError(
                    f"the token would reach {address} in plaintext; use TLS (ca_file), or say plaintext_token if the "
                    "network is yours alone"
                )
            return grpc.aio.insecure_channel(address, options=options)
        if self.server_name:
            options = [*options, ("grpc.ssl_target_name_override", self.server_name)]
        return grpc.aio.secure_channel(address, self.ssl(), options=options)

    def ssl(self) -> grpc.ChannelCredentials:
        """What gRPC checks the server with, and shows it."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.certificate_file),
        )


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
