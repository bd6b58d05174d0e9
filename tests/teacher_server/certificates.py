"""Authorities and the certificates that they make, as files: for tests of TLS."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate_file: Path
    key_file: Path

    def copy_to(self, other: Pair) -> None:
        """Put this pair in the other's place, as a renewal does."""
        other.certificate_file.write_bytes(self.certificate_file.read_bytes())
        other.key_file.write_bytes(self.key_file.read_bytes())


class Authority:
    """Makes certificates in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self._authority = trustme.CA(organization_name=name)
        self._folder = folder
        self._name = name
        self.ca_file = folder / f"{name}-ca.pem"
        self._authority.cert_pem.write_to_path(self.ca_file)

    def issue(
        self, name: str, *identities: str, common_name: str | None = None, expired: bool = False
    ) -> Pair:
        """A certificate for host names, addresses or whatever else it is to bear."""
        now = datetime.datetime.now(datetime.UTC)
        issued = self._authority.issue_cert(
            *identities,
            common_name=common_name,
            not_before=now - 3 * DAY,
            not_after=now - DAY if expired else now + DAY,
        )
        pair = Pair(*(self._folder / f"{self._name}-{name}.{kind}" for kind in ("pem", "key")))
        pair.certificate_file.unlink(missing_ok=True)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(pair.certificate_file, append=True)
        issued.private_key_pem.write_to_path(pair.key_file)
        return pair
