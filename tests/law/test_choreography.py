"""The law of choreographed sagas by example."""

import pytest

from app.saga import machine
from app.saga.actions import allowed, refuse_restart
from app.saga.messages import Claim, Happened
from app.saga.rules import compensation_state
from app.saga.state import ACTION, COMPENSATION, SECOND

from .build import ID, T0, TIMING, Tale, chain
from .listening import Story, a_listener, dance, in_a_row

ABC = in_a_row("a", "b", "c")
FORK = dance(a_listener("a"), a_listener("b", after="a"), a_listener("c", after="a"))


def failed_at_c() -> Story:
    saga = Story(ABC)
    saga.hears("a.done", "b.done", "c.failed")
    return saga


# --- forward ----------------------------------------------------------------------------------------------------


def test_every_event_begins_whoever_listens_to_it():
    saga = Story(ABC)
    assert [str(r.type) for r in saga.history] == ["SagaCreated", "SagaStarted", "StepStarted"]
    assert saga.shape == "EXECUTING a=RUNNING b=PENDING c=PENDING"
    assert saga.wakes_in == 10
    saga.hears("a.done")
    assert saga.said == ["StepSucceeded", "StepStarted"]
    saga.hears("b.done", "c.done")
    assert saga.shape == "COMPLETED a=SUCCEEDED b=SUCCEEDED c=SUCCEEDED"
    assert saga.wake_at is None
    assert all(compensation_state(ABC, saga.state, p) == "NOT_NEEDED" for p in range(3))


def test_a_second_starting_event_changes_nothing():
    saga = Story(ABC)
    saga.hears("begin")
    assert saga.ignored
    saga.hears("a.done", "begin")
    assert saga.ignored


@pytest.mark.parametrize("event", ["a.done", "a.failed", "b.done", "b.undone"])
def test_a_doubled_event_changes_nothing(event):
    saga = Story(FORK)
    saga.hears(event)
    assert saga.last.records
    saga.hears(event)
    assert saga.ignored


def test_an_event_that_the_definition_does_not_name_changes_nothing():
    saga = Story(ABC, "a.done")
    saga.hears("z.done")
    assert saga.ignored


def test_steps_side_by_side_listen_to_one_event():
    saga = Story(FORK)
    saga.hears("a.done")
    assert saga.shape == "EXECUTING a=SUCCEEDED b=RUNNING c=RUNNING"
    saga.hears("c.done", "b.done")
    assert saga.shape.startswith("COMPLETED")
    assert saga.state.completed == (0, 2, 1)


def test_events_out_of_order_are_taken_as_they_come():
    saga = Story(ABC, "c.done")
    assert saga.shape == "EXECUTING a=RUNNING b=RUNNING c=SUCCEEDED", "what came before it must have happened"
    saga.hears("b.done", "begin", "a.done")
    assert saga.shape == "COMPLETED a=SUCCEEDED b=SUCCEEDED c=SUCCEEDED"


def test_an_event_shows_that_those_beside_it_have_begun_too():
    saga = Story(dance(a_listener("a"), a_listener("b"), a_listener("c", after="a")), "c.failed")
    assert saga.shape == "COMPENSATING a=RUNNING b=RUNNING c=REFUSED"


def test_what_is_heard_before_its_trigger_is_awaited_no_longer_than_others():
    saga = Story(ABC, "b.done")
    saga.wake(10)
    assert saga.state.error.step == "a", "it has been silent"


# --- a failure event --------------------------------------------------------------------------------------------


def test_after_a_failure_event_the_services_are_given_time_to_undo_by_themselves():
    saga = failed_at_c()
    assert saga.said == ["StepRefused", "CompensationBegan", "CompensationScheduled", "CompensationScheduled"]
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED b=SUCCEEDED/SCHEDULED c=REFUSED"
    assert (saga.state.error.code, saga.state.error.step) == ("event-failed", "c")
    assert (saga.asked, saga.wakes_in) == ([], 10)
    saga.hears("a.undone", "b.undone")
    assert saga.shape == "FAILED a=SUCCEEDED/COMPENSATED b=SUCCEEDED/COMPENSATED c=REFUSED"


def test_who_has_not_undone_by_then_is_asked():
    saga = failed_at_c()
    saga.hears("b.undone")
    saga.wake(10)
    assert saga.asked == ["a"]
    assert saga.last.requests[0].attempt == 1
    assert saga.last.requests[0].reason == "c.failed came"
    saga.hears("a.undone")
    assert saga.state.state == "FAILED"


def test_several_are_asked_later_steps_first():
    saga = failed_at_c()
    saga.wake(10)
    assert saga.asked == ["b", "a"]


def test_what_a_failure_event_says_is_the_reason():
    saga = Story(ABC)
    saga.tell(Happened(saga.now, "a.failed", "sold out"))
    assert saga.state.error.message == "sold out"
    assert saga.shape == "FAILED a=REFUSED b=CANCELLED c=CANCELLED"


def test_a_branch_that_still_runs_is_awaited():
    saga = Story(FORK)
    saga.hears("a.done", "b.failed")
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED b=REFUSED c=RUNNING"
    saga.hears("a.undone")
    assert saga.state.state == "COMPENSATING"
    saga.wait(3).hears("c.done")
    assert saga.said == ["StepSucceeded", "CompensationScheduled"]
    assert saga.wakes_in == 10
    saga.wake(10)
    assert saga.asked == ["c"]


def test_a_branch_that_stays_silent_is_unknown_and_undone():
    saga = Story(FORK)
    saga.hears("a.done", "b.failed")
    saga.wake(10)
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED b=REFUSED c=CANCELLED?/SCHEDULED"
    assert saga.asked == [], "a is not asked before what depends on it"
    saga.wake_when_due()
    assert saga.now == T0 + 20 * SECOND
    assert saga.asked == ["c", "a"]


def test_no_step_is_asked_before_a_longer_wait_below_it_is_over():
    saga = Story(dance(a_listener("a"), a_listener("b", after="a", compensation_timeout_seconds=60), a_listener("c")))
    saga.hears("a.done", "b.done", "c.failed")
    saga.wake_when_due()
    assert saga.now == T0 + 60 * SECOND
    assert saga.asked == ["b", "a"]


def test_a_success_after_the_turn_is_undone_too():
    saga = failed_at_c()
    saga.hears("c.done")
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED b=SUCCEEDED/SCHEDULED c=SUCCEEDED/SCHEDULED"


def test_a_failure_is_no_answer_to_a_success():
    saga = Story(ABC)
    saga.hears("a.done", "a.failed")
    assert saga.ignored


def test_a_step_without_anything_to_undo_is_neither_awaited_nor_asked():
    saga = Story(dance(a_listener("a", undone=False), a_listener("b", after="a")))
    saga.hears("a.done", "b.failed")
    assert saga.shape == "FAILED a=SUCCEEDED b=REFUSED"


def test_the_second_failure_does_not_become_the_error():
    saga = Story(FORK)
    saga.hears("a.done", "b.failed", "c.failed")
    assert saga.state.error.step == "b"


# --- an undoing that nobody has heard the reason of -------------------------------------------------------------


def test_an_undoing_turns_the_saga_until_the_failure_is_heard():
    saga = Story(ABC)
    saga.hears("a.done", "b.done", "b.undone")
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED b=SUCCEEDED/COMPENSATED c=RUNNING"
    assert (saga.state.error.code, saga.state.error.step) == ("event-failed", "b")
    saga.hears("c.failed")
    assert (saga.state.error.code, saga.state.error.step) == ("event-failed", "c")
    saga.hears("a.undone")
    assert saga.state.state == "FAILED"


def test_a_step_that_was_undone_before_it_was_seen_is_not_awaited():
    saga = Story(ABC)
    saga.hears("a.undone")
    assert saga.shape == "FAILED a=CANCELLED?/COMPENSATED b=CANCELLED c=CANCELLED"


def test_a_saga_that_an_undoing_opens_awaits_who_must_have_begun():
    saga = Story(FORK, "c.undone")
    assert saga.shape == "COMPENSATING a=RUNNING b=CANCELLED c=CANCELLED/COMPENSATED"
    saga.hears("a.done")
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED b=RUNNING c=CANCELLED/COMPENSATED"


# --- silence, the timeout, a cancel -----------------------------------------------------------------------------


def test_a_silent_step_turns_the_saga_and_all_are_asked_at_once():
    saga = Story(ABC)
    saga.wait(5).hears("a.done")
    saga.wake(10)
    began = ["StepAttemptLost", "StepExhausted", "CompensationBegan"]
    assert saga.said == [*began, "CompensationStarted", "CompensationStarted"]
    assert saga.asked == ["b", "a"]
    assert (saga.state.error.code, saga.state.error.step) == ("exhausted", "b")
    assert saga.last.requests[0].reason == "no event of b came within 10 s"
    assert saga.letters == [("b", "noted")]
    assert saga.shape == "COMPENSATING a=SUCCEEDED/RUNNING b=EXHAUSTED?/RUNNING c=CANCELLED"
    saga.hears("b.undone", "a.undone")
    assert saga.state.state == "FAILED"


def test_a_success_that_comes_after_the_silence_is_kept_and_undone():
    saga = Story(ABC)
    saga.wake(10)
    saga.hears("a.done")
    assert saga.shape == "COMPENSATING a=SUCCEEDED/RUNNING b=CANCELLED?/RUNNING c=CANCELLED"
    assert saga.asked == ["b"], "its trigger has been published, so it has begun"


def test_a_failure_that_comes_after_the_silence_settles_the_step():
    saga = Story(ABC)
    saga.wake(10)
    saga.hears("a.failed")
    assert saga.shape == "FAILED a=REFUSED?/COMPENSATED b=CANCELLED c=CANCELLED"
    assert saga.state.error.code == "exhausted", "what turned it is not rewritten"


def test_a_silent_step_that_cannot_be_called_off_may_have_triggered_those_after_it():
    saga = Story(dance(a_listener("a", undone=False), a_listener("b", after="a"), a_listener("c", after="b")))
    saga.wake(10)
    assert saga.asked == ["b"]
    assert saga.shape == "COMPENSATING a=EXHAUSTED? b=CANCELLED?/RUNNING c=CANCELLED"
    saga.hears("a.done", "b.undone")
    assert saga.shape == "FAILED a=SUCCEEDED b=CANCELLED?/COMPENSATED c=CANCELLED"


def test_the_sagas_timeout_asks_those_that_run_as_well():
    saga = Story(in_a_row("a", "b", timeout_seconds=8))
    saga.hears("a.done")
    saga.wake(8)
    assert saga.state.error.code == "saga-timeout"
    assert saga.asked == ["b", "a"]
    assert saga.shape == "COMPENSATING a=SUCCEEDED/RUNNING b=CANCELLED?/RUNNING"


def test_a_cancel_asks_all_that_have_begun():
    saga = Story(ABC)
    saga.hears("a.done")
    saga.cancel()
    assert saga.asked == ["b", "a"]
    assert saga.state.error.code == "cancelled"
    saga.cancel()
    assert saga.ignored


def test_a_request_is_repeated_with_a_growing_number_and_then_needs_a_person():
    saga = Story(ABC)
    saga.cancel()
    assert saga.asked == ["a"]
    saga.wake(10)
    assert saga.said == ["CompensationAttemptFailed"]
    saga.wake_when_due()
    assert (saga.asked, saga.last.requests[0].attempt) == (["a"], 2)
    saga.wake(10)
    assert saga.shape == "COMPENSATION_FAILED a=CANCELLED?/FAILED? b=CANCELLED c=CANCELLED"
    assert saga.state.attention.steps == ("a",)
    assert saga.letters == [("-a", "open")]


def test_requests_are_repeated_as_far_apart_as_the_policy_says():
    saga = Story(dance(a_listener("a", undo_attempts=4)))
    saga.cancel()
    asked_at = [saga.now]
    while saga.wake_at is not None:
        saga.wake_when_due()
        asked_at += [saga.now for _ in saga.asked]
    assert asked_at == [T0 + seconds * SECOND for seconds in (0, 11, 23, 37)], "10 s of silence, then 1, 2, 4 s"


# --- at rest, for a person --------------------------------------------------------------------------------------


def given_up(definition=ABC, *events: str) -> Story:
    saga = Story(definition)
    saga.hears(*events)
    saga.cancel()
    while not saga.state.at_rest:
        saga.wake_when_due()
    return saga


def test_attention_names_every_step_whose_effect_may_still_stand():
    saga = given_up(ABC, "a.done")
    assert saga.state.attention.steps == ("a", "b")


def test_a_late_undoing_settles_its_step_and_the_last_one_ends_the_saga():
    saga = given_up(ABC, "a.done")
    saga.hears("a.undone")
    assert saga.state.attention.steps == ("b",)
    assert saga.state.state == "COMPENSATION_FAILED"
    saga.hears("b.undone")
    assert saga.shape == "FAILED a=SUCCEEDED/COMPENSATED b=CANCELLED?/COMPENSATED c=CANCELLED"
    assert [status for _, status in saga.letters] == ["resolved", "resolved"]


def test_a_late_failure_settles_its_step_too():
    saga = given_up(ABC)
    saga.hears("a.failed")
    assert saga.state.state == "FAILED"


def test_a_late_success_of_a_step_that_nobody_knew_of_is_undone_too():
    saga = given_up(ABC)
    saga.hears("b.done")
    assert (
        saga.said
        == ["CompensationBegan", "StepStarted", "StepSucceeded", "StepStarted", "StepAttemptLost"]
        + ["CompensationStarted"] * 2
    )
    assert saga.asked == ["c", "b"]
    assert saga.state.attention.steps == ("a",), "what stood before stands still"
    saga.hears("b.undone", "c.undone")
    assert saga.shape == "COMPENSATION_FAILED a=CANCELLED?/FAILED? b=SUCCEEDED/COMPENSATED c=CANCELLED?/COMPENSATED"
    assert saga.state.attention.steps == ("a",)
    saga.hears("a.undone")
    assert saga.state.state == "FAILED"


def test_what_could_not_be_undone_late_is_named_with_the_others():
    saga = given_up(ABC)
    saga.hears("a.done")
    assert saga.asked == ["b"], "its trigger has been published"
    while not saga.state.at_rest:
        saga.wake_when_due()
    assert saga.shape == "COMPENSATION_FAILED a=SUCCEEDED/FAILED? b=CANCELLED?/FAILED? c=CANCELLED"
    assert saga.state.attention.steps == ("a", "b")


def test_a_late_success_after_which_nobody_listens_leaves_the_saga_at_rest():
    saga = given_up(in_a_row("a"))
    saga.hears("a.done")
    assert saga.shape == "COMPENSATION_FAILED a=SUCCEEDED/FAILED?"
    assert saga.state.attention.steps == ("a",)
    saga.hears("a.done", "begin")
    assert saga.ignored


def test_an_operators_retry_asks_again_at_once():
    saga = given_up(ABC, "a.done")
    saga.retry()
    assert saga.said == ["OperatorActed", "CompensationStarted", "CompensationStarted"]
    assert saga.asked == ["b", "a"]
    assert {request.attempt for request in saga.last.requests} == {3}
    assert [status for _, status in saga.letters] == ["retried", "retried"]


def test_an_operators_retry_after_a_failure_event_does_not_wait_for_the_services_again():
    saga = failed_at_c()
    while not saga.state.at_rest:
        saga.wake_when_due()
    saga.retry()
    assert saga.asked == ["b", "a"]


def test_a_retry_does_not_wait_for_the_next_request_to_be_due():
    saga = Story(ABC)
    saga.cancel()
    saga.wake(10)
    saga.retry("a")
    assert saga.asked == ["a"]


def test_a_resolved_step_needs_no_event():
    saga = given_up(ABC)
    saga.resolve("a")
    assert saga.state.state == "FAILED"


def test_an_abandoned_saga_hears_nothing():
    saga = Story(ABC)
    saga.abandon()
    saga.hears("a.done", "a.undone", "begin")
    assert saga.ignored


@pytest.mark.parametrize("event", ["begin", "a.done", "a.failed", "a.undone", "b.failed"])
def test_a_final_state_never_changes(event):
    done, undone = Story(ABC), Story(ABC)
    done.hears("a.done", "b.done", "c.done", event)
    assert done.ignored
    undone.hears("a.failed", event)
    assert undone.ignored


# --- what people may do meanwhile -------------------------------------------------------------------------------


def test_a_pause_holds_requests_and_answers_are_kept():
    saga = Story(ABC)
    saga.hears("a.done")
    saga.pause()
    saga.wake(10)
    assert saga.shape == "COMPENSATING paused a=SUCCEEDED b=EXHAUSTED? c=CANCELLED"
    assert saga.asked == []
    saga.hears("b.undone")
    saga.resume()
    assert saga.asked == ["a"]


def test_a_pause_while_the_services_undo_lets_no_request_through():
    saga = failed_at_c()
    saga.pause()
    assert saga.wake_at is None
    saga.wake(60)
    assert saga.ignored
    saga.resume()
    assert saga.asked == ["b", "a"]


def test_a_deadline_may_be_extended():
    saga = Story(in_a_row("a", timeout_seconds=5))
    saga.extend(60)
    saga.wake(5)
    assert saga.ignored


def test_steps_are_neither_skipped_nor_given_another_input():
    saga = Story(ABC)
    saga.skip("a")
    assert saga.refused_with == "step-not-skippable"
    saga.retry("a", new_input=True)
    assert saga.refused_with == "nothing-to-retry"
    saga.retry()
    assert saga.refused_with == "nothing-to-retry"
    assert allowed(ABC, saga.state, saga.now) == ["compensate", "abandon", "pause", "extend"]
    saga.abandon()
    assert allowed(ABC, saga.state, saga.now) == []
    assert "begin" in refuse_restart(ABC, saga.state).detail


def test_workers_have_nothing_to_do_for_a_choreographed_saga():
    saga = failed_at_c()
    for operation in (ACTION, COMPENSATION):
        saga.tell(Claim(saga.now, 0, operation))
        assert saga.ignored


def test_an_orchestrated_saga_hears_no_events():
    saga = Tale(chain("a"))
    saga.tell(Happened(saga.now, "do"))
    assert saga.ignored


def test_a_choreographed_saga_is_begun_by_an_event_alone():
    with pytest.raises(ValueError, match="begun by its event"):
        machine.create(ABC, T0, saga_id=ID, timing=TIMING)
