"""Who calls over HTTP: the same names, tokens and quotas as over gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from protos.errors import Unavailable
from teacher_server.client import Client
from teacher_server.client_file import Presented
from teacher_server.core import TeacherCore
from teacher_server.doorkeeper import Doorkeeper

# It only describes the header; who may come in is the doorkeeper's to say.
_BEARER = HTTPBearer(
    auto_error=False, description="The client's token, where the server has a clients file."
)


@dataclass(frozen=True)
class Call:
    """A call that was let in."""

    core: TeacherCore
    client: Client


# On the event loop, not on a thread: metrics and the clients' names change on the loop alone.
async def _call(
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)] = None,
) -> Call:
    client = identify(request)
    core: TeacherCore | None = request.app.state.core
    if core is None:
        raise Unavailable("the teacher is still loading; ask again in a while")
    core.metrics.know(client.name)
    return Call(core, client)


Known = Annotated[Call, Depends(_call)]
"""Whoever may ask who the teacher is."""


async def _call_while_ready(request: Request, call: Known) -> Call:
    if (reason := request.app.state.not_ready()) is not None:
        raise Unavailable(f"the teacher takes nothing new ({reason}); ask another replica")
    return call


def identify(request: Request) -> Client:
    """The client by its token, else by its address; raises Unauthenticated."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    shown = Presented.of(request.headers.get("authorization"), ())
    host = "" if request.client is None else request.client.host
    return doorkeeper.identify(shown, f"http:{host}")


LetIn = Annotated[Call, Depends(_call_while_ready)]
"""Whoever may have something scored now."""
