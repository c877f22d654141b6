"""Celery's Redis transport, made for this house.

Two differences from kombu's own. Unacknowledged messages live in memory instead of in Redis, which halves the cost of
a message: what a worker held when it died is found by its leases and by the sweep, sooner than Redis would redeliver
it. And a queue whose slots are all taken is left alone (`workers.slots`).
"""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis, virtual

from workers.slots import QueueSlots

FULL_SECONDS = 0.05
"""While a queue is full, so often we look whether it has room again."""

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
    QoS = QoS  # type: ignore[assignment]

    def _brpop_start(self, timeout: float | None = None) -> None:
        everything: Any = self._queue_cycle  # type: ignore[has-type]
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
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "workers.transport:Transport"
