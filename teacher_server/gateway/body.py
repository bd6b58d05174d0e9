"""Bodies of requests, read under limits before anything is made of them."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from protos.errors import Cancelled, DeadlineExceeded, ErrorDetail, InvalidItem, LimitExceeded
from teacher_server.gateway.one_shot import Holding

BODY_TIMEOUT_S = 60.0
"""A body that takes longer is given up."""


async def read_body(request: Request, media_type: str, limit: int, holding: Holding) -> bytearray:
    """The whole body, counted in `holding` as it comes. Raises a TeacherError, or what FastAPI makes a status of."""
    check_media_type(request, media_type)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(request, limit, holding)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"the body did not come within {BODY_TIMEOUT_S:g} s; send less at a time",
            ErrorDetail("body", limit=f"{BODY_TIMEOUT_S:g} s"),
        ) from error


def check_media_type(request: Request, media_type: str) -> None:
    """Raises InvalidItem for another one. A page of another origin can't name it without being asked first whether it
    may, so it can't make a browser spend the teacher's time.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != media_type:
        raise InvalidItem(
            f"the content type is {given[:60]!r}; send {media_type}",
            ErrorDetail("content-type", given[:60], media_type),
        )


async def _read(request: Request, limit: int, holding: Holding) -> bytearray:
    _check_size(int(request.headers.get("content-length") or 0), limit)
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            _check_size(len(body), limit)
            holding.set(len(body))
    except ClientDisconnect as error:
        raise Cancelled("the caller hung up before it had sent all") from error
    return body


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise LimitExceeded(
            f"the body has {size} bytes or more, the limit is {limit}; send fewer or smaller images at a time",
            ErrorDetail("body", str(size), str(limit)),
        )
