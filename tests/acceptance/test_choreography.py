"""The promise for choreographed sagas, held against real processes: the services with the kit, the tracker in workers.

The services' own ledgers are the oracle; they know nothing of our tables.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.house import House, open_house
from app.local.valkey import EmbeddedValkey
from app.saga.definition import parse_definition
from app.saga.state import CallState, SagaState
from app.settings import Settings
from app.store.sagas import Saga
from saga_participant.events import STREAM, Event
from tests.acceptance import event_service
from tests.acceptance.event_service import SERVICES, refuses
from tests.conftest import Servers
from tests.running import Running, running
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SAGAS = 500
SEED = 4711
PATIENCE = {
    # Long beside the faults: where a busy machine made every step late, nothing would be completed.
    "timeout": "30s",
    "compensation_timeout": "5s",
    "compensation_retry": {"max_attempts": 20, "initial_delay": "500ms", "max_delay": "2s"},
}
DEFINITION = {
    "name": "order-events",
    "type": "choreography",
    "started_by": "OrderPlaced",
    "correlation": "data.order_id",
    "timeout": "5m",
    "steps": [{**line.definition(name), **PATIENCE} for name, line in SERVICES.items()],
}


class World:
    def __init__(self, house: House, valkey: EmbeddedValkey, databases: dict[str, str], directory: Path) -> None:
        self.house, self.valkey, self.databases, self.directory = house, valkey, databases, directory
        self.processes: dict[str, tuple[contextlib.ExitStack, Running]] = {}

    def start(self, name: str) -> None:
        stack = contextlib.ExitStack()
        given = self.house.settings
        if name in SERVICES:
            command = ("-m", event_service.__name__, name, self.databases[name], given.redis_url)
            process = stack.enter_context(running(name, given, self.directory, command=command))
        else:
            process = stack.enter_context(running(name.partition("-")[0], given, self.directory))
        self.processes[name] = stack, process

    def end(self, name: str) -> None:
        """With SIGKILL."""
        stack, process = self.processes.pop(name)
        process.process.send_signal(signal.SIGKILL)
        stack.close()

    async def place(self, order: int) -> None:
        event = Event("OrderPlaced", "shop", {"order_id": str(order)}, id=f"order-{order}")
        await self.house.events.accept(event.source, event.id, event.to_json())

    async def sagas(self) -> dict[str, Saga]:
        found = {}
        for order in range(SAGAS):
            saga = await self.house.sagas.by_key("", f"order-events:{order}")
            if saga is not None:
                found[str(order)] = saga[0]
        return found

    async def rest(self) -> int:
        """How many are at rest."""
        async with self.house.database.connect() as connection:
            return (await connection.exec_driver_sql("SELECT count(*) FROM saga WHERE wake_at IS NULL")).scalar_one()

    async def ledger(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Step -> order -> (times done, times undone)."""
        found = {}
        for name, line in SERVICES.items():
            connection = await asyncpg.connect(self.databases[name])
            rows = await connection.fetch("SELECT order_id, done, undone FROM ledger")
            await connection.close()
            found[line.step] = {row["order_id"]: (row["done"], row["undone"]) for row in rows}
        return found

    async def listed(self) -> dict[str, set[str]]:
        """Steps whose success came when their saga had FAILED, by order: dead letters for a person."""
        found: dict[str, set[str]] = {}
        steps = {line.succeeded: line.step for line in SERVICES.values()}
        for letter in await rows(self, "SELECT step, event->'data'->>'order_id' AS o FROM dead_letter"):
            if letter["step"] in steps:
                found.setdefault(letter["o"], set()).add(steps[letter["step"]])
        return found

    async def differences(self) -> list[str]:
        """Where the sagas and the ledgers do not say the same, or the promise is broken."""
        ledger, listed, faults = await self.ledger(), await self.listed(), []
        sagas = await self.sagas()
        faults += [f"order {order} has no saga" for order in range(SAGAS) if str(order) not in sagas]
        for order, saga in sagas.items():
            seen = set()
            for plan, record in zip(saga.definition.steps, saga.state.steps, strict=True):
                undone = record.compensation.state in {CallState.COMPENSATED, CallState.RESOLVED}
                if record.action.state is CallState.SUCCEEDED and not undone:
                    seen.add(plan.name)
            times = {step: orders.get(order, (0, 0)) for step, orders in ledger.items()}
            standing = {step for step, (done, undone) in times.items() if done > undone}
            if any(done > 1 or undone > done for done, undone in times.values()):
                faults.append(f"order {order}: an effect came twice: {times}")
            allowed: set[str] = set()
            if saga.state.state is SagaState.COMPLETED:
                allowed = set(ledger)
            elif saga.state.state is SagaState.COMPENSATION_FAILED:
                allowed = set(saga.state.attention.steps)
            else:
                allowed = listed.get(order, set())
            seen |= standing & allowed
            whole = standing <= allowed and (saga.state.state is not SagaState.COMPLETED or standing == allowed)
            if not (saga.state.at_rest and whole and seen == standing):
                faults.append(f"order {order} is {saga.state.state}: standing {standing}, seen {seen}")
        return faults


@contextlib.contextmanager
def databases(servers: Servers) -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(servers.database(template=None)) for name in SERVICES}


@pytest.fixture
async def world(servers: Servers, database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    with databases(servers) as urls, EmbeddedValkey(tmp_path / "valkey") as valkey:
        settings = Settings(database_url=database_url, redis_url=valkey.url, sweep_interval=0.5, lease_grace=1)
        for url in urls.values():
            await event_service.make_tables(url)
        async with open_house(settings) as house:
            await house.definitions.register(parse_definition(DEFINITION, None))
            world = World(house, valkey, urls, tmp_path)
            try:
                for name in (*SERVICES, "worker-1", "worker-2", "beat"):
                    world.start(name)
                yield world
            finally:
                for name in list(world.processes):
                    world.end(name)


async def place_all(world: World) -> None:
    for order in range(SAGAS):
        await world.place(order)
        if order % 50 == 49:
            await asyncio.sleep(2)  # they come over a while, so that the deaths fall among them


async def until_moved(world: World, events: int) -> None:
    """Until the sagas have so many events more."""
    count = "SELECT count(*) FROM saga_event"
    before = (await rows(world, count))[0][0]

    async def moved() -> bool:
        await asyncio.sleep(0.1)
        return (await rows(world, count))[0][0] >= before + events

    await until(moved, 500, "a move of the sagas")


async def kill_at_random(world: World, dice: random.Random) -> None:
    while True:
        # As fast as the house moves, on any machine: what is started has to come to do something.
        await until_moved(world, dice.randint(50, 150))
        name = dice.choice((*SERVICES, "worker-1", "worker-2"))
        world.end(name)
        world.start(name)


async def until_all_rest(world: World, sagas: int = SAGAS, seconds: float = 400) -> None:
    async def rested() -> bool:
        await asyncio.sleep(0.25)
        return await world.rest() >= sagas

    await until(rested, seconds, "the rest of every saga")


async def until_no_difference(world: World) -> None:
    faults: list[str] = []

    async def same() -> bool:
        faults[:] = await world.differences()
        return not faults

    try:
        await until(same, 60)
    except AssertionError:
        raise AssertionError(f"{len(faults)} differences: {faults[:5]}") from None


async def rows(world: World, statement: str) -> list[Any]:
    connection = await asyncpg.connect(world.house.database.url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def test_whatever_is_killed_or_lost_every_saga_ends_all_or_nothing_or_needs_a_person(
    world: World, record_property: Any
) -> None:
    dice = random.Random(SEED)
    placing = asyncio.create_task(place_all(world))
    killing = asyncio.create_task(kill_at_random(world, dice))
    try:
        await until_all_rest(world, SAGAS // 5)
        world.valkey.restart()
        await until_all_rest(world, SAGAS * 2 // 5)
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(world.house.bus._redis.client())
            await client.flushall()
        await until_all_rest(world, SAGAS * 4 // 5)
        await placing
    finally:
        for task in (placing, killing):
            task.cancel()
        await asyncio.wait([placing, killing])
    await until_all_rest(world)
    await until_no_difference(world)
    ended = {order: str(saga.state.state) for order, saga in (await world.sagas()).items()}
    states = list(ended.values())
    record_property("told", f"{ {state: states.count(state) for state in set(states)} }, seed {SEED}")
    refused = [str(order) for order in range(SAGAS) if any(refuses(name, order) for name in SERVICES)]
    assert "COMPLETED" not in {ended[order] for order in refused}
    assert {"COMPLETED", "FAILED"} <= set(states), "a house that undoes everything would be all or nothing, too"

    before = await rows(world, "SELECT * FROM saga ORDER BY id")
    letters = await rows(world, "SELECT * FROM dead_letter ORDER BY id")
    await world.house.bus._redis.xgroup_setid(STREAM, "saga-tracker", "0")

    async def replayed() -> bool:
        return await world.house.bus.lag() == 0

    await until(replayed, 60)
    assert await rows(world, "SELECT * FROM saga ORDER BY id") == before
    assert await rows(world, "SELECT * FROM dead_letter ORDER BY id") == letters
