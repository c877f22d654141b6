"""Batches that make themselves: while one is under way the next one gathers.

A lone caller waits for nobody, a hundred concurrent ones share a statement.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from app.errors import DatabaseUnavailable

PATIENCE_SECONDS: Final = 0.002
"""Added to a batch while several callers share one: a statement's own cost is then worth more than the wait."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """`await coalescer(item)` is the item's result of `execute(items)`, whoever else shares the batch.

    An item that the batch fails for is tried alone, so that it does not fail its neighbours.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        limit: int = 100,
        unique: Callable[[Item], Hashable] | None = None,
    ) -> None:
        self._execute, self._limit, self._unique = execute, limit, unique
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._crowded = False

    async def __call__(self, item: Item) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                # Callers that the last batch woke up go into the next one; where there are many, a little patience
                # makes one statement of several.
                await asyncio.sleep(PATIENCE_SECONDS if self._crowded else 0)
                batch = self._take()
                self._crowded = len(batch) > 1
                await self._run_batch(batch)
        finally:
            self._running = None

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        seen: set[Hashable] = set()
        later: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._limit:
            item, future = self._waiting.popleft()
            if future.done():  # its caller has gone
                continue
            identity = self._unique(item) if self._unique else None
            if identity is not None and identity in seen:
                later.append((item, future))
                continue
            seen.add(identity)
            batch.append((item, future))
        self._waiting.extendleft(reversed(later))
        return batch

    async def _run_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not batch:
            return
        try:
            results = await self._execute([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - handed to the callers
            if len(batch) == 1 or isinstance(error, DatabaseUnavailable):
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                return
            for one in batch:
                await self._run_batch([one])
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
