"""The event loop of a worker process: one thread, one loop, one house."""

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from app.house import House, open_house
from app.observability import log, our_version
from app.settings import Settings, get_settings

try:
    import uvloop as loops
except ImportError:  # Windows
    loops = asyncio  # type: ignore[misc]

Result = TypeVar("Result")

HEARTBEAT_SECONDS = 1.0


class Runtime:
    """Started once in each worker process: by our pool, or by the first task in one of Celery's own."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.house: House | None = None
        self.beat_at = time.monotonic()
        """When the loop last came round, by the monotonic clock."""
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._stopping: asyncio.Event | None = None

    def start(self, settings: Settings) -> None:
        """Returns when the house is open; raises what kept it from opening."""
        if self._thread is not None:
            return
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(settings, opened), name="saga-loop", daemon=True)
        self._thread.start()
        opened.result()
        # Celery's own pools never tell us that they end, and a loop that still runs then takes the process down.
        atexit.register(self.stop)

    def _run(self, settings: Settings, opened: "Future[None]") -> None:
        self.loop = loops.new_event_loop()
        try:
            self.loop.run_until_complete(self._live(settings, opened))
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)
        finally:
            self.loop.close()

    async def _live(self, settings: Settings, opened: "Future[None]") -> None:
        self._stopping = asyncio.Event()
        async with open_house(settings, worker=True) as self.house:
            beside = [
                asyncio.create_task(self._beat()),
                asyncio.create_task(self.house.tracker.run()),
                asyncio.create_task(self.house.alive.keep("worker", self._facts)),
            ]
            opened.set_result(None)
            await self._stopping.wait()
            # More than once: asyncio.wait_for of Python 3.11, which redis-py uses, can swallow a cancellation.
            while waiting := [task for task in beside if not task.done()]:
                for task in waiting:
                    task.cancel()
                await asyncio.wait(waiting, timeout=1)

    def _facts(self) -> dict[str, Any]:
        """What this worker says of itself (`app.alive`)."""
        attempts = None if self.house is None else self.house.attempts
        claimed_at = None if attempts is None else attempts.claimed_at
        return {
            "version": our_version(),
            "claimed_ago": None if claimed_at is None else round(time.monotonic() - claimed_at, 1),
        }

    async def _beat(self) -> None:
        while True:
            self.beat_at = time.monotonic()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def run(self, coroutine: Callable[[House], Coroutine[Any, Any, Result]]) -> Result:
        """Runs it in the loop and waits for it: for Celery's own pools, which know no loop."""
        with self._starting:
            self.start(get_settings())
        if self.loop is None or self.house is None:
            raise RuntimeError("the runtime did not start")
        return asyncio.run_coroutine_threadsafe(coroutine(self.house), self.loop).result()

    def stop(self) -> None:
        if self._thread is None or self.loop is None or self._stopping is None or not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=10)
        if self._thread.is_alive():
            log.warning("the event loop did not end; the process ends with it")


runtime = Runtime()
