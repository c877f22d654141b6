"""Who wins when two meet: workers, messages, answers, leases. Each race is driven by a probe."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from app import probes
from app.saga.messages import Extend, Resume
from app.saga.state import ACTION, COMPENSATION, CallState, Operation
from tests.participant import DONE_BUT_503, OK, REFUSED, Behaviour
from tests.waiting import until

from .workshop import QUICK, Cancel, Pause, Ring, SagaState, Stop, Workshop, states

SHORT_LEASES = pytest.mark.parametrize("options", [{"lease_grace": 0.4, "redispatch_after": 0.4}])
PARALLEL = ({"name": "a", "depends_on": []}, {"name": "b", "depends_on": []})


# --- intent before the call -------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [ACTION, COMPENSATION])
async def test_a_claim_is_committed_before_the_participant_is_called(workshop: Workshop, operation: Operation) -> None:
    """With its number and its lease, as another connection reads them while the call is out."""
    await workshop.define("reserve", "charge")
    workshop.participant.on("charge", REFUSED)
    hold = workshop.participant.hold("reserve", operation=operation)
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    *_, claim = await workshop.rows("SELECT * FROM saga_event WHERE saga_id = $1 ORDER BY seq", saga_id)
    kind = "StepStarted" if operation == ACTION else "CompensationStarted"
    assert (claim["type"], claim["step"], claim["attempt"]) == (kind, "reserve", 1)
    assert "lease_until" in orjson.loads(claim["data"])
    call = (await workshop.load(saga_id)).state.call(0, operation)
    assert (call.state, call.attempts) == (CallState.RUNNING, 1)
    hold.release()
    await draining


# --- doubled messages -------------------------------------------------------------------------------------------


async def test_a_message_that_came_twice_is_carried_out_once(workshop: Workshop, other: Workshop) -> None:
    """Both workers have read the same row before either claims."""
    await workshop.define("reserve")
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    with Stop(probes.PERFORM_LOADED, times=2) as stop:
        both = asyncio.gather(workshop.perform(ring), other.perform(ring))
        await until(lambda: stop.passed == 2)
        stop.release()
        await both
    assert len(workshop.participant.asked) == 1
    assert (await workshop.load(saga_id)).state.state is SagaState.COMPLETED


async def test_a_message_that_came_many_times_is_carried_out_once(workshop: Workshop, other: Workshop) -> None:
    await workshop.define("reserve")
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    workers = (workshop, other)
    await asyncio.gather(*(workers[n % 2].perform(ring) for n in range(20)))
    assert len(workshop.participant.asked) == 1
    assert (await workshop.load(saga_id)).state.state is SagaState.COMPLETED


async def test_messages_about_nothing_are_dropped(workshop: Workshop) -> None:
    await workshop.define("reserve")
    saga_id = await workshop.start()
    for ring in (
        Ring(saga_id, "no-such-step", "action"),
        Ring(saga_id, "reserve", "compensation"),
        Ring("01991d6e-0000-7000-8000-000000000001", "reserve", "action"),
    ):
        await workshop.perform(ring)
    assert workshop.participant.asked == []
    assert states(await workshop.load(saga_id)) == [CallState.SCHEDULED]


async def test_a_message_of_a_step_that_is_over_changes_nothing(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge")
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    await workshop.perform(ring)
    before = await workshop.load(saga_id)
    await workshop.perform(ring)
    assert (await workshop.load(saga_id)).state == before.state
    assert len(workshop.participant.asked) == 1


async def test_a_worker_that_remembers_a_saga_as_it_no_longer_is_claims_what_is(
    workshop: Workshop, other: Workshop
) -> None:
    """It wrote the answer of the first step; the second step is then done by another worker, and rung once more."""
    await workshop.define("reserve", "charge")
    saga_id = await workshop.start()
    (first,) = await workshop.rung()
    await workshop.perform(first)
    (second,) = await workshop.rung()
    await other.perform(second)
    assert saga_id in workshop.engine._recent._sagas
    await workshop.perform(second)
    assert len(workshop.participant.requests("charge")) == 1
    assert (await workshop.load(saga_id)).state.state is SagaState.COMPLETED


async def test_a_worker_that_remembers_a_saga_that_was_paused_meanwhile_sends_nothing(
    workshop: Workshop, other: Workshop
) -> None:
    await workshop.define("reserve", "charge")
    saga_id = await workshop.start()
    (first,) = await workshop.rung()
    await workshop.perform(first)
    (second,) = await workshop.rung()
    await other.ask(saga_id, Pause)
    assert saga_id in workshop.engine._recent._sagas
    await workshop.perform(second)
    assert workshop.participant.requests("charge") == []


@SHORT_LEASES
async def test_what_does_not_look_claimable_in_a_worker_s_memory_is_read_before_it_is_dropped(
    workshop: Workshop, other: Workshop
) -> None:
    """It stalled in the middle of the first attempt and remembers it as running; another has found it lost."""
    async with stalled(workshop, probes.PERFORM_CALLED, DONE_BUT_503, retry=QUICK) as worker:
        await other.sweep_until_moved(worker.saga_id)
        await until(other.depth)
        (again,) = await other.rung()
        await workshop.perform(again)
        assert [asked.attempt for asked in workshop.participant.asked] == [1, 2]
        assert (await workshop.load(worker.saga_id)).state.state is SagaState.COMPLETED


# --- two branches -----------------------------------------------------------------------------------------------


async def test_two_branches_that_are_answered_in_the_same_instant_are_both_kept(
    workshop: Workshop, other: Workshop
) -> None:
    """Without any fault: an answer that is dropped because the version moved would lose this saga."""
    await workshop.define(*PARALLEL)
    saga_id = await workshop.start()
    first, second = await workshop.rung()
    with Stop(probes.PERFORM_CALLED, times=2) as stop:
        both = asyncio.gather(workshop.perform(first), other.perform(second))
        await until(lambda: stop.passed == 2)
        stop.release()
        await both
    saga = await workshop.load(saga_id)
    assert saga.state.state is SagaState.COMPLETED
    assert [asked.attempt for asked in workshop.participant.asked] == [1, 1]
    assert set(saga.payloads) >= {"output/a", "output/b"}


async def test_many_branches_at_once(workshop: Workshop) -> None:
    await workshop.define(*({"name": f"s{n}", "depends_on": []} for n in range(20)))
    saga = await workshop.run()
    assert saga.state.state is SagaState.COMPLETED
    assert len(workshop.participant.asked) == 20


async def test_one_branch_fails_while_the_other_runs(workshop: Workshop) -> None:
    """What runs is waited for, and undone when it has succeeded after all."""
    await workshop.define(*PARALLEL)
    hold = workshop.participant.hold("a")
    workshop.participant.on("b", REFUSED)
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()

    async def turned() -> bool:
        return (await workshop.load(saga_id)).state.state is SagaState.COMPENSATING

    await until(turned)
    assert workshop.participant.undone(saga_id) == []
    hold.release()
    await draining
    assert (await workshop.load(saga_id)).state.state is SagaState.FAILED
    assert workshop.participant.undone(saga_id) == ["a"]


async def test_compensations_wait_for_those_of_all_that_depend_on_them(workshop: Workshop) -> None:
    await workshop.define(
        {"name": "a", "depends_on": []},
        {"name": "b", "depends_on": ["a"]},
        {"name": "c", "depends_on": ["a"]},
        {"name": "d", "depends_on": ["b", "c"]},
    )
    workshop.participant.on("d", REFUSED)
    hold = workshop.participant.hold("b", operation="compensation")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    await workshop.participant.until(lambda: ("compensation", "c") in workshop.participant.effects(saga_id))
    assert workshop.participant.requests("a", "compensation") == []
    hold.release()
    await draining
    assert workshop.participant.undone(saga_id) == ["c", "b", "a"]


# --- an answer and the version ----------------------------------------------------------------------------------


async def test_an_answer_whose_version_has_moved_is_judged_again(workshop: Workshop) -> None:
    """While the call was out an operator paused, extended and resumed: none of it is the attempt's business."""
    await workshop.define("reserve", "charge")
    hold = workshop.participant.hold("reserve")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    await workshop.ask(saga_id, Pause)
    await workshop.ask(saga_id, Extend, 7200)
    hold.release()
    await draining
    saga = await workshop.load(saga_id)
    assert states(saga) == [CallState.SUCCEEDED, CallState.PENDING]
    await workshop.ask(saga_id, Resume)
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED
    assert len(workshop.participant.requests("reserve")) == 1


async def test_an_answer_that_loses_its_race_again_and_again_is_written_in_the_end(workshop: Workshop) -> None:
    await workshop.define("reserve")
    saga_id = await workshop.start()
    write, losses = workshop.house.sagas.write, 0

    async def somebody_was_faster(one: Any) -> bool:
        nonlocal losses
        if any(record.type == "StepSucceeded" for record in one.records) and losses < 5:
            losses += 1
            await workshop.ask(saga_id, Extend, 7200 + losses * 100)
        return await write(one)

    workshop.house.sagas.write = somebody_was_faster  # type: ignore[method-assign]
    await workshop.drain()
    workshop.house.sagas.write = write  # type: ignore[method-assign]
    assert losses == 5
    assert (await workshop.load(saga_id)).state.state is SagaState.COMPLETED


async def test_a_claim_that_loses_its_race_is_judged_again(workshop: Workshop, other: Workshop) -> None:
    """Two branches are claimed from one reading; neither is lost, and neither is carried out twice."""
    await workshop.define(*PARALLEL)
    saga_id = await workshop.start()
    first, second = await workshop.rung()
    with Stop(probes.PERFORM_LOADED, times=2) as stop:
        both = asyncio.gather(workshop.perform(first), other.perform(second))
        await until(lambda: stop.passed == 2)
        stop.release()
        await both
    assert [asked.attempt for asked in workshop.participant.asked] == [1, 1]
    assert (await workshop.load(saga_id)).state.state is SagaState.COMPLETED


# --- leases -----------------------------------------------------------------------------------------------------


@dataclass
class Stalled:
    """A saga of one step, and the worker that stalls in the middle of it."""

    saga_id: str
    stop: Stop
    performing: "asyncio.Task[None]"

    async def wakes(self) -> None:
        self.stop.release()
        await self.performing

    async def dies(self) -> None:
        """Without a word: as far as the database knows."""
        self.performing.cancel()
        await asyncio.wait([self.performing])


@contextlib.asynccontextmanager
async def stalled(workshop: Workshop, probe: str, behaviour: Behaviour = OK, **step: Any) -> AsyncIterator[Stalled]:
    await workshop.define({"name": "reserve", "timeout": "100ms", **step})
    workshop.participant.on("reserve", behaviour)
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    with Stop(probe) as stop:
        performing = asyncio.create_task(workshop.perform(ring))
        await stop.reached.wait()
        yield Stalled(saga_id, stop, performing)
    performing.cancel()
    await asyncio.wait([performing])


async def too_late_to_send(workshop: Workshop) -> None:
    late = time.monotonic() + workshop.house.settings.lease_grace / 2
    await until(lambda: time.monotonic() > late)


@SHORT_LEASES
async def test_a_worker_that_comes_too_late_does_not_send(workshop: Workshop) -> None:
    """Later than half the grace after its claim: the participant might still be at work when the lease is over."""
    async with stalled(workshop, probes.PERFORM_CLAIMED) as worker:
        await too_late_to_send(workshop)
        await worker.wakes()
    assert workshop.participant.asked == []
    saga = await workshop.load(worker.saga_id)
    assert states(saga) == [CallState.RETRYING]
    assert saga.state.steps[0].action.unknown is False
    assert (await workshop.finish(worker.saga_id)).state.state is SagaState.COMPLETED
    assert [asked.attempt for asked in workshop.participant.asked] == [2]


@SHORT_LEASES
async def test_what_was_too_late_in_every_attempt_is_not_undone(workshop: Workshop) -> None:
    async with stalled(workshop, probes.PERFORM_CLAIMED, retry={"max_attempts": 1}) as worker:
        await too_late_to_send(workshop)
        await worker.wakes()
    saga = await workshop.finish(worker.saga_id)
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.asked == []


@SHORT_LEASES
@pytest.mark.parametrize("probe", [probes.PERFORM_CLAIMED, probes.PERFORM_CALLED])
async def test_what_a_worker_held_that_is_lost_is_unknown_and_repeated(workshop: Workshop, probe: str) -> None:
    """A claimed attempt whose worker is lost is unknown, sent or not."""
    async with stalled(workshop, probe) as worker:
        await workshop.sweep_until_moved(worker.saga_id)
        saga = await workshop.load(worker.saga_id)
        assert states(saga) == [CallState.RETRYING]
        assert saga.state.steps[0].action.unknown is True
        assert "StepAttemptLost reserve 1" in await workshop.history(worker.saga_id)
        await worker.dies()
    saga = await workshop.finish(worker.saga_id)
    assert saga.state.state is SagaState.COMPLETED
    assert workshop.participant.effects(worker.saga_id) == [("action", "reserve")]


@SHORT_LEASES
async def test_a_late_success_ends_a_step_that_waits_to_be_repeated(workshop: Workshop) -> None:
    """The worker had stalled with the answer in its hand; the key of the repetition would be the same."""
    async with stalled(workshop, probes.PERFORM_CALLED, retry={"initial_delay": "1h"}) as worker:
        await workshop.sweep_until_moved(worker.saga_id)
        assert states(await workshop.load(worker.saga_id)) == [CallState.RETRYING]
        await worker.wakes()
    saga = await workshop.load(worker.saga_id)
    assert saga.state.state is SagaState.COMPLETED
    assert len(workshop.participant.asked) == 1


@SHORT_LEASES
async def test_a_late_failure_of_a_superseded_attempt_changes_nothing(workshop: Workshop) -> None:
    async with stalled(workshop, probes.PERFORM_CALLED, REFUSED, retry={"initial_delay": "1h"}) as worker:
        await workshop.sweep_until_moved(worker.saga_id)
        before = await workshop.load(worker.saga_id)
        await worker.wakes()
    assert (await workshop.load(worker.saga_id)).state == before.state


@SHORT_LEASES
async def test_a_zombie_that_wakes_after_another_has_done_its_work_changes_nothing(
    workshop: Workshop, other: Workshop
) -> None:
    async with stalled(workshop, probes.PERFORM_CALLED, DONE_BUT_503) as zombie:
        await other.sweep_until_moved(zombie.saga_id)
        saga = await other.finish(zombie.saga_id)
        assert saga.state.state is SagaState.COMPLETED
        await zombie.wakes()
    assert (await workshop.load(zombie.saga_id)).state == saga.state
    assert workshop.participant.effects(zombie.saga_id) == [("action", "reserve")]
    assert [asked.attempt for asked in workshop.participant.asked] == [1, 2]


@SHORT_LEASES
async def test_a_zombie_s_success_while_the_next_attempt_runs_is_not_taken_for_that_one_s(workshop: Workshop) -> None:
    async with stalled(workshop, probes.PERFORM_CALLED) as zombie:
        await workshop.sweep_until_moved(zombie.saga_id)
        hold = workshop.participant.hold("reserve")
        draining = asyncio.create_task(workshop.drain())
        await hold.reached.wait()
        await zombie.wakes()
        assert states(await workshop.load(zombie.saga_id)) == [CallState.RUNNING]
        hold.release()
        await draining
    assert (await workshop.finish(zombie.saga_id)).state.state is SagaState.COMPLETED


@SHORT_LEASES
async def test_no_compensation_is_sent_while_a_lost_worker_may_still_send(workshop: Workshop) -> None:
    """Cancelled while the worker is between claim and call: its lease is waited for."""
    async with stalled(workshop, probes.PERFORM_CLAIMED) as worker:
        await workshop.ask(worker.saga_id, Cancel)
        await workshop.drain()
        assert workshop.participant.asked == []
        assert (await workshop.load(worker.saga_id)).state.state is SagaState.COMPENSATING
        await worker.wakes()
    saga = await workshop.finish(worker.saga_id)
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.effects(worker.saga_id) == [("action", "reserve"), ("compensation", "reserve")]


async def test_a_worker_that_is_stopped_says_that_its_attempt_was_cut_off(workshop: Workshop) -> None:
    await workshop.define({"name": "reserve", "timeout": "1s"})
    hold = workshop.participant.hold("reserve")
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    performing = asyncio.create_task(workshop.perform(ring))
    await hold.reached.wait()
    performing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await performing
    call = (await workshop.load(saga_id)).state.steps[0].action
    assert call.state is CallState.RETRYING
    assert call.unknown
    assert call.quiet_until is not None
    hold.release()
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED


async def test_an_answer_is_written_although_the_worker_is_stopped_meanwhile(workshop: Workshop) -> None:
    """The participant has answered: that must not be forgotten for a stop that comes in between."""
    await workshop.define({"name": "reserve", "retry": {"initial_delay": "1h"}}, "charge")
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    with Stop(probes.PERFORM_CALLED) as stop:
        performing = asyncio.create_task(workshop.perform(ring))
        await stop.reached.wait()
        performing.cancel()
        await asyncio.wait([performing])
    assert states(await workshop.load(saga_id))[0] is CallState.SUCCEEDED
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED
