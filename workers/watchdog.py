"""Ends a worker that is alive but deaf, so that its supervisor starts a hearing one.

Deaf: a queue that this worker has room for holds messages, look after look, and the worker was handed none of any kind
meanwhile. (Redis shares a queue among those who listen, so a listening worker would have been.) Or its event loop has
not come round for a minute. Where Redis itself does not answer nothing is judged.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

import redis
from redis.exceptions import RedisError

from app import broker
from app.observability import log
from app.settings import Settings
from workers.slots import QueueSlots

LOOK_SECONDS: Final = 3.0
LOOKS: Final = 5
LOOP_SECONDS: Final = 60.0


class Watchdog:
    def __init__(self, settings: Settings, slots: QueueSlots, beat_at: Callable[[], float]) -> None:
        self._slots, self._beat_at = slots, beat_at
        self._redis = redis.Redis.from_url(
            settings.redis_url, socket_timeout=broker.REDIS_SECONDS, socket_connect_timeout=broker.REDIS_SECONDS
        )
        self._heard = 0
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def heard(self) -> None:
        self._heard += 1

    def _run(self) -> None:
        before, suspicious = self._heard, 0
        while not self._stopped.wait(LOOK_SECONDS):
            heard = self._heard
            suspicious = suspicious + 1 if heard == before and self._waiting() else 0
            before = heard
            if suspicious >= LOOKS:
                self._end(f"it was handed nothing for {LOOKS * LOOK_SECONDS:g} s while its queues hold messages")
            if (silent := time.monotonic() - self._beat_at()) > LOOP_SECONDS:
                self._end(f"its event loop has been stuck for {silent:.0f} s: a handler blocks it?")

    def _waiting(self) -> bool:
        try:
            return any(
                self._redis.llen(queue)
                for queue in (broker.STEPS, broker.COMPENSATIONS, broker.SYSTEM)
                if self._slots.free(queue)
            )
        except (RedisError, OSError):
            return False

    def _end(self, why: str) -> None:
        log.critical("this worker is deaf (%s) and ends; leases bring back what it held", why)
        os.kill(os.getpid(), signal.SIGKILL)
