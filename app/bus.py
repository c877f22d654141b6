"""CloudEvents on the Redis stream `saga:events`: publishing, and following it as one consumer group.

Whoever reads in the group takes what nobody of it has taken yet, and acknowledges it when it is done; what a dead
reader held is taken over. The stream is trimmed behind every group, never before. Where the stream or the group is
gone, the group begins again at the beginning of what there is: nothing is missed, and what is read twice has to be
harmless. Every call raises one of `app.broker.GONE` where Redis does not answer.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from redis.exceptions import ResponseError

from app import broker
from saga_participant.events import FIELD, STREAM

GROUP: Final = "saga-tracker"

BATCH: Final = 100
BLOCK_SECONDS: Final = 5.0
"""A reader that finds nothing waits so long for something, and asks again."""

ABANDONED_SECONDS: Final = 30.0
"""What a reader has held for so long without acknowledging it is another's."""

TRIMMED_AT_ONCE: Final = 10_000
FORGOTTEN_SECONDS: Final = 3600.0

# Group and stream are looked at and trimmed in one step: between two, a reader could be given an entry that was seen
# as nobody's. `~` leaves whole nodes standing, which is what makes it cheap.
_TRIM: Final = """
    local function after(id, other)
        local a, b = id:match('(%d+)-?(%d*)')
        local c, d = other:match('(%d+)-?(%d*)')
        a, b, c, d = tonumber(a), tonumber(b) or 0, tonumber(c), tonumber(d) or 0
        return a > c or (a == c and b > d)
    end
    local until_id = ARGV[1]
    local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
    if groups.err then return 0 end
    for _, flat in ipairs(groups) do
        local group = {}
        for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
        local pending = redis.call('XPENDING', KEYS[1], group.name)
        local needed = pending[1] > 0 and pending[2] or group['last-delivered-id']
        if after(until_id, needed) then until_id = needed end
    end
    return redis.call('XTRIM', KEYS[1], 'MINID', '~', until_id, 'LIMIT', ARGV[2])"""
# A reader that has gone leaves its name. One that holds something is left alone, or what it holds would be lost.
_FORGET_READERS: Final = """
    local readers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
    if readers.err then return 0 end
    local gone = 0
    for _, flat in ipairs(readers) do
        local reader = {}
        for i = 1, #flat, 2 do reader[flat[i]] = flat[i + 1] end
        if reader.pending == 0 and reader.idle > tonumber(ARGV[2]) then
            redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], reader.name)
            gone = gone + 1
        end
    end
    return gone"""


class Entry(NamedTuple):
    """One entry of the stream, unread."""

    id: str
    text: bytes | None
    """What stands in its field. None: it was removed from the stream after somebody was given it."""


class Bus:
    """Of one process and event loop."""

    def __init__(self, redis_url: str) -> None:
        self._redis = broker.open_redis(redis_url, max_connections=4)
        # A blocking read outlasts what any other call may take.
        seconds = BLOCK_SECONDS + broker.REDIS_SECONDS
        self._blocking = broker.open_redis(redis_url, max_connections=2, socket_timeout=seconds)

    # --- publishing ---

    async def publish(self, events: Sequence[str]) -> None:
        """Appends these CloudEvents in their order, all or none. Raised: whether they were taken is not known."""
        async with asyncio.timeout(broker.REDIS_SECONDS), self._redis.pipeline(transaction=True) as pipeline:
            for event in events:
                pipeline.xadd(STREAM, {FIELD: event})
            await pipeline.execute()

    # --- following ---

    async def begin(self) -> bool:
        """Makes the group where it is not there; whether it was missing."""
        try:
            await self._redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if str(error).startswith("BUSYGROUP"):
                return False
            raise
        return True

    async def read(self, reader: str) -> list[Entry] | None:
        """What nobody has been given yet; waits for it a while. None: there is no group (see `begin`)."""
        return await self._read(reader, ">")

    async def held(self, reader: str) -> list[Entry] | None:
        """What this reader was given and has not acknowledged, the oldest first."""
        return await self._read(reader, "0")

    async def _read(self, reader: str, after: str) -> list[Entry] | None:
        block = round(BLOCK_SECONDS * 1000) if after == ">" else None
        try:
            found: Any = await self._blocking.xreadgroup(GROUP, reader, {STREAM: after}, count=BATCH, block=block)
        except ResponseError as error:
            if _is_no_group(error):
                return None
            raise
        return _entries(found[0][1]) if found else []

    async def take_over(self, reader: str) -> list[Entry] | None:
        """What a reader that has probably died was given; the rest of it the next time."""
        try:
            found: Any = await self._redis.xautoclaim(
                STREAM, GROUP, reader, round(ABANDONED_SECONDS * 1000), count=BATCH
            )
        except ResponseError as error:
            if _is_no_group(error):
                return None
            raise
        return _entries(found[1])

    async def acknowledge(self, ids: Sequence[str]) -> None:
        if ids:
            await self._redis.xack(STREAM, GROUP, *ids)

    # --- keeping house ---

    async def trim(self, kept_seconds: float) -> int:
        """Removes what is older than this and behind every group; how many entries went."""
        seconds, _ = await self._redis.time()
        oldest = max(round((seconds - kept_seconds) * 1000), 0)
        gone = 0
        while True:
            more: Any = await self._redis.eval(_TRIM, 1, STREAM, str(oldest), str(TRIMMED_AT_ONCE))
            gone += int(more)
            if more < TRIMMED_AT_ONCE / 2:
                return gone

    async def forget_readers(self) -> int:
        gone: Any = await self._redis.eval(_FORGET_READERS, 1, STREAM, GROUP, str(round(FORGOTTEN_SECONDS * 1000)))
        return int(gone)

    async def lag(self) -> int | None:
        """Entries that the group has not dealt with; None where Redis does not say."""
        try:
            async with asyncio.timeout(broker.REDIS_SECONDS):
                groups: Any = await self._redis.xinfo_groups(STREAM)
                ours = [group for group in groups if group["name"] == GROUP.encode()]
                if not ours:
                    return int(await self._redis.xlen(STREAM))
        except ResponseError:  # there is no stream yet
            return 0
        except broker.GONE:
            return None
        lag, pending = ours[0].get("lag"), ours[0]["pending"]
        return None if lag is None else int(lag) + int(pending)

    async def close(self) -> None:
        await self._redis.aclose()
        await self._blocking.aclose()


def _entries(found: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Entry]:
    return [
        Entry(entry_id.decode(), None if fields is None else fields.get(FIELD.encode(), b""))
        for entry_id, fields in found
    ]


def _is_no_group(error: ResponseError) -> bool:
    """UNBLOCKED: the stream was deleted while somebody waited for it."""
    return str(error).startswith(("NOGROUP", "UNBLOCKED"))
