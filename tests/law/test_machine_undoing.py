"""The law by example: how a saga is undone, in which order, and what happens when that fails."""

import pytest

from app.saga.state import SECOND, CallState, SagaState

from .build import GRACE, T0, Tale, a_step, beside, chain, compensating, policy

# --- a connection is cut ----------------------------------------------------------------------------------------


def test_a_cut_connection_opens_a_window_and_the_compensation_waits_for_its_end():
    saga = Tale(chain(a_step("a", attempts=1)))
    saga.begins("a")
    saga.wait(2).fails("a", cut=8)
    assert saga.shape == "COMPENSATING a=EXHAUSTED?"
    assert saga.sent == []
    saga.wake(7.999)
    assert saga.ignored
    saga.wake(0.001)
    assert saga.said == ["CompensationScheduled"]
    assert saga.sent == ["-a"]


@pytest.mark.parametrize("answer", ["refuses", "is_not_sent"])
def test_the_window_of_a_cut_attempt_outlives_the_answers_to_later_ones(answer):
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.fails("a", cut=9)
    saga.tries("a", answer)
    assert saga.state.state is SagaState.COMPENSATING
    assert saga.sent == [], "attempt 1 may still take effect"
    saga.claim("-a")
    assert saga.ignored
    saga.wake_when_due()
    assert saga.now == T0 + 9 * SECOND
    assert saga.sent == ["-a"]


def test_the_longest_of_several_windows_counts():
    saga = Tale(chain(a_step("a", attempts=3)))
    saga.begins("a")
    saga.fails("a", cut=60)
    saga.wait(1).begins("a")
    saga.fails("a", cut=5)
    saga.wait(2).begins("a")
    saga.fails("a")
    assert saga.wakes_in == 57


def test_steps_before_a_cut_one_wait_for_its_window_too():
    saga = Tale(chain("a", a_step("b", compensation=None, attempts=1)))
    saga.does("a")
    saga.begins("b")
    saga.fails("b", cut=6)
    assert saga.shape == "COMPENSATING a=SUCCEEDED b=EXHAUSTED?"
    assert saga.sent == [], "b may still take effect, and a must not be undone under it"
    saga.wake(6)
    assert saga.sent == ["-a"]


def test_a_window_does_not_keep_a_step_from_being_repeated_with_its_key():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.fails("a", cut=60)
    saga.wait(1).begins("a")
    saga.succeeds("a")
    assert saga.shape == "COMPLETED a=SUCCEEDED"


def test_an_independent_branch_is_undone_without_waiting_for_the_window_of_another():
    saga = Tale(beside("a", "b", a_step("c", after=["b"], attempts=1)))
    saga.does("a", "b")
    saga.begins("c")
    saga.fails("c", cut=6)
    assert saga.sent == ["-a"]


# --- order ------------------------------------------------------------------------------------------------------


def test_independent_compensations_run_side_by_side():
    saga = Tale(beside("a", "b", a_step("c", after=["a", "b"])))
    saga.does("a", "b")
    saga.tries("c", "refuses")
    assert saga.sent == ["-a", "-b"]
    saga.does("-b")
    assert saga.state.state is SagaState.COMPENSATING
    saga.does("-a")
    assert saga.state.state is SagaState.FAILED


def test_a_step_is_undone_only_after_all_that_depend_on_it():
    saga = Tale(beside("a", a_step("b", after=["a"]), a_step("c", after=["a"]), a_step("d", after=["b", "c"])))
    saga.does("a", "b", "c")
    saga.tries("d", "refuses")
    assert saga.sent == ["-b", "-c"]
    saga.does("-c")
    assert saga.sent == []
    saga.does("-b")
    assert saga.said == ["CompensationSucceeded", "CompensationScheduled"]
    assert saga.sent == ["-a"]


def test_the_order_reaches_through_a_step_without_compensation():
    saga = Tale(chain("a", a_step("b", compensation=None), "c", "d"))
    saga.does("a", "b", "c")
    saga.tries("d", "refuses")
    assert saga.sent == ["-c"], "a must wait for c, though b in between has nothing to undo"
    saga.does("-c")
    assert saga.sent == ["-a"]


def test_no_compensation_starts_while_a_later_step_still_runs():
    saga = Tale(chain("a", a_step("b", compensation=None), "c"))
    saga.does("a", "b")
    saga.begins("c")
    saga.cancel()
    assert saga.shape == "COMPENSATING a=SUCCEEDED b=SUCCEEDED c=RUNNING"
    assert saga.sent == []
    saga.refuses("c")
    assert saga.sent == ["-a"]


# --- compensations fail -----------------------------------------------------------------------------------------


def test_a_compensation_is_repeated_with_its_own_policy():
    saga = Tale(chain(a_step("a", compensation_retry=policy(3, delay=4)), "z"))
    saga.does("a")
    saga.tries("z", "refuses")
    saga.tries("-a", "fails")
    assert saga.said == ["CompensationAttemptFailed"]
    assert saga.wakes_in == 4
    assert saga.sent_later == [("-a", 4)]
    saga.tries("-a", "is_not_sent")
    assert saga.wakes_in == 8
    saga.tries("-a", "succeeds")
    assert saga.shape == "FAILED a=SUCCEEDED/COMPENSATED z=REFUSED"


def test_a_refused_compensation_is_not_repeated_and_needs_a_person():
    saga = compensating("a")
    saga.tries("-a", "refuses")
    assert saga.said == ["CompensationFailed", "SagaCompensationFailed", "AttentionRaised"]
    assert saga.shape == "COMPENSATION_FAILED a=SUCCEEDED/FAILED z=REFUSED"
    assert saga.state.attention.steps == ("a",)
    assert saga.letters == [("-a", "open")]
    assert saga.state.error.step == "z", "what turned the saga is still told"


def test_an_exhausted_compensation_needs_a_person():
    saga = compensating("a")
    saga.tries("-a", "fails")
    saga.tries("-a", "fails")
    assert saga.said[:2] == ["CompensationAttemptFailed", "CompensationFailed"]
    assert saga.state.state is SagaState.COMPENSATION_FAILED
    assert saga.call("-a").error.code == "exhausted"


def test_a_refusal_of_a_compensation_that_is_called_retriable_is_repeated():
    saga = compensating("a")
    saga.begins("-a")
    saga.refuses("-a", retriable=True)
    assert saga.call("-a").state is CallState.RETRYING


def test_with_continue_the_others_are_undone_all_the_same():
    saga = compensating("a", "b")
    saga.tries("-b", "refuses")
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED b=SUCCEEDED/FAILED z=REFUSED"
    assert saga.letters == [("-b", "open")]
    saga.does("-a")
    assert saga.shape == "COMPENSATION_FAILED a=SUCCEEDED/COMPENSATED b=SUCCEEDED/FAILED z=REFUSED"
    assert saga.state.attention.steps == ("b",)


def test_with_halt_no_other_is_begun_and_all_that_may_stand_are_listed():
    saga = compensating("a", "b", on_compensation_failure="halt")
    saga.tries("-b", "refuses")
    assert saga.shape == "COMPENSATION_FAILED a=SUCCEEDED b=SUCCEEDED/FAILED z=REFUSED"
    assert saga.state.attention.steps == ("a", "b")
    assert saga.call("-a").state is CallState.PENDING, "it may yet be done"
    assert saga.call("-z").state is CallState.NOT_NEEDED


def halted() -> Tale:
    """d and c are independent of each other, both depend on a; c's compensation has failed, d's was begun before."""
    saga = Tale(
        beside(
            "a",
            a_step("c", after=["a"]),
            a_step("d", after=["a"]),
            a_step("z", after=["c", "d"]),
            on_compensation_failure="halt",
        )
    )
    saga.does("a", "c", "d")
    saga.tries("z", "refuses")
    saga.tries("-d", "fails")
    saga.tries("-c", "refuses")
    return saga


def test_with_halt_those_already_begun_go_on_to_their_end():
    saga = halted()
    assert saga.shape == "COMPENSATING a=SUCCEEDED c=SUCCEEDED/FAILED d=SUCCEEDED/RETRYING? z=REFUSED"
    saga.tries("-d", "succeeds")
    assert saga.state.state is SagaState.COMPENSATION_FAILED
    assert saga.state.attention.steps == ("a", "c")


def test_with_halt_an_operators_retry_goes_on_where_it_stopped():
    saga = halted()
    saga.tries("-d", "succeeds")
    saga.retry()
    assert saga.said == ["OperatorActed", "CompensationScheduled"]
    assert saga.sent == ["-c"]
    saga.does("-c")
    assert saga.sent == ["-a"]
    saga.does("-a")
    assert saga.state.state is SagaState.FAILED


def test_with_halt_resolving_the_failed_one_begins_the_rest():
    saga = halted()
    saga.tries("-d", "succeeds")
    saga.resolve("c")
    assert saga.sent == ["-a"]
    saga.does("-a")
    assert saga.shape == "FAILED a=SUCCEEDED/COMPENSATED c=SUCCEEDED/RESOLVED d=SUCCEEDED/COMPENSATED z=REFUSED"


def test_with_halt_a_retry_of_one_of_two_failed_ones_begins_that_one():
    saga = halted()
    saga.tries("-d", "refuses")
    assert saga.state.attention.steps == ("a", "c", "d")
    saga.retry("c")
    assert saga.sent == ["-c"], "acknowledged, so it is done"
    assert saga.letters == [("-d", "open"), ("-c", "retried")]
    saga.does("-c")
    assert saga.state.state is SagaState.COMPENSATION_FAILED
    assert saga.state.attention.steps == ("a", "d"), "d still stands, and a under it"


def test_an_operators_retry_begins_the_failed_ones_again_in_the_same_order():
    saga = compensating("a", "b")
    saga.tries("-b", "refuses")
    saga.tries("-a", "refuses")
    assert saga.state.attention.steps == ("a", "b")
    saga.retry()
    assert saga.shape == "COMPENSATING a=SUCCEEDED b=SUCCEEDED/SCHEDULED z=REFUSED"
    assert saga.attention is None
    assert sorted(saga.letters) == [("-a", "retried"), ("-b", "retried")]
    saga.begins("-b")
    assert saga.call("-b").attempts == 2, "numbers only grow"
    assert saga.call("-b").spent == 1, "the budget is fresh"
    saga.refuses("-b", attempt=1)
    assert saga.ignored, "a zombie of the first round"
    saga.succeeds("-b")
    assert saga.sent == ["-a"]
    saga.does("-a")
    assert saga.shape == "FAILED a=SUCCEEDED/COMPENSATED b=SUCCEEDED/COMPENSATED z=REFUSED"
    assert saga.state.finished_at == saga.now


def test_a_failed_compensation_can_be_retried_while_others_go_on():
    saga = compensating("a", "b")
    saga.tries("-b", "refuses")
    saga.begins("-a")
    saga.retry()
    assert saga.sent == ["-b"]
    saga.succeeds("-a")
    saga.does("-b")
    assert saga.state.state is SagaState.FAILED


def test_an_operators_retry_hurries_a_compensation_that_waits():
    saga = compensating("a")
    saga.tries("-a", "fails")
    saga.retry()
    assert saga.sent == ["-a"]
    assert saga.call("-a").spent == 0


def test_retry_with_nothing_to_retry_is_refused():
    saga = Tale(chain("a"))
    saga.retry()
    assert saga.refused_with == "nothing-to-retry"
    saga.begins("a")
    saga.retry()
    assert saga.refused_with == "nothing-to-retry"
    done = compensating("a")
    done.does("-a")
    done.retry()
    assert done.refused_with == "saga-at-rest"


def test_resolve_settles_a_failed_compensation_by_hand():
    saga = compensating("a", "b")
    saga.tries("-b", "refuses")
    saga.tries("-a", "refuses")
    saga.resolve("b")
    assert saga.said == ["OperatorActed", "CompensationResolved"]
    assert saga.state.state is SagaState.COMPENSATION_FAILED
    assert saga.state.attention.steps == ("a",)
    saga.resolve("a")
    assert saga.shape == "FAILED a=SUCCEEDED/RESOLVED b=SUCCEEDED/RESOLVED z=REFUSED"
    assert saga.letters == [("-b", "resolved"), ("-a", "resolved")]
    saga.resolve("a")
    assert saga.refused_with == "saga-at-rest"


def test_resolve_while_an_attempt_may_still_run_is_refused():
    saga = Tale(chain(a_step("a", undo_attempts=1), "z"))
    saga.does("a")
    saga.cancel()
    saga.begins("-a")
    saga.fails("-a", cut=8)
    assert saga.state.state is SagaState.COMPENSATION_FAILED
    saga.resolve("a")
    assert saga.refused_with == "attempt-running"
    saga.wait(8).resolve("a")
    assert saga.state.state is SagaState.FAILED


def test_resolve_of_what_has_not_failed_is_refused():
    saga = compensating("a")
    saga.resolve("a")
    assert saga.refused_with == "nothing-to-resolve"


def test_a_compensation_whose_expressions_fail_needs_a_person():
    saga = compensating("a")
    saga.is_inexpressible("-a")
    assert saga.shape == "COMPENSATION_FAILED a=SUCCEEDED/FAILED z=REFUSED"
    assert saga.call("-a").error.code == "expression-failed"


def test_a_late_success_ends_a_compensation_that_waits_to_be_repeated():
    saga = compensating("a")
    saga.begins("-a")
    saga.wake(10 + GRACE)
    saga.succeeds("-a", 1)
    assert saga.state.state is SagaState.FAILED
