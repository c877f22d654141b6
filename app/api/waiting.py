"""Requests that wait until their saga has come to rest (`Prefer: wait`).

One Redis subscription for the whole process brings the notices; polling is the promise. While anybody waits, one
statement a second asks for all of them, and one more when the subscription has come back. A request that waits holds
a future and nothing else: no connection, no task.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from app.broker import CAME_TO_REST, GONE, open_redis
from app.errors import DatabaseUnavailable
from app.store.sagas import Saga, Sagas

MOST_SECONDS: Final = 60
POLL_SECONDS: Final = 1.0
RECENT: Final = 10_000
"""Notices kept for requests that are about to wait: a quick saga is done before its submitter asks."""
RECONNECT_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 30
"""After so long without a notice the connection is asked whether it still stands."""

_WAIT: Final = re.compile(r'\s*wait\s*=\s*"?(\d+)"?\s*(?:;.*)?', re.IGNORECASE | re.ASCII)


def preferred_wait(headers: Iterable[str]) -> int:
    """Seconds, from `Prefer` headers (RFC 7240); 0 where none is asked for. What is nonsense is ignored."""
    for header in headers:
        for preference in header.split(","):
            if found := _WAIT.fullmatch(preference):
                return min(int(found[1][:6]), MOST_SECONDS)
    return 0


class Waiting:
    """Of one process and event loop."""

    def __init__(self, sagas: Sagas, redis_url: str) -> None:
        self._sagas, self._redis_url = sagas, redis_url
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._recent: dict[str, None] = {}
        self._listener: asyncio.Task[None] | None = None
        self._poller: asyncio.Task[None] | None = None
        self._look_now = asyncio.Event()
        self.leaving = False
        """The process is about to end: nobody waits any longer."""

    async def until_rest(self, saga: Saga, seconds: float) -> Saga:
        """The newest saga: at rest, or as it is after so many seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        if self._listener is None:
            self._listener = loop.create_task(self._listen())
        while not saga.state.at_rest and not self.leaving and loop.time() < deadline:
            if saga.id in self._recent:
                del self._recent[saga.id]
            else:
                await self._notice(saga.id, deadline)
            saga = await self._sagas.load(saga.id) or saga
        return saga

    async def _notice(self, saga_id: str, deadline: float) -> None:
        """Returns when the saga is said to have come to rest, or at the deadline."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(saga_id, []).append(future)
        if self._poller is None:
            self._poller = loop.create_task(self._poll())
        timer = loop.call_at(deadline, _wake, future)
        try:
            await future
        finally:
            timer.cancel()
            waiters = self._waiting.get(saga_id)
            if waiters is not None and future in waiters:
                waiters.remove(future)
                if not waiters:
                    del self._waiting[saga_id]

    @property
    def number(self) -> int:
        """Of sagas that somebody waits for."""
        return len(self._waiting)

    def tell(self, saga_ids: Iterable[str]) -> None:
        for saga_id in saga_ids:
            waiters = self._waiting.pop(saga_id, None)
            if waiters is None:
                self._recent[saga_id] = None
                if len(self._recent) > RECENT:
                    del self._recent[next(iter(self._recent))]
            else:
                for future in waiters:
                    _wake(future)

    def leave(self) -> None:
        """Everybody gets the answer that there is; may be called from a signal handler through the loop."""
        self.leaving = True
        self.tell(list(self._waiting))

    async def close(self) -> None:
        for task in (self._listener, self._poller):
            # More than once: asyncio.wait_for of Python 3.11, which redis-py uses, can swallow a cancellation.
            while task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=1)

    async def _poll(self) -> None:
        """Looks for everybody who waits; ends with the last of them."""
        try:
            while self._waiting:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._look_now.wait()
                self._look_now.clear()
                if self._waiting:
                    with contextlib.suppress(DatabaseUnavailable):
                        self.tell(await self._sagas.at_rest(list(self._waiting)))
        finally:
            self._poller = None

    async def _listen(self) -> None:
        """Never ends by itself; a Redis that is away is asked again and again."""
        redis = open_redis(self._redis_url, health_check_interval=SILENCE_SECONDS)
        try:
            while True:
                with contextlib.suppress(*GONE):
                    async with redis.pubsub() as subscription:
                        await subscription.subscribe(CAME_TO_REST)
                        while True:
                            self._take(await subscription.get_message(timeout=SILENCE_SECONDS))
                await asyncio.sleep(RECONNECT_SECONDS)
        finally:
            await redis.aclose()

    def _take(self, message: Mapping[str, Any] | None) -> None:
        if message is None:
            return
        if message["type"] == "subscribe":  # also after a reconnect: what was told meanwhile is lost
            self._look_now.set()
        elif message["type"] == "message":
            self.tell(message["data"].decode("ascii", "replace").split(","))


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
