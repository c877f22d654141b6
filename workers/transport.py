"""Celery's Redis transport, made for this house.

Three differences from kombu's own. Unacknowledged messages live in memory instead of in Redis, which halves the cost of
a message: what a worker held when it died is found by its leases and by the sweep, sooner than Redis would redeliver
it. A queue whose slots are all taken is left alone (`workers.slots`). And where a queue holds
more than one message, several are taken at a time.
"""

import time
from typing import Any

import orjson
from kombu.serialization import register
from kombu.transport import TRANSPORT_ALIASES, redis, virtual

from workers.slots import QueueSlots

FULL_SECONDS = 0.05
"""While a queue is full, so often we look whether it has room again."""

BACKLOG_SECONDS = 0.001
MORE = 16

slots: QueueSlots | None = None
"""Of this process; set by `workers.pool`. None: every queue is read."""


class QoS(virtual.QoS):
    restore_at_shutdown = True

    def can_consume(self) -> bool:
        return slots is None or slots.any_free()

    # What kombu's Redis QoS would look for in Redis is here in memory, or lost and found by the sweep.
    def restore_visible(self, *args: Any, **options: Any) -> None:
        pass


class Channel(redis.Channel):
    _queue_cycle: Any
    _brpop_sent_at: float

    QoS = QoS  # type: ignore[assignment]

    def _brpop_start(self, timeout: float | None = None) -> None:
        everything = self._queue_cycle
        if slots is not None:
            free = [queue for queue in everything.items if slots.free(queue)]
            if len(free) < len(everything.items):
                if not free:
                    return
                self._queue_cycle = _Only(free)
                timeout = FULL_SECONDS
        try:
            super()._brpop_start(timeout)  # type: ignore[misc]
        finally:
            self._queue_cycle = everything

    def _brpop_read(self, **options: Any) -> Any:
        asked_at = self._brpop_sent_at
        delivered = super()._brpop_read(**options)  # type: ignore[misc]
        if time.monotonic() - asked_at < BACKLOG_SECONDS:
            self._read_more()
        return delivered

    def _read_more(self) -> None:
        """An answer that came at once says that the queue holds more: a round of the hub is dear, so take several."""
        queue = self._queue_cycle.items[-1]  # the one just read: kombu moves it to the end
        room = MORE if slots is None else min(slots.room(queue), MORE)
        if room > 0:
            for message in self.client.rpop(queue, room) or ():
                self.connection._deliver(orjson.loads(message), queue)  # noqa: SLF001 - as kombu's own

    def _restore(self, message: Any, leftmost: bool = False) -> None:  # noqa: ARG002 - kombu's signature
        virtual.Channel._restore(self, message)  # noqa: SLF001 - past kombu's, which looks in Redis


class _Only:
    """The queues to read this time, as kombu's cycle has them."""

    def __init__(self, queues: list[str]) -> None:
        self._queues = queues

    def consume(self, _: int) -> list[str]:
        return self._queues


class Transport(redis.Transport):
    Channel = Channel


def install() -> None:
    """Makes every redis URL of this process use this transport, sockets and TLS included."""
    # kombu's own JSON looks into every value for types that our messages, which carry ids, never have.
    register("json", lambda value: orjson.dumps(value).decode(), orjson.loads, "application/json", "utf-8")
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "workers.transport:Transport"
