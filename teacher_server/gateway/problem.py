"""What went wrong, over HTTP: RFC 9457 problem details, made from the same exceptions as gRPC's statuses."""

from __future__ import annotations

import http
import math
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from protos.errors import CODES, TeacherError, Unauthenticated
from teacher_server.fault import as_teacher_error

HTTP_STATUS = {
    "INVALID_ARGUMENT": 422,
    "FAILED_PRECONDITION": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "DEADLINE_EXCEEDED": 504,
    "CANCELLED": 499,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
}
"""By gRPC status. RESOURCE_EXHAUSTED is 413 where asking again is no use."""
TITLES = {499: "Client Closed Request"}


class Problem(BaseModel):
    """The body of every answer that is not a success."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = ""
    """Name of the gRPC status that says the same."""
    reason: str = ""
    """Why the teacher is not ready, in a word or two."""
    field: str = ""
    value: str = ""
    limit: str = ""
    retry_after_ms: int = 0
    """Ask again then; 0: asking the same again is no use."""
    error_id: str = ""
    """Stands in the server's log."""


def problem(status: int, detail: str, **more: Any) -> Problem:
    """A problem with the title of its status."""
    title = TITLES.get(status) or http.HTTPStatus(status).phrase
    return Problem(title=title, status=status, detail=detail, **more)


def answer(found: Problem, headers: dict[str, str] | None = None) -> Response:
    """The problem as a response; empty fields are left out."""
    body = found.model_dump_json(exclude_defaults=True)
    return Response(body, found.status, headers, media_type="application/problem+json")


def problem_of(error: TeacherError) -> Problem:
    """What stands for `error`."""
    code, detail = CODES[type(error)].name, error.detail
    status = HTTP_STATUS[code]
    if code == "RESOURCE_EXHAUSTED" and not detail.retry_after_ms:
        status = 413
    return problem(
        status,
        error.message,
        code=code,
        field=detail.field,
        value=detail.value,
        limit=detail.limit,
        retry_after_ms=detail.retry_after_ms,
        error_id=detail.error_id,
    )


def answer_to(error: TeacherError) -> Response:
    """The response that stands for `error`."""
    headers: dict[str, str] = {}
    if error.detail.retry_after_ms:
        headers["Retry-After"] = str(math.ceil(error.detail.retry_after_ms / 1000))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    found = problem_of(error)
    if found.status in (413, 504):
        headers["Connection"] = "close"  # the rest of the body is not waited for
    return answer(found, headers)


def answer_with_problems(app: FastAPI) -> None:
    """Make every error of the app's routes, the unforeseen ones included, a problem that leaks nothing."""

    @app.exception_handler(TeacherError)
    async def teacher_error(request: Request, error: TeacherError) -> Response:
        return answer_to(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return answer(problem(error.status_code, str(error.detail)), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return answer(
            problem(422, f"{where}: {first['msg']}", code="INVALID_ARGUMENT", field=where)
        )

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return answer_to(as_teacher_error(error))
