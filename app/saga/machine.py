"""The law of a saga: `step(definition, state, message) -> Transition`. Pure: no clock, no random, no I/O.

What a saga promises. Every step is done; or every step that was done, or may have been done, is undone in the
reverse order of dependency; or the saga comes to rest with `attention` that names every step whose effect may
still stand. It is never silent: what is neither at rest nor paused has a time at which it is looked at again
(`wake_at`).

What is known of an attempt. A participant's answer has three values: succeeded, refused (it certainly did not
happen), unknown. Unknown sticks to its step until a success settles it: a later refusal may be the answer to the
repetition, not to the first try. What succeeded or is unknown is compensated; what was never claimed, or was
certainly refused or not sent in every attempt, is not.

When an attempt has ended. With a whole answer, with its full timeout in the worker, when it was certainly not
sent, or with its lease when its worker is lost. A connection that breaks earlier ends nothing: the attempt may
still take effect, so it leaves a quiet window (`Call.quiet_until`) in which its step is not compensated, however
the later attempts are answered.

Who wins. Attempts are numbered and the numbers only grow; an answer counts if it is the current attempt's, or if
it is the success of an earlier one with the same key while the step waits to be repeated. A cancel, a timeout or
a failure turns the saga to compensation, unless a pivot is open (running, waiting, or of unknown outcome): then
the turn is kept, nothing but the pivot is sent, and its outcome decides. Once a pivot has succeeded nothing turns
the saga any more.

That is the law of orchestrated sagas. `choreography` has what differs where services listen to events.

How it is written. Each message has one function below that either refuses (operators are told why), ignores
(nothing changes), or writes records into a `Draft`, which folds them into the state at once. `_advance` then
draws every conclusion that the new state allows. `app.saga.history` says what each record does.

The sources of the rules, and the ways of building them that lose money, are in docs/protocol.md.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from app.saga import choreography
from app.saga.backoff import delay_seconds
from app.saga.definition import Definition, DefinitionType, RetryPolicy
from app.saga.draft import Draft, Timing, attempts_told, micros, plain
from app.saga.history import initial
from app.saga.messages import (
    Abandon,
    Admitted,
    Answered,
    Cancel,
    Claim,
    ConditionFalse,
    Extend,
    Happened,
    Inexpressible,
    Message,
    Outcome,
    OutcomeKind,
    ParticipantMissing,
    Pause,
    Record,
    RecordType,
    Refusal,
    Resolve,
    Resume,
    Retry,
    Skip,
    Transition,
    Woken,
)
from app.saga.rules import (
    held,
    key_suffix,
    may_be_sent,
    may_still_run,
    needs_compensation,
    past_pivot,
    paused,
    pivot_open,
    turn_wanted,
    waits_since,
)
from app.saga.state import (
    ACTION,
    COMPENSATION,
    DONE,
    SECOND,
    UNDER_WAY,
    UNDONE,
    Call,
    CallState,
    Error,
    Micros,
    Operation,
    SagaState,
    State,
)

MAX_RETRY_AFTER_SECONDS: Final = 3600

POLL_SECONDS: Final = 1
"""Between two polls, where the participant's `Retry-After` asks for no more."""


def create(
    definition: Definition,
    at: Micros,
    *,
    saga_id: str,
    timing: Timing,
    timeout_seconds: float | None = None,
    start_at: Micros | None = None,
    **data: Any,
) -> Transition:
    """A new saga. Its timeout counts from `start_at`, or from now. `data` is added to the first record.

    One that is choreographed is begun by an event instead (`choreography.create`).
    """
    if definition.type == "choreography":
        raise ValueError(f"{definition.name} is choreographed: it is begun by its event")
    timeout = micros(definition.timeout_seconds if timeout_seconds is None else timeout_seconds)
    facts = {"deadline_at": (start_at or at) + timeout, **data}
    if start_at is not None:
        facts["start_at"] = start_at
    record = Record(1, RecordType.SAGA_CREATED, at, data=facts)
    draft = Draft(definition, initial(definition, record), at, saga_id, timing)
    draft.records.append(record)
    if _starts_by_itself(draft):
        draft.record(RecordType.SAGA_STARTED)
        _advance(draft)
    return draft.transition(Transition(draft.state))


def step(definition: Definition, state: State, message: Message, *, saga_id: str, timing: Timing) -> Transition:
    """What the message changes. Without records nothing changed; a refusal says why."""
    at = max(message.at, state.updated_at)
    draft = Draft(definition, state, at, saga_id, timing)
    tell, advance = _LAWS[definition.type]
    if refusal := tell.get(type(message), _ignored)(draft, message):
        return Transition(state, refusal=refusal)
    if draft.records or isinstance(message, Woken):
        advance(draft)
    return draft.transition(Transition(state), retried=isinstance(message, Retry))


# --- what workers tell ------------------------------------------------------------------------------------------


def _due(draft: Draft, step: int, operation: Operation) -> bool:
    """Whether an attempt may begin now."""
    call = draft.state.call(step, operation)
    due = call.state is CallState.SCHEDULED or (call.state is CallState.RETRYING and (call.due_at or 0) <= draft.at)
    return due and may_be_sent(draft.definition, draft.state, step, operation)


def _claim(draft: Draft, message: Claim) -> None:
    step, operation = message.step, message.operation
    if not _due(draft, step, operation):
        return
    plan, call = draft.definition.steps[step], draft.state.call(step, operation)
    generation = draft.state.steps[step].action.key
    timeout = plan.timeout_seconds if operation == ACTION else plan.compensation_timeout_seconds
    kind = RecordType.STEP_STARTED if operation == ACTION else RecordType.COMPENSATION_STARTED
    draft.record(
        kind,
        step,
        operation,
        call.attempts + 1,
        lease_until=draft.at + micros(timeout + draft.timing.lease_grace_seconds),
        key=f"{draft.saga_id}/{key_suffix(plan.name, operation, generation)}",
    )


def _condition_false(draft: Draft, message: ConditionFalse) -> None:
    if _due(draft, message.step, ACTION):
        draft.record(RecordType.STEP_SKIPPED, message.step, ACTION, because="when")


def _inexpressible(draft: Draft, message: Inexpressible) -> None:
    step, operation = message.step, message.operation
    if _due(draft, step, operation):
        error = plain(draft.error(step, operation, "expression-failed", message.message, None))
        kind = RecordType.STEP_REFUSED if operation == ACTION else RecordType.COMPENSATION_FAILED
        draft.record(kind, step, operation, error=error)


def _participant_missing(draft: Draft, message: ParticipantMissing) -> None:
    """The step stays scheduled, so the re-send tries again; a person is told meanwhile."""
    if _due(draft, message.step, message.operation):
        draft.raise_attention("participant-missing", message.message, message.step)


def _answered(draft: Draft, message: Answered) -> None:
    if draft.state.at_rest:
        return
    step, operation, outcome = message.step, message.operation, message.outcome
    call = draft.state.call(step, operation)
    if call.attempts == message.attempt and call.state in {CallState.RUNNING, CallState.WAITING}:
        _OUTCOME[outcome.kind](draft, message)
    elif outcome.kind is OutcomeKind.SUCCEEDED and _ends_repetition(draft, message):
        _succeeded(draft, message)


def _ends_repetition(draft: Draft, message: Answered) -> bool:
    """Whether a late success, with the key that is in use, ends an operation that waits to be repeated."""
    call = draft.state.call(message.step, message.operation)
    same_key = call.key_from <= message.attempt <= call.attempts
    waits = call.state in {CallState.SCHEDULED, CallState.RETRYING} or (
        call.state is CallState.EXHAUSTED and draft.state.state is SagaState.EXECUTING
    )
    return same_key and waits


def _succeeded(draft: Draft, message: Answered) -> None:
    step, operation = message.step, message.operation
    data = {**message.outcome.record, "status": message.outcome.status}
    if operation == COMPENSATION:
        draft.record(RecordType.COMPENSATION_SUCCEEDED, step, operation, message.attempt, **data)
        return
    turn = turn_wanted(draft.definition, draft.state)
    was_past = past_pivot(draft.definition, draft.state)
    draft.record(RecordType.STEP_SUCCEEDED, step, operation, message.attempt, **data)
    if turn and step in draft.definition.pivots and not was_past:
        reason = (
            f"{turn.message} — but the pivot {draft.definition.steps[step].name} has succeeded, so the saga"
            " goes forward. Nothing is undone any more; look whether that is what you want."
        )
        draft.raise_attention("past-pivot", reason)


def _refused(draft: Draft, message: Answered) -> None:
    step, operation, outcome = message.step, message.operation, message.outcome
    if outcome.retriable:
        _attempt_failed(draft, message)
        return
    call = draft.state.call(step, operation)
    error = draft.error(step, operation, "refused", outcome.message, outcome.status)
    data = {**outcome.record, "error": plain(error)}
    if operation == COMPENSATION:
        draft.record(RecordType.COMPENSATION_FAILED, step, operation, message.attempt, **data)
    elif step in draft.definition.pivots and call.unknown and not past_pivot(draft.definition, draft.state):
        # Unknown sticks: this refusal may be the answer to the repetition of an attempt that happened.
        _ask_pivot_again(draft, message, error)
    else:
        draft.record(RecordType.STEP_REFUSED, step, operation, message.attempt, **data)


def _pending(draft: Draft, message: Answered) -> None:
    step, operation = message.step, message.operation
    call = draft.state.call(step, operation)
    if operation == ACTION and draft.state.state is SagaState.COMPENSATING:
        outcome = Outcome(
            OutcomeKind.UNKNOWN,
            "accepted (202) after the saga had turned; nobody waits for its answer",
            202,
            record=message.outcome.record,
        )
        _attempt_failed(draft, Answered(message.at, step, operation, message.attempt, outcome))
        return
    until = draft.at + micros(draft.definition.steps[step].callback_timeout_seconds)
    poll, poll_every = message.outcome.poll_url, None
    if call.state is CallState.WAITING:  # it was polled, or is told twice: its time does not begin again
        until, poll = call.due_at or until, poll or call.poll
    if poll is not None:
        asked_for = min(message.outcome.retry_after_seconds or 0, MAX_RETRY_AFTER_SECONDS)
        poll_every = micros(max(asked_for, POLL_SECONDS))
    if (call.state, call.poll, call.poll_every) == (CallState.WAITING, poll, poll_every):
        return
    data = {**message.outcome.record, "until": until, "status": message.outcome.status}
    if poll is not None:
        data |= {"poll": poll, "poll_every": poll_every}
    draft.record(RecordType.STEP_WAITING, step, operation, message.attempt, **data)


def _policy(draft: Draft, step: int, operation: Operation) -> RetryPolicy:
    plan = draft.definition.steps[step]
    return plan.retry if operation == ACTION else plan.compensation_retry


def _retry_at(draft: Draft, message: Answered) -> Micros:
    step, operation = message.step, message.operation
    call = draft.state.call(step, operation)
    key = f"{draft.saga_id}/{step}/{operation}/{call.attempts}"
    delay = delay_seconds(_policy(draft, step, operation), max(call.spent, 1), key)
    asked_for = min(message.outcome.retry_after_seconds or 0, MAX_RETRY_AFTER_SECONDS)
    return draft.at + micros(max(delay, asked_for))


def _failed_data(draft: Draft, message: Answered, error: Error) -> dict[str, Any]:
    outcome = message.outcome
    data = {**outcome.record, "outcome": str(outcome.kind), "error": plain(error)}
    if outcome.may_run_seconds > 0:
        data["quiet_until"] = draft.at + micros(outcome.may_run_seconds)
    return data


def _attempt_failed(draft: Draft, message: Answered, kind: RecordType = RecordType.STEP_ATTEMPT_FAILED) -> None:
    """An attempt brought neither success nor a refusal that counts: it is repeated, or the operation is given up."""
    step, operation, outcome = message.step, message.operation, message.outcome
    plan, state = draft.definition.steps[step], draft.state
    call = state.call(step, operation)
    if operation == COMPENSATION and kind is RecordType.STEP_ATTEMPT_FAILED:
        kind = RecordType.COMPENSATION_ATTEMPT_FAILED
    error = draft.error(step, operation, str(outcome.kind), outcome.message, outcome.status)
    data = _failed_data(draft, message, error)

    if operation == ACTION and state.state is SagaState.COMPENSATING:
        draft.record(kind, step, operation, message.attempt, **data)
        return
    unknown = outcome.kind is OutcomeKind.UNKNOWN
    out_of_budget = call.spent >= _policy(draft, step, operation).max_attempts
    if not out_of_budget and not (unknown and outcome.retriable is False):
        draft.record(kind, step, operation, message.attempt, retry_at=_retry_at(draft, message), **data)
        return

    given_up = draft.error(step, operation, "exhausted", outcome.message, outcome.status)
    if operation == COMPENSATION:
        draft.record(kind, step, operation, message.attempt, **data)
        draft.record(RecordType.COMPENSATION_FAILED, step, operation, error=plain(given_up))
        return
    holds = plan.on_exhausted == "pause" and not turn_wanted(draft.definition, state)
    if past_pivot(draft.definition, state) and not holds:
        draft.record(kind, step, operation, message.attempt, retry_at=_retry_at(draft, message), **data)
        reason = (
            f"{plan.name} fails ({attempts_told(call.attempts)} so far) after the point of no return:"
            f" {outcome.message}."
            " It is repeated without limit; look at its service."
        )
        draft.raise_attention("retried-without-limit", reason, step)
    elif step in draft.definition.pivots and (unknown or call.unknown) and not holds:
        _ask_pivot_again(draft, message, given_up, kind)
    else:
        draft.record(kind, step, operation, message.attempt, **data)
        draft.record(RecordType.STEP_EXHAUSTED, step, operation, error=plain(given_up))


_OUTCOME: Final[Mapping[OutcomeKind, Callable[[Draft, Answered], None]]] = {
    OutcomeKind.SUCCEEDED: _succeeded,
    OutcomeKind.REFUSED: _refused,
    OutcomeKind.PENDING: _pending,
    OutcomeKind.UNKNOWN: _attempt_failed,
    OutcomeKind.NOT_SENT: _attempt_failed,
}


def _ask_pivot_again(
    draft: Draft, message: Answered, turn: Error, kind: RecordType = RecordType.STEP_ATTEMPT_FAILED
) -> None:
    """The saga would turn, but whether the pivot has happened is not known: it is asked, with its key, until it is."""
    error = draft.error(
        message.step, ACTION, str(message.outcome.kind), message.outcome.message, message.outcome.status
    )
    data = _failed_data(draft, message, error)
    retry_at = _retry_at(draft, message)
    draft.record(kind, message.step, ACTION, message.attempt, retry_at=retry_at, **data)
    reason = (
        f"Whether the pivot {turn.step} has happened is not known: {message.outcome.message}. It is repeated with"
        " the same key until its service gives a certain answer; nothing else is sent meanwhile."
    )
    kept = turn_wanted(draft.definition, draft.state) is not None
    draft.raise_attention("pivot-undecided", reason, message.step, turn=None if kept else turn)


def _lost(draft: Draft, step: int, operation: Operation, call: Call) -> None:
    if call.state is CallState.WAITING:
        text = "no callback came in time"
    else:
        text = "its worker was lost before it could say how the attempt ended"
    outcome = Outcome(OutcomeKind.UNKNOWN, text)
    message = Answered(draft.at, step, operation, call.attempts, outcome)
    _attempt_failed(draft, message, RecordType.STEP_ATTEMPT_LOST)


def _woken(draft: Draft, _: Woken) -> None:
    if draft.state.at_rest:
        return
    for step, operation, call in draft.before.calls():
        if call.due_at is None or call.due_at > draft.at:
            continue
        if call.state in {CallState.RUNNING, CallState.WAITING}:
            _lost(draft, step, operation, call)
        elif may_be_sent(draft.definition, draft.state, step, operation):
            draft.schedule(step, operation)
    if _starts_by_itself(draft):
        draft.record(RecordType.SAGA_STARTED)
    _look_at_deadline(draft)


def _woken_choreographed(draft: Draft, message: Woken) -> None:
    choreography.woken(draft, message)
    if not draft.state.at_rest:
        _look_at_deadline(draft)


def _ignored(_: Draft, __: Message) -> None:
    """Of the other kind of saga: nobody calls a service for one that is choreographed, none other hears events."""


def _starts_by_itself(draft: Draft) -> bool:
    """Whether its time has come and it needs nobody's leave; with `max_concurrent` it waits to be admitted."""
    state = draft.state
    if state.state is not SagaState.CREATED or state.pause or draft.definition.max_concurrent is not None:
        return False
    return (state.start_at or state.created_at) <= draft.at


def _admitted(draft: Draft, _: Admitted) -> None:
    since = waits_since(draft.definition, draft.state)
    if since is not None and since <= draft.at:
        draft.record(RecordType.SAGA_STARTED)


def _look_at_deadline(draft: Draft) -> None:
    state = draft.state
    if state.state is SagaState.COMPENSATING or paused(draft.definition, state):
        return
    if state.deadline_at > draft.at or state.deadline_fired:
        return
    if past_pivot(draft.definition, state):
        draft.record(RecordType.SAGA_TIMED_OUT)
        reason = "The saga's timeout has passed after its point of no return. It goes on; look what delays it."
        draft.raise_attention("overdue", reason)
        return
    seconds = (state.deadline_at - (state.start_at or state.created_at)) / SECOND
    error = Error("saga-timeout", f"the saga was not done within {seconds:g} s")
    draft.record(RecordType.SAGA_TIMED_OUT, error=plain(error))


# --- what people tell -------------------------------------------------------------------------------------------


def _cancel(draft: Draft, message: Cancel) -> Refusal | None:
    state = draft.state
    if state.at_rest:
        advice = " Its failed compensations can be retried." if not state.final else ""
        return Refusal("saga-at-rest", f"The saga is {state.state}; there is nothing to stop.{advice}")
    if past_pivot(draft.definition, state):
        return Refusal("past-pivot", "The saga has passed its point of no return and can only go forward to its end.")
    if state.state is SagaState.COMPENSATING:
        if state.pause:
            draft.record(RecordType.SAGA_RESUMED, actor=message.by.name, reason=message.by.reason)
            _ring_again(draft)
        return None
    if state.turn is not None and not state.pause:
        return None
    text = f"cancelled by {message.by.name}" + (f": {message.by.reason}" if message.by.reason else "")
    draft.record(RecordType.SAGA_CANCELLED, error=plain(Error("cancelled", text)))
    return None


def _retry(draft: Draft, message: Retry) -> Refusal | None:
    definition, state = draft.definition, draft.state
    if state.final:
        return draft.refuse_at_rest()
    wanted = range(len(state.steps)) if message.step is None else (message.step,)
    failed = [p for p in wanted if state.steps[p].compensation.state is CallState.FAILED]
    later = [p for p in wanted if state.steps[p].compensation.state is CallState.RETRYING]
    holding = held(definition, state)
    actions = [
        p
        for p in wanted
        if state.state is SagaState.EXECUTING
        and (state.steps[p].action.state in {CallState.RETRYING, CallState.EXHAUSTED} or p in holding)
    ]
    if message.new_input and (refusal := _refuse_new_input(draft, message, actions)):
        return refusal
    if not (failed or later or actions):
        detail = "No compensation has failed, and no step is waiting for a retry, exhausted, or refused and holding."
        return Refusal("nothing-to-retry", detail)
    names = [definition.steps[p].name for p in failed]
    draft.acted("retry", message, message.step, **({"compensations": names} if names else {}))
    for p in later:
        draft.schedule(p, COMPENSATION, fresh=True)
    for p in actions:
        more = {"key": draft.state.steps[p].action.key + 1} if message.new_input else {}
        draft.schedule(p, ACTION, fresh=True, **more)
    return None


def _refuse_new_input(draft: Draft, message: Retry, actions: list[int]) -> Refusal | None:
    wanted = range(len(draft.state.steps)) if message.step is None else (message.step,)
    running = any(may_still_run(draft.state.steps[p].action, draft.at) for p in wanted)
    if running and not actions and draft.state.state is SagaState.EXECUTING:
        return Refusal("attempt-running", "An attempt of the step may still take effect; try again when it is over.")
    if len(actions) != 1:
        names = ", ".join(draft.definition.steps[p].name for p in actions) or "none"
        detail = f"A new input is for exactly one step that can be retried; here: {names}. Name it with `step`."
        return Refusal("nothing-to-retry", detail)
    return _refuse_unsettled(draft, actions[0], message.confirm_not_done)


def _refuse_unsettled(draft: Draft, step: int, confirmed: bool) -> Refusal | None:
    """Why an operator may not yet decide for a step that it has not happened."""
    call, name = draft.state.steps[step].action, draft.definition.steps[step].name
    if may_still_run(call, draft.at):
        return Refusal("attempt-running", f"An attempt of {name} may still take effect; try again when it is over.")
    if call.unknown and not confirmed:
        detail = (
            f'Whether {name} has happened is not known. Look at its service, then say so with "confirm_not_done": true.'
        )
        return Refusal("outcome-unknown", detail)
    return None


def _skip(draft: Draft, message: Skip) -> Refusal | None:
    state, name = draft.state, draft.definition.steps[message.step].name
    call = state.steps[message.step].action
    if refusal := draft.refuse_at_rest():
        return refusal
    if state.state is SagaState.EXECUTING and may_still_run(call, draft.at):
        return _refuse_unsettled(draft, message.step, message.confirm_not_done)
    skippable = call.state in {CallState.RETRYING, CallState.EXHAUSTED} or message.step in held(draft.definition, state)
    if state.state is not SagaState.EXECUTING or not skippable:
        detail = (
            f"{name} is {call.state} in a saga that is {state.state}; only a step that is RETRYING, EXHAUSTED,"
            " or refused and holding can be skipped."
        )
        return Refusal("step-not-skippable", detail)
    if refusal := _refuse_unsettled(draft, message.step, message.confirm_not_done):
        return refusal
    draft.acted("skip", message, message.step)
    draft.record(RecordType.STEP_SKIPPED, message.step, ACTION, because="operator")
    return None


def _resolve(draft: Draft, message: Resolve) -> Refusal | None:
    call, name = draft.state.steps[message.step].compensation, draft.definition.steps[message.step].name
    if draft.state.final:
        return draft.refuse_at_rest()
    if call.state is not CallState.FAILED:
        return Refusal("nothing-to-resolve", f"The compensation of {name} is {call.state}, not FAILED.")
    if may_still_run(call, draft.at):
        detail = f"An attempt to compensate {name} may still take effect; settle it by hand when that is over."
        return Refusal("attempt-running", detail)
    draft.acted("resolve", message, message.step)
    draft.record(RecordType.COMPENSATION_RESOLVED, message.step, COMPENSATION)
    return None


def _abandon(draft: Draft, message: Abandon) -> Refusal | None:
    if draft.state.final:
        return draft.refuse_at_rest()
    draft.record(RecordType.SAGA_ABANDONED, actor=message.by.name, reason=message.by.reason)
    return None


def _pause(draft: Draft, message: Pause) -> Refusal | None:
    if refusal := draft.refuse_at_rest():
        return refusal
    if draft.state.pause:
        return Refusal("already-paused", "The saga is paused by an operator already.")
    draft.record(RecordType.SAGA_PAUSED, actor=message.by.name, reason=message.by.reason)
    return None


def _resume(draft: Draft, message: Resume) -> Refusal | None:
    if refusal := draft.refuse_at_rest():
        return refusal
    if not draft.state.pause:
        holding = held(draft.definition, draft.state)
        names = ", ".join(draft.definition.steps[p].name for p in holding)
        advice = f" It holds at {names}: retry it, skip it or have the saga compensated." if names else ""
        return Refusal("not-paused", f"No operator has paused the saga.{advice}")
    draft.record(RecordType.SAGA_RESUMED, actor=message.by.name, reason=message.by.reason)
    _look_at_deadline(draft)
    _ring_again(draft)
    return None


def _ring_again(draft: Draft) -> None:
    """What was scheduled while nothing could be sent is sent now."""
    for step, operation, call in draft.state.calls():
        if call.state is CallState.SCHEDULED and may_be_sent(draft.definition, draft.state, step, operation):
            draft.schedule(step, operation)


def _extend(draft: Draft, message: Extend) -> Refusal | None:
    if refusal := draft.refuse_at_rest():
        return refusal
    if draft.state.state is SagaState.COMPENSATING:
        return Refusal("saga-compensating", "The saga is being compensated; that has no timeout to extend.")
    deadline_at = draft.at + micros(message.timeout_seconds)
    if deadline_at <= draft.state.deadline_at:
        return Refusal("deadline-not-later", "The saga's deadline is later than that already.")
    draft.record(
        RecordType.SAGA_EXTENDED,
        deadline_at=deadline_at,
        actor=message.by.name,
        reason=message.by.reason,
    )
    return None


_Tell: TypeAlias = Mapping[type, Callable[[Draft, Any], Refusal | None]]

_TELL_ANY: Final[_Tell] = {
    Cancel: _cancel,
    Resolve: _resolve,
    Abandon: _abandon,
    Pause: _pause,
    Resume: _resume,
    Extend: _extend,
}
_TELL_ORCHESTRATED: Final[_Tell] = {
    Claim: _claim,
    ConditionFalse: _condition_false,
    Inexpressible: _inexpressible,
    ParticipantMissing: _participant_missing,
    Answered: _answered,
    Woken: _woken,
    Admitted: _admitted,
    Retry: _retry,
    Skip: _skip,
    **_TELL_ANY,
}
_TELL_CHOREOGRAPHED: Final[_Tell] = {
    Happened: choreography.happened,
    Woken: _woken_choreographed,
    Retry: choreography.retry,
    Skip: choreography.skip,
    **_TELL_ANY,
}


# --- conclusions ------------------------------------------------------------------------------------------------


def _advance(draft: Draft) -> None:
    if draft.state.state in {SagaState.CREATED, SagaState.EXECUTING}:
        _advance_forward(draft)
    if draft.state.state is SagaState.COMPENSATING:
        _advance_backward(draft)


def _advance_forward(draft: Draft) -> None:
    definition = draft.definition
    if past_pivot(definition, draft.state):
        for position, record in enumerate(draft.state.steps):
            if record.action.state is CallState.EXHAUSTED and definition.steps[position].on_exhausted == "compensate":
                draft.schedule(position, ACTION, fresh=True)
    elif turn := turn_wanted(definition, draft.state):
        if not pivot_open(definition, draft.state):
            draft.record(RecordType.COMPENSATION_BEGAN, error=plain(turn))
            return
        for position in definition.pivots:
            call = draft.state.steps[position].action
            if call.unknown and call.state in {CallState.EXHAUSTED, CallState.REFUSED}:
                draft.schedule(position, ACTION, fresh=True)
        return
    if draft.state.state is SagaState.CREATED:
        return
    if all(record.action.state in DONE for record in draft.state.steps):
        draft.record(RecordType.SAGA_COMPLETED)
        return
    if holding := held(definition, draft.state):
        _raise_held(draft, holding)
    if paused(definition, draft.state):
        return
    for position, record in enumerate(draft.state.steps):
        ready = all(draft.state.steps[d].action.state in DONE for d in definition.dependencies[position])
        if record.action.state is CallState.PENDING and ready:
            draft.schedule(position, ACTION)


def _raise_held(draft: Draft, holding: tuple[int, ...]) -> None:
    errors = [draft.state.steps[position].action.error for position in holding]
    told = "; ".join(
        f"{e.step} was {e.code} after {attempts_told(e.attempts or 0)}: {e.message}" for e in errors if e is not None
    )
    advice = "retry the step or skip it"
    if not past_pivot(draft.definition, draft.state):
        advice += ", or have the saga compensated"
    draft.raise_attention("held", f"{told}. The saga holds: {advice}.", *holding)


def _advance_backward(draft: Draft) -> None:
    definition = draft.definition
    if not draft.state.pause:
        for position in _to_undo_now(draft):
            draft.schedule(position, COMPENSATION)
    state = draft.state
    if any(record.action.state is CallState.RUNNING for record in state.steps):
        return
    if any(record.compensation.state in UNDER_WAY for record in state.steps):
        return
    failed = [p for p, record in enumerate(state.steps) if record.compensation.state is CallState.FAILED]
    waiting = [
        p
        for p, record in enumerate(state.steps)
        if record.compensation.state is CallState.PENDING and needs_compensation(definition, state, p)
    ]
    if any(_may_begin(draft, p) for p in waiting):
        return  # for a quiet window, or for an operator's pause
    draft.end_undoing(failed, waiting)


def _may_begin(draft: Draft, position: int) -> bool:
    """With `halt` a failed compensation keeps the others from being begun, but not what an operator retries."""
    if draft.definition.on_compensation_failure == "continue":
        return True
    failed_before = draft.state.steps[position].compensation.error is not None
    return failed_before or all(r.compensation.state is not CallState.FAILED for r in draft.state.steps)


def _to_undo_now(draft: Draft) -> list[int]:
    """Steps whose compensation may begin: everything that depends on them is over and undone."""
    definition, state = draft.definition, draft.state

    def out_of_the_way(position: int) -> bool:
        record = state.steps[position]
        if may_still_run(record.action, draft.at):
            return False
        if record.compensation.state in UNDONE or record.compensation.state is CallState.FAILED:
            return True
        return not needs_compensation(definition, state, position)

    return [
        position
        for position, record in enumerate(state.steps)
        if record.compensation.state is CallState.PENDING
        and needs_compensation(definition, state, position)
        and _may_begin(draft, position)
        and not may_still_run(record.action, draft.at)
        and all(out_of_the_way(d) for d in definition.downstream[position])
    ]


_LAWS: Final[Mapping[DefinitionType, tuple[_Tell, Callable[[Draft], None]]]] = {
    "orchestration": (_TELL_ORCHESTRATED, _advance),
    "choreography": (_TELL_CHOREOGRAPHED, choreography.advance),
}
