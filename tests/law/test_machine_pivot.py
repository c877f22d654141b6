"""The law by example: the point of no return."""

import pytest

from app.saga.state import SECOND, CallState, SagaState

from .build import ID, Tale, a_pivot, a_step, beside, chain, policy

# --- the point of no return -------------------------------------------------------------------------------------


def with_pivot(**more) -> Tale:
    """a, then the pivot p, then z without compensation."""
    saga = Tale(chain("a", a_pivot("p", **more), a_step("z", compensation=None)))
    saga.does("a")
    return saga


def test_a_cancel_before_the_pivot_has_begun_compensates():
    saga = with_pivot()
    saga.cancel()
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED p=CANCELLED z=CANCELLED"


def test_a_cancel_while_the_pivot_runs_is_kept_and_its_success_leads_forward_with_attention():
    saga = with_pivot()
    saga.begins("p")
    saga.cancel()
    assert saga.refused_with is None
    assert saga.said == ["SagaCancelled"]
    assert saga.shape == "EXECUTING a=SUCCEEDED p=RUNNING z=PENDING"
    saga.cancel()
    assert saga.ignored
    saga.succeeds("p")
    assert saga.said == ["StepSucceeded", "AttentionRaised", "StepScheduled"]
    assert saga.shape == "EXECUTING a=SUCCEEDED p=SUCCEEDED z=SCHEDULED"
    assert saga.attention == "past-pivot"
    saga.cancel()
    assert saga.refused_with == "past-pivot"
    saga.does("z")
    assert saga.shape == "COMPLETED a=SUCCEEDED p=SUCCEEDED z=SUCCEEDED"
    assert saga.attention is None


def test_a_kept_cancel_turns_the_saga_when_the_pivot_is_certainly_refused():
    saga = with_pivot()
    saga.begins("p")
    saga.cancel()
    saga.refuses("p")
    assert saga.said[:2] == ["StepRefused", "CompensationBegan"]
    assert saga.state.error.code == "cancelled"
    assert saga.sent == ["-a"]


def test_a_kept_cancel_turns_the_saga_when_the_pivot_was_certainly_not_sent():
    saga = with_pivot(attempts=9)
    saga.begins("p")
    saga.cancel()
    saga.is_not_sent("p")
    assert saga.sent == ["-a"]


@pytest.mark.parametrize("how", ["running", "waiting", "retrying", "scheduled again"])
def test_the_timeout_is_kept_while_the_pivot_is_open(how):
    saga = with_pivot(timeout_seconds=2000, callback_timeout_seconds=2000, retry=policy(9, delay=2000, ceiling=2000))
    saga.begins("p")
    if how == "waiting":
        saga.accepts("p")
    elif how != "running":
        saga.fails("p")
    if how == "scheduled again":
        saga.retry()
    saga.wake(900)
    assert "SagaTimedOut" in saga.said
    assert saga.state.state is SagaState.EXECUTING
    assert saga.state.turn.code == "saga-timeout"
    if how in {"running", "waiting"}:
        saga.succeeds("p")
    else:
        saga.tries("p", "succeeds")
    assert saga.attention == "past-pivot"
    assert saga.sent == ["z"]


def test_nothing_but_the_pivot_is_sent_while_a_turn_is_kept():
    saga = Tale(beside(a_pivot("p"), a_step("b", compensation=None), a_step("c", compensation=None)))
    saga.begins("p")
    saga.tries("b", "fails")
    saga.cancel()
    saga.wait(60)
    for word in ("b", "c"):
        saga.claim(word)
        assert saga.ignored
        saga.is_false(word)
        assert saga.ignored
    saga.fails("p")
    assert saga.shape == "EXECUTING p=RETRYING? b=RETRYING? c=SCHEDULED"
    saga.wake_when_due()
    assert saga.sent == ["p"]
    saga.does("p")
    saga.wake_when_due()
    assert sorted(saga.sent) == ["b", "c"], "the turn is void, so they go on"


def test_a_failure_beside_an_open_pivot_is_kept():
    saga = Tale(beside("a", a_pivot("p", after=["a"]), a_step("b", after=["a"], compensation=None)))
    saga.does("a")
    saga.begins("p", "b")
    saga.refuses("b")
    assert saga.shape == "EXECUTING a=SUCCEEDED p=RUNNING b=REFUSED"
    saga.wait(1).refuses("p")
    assert saga.sent == ["-a"]
    assert saga.state.error.step == "b", "b came first"


def test_an_exhausted_step_beside_the_pivot_is_retried_once_the_pivot_has_succeeded():
    saga = Tale(beside(a_pivot("p"), a_step("b", compensation=None, attempts=1)))
    saga.begins("p")
    saga.tries("b", "fails")
    assert saga.shape == "EXECUTING p=RUNNING b=EXHAUSTED?"
    assert saga.letters == [("b", "noted")]
    saga.succeeds("p")
    assert saga.sent == ["b"]
    saga.does("b")
    assert saga.state.state is SagaState.COMPLETED


def test_a_step_refused_beside_the_pivot_holds_once_the_pivot_has_succeeded():
    saga = Tale(beside(a_pivot("p"), a_step("b", compensation=None)))
    saga.begins("p", "b")
    saga.refuses("b")
    assert not saga.paused
    saga.succeeds("p")
    assert saga.shape == "EXECUTING paused p=SUCCEEDED b=REFUSED"
    assert saga.attention == "held"
    assert saga.letters == [("b", "open")]


def test_an_exhausted_step_beside_the_pivot_that_is_to_hold_does_so_once_the_pivot_has_succeeded():
    saga = Tale(beside(a_pivot("p"), a_step("b", compensation=None, attempts=1, on_exhausted="pause")))
    saga.begins("p", "b")
    saga.cancel()
    saga.fails("b")
    assert not saga.paused
    saga.succeeds("p")
    assert saga.shape == "EXECUTING paused p=SUCCEEDED b=EXHAUSTED?"
    assert ("b", "open") in saga.letters


def test_a_pivot_that_is_exhausted_without_any_unknown_attempt_turns_the_saga():
    saga = with_pivot()
    saga.tries("p", "is_not_sent")
    saga.tries("p", "is_not_sent")
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED p=EXHAUSTED z=CANCELLED"


def test_a_pivot_of_unknown_outcome_is_asked_without_limit_and_a_person_is_told():
    saga = with_pivot()
    for attempt in range(1, 6):
        saga.tries("p", "fails")
        assert saga.call("p").state is CallState.RETRYING
        assert saga.attention == ("pivot-undecided" if attempt >= 2 else None)
    saga.tries("p", "succeeds")
    assert saga.attention == "past-pivot"
    assert saga.sent == ["z"]


def test_a_pivot_whose_attempts_are_lost_is_asked_without_limit_and_the_history_says_lost():
    saga = with_pivot()
    for _ in range(4):
        if saga.call("p").state is CallState.RETRYING:
            saga.wake_when_due()
        saga.begins("p")
        saga.wake_when_due()
        assert saga.said[0] == "StepAttemptLost"
    assert saga.attention == "pivot-undecided"


def test_a_refused_pivot_that_may_have_happened_before_is_asked_again():
    saga = with_pivot()
    saga.tries("p", "fails")
    saga.tries("p", "refuses")
    assert saga.shape == "EXECUTING a=SUCCEEDED p=RETRYING? z=PENDING"
    assert saga.attention == "pivot-undecided"
    saga.tries("p", "succeeds")
    assert saga.sent == ["z"]


def test_a_cancel_does_not_hide_what_failed_first():
    saga = Tale(beside(a_pivot("p", attempts=1), a_step("b", compensation=None)))
    saga.begins("p", "b")
    saga.refuses("b")
    saga.fails("p")
    saga.cancel()
    saga.wake(1000)
    saga.wait(100).skip("p", confirm_not_done=True)
    if saga.refused_with:  # the re-send is under way
        saga.tries("p", "fails")
        saga.skip("p", confirm_not_done=True)
    assert saga.state.state is SagaState.FAILED
    assert (saga.state.error.code, saga.state.error.step) == ("refused", "b")


def test_a_pivot_that_holds_is_asked_again_when_the_saga_is_cancelled():
    saga = with_pivot(on_exhausted="pause", attempts=1)
    saga.tries("p", "fails")
    assert saga.paused
    saga.cancel()
    assert saga.shape == "EXECUTING a=SUCCEEDED p=SCHEDULED? z=PENDING"
    assert saga.sent == ["p"]
    saga.tries("p", "fails")
    assert saga.call("p").state is CallState.RETRYING
    assert saga.attention == "pivot-undecided"


def test_skip_of_a_pivot_counts_as_not_done():
    saga = with_pivot()
    saga.tries("p", "is_not_sent")
    saga.skip("p")
    assert saga.shape == "EXECUTING a=SUCCEEDED p=SKIPPED z=SCHEDULED"
    saga.cancel()
    assert saga.sent == ["-a"], "there was no point of no return"


def test_skip_of_an_unknown_pivot_while_a_turn_is_kept_lets_the_saga_turn():
    saga = with_pivot()
    saga.tries("p", "fails")
    saga.cancel()
    saga.skip("p")
    assert saga.refused_with == "outcome-unknown"
    saga.skip("p", confirm_not_done=True)
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED p=SKIPPED? z=CANCELLED"
    assert saga.state.error.code == "cancelled"


def test_after_the_pivot_the_timeout_only_raises_attention_and_completion_clears_it():
    saga = with_pivot()
    saga.does("p")
    saga.begins("z")
    saga.wait(900).fails("z")
    saga.wake()
    assert "SagaTimedOut" in saga.said
    assert saga.attention == "overdue"
    assert saga.state.state is SagaState.EXECUTING
    saga.wake_when_due()
    saga.does("z")
    assert saga.state.state is SagaState.COMPLETED
    assert saga.attention is None


def test_after_the_pivot_steps_are_retried_without_limit():
    saga = with_pivot()
    saga.does("p")
    for attempt in range(1, 8):
        saga.tries("z", "fails")
        assert saga.call("z").state is CallState.RETRYING
        assert saga.attention == ("retried-without-limit" if attempt >= 2 else None)
    assert not saga.paused
    saga.tries("z", "succeeds")
    assert saga.state.state is SagaState.COMPLETED


def test_the_back_off_of_a_step_that_is_retried_without_limit_stays_below_its_ceiling():
    saga = with_pivot()
    saga.does("p")
    for _ in range(12):
        saga.tries("z", "fails")
    assert saga.call("z").due_at - saga.now == 60 * SECOND


def test_a_fault_called_final_after_the_pivot_is_repeated_all_the_same():
    saga = with_pivot()
    saga.does("p")
    saga.begins("z")
    saga.fails("z", retriable=False)
    assert saga.call("z").state is CallState.RETRYING


def refused_after_pivot() -> Tale:
    saga = with_pivot()
    saga.does("p")
    saga.tries("z", "refuses")
    return saga


def test_a_step_refused_after_the_pivot_holds_the_saga():
    saga = refused_after_pivot()
    assert saga.shape == "EXECUTING paused a=SUCCEEDED p=SUCCEEDED z=REFUSED"
    assert saga.attention == "held"
    assert saga.letters == [("z", "open")]
    saga.wake(10_000)
    assert saga.ignored
    saga.cancel()
    assert saga.refused_with == "past-pivot"


def test_a_hold_after_the_pivot_ends_with_a_retry():
    saga = refused_after_pivot()
    saga.retry()
    saga.does("z")
    assert saga.state.state is SagaState.COMPLETED
    assert saga.letters == [("z", "retried")]


def test_a_hold_after_the_pivot_ends_with_a_new_input():
    saga = refused_after_pivot()
    saga.retry("z", new_input=True)
    saga.begins("z")
    assert saga.record("StepStarted").data["key"] == f"{ID}/z~1"


def test_a_hold_after_the_pivot_ends_with_a_skip():
    saga = refused_after_pivot()
    saga.skip("z")
    assert saga.shape == "COMPLETED a=SUCCEEDED p=SUCCEEDED z=SKIPPED"


def test_an_exhausted_step_after_the_pivot_may_hold():
    saga = Tale(chain(a_pivot("p"), a_step("z", compensation=None, on_exhausted="pause", attempts=1)))
    saga.does("p")
    saga.tries("z", "fails")
    assert saga.shape == "EXECUTING paused p=SUCCEEDED z=EXHAUSTED?"
    saga.retry()
    saga.does("z")
    assert saga.state.state is SagaState.COMPLETED


def test_a_retried_pivot_with_a_new_key_still_decides_a_kept_turn():
    saga = with_pivot()
    saga.tries("p", "fails")
    saga.cancel()
    saga.retry("p", new_input=True, confirm_not_done=True)
    saga.begins("p")
    assert saga.record("StepStarted").data["key"] == f"{ID}/p~1"
    saga.refuses("p")
    assert saga.call("p").state is CallState.RETRYING, "unknown sticks, over a new key too"
    saga.tries("p", "succeeds")
    assert saga.sent == ["z"]


def test_a_pause_holds_the_pivot_too_and_a_cancel_lets_it_go_on():
    saga = with_pivot()
    saga.tries("p", "fails")
    saga.pause()
    saga.wait(5).claim("p")
    assert saga.ignored
    saga.cancel()
    assert not saga.paused
    saga.begins("p")
    saga.succeeds("p")
    assert saga.attention == "past-pivot"


def test_a_pause_after_a_kept_cancel_is_lifted_by_the_next_cancel():
    saga = with_pivot()
    saga.begins("p")
    saga.cancel()
    saga.pause()
    saga.fails("p")
    saga.cancel()
    assert not saga.paused
    saga.tries("p", "succeeds")
    assert saga.attention == "past-pivot"


# --- two pivots: a definition has one today, the machine does not rely on it ------------------------------------


def test_past_one_pivot_the_other_cannot_turn_the_saga_any_more():
    saga = Tale(chain(a_pivot("p"), a_pivot("q"), a_step("z", compensation=None)))
    saga.does("p")
    saga.tries("q", "fails")
    saga.tries("q", "refuses")
    assert saga.paused, "refused after a pivot"
    saga.skip("q", confirm_not_done=True)
    assert saga.sent == ["z"]


def test_a_pivot_that_nobody_has_asked_is_not_begun_while_a_turn_is_kept():
    saga = Tale(beside(a_pivot("p"), a_pivot("q")))
    saga.begins("p")
    saga.cancel()
    saga.claim("q")
    assert saga.ignored
    saga.refuses("p")
    assert saga.shape == "FAILED p=REFUSED q=CANCELLED"
