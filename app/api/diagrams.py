"""Diagrams over HTTP: Mermaid, or SVG for who asks for it."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request
from starlette.responses import Response

from app.api.dependencies import unchanged
from app.errors import Problem
from app.saga import diagram
from app.saga.definition import Definition
from app.saga.state import State

MERMAID: Final = "text/vnd.mermaid"
SVG: Final = "image/svg+xml"
PLAIN: Final = "text/plain"
ALSO: Final[Mapping[int, Mapping[str, Any]]] = {200: {SVG: {"schema": {"type": "string"}}}}

_OFFERED: Final = {
    MERMAID: (MERMAID, "text/*", "*/*"),
    SVG: (SVG, "image/*", "*/*"),
    PLAIN: (PLAIN, "text/*", "*/*"),
}
"""What can be had, the most wanted first: and what may be said for it, the most specific first."""

# An image that is opened by itself is a document of the API's own origin: whatever it held, it could do nothing.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


async def diagram_response(request: Request, definition: Definition, state: State | None = None) -> Response:
    """As Accept prefers (RFC 9110, 12.5.1); Problem 406 where it takes neither. Of a saga, with an ETag."""
    kind = _preferred(request)
    headers = {"Vary": "Accept", "X-Content-Type-Options": "nosniff"}
    if state is not None:
        # Weak: another release may draw the same state otherwise.
        tag = f'"{state.seq}-{kind}"'
        headers |= {"ETag": f"W/{tag}", "Cache-Control": "no-cache"}
        if unchanged(request, tag):
            return Response(status_code=304, headers=headers)
    # In a thread: a large graph must not hold up the others.
    draw = diagram.svg if kind == SVG else diagram.mermaid
    content = await asyncio.to_thread(draw, definition, state)
    if kind == SVG:
        headers["Content-Security-Policy"] = _POLICY
    return Response(content, headers=headers, media_type=kind if kind == SVG else f"{kind}; charset=utf-8")


def _preferred(request: Request) -> str:
    given = _ranges(",".join(request.headers.getlist("accept")) or "*/*")

    def quality(kind: str) -> float:
        return next((given[name] for name in _OFFERED[kind] if name in given), 0.0)

    best = max(_OFFERED, key=quality)
    if quality(best) <= 0:
        raise Problem(406, "not-acceptable", f"The diagram is {MERMAID} or {SVG}.")
    return best


def _ranges(accept: str) -> dict[str, float]:
    """The media ranges of an Accept header with their weights; what cannot be read counts as not said."""
    ranges = {}
    for each in accept.split(","):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
        try:
            ranges[name] = float(weights[0]) if weights else 1.0
        except ValueError:
            continue
    return ranges
