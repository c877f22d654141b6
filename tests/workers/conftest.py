"""A submitter's house, a participant behind every service, and workers as processes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from app.house import House, open_house
from app.saga.service import Service
from app.settings import Settings
from app.store.sagas import Saga
from tests.participant import Participant
from tests.running import Running, define, running, submit, until_at_rest
from tests.waiting import until


@dataclass
class World:
    house: House
    shop: Participant
    redis: redis.asyncio.Redis
    start: Callable[..., AbstractContextManager[Running]]
    """Another process on the same settings; see tests.running."""
    _keys: int = 0

    async def service(self, name: str, **limits: Any) -> None:
        await self.house.services.put(Service(name, url=self.shop.url, **limits))

    async def submit(self, *steps: Mapping[str, Any] | str, **given: Any) -> Saga:
        """A saga of these steps; what they leave out is filled in."""
        self._keys += 1
        named = [{"name": step} if isinstance(step, str) else step for step in steps]
        common = {"service": "shop", "compensation": "undo", "timeout": "60s"}
        filled = [{**common, "action": step["name"], **step} for step in named]
        defined = await define(self.house, {"name": "-".join(step["name"] for step in named), "steps": filled})
        return await submit(self.house, defined, f"key-{self._keys}", given)

    async def at_rest(self, *sagas: Saga, seconds: float = 20) -> list[Saga]:
        found = await until_at_rest(self.house, [saga.id for saga in sagas], seconds)
        return [found[saga.id] for saga in sagas]

    async def waiting(self, queue: str) -> int:
        return await self.redis.llen(queue)

    async def listeners(self) -> int:
        """Workers that wait for messages at this moment."""
        return sum(
            "b" in client["flags"] and client["cmd"].startswith("br")  # not who follows the event stream
            for client in await self.redis.client_list()
        )

    async def until_heard(self, listeners: int = 1) -> None:
        async def heard() -> bool:
            return await self.listeners() == listeners

        await until(heard, what=f"{listeners} listening workers")

    @contextlib.asynccontextmanager
    async def sweeping(self) -> AsyncIterator[None]:
        async def sweep() -> None:
            while True:
                await self.house.sweeper.sweep()
                await asyncio.sleep(0.1)

        task = asyncio.create_task(sweep())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def world(settings: Settings, tmp_path: Path) -> AsyncIterator[World]:
    def start(part: str = "worker", **environment: Any) -> AbstractContextManager[Running]:
        return running(part, settings, tmp_path, **environment)

    async with (
        Participant.serve() as shop,
        open_house(settings) as house,
        redis.asyncio.Redis.from_url(settings.redis_url) as client,
    ):
        world = World(house, shop, client, start)
        await world.service("shop")
        yield world
