"""Bounded waits, for what tells nobody that it has come true."""

import asyncio
import time
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 20, what: str = "") -> None:
    """Returns when it is true; fails when it does not come true in time."""
    give_up = time.monotonic() + seconds
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        if time.monotonic() > give_up:
            raise AssertionError(f"{what or 'it'} did not come true within {seconds:g} s")
        await asyncio.sleep(0.005)
