"""Who a client of a teacher is and whom it trusts, as flags."""

from __future__ import annotations

from pathlib import Path

from protos.credentials import Credentials, read_token
from teacher_server.settings import Settings


class CredentialSettings(Settings):
    """Without any of these the line is plaintext, and the client is nobody in particular."""

    token_file: Path | None = None
    """File that holds the token alone; without it VGS_TOKEN of the environment, if set."""
    ca_file: Path | None = None
    """PEM of the authorities to trust. Naming one means TLS."""
    certificate_file: Path | None = None
    """PEM of your certificate, for mutual TLS."""
    key_file: Path | None = None
    """PEM of its key."""
    server_name: str = ""
    """Name that the server's certificate bears, if not the host's."""
    tls: bool = False
    """Speak TLS, and trust the system's authorities."""
    plaintext_token: bool = False
    """Send the token without TLS even over a network; for one that is yours alone."""

    def credentials(self) -> Credentials:
        """As the client takes them; raises ValueError or OSError where a file is wrong."""
        for name in ("token_file", "ca_file", "certificate_file", "key_file"):
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name} {path} is not a file")
        return Credentials(
            read_token(self.token_file),
            self.tls,
            self.ca_file,
            self.certificate_file,
            self.key_file,
            self.server_name,
            self.plaintext_token,
        )
