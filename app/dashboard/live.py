"""Telling an open page that what it shows has moved: server-sent events that say no more than that.

The page then fetches itself anew, so there is one way in which a page is made.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from app.errors import DatabaseUnavailable

ALIVE_SECONDS: Final = 15.0
LONGEST_SECONDS: Final = 600.0
"""Then the browser comes back by itself, and shows again who it is."""


def stream(
    request: Request, stamp: Callable[[], Awaitable[str]], *, every: float, known: str | None = None
) -> Response:
    """An event `moved` whenever the stamp changes; at first where it is not the one that the page was made of."""

    async def lines() -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        waiting = request.app.state.waiting
        last, silent, lived = known, 0.0, 0.0
        while not waiting.leaving and lived < LONGEST_SECONDS:
            with contextlib.suppress(DatabaseUnavailable):
                now = await stamp()
                if last is not None and now != last:
                    silent = 0.0
                    yield f"event: moved\ndata: {now}\n\n".encode()
                last = now
            if silent >= ALIVE_SECONDS:
                silent = 0.0
                yield b": still here\n\n"
            await asyncio.sleep(every)
            silent += every
            lived += every

    return StreamingResponse(lines(), headers={"Cache-Control": "no-store"}, media_type="text/event-stream")
