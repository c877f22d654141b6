"""From the outbox to the world outside, at least once.

A row is leased by moving its `due_at`, sent, and then deleted; what dies in between is sent again when the lease is
over. Safe in any number.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import delete, func, select, update

from app import broker
from app.store.database import Database
from app.store.tables import outbox

LEASE_SECONDS: Final = 30
BATCH: Final = 100


class Relay:
    def __init__(self, database: Database, publisher: broker.Publisher) -> None:
        self._database, self._publisher = database, publisher

    async def drain(self) -> int:
        """Sends what is due; returns how much."""
        sent = 0
        while rows := await self._lease():
            for row in rows:
                self._send(row["topic"], row["payload"])
            await self._publisher.flush()
            if self._publisher.last_failure is not None:
                return sent  # Redis is away: the lease brings them back
            async with self._database.begin() as connection:
                await connection.execute(delete(outbox).where(outbox.c.id.in_([row["id"] for row in rows])))
            sent += len(rows)
            if len(rows) < BATCH:
                break
        return sent

    async def _lease(self) -> list[Mapping[str, Any]]:
        due = (
            select(outbox.c.id)
            .where(outbox.c.due_at <= func.clock_timestamp())
            .order_by(outbox.c.due_at)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        statement = (
            update(outbox)
            .where(outbox.c.id.in_(due.scalar_subquery()))
            .values(due_at=func.clock_timestamp() + timedelta(seconds=LEASE_SECONDS), attempts=outbox.c.attempts + 1)
            .returning(outbox.c.id, outbox.c.topic, outbox.c.payload)
        )
        async with self._database.begin() as connection:
            return [dict(row) for row in (await connection.execute(statement)).mappings()]

    def _send(self, topic: str, payload: Mapping[str, Any]) -> None:
        if topic != "dead-letter":
            raise LookupError(f"no relay for topic {topic!r}")
        self._publisher.ring(broker.DEAD_LETTERS, broker.DEAD_LETTER, payload)
