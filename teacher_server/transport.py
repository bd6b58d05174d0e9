"""The server's side of TLS. Files are read again at every handshake, so a renewed certificate needs no restart."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import grpc

from teacher_server.config import TlsConfig

log = logging.getLogger(__name__)


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Of the files that `tls` names; raises OSError or ValueError where they can't be read now."""
    stamp = _stamp(tls)
    first = _read(tls)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """None: as before. Called by gRPC at every handshake, from a thread of its own."""
        nonlocal stamp
        try:
            now = _stamp(tls)
            if now == stamp:
                return None
            config = _read(tls)
        except OSError as error:
            log.error("certificate_unreadable kept=previous %s", error)
            return None
        stamp = now
        log.info("certificate_renewed file=%s", tls.certificate_file)
        return config

    # gRPC's documentation lets the fetcher return None, its types do not.
    fetcher: Any = renewed
    return grpc.dynamic_ssl_server_credentials(
        first, fetcher, require_client_authentication=tls.client_ca_file is not None
    )


def certificate_names(auth_context: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Names that a client's verified certificate bears; none without mutual TLS."""
    if list(auth_context.get("transport_security_type", ())) != [b"ssl"]:
        return []
    keys = ("x509_subject_alternative_name", "x509_common_name")
    return [name.decode(errors="replace") for key in keys for name in auth_context.get(key, ())]


def _read(tls: TlsConfig) -> grpc.ServerCertificateConfiguration:
    authorities = tls.client_ca_file and tls.client_ca_file.read_bytes()
    pair = (tls.key_file.read_bytes(), tls.certificate_file.read_bytes())
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)


def _stamp(tls: TlsConfig) -> list[int]:
    files = (tls.certificate_file, tls.key_file, tls.client_ca_file)
    return [path.stat().st_mtime_ns for path in files if path is not None]
