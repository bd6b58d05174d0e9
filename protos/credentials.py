"""How a client proves who it is, and whom it trusts."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from protos.address import host_of, is_loopback
from protos.channel import ChannelOptions

STREAM_ID = "vgs-stream-id"
"""Metadata key: the name that a stream has in the logs of both sides."""
TOKEN_VARIABLE = "VGS_TOKEN"
"""Of the environment."""
TOKEN = "authorization"
"""Metadata key of "Bearer ..."."""
SYSTEM_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
"""Of Debian, Red Hat and SUSE, for a Python that does not know."""


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
        if any(not "!" <= c <= "~" for c in self.token):
            # gRPC would refuse the metadata, and show it.
            raise ValueError("the token holds spaces or other than ASCII; is it the token alone?")
        if self.server_name and not self.encrypted:
            raise ValueError(
                f"server_name {self.server_name!r} is what a certificate is checked for, and there is no TLS: name "
                "ca_file, or say tls"
            )

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
        options = self._options(address, options)
        if not self.encrypted:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, self.ssl(), options=options)

    def blocking_channel(self, address: str, options: ChannelOptions) -> grpc.Channel:
        """The same for calls that block."""
        options = self._options(address, options)
        if not self.encrypted:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, self.ssl(), options=options)

    def _options(self, address: str, options: ChannelOptions) -> ChannelOptions:
        loopback = is_loopback(host_of(address))
        if self.token and not (self.encrypted or self.plaintext_token or loopback):
            raise ValueError(
                f"the token would reach {address} in plaintext; use TLS (ca_file), or say plaintext_token if the "
                "network is yours alone"
            )
        if loopback:
            # http_proxy in the environment would lead even these connections, and with them the token, elsewhere.
            options = [*options, ("grpc.enable_http_proxy", 0)]
        if self.server_name:
            options = [*options, ("grpc.ssl_target_name_override", self.server_name)]
        return options

    @property
    def authorities_file(self) -> Path | None:
        """PEM of who is trusted: `ca_file`, else the system's; None where there is no such file: gRPC has a list."""
        if self.ca_file is not None:
            return self.ca_file
        # Left alone, gRPC would look into the list that came with it, which lacks what the system's owner added.
        chosen = os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
        candidates = (chosen, ssl.get_default_verify_paths().cafile, *SYSTEM_AUTHORITIES)
        return next((Path(path) for path in candidates if path and Path(path).is_file()), None)

    def ssl(self) -> grpc.ChannelCredentials:
        """What gRPC checks the server with, and shows it."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.authorities_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.certificate_file),
        )


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def read_token(path: Path | None) -> str:
    """The only word of the file, or without a file what VGS_TOKEN of the environment says; "" for no token.

    Raises ValueError where the file holds anything else, OSError where it can't be read.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    words = path.read_text().split()
    if len(words) != 1:
        raise ValueError(
            f"token_file {path} holds {len(words)} words; it should hold the token alone"
        )
    return words[0]
