"""Telling an open page that what it shows has moved: server-sent events that say no more than that.

The page then fetches itself anew, so there is one way in which a page is made. What it knows is the id of the last
event: a browser that was away says it when it comes back, and so hears of what has moved meanwhile.
"""

import asyncio
import contextlib
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Final

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from app.dashboard.access import LOGGED_OUT, Visitor, who_is_there
from app.errors import DatabaseUnavailable

ALIVE_SECONDS: Final = 15.0
LONGEST_SECONDS: Final = 600.0
"""Then the browser comes back by itself, and shows again who it is."""
ASKS_SECONDS: Final = 3.0
"""So often it is looked whether who listens is still logged in: with the pause between two looks, within 5 seconds."""


def stamp_with(stamp: object, paused: Collection[str]) -> str:
    """Of a page that tells which sagas wait for services that are paused."""
    return f"{stamp}-{zlib.crc32(' '.join(sorted(paused)).encode()):08x}" if paused else str(stamp)


def stream(
    request: Request, visitor: Visitor, stamp: Callable[[], Awaitable[str]], *, every: float, known: str | None = None
) -> Response:
    """An event `moved` whenever the stamp changes; at first where it is not the one that the page was made of.

    Ends with the visitor's session, and says so.
    """

    async def lines() -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        waiting = request.app.state.waiting
        last, silent, lived = request.headers.get("last-event-id") or known, 0.0, 0.0
        asked = time.monotonic()
        while not waiting.leaving and lived < LONGEST_SECONDS:
            with contextlib.suppress(DatabaseUnavailable):
                if time.monotonic() - asked > ASKS_SECONDS:
                    there = await who_is_there(request)
                    if there != visitor.caller:
                        if there is None:
                            yield LOGGED_OUT
                        return  # whose role is another one now comes back as that
                    asked = time.monotonic()
                now = await stamp()
                if now != last:
                    silent = 0.0
                    # An id without data is kept by the browser and is no event.
                    event = "" if last is None else f"event: moved\ndata: {now}\n"
                    yield f"id: {now}\n{event}\n".encode()
                last = now
            if silent >= ALIVE_SECONDS:
                silent = 0.0
                yield b": still here\n\n"
            await asyncio.sleep(every)
            silent += every
            lived += every

    return StreamingResponse(lines(), headers={"Cache-Control": "no-store"}, media_type="text/event-stream")
