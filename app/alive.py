"""Who is there: workers and beats leave a sign in Redis every few seconds, and it fades.

For people only: nothing is decided by it, and Redis may forget it all. How old a sign is follows from what is left of
its time to live, so no two clocks are compared.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import orjson

from app.broker import GONE, REDIS_SECONDS, open_redis

Kind: TypeAlias = Literal["worker", "beat"]

SAY_SECONDS: Final = 3.0
KEPT_SECONDS: Final = 60
"""So long it is told that somebody was there."""
SILENT_SECONDS: Final = 15.0
"""Who has left no sign for longer is not counted as there."""
SWEPT_SECONDS: Final = 86_400

_WHO: Final = "saga:alive"
_SWEPT: Final = "saga:swept"


@dataclass(frozen=True, slots=True)
class Sign:
    """What one process said of itself."""

    kind: Kind
    host: str
    pid: int
    age_seconds: float
    facts: Mapping[str, Any]
    """`version`; of a worker `claimed_ago`: seconds since its last claim, null where there was none."""

    @property
    def there(self) -> bool:
        return self.age_seconds < SILENT_SECONDS


@dataclass(frozen=True, slots=True)
class Signs:
    found: list[Sign] = field(default_factory=list)
    swept_ago: float | None = None
    """Seconds since the last sweep; None where none is known of."""

    def there(self, kind: Kind) -> list[Sign]:
        return [sign for sign in self.found if sign.kind == kind and sign.there]


def leave_sign(pipeline: Any, kind: Kind, facts: Mapping[str, Any]) -> None:
    """The commands of one sign, on a pipeline of redis-py, blocking or not."""
    name = f"{kind}/{socket.gethostname()}/{os.getpid()}"
    pipeline.sadd(_WHO, name)
    pipeline.set(f"{_WHO}/{name}", orjson.dumps(facts), px=KEPT_SECONDS * 1000)


class Alive:
    def __init__(self, redis_url: str) -> None:
        self._redis = open_redis(redis_url, max_connections=2)

    async def keep(self, kind: Kind, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Never returns."""
        while True:
            pipeline = self._redis.pipeline(transaction=False)
            leave_sign(pipeline, kind, facts())
            await _patiently(pipeline)
            await asyncio.sleep(SAY_SECONDS)

    async def swept(self, counts: Mapping[str, int]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(_SWEPT, orjson.dumps(counts), ex=SWEPT_SECONDS)
        await _patiently(pipeline)

    async def look(self) -> Signs | None:
        """None where Redis does not answer."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.smembers(_WHO)
        pipeline.pttl(_SWEPT)
        answers = await _patiently(pipeline)
        if answers is None:
            return None
        names = sorted(name.decode() for name in answers[0])
        for name in names:
            pipeline.get(f"{_WHO}/{name}")
            pipeline.pttl(f"{_WHO}/{name}")
        signs = await _patiently(pipeline) if names else []
        if signs is None:
            return None
        found = []
        for name, facts, left in zip(names, signs[::2], signs[1::2], strict=True):
            kind, _, rest = name.partition("/")
            host, _, pid = rest.rpartition("/")
            if facts is None or left < 0:
                pipeline.srem(_WHO, name)
            else:
                found.append(Sign(kind, host, int(pid), KEPT_SECONDS - left / 1000, orjson.loads(facts)))
        if len(found) < len(names):
            await _patiently(pipeline)
        left = answers[1]
        return Signs(found, None if left < 0 else SWEPT_SECONDS - left / 1000)

    async def close(self) -> None:
        await self._redis.aclose()


async def _patiently(pipeline: Any) -> list[Any] | None:
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            return list(await pipeline.execute())
    except GONE:
        return None
