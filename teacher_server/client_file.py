"""The file of those who may use a teacher: names, hashes of tokens, weights and quotas. Read again when it changes.

[clients.vision-lab]
token_sha256 = "9f86d0..."      # `teacher-server token vision-lab` makes both
weight = 2.0
max_tokens = 65536

[clients.trainer-7]
certificate_name = "trainer-7.lab.example"    # of its certificate, with mutual TLS

An entry with both wants both. A token that is shown decides alone: one that is unknown is refused, whatever the
certificate.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError, field_validator, model_validator

from protos.errors import NotAllowed, Unauthenticated
from teacher_server.client import Client
from teacher_server.settings import Settings

log = logging.getLogger(__name__)

TOKEN_BYTES = 32
SHOWN = "vgs_"
"""Every token begins so, that scanners for leaked secrets may know it."""
LONGEST_NAME = 64


class ClientEntry(Settings):
    """One client in the file."""

    token_sha256: str | None = None
    """Hex SHA-256 of its token."""
    certificate_name: str | None = None
    """A name that its certificate bears: DNS name, address or common name."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the engine beside others that have work waiting."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Response tokens under way."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Bytes of prompts kept and items under way."""

    @field_validator("certificate_name")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is empty; give a name that the client's certificate bears")
        return value

    @field_validator("token_sha256")
    @classmethod
    def _is_sha256(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 64 or set(value.lower()) - set("0123456789abcdef")):
            raise ValueError(
                "is not the hex SHA-256 of a token; `teacher-server token NAME` makes one"
            )
        return value and value.lower()

    @model_validator(mode="after")
    def _can_be_told(self) -> ClientEntry:
        if self.token_sha256 is None and self.certificate_name is None:
            raise ValueError(
                "has neither token_sha256 nor certificate_name: nobody could be it; give one of them"
            )
        return self


class _Clients(Settings):
    clients: dict[str, ClientEntry]

    @field_validator("clients")
    @classmethod
    def _names_can_be_told(cls, clients: dict[str, ClientEntry]) -> dict[str, ClientEntry]:
        for name in clients:
            if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
                raise ValueError(
                    f"the name {name[:LONGEST_NAME]!r} is empty, longer than {LONGEST_NAME} characters or not "
                    "printable: it stands in logs and metrics"
                )
        return clients

    @model_validator(mode="after")
    def _nobody_is_two(self) -> _Clients:
        proofs = Counter(
            entry.token_sha256 or entry.certificate_name for entry in self.clients.values()
        )
        if max(proofs.values(), default=0) > 1:
            raise ValueError(
                "two clients have the same token, or the same certificate and no token; give each its own with "
                "`teacher-server token NAME`"
            )
        return self


@dataclass(frozen=True)
class Presented:
    """What a caller showed. Holds a token's hash, never the token."""

    token_sha256: bytes | None
    certificate_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, authorization: str | None, certificate_names: Sequence[str] = ()) -> Presented:
        """From the metadata's or header's "Bearer ..."; raises Unauthenticated for any other scheme."""
        if authorization is None:
            return cls(None, tuple(certificate_names))
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated(
                'the authorization is not "Bearer TOKEN"; give the token that the teacher\'s owner made'
            )
        return cls(hashlib.sha256(token.encode()).digest(), tuple(certificate_names))


class ClientFile:
    """Tells who a caller is. A change that can't be read is refused whole: who was known stays known."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError or OSError where the file can't be read now."""
        self._path = path
        self._away = False
        self._stamp = stamp_of(path)
        self._entries = _read(path)

    def refresh(self) -> bool:
        """Read the file again if it changed; whether it did."""
        stamp = self._stamp
        try:
            stamp = stamp_of(self._path)
            changed = stamp != self._stamp
            entries = _read(self._path) if changed else self._entries
        except OSError as error:
            # An editor may be about to put a new one in its place: asked again.
            if not self._away:
                log.error("clients_file_away path=%s kept=%d %s", self._path, len(self), error)
            self._away = True
            return False
        except ValueError as error:
            # As long as it is the same, saying so once is enough.
            self._stamp = stamp
            log.error("clients_file_refused path=%s kept=%d %s", self._path, len(self), error)
            return False
        self._away = False
        if not changed:
            return False
        self._stamp, self._entries = stamp, entries
        log.info("clients_file_read path=%s clients=%d", self._path, len(self))
        return True

    def identify(self, presented: Presented) -> Client:
        """Who showed this; raises Unauthenticated, or NotAllowed for a certificate that is nobody's."""
        entries = self._entries  # a reload puts others in its place
        found: str | None = None
        for name, entry in entries.items():
            # Every entry is compared, and each in constant time: how long it takes tells nothing.
            if _fits(entry, presented):
                found = found or name
        if found is not None:
            entry = entries[found]
            return Client(found, found, entry.weight, entry.max_tokens, entry.max_bytes)
        if presented.token_sha256 is not None:
            raise Unauthenticated(
                "the token is not known here; was it revoked, is it another teacher's, or does it need its certificate "
                "beside it?"
            )
        if presented.certificate_names:
            raise NotAllowed(
                f"the certificate of {presented.certificate_names[0]!r} belongs to no client of this teacher; ask its "
                "owner for an entry"
            )
        raise Unauthenticated("this teacher wants a token; ask its owner for one")

    def __len__(self) -> int:
        return len(self._entries)


def stamp_of(path: Path) -> tuple[int, ...]:
    """Differs once a file was written, replaced (whatever its date) or made readable."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def new_token() -> tuple[str, str]:
    """A random token, and what the file keeps of it."""
    token = SHOWN + secrets.token_urlsafe(TOKEN_BYTES)
    return token, hashlib.sha256(token.encode()).hexdigest()


def _fits(entry: ClientEntry, presented: Presented) -> bool:
    known = bytes.fromhex(entry.token_sha256 or "00" * 32)
    shown = presented.token_sha256 or b"\xff" * 32
    same = hmac.compare_digest(known, shown)
    if entry.token_sha256 is None:
        same = presented.token_sha256 is None
    if entry.certificate_name is None:
        return same
    return same and entry.certificate_name in presented.certificate_names


def _read(path: Path) -> dict[str, ClientEntry]:
    try:
        return _Clients.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).clients
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "clients"
        raise ValueError(
            f"{path}: {where}: {wrong['msg'].removeprefix('Value error, ')}"
        ) from None  # its own text would show the file's content
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
