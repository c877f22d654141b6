"""`max_concurrent`: so many run, the rest wait as CREATED, first come, first served, whoever dies."""

import asyncio
from typing import Any

import pytest

from app import probes
from app.engine import Engine
from app.saga.messages import Pause, Resume
from app.saga.state import ACTION, SECOND
from tests.participant import OK, REFUSED
from tests.waiting import until

from .workshop import Ring, SagaState, Stop, Workshop


@pytest.fixture
def options() -> dict[str, Any]:
    return {"lease_grace": 4, "redispatch_after": 2}


@pytest.fixture
def dies_before_it_admits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dies(self: Engine) -> None:
        self._admitting = None

    monkeypatch.setattr(Engine, "_admit_wanted", dies)


async def states_of(workshop: Workshop, ids: list[str]) -> list[str]:
    return [str((await workshop.load(saga_id)).state.state) for saga_id in ids]


async def running(workshop: Workshop) -> int:
    (row,) = await workshop.rows("SELECT count(*) FROM saga WHERE state IN ('EXECUTING', 'COMPENSATING')")
    return row["count"]


async def test_no_more_run_than_may_and_they_start_in_the_order_in_which_they_came(workshop: Workshop) -> None:
    await workshop.define("reserve", max_concurrent=2)
    ids = [await workshop.start() for _ in range(7)]
    for done in range(7):
        await until(lambda done=done: started(workshop, ids, min(done + 2, 7)))
        assert await states_of(workshop, ids[done + 2 :]) == ["CREATED"] * (5 - done)
        assert await running(workshop) == min(2, 7 - done)
        await workshop.perform(Ring(ids[done], "reserve", ACTION))
    await workshop.finish(*ids)
    rows = await workshop.rows("SELECT saga_id FROM saga_event WHERE type = 'SagaStarted' ORDER BY at, saga_id")
    assert [str(row["saga_id"]) for row in rows] == ids


async def started(workshop: Workshop, ids: list[str], count: int) -> bool:
    return sum(state != "CREATED" for state in await states_of(workshop, ids)) >= count


async def test_who_undoes_still_has_its_place(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge", max_concurrent=1)
    workshop.participant.on("charge", REFUSED)
    hold = workshop.participant.hold("reserve", OK, operation="compensation")
    first, second = [await workshop.start() for _ in range(2)]
    await until(lambda: started(workshop, [first, second], 1))
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    assert await states_of(workshop, [first, second]) == ["COMPENSATING", "CREATED"]
    hold.release()
    await draining
    await until(lambda: started(workshop, [first, second], 2))
    await workshop.finish(first, second)
    assert await states_of(workshop, [first, second]) == ["FAILED", "COMPLETED"]


@pytest.mark.usefixtures("dies_before_it_admits")
async def test_places_that_a_dead_process_did_not_give_are_given_by_the_sweep(workshop: Workshop) -> None:
    await workshop.define("reserve", max_concurrent=2)
    ids = [await workshop.start() for _ in range(5)]
    assert await states_of(workshop, ids) == ["CREATED"] * 5
    for done in (2, 4, 5):
        assert (await workshop.sweep())["admitted"] == (2 if done < 5 else 1)
        await workshop.drain()
        assert await states_of(workshop, ids) == ["COMPLETED"] * done + ["CREATED"] * (5 - done)
    assert (await workshop.sweep())["admitted"] == 0


@pytest.mark.usefixtures("dies_before_it_admits")
async def test_two_processes_do_not_give_the_last_place_twice(workshop: Workshop, other: Workshop) -> None:
    await workshop.define("reserve", max_concurrent=3)
    ids = [await workshop.start() for _ in range(12)]
    with Stop(probes.PLACES_COUNTED) as stop:
        slow = asyncio.create_task(workshop.engine.admit("order"))
        await stop.reached.wait()
        quick = asyncio.create_task(other.engine.admit("order"))

        async def quick_waits_or_is_done() -> bool:
            return quick.done() or bool(await workshop.rows("SELECT FROM pg_locks WHERE NOT granted"))

        await until(quick_waits_or_is_done)
        stop.release()
        assert await slow + await quick == 3
    assert await running(workshop) == 3
    assert await states_of(workshop, ids) == ["EXECUTING"] * 3 + ["CREATED"] * 9
    while "CREATED" in await states_of(workshop, ids):
        await workshop.drain()
        await asyncio.gather(*(house.engine.admit("order") for house in (workshop, other)))
        assert await running(workshop) <= 3
    await workshop.finish(*ids)


@pytest.mark.usefixtures("dies_before_it_admits")
async def test_who_leaves_the_line_keeps_nobody_back_and_who_resumes_has_its_old_place(workshop: Workshop) -> None:
    await workshop.define("reserve", max_concurrent=1)
    at = await workshop.house.database.now()
    cancelled, paused, later, last = (
        await workshop.start(),
        await workshop.start(),
        await workshop.start(start_at=at + 3600 * SECOND),
        await workshop.start(),
    )
    await workshop.ask(paused, Pause)
    assert (await workshop.cancel(cancelled)).state.state is SagaState.FAILED
    assert await workshop.engine.admit("order") == 1
    assert await states_of(workshop, [paused, later, last]) == ["CREATED", "CREATED", "EXECUTING"]
    newest = await workshop.start()
    await workshop.ask(paused, Resume)
    await workshop.drain()
    assert await workshop.engine.admit("order") == 1
    assert await states_of(workshop, [paused, last, newest]) == ["EXECUTING", "COMPLETED", "CREATED"]
    assert workshop.participant.requests("reserve", saga_id=cancelled) == []


async def test_a_new_limit_is_for_those_too_who_wait_already(workshop: Workshop) -> None:
    await workshop.define("reserve", max_concurrent=1)
    ids = [await workshop.start() for _ in range(4)]
    await until(lambda: started(workshop, ids, 1))
    await workshop.define("reserve", max_concurrent=3)
    await workshop.engine.admit("order")
    assert await running(workshop) == 3
    await workshop.define("reserve")
    await workshop.engine.admit("order")
    assert await running(workshop) == 4
    await workshop.finish(*ids)


@pytest.mark.usefixtures("dies_before_it_admits")
async def test_who_waits_longer_than_its_timeout_fails_with_nothing_sent(workshop: Workshop) -> None:
    await workshop.define("reserve", max_concurrent=1)
    first, late = await workshop.start(), await workshop.start(timeout_seconds=0.1)
    assert await workshop.engine.admit("order") == 1
    saga = await workshop.sweep_until_moved(late)
    assert saga.state.state is SagaState.FAILED
    assert saga.state.error is not None
    assert saga.state.error.code == "saga-timeout"
    await workshop.finish(first)
    assert workshop.participant.requests("reserve", saga_id=late) == []
