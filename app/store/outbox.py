"""What has to leave the house: rows written with the transition that they tell of, taken by `app.relay`.

A row is leased by moving its `due_at`, and deleted when it has been sent; what dies in between is leased again later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson

from app.store.database import Database

LEASE: Final = timedelta(seconds=10)
"""Longer than Redis is waited for; short, since what Redis could not take waits so long for the next try."""

_LEASE: Final = """
    UPDATE outbox SET attempts = attempts + 1, due_at = clock_timestamp() + $2
    WHERE id IN (
        SELECT id FROM outbox WHERE due_at <= now() AND topic = ANY($3)
        ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, topic, payload"""
_DELETE: Final = "DELETE FROM outbox WHERE id = ANY($1::bigint[])"


@dataclass(frozen=True, slots=True)
class OutboxRow:
    id: int
    topic: str
    payload: Any


class Outbox:
    def __init__(self, database: Database) -> None:
        self._lane = database.lane()  # every sweep asks, so it is one statement on an open connection

    async def lease(self, limit: int, topics: Sequence[str]) -> list[OutboxRow]:
        """Rows that are due, the oldest first, for a while ours. `topics`: those that the caller can send."""
        rows = await self._lane.run(lambda connection: connection.fetch(_LEASE, limit, LEASE, topics))
        found = [OutboxRow(row["id"], row["topic"], orjson.loads(row["payload"])) for row in rows]
        return sorted(found, key=lambda row: row.id)

    async def sent(self, rows: Sequence[OutboxRow]) -> None:
        ids = [row.id for row in rows]
        await self._lane.run(lambda connection: connection.execute(_DELETE, ids))
