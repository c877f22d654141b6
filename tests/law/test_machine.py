"""The law by example: one saga, its messages, what becomes of it. In the order a person would tell it."""

import pytest

from app.saga import machine
from app.saga.backoff import delay_seconds
from app.saga.messages import Answered, Outcome, OutcomeKind, Woken
from app.saga.state import ACTION, SECOND, CallState, SagaState

from .build import GRACE, ID, RESEND, T0, TIMING, Tale, a_pivot, a_step, beside, chain, define, policy

# --- all goes well ----------------------------------------------------------------------------------------------


def test_a_new_saga_starts_at_once_and_rings_for_its_first_step():
    made = machine.create(chain("a", "b"), T0, saga_id=ID, timing=TIMING, input={"n": 1})
    assert [str(record.type) for record in made.records] == ["SagaCreated", "SagaStarted", "StepScheduled"]
    assert made.records[0].data["input"] == {"n": 1}
    assert [(d.step, d.operation, d.delay_seconds) for d in made.dispatches] == [(0, ACTION, 0)]
    assert made.state.deadline_at == T0 + 900 * SECOND


def test_a_chain_runs_its_steps_one_after_the_other_and_completes():
    saga = Tale(chain("a", "b"))
    assert saga.shape == "EXECUTING a=SCHEDULED b=PENDING"
    saga.begins("a")
    assert saga.said == ["StepStarted"]
    assert saga.shape == "EXECUTING a=RUNNING b=PENDING"
    assert saga.record("StepStarted").data["key"] == f"{ID}/a"
    saga.succeeds("a")
    assert saga.said == ["StepSucceeded", "StepScheduled"]
    assert saga.sent == ["b"]
    saga.begins("b")
    saga.succeeds("b")
    assert saga.said == ["StepSucceeded", "SagaCompleted"]
    assert saga.shape == "COMPLETED a=SUCCEEDED b=SUCCEEDED"
    assert saga.state.completed == (0, 1)
    assert saga.state.finished_at == saga.now
    assert all(record.compensation.state is CallState.NOT_NEEDED for record in saga.state.steps)
    assert saga.wake_at is None


def test_steps_whose_dependencies_are_met_run_side_by_side():
    saga = Tale(beside("a", "b", a_step("c", after=["a", "b"])))
    assert [saga.word(d.step, d.operation) for d in saga.last.dispatches] == ["a", "b"]
    saga.begins("a", "b")
    saga.succeeds("b")
    assert saga.shape == "EXECUTING a=RUNNING b=SUCCEEDED c=PENDING"
    saga.succeeds("a")
    assert saga.sent == ["c"]
    assert saga.state.completed == (1, 0)


def test_the_success_of_one_branch_does_not_drop_that_of_the_other():
    saga = Tale(beside("a", "b"))
    saga.begins("a", "b")
    saga.succeeds("a")
    saga.succeeds("b", attempt=1)
    assert saga.shape == "COMPLETED a=SUCCEEDED b=SUCCEEDED"


def test_a_step_is_claimed_once_however_often_the_bell_rings():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.claim("a")
    assert saga.ignored
    saga.claim("-a")
    assert saga.ignored
    assert saga.call("a").attempts == 1


def test_the_lease_is_the_claim_and_the_timeout_and_the_grace():
    saga = Tale(chain(a_step("a", timeout_seconds=30)))
    saga.wait(3).begins("a")
    assert saga.call("a").due_at == T0 + (3 + 30 + GRACE) * SECOND
    assert saga.wakes_in == 30 + GRACE


# --- a step is refused or exhausted -----------------------------------------------------------------------------


def test_a_refused_first_step_leaves_nothing_to_undo():
    saga = Tale(chain("a", "b"))
    saga.begins("a")
    saga.refuses("a")
    assert saga.said == ["StepRefused", "CompensationBegan", "SagaFailed"]
    assert saga.shape == "FAILED a=REFUSED b=CANCELLED"
    error = saga.state.error
    assert (error.code, error.step, error.operation, error.attempts) == ("refused", "a", "action", 1)
    assert (error.message, error.status) == ("no stock", 422)


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_a_refusal_at_any_step_undoes_those_before_it_in_reverse_order(refused):
    names = ["a", "b", "c", "d"]
    saga = Tale(chain(*names))
    saga.does(*names[:refused])
    saga.tries(names[refused], "refuses")
    for name in reversed(names[:refused]):
        assert saga.sent == [f"-{name}"]
        assert saga.state.state is SagaState.COMPENSATING
        saga.does(f"-{name}")
    done = [f"{name}=SUCCEEDED/COMPENSATED" for name in names[:refused]]
    later = [f"{name}=CANCELLED" for name in names[refused + 1 :]]
    assert saga.shape.split() == ["FAILED", *done, f"{names[refused]}=REFUSED", *later]
    assert saga.state.completed == tuple(range(refused)), "kept when they are compensated"
    assert saga.letters == []


@pytest.mark.parametrize("exhausted", [0, 1, 2])
def test_exhaustion_at_any_step_undoes_that_step_too_for_what_happened_is_unknown(exhausted):
    names = ["a", "b", "c"]
    saga = Tale(chain(*names))
    saga.does(*names[:exhausted])
    name = names[exhausted]
    saga.tries(name, "fails")
    assert saga.call(name).state is CallState.RETRYING
    saga.tries(name, "fails")
    assert saga.said[:3] == ["StepAttemptFailed", "StepExhausted", "CompensationBegan"]
    assert saga.letters == [(name, "noted")]
    saga.does(*[f"-{done}" for done in reversed(names[: exhausted + 1])])
    assert saga.state.state is SagaState.FAILED
    assert saga.call(f"-{name}").state is CallState.COMPENSATED
    error = saga.state.error
    assert (error.code, error.step, error.attempts) == ("exhausted", name, 2)


def test_retries_wait_as_long_as_the_policy_says():
    saga = Tale(chain(a_step("a", attempts=4)))
    for failures in (1, 2, 3):
        saga.tries("a", "fails")
        retry_at = saga.record("StepAttemptFailed").data["retry_at"]
        assert retry_at == saga.call("a").due_at == saga.wake_at
        assert retry_at - saga.now == delay_seconds(policy(4), failures, "any") * SECOND
        assert saga.sent_later == [("a", 2 ** (failures - 1))], "a short wait is rung by the worker itself"
    saga.tries("a", "succeeds")
    assert saga.shape == "COMPLETED a=SUCCEEDED"
    assert saga.call("a").attempts == 4


def test_the_jitter_of_a_retry_stays_within_the_policy_and_differs_between_sagas():
    jittery = chain(a_step("a", retry=policy(9, delay=8, jitter=0.5)))
    delays = set()
    for saga_id in ("one", "two", "three"):
        state = machine.create(jittery, T0, saga_id=saga_id, timing=TIMING).state
        state = machine.step(jittery, state, machine.Claim(T0, 0, ACTION), saga_id=saga_id, timing=TIMING).state
        failed = Answered(T0, 0, ACTION, 1, Outcome(OutcomeKind.UNKNOWN))
        state = machine.step(jittery, state, failed, saga_id=saga_id, timing=TIMING).state
        delays.add(state.steps[0].action.due_at - T0)
    assert len(delays) == 3
    assert all(4 * SECOND <= delay <= 8 * SECOND for delay in delays)


def test_a_long_wait_is_left_to_the_sweep():
    saga = Tale(chain(a_step("a", retry=policy(3, delay=30))))
    saga.tries("a", "fails")
    assert saga.last.dispatches == ()
    assert saga.wakes_in == 30
    saga.wait(29).claim("a")
    assert saga.ignored, "not due yet"
    saga.wake_when_due()
    assert saga.said == ["StepScheduled"]
    assert saga.sent == ["a"]


def test_a_retry_that_is_due_may_be_claimed_without_the_sweep():
    saga = Tale(chain("a"))
    saga.tries("a", "fails")
    saga.wait(1).begins("a")
    assert saga.call("a").attempts == 2


def test_retry_after_lengthens_the_delay_but_never_shortens_it():
    saga = Tale(chain(a_step("a", attempts=5)))
    saga.begins("a")
    saga.fails("a", retry_after_seconds=42)
    assert saga.wakes_in == 42
    saga.wait(42).begins("a")
    saga.fails("a", retry_after_seconds=0.5)
    assert saga.wakes_in == 2


def test_retry_after_counts_up_to_one_hour():
    saga = Tale(chain("a"), timeout_seconds=86400)
    saga.begins("a")
    saga.fails("a", retry_after_seconds=1e12)
    assert saga.wakes_in == 3600


def test_a_step_that_was_not_sent_in_any_attempt_is_not_compensated():
    saga = Tale(chain("a", "b"))
    saga.does("a")
    saga.tries("b", "is_not_sent")
    saga.tries("b", "is_not_sent")
    assert saga.shape == "COMPENSATING a=SUCCEEDED/SCHEDULED b=EXHAUSTED"
    saga.does("-a")
    assert saga.shape == "FAILED a=SUCCEEDED/COMPENSATED b=EXHAUSTED"


def test_an_exhausted_step_is_noted_also_where_nothing_is_left_to_undo():
    saga = Tale(chain(a_step("a", attempts=1)))
    saga.tries("a", "is_not_sent")
    assert saga.shape == "FAILED a=EXHAUSTED"
    assert saga.letters == [("a", "noted")]


def test_unknown_then_refused_is_compensated_for_the_refusal_may_answer_the_repetition():
    saga = Tale(chain("a"))
    saga.tries("a", "fails")
    saga.tries("a", "refuses")
    assert saga.shape == "COMPENSATING a=REFUSED?/SCHEDULED"
    saga.does("-a")
    assert saga.shape == "FAILED a=REFUSED?/COMPENSATED"


def test_unknown_then_not_sent_is_compensated():
    saga = Tale(chain("a"))
    saga.tries("a", "fails")
    saga.tries("a", "is_not_sent")
    assert saga.shape == "COMPENSATING a=EXHAUSTED?/SCHEDULED"


def test_unknown_then_succeeded_is_settled():
    saga = Tale(chain("a"))
    saga.tries("a", "fails")
    assert saga.shape == "EXECUTING a=RETRYING?"
    saga.tries("a", "succeeds")
    assert saga.shape == "COMPLETED a=SUCCEEDED"


def test_a_refusal_that_the_service_calls_retriable_is_repeated_and_stays_a_refusal():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.refuses("a", retriable=True)
    assert saga.shape == "EXECUTING a=RETRYING"
    saga.wait(1).begins("a")
    saga.refuses("a", retriable=True)
    assert saga.shape == "FAILED a=EXHAUSTED"
    assert saga.state.error.code == "exhausted"


def test_a_fault_that_the_service_calls_final_is_not_repeated_and_stays_unknown():
    saga = Tale(chain(a_step("a", attempts=9)))
    saga.begins("a")
    saga.fails("a", retriable=False)
    assert saga.shape == "COMPENSATING a=EXHAUSTED?/SCHEDULED"
    assert saga.call("a").attempts == 1


def test_a_step_without_compensation_is_passed_over():
    saga = Tale(chain("a", a_step("b", compensation=None), "c"))
    saga.does("a", "b")
    saga.tries("c", "refuses")
    assert saga.sent == ["-a"]
    saga.does("-a")
    assert saga.shape == "FAILED a=SUCCEEDED/COMPENSATED b=SUCCEEDED c=REFUSED"


def test_what_the_adapter_notes_of_an_attempt_stands_in_the_history_whatever_it_is_called():
    noted = {"status": 202, "error": "none", "until": 3, "step": "x", "key": "k", "head": "…", "milliseconds": 12}
    for how in ("succeeds", "refuses", "fails", "is_not_sent", "accepts"):
        for word in ("a", "-a"):
            saga = Tale(chain(a_step("a", attempts=1), "b"))
            if word == "-a":
                saga.does("a")
                saga.cancel()
            saga.begins(word)
            kind = {
                "succeeds": OutcomeKind.SUCCEEDED,
                "refuses": OutcomeKind.REFUSED,
                "fails": OutcomeKind.UNKNOWN,
                "is_not_sent": OutcomeKind.NOT_SENT,
                "accepts": OutcomeKind.PENDING,
            }[how]
            saga.answer(word, Outcome(kind, "as it was", 299, record=noted))
            assert saga.last.records[0].data["head"] == "…", (how, word)
            assert saga.last.records[0].data["milliseconds"] == 12


# --- workers are lost, messages too -----------------------------------------------------------------------------


def test_a_lost_worker_leaves_the_outcome_unknown_when_the_lease_is_over():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.wake(10 + GRACE - 0.001)
    assert saga.ignored
    saga.wake(0.001)
    assert saga.said == ["StepAttemptLost"]
    assert saga.shape == "EXECUTING a=RETRYING?"
    saga.wait(1).begins("a")
    saga.wake(10 + GRACE)
    assert saga.said[:3] == ["StepAttemptLost", "StepExhausted", "CompensationBegan"]
    assert saga.sent == ["-a"], "the lease is over, so there is nothing to wait for"


def test_a_lost_compensation_is_repeated():
    saga = Tale(chain("a", "b"))
    saga.does("a")
    saga.tries("b", "refuses")
    saga.begins("-a")
    saga.wake(10 + GRACE)
    assert saga.said == ["StepAttemptLost"]
    assert saga.last.records[0].operation == "compensation"
    assert saga.shape == "COMPENSATING a=SUCCEEDED/RETRYING? b=REFUSED"
    saga.wait(1).does("-a")
    assert saga.state.state is SagaState.FAILED


def test_the_late_failure_of_a_lost_attempt_changes_nothing():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.wake(10 + GRACE)
    for late in ("refuses", "fails", "is_not_sent", "accepts"):
        getattr(saga, late)("a", 1)
        assert saga.ignored
    assert saga.shape == "EXECUTING a=RETRYING?"


def test_the_late_success_of_a_lost_attempt_ends_the_step_that_waits_to_be_repeated():
    saga = Tale(chain("a", "b"))
    saga.begins("a")
    saga.wake(10 + GRACE)
    saga.succeeds("a", 1)
    assert saga.said == ["StepSucceeded", "StepScheduled"]
    assert saga.shape == "EXECUTING a=SUCCEEDED b=SCHEDULED"
    saga.claim("a")
    assert saga.ignored, "nobody repeats it any more"


def test_late_success_of_a_superseded_attempt_changes_nothing():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.wake(10 + GRACE)
    saga.wait(1).begins("a")
    saga.succeeds("a", 1)
    assert saga.ignored, "attempt 2 is under way and will say so itself"
    saga.succeeds("a", 2)
    assert saga.shape == "COMPLETED a=SUCCEEDED"


def test_an_answer_from_an_attempt_that_never_was_changes_nothing():
    saga = Tale(chain("a", "b"))
    saga.begins("a")
    for word, attempt in (("a", 0), ("a", 2), ("b", 0), ("b", 1), ("-a", 0), ("-a", 1)):
        saga.succeeds(word, attempt)
        assert saga.ignored, (word, attempt)


def test_a_doubled_answer_has_no_second_effect():
    saga = Tale(chain("a", "b"))
    saga.does("a")
    for again in ("succeeds", "refuses", "fails", "accepts"):
        getattr(saga, again)("a", 1)
        assert saga.ignored
    assert saga.state.completed == (0,)


def test_a_message_that_nobody_claims_is_sent_again_at_growing_distances_up_to_a_cap():
    saga = Tale(chain("a"))
    distances = []
    for _ in range(6):
        before = saga.now
        saga.wake_when_due()
        distances.append((saga.now - before) / SECOND)
        assert saga.sent == ["a"]
    assert distances == [RESEND, 1.5 * RESEND, 2 * RESEND, 2 * RESEND, 2 * RESEND, 2 * RESEND]
    saga.begins("a")
    saga.fails("a")
    saga.wake_when_due()
    assert saga.wakes_in == RESEND, "another attempt begins with the short distance again"


def test_a_compensation_that_nobody_claims_is_sent_again():
    saga = Tale(chain("a", "b"))
    saga.does("a")
    saga.tries("b", "refuses")
    for distance in (RESEND, 1.5 * RESEND, 2 * RESEND, 2 * RESEND):
        assert saga.wakes_in == distance
        saga.wake_when_due()
        assert saga.sent == ["-a"]


def test_looking_too_early_changes_nothing():
    saga = Tale(chain("a"))
    saga.wake(RESEND - 1)
    assert saga.ignored


def test_a_clock_that_steps_back_does_not_turn_the_saga_back():
    saga = Tale(chain("a"))
    saga.wait(5).begins("a")
    saga.wait(-60).succeeds("a")
    assert saga.state.updated_at == T0 + 5 * SECOND


# --- when the saga is looked at ---------------------------------------------------------------------------------


def test_wake_at_is_the_least_over_all_branches():
    saga = Tale(beside(a_step("a", retry=policy(3, delay=30)), a_step("b", timeout_seconds=60), "c"))
    saga.begins("b")
    assert saga.wakes_in == RESEND, "a and c are not claimed"
    saga.tries("a", "fails")
    saga.begins("c")
    saga.accepts("c")
    assert saga.wakes_in == 30, "the retry of a"
    saga.wake_when_due()
    saga.begins("a")
    assert saga.wakes_in == 10 + GRACE, "the lease of a"
    saga.succeeds("a")
    assert saga.wakes_in == 60 + GRACE - 30, "the lease of b"
    saga.succeeds("b")
    assert saga.wakes_in == 900 - 30, "the deadline comes before the callback of c"


def test_wake_at_knows_the_callback_limit():
    saga = Tale(chain(a_step("a", callback_timeout_seconds=120)))
    saga.begins("a")
    saga.accepts("a")
    assert saga.wakes_in == 120


def test_wake_at_knows_the_quiet_window_of_a_saga_that_compensates():
    saga = Tale(chain(a_step("a", attempts=1)))
    saga.tries("a", "fails", None)
    quick = Tale(chain(a_step("a", attempts=1)))
    quick.begins("a")
    quick.fails("a", cut=7)
    assert saga.sent == ["-a"]
    assert quick.sent == []
    assert quick.wakes_in == 7


def test_wake_at_knows_a_delayed_start():
    saga = Tale(chain("a"), start_at=T0 + 60 * SECOND)
    assert saga.wakes_in == 60


def test_a_saga_at_rest_is_never_looked_at():
    saga = Tale(chain("a"))
    saga.does("a")
    assert saga.wake_at is None
    saga.wake(10_000)
    assert saga.ignored


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


# --- the saga's timeout and cancel ------------------------------------------------------------------------------


def test_the_timeout_turns_a_saga_whose_call_is_running_and_waits_for_the_answer():
    saga = Tale(chain("a", a_step("b", timeout_seconds=1000)))
    saga.does("a")
    saga.begins("b")
    saga.wake(900)
    assert saga.said == ["SagaTimedOut", "CompensationBegan"]
    assert saga.shape == "COMPENSATING a=SUCCEEDED b=RUNNING"
    assert saga.state.error.code == "saga-timeout"
    assert saga.sent == []
    saga.succeeds("b")
    assert saga.sent == ["-b"], "it was done after all, so it is undone"
    saga.does("-b", "-a")
    assert saga.shape == "FAILED a=SUCCEEDED/COMPENSATED b=SUCCEEDED/COMPENSATED"
    assert saga.state.completed == (0, 1)


def test_the_lease_ends_the_wait_for_a_running_call_after_the_turn():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.cancel()
    assert saga.wakes_in == 10 + GRACE
    saga.wake_when_due()
    assert saga.said == ["StepAttemptLost", "CompensationScheduled"]
    assert saga.shape == "COMPENSATING a=CANCELLED?/SCHEDULED"


def test_a_call_that_fails_after_the_turn_is_not_repeated():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.cancel()
    saga.fails("a")
    assert saga.shape == "COMPENSATING a=CANCELLED?/SCHEDULED"


def test_a_call_that_was_not_sent_before_the_turn_needs_no_compensation():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.cancel()
    saga.is_not_sent("a")
    assert saga.shape == "FAILED a=CANCELLED"


def test_a_timeout_may_be_given_to_one_saga():
    saga = Tale(chain("a"), timeout_seconds=3)
    assert saga.wakes_in == 3
    saga.wake_when_due()
    assert saga.shape == "FAILED a=CANCELLED"
    assert saga.state.error.message == "the saga was not done within 3 s"


def test_cancel_of_a_step_that_nobody_has_claimed_undoes_nothing():
    saga = Tale(chain("a"))
    saga.cancel()
    assert saga.said == ["SagaCancelled", "CompensationBegan", "SagaFailed"]
    assert saga.shape == "FAILED a=CANCELLED"
    assert saga.state.error.code == "cancelled"
    assert "because" in saga.state.error.message
    saga.claim("a")
    assert saga.ignored


def test_cancel_of_a_step_that_waits_to_be_repeated_keeps_what_is_unknown():
    saga = Tale(chain("a"))
    saga.tries("a", "fails")
    saga.cancel()
    assert saga.shape == "COMPENSATING a=CANCELLED?/SCHEDULED"


def test_cancel_of_a_repetition_that_is_scheduled_keeps_what_is_unknown():
    saga = Tale(chain("a"))
    saga.tries("a", "fails")
    saga.wake_when_due()
    assert saga.shape == "EXECUTING a=SCHEDULED?"
    saga.cancel()
    assert saga.shape == "COMPENSATING a=CANCELLED?/SCHEDULED"


def test_cancel_while_a_callback_is_awaited_does_not_wait_for_it():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.accepts("a")
    saga.cancel()
    assert saga.shape == "COMPENSATING a=CANCELLED?/SCHEDULED"
    saga.succeeds("a", 1)
    assert saga.ignored, "its token has died"


def test_cancel_twice_is_cancelled_once():
    saga = Tale(chain("a", "b"))
    saga.does("a")
    saga.cancel()
    saga.cancel()
    assert saga.ignored
    assert saga.refused_with is None


@pytest.mark.parametrize("end", ["completed", "failed", "compensation failed", "abandoned"])
def test_cancel_at_rest_is_refused(end):
    saga = Tale(chain("a", "b"))
    if end == "completed":
        saga.does("a", "b")
    elif end == "failed":
        saga.tries("a", "refuses")
    elif end == "abandoned":
        saga.abandon()
    else:
        saga.does("a")
        saga.cancel()
        saga.tries("-a", "refuses")
    saga.cancel()
    assert saga.refused_with == "saga-at-rest"


def test_cancel_before_a_delayed_start_ends_the_saga():
    saga = Tale(chain("a"), start_at=T0 + 60 * SECOND)
    saga.cancel()
    assert saga.shape == "FAILED a=CANCELLED"


# --- answers that come later ------------------------------------------------------------------------------------


def test_a_step_that_said_202_waits_for_its_callback():
    saga = Tale(chain("a", "b"))
    saga.begins("a")
    saga.accepts("a", poll_url="http://service/jobs/1")
    assert saga.said == ["StepWaiting"]
    assert saga.record("StepWaiting").data["poll"] == "http://service/jobs/1"
    assert saga.shape == "EXECUTING a=WAITING b=PENDING"
    saga.accepts("a")
    assert saga.ignored
    saga.wait(100).succeeds("a")
    assert saga.shape == "EXECUTING a=SUCCEEDED b=SCHEDULED"


def test_a_callback_may_come_before_the_202():
    saga = Tale(chain("a", "b"))
    saga.begins("a")
    saga.succeeds("a")
    saga.accepts("a", 1)
    assert saga.ignored
    assert saga.shape == "EXECUTING a=SUCCEEDED b=SCHEDULED"


def test_a_refusal_by_callback_may_come_before_the_202():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.refuses("a")
    saga.accepts("a", 1)
    assert saga.ignored
    assert saga.shape == "FAILED a=REFUSED"


def test_a_callback_that_never_comes_leaves_the_outcome_unknown():
    saga = Tale(chain(a_step("a", callback_timeout_seconds=30)))
    saga.begins("a")
    saga.wait(2).accepts("a")
    saga.wake_when_due()
    assert saga.now == T0 + 32 * SECOND
    assert saga.said == ["StepAttemptLost"]
    assert saga.shape == "EXECUTING a=RETRYING?"


def test_a_callback_after_its_limit_still_ends_the_step_that_waits_to_be_repeated():
    saga = Tale(chain(a_step("a", callback_timeout_seconds=30)))
    saga.begins("a")
    saga.accepts("a")
    saga.wake_when_due()
    saga.succeeds("a", 1)
    assert saga.shape == "COMPLETED a=SUCCEEDED"


def test_the_callback_of_an_earlier_attempt_does_not_speak_for_the_one_that_waits():
    saga = Tale(chain(a_step("a", callback_timeout_seconds=30)))
    saga.begins("a")
    saga.accepts("a")
    saga.wake_when_due()
    saga.tries("a", "accepts")
    saga.refuses("a", 1)
    assert saga.ignored
    saga.refuses("a", 2)
    assert saga.shape == "COMPENSATING a=REFUSED?/SCHEDULED"


def test_a_202_after_the_turn_is_not_waited_for():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.cancel()
    saga.accepts("a")
    assert saga.shape == "COMPENSATING a=CANCELLED?/SCHEDULED"


def test_a_compensation_may_say_202_too():
    saga = Tale(chain(a_step("a", callback_timeout_seconds=30), "b"))
    saga.does("a")
    saga.cancel()
    saga.begins("-a")
    saga.accepts("-a")
    assert saga.shape == "COMPENSATING a=SUCCEEDED/WAITING b=CANCELLED"
    assert saga.wakes_in == 30
    saga.succeeds("-a")
    assert saga.state.state is SagaState.FAILED


# --- compensations fail -----------------------------------------------------------------------------------------


def compensating(*names: str, **more) -> Tale:
    """All of these steps were done; a last one was refused."""
    saga = Tale(chain(*names, "z", **more))
    saga.does(*names)
    saga.tries("z", "refuses")
    return saga


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


# --- start_at ---------------------------------------------------------------------------------------------------


def test_a_delayed_saga_starts_when_it_is_time_and_counts_its_timeout_from_there():
    saga = Tale(chain("a"), start_at=T0 + 60 * SECOND, timeout_seconds=30)
    assert saga.shape == "CREATED a=PENDING"
    assert saga.state.deadline_at == T0 + 90 * SECOND
    saga.wake(59)
    assert saga.ignored
    saga.claim("a")
    assert saga.ignored
    saga.wake(1)
    assert saga.said == ["SagaStarted", "StepScheduled"]
    assert saga.sent == ["a"]


def test_a_start_in_the_past_is_now():
    saga = Tale(chain("a"), start_at=T0 - 60 * SECOND)
    assert saga.shape == "EXECUTING a=SCHEDULED"


def test_a_delayed_saga_that_is_paused_starts_on_resume():
    saga = Tale(chain("a"), start_at=T0 + 60 * SECOND)
    saga.pause()
    assert saga.wake_at is None
    saga.wake(100)
    assert saga.ignored
    saga.resume()
    saga.wake_when_due()
    assert saga.shape == "EXECUTING a=SCHEDULED"


# --- conditions, expressions, participants ----------------------------------------------------------------------


def test_a_step_whose_condition_is_false_is_skipped_and_never_compensated():
    saga = Tale(chain("a", a_step("b", when="input.express"), "c"))
    saga.does("a")
    saga.is_false("b")
    assert saga.said == ["StepSkipped", "StepScheduled"]
    assert saga.shape == "EXECUTING a=SUCCEEDED b=SKIPPED c=SCHEDULED"
    saga.tries("c", "refuses")
    assert saga.sent == ["-a"]
    saga.does("-a")
    assert saga.shape == "FAILED a=SUCCEEDED/COMPENSATED b=SKIPPED c=REFUSED"
    assert saga.state.completed == (0,)


def test_a_saga_whose_last_step_is_skipped_is_completed():
    saga = Tale(chain(a_step("a", when="input.express")))
    saga.is_false("a")
    assert saga.shape == "COMPLETED a=SKIPPED"


def test_a_condition_counts_only_where_an_attempt_could_begin():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.is_false("a")
    assert saga.ignored
    saga.succeeds("a")
    saga.is_false("a")
    assert saga.ignored


def test_an_expression_that_fails_refuses_the_step_before_it_is_sent():
    saga = Tale(chain("a", "b"))
    saga.does("a")
    saga.is_inexpressible("b")
    assert saga.said == ["StepRefused", "CompensationBegan", "CompensationScheduled"]
    assert saga.state.error.code == "expression-failed"
    assert saga.call("b").attempts == 0


def test_a_missing_participant_needs_a_person_and_does_not_turn_the_saga():
    saga = Tale(chain("a"))
    saga.is_missing("a")
    assert saga.said == ["AttentionRaised"]
    assert saga.attention == "participant-missing"
    assert saga.state.attention.steps == ("a",)
    assert saga.shape == "EXECUTING a=SCHEDULED"
    for _ in range(5):
        saga.wake_when_due()
        assert saga.sent == ["a"], "it is asked for again and again"
        saga.is_missing("a")
        assert saga.ignored, "and told once"
    saga.begins("a")
    assert saga.attention is None, "it is back"
    saga.succeeds("a")
    assert saga.state.state is SagaState.COMPLETED


def test_two_missing_participants_are_both_told_and_the_history_does_not_grow():
    saga = Tale(beside("a", "b"))
    saga.is_missing("a")
    saga.is_missing("b")
    assert saga.state.attention.steps == ("a", "b")
    told = len(saga.history)
    for _ in range(3):
        saga.is_missing("a")
        saga.is_missing("b")
    assert len(saga.history) == told
    saga.begins("b")
    assert saga.state.attention.steps == ("a",)


def test_a_missing_participant_of_a_compensation_needs_a_person():
    saga = compensating("a")
    saga.is_missing("-a")
    assert saga.attention == "participant-missing"
    assert saga.state.state is SagaState.COMPENSATING
    saga.does("-a")
    assert saga.state.state is SagaState.FAILED


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


# --- the fold ---------------------------------------------------------------------------------------------------


def test_waking_is_safe_at_any_time_and_as_often_as_you_like():
    saga = Tale(define(a_step("a"), a_step("b", after=["a"])))
    saga.begins("a")
    saga.tell(Woken(saga.now))
    saga.tell(Woken(saga.now))
    assert saga.ignored
    saga.tell(Woken(T0 - 5))
    assert saga.ignored
