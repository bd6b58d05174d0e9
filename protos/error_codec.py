"""Errors <-> the in-band answer that ends an item."""

from __future__ import annotations

from protos.errors import ErrorDetail, TeacherError, code_number, error_from_code
from protos.v1 import teacher_pb2 as pb


def error_to_proto(
    error: TeacherError, *, request_id: int | None = None, prompt_id: int | None = None
) -> pb.ItemError:
    """The in-band answer that ends an item."""
    detail = error.detail
    return pb.ItemError(
        request_id=request_id,
        prompt_id=prompt_id,
        code=code_number(error),
        message=error.message,
        field=detail.field,
        value=detail.value,
        limit=detail.limit,
        retry_after_ms=detail.retry_after_ms,
        error_id=detail.error_id,
    )


def error_from_proto(message: pb.ItemError) -> TeacherError:
    """The exception that an in-band error stands for."""
    detail = ErrorDetail(
        field=message.field,
        value=message.value,
        limit=message.limit,
        retry_after_ms=message.retry_after_ms,
        error_id=message.error_id,
    )
    return error_from_code(message.code, message.message, detail)
