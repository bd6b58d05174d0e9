"""The server's side of TLS. Files are read again at every handshake, so a renewed certificate needs no restart."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

import grpc

from teacher_server.client_file import stamp_of
from teacher_server.config import TlsConfig

log = logging.getLogger(__name__)


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Of the files that `tls` names; raises OSError or ValueError where they can't be used now."""
    stamp = _stamp(tls)
    first = _read(tls)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """None: as before. Called by gRPC at every handshake, from a thread of its own."""
        nonlocal stamp
        try:
            now = _stamp(tls)
            if now == stamp:
                return None
            stamp = now
            config = _read(tls)
        except (OSError, ValueError) as error:
            log.error("certificate_refused kept=previous %s", error)
            return None
        log.info("certificate_renewed file=%s", tls.certificate_file)
        return config

    # gRPC's documentation lets the fetcher return None, its types do not.
    fetcher: Any = renewed
    return grpc.dynamic_ssl_server_credentials(
        first, fetcher, require_client_authentication=tls.client_ca_file is not None
    )


def server_context(tls: TlsConfig) -> ssl.SSLContext:
    """The same for HTTP; raises OSError or ValueError where the files can't be used now."""
    stamp = _stamp(tls)
    first = _context(tls)

    def renew(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """At every handshake, before a certificate is chosen."""
        nonlocal stamp, current
        try:
            now = _stamp(tls)
            if now != stamp:
                stamp, current = now, _context(tls)
                log.info("certificate_renewed file=%s", tls.certificate_file)
        except (OSError, ValueError) as error:
            log.error("certificate_refused kept=previous %s", error)
        connection.context = current

    current = first
    first.sni_callback = renew
    return first


def _context(tls: TlsConfig) -> ssl.SSLContext:
    _check(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate_file, tls.key_file, password=lambda: "")
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def certificate_names(auth_context: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Names that a client's verified certificate bears; none without mutual TLS."""
    if list(auth_context.get("transport_security_type", ())) != [b"ssl"]:
        return []
    keys = ("x509_subject_alternative_name", "x509_common_name")
    return [name.decode(errors="replace") for key in keys for name in auth_context.get(key, ())]


def _read(tls: TlsConfig) -> grpc.ServerCertificateConfiguration:
    _check(tls)
    authorities = tls.client_ca_file and tls.client_ca_file.read_bytes()
    pair = (tls.key_file.read_bytes(), tls.certificate_file.read_bytes())
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)


def _check(tls: TlsConfig) -> None:
    """GRPC would say no more than that it can't bind, or nothing at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password given, OpenSSL asks the terminal for that of an encrypted key.
        context.load_cert_chain(tls.certificate_file, tls.key_file, password=lambda: "")
    except ssl.SSLError as error:
        raise ValueError(
            f"certificate_file {tls.certificate_file} and key_file {tls.key_file} are no pair of PEM files without a "
            f"password ({error.reason or error})"
        ) from error
    try:
        if tls.client_ca_file is not None:
            context.load_verify_locations(tls.client_ca_file)
    except ssl.SSLError as error:
        raise ValueError(
            f"client_ca_file {tls.client_ca_file} holds no certificates ({error.reason or error})"
        ) from error


def _stamp(tls: TlsConfig) -> list[tuple[int, ...]]:
    files = (tls.certificate_file, tls.key_file, tls.client_ca_file)
    return [stamp_of(path) for path in files if path is not None]
