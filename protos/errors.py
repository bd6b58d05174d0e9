"""One exception tree and one table: exception <-> gRPC status code, read by server and client alike."""

from __future__ import annotations

from dataclasses import dataclass

import grpc


@dataclass(frozen=True)
class ErrorDetail:
    """What an answer says beside its sentence; every part may be empty."""

    field: str = ""
    """Name of the offending field, as the schema spells it."""
    value: str = ""
    """The offending value, shortened."""
    limit: str = ""
    """The limit it broke."""
    retry_after_ms: int = 0
    """When the same request may be sent again, in milliseconds; 0: not as it is."""
    error_id: str = ""
    """Of an internal error: stands in the server's log."""


class TeacherError(Exception):
    """An item, or a call, that the teacher did not answer with scores."""

    def __init__(self, message: str, detail: ErrorDetail | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail or ErrorDetail()

    def again(self) -> TeacherError:
        """The same error anew: one exception can't be raised to several who wait without mixing their tracebacks."""
        return type(self)(self.message, self.detail)


class InvalidItem(TeacherError, ValueError):
    """The request can't be scored by any teacher of this kind: INVALID_ARGUMENT."""


class PreconditionFailed(TeacherError, ValueError):
    """The request doesn't fit this teacher or this stream: FAILED_PRECONDITION."""


class DuplicateId(TeacherError, ValueError):
    """The id was used before with other content: ALREADY_EXISTS."""


class LimitExceeded(TeacherError, RuntimeError):
    """Too large, or too much at a time: RESOURCE_EXHAUSTED. `detail.retry_after_ms` tells which."""


class DeadlineExceeded(TeacherError, TimeoutError):
    """The item's deadline passed before its scores were ready: DEADLINE_EXCEEDED."""


class Cancelled(TeacherError, RuntimeError):
    """The client took the item back: CANCELLED."""


class Unauthenticated(TeacherError, PermissionError):
    """No token, or none that the server knows: UNAUTHENTICATED."""


class NotAllowed(TeacherError, PermissionError):
    """A known client that may not do this: PERMISSION_DENIED."""


class Unimplemented(TeacherError, NotImplementedError):
    """Part of the schema that this server doesn't name in its capabilities: UNIMPLEMENTED."""


class Unavailable(TeacherError, ConnectionError):
    """No teacher there: loading, draining, dead or out of reach: UNAVAILABLE."""


class InternalFault(TeacherError, RuntimeError):
    """The teacher's own fault; `detail.error_id` names it in the server's log: INTERNAL."""


class EchoMismatch(TeacherError, RuntimeError):
    """The scores belong to other ids or images than those that were sent: DATA_LOSS."""


CODES: dict[type[TeacherError], grpc.StatusCode] = {
    InvalidItem: grpc.StatusCode.INVALID_ARGUMENT,
    PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    DuplicateId: grpc.StatusCode.ALREADY_EXISTS,
    LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Cancelled: grpc.StatusCode.CANCELLED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    InternalFault: grpc.StatusCode.INTERNAL,
    EchoMismatch: grpc.StatusCode.DATA_LOSS,
}

_CODE_NUMBERS = {error: code.value[0] for error, code in CODES.items()}
_ERRORS = {number: error for error, number in _CODE_NUMBERS.items()}


def code_number(error: TeacherError) -> int:
    """The gRPC status code that stands for `error` on the wire."""
    return _CODE_NUMBERS[type(error)]


def error_from_code(number: int, message: str, detail: ErrorDetail | None = None) -> TeacherError:
    """The exception for a status code; a code outside the table becomes `InternalFault` and is named."""
    error = _ERRORS.get(number)
    if error is None:
        return InternalFault(f"unexpected status code {number}: {message}", detail)
    return error(message, detail)
