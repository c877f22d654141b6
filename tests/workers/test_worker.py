"""A worker as a process of its own, with real Valkey and PostgreSQL: what it does at once, and how it ends."""

import asyncio
import base64
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from celery import Celery

from app import broker
from app.local.valkey import EmbeddedValkey
from app.saga.state import CallState, SagaState
from tests.participant import OK, REFUSED, hangs
from tests.waiting import until
from tests.workers.conftest import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SLOTS = 4


@pytest.fixture
def options() -> dict[str, Any]:
    return {
        "worker_slots": SLOTS,
        "worker_compensation_slots": 2,
        "lease_grace": 1,
        "redispatch_after": 1,
        "sweep_interval": 0.2,
        "shutdown_grace": 20,
    }


# --- slots ---


async def test_while_every_slot_hangs_a_compensation_starts_at_once(world: World) -> None:
    await world.service("slow")
    await world.service("slower")
    world.shop.always("a", hangs())
    world.shop.always("b", hangs())
    refusal = world.shop.hold("charge", REFUSED)
    with world.start():
        undone = await world.submit("reserve", "charge")
        await asyncio.wait_for(refusal.reached.wait(), 20)
        for _ in range(SLOTS):
            await world.submit({"name": "a", "service": "slow"})
            await world.submit({"name": "b", "service": "slower"})
        # One slot is the refusal's, and one service has no more than three quarters of them.
        await world.shop.until(lambda: len(world.shop.requests("a")) + len(world.shop.requests("b")) == SLOTS - 1)
        released_at = time.monotonic()
        refusal.release()
        await world.shop.until(lambda: world.shop.undone(undone.id) == ["reserve"])
        assert world.shop.done[-1].at - released_at < 3, "it should take a few milliseconds"
        (undone,) = await world.at_rest(undone)
        assert undone.state.state is SagaState.FAILED
        await world.shop.until(lambda: len(world.shop.requests("a")) + len(world.shop.requests("b")) == SLOTS)


async def test_who_waits_for_a_busy_service_takes_no_slot(world: World) -> None:
    await world.service("busy", max_in_flight=1)
    first = world.shop.hold("a")
    with world.start():
        waiting = [await world.submit({"name": "a", "service": "busy"}) for _ in range(3 * SLOTS)]
        await asyncio.wait_for(first.reached.wait(), 20)
        others = [await world.submit("quick") for _ in range(SLOTS)]
        await world.at_rest(*others)
        assert len(world.shop.requests("a")) == 1
        assert await world.waiting(broker.STEPS) == 0, "they wait in the worker, not in the queue"
        first.release()
        await world.at_rest(*waiting)
        assert len(world.shop.requests("a")) == len(waiting)


# --- the end ---


async def test_told_to_end_it_finishes_what_is_under_way(world: World) -> None:
    under_way = world.shop.hold("charge")
    saga = await world.submit("reserve", "charge", "confirm")
    with world.start() as worker:
        await asyncio.wait_for(under_way.reached.wait(), 20)
        worker.ask_to_end()
        await until(lambda: "Warm shutdown" in worker.log, what="a worker that was told")
        later = await world.submit("quick")
        under_way.release()
        assert await worker.ended() == 0, worker.log
    charge = (await world.house.engine.load(saga.id)).state.steps[1].action
    assert (charge.state, charge.attempts) == (CallState.SUCCEEDED, 1)
    with world.start():  # and nobody sweeps: the messages have waited
        await world.at_rest(saga, later)
    assert sorted(asked.step for asked in world.shop.asked) == ["charge", "confirm", "quick", "reserve"]


async def test_told_to_end_it_cuts_off_what_hangs_and_writes_that_the_outcome_is_unknown(world: World) -> None:
    world.shop.on("charge", hangs())
    saga = await world.submit("charge")
    with world.start(SAGA_SHUTDOWN_GRACE="0.2", SAGA_LEASE_GRACE="30") as worker:
        await world.shop.until(lambda: len(world.shop.requests("charge")) == 1)
        worker.ask_to_end()
        assert await worker.ended() == 0, worker.log
    left = await world.house.engine.load(saga.id)
    call = left.state.steps[0].action
    assert call.state is CallState.RETRYING, (call, worker.log)
    assert call.unknown
    assert call.quiet_until is not None, "what was cut off may still run at the participant"
    async with world.sweeping():
        with world.start():
            (saga,) = await world.at_rest(saga)
    assert saga.state.state is SagaState.COMPLETED
    assert world.shop.effects(saga.id) == [("action", "charge")]


async def test_told_to_end_it_gives_back_what_it_has_not_begun(world: World) -> None:
    await world.service("busy", max_in_flight=1)
    first = world.shop.hold("a")
    sagas = [await world.submit({"name": "a", "service": "busy"}) for _ in range(5)]
    with world.start(SAGA_SHUTDOWN_GRACE="0.2") as worker:
        await asyncio.wait_for(first.reached.wait(), 20)

        async def taken() -> bool:
            return await world.waiting(broker.STEPS) == 0

        await until(taken, what="a worker that has taken every message")
        worker.ask_to_end()
        assert await worker.ended() == 0, worker.log
    first.release()
    states = [(await world.house.engine.load(saga.id)).state.steps[0].action.state for saga in sagas]
    assert sorted(states) == [CallState.RETRYING] + [CallState.SCHEDULED] * 4
    not_begun = [saga for saga, state in zip(sagas, states, strict=True) if state is CallState.SCHEDULED]
    with world.start():  # and nobody sweeps: their messages are in the queue again
        await world.at_rest(*not_begun)


# --- hearing ---

DEAF = ("-m", "tests.workers.deaf", "deaf")


async def test_a_deaf_worker_ends_itself_and_the_next_one_hears(world: World) -> None:
    with world.start("deaf", command=DEAF) as deaf:
        heard = await world.submit("a")
        await world.shop.until(lambda: len(world.shop.requests("a")) == 1)
        unheard = await world.submit("b")
        assert await deaf.ended() == -signal.SIGKILL, deaf.log
        assert "this worker is deaf" in deaf.log
    assert world.shop.requests("b") == []
    with world.start():
        await world.at_rest(heard, unheard)


class TestValkeyOfItsOwn:
    """That may be emptied and restarted without harm to other tests."""

    @pytest.fixture
    def valkey(self, tmp_path: Path) -> Iterator[EmbeddedValkey]:
        with EmbeddedValkey(tmp_path / "valkey", durable=False) as valkey:
            yield valkey

    @pytest.fixture
    def redis_url(self, valkey: EmbeddedValkey) -> str:
        return valkey.url

    async def test_it_hears_again_whatever_becomes_of_valkey(self, world: World, valkey: EmbeddedValkey) -> None:
        with world.start() as worker:
            await world.at_rest(await world.submit("before"))

            held = world.shop.hold("flushed")
            under_way, waiting = await world.submit("flushed", "last"), await world.submit("never-rung")
            await asyncio.wait_for(held.reached.wait(), 20)
            await world.redis.flushall()
            held.release()
            async with world.sweeping():
                await world.at_rest(under_way, waiting, await world.submit("after"))

            for end in (valkey.restart, valkey.kill):
                held = world.shop.hold("away")
                under_way = await world.submit("away", "last")
                await asyncio.wait_for(held.reached.wait(), 20)
                end()
                while_away = await world.submit("while-away")
                held.release()
                await world.shop.until(lambda: ("action", "away") in world.shop.effects(under_way.id))  # noqa: B023
                valkey.start()
                async with world.sweeping():
                    await world.at_rest(under_way, while_away, seconds=30)
                await world.until_heard()
                # And without a sweep: it is the bell that it hears.
                await world.at_rest(await world.submit("heard"))
            assert worker.process.poll() is None, "the very same worker"
        assert world.shop.faults == []


# --- Celery's own ---


def sent_by_celery(redis_url: str, task: str, *args: str) -> None:
    celery = Celery("a plain client", broker=broker.broker_url(redis_url), set_as_current=False)
    celery.conf.broker_transport_options = {"priority_steps": [0]}
    with celery.connection_for_write() as connection:
        celery.send_task(task, args, queue=broker.STEPS, connection=connection)
    celery.close()


async def test_a_message_of_ours_is_one_of_celery(world: World) -> None:
    await asyncio.to_thread(sent_by_celery, world.house.settings.redis_url, broker.RUN_STEP, "an id", "a step")
    theirs = orjson.loads(await world.redis.rpop(broker.STEPS))
    ours = orjson.loads(broker.task_message(broker.RUN_STEP, broker.STEPS, ["an id", "a step"]))
    assert orjson.loads(base64.b64decode(ours["body"])) == orjson.loads(base64.b64decode(theirs["body"]))
    assert {name for name in theirs["headers"] if name not in ours["headers"]} <= {
        "shadow", "group_index", "stamped_headers", "stamps", "replaced_task_nesting",
    }  # fmt: skip
    assert ours.keys() == theirs.keys()
    assert ours["headers"]["task"] == theirs["headers"]["task"] == broker.RUN_STEP
    assert ours["properties"].keys() == theirs["properties"].keys()


async def test_either_kind_of_message_leads_to_the_same_call(world: World) -> None:
    by_ours, by_celery = await world.submit("a"), await world.submit("b")
    await world.house.publisher.flush()
    assert await world.waiting(broker.STEPS) == 2
    await world.redis.rpop(broker.STEPS, 2)
    await world.redis.lpush(broker.STEPS, broker.task_message(broker.RUN_STEP, broker.STEPS, [by_ours.id, "a"]))
    await asyncio.to_thread(sent_by_celery, world.house.settings.redis_url, broker.RUN_STEP, by_celery.id, "b")
    with world.start():
        ended = await world.at_rest(by_ours, by_celery)
    assert [saga.state.state for saga in ended] == [SagaState.COMPLETED] * 2
    assert [len(world.shop.requests(step)) for step in ("a", "b")] == [1, 1]


STOCK = ("-m", "celery", "-A", "workers.celery_app", "worker", "--pool", "threads", "--concurrency", "4")


async def test_the_engine_runs_on_what_celery_brings_itself(world: World) -> None:
    """Its threads pool, kombu's transport, `apply_async`: decision 14."""
    world.shop.on("charge", OK)
    world.shop.on("refused", REFUSED)
    with world.start("stock", command=(*STOCK, "--loglevel", "WARNING")) as stock, world.start("beat"):
        completed = await world.submit("reserve", "charge", "confirm")
        undone = await world.submit("reserve", "charge", "refused")
        lost = await world.submit("lost")
        by_celery = await world.submit("by-celery")
        await asyncio.to_thread(
            sent_by_celery, world.house.settings.redis_url, broker.RUN_STEP, by_celery.id, "by-celery"
        )
        ended = await world.at_rest(completed, undone, lost, by_celery)
        assert [saga.state.state for saga in ended] == [
            SagaState.COMPLETED, SagaState.FAILED, SagaState.COMPLETED, SagaState.COMPLETED,
        ]  # fmt: skip
        assert world.shop.undone(undone.id) == ["charge", "reserve"]
        assert world.shop.faults == []
        stock.ask_to_end()
        assert await stock.ended() == 0, stock.log
