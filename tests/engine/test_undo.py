"""A saga that fails: what was done, or may have been done, is undone in the reverse order."""

import asyncio
import base64

import orjson
import pytest

from app import broker, probes
from app.errors import Problem
from app.saga.service import Service
from app.saga.state import COMPENSATION, CallState
from tests.participant import (
    ACCEPTED,
    BUSY,
    CUT,
    DONE_BUT_503,
    DONE_BUT_CUT,
    GONE,
    OK,
    REFUSED,
    Behaviour,
    answers,
    closed_port,
    hangs,
)
from tests.waiting import until

from .workshop import QUICK, STEPS, Abandon, Pause, Resume, Retry, SagaState, Skip, Stop, Workshop, states

EACH = range(4)


def reverse(count: int) -> list[str]:
    return list(STEPS[:count][::-1])


@pytest.mark.parametrize("position", EACH)
async def test_a_refusal_at_any_step_undoes_those_before_it(workshop: Workshop, position: int) -> None:
    await workshop.define()
    workshop.participant.on(STEPS[position], REFUSED)
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga.id) == reverse(position)
    assert workshop.participant.standing(saga.id) == []
    assert len(workshop.participant.requests(STEPS[position])) == 1
    assert saga.state.error is not None
    assert (saga.state.error.code, saga.state.error.step, saga.state.error.status) == ("refused", STEPS[position], 422)
    assert states(saga) == [CallState.SUCCEEDED] * position + [CallState.REFUSED] + [CallState.CANCELLED] * (
        3 - position
    )
    undone = [CallState.COMPENSATED] * position + [CallState.NOT_NEEDED] * (4 - position)
    assert states(saga, COMPENSATION) == undone


@pytest.mark.parametrize("position", EACH)
@pytest.mark.parametrize(
    "trouble", [BUSY, DONE_BUT_503, CUT, DONE_BUT_CUT], ids=["503", "503, done", "cut", "cut, done"]
)
async def test_exhaustion_at_any_step_undoes_it_as_well_for_nobody_knows(
    workshop: Workshop, position: int, trouble: Behaviour
) -> None:
    await workshop.define(*({"name": name, "timeout": "200ms"} for name in STEPS))
    workshop.participant.always(STEPS[position], trouble)
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga.id) == reverse(position + 1)
    assert workshop.participant.standing(saga.id) == []
    assert len(workshop.participant.requests(STEPS[position])) == QUICK["max_attempts"]
    assert saga.state.error is not None
    assert (saga.state.error.code, saga.state.error.step) == ("exhausted", STEPS[position])
    assert states(saga)[position] is CallState.EXHAUSTED


@pytest.mark.parametrize("position", EACH)
async def test_an_attempt_that_times_out_at_any_step_is_repeated_then_undone(workshop: Workshop, position: int) -> None:
    await workshop.define(*({"name": name, "timeout": "100ms"} for name in STEPS))
    workshop.participant.on(STEPS[position], hangs(), hangs())
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    assert len(workshop.participant.requests(STEPS[position])) == 2
    assert workshop.participant.undone(saga.id) == reverse(position + 1)


@pytest.mark.parametrize("position", EACH)
async def test_what_was_certainly_never_sent_is_not_undone(workshop: Workshop, position: int) -> None:
    await workshop.house.services.put(Service("nowhere", url=f"http://127.0.0.1:{closed_port()}"))
    steps = [{"name": name, "service": "nowhere" if n == position else "shop"} for n, name in enumerate(STEPS)]
    await workshop.define(*steps)
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga.id) == reverse(position)
    assert states(saga)[position] is CallState.EXHAUSTED
    assert states(saga, COMPENSATION)[position] is CallState.NOT_NEEDED


async def test_a_refusal_after_an_unknown_attempt_does_not_make_it_certain(workshop: Workshop) -> None:
    """The refusal may be the answer to the repetition of something that was done."""
    await workshop.define("reserve", "charge")
    workshop.participant.on("charge", DONE_BUT_503, REFUSED)
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga.id) == ["charge", "reserve"]
    assert workshop.participant.standing(saga.id) == []


async def test_an_attempt_that_was_not_sent_does_not_make_an_unknown_one_certain(workshop: Workshop) -> None:
    """The first was done and its answer was lost; then the participant could not be reached any more."""
    retry = {"max_attempts": 2, "initial_delay": "300ms", "jitter": 0}
    await workshop.house.services.put(Service("away", url=workshop.participant.url))
    await workshop.define("reserve", {"name": "charge", "service": "away", "retry": retry})
    workshop.participant.on("charge", DONE_BUT_503)
    saga_id = await workshop.start()
    for _ in range(2):
        (ring,) = await workshop.rung()
        await workshop.perform(ring)
    await workshop.house.services.put(Service("away", url=f"http://127.0.0.1:{closed_port()}"))
    await until(workshop.depth)
    (ring,) = await workshop.rung()
    await workshop.perform(ring)
    assert states(await workshop.load(saga_id))[1] is CallState.EXHAUSTED
    await workshop.house.services.put(Service("away", url=workshop.participant.url))
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga_id) == ["charge", "reserve"]
    assert workshop.participant.standing(saga_id) == []


async def test_a_step_is_not_undone_while_a_cut_off_attempt_of_it_may_still_run(workshop: Workshop) -> None:
    """The first attempt's connection breaks while the participant is at work; the second is refused at once."""
    await workshop.define("reserve", {"name": "charge", "timeout": "1s"})
    workshop.participant.on("charge", Behaviour(cut=True, does=False), REFUSED)
    saga_id = await workshop.start()
    await workshop.drain()
    saga = await workshop.load(saga_id)
    assert saga.state.state is SagaState.COMPENSATING
    assert workshop.participant.undone(saga_id) == []
    cut = workshop.participant.requests("charge")[0]
    saga = await workshop.finish(saga_id)
    (undo,) = workshop.participant.requests("charge", "compensation")
    assert undo.at - cut.at >= 0.99
    assert workshop.participant.undone(saga_id) == ["charge", "reserve"]
    assert saga.state.state is SagaState.FAILED


@pytest.mark.parametrize("trouble", [DONE_BUT_503, ACCEPTED], ids=["exhausted", "waiting for its callback"])
async def test_a_compensation_is_told_that_what_its_action_did_is_not_known(
    workshop: Workshop, trouble: Behaviour
) -> None:
    """By an output of null, with the input all the same."""
    await workshop.define("reserve", {"name": "charge", "retry": {"max_attempts": 1}}, timeout="400ms")
    workshop.participant.on("charge", trouble)
    saga = await workshop.run(saga_input={"sku": "a"})
    assert saga.state.state is SagaState.FAILED
    (undo,) = workshop.participant.requests("charge", "compensation")
    assert (undo.body["output"], undo.body["input"]) == (None, {"sku": "a"})
    (known,) = workshop.participant.requests("reserve", "compensation")
    assert known.body["output"] is not None


async def test_a_step_with_nothing_to_undo_is_not_asked_to(workshop: Workshop) -> None:
    await workshop.define("reserve", {"name": "mail", "compensation": "none"}, "charge")
    workshop.participant.on("charge", REFUSED)
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.standing(saga.id) == ["mail"]
    assert workshop.participant.requests("mail", "compensation") == []


@pytest.mark.parametrize("nothing_to_undo", [GONE, OK, answers(204, b"")])
async def test_nothing_to_undo_is_normal(workshop: Workshop, nothing_to_undo: Behaviour) -> None:
    await workshop.define("reserve", "charge")
    workshop.participant.on("charge", REFUSED)
    workshop.participant.on("reserve", nothing_to_undo, operation="compensation")
    assert (await workshop.run()).state.state is SagaState.FAILED


@pytest.mark.parametrize("trouble", [BUSY, CUT, DONE_BUT_503, DONE_BUT_CUT])
async def test_a_compensation_is_repeated_too(workshop: Workshop, trouble: Behaviour) -> None:
    await workshop.define({"name": "reserve", "compensation_timeout": "200ms"}, "charge")
    workshop.participant.on("charge", REFUSED)
    workshop.participant.on("reserve", trouble, operation="compensation")
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    first, second = workshop.participant.requests("reserve", "compensation")
    assert first.key == second.key
    assert workshop.participant.undone(saga.id) == ["reserve"]


async def test_one_that_cannot_be_undone_does_not_keep_the_others_from_it(workshop: Workshop) -> None:
    await workshop.define()
    workshop.participant.on("confirm", REFUSED)
    workshop.participant.always("charge", BUSY, "compensation")
    saga = await workshop.run()
    assert saga.state.state is SagaState.COMPENSATION_FAILED
    assert workshop.participant.undone(saga.id) == ["ship", "reserve"]
    assert workshop.participant.standing(saga.id) == ["charge"]
    assert saga.state.attention is not None
    assert saga.state.attention.steps == ("charge",)
    assert states(saga, COMPENSATION)[1] is CallState.FAILED


async def test_with_halt_no_other_is_begun(workshop: Workshop) -> None:
    await workshop.define(on_compensation_failure="halt")
    workshop.participant.on("confirm", REFUSED)
    workshop.participant.on("charge", REFUSED, operation="compensation")
    saga = await workshop.run()
    assert saga.state.state is SagaState.COMPENSATION_FAILED
    assert workshop.participant.undone(saga.id) == ["ship"]
    assert saga.state.attention is not None
    assert saga.state.attention.steps == ("reserve", "charge")


@pytest.mark.parametrize("policy", ["continue", "halt"])
async def test_an_operator_s_retry_undoes_the_rest(workshop: Workshop, policy: str) -> None:
    await workshop.define(on_compensation_failure=policy)
    workshop.participant.on("confirm", REFUSED)
    workshop.participant.on("charge", REFUSED, operation="compensation")
    saga = await workshop.run()
    await workshop.ask(saga.id, Retry)
    saga = await workshop.finish(saga.id)
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.standing(saga.id) == []
    assert [asked.attempt for asked in workshop.participant.requests("charge", "compensation")] == [1, 2]


# --- dead letters -----------------------------------------------------------------------------------------------


async def letters(workshop: Workshop) -> list[tuple[str, str, str]]:
    found = await workshop.rows("SELECT step, operation, status FROM dead_letter ORDER BY created_at, step")
    return [tuple(row) for row in found]


async def test_what_is_given_up_leaves_a_letter_and_a_message(workshop: Workshop) -> None:
    await workshop.define()
    workshop.participant.always("ship", BUSY)
    workshop.participant.on("charge", REFUSED, operation="compensation")
    saga = await workshop.run()
    assert await letters(workshop) == [("ship", "action", "noted"), ("charge", "compensation", "open")]
    assert await workshop.house.relay.drain() == 2
    assert await workshop.valkey.llen(broker.DEAD_LETTERS) == 2
    first = orjson.loads(await workshop.valkey.lindex(broker.DEAD_LETTERS, -1))
    (notice,), _, _ = orjson.loads(base64.b64decode(first["body"]))
    assert (notice["saga_id"], notice["step"], notice["operation"]) == (saga.id, "ship", "action")
    assert await workshop.rows("SELECT 1 FROM dead_letter WHERE id = $1", notice["id"])
    assert await workshop.rows("SELECT 1 FROM outbox") == []
    await workshop.ask(saga.id, Retry)
    await workshop.finish(saga.id)
    assert await letters(workshop) == [("ship", "action", "noted"), ("charge", "compensation", "retried")]


async def test_a_refused_step_leaves_none_for_its_saga_says_it(workshop: Workshop) -> None:
    await workshop.define()
    workshop.participant.on("ship", REFUSED)
    await workshop.run()
    assert await letters(workshop) == []


async def test_a_step_that_holds_leaves_an_open_one(workshop: Workshop) -> None:
    await workshop.define("reserve", {"name": "charge", "on_exhausted": "pause"})
    workshop.participant.on("charge", BUSY, BUSY)
    saga = await workshop.run()
    assert saga.state.state is SagaState.EXECUTING
    assert saga.state.attention is not None
    assert saga.wake_at is None
    assert await letters(workshop) == [("charge", "action", "open")]
    await workshop.ask(saga.id, Retry)
    saga = await workshop.finish(saga.id)
    assert saga.state.state is SagaState.COMPLETED
    assert await letters(workshop) == [("charge", "action", "retried")]
    assert [asked.attempt for asked in workshop.participant.requests("charge")] == [1, 2, 3]


# --- the saga's timeout, and people -----------------------------------------------------------------------------


async def test_the_saga_s_timeout_while_a_call_is_in_flight(workshop: Workshop) -> None:
    """The call's answer is waited for, and what it did is undone before what came before it."""
    await workshop.define("reserve", "charge", timeout="300ms")
    hold = workshop.participant.hold("charge")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    await workshop.until_due(saga_id)
    await workshop.sweep()
    saga = await workshop.load(saga_id)
    assert saga.state.state is SagaState.COMPENSATING
    assert workshop.participant.undone(saga_id) == []
    hold.release()
    await draining
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.FAILED
    assert saga.state.error is not None
    assert saga.state.error.code == "saga-timeout"
    assert workshop.participant.undone(saga_id) == ["charge", "reserve"]


async def test_the_saga_s_timeout_while_a_step_waits_to_be_repeated(workshop: Workshop) -> None:
    await workshop.define("reserve", {"name": "charge", "retry": {"initial_delay": "1h"}}, timeout="400ms")
    workshop.participant.on("charge", DONE_BUT_503)
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga.id) == ["charge", "reserve"]


async def test_the_saga_s_timeout_while_a_step_waits_for_its_callback(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge", timeout="400ms")
    workshop.participant.on("charge", ACCEPTED)
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga.id) == ["charge", "reserve"]


async def test_the_saga_s_timeout_before_anything_was_sent(workshop: Workshop) -> None:
    await workshop.define(timeout="50ms")
    saga_id = await workshop.start()
    await workshop.rung()  # and lost
    await workshop.until_due(saga_id)
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.asked == []


async def test_a_cancel_undoes_what_was_done(workshop: Workshop) -> None:
    await workshop.define()
    hold = workshop.participant.hold("ship")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    assert (await workshop.cancel(saga_id)).state.state is SagaState.COMPENSATING
    assert (await workshop.cancel(saga_id)).state.state is SagaState.COMPENSATING
    hold.release()
    await draining
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.FAILED
    assert saga.state.error is not None
    assert saga.state.error.code == "cancelled"
    assert workshop.participant.undone(saga_id) == ["ship", "charge", "reserve"]
    with pytest.raises(Problem) as refused:
        await workshop.cancel(saga_id)
    assert (refused.value.status, refused.value.code) == (409, "saga-at-rest")


async def test_a_cancel_between_the_last_answer_and_its_writing_undoes_that_too(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge")
    saga_id = await workshop.start()
    with Stop(probes.PERFORM_CALLED, step="charge") as stop:
        draining = asyncio.create_task(workshop.drain())
        await stop.reached.wait()
        assert workshop.participant.standing(saga_id) == ["reserve", "charge"]
        assert (await workshop.cancel(saga_id)).state.state is SagaState.COMPENSATING
        stop.release()
        await draining
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.standing(saga_id) == []


async def test_a_cancel_just_after_completion_is_told_the_truth(workshop: Workshop) -> None:
    """It has read the saga before the last answer was written, and loses the race."""
    await workshop.define("reserve")
    saga_id = await workshop.start()
    with Stop(probes.PERFORM_CALLED) as stop:
        draining = asyncio.create_task(workshop.drain())
        await stop.reached.wait()
        write = workshop.house.sagas.write

        async def slow_write(*arguments: object) -> bool:
            workshop.house.sagas.write = write  # type: ignore[method-assign]
            stop.release()
            await draining
            return await write(*arguments)  # type: ignore[arg-type]

        workshop.house.sagas.write = slow_write  # type: ignore[method-assign]
        with pytest.raises(Problem) as refused:
            await workshop.cancel(saga_id)
    assert refused.value.code == "saga-at-rest"
    assert (await workshop.load(saga_id)).state.state is SagaState.COMPLETED
    assert workshop.participant.standing(saga_id) == ["reserve"]


async def test_a_cancel_before_a_message_arrives_makes_the_message_void(workshop: Workshop) -> None:
    await workshop.define("reserve")
    saga_id = await workshop.start()
    rings = await workshop.rung()
    await workshop.cancel(saga_id)
    for ring in rings:
        await workshop.perform(ring)
    assert workshop.participant.asked == []
    assert (await workshop.load(saga_id)).state.state is SagaState.FAILED


async def test_a_pause_between_claim_and_reading_sends_nothing(workshop: Workshop) -> None:
    """The worker has read the saga as it was; its claim is judged by what it is."""
    await workshop.define("reserve")
    saga_id = await workshop.start()
    with Stop(probes.PERFORM_LOADED) as stop:
        draining = asyncio.create_task(workshop.drain())
        await stop.reached.wait()
        await workshop.ask(saga_id, Pause)
        stop.release()
        await draining
    assert workshop.participant.asked == []
    await workshop.ask(saga_id, Resume)
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED


async def test_an_abandoned_saga_sends_nothing_more_and_keeps_what_stands(workshop: Workshop) -> None:
    await workshop.define()
    hold = workshop.participant.hold("charge")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    await workshop.ask(saga_id, Abandon)
    hold.release()
    await draining
    saga = await workshop.load(saga_id)
    assert saga.state.state is SagaState.ABANDONED
    assert workshop.participant.standing(saga_id) == ["reserve", "charge"]
    assert workshop.participant.undone(saga_id) == []
    assert states(saga)[1] is CallState.CANCELLED


async def test_a_skipped_step_is_not_sent_again_and_the_saga_goes_on(workshop: Workshop) -> None:
    await workshop.define("reserve", {"name": "charge", "on_exhausted": "pause"}, "ship")
    workshop.participant.on("charge", BUSY, BUSY)
    saga = await workshop.run()
    with pytest.raises(Problem) as refused:
        await workshop.ask(saga.id, Skip, 1)
    assert refused.value.code == "outcome-unknown"
    await workshop.ask(saga.id, Skip, 1, confirm_not_done=True)
    saga = await workshop.finish(saga.id)
    assert saga.state.state is SagaState.COMPLETED
    assert workshop.participant.standing(saga.id) == ["reserve", "ship"]
