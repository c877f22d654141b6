"""A service that an operator has paused: nothing new is sent to it, nothing is lost, and nobody else waits."""

import asyncio
from typing import Any

import pytest

from app.access import Caller, of_key
from app.errors import Problem
from app.operating import Operator
from app.saga.service import Service
from app.saga.state import COMPENSATION, SECOND, CallState
from app.store.gauges import read_gauges
from app.store.services import STALE_SECONDS, WAIT_SECONDS
from tests.participant import REFUSED, Hold

from .workshop import SagaState, Workshop, put_shop, states

WHO: Caller = of_key("test", ["admin"], "")


@pytest.fixture
def options() -> dict[str, Any]:
    return {"lease_grace": 2, "redispatch_after": 0.2}


async def pause(workshop: Workshop, name: str = "shop") -> Service:
    return await Operator(workshop.house, WHO).pause_service(name, "it is being moved")


async def resume(workshop: Workshop, name: str = "shop") -> Service:
    return await Operator(workshop.house, WHO).resume_service(name, "it has moved")


async def pause_meanwhile(workshop: Workshop, hold: Hold) -> None:
    """While a call is held; then it goes on, and all that follows is done."""
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    await pause(workshop)
    hold.release()
    await draining


async def test_what_is_to_be_sent_waits_and_is_sent_when_the_service_is_resumed(workshop: Workshop) -> None:
    workshop.put_off = True  # as long as it is paused
    await workshop.define("reserve", "charge")
    paused = await pause(workshop)
    assert paused.pause is not None
    assert (paused.pause.by, paused.pause.reason) == ("key:test", "it is being moved")
    saga_id = await workshop.start()
    await workshop.drain()
    saga = await workshop.load(saga_id)
    assert states(saga)[0] is CallState.SCHEDULED
    assert workshop.participant.asked == []

    await workshop.until_due(saga_id)
    assert (await workshop.sweep())["postponed"] == 1
    looked_at = await workshop.load(saga_id)
    assert looked_at.state.seq == saga.state.seq  # the history does not grow with the time
    assert looked_at.wake_at is not None
    assert WAIT_SECONDS - 5 < (looked_at.wake_at - looked_at.read_at) / SECOND <= WAIT_SECONDS
    assert await workshop.depth() == 0

    assert (await resume(workshop)).pause is None
    saga = await workshop.finish(saga_id, seconds=10)
    assert saga.state.state is SagaState.COMPLETED
    assert [asked.attempt for asked in workshop.participant.requests("reserve")] == [1]
    assert saga.state.attention is None


async def test_an_attempt_that_is_under_way_ends_as_it_will(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge")
    hold = workshop.participant.hold("reserve")
    saga_id = await workshop.start()
    await pause_meanwhile(workshop, hold)
    assert states(await workshop.load(saga_id)) == [CallState.SUCCEEDED, CallState.SCHEDULED]
    assert workshop.participant.requests("charge") == []
    await resume(workshop)
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED


async def test_what_waits_for_a_slot_of_the_service_is_not_sent(workshop: Workshop) -> None:
    await put_shop(workshop.house, workshop.participant, max_in_flight=1)
    await workshop.define("reserve")
    hold = workshop.participant.hold("reserve")
    first, second = await workshop.start(), await workshop.start()
    await pause_meanwhile(workshop, hold)
    assert len(workshop.participant.asked) == 1
    await resume(workshop)
    await workshop.finish(first, second)
    assert len(workshop.participant.asked) == 2


async def test_others_go_on_and_what_is_to_be_undone_waits(workshop: Workshop) -> None:
    """The saga runs out of time, is undone at the service that is there, and waits for the other one."""
    await workshop.house.services.put(Service("depot", url=workshop.participant.url))
    await workshop.define("reserve", {"name": "book", "service": "depot"}, "ship", timeout="600ms")
    hold = workshop.participant.hold("book")
    saga_id = await workshop.start()
    await pause_meanwhile(workshop, hold)
    await workshop.sweep_until_moved(saga_id)
    while (saga := await workshop.load(saga_id)).state.state is SagaState.EXECUTING:
        await workshop.sweep_until_moved(saga_id)
    await workshop.drain()
    saga = await workshop.load(saga_id)
    assert saga.state.error is not None
    assert saga.state.error.code == "saga-timeout"
    assert states(saga, COMPENSATION)[:2] == [CallState.SCHEDULED, CallState.COMPENSATED]
    await resume(workshop)
    assert (await workshop.finish(saga_id)).state.state is SagaState.FAILED
    assert workshop.participant.undone(saga_id) == ["book", "reserve"]


async def test_a_process_that_was_idle_does_not_call_by_what_it_knew(workshop: Workshop, other: Workshop) -> None:
    await workshop.define("reserve")
    assert (await other.house.services.all())["shop"].pause is None
    await pause(workshop)
    other.house.services._read_at -= STALE_SECONDS
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    await other.perform(ring)
    assert workshop.participant.asked == []
    await resume(workshop)
    assert (await other.house.services.all())["shop"].pause is not None
    other.house.services._read_at -= 1  # when what was resumed is woken, every process asks again
    await other.perform(ring)
    assert len(workshop.participant.asked) == 1
    await workshop.finish(saga_id)


async def test_a_sweep_that_has_looked_before_it_was_resumed_puts_nothing_off(workshop: Workshop) -> None:
    await workshop.define("reserve")
    await pause(workshop)
    saga_id = await workshop.start()
    await workshop.drain()
    await workshop.until_due(saga_id)
    await workshop.sweep()
    looked_at = await workshop.load(saga_id)
    await resume(workshop)
    woken = (await workshop.load(saga_id)).wake_at
    await workshop.house.sagas.postpone([(looked_at, looked_at.read_at + 3600 * SECOND)])
    assert (await workshop.load(saga_id)).wake_at == woken
    assert woken is not None
    assert looked_at.wake_at is not None
    assert woken < looked_at.wake_at
    await workshop.finish(saga_id)


async def test_a_step_beside_it_is_sent_again_all_the_same(workshop: Workshop) -> None:
    await workshop.house.services.put(Service("depot", url=workshop.participant.url))
    await workshop.define({"name": "reserve", "depends_on": []}, {"name": "book", "service": "depot", "depends_on": []})
    await pause(workshop)
    saga_id = await workshop.start()
    await workshop.rung()  # and lost
    await workshop.sweep_until_moved(saga_id)
    await workshop.drain()
    assert states(await workshop.load(saga_id)) == [CallState.SCHEDULED, CallState.SUCCEEDED]
    await resume(workshop)
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED


async def test_its_deadline_is_looked_at_while_it_waits(workshop: Workshop) -> None:
    await workshop.define("reserve", timeout="700ms")
    await pause(workshop)
    saga_id = await workshop.start()
    await workshop.drain()
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.FAILED
    assert saga.state.error is not None
    assert saga.state.error.code == "saga-timeout"
    assert workshop.participant.asked == []


async def test_a_pause_outlives_what_changes_the_service(workshop: Workshop) -> None:
    await pause(workshop)
    changed = Service("shop", url=workshop.participant.url, max_in_flight=7)
    found, new = await workshop.house.services.put(changed)
    assert (found.pause is not None, new) == (True, False)
    known = (await workshop.house.services.all())["shop"]
    assert (known.max_in_flight, known.pause) == (7, found.pause)


@pytest.mark.parametrize("name", ["shop", "nowhere"])
async def test_what_is_not_so_is_refused(workshop: Workshop, name: str) -> None:
    expected = {"shop": (409, "not-paused"), "nowhere": (404, "service-not-found")}[name]
    with pytest.raises(Problem) as refused:
        await resume(workshop, name)
    assert (refused.value.status, refused.value.code) == expected
    if name == "shop":
        await pause(workshop)
    with pytest.raises(Problem) as refused:
        await pause(workshop, name)
    assert refused.value.code == ("already-paused" if name == "shop" else "service-not-found")


async def test_what_waits_for_it_is_not_stuck(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge")
    workshop.participant.on("charge", REFUSED)
    await workshop.start()
    await workshop.rung()  # and lost: whoever looks for what is stuck finds it
    await workshop.rows("UPDATE saga SET updated_at = updated_at - interval '1 h'")
    workshop.broken_on_purpose = {str(row["id"]) for row in await workshop.rows("SELECT id FROM saga")}
    assert (await read_gauges(workshop.house.database, 60)).stuck == 1
    await pause(workshop)
    found = await read_gauges(workshop.house.database, 60)
    assert (found.stuck, found.paused) == (0, {"shop": 1})
    await resume(workshop)
    found = await read_gauges(workshop.house.database, 60)
    assert (found.stuck, found.paused) == (1, {"shop": 0})


async def test_the_trail_says_who_has_paused_and_resumed(workshop: Workshop) -> None:
    await pause(workshop)
    await resume(workshop)
    lines = await workshop.rows("SELECT actor, action, subject, reason FROM audit ORDER BY at")
    assert [tuple(line) for line in lines] == [
        ("key:test", "pause-service", "service/shop", "it is being moved"),
        ("key:test", "resume-service", "service/shop", "it has moved"),
    ]
