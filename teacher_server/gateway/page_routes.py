"""The explorer page: static files of this package, and what it offers to look at."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

from teacher_server.gateway.examples import Example, Examples

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    # Nothing from elsewhere, nothing inline, in nobody's frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_router(examples: tuple[Example, ...]) -> APIRouter:
    """`/`, its files and its examples."""
    router = APIRouter()
    page = {
        file.name: file.read_bytes()
        for file in files("teacher_server.explorer").iterdir()
        if file.name.endswith(tuple(MEDIA_TYPES))
    }

    def serve(name: str) -> None:
        media_type = MEDIA_TYPES[name[name.rindex(".") :]]

        async def file() -> Response:
            return Response(page[name], media_type=media_type, headers=HEADERS)

        path = "/" if name == "index.html" else f"/explorer/{name}"
        router.add_api_route(path, file, include_in_schema=False, response_class=Response)

    for name in page:
        serve(name)

    @router.get("/v1/examples")
    async def shown() -> Examples:
        """What the explorer page offers to look at; empty where the operator named nothing."""
        return Examples(examples=list(examples))

    return router
