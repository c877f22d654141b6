"""From the outbox to the world outside, at least once. Safe in any number."""

from typing import Final

from app import broker
from app.store.outbox import Outbox

BATCH: Final = 100
DEAD_LETTER: Final = "dead-letter"


class Relay:
    def __init__(self, outbox: Outbox, publisher: broker.Publisher) -> None:
        self._outbox, self._publisher = outbox, publisher

    async def drain(self) -> int:
        """Sends what is due; returns how much."""
        sent = 0
        while rows := await self._outbox.lease(BATCH, (DEAD_LETTER,)):
            notices = [(row.payload,) for row in rows]
            if not await self._publisher.deliver(broker.DEAD_LETTERS, broker.DEAD_LETTER, notices):
                break  # Redis is away: the leases end, and then it is tried again
            await self._outbox.sent(rows)
            sent += len(rows)
            if len(rows) < BATCH:
                break
        return sent
