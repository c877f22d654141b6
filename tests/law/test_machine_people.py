"""The law by example: pause, resume, extend, abandon, steps that hold, skip and retry."""

import pytest

from app.saga.state import SECOND, CallState, SagaState

from .build import GRACE, ID, Tale, a_step, beside, chain, compensating, policy

# --- a person stops the saga ------------------------------------------------------------------------------------


def test_abandon_stops_without_undoing():
    saga = Tale(chain("a", "b", "c"))
    saga.does("a")
    saga.begins("b")
    saga.abandon()
    assert saga.said == ["SagaAbandoned"]
    assert saga.shape == "ABANDONED a=SUCCEEDED b=CANCELLED? c=CANCELLED"
    assert saga.state.finished_at == saga.now
    saga.succeeds("b")
    assert saga.ignored
    saga.abandon()
    assert saga.refused_with == "saga-at-rest"


def test_abandon_is_possible_while_compensating_and_from_compensation_failed():
    saga = compensating("a", "b")
    saga.tries("-b", "refuses")
    saga.begins("-a")
    saga.abandon()
    assert saga.state.state is SagaState.ABANDONED
    assert saga.letters == [("-b", "resolved")], "nobody has to act on it any more"
    saga.succeeds("-a")
    assert saga.ignored
    saga = compensating("a")
    saga.tries("-a", "refuses")
    saga.abandon()
    assert saga.state.state is SagaState.ABANDONED


def test_a_paused_saga_sends_nothing_new_and_keeps_the_answers_under_way():
    saga = Tale(beside("a", "b", a_step("c", after=["a"])))
    saga.begins("a")
    saga.pause()
    assert saga.said == ["SagaPaused"]
    assert saga.paused
    saga.claim("b")
    assert saga.ignored
    assert saga.wakes_in == 10 + GRACE, "the attempt under way is watched"
    saga.succeeds("a")
    assert saga.shape == "EXECUTING paused a=SUCCEEDED b=SCHEDULED c=PENDING"
    assert saga.sent == []
    assert saga.wake_at is None
    saga.resume()
    assert sorted(saga.sent) == ["b", "c"]
    assert saga.shape == "EXECUTING a=SUCCEEDED b=SCHEDULED c=SCHEDULED"


def test_a_retry_that_comes_due_in_a_pause_waits_for_its_end():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.pause()
    saga.fails("a")
    assert saga.last.dispatches == ()
    saga.wait(60).claim("a")
    assert saga.ignored
    saga.wake()
    assert saga.ignored
    saga.resume()
    saga.wake_when_due()
    assert saga.sent == ["a"]


def test_a_worker_lost_in_a_pause_is_noticed_in_the_pause():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.pause()
    saga.wake_when_due()
    assert saga.shape == "EXECUTING paused a=RETRYING?"
    assert saga.wake_at is None


def test_a_paused_saga_that_has_nothing_left_to_do_completes():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.pause()
    saga.succeeds("a")
    assert saga.shape == "COMPLETED a=SUCCEEDED"


def test_the_deadline_is_not_looked_at_in_a_pause_but_on_resume():
    saga = Tale(chain("a", "b"))
    saga.begins("a")
    saga.pause()
    saga.succeeds("a")
    saga.wake(1000)
    assert saga.ignored
    saga.resume()
    assert saga.said[:3] == ["SagaResumed", "SagaTimedOut", "CompensationBegan"]
    assert saga.sent == ["-a"], "and b is not sent after the deadline"


def test_a_deadline_that_was_extended_in_a_pause_is_kept_on_resume():
    saga = Tale(chain("a"))
    saga.pause()
    saga.wait(1000).extend(500)
    saga.resume()
    assert saga.shape == "EXECUTING a=SCHEDULED"


def test_pause_twice_and_resume_twice_are_refused():
    saga = Tale(chain("a"))
    saga.resume()
    assert saga.refused_with == "not-paused"
    saga.pause()
    saga.pause()
    assert saga.refused_with == "already-paused"
    saga.resume()
    saga.resume()
    assert saga.refused_with == "not-paused"


def test_a_turn_by_an_answer_keeps_an_operators_pause():
    saga = Tale(chain("a", "b"))
    saga.does("a")
    saga.begins("b")
    saga.pause()
    saga.refuses("b")
    assert saga.shape == "COMPENSATING paused a=SUCCEEDED b=REFUSED"
    assert saga.sent == []
    saga.claim("-a")
    assert saga.ignored
    saga.resume()
    assert saga.sent == ["-a"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_cancel_ends_an_operators_pause(turned):
    saga = Tale(chain("a", "b"))
    saga.does("a")
    saga.begins("b")
    saga.pause()
    if turned:
        saga.refuses("b")
    saga.cancel()
    assert not saga.paused
    assert saga.state.state is SagaState.COMPENSATING
    if not turned:
        saga.refuses("b")
    assert saga.sent == ["-a"]


def test_compensations_can_be_paused():
    saga = compensating("a", "b")
    saga.begins("-b")
    saga.pause()
    saga.succeeds("-b")
    assert saga.sent == []
    assert saga.state.state is SagaState.COMPENSATING
    saga.resume()
    assert saga.sent == ["-a"]


def test_a_window_that_ends_in_a_pause_lets_the_compensation_begin_on_resume():
    saga = Tale(chain(a_step("a", attempts=1)))
    saga.begins("a")
    saga.fails("a", cut=8)
    saga.pause()
    assert saga.wake_at is None
    saga.wait(20).resume()
    assert saga.sent == ["-a"]


def test_a_resume_within_a_window_waits_for_its_end():
    saga = Tale(chain(a_step("a", attempts=1)))
    saga.begins("a")
    saga.fails("a", cut=8)
    saga.pause()
    saga.wait(2).resume()
    assert saga.sent == []
    assert saga.wakes_in == 6


def test_extend_moves_the_deadline_to_later_only():
    saga = Tale(chain("a"))
    saga.wait(800).extend(60)
    assert saga.refused_with == "deadline-not-later"
    saga.extend(100)
    assert saga.refused_with == "deadline-not-later", "just as late is not later"
    saga.extend(600)
    assert saga.said == ["SagaExtended"]
    assert saga.state.deadline_at == saga.now + 600 * SECOND
    saga.wake(200)
    assert saga.state.state is SagaState.EXECUTING
    saga.wait(400)
    saga.wake()
    assert saga.state.state is SagaState.FAILED


def test_extend_is_refused_where_there_is_no_timeout_any_more():
    saga = compensating("a")
    saga.extend(10_000)
    assert saga.last.refusal is not None
    saga.does("-a")
    saga.extend(10_000)
    assert saga.refused_with == "saga-at-rest"


# --- exhausted steps that hold ----------------------------------------------------------------------------------


def holding(*, unknown: bool = True) -> Tale:
    saga = Tale(chain("a", a_step("b", on_exhausted="pause", attempts=1), "c"))
    saga.does("a")
    saga.tries("b", "fails" if unknown else "is_not_sent")
    return saga


def test_an_exhausted_step_may_hold_the_saga():
    saga = holding()
    assert saga.said == ["StepAttemptFailed", "StepExhausted", "AttentionRaised"]
    assert saga.shape == "EXECUTING paused a=SUCCEEDED b=EXHAUSTED? c=PENDING"
    assert saga.attention == "held"
    assert saga.letters == [("b", "open")]
    assert saga.wake_at is None
    saga.wake(10_000)
    assert saga.ignored, "its timeout is not looked at"
    saga.resume()
    assert saga.refused_with == "not-paused", "resume ends an operator's pause only"


def test_retry_ends_a_hold():
    saga = holding()
    saga.retry()
    assert saga.said == ["OperatorActed", "StepScheduled"]
    assert saga.sent == ["b"]
    assert saga.attention is None
    assert saga.letters == [("b", "retried")]
    saga.begins("b")
    assert (saga.call("b").attempts, saga.call("b").spent) == (2, 1)
    saga.succeeds("b")
    assert saga.shape == "EXECUTING a=SUCCEEDED b=SUCCEEDED c=SCHEDULED"


def test_a_retried_step_may_hold_again_and_a_letter_is_written_again():
    saga = holding()
    saga.retry()
    saga.tries("b", "fails")
    assert saga.paused
    assert saga.letters == [("b", "retried"), ("b", "open")]


def test_skip_ends_a_hold():
    saga = holding(unknown=False)
    saga.skip("b")
    assert saga.said == ["OperatorActed", "StepSkipped", "StepScheduled"]
    assert saga.shape == "EXECUTING a=SUCCEEDED b=SKIPPED c=SCHEDULED"
    assert saga.attention is None
    assert saga.letters == [("b", "resolved")]


def test_skip_of_an_unknown_outcome_needs_the_operators_word_and_the_word_clears_nothing():
    saga = holding()
    saga.skip("b")
    assert saga.refused_with == "outcome-unknown"
    saga.skip("b", confirm_not_done=True)
    assert saga.shape == "EXECUTING a=SUCCEEDED b=SKIPPED? c=SCHEDULED"
    saga.tries("c", "refuses")
    assert saga.sent == ["-b"], "unknown sticks, so it is compensated"
    saga.does("-b", "-a")
    assert saga.state.state is SagaState.FAILED


def test_cancel_ends_a_hold():
    saga = holding()
    saga.cancel()
    assert saga.shape == "COMPENSATING a=SUCCEEDED b=EXHAUSTED?/SCHEDULED c=CANCELLED"
    assert saga.attention is None
    assert saga.letters == [("b", "resolved")], "one letter, and it is closed"


def test_a_late_success_ends_a_hold():
    saga = holding()
    saga.succeeds("b", 1)
    assert saga.shape == "EXECUTING a=SUCCEEDED b=SUCCEEDED c=SCHEDULED"
    assert saga.attention is None
    assert saga.letters == [("b", "resolved")]


def test_a_hold_and_a_pause_are_two_things():
    saga = holding()
    saga.pause()
    saga.retry()
    assert saga.paused
    assert saga.sent == []
    saga.resume()
    assert saga.sent == ["b"]


def test_a_hold_does_not_survive_a_turn():
    saga = Tale(beside(a_step("a", on_exhausted="pause", attempts=1), "b"))
    saga.begins("b")
    saga.tries("a", "fails")
    assert saga.paused
    saga.refuses("b")
    assert saga.shape == "COMPENSATING a=EXHAUSTED?/SCHEDULED b=REFUSED"


def test_what_runs_beside_a_hold_is_answered_but_nothing_new_is_sent():
    saga = Tale(beside(a_step("a", on_exhausted="pause", attempts=1), "b", a_step("c", after=["b"])))
    saga.begins("b")
    saga.tries("a", "fails")
    saga.succeeds("b")
    assert saga.shape == "EXECUTING paused a=EXHAUSTED? b=SUCCEEDED c=PENDING"
    saga.skip("a", confirm_not_done=True)
    assert saga.sent == ["c"]


def test_two_steps_that_hold_are_both_named():
    saga = Tale(beside(*(a_step(name, on_exhausted="pause", attempts=1) for name in "ab")))
    saga.begins("a", "b")
    saga.is_not_sent("a")
    saga.is_not_sent("b")
    assert saga.state.attention.steps == ("a", "b")
    saga.skip("a")
    assert saga.paused
    assert saga.state.attention.steps == ("b",)
    saga.skip("b")
    assert saga.shape == "COMPLETED a=SKIPPED b=SKIPPED"


# --- skip and retry, exactly ------------------------------------------------------------------------------------


def test_a_retrying_step_can_be_retried_at_once_with_a_fresh_budget():
    saga = Tale(chain(a_step("a", retry=policy(2, delay=300))))
    saga.tries("a", "fails")
    saga.retry()
    assert saga.sent == ["a"]
    saga.tries("a", "fails")
    assert saga.shape == "EXECUTING a=RETRYING?", "the budget is fresh"


def test_a_retrying_step_can_be_skipped():
    saga = Tale(chain("a", "b"))
    saga.tries("a", "is_not_sent")
    saga.skip("a")
    assert saga.shape == "EXECUTING a=SKIPPED b=SCHEDULED"


@pytest.mark.parametrize("state", ["PENDING", "SCHEDULED", "SUCCEEDED"])
def test_a_step_that_is_not_in_trouble_cannot_be_skipped(state):
    saga = Tale(chain("a", "b"))
    if state == "SUCCEEDED":
        saga.does("a")
    saga.skip("b" if state == "PENDING" else "a")
    assert saga.last.refusal is not None


def test_a_running_step_cannot_be_skipped():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.skip("a", confirm_not_done=True)
    assert saga.refused_with == "attempt-running"


def test_a_step_with_an_open_window_cannot_be_skipped():
    saga = Tale(chain("a", "b"))
    saga.begins("a")
    saga.fails("a", cut=8)
    saga.skip("a", confirm_not_done=True)
    assert saga.refused_with == "attempt-running"
    saga.wait(8).skip("a", confirm_not_done=True)
    assert saga.shape == "EXECUTING a=SKIPPED? b=SCHEDULED"


def test_a_new_input_brings_a_new_key_for_the_action_and_its_compensation():
    saga = holding(unknown=False)
    saga.retry(new_input=True)
    saga.begins("b")
    assert saga.record("StepStarted").data["key"] == f"{ID}/b~1"
    assert saga.record("StepStarted").attempt == 2
    saga.is_not_sent("b")
    saga.retry("b", new_input=True)
    saga.begins("b")
    assert saga.record("StepStarted").data["key"] == f"{ID}/b~2"
    saga.succeeds("b")
    saga.cancel()
    saga.begins("-b")
    assert saga.record("CompensationStarted").data["key"] == f"{ID}/b~2/compensation"
    saga.succeeds("-b")
    saga.begins("-a")
    assert saga.record("CompensationStarted").data["key"] == f"{ID}/a/compensation"


def test_a_plain_retry_keeps_the_key():
    saga = holding()
    saga.retry()
    saga.begins("b")
    assert saga.record("StepStarted").data["key"] == f"{ID}/b"


def test_a_new_input_for_an_unknown_outcome_needs_the_operators_word():
    saga = holding()
    saga.retry(new_input=True)
    assert saga.refused_with == "outcome-unknown"
    saga.retry(new_input=True, confirm_not_done=True)
    assert saga.sent == ["b"]
    assert saga.call("b").unknown, "the word clears nothing"


def test_a_new_input_waits_until_no_attempt_may_still_run():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.retry("a", new_input=True, confirm_not_done=True)
    assert saga.refused_with == "attempt-running"
    saga.fails("a", cut=8)
    saga.retry("a", new_input=True, confirm_not_done=True)
    assert saga.refused_with == "attempt-running"
    saga.wait(8).retry("a", new_input=True, confirm_not_done=True)
    assert saga.sent == ["a"]


def test_a_late_success_under_the_old_key_does_not_speak_for_the_new_one():
    saga = holding()
    saga.retry(new_input=True, confirm_not_done=True)
    saga.succeeds("b", 1)
    assert saga.ignored
    saga.begins("b")
    saga.fails("b")
    assert saga.paused
    saga.succeeds("b", 1)
    assert saga.ignored
    saga.succeeds("b", 2)
    assert saga.call("b").state is CallState.SUCCEEDED


def test_a_new_input_is_for_exactly_one_step():
    saga = Tale(beside("a", "b"))
    saga.tries("a", "is_not_sent")
    saga.tries("b", "is_not_sent")
    saga.retry(new_input=True)
    assert saga.refused_with == "nothing-to-retry"
    saga.retry("b", new_input=True)
    assert saga.sent == ["b"]
    assert saga.call("a").key == 0
