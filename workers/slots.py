"""How much one worker process does at a time, queue by queue.

Compensations have slots of their own: what has to be undone does not wait behind steps that hang. A queue whose slots
are all taken is not read (`workers.transport`), so its messages stay in Redis for other workers.
"""

import threading
from collections.abc import Mapping


class QueueSlots:
    """Counted in two threads: the consumer's takes, the event loop's gives back."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._taken = dict.fromkeys(limits, 0)
        self._lock = threading.Lock()

    def room(self, queue: str) -> int:
        return self._limits.get(queue, 1) - self._taken.get(queue, 0)

    def free(self, queue: str) -> bool:
        return self.room(queue) > 0

    def any_free(self) -> bool:
        return any(self._taken[queue] < limit for queue, limit in self._limits.items())

    def take(self, queue: str) -> None:
        with self._lock:
            self._taken[queue] = self._taken.get(queue, 0) + 1

    def give_back(self, queue: str) -> bool:
        """Whether the queue had been full, so that the consumer should be told."""
        with self._lock:
            was_full = not self.free(queue)
            self._taken[queue] -= 1
            return was_full
