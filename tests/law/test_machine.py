"""The law by example: one saga, its messages, what becomes of it. In the order a person would tell it.

Here: what workers and time bring. What is undone: test_machine_undoing.py; what people do: test_machine_people.py;
the point of no return: test_machine_pivot.py.
"""

import pytest

from app.saga import machine
from app.saga.backoff import delay_seconds
from app.saga.messages import Answered, Outcome, OutcomeKind, Woken
from app.saga.state import ACTION, SECOND, CallState, SagaState

from .build import GRACE, ID, RESEND, T0, TIMING, Tale, a_step, beside, chain, compensating, define, policy

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


def test_a_202_that_names_a_location_is_looked_at_again_and_again_within_its_time():
    saga = Tale(chain(a_step("a", callback_timeout_seconds=60)))
    saga.begins("a")
    saga.accepts("a", poll_url="http://service/jobs/1", retry_after_seconds=20)
    limit = saga.call("a").due_at
    saga.wake_when_due()
    assert (saga.now - T0) / SECOND == 20
    assert saga.ignored
    saga.accepts("a", retry_after_seconds=20)
    assert saga.ignored
    saga.accepts("a", retry_after_seconds=0)
    assert saga.record("StepWaiting").data["poll_every"] == SECOND
    assert saga.call("a").due_at == limit
    assert saga.wake_at == saga.now + SECOND
    saga.wait(40).wake()
    assert saga.said[0] == "StepAttemptLost"
    assert saga.call("a").poll is None


def test_a_202_whose_location_says_no_time_is_looked_at_after_a_second():
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.accepts("a", poll_url="http://service/jobs/1")
    assert saga.wakes_in == 1


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


# --- max_concurrent ---------------------------------------------------------------------------------------------


def test_a_saga_with_a_limit_waits_until_it_is_admitted():
    saga = Tale(chain("a", max_concurrent=1))
    assert saga.shape == "CREATED a=PENDING"
    assert saga.wake_at == saga.state.deadline_at
    saga.claim("a")
    assert saga.ignored
    saga.admit()
    assert saga.said == ["SagaStarted", "StepScheduled"]
    saga.admit()
    assert saga.ignored
    saga.does("a")
    assert saga.state.state is SagaState.COMPLETED


def test_a_delayed_saga_with_a_limit_is_not_admitted_before_its_time():
    saga = Tale(chain("a", max_concurrent=1), start_at=T0 + 60 * SECOND, timeout_seconds=30)
    saga.admit()
    assert saga.ignored
    saga.wake(60)
    assert saga.ignored
    saga.admit()
    assert saga.shape == "EXECUTING a=SCHEDULED"


def test_who_waits_for_a_place_may_be_cancelled_paused_or_time_out_and_nothing_was_sent():
    saga = Tale(chain("a", max_concurrent=1))
    saga.pause()
    saga.admit()
    assert saga.ignored
    saga.resume()
    saga.wake_when_due()
    assert saga.said == ["SagaTimedOut", "CompensationBegan", "SagaFailed"]
    saga = Tale(chain("a", max_concurrent=1))
    saga.cancel()
    assert saga.shape == "FAILED a=CANCELLED"


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


# --- waking ----------------------------------------------------------------------------------------------------


def test_waking_is_safe_at_any_time_and_as_often_as_you_like():
    saga = Tale(define(a_step("a"), a_step("b", after=["a"])))
    saga.begins("a")
    saga.tell(Woken(saga.now))
    saga.tell(Woken(saga.now))
    assert saga.ignored
    saga.tell(Woken(T0 - 5))
    assert saga.ignored
