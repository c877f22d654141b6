"""How often a caller may ask: so many requests a window, for each key and each person.

A window is a stretch of the wall clock, such as each full minute, so that processes need not agree on when one begins.
Each process counts by itself and no request waits for anybody: while there is traffic the counts are added up in Redis
ten times a second, and each process hears how many the others have let through.

Promised: one process lets through `SAGA_RATE_LIMIT` requests a window and not one more. Several together let through
more by what reaches them between two exchanges. Clocks that differ shift a window, and who sends at the end of one
window and at the beginning of the next may send twice as much within a short time. Not promised: a limit while Redis
is away. It is the bell, and a limit is not worth refusing sagas for; the log says so once.

Those who show no key, or a wrong one, are not counted: a 401 costs one SHA-256, which is less than counting would.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastapi import Request

from app.access import Caller
from app.api.problems import ANSWER_HEADERS
from app.broker import GONE, REDIS_SECONDS, open_redis
from app.errors import Problem
from app.observability import log
from app.settings import Settings

EXCHANGE_SECONDS: Final = 0.1
AGAIN_SECONDS: Final = 1.0
"""A Redis that is away is asked again after so long."""


@dataclass(slots=True)
class _Count:
    """Requests of one caller in this window."""

    ours: int = 0
    told: int = 0
    """How many of ours Redis knows."""
    others: int = 0
    """What other processes have let through, as of the last exchange."""


class RateLimit:
    """Of one process and event loop."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._limit, self._seconds, self._clock = settings.rate_limit, settings.rate_window, clock
        self._redis = open_redis(settings.redis_url, max_connections=1)
        self._policy = f'"default";q={self._limit};w={math.ceil(self._seconds)}'.encode()
        self._window = 0
        self._counts: dict[str, _Count] = {}
        self._changed: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self.away = False
        """Whether Redis is, and nobody is counted."""

    def take(self, request: Request, caller: Caller) -> None:
        """Counts one request. Problem 429 `rate-limited` where the window's are used up."""
        if not self._limit or self.away:
            return
        now = self._clock()
        if (window := int(now // self._seconds)) != self._window:
            self._window, self._counts = window, {}
        name = caller.name
        if (count := self._counts.get(name)) is None:
            count = self._counts[name] = _Count()
        left = self._limit - count.others - count.ours
        reset = max(1, math.ceil((window + 1) * self._seconds - now))
        if left > 0:
            count.ours += 1
            self._changed.add(name)
            if self._task is None:
                self._task = asyncio.create_task(self._run())
        # draft-ietf-httpapi-ratelimit-headers-11
        request.scope[ANSWER_HEADERS] = [
            (b"ratelimit-policy", self._policy),
            (b"ratelimit", b'"default";r=%d;t=%d' % (max(left - 1, 0), reset)),
        ]
        if left <= 0:
            detail = (
                f"{name} has made its {self._limit:,} requests of these {self._seconds:g} s."
                f" Try again in {reset} s, and spread requests as the header RateLimit tells."
            )
            headers = {"Retry-After": str(reset)}
            raise Problem(429, "rate-limited", detail, headers=headers, limit=self._limit, window=self._seconds)

    # --- between processes ---

    async def _run(self) -> None:
        try:
            while self._changed or self.away:
                await asyncio.sleep(AGAIN_SECONDS if self.away else EXCHANGE_SECONDS)
                await self._exchange()
        finally:
            self._task = None

    async def _exchange(self) -> None:
        """Tells Redis what was counted here since the last time, and hears the sum of all."""
        window, counts = self._window, self._counts
        told = [(count, count.ours - count.told, name) for name in self._changed if (count := counts.get(name))]
        self._changed = set()
        pipeline = self._redis.pipeline(transaction=False)
        for _, more, name in told:
            key = f"saga:rate:{self._seconds:g}:{window}:{name}"
            pipeline.incrby(key, more)
            pipeline.expire(key, math.ceil(self._seconds) + 60)
        if not told:
            pipeline.ping()
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                sums = (await pipeline.execute())[::2]
        except GONE as error:
            if not self.away:
                log.warning("redis is away (%s): no rate limit until it is back", error or type(error).__name__)
            # Whether this was counted is not known. What Redis kept of it comes back as somebody else's.
            self.away, self._counts = True, {}
            return
        if self.away:
            log.warning("redis is back: requests are counted again")
            self.away = False
        for (count, more, _), total in zip(told, sums, strict=False):
            count.told += more
            count.others = max(0, total - count.told)

    async def close(self) -> None:
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)
        await self._redis.aclose()
