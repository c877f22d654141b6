"""The publisher, against a Redis that takes connections and never answers, until it does."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import orjson
import pytest
import redis.asyncio

from app import broker
from app.broker import RUN_STEP, STEPS, Publisher, open_redis
from app.house import open_house
from app.settings import Settings
from tests.running import define, submit
from tests.waiting import until

SECONDS = 0.3
"""A Redis that is silent for longer counts as gone, in these tests."""


class Door:
    """A loopback port in front of Valkey that may be silent: it takes what it is sent and answers nothing."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self.silent = True
        self.reached = asyncio.Event()
        self.url = ""
        self._open: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Door"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        try:
            yield self
        finally:
            server.close()
            for writer in list(self._open):
                writer.close()
            await until(lambda: not self._open, what="the end of every connection")
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self.silent:
                while await reader.read(65_536):
                    self.reached.set()
                return
            valkey_reader, valkey_writer = await asyncio.open_unix_connection(self._socket_path)
            there = asyncio.create_task(self._copy(reader, valkey_writer))
            await self._copy(valkey_reader, writer)
            await there
        finally:
            writer.close()
            self._open.discard(writer)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def door(redis_url: str) -> AsyncIterator[Door]:
    async with Door(urlsplit(redis_url).path).listening() as door:
        yield door


@pytest.fixture
async def publisher(door: Door, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Publisher]:
    monkeypatch.setattr(broker, "REDIS_SECONDS", SECONDS)
    publisher = Publisher(door.url)
    yield publisher
    await publisher.close()


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with open_redis(redis_url) as client:
        yield client


async def rung(queue: redis.asyncio.Redis) -> list[str]:
    """What is in the queue, in the order in which it will be read."""
    messages = await queue.lrange(STEPS, 0, -1)
    return [orjson.loads(message)["headers"]["id"] for message in messages][::-1]


async def test_a_submit_does_not_wait_for_a_silent_redis(door: Door, settings: Settings) -> None:
    silent = settings.model_copy(update={"redis_url": door.url})
    async with open_house(silent) as house:
        step = {"name": "reserve", "service": "shop", "action": "reserve", "compensation": "none"}
        defined = await define(house, {"name": "order", "steps": [step]})
        await submit(house, defined, "warm")
        await asyncio.wait_for(door.reached.wait(), 10)
        began_at = time.monotonic()
        for n in range(20):
            await submit(house, defined, f"key-{n}")
        assert time.monotonic() - began_at < broker.REDIS_SECONDS
        assert house.publisher.last_failure is None, "it was still waiting for the first answer"
        closing_at = time.monotonic()
    assert time.monotonic() - closing_at < 3 * broker.REDIS_SECONDS


async def test_what_is_rung_while_redis_is_silent_is_kept_up_to_a_limit(
    door: Door, publisher: Publisher, queue: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Publisher, "LIMIT", 10)
    publisher.ring(STEPS, "the first", "gets no answer")
    await asyncio.wait_for(door.reached.wait(), 10)
    for n in range(25):
        publisher.ring(STEPS, RUN_STEP, f"saga-{n}", "reserve")
        publisher.came_to_rest(f"saga-{n}")
    assert publisher._pending == 10
    door.silent = False
    await publisher.flush()
    tasks = [orjson.loads(message)["headers"]["task"] for message in await queue.lrange(STEPS, 0, -1)]
    assert tasks.count(RUN_STEP) == 5, "the first five sagas, each with its message and its rest"


async def test_it_is_heard_again_as_soon_as_redis_is(
    door: Door, publisher: Publisher, queue: redis.asyncio.Redis
) -> None:
    publisher.ring(STEPS, RUN_STEP, "lost", "reserve")
    await publisher.flush()
    assert publisher.last_failure is not None
    assert await publisher.depths() is None
    door.silent = False
    publisher.ring(STEPS, RUN_STEP, "one", "reserve")
    publisher.ring(STEPS, RUN_STEP, "two", "reserve")
    await publisher.flush()
    assert publisher.last_failure is None
    depths = await publisher.depths()
    assert depths is not None
    assert depths[STEPS] == len(await rung(queue)) == 2


async def test_who_gives_up_waiting_does_not_end_the_sending(
    door: Door, publisher: Publisher, queue: redis.asyncio.Redis
) -> None:
    publisher.ring(STEPS, "the first", "gets no answer")
    waiting = asyncio.create_task(publisher.flush())
    await asyncio.wait_for(door.reached.wait(), 10)
    publisher.ring(STEPS, RUN_STEP, "one", "reserve")
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    door.silent = False
    await publisher.flush()
    assert len(await rung(queue)) == 1


async def test_what_is_rung_first_is_read_first(door: Door, publisher: Publisher, queue: redis.asyncio.Redis) -> None:
    door.silent = False
    for n in range(3):
        publisher.ring(STEPS, f"task-{n}")
    await publisher.flush()
    read = [orjson.loads(await queue.rpop(STEPS))["headers"]["task"] for _ in range(3)]
    assert read == ["task-0", "task-1", "task-2"]


async def test_what_rings_later_rings_later_and_not_after_the_end(
    door: Door, publisher: Publisher, queue: redis.asyncio.Redis
) -> None:
    door.silent = False
    publisher.ring(STEPS, "later", delay_seconds=0.02)
    publisher.ring(STEPS, "much later", delay_seconds=60)
    await publisher.flush()
    assert await queue.llen(STEPS) == 0

    async def one() -> bool:
        return await queue.llen(STEPS) == 1

    await until(one, what="the message that was put off")
    timers = list(publisher._timers)
    await publisher.close()
    assert all(timer.cancelled() for timer in timers if timer.when() > asyncio.get_running_loop().time())


async def test_dead_letters_do_not_fill_redis(
    door: Door, publisher: Publisher, queue: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "DEAD_LETTERS_KEPT", 3)
    door.silent = False
    for n in range(5):
        publisher.ring(broker.DEAD_LETTERS, broker.DEAD_LETTER, f"letter-{n}")
    await publisher.flush()
    assert await queue.llen(broker.DEAD_LETTERS) == 3
