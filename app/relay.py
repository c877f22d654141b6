"""From the outbox to the world outside, at least once. Safe in any number."""

from collections.abc import Mapping
from typing import Any, Final

from app import broker
from app.store.outbox import Outbox

BATCH: Final = 100


class Relay:
    def __init__(self, outbox: Outbox, publisher: broker.Publisher) -> None:
        self._outbox, self._publisher = outbox, publisher

    async def drain(self) -> int:
        """Sends what is due; returns how much."""
        sent = 0
        while rows := await self._outbox.lease(BATCH):
            for row in rows:
                self._send(row.topic, row.payload)
            await self._publisher.flush()
            if self._publisher.last_failure is not None:
                return sent  # Redis is away: the leases end, and then it is tried again
            await self._outbox.sent(rows)
            sent += len(rows)
            if len(rows) < BATCH:
                break
        return sent

    def _send(self, topic: str, payload: Mapping[str, Any]) -> None:
        if topic != "dead-letter":
            raise LookupError(f"no relay for topic {topic!r}")
        self._publisher.ring(broker.DEAD_LETTERS, broker.DEAD_LETTER, payload)
