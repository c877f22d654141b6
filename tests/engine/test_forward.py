"""A saga that goes well, and what its steps are given."""

import asyncio
from datetime import datetime, timedelta

import orjson
import pytest

from app.errors import Problem
from app.saga.state import COMPENSATION, CallState
from app.store.sagas import output_of
from tests.participant import BUSY, CUT, DONE_BUT_503, OK, Behaviour, answers

from .workshop import STEPS, SagaState, Workshop, states


async def test_every_step_is_done_once_in_order(workshop: Workshop) -> None:
    await workshop.define()
    saga = await workshop.run(saga_input={"sku": "a"})
    assert saga.state.state is SagaState.COMPLETED
    assert workshop.participant.effects(saga.id) == [("action", step) for step in STEPS]
    assert [asked.attempt for asked in workshop.participant.asked] == [1, 1, 1, 1]
    assert states(saga, COMPENSATION) == [CallState.NOT_NEEDED] * 4
    assert saga.wake_at is None
    assert await workshop.history(saga.id) == [
        "SagaCreated",
        "SagaStarted",
        "StepScheduled reserve",
        "StepStarted reserve 1",
        "StepSucceeded reserve 1",
        "StepScheduled charge",
        "StepStarted charge 1",
        "StepSucceeded charge 1",
        "StepScheduled ship",
        "StepStarted ship 1",
        "StepSucceeded ship 1",
        "StepScheduled confirm",
        "StepStarted confirm 1",
        "StepSucceeded confirm 1",
        "SagaCompleted",
    ]


async def test_a_step_is_told_the_input_and_the_outputs_before_it(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge")
    workshop.participant.on("reserve", Behaviour(body={"id": 7}))
    saga = await workshop.run(saga_input={"sku": "é"})
    reserve, charge = workshop.participant.asked
    assert reserve.body["input"] == charge.body["input"] == {"sku": "é"}
    assert reserve.body["outputs"] == {}
    assert charge.body["outputs"] == {"reserve": {"id": 7}}
    assert charge.key == f"{saga.id}/charge"
    assert orjson.loads(saga.payloads[output_of("reserve")]) == {"id": 7}


async def test_a_step_is_given_what_its_mapping_says(workshop: Workshop) -> None:
    mapping = {
        "sku": "input.sku",
        "id": "steps.reserve.output.id",
        "state": "steps.reserve.state",
        "key": "saga.key",
        "saga": "saga.name",
        "nothing": "input.nowhere.at.all",
        "literal": 7,
    }
    await workshop.define("reserve", {"name": "charge", "input": mapping})
    workshop.participant.on("reserve", Behaviour(body={"id": 7}))
    await workshop.run(saga_input={"sku": "a"}, key="my-key")
    assert workshop.participant.requests("charge")[0].body["input"] == {
        "sku": "a",
        "id": 7,
        "state": "SUCCEEDED",
        "key": "my-key",
        "saga": "order",
        "nothing": None,
        "literal": 7,
    }


async def test_a_compensation_is_given_the_same_input_as_its_action_and_its_output(workshop: Workshop) -> None:
    await workshop.define({"name": "reserve", "input": {"sku": "input.sku"}}, "charge")
    workshop.participant.on("reserve", Behaviour(body={"id": 7}))
    workshop.participant.on("charge", answers(422))
    saga = await workshop.run(saga_input={"sku": "a"})
    (undo,) = workshop.participant.requests("reserve", "compensation")
    assert undo.path == "undo-reserve"
    assert undo.body["input"] == {"sku": "a"}
    assert undo.body["output"] == {"id": 7}
    assert undo.key == f"{saga.id}/reserve/compensation"


async def test_the_deadline_of_a_call_is_its_claim_and_its_own_timeout(workshop: Workshop) -> None:
    await workshop.define({"name": "reserve", "timeout": "7s", "compensation_timeout": "11s"}, "charge")
    workshop.participant.on("charge", answers(422))
    saga = await workshop.run()
    claims = await workshop.rows(
        "SELECT at FROM saga_event WHERE saga_id = $1 AND step = 'reserve' AND type LIKE '%Started' ORDER BY seq",
        saga.id,
    )
    asked = workshop.participant.requests("reserve", saga_id=saga.id)
    asked += workshop.participant.requests("reserve", "compensation", saga_id=saga.id)
    told = [datetime.fromisoformat(each.headers["Saga-Deadline"]) for each in asked]
    for claim, deadline, seconds in zip(claims, told, (7, 11), strict=True):
        late = deadline - claim["at"] - timedelta(seconds=seconds)
        assert abs(late) <= timedelta(milliseconds=1), "it is told in milliseconds"


@pytest.mark.parametrize("express", [True, False, None])
async def test_a_step_whose_condition_is_false_is_skipped_and_not_sent(
    workshop: Workshop, express: bool | None
) -> None:
    await workshop.define("reserve", {"name": "ship", "when": "input.express"}, "confirm")
    saga = await workshop.run(saga_input={"express": express})
    assert saga.state.state is SagaState.COMPLETED
    assert states(saga)[1] is (CallState.SUCCEEDED if express else CallState.SKIPPED)
    assert bool(workshop.participant.requests("ship")) is bool(express)


async def test_a_skipped_step_is_not_compensated(workshop: Workshop) -> None:
    await workshop.define({"name": "reserve", "when": "input.no"}, "charge", "ship")
    workshop.participant.on("ship", answers(422))
    saga = await workshop.run(saga_input={})
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga.id) == ["charge"]


@pytest.mark.parametrize("broken", [{"when": "length(input.n)"}, {"input": {"a": "length(input.n)"}}])
async def test_an_expression_that_fails_refuses_its_step_before_it_is_sent(
    workshop: Workshop, broken: dict[str, object]
) -> None:
    await workshop.define("reserve", {"name": "charge", **broken})
    saga = await workshop.run(saga_input={"n": 1})
    assert saga.state.state is SagaState.FAILED
    assert saga.state.error is not None
    assert (saga.state.error.code, saga.state.error.step) == ("expression-failed", "charge")
    assert workshop.participant.requests("charge") == []
    assert workshop.participant.undone(saga.id) == ["reserve"]


async def test_a_condition_is_asked_once(workshop: Workshop) -> None:
    """What it looked at may change while the step is repeated; the step does not turn into a skipped one by that."""
    await workshop.define("reserve", {"name": "charge", "when": "input.express"})
    workshop.participant.on("charge", BUSY, OK)
    saga = await workshop.run(saga_input={"express": True})
    assert saga.state.state is SagaState.COMPLETED
    assert [asked.attempt for asked in workshop.participant.requests("charge")] == [1, 2]


async def test_a_text_and_nothing_are_outputs_too(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge", {"name": "ship", "input": {"a": "steps.reserve.output"}})
    workshop.participant.on("reserve", answers(200, b"done", Content_Type="text/plain"))
    workshop.participant.on("charge", answers(204, b""))
    await workshop.run()
    ship = workshop.participant.requests("ship")[0]
    assert ship.body["input"] == {"a": "done"}
    assert ship.body["outputs"] == {"reserve": "done", "charge": None}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("trouble", [BUSY, DONE_BUT_503, CUT], ids=["503", "503, done", "cut"])
async def test_one_failure_at_any_step_is_overcome(workshop: Workshop, step: str, trouble: Behaviour) -> None:
    await workshop.define()
    workshop.participant.on(step, trouble)
    saga = await workshop.run()
    assert saga.state.state is SagaState.COMPLETED
    assert workshop.participant.effects(saga.id) == [("action", name) for name in STEPS]
    assert [asked.attempt for asked in workshop.participant.requests(step)] == [1, 2]
    assert len({asked.key for asked in workshop.participant.requests(step)}) == 1


async def test_steps_beside_each_other_run_at_once(workshop: Workshop) -> None:
    await workshop.define(
        {"name": "a", "depends_on": []}, {"name": "b", "depends_on": []}, {"name": "c", "depends_on": ["a", "b"]}
    )
    first, second = workshop.participant.hold("a"), workshop.participant.hold("b")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await first.reached.wait()
    await second.reached.wait()
    assert workshop.participant.requests("c") == []
    first.release()
    second.release()
    await draining
    assert (await workshop.load(saga_id)).state.state is SagaState.COMPLETED
    assert [step for _, step in workshop.participant.effects(saga_id)][-1] == "c"


async def test_after_conflict_with_its_own_first_attempt_a_step_is_repeated(workshop: Workshop) -> None:
    """The first request times out, is still at work when the second comes, and has been done when the third does."""
    await workshop.define({"name": "reserve", "timeout": "100ms", "retry": {**QUICK_3, "initial_delay": "30ms"}})
    hold = workshop.participant.hold("reserve")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await workshop.participant.until(lambda: len(workshop.participant.asked) == 2)
    hold.release()
    await draining
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.COMPLETED
    assert workshop.participant.effects(saga_id) == [("action", "reserve")]
    assert [asked.attempt for asked in workshop.participant.asked] == [1, 2, 3]


QUICK_3 = {"max_attempts": 5, "jitter": 0}


async def test_a_retry_that_is_rung_too_early_waits_for_its_time(workshop: Workshop) -> None:
    """The bell and the row do not have the same clock. A message that is dropped would wait for the sweep."""
    await workshop.define({"name": "reserve", "retry": {"max_attempts": 2, "initial_delay": "150ms", "jitter": 0}})
    workshop.participant.on("reserve", BUSY)
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    await workshop.perform(ring)
    assert states(await workshop.load(saga_id)) == [CallState.RETRYING]
    await workshop.perform(ring)  # about 150 ms early
    first, second = workshop.participant.requests("reserve")
    assert second.at - first.at >= 0.15
    assert (await workshop.load(saga_id)).state.state is SagaState.COMPLETED


async def test_what_is_sent_again_much_too_early_is_dropped(workshop: Workshop) -> None:
    await workshop.define({"name": "reserve", "retry": {"max_attempts": 2, "initial_delay": "1h", "jitter": 0}})
    workshop.participant.on("reserve", BUSY)
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    await workshop.perform(ring)
    await workshop.perform(ring)
    assert len(workshop.participant.asked) == 1
    assert states(await workshop.load(saga_id)) == [CallState.RETRYING]


async def test_retry_after_lengthens_the_delay(workshop: Workshop) -> None:
    await workshop.define("reserve")
    workshop.participant.on("reserve", answers(503, Retry_After="1"))
    saga = await workshop.run()
    first, second = workshop.participant.requests("reserve")
    assert second.at - first.at >= 1
    assert saga.state.state is SagaState.COMPLETED


# --- starting ---------------------------------------------------------------------------------------------------


async def test_twenty_starts_under_one_key_are_one_saga(workshop: Workshop) -> None:
    await workshop.define()
    ids = await asyncio.gather(*(workshop.start(key="one", saga_input={"n": 1}) for _ in range(20)))
    assert len(set(ids)) == 1
    await workshop.finish(ids[0])
    assert len(workshop.participant.asked) == 4
    again = await workshop.start(key="one", saga_input={"n": 1})
    assert again == ids[0]
    with pytest.raises(Problem) as refused:
        await workshop.start(key="one", saga_input={"n": 2})
    assert (refused.value.status, refused.value.code) == (422, "idempotency-key-reused")
    assert len(await workshop.rows("SELECT 1 FROM saga")) == 1


async def test_two_hundred_sagas_at_once(workshop: Workshop) -> None:
    await workshop.define()
    ids = await asyncio.gather(*(workshop.start(saga_input={"n": n}) for n in range(200)))
    await workshop.finish(*ids)
    for saga_id in ids:
        assert workshop.participant.standing(saga_id) == list(STEPS)
    assert len(workshop.participant.asked) == 800
    assert {row["state"] for row in await workshop.rows("SELECT state FROM saga")} == {"COMPLETED"}
