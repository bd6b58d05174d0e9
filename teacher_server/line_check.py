"""What is between here and a port, told without gRPC: connections, plaintext or TLS, certificates on both sides."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from protos.credentials import Credentials

ALPN = "h2"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How an HTTP/2 client begins: preface and empty settings. The server's settings come back."""
SETTINGS, FRAME_HEADER_BYTES = 4, 9
TLS_ALERT = b"\x15"


class Ailment(Exception):
    """What is wrong, and the mend."""


@dataclass(frozen=True)
class Line:
    """To one server, as one client."""

    host: str
    port: int
    address: str
    """Both, as they were given."""
    credentials: Credentials
    timeout_s: float
    """For each step."""
    well: Callable[[str], None]
    """Told what is as it should be."""

    def connect(self) -> socket.socket:
        """A new connection."""
        return socket.create_connection((self.host, self.port), timeout=self.timeout_s)

    @property
    def name(self) -> str:
        """That the server's certificate must bear."""
        return self.credentials.server_name or self.host

    @property
    def silent(self) -> Ailment:
        """It connects, and that is all."""
        return Ailment(
            f"{self.address} takes connections and says nothing for {self.timeout_s:g} s: the process is frozen or "
            "overloaded, or it is no gRPC server"
        )

    def no_grpc(self, answer: bytes) -> Ailment:
        """It answers something else."""
        what = f"it answers {answer!r}" if answer else "it hangs up"
        return Ailment(
            f"{self.address} is no gRPC server ({what}); is that another service's port, or the teacher's HTTP port?"
        )

    def no_tls(self, why: str) -> Ailment:
        """It answers TLS with something else."""
        return Ailment(
            f"{self.address} does not speak TLS ({why}): leave ca_file and tls away, or give the server its "
            "certificate"
        )


def check_line(line: Line) -> None:
    """Raises Ailment where an HTTP/2 server can't be spoken with as the credentials say."""
    _reach(line)
    if line.credentials.encrypted:
        _shake_hands(line)
    else:
        _speak_plaintext(line)


def _reach(line: Line) -> None:
    try:
        with line.connect():
            line.well(f"{line.address} takes connections")
    except socket.gaierror as error:
        raise Ailment(f"there is no host {line.host!r} ({error}): is the name right?") from error
    except ConnectionRefusedError as error:
        raise Ailment(
            f"nobody listens at {line.address}: the server is not running (or still loads its model), or listens "
            "elsewhere"
        ) from error
    except TimeoutError as error:
        raise Ailment(
            f"{line.address} does not answer within {line.timeout_s:g} s: a firewall drops it, the host is down, "
            "or the process is frozen"
        ) from error
    except OSError as error:
        raise Ailment(f"can't reach {line.address}: {error}") from error


# ---------------------------------------------------------------------------------------- plaintext


def _speak_plaintext(line: Line) -> None:
    try:
        with line.connect() as plain:
            answer = _greet(plain)
    except TimeoutError as error:
        raise line.silent from error
    except OSError:  # it hung up
        answer = b""
    if _is_http2(answer):
        line.well("plaintext, as you asked for")
        return
    if answer.startswith(TLS_ALERT) or _speaks_tls(line):
        raise Ailment(
            f"{line.address} speaks TLS, and you don't: give --ca-file (or --tls if its certificate is a public one)"
        )
    raise line.no_grpc(answer)


def _speaks_tls(line: Line) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    try:
        with (
            line.connect() as plain,
            context.wrap_socket(plain, server_hostname=line.host),
        ):
            return True
    except OSError:
        return False


def _greet(end: socket.socket) -> bytes:
    """The first bytes that come back; none if the other side hangs up."""
    end.sendall(GREETING)
    answer = b""
    while len(answer) < FRAME_HEADER_BYTES and (more := end.recv(FRAME_HEADER_BYTES)):
        answer += more
    return answer


def _is_http2(answer: bytes) -> bool:
    return len(answer) >= FRAME_HEADER_BYTES and answer[3] == SETTINGS


# ---------------------------------------------------------------------------------------------- TLS


def _shake_hands(line: Line) -> None:
    context = _context(line)
    try:
        with (
            line.connect() as plain,
            context.wrap_socket(plain, server_hostname=line.name) as secure,
        ):
            line.well(f"{secure.version()}, the server's certificate is good for {line.name!r}")
            _is_let_in(secure, line)
    except ssl.SSLCertVerificationError as error:
        raise Ailment(_why_not_trusted(error, line)) from error
    except TimeoutError as error:
        raise line.silent from error
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or ""):
            raise Ailment(
                f"{line.address} speaks TLS and refuses ours ({error.reason}): its versions or ciphers are others"
            ) from error
        raise line.no_tls(error.reason or str(error)) from error
    except OSError as error:
        raise line.no_tls(str(error)) from error


def _context(line: Line) -> ssl.SSLContext:
    trusted = line.credentials.authorities_file
    try:
        context = ssl.create_default_context(cafile=trusted)
    except ssl.SSLError as error:
        raise Ailment(f"ca_file {trusted} holds no certificates ({error.reason})") from error
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # gRPC is not so strict either
    context.set_alpn_protocols([ALPN])
    _show_own(context, line.credentials)
    return context


def _show_own(context: ssl.SSLContext, own: Credentials) -> None:
    if own.certificate_file is None or own.key_file is None:
        return
    try:
        # Without a password given, OpenSSL asks the terminal for that of an encrypted key.
        context.load_cert_chain(own.certificate_file, own.key_file, password=lambda: "")
    except ssl.SSLError as error:
        raise Ailment(
            f"certificate_file {own.certificate_file} and key_file {own.key_file} are no pair of PEM files "
            f"without a password ({error.reason or error})"
        ) from error


def _is_let_in(secure: ssl.SSLSocket, line: Line) -> None:
    """In TLS 1.3 a server looks at the client's certificate after the handshake, and gRPC hangs up without a word."""
    try:
        answer = _greet(secure)
    except TimeoutError:
        raise
    except OSError:
        answer = b""
    if answer and not _is_http2(answer):
        raise line.no_grpc(answer)
    if not answer and line.credentials.certificate_file is None:
        raise Ailment(
            "the server hangs up once TLS is agreed on: it wants a certificate of yours; give --certificate-file and "
            "--key-file"
        )
    if not answer:
        fault = _own_fault(line.credentials)
        raise Ailment(
            f"the server refuses your certificate: {fault}; renew it"
            if fault
            else "the server refuses your certificate: it is not of an authority in the server's client_ca_file"
        )
    if line.credentials.certificate_file is not None:
        line.well("the server does not refuse your certificate")


def _own_fault(own: Credentials) -> str | None:
    """What is wrong with the client's certificate whoever signed it: shown, in memory, to a server that trusts it."""
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
    for context in (ours, theirs):
        _show_own(context, own)
    theirs.verify_mode = ssl.CERT_REQUIRED
    theirs.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    theirs.load_verify_locations(own.certificate_file)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = ours.wrap_bio(back, there), theirs.wrap_bio(there, back, server_side=True)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return None


def _why_not_trusted(error: ssl.SSLCertVerificationError, line: Line) -> str:
    what = error.verify_message
    if "expired" in what or "not yet valid" in what:
        return f"the server's certificate is out of date ({what}): renew it, or set the clock"
    if "mismatch" in what or "not valid for" in what:
        return f"the server's certificate is for another name ({what}): give --server-name, not {line.name!r}"
    trusted = line.credentials.ca_file or "the system's authorities"
    return f"the server's certificate is not of an authority in {trusted} ({what}): give the right --ca-file"
