"""The kit plays what a house does, and decides nothing itself."""

import json
from pathlib import Path

import pytest

from app.saga.definition import DefinitionInvalid
from app.testing import NotAtRest, Run
from saga_participant import Call, Refused

from .definitions import ORDER, a_step, define

INPUT = {"total": 12, "confirm": True}


def test_a_refused_card_releases_the_stock(saga_run):
    run = saga_run(ORDER, input=INPUT)
    run.step("reserve").answers({"id": "r1"})
    run.step("charge").refuses(402, "card declined")
    result = run.go()
    assert result.state == "FAILED"
    assert result.error == "refused"
    assert result.calls == ["reserve", "charge", "reserve/compensation"]
    assert result.effects == {}
    result.assert_undone("reserve")
    result.assert_all_or_nothing()


def test_expressions_are_evaluated_as_a_worker_does(saga_run):
    run = saga_run(ORDER, input={"total": 12})
    run.step("reserve").answers({"id": "r1"})
    result = run.go()
    assert result.state == "COMPLETED"
    assert result.sent_to("charge")[0].input == {"amount": 12, "reservation": "r1"}
    assert result.sent_to("charge")[0].outputs == {"reserve": {"id": "r1"}}
    assert result.sent_to("reserve")[0].input == {"total": 12}
    assert result.steps["confirm"] == "SKIPPED"
    result.assert_done()


def test_an_expression_that_fails_refuses_the_step_before_it_is_sent():
    run = Run(define(a_step("pack"), a_step("weigh", input={"grams": "abs(steps.pack.output)"})))
    run.step("pack").answers("heavy")
    result = run.go()
    assert (result.state, result.error) == ("FAILED", "expression-failed")
    assert result.calls == ["pack", "pack/compensation"]


@pytest.mark.parametrize("form", ["text", "json", "document", "file"])
def test_a_definition_comes_in_any_form(form: str, tmp_path: Path):
    document = define(a_step("pack"))
    file = tmp_path / "trip.yaml"
    file.write_text(json.dumps(document))
    forms = {
        "text": "name: trip\nsteps:\n- {name: pack, service: s, action: pack, compensation: none}",
        "json": json.dumps(document),
        "document": document,
        "file": "trip.yaml",
    }
    assert Run(forms[form], beside=tmp_path).go().calls == ["pack"]


def test_what_is_wrong_is_told_before_anything_runs(tmp_path: Path):
    with pytest.raises(DefinitionInvalid, match="compensation: is missing"):
        Run("name: trip\nsteps:\n- {name: pack, service: s, action: pack}")
    with pytest.raises(FileNotFoundError, match=r"There is no definition .*trip\.yaml"):
        Run("trip.yaml", beside=tmp_path)
    with pytest.raises(ValueError, match=r"input: .*sku"):
        Run(define(a_step("pack"), input_schema={"required": ["sku"]}), input={})
    run = Run(ORDER, INPUT)
    with pytest.raises(ValueError, match="order has no step 'chrage'; it has reserve, charge, confirm"):
        run.step("chrage")
    with pytest.raises(ValueError, match="200 refuses nothing"):
        run.step("charge").refuses(200)
    with pytest.raises(ValueError, match="the first is 1"):
        run.step("charge").fails(on=0)
    with pytest.raises(ValueError, match="pack has no compensation"):
        Run(define(a_step("pack", compensation="none"))).compensation("pack")


def test_a_step_fails_on_the_attempts_that_are_named():
    run = Run(define(a_step("pack", attempts=4)))
    run.step("pack").fails(503, on=(1, 3)).cannot_connect(on=2).answers({"box": 1})
    result = run.go()
    assert result.state == "COMPLETED"
    assert result.attempts("pack") == 4
    assert result.outputs == {"pack": {"box": 1}}
    # three calls that answered or were not sent, delays of 1, 2 and 4 s between them, and the last call
    assert result.seconds == pytest.approx(1 + 2 + 4 + 4 * 0.01)


@pytest.mark.parametrize(
    ("misfortune", "undone"),
    [("refuses", False), ("cannot_connect", False), ("fails", True), ("times_out", True), ("loses_the_answer", True)],
)
def test_what_is_not_known_is_undone_and_what_certainly_did_not_happen_is_not(misfortune: str, undone: bool):
    run = Run(define(a_step("pack")))
    getattr(run.step("pack"), misfortune)()
    result = run.go()
    assert result.state == "FAILED"
    assert ("pack/compensation" in result.calls) == undone
    assert result.effects == {}


def test_a_lost_answer_leaves_its_effect_and_the_repetition_does_nothing_twice():
    calls: list[Call] = []

    def pack(call: Call) -> dict[str, int]:
        calls.append(call)
        return {"box": len(calls)}

    run = Run(define(a_step("pack")))
    run.step("pack").answers(pack).loses_the_answer(on=1)
    unheard = run.go(until=0.5)
    assert (unheard.effects, unheard.outputs) == ({"pack": {"box": 1}}, {})
    result = run.go()
    assert result.state == "COMPLETED"
    assert result.effects == result.outputs == {"pack": {"box": 1}}, "the key is known"
    assert len(calls) == 1
    first, second = result.sent_to("pack")
    assert first.idempotency_key == second.idempotency_key


def test_nothing_is_undone_while_an_attempt_that_was_cut_off_may_still_take_effect():
    run = Run(define(a_step("pack", attempts=1)))
    run.step("pack").loses_the_answer()
    result = run.go()
    assert result.calls == ["pack", "pack/compensation"]
    assert result.seconds == pytest.approx(10 + 0.01), "the whole timeout has passed before"
    assert "it may still take effect for 9.99 s" in result.timeline


def test_a_timeout_lasts_its_time_and_a_slow_participant_does_not_act_after_it():
    run = Run(define(a_step("pack", timeout=3, attempts=1)))
    run.step("pack").takes(60)
    result = run.go(until=3.001)
    assert result.steps == {"pack": "EXHAUSTED"}
    assert "did not answer within 3 s" in result.timeline
    assert result.effects == {}


def test_a_lost_worker_is_noticed_when_its_lease_is_over():
    run = Run(define(a_step("pack")))
    run.step("pack").loses_its_worker(on=1, took_effect=True)
    result = run.go()
    assert (result.state, result.attempts("pack")) == ("COMPLETED", 2)
    assert result.seconds > 10 + 5
    assert "LOST" in result.timeline


def test_an_answer_that_comes_later():
    run = Run(define(a_step("pack"), a_step("ship")))
    run.step("pack").answers_later({"box": 1}, after=600)
    run.step("ship").refuses_later("no ships", after=60)
    waiting = run.go(until=300)
    assert (waiting.steps["pack"], waiting.effects) == ("WAITING", {})
    result = run.go()
    assert (result.state, result.compensated) == ("FAILED", ["pack"])
    assert result.outputs == {"pack": {"box": 1}}


def test_work_that_was_accepted_does_nothing_after_its_compensation():
    run = Run(define(a_step("pack")))
    run.step("pack").answers_later({"box": 1}, after=60)
    run.cancel(at=5)
    result = run.go()
    assert (result.state, result.effects) == ("FAILED", {})
    assert result.seconds == pytest.approx(60 + 0.01), "the callback has come"


def test_a_callback_that_never_comes_is_an_unknown_outcome():
    run = Run(define(a_step("pack", callback_timeout="5m", attempts=1)))
    run.step("pack").never_calls_back(took_effect=True)
    result = run.go()
    result.assert_undone("pack")
    assert result.seconds > 300


def test_statuses_of_the_definition_and_words_of_a_problem_count_as_in_production():
    run = Run(define(a_step("pack", statuses={"retry": [423], "success": [404]}), a_step("ship")))
    run.step("pack").refuses(423, on=1).refuses(404, on=2)
    run.step("ship").fails(500, retriable=False)
    result = run.go()
    assert result.attempts("pack") == 2
    assert result.steps["pack"] == "SUCCEEDED"
    assert (result.attempts("ship"), result.error) == (1, "exhausted")


def test_a_function_is_given_the_call_and_may_refuse():
    def pack(call: Call) -> dict[str, int]:
        if call.input["n"] > 10:
            raise Refused("never more than ten")
        return {"boxes": call.input["n"]}

    for n, state in ((3, "COMPLETED"), (11, "FAILED")):
        run = Run(define(a_step("pack")), {"n": n})
        run.step("pack").answers(pack)
        result = run.go()
        assert result.state == state
    assert "never more than ten" in result.timeline


def test_a_function_may_refuse_also_where_nobody_hears_it_and_by_callback():
    def pack(_: Call) -> None:
        raise Refused("never")

    run = Run(define(a_step("pack")))
    run.step("pack").answers(pack).loses_the_answer(on=1)
    assert run.go(until=0.5).effects == {}
    assert run.go().state == "FAILED"
    run = Run(define(a_step("pack")))
    run.step("pack").answers_later(pack)
    assert run.go().steps["pack"] == "REFUSED"


def test_a_mistake_in_a_function_of_the_test_ends_the_test():
    run = Run(define(a_step("pack")))
    run.step("pack").answers(lambda call: call.input["no such thing"])
    with pytest.raises(TypeError):
        run.go()


def test_parallel_branches_run_side_by_side_in_the_same_order_every_time():
    steps = (a_step("a", depends_on=[]), a_step("b", depends_on=[]), a_step("c", depends_on=["a", "b"]))
    for _ in range(2):
        run = Run(define(*steps))
        run.step("a").takes(0.5)
        run.step("b").takes(0.2)
        run.step("c").refuses()
        result = run.go()
        assert result.calls == ["a", "b", "c", "a/compensation", "b/compensation"]
        assert result.completed == ["b", "a"]
        assert result.seconds == pytest.approx(0.5 + 0.01 + 0.01)


# --- people -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [{"after": "a"}, {"during": "b"}, {"at": 0.015}])
def test_a_cancel_undoes_what_was_done(moment: dict):
    run = Run(define(a_step("a"), a_step("b"), a_step("c")))
    run.cancel(**moment)
    result = run.go()
    assert (result.state, result.error) == ("FAILED", "cancelled")
    assert "c" not in result.calls
    result.assert_undone("a")


def test_a_cancel_before_anything_was_sent():
    run = Run(define(a_step("a")))
    run.cancel()
    assert run.go().calls == []


def test_what_the_state_does_not_allow_is_a_conflict_and_changes_nothing():
    run = Run(define(a_step("a", pivot=True, compensation="none"), a_step("b", compensation="none")))
    run.cancel(after="a")
    run.pause(at=100)
    result = run.go()
    assert result.state == "COMPLETED"
    assert [(each.act, each.code) for each in result.conflicts] == [("cancel", "past-pivot"), ("pause", "saga-at-rest")]
    assert "cancel: 409 past-pivot" in result.timeline


def test_a_moment_that_never_comes_is_no_silent_success():
    run = Run(define(a_step("a"), a_step("b")))
    run.step("a").refuses()
    run.cancel(after="b")
    with pytest.raises(NotAtRest, match="the moment of this never came: cancel after b"):
        run.go()


def test_a_saga_that_holds_waits_for_a_person_who_goes_on():
    run = Run(define(a_step("a"), a_step("b", on_exhausted="pause")))
    run.step("b").fails(on=(1, 2)).answers("done")
    result = run.go()
    assert (result.state, result.held, result.paused) == ("EXECUTING", ["b"], True)
    assert "The saga holds" in result.attention
    run.retry("b")
    assert run.go().state == "COMPLETED"


def test_a_new_input_has_a_key_of_its_own():
    run = Run(define(a_step("a", on_exhausted="pause")), {"n": 1})
    run.step("a").cannot_connect(on=(1, 2))
    run.go()
    run.retry("a", new_input={"n": 2})
    result = run.go()
    assert result.state == "COMPLETED"
    assert [call.input["n"] for call in result.sent] == [1, 1, 2]
    assert result.sent[-1].idempotency_key.endswith("/a~1")


def test_a_step_is_skipped_with_an_output():
    run = Run(define(a_step("a", on_exhausted="pause"), a_step("b", input={"of_a": "steps.a.output"})))
    run.step("a").cannot_connect()
    run.go()
    run.skip("a", output=7)
    result = run.go()
    assert result.steps == {"a": "SKIPPED", "b": "SUCCEEDED"}
    assert result.sent_to("b")[0].input == {"of_a": 7}


def test_a_failed_compensation_is_told_and_settled_by_hand():
    run = Run(define(a_step("a"), a_step("b")))
    run.step("b").refuses()
    run.compensation("a").refuses(404)
    result = run.go()
    assert result.state == "COMPENSATION_FAILED"
    assert result.standing == ["a"]
    result.assert_all_or_nothing()
    with pytest.raises(AssertionError, match="a is not undone, its effect stands"):
        result.assert_undone("a")
    run.resolve("a")
    result = run.go()
    assert (result.state, result.standing, result.compensated) == ("FAILED", [], ["a"])


def test_pause_resume_and_extend():
    run = Run(define(a_step("a"), a_step("b"), timeout=60))
    run.pause(after="a")
    assert run.go().calls == ["a"]
    run.extend("1h")
    run.resume(at=120)
    assert run.go().state == "COMPLETED"


def test_the_saga_has_a_timeout():
    run = Run(define(a_step("a"), a_step("b")), timeout="30s")
    run.step("b").answers_later(after=100)
    result = run.go()
    assert (result.state, result.error) == ("FAILED", "saga-timeout")


# --- the end ----------------------------------------------------------------------------------------------------


def test_a_step_that_fails_for_ever_is_told_with_what_it_waits_for():
    run = Run(define(a_step("a", pivot=True, compensation="none"), a_step("b", compensation="none")))
    run.step("b").fails(503, "no ships")
    with pytest.raises(
        NotAtRest, match=r"has not come to rest after 5,020 messages.*b is \w+ after .*no ships"
    ) as told:
        run.go()
    assert "more that failed" in str(told.value)
    assert len(str(told.value).splitlines()) < 30


def test_the_limit_of_concurrent_sagas_does_not_hold_up_the_only_one():
    assert Run(define(a_step("a"), max_concurrent=1)).go().state == "COMPLETED"


# --- real functions ---------------------------------------------------------------------------------------------

HANDLERS = """
from saga_participant import Refused, handler

@handler("pack")
async def pack(call):
    if call.attempt == 1:
        raise OSError("the shelf is stuck")
    return {"box": call.input["n"]}

@handler("unpack")
def unpack(call):
    return None

@handler("ship")
def ship(call):
    raise Refused("no ships")
"""


async def test_real_functions_take_part_also_from_within_an_event_loop(tmp_path: Path, monkeypatch):
    (tmp_path / "hands.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    run = Run(define(a_step("pack"), a_step("ship"), a_step("never")), {"n": 3}).with_handlers("hands.py")
    result = run.go()
    assert (result.state, result.calls) == ("FAILED", ["pack", "pack", "ship", "pack/compensation"])
    assert result.outputs == {"pack": {"box": 3}}
    assert "the shelf is stuck" in result.timeline
    result.assert_undone("pack")


def test_the_script_wins_over_real_functions(tmp_path: Path, monkeypatch):
    (tmp_path / "hands.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    run = Run(define(a_step("pack"), a_step("ship")), {"n": 3}).with_handlers("hands.py", service="service")
    run.step("pack").cannot_connect(on=1)
    run.step("ship").answers()
    result = run.go()
    assert result.state == "COMPLETED"
    assert "the shelf is stuck" not in result.timeline
