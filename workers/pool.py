"""A Celery worker pool on one asyncio loop.

Steps wait for the network, so one process carries out a hundred of them at a time. Chosen by
`CELERY_CUSTOM_WORKER_POOL=workers.pool:AsyncioPool` and `--pool custom`. A task has a `coroutine`, brought here
by `workers.strategy`; it takes the house, the slot's `parked` and the message's arguments.
"""

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import orjson
from celery.concurrency.base import BasePool

from app import broker
from app.observability import log
from app.settings import get_settings
from workers import transport
from workers.runtime import runtime
from workers.slots import QueueSlots
from workers.watchdog import Watchdog

SYSTEM_SLOTS = 4

Coroutine = Callable[..., Awaitable[None]]


class AsyncioPool(BasePool):
    signal_safe = False
    task_join_will_block = False

    def on_start(self) -> None:
        settings = get_settings()
        self._grace_seconds = settings.shutdown_grace
        self._slots = transport.slots = QueueSlots(
            {
                broker.STEPS: settings.worker_slots,
                broker.COMPENSATIONS: settings.worker_compensation_slots,
                broker.SYSTEM: SYSTEM_SLOTS,
            }
        )
        self._inbox: deque[_Job] = deque()
        self._scheduled = False
        self._running: dict[asyncio.Task[None], _Job] = {}
        self._idle = threading.Event()
        self._idle.set()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        runtime.start(settings)
        self.watchdog = Watchdog(settings, self._slots, lambda: runtime.beat_at)
        self.watchdog.start()

    def register_with_event_loop(self, loop: Any) -> None:
        loop.add_reader(self._wake_read, self._drain_wake)

    def _drain_wake(self) -> None:
        while True:
            try:
                if not os.read(self._wake_read, 512):
                    return
            except BlockingIOError:
                return

    # --- in the consumer's thread ---

    def take(self, name: str, coroutine: Coroutine, queue: str, body: str | bytes, done: Callable[[], None]) -> None:
        """One message; `done` acknowledges it. What was cut off is not acknowledged, and goes back to its queue."""
        self.watchdog.heard()
        self._slots.take(queue)
        self._inbox.append(_Job(name, coroutine, queue, body, done))
        if not self._scheduled and runtime.loop is not None:
            self._scheduled = True
            runtime.loop.call_soon_threadsafe(self._begin)

    # --- in the loop's thread ---

    def _begin(self) -> None:
        self._scheduled = False
        while self._inbox:
            job = self._inbox.popleft()
            task = asyncio.get_running_loop().create_task(self._run(job))
            if not self._running:
                self._idle.clear()
            self._running[task] = job
            task.add_done_callback(self._end)

    async def _run(self, job: "_Job") -> None:
        arguments, *_ = orjson.loads(job.body)
        await job.coroutine(runtime.house, partial(self._parked, job), *arguments)

    @contextlib.contextmanager
    def _parked(self, job: "_Job") -> Iterator[None]:
        """A task that only waits takes no slot meanwhile. It comes back at once, full or not: it has waited enough."""
        self._give_back(job.queue)
        try:
            yield
        finally:
            self._slots.take(job.queue)

    def _give_back(self, queue: str) -> None:
        if self._slots.give_back(queue):
            self._wake()

    def _end(self, task: asyncio.Task[None]) -> None:
        job = self._running.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The row's lease or its re-send repairs it; the message is of no further use.
            log.error("%s failed", job.name, exc_info=error)
        if not task.cancelled():
            job.done()
        self._give_back(job.queue)
        if not self._running:
            self._idle.set()

    def _wake(self) -> None:
        """Tells the consumer that a queue has room again; it may be asleep with nothing to read."""
        with contextlib.suppress(BlockingIOError):  # it has been told
            os.write(self._wake_write, b"\0")

    # --- the end ---

    def on_stop(self) -> None:
        """Attempts under way get `SAGA_SHUTDOWN_GRACE` seconds; the rest are cut off, and their outcomes written so."""
        self.watchdog.stop()
        if runtime.loop is not None:
            self._idle.wait(self._grace_seconds)
            runtime.loop.call_soon_threadsafe(self._cancel_all)
            if not self._idle.wait(5):
                log.warning("%d attempts could not be cut off; their leases will tell", len(self._running))
        runtime.stop()

    on_terminate = on_stop

    def _cancel_all(self) -> None:
        for task in self._running:
            task.cancel()


class _Job:
    __slots__ = ("body", "coroutine", "done", "name", "queue")

    def __init__(
        self, name: str, coroutine: Coroutine, queue: str, body: str | bytes, done: Callable[[], None]
    ) -> None:
        self.name, self.coroutine, self.queue, self.body, self.done = name, coroutine, queue, body, done
