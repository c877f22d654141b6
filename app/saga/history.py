"""The fold: what each record of a saga's history does to its state.

The machine changes a state only by writing records and folding them (`Draft.record`), so the history gives the
state by construction, also after it has been read back from the database. Nothing here decides anything.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from app.saga.definition import Definition
from app.saga.messages import OutcomeKind, Record, RecordType
from app.saga.rules import turn_wanted
from app.saga.state import (
    COMPENSATION,
    UNDER_WAY,
    UNTOUCHED,
    Attention,
    Call,
    CallState,
    Error,
    Operation,
    SagaState,
    State,
    StepRecord,
)


def initial(definition: Definition, record: Record) -> State:
    """The state after the first record, SagaCreated."""
    return State(
        state=SagaState.CREATED,
        seq=record.seq,
        steps=(UNTOUCHED,) * len(definition.steps),
        created_at=record.at,
        updated_at=record.at,
        deadline_at=record.data["deadline_at"],
        start_at=record.data.get("start_at"),
    )


def evolve(definition: Definition, state: State, record: Record) -> State:
    if record.seq != state.seq + 1:
        raise ValueError(f"record {record.seq} does not follow {state.seq}")
    folded = _FOLD[record.type](definition, state, record)
    return replace(folded, seq=record.seq, updated_at=record.at)


def fold(definition: Definition, records: Iterable[Record]) -> State:
    """Replays a whole history."""
    remaining = iter(records)
    state = initial(definition, next(remaining))
    for record in remaining:
        state = evolve(definition, state, record)
    return state


def _operation(record: Record) -> tuple[int, Operation]:
    if record.step is None or record.operation is None:
        raise ValueError(f"{record.type} names no step")
    return record.step, record.operation


def _change(saga: State, record: Record, **changes: Any) -> State:
    step, operation = _operation(record)
    return saga.with_call(step, operation, replace(saga.call(step, operation), **changes))


def _settled(definition: Definition, state: State, *steps: int) -> Attention | None:
    """The attention that is left once these steps no longer need any; one that names no steps stays."""
    attention = state.attention
    if attention is None or not attention.steps:
        return attention
    names = {definition.steps[step].name for step in steps}
    left = tuple(name for name in attention.steps if name not in names)
    return replace(attention, steps=left) if left else None


def _started(definition: Definition, state: State, record: Record) -> State:
    step, operation = _operation(record)
    call = state.call(step, operation)
    missing = state.attention is not None and state.attention.code == "participant-missing"
    state = replace(state, attention=_settled(definition, state, step)) if missing else state
    return state.with_call(
        step,
        operation,
        replace(
            call,
            state=CallState.RUNNING,
            attempts=record.attempt or call.attempts + 1,
            spent=call.spent + 1,
            sends=0,
            # How long its answer is awaited: with a lease for a call, without one for an event.
            due_at=record.data["lease_until"] if "lease_until" in record.data else record.data["until"],
            started_at=call.started_at or record.at,
            finished_at=None,
        ),
    )


def _scheduled(definition: Definition, state: State, record: Record) -> State:
    step, operation = _operation(record)
    call = replace(
        state.call(step, operation),
        state=CallState.SCHEDULED,
        due_at=record.data["due_at"],
        sends=record.data.get("sends", 0),
        finished_at=None,
    )
    if record.data.get("fresh"):
        call = replace(call, spent=0)
        state = replace(state, attention=_settled(definition, state, step))
    if (generation := record.data.get("key")) is not None:
        call = replace(call, key=generation, key_from=call.attempts + 1)
    return state.with_call(step, operation, call)


def _succeeded(definition: Definition, state: State, record: Record) -> State:
    step, _ = _operation(record)
    turn = None if step in definition.pivots else state.turn
    # The effect of a choreographed step that has come late stands all the more.
    attention = state.attention if _is_given_up(state) else _settled(definition, state, step)
    state = replace(state, turn=turn, completed=(*state.completed, step), attention=attention)
    return _ended(state, record, CallState.SUCCEEDED, error=None, unknown=False)


def _is_given_up(state: State) -> bool:
    """Whether the attention is for compensations that could not be done."""
    return state.attention is not None and state.attention.code == "compensation-failed"


def _ended(saga: State, record: Record, how: CallState, **changes: Any) -> State:
    step, operation = _operation(record)
    call = replace(_rested(saga.call(step, operation)), state=how, finished_at=record.at, **changes)
    return saga.with_call(step, operation, call)


def _rested(call: Call) -> Call:
    """Nothing is waited for any more."""
    return replace(call, due_at=None, sends=0, poll=None, poll_every=None, poll_from=None)


def _waiting(_: Definition, state: State, record: Record) -> State:
    data = record.data
    polled: dict[str, Any] = {}
    if "poll" in data:
        polled = {"poll": data["poll"], "poll_every": data["poll_every"], "poll_from": record.at}
    return _change(state, record, state=CallState.WAITING, due_at=data["until"], **polled)


def _error(data: Mapping[str, Any]) -> Error | None:
    error = data.get("error")
    return None if error is None else Error(**error)


def _attempt_failed(_: Definition, state: State, record: Record) -> State:
    step, operation = _operation(record)
    call = state.call(step, operation)
    retry_at, quiet_until = record.data.get("retry_at"), record.data.get("quiet_until")
    changes: dict[str, Any] = {
        "unknown": call.unknown or record.data["outcome"] == OutcomeKind.UNKNOWN,
        "error": _error(record.data),
        "quiet_until": max(filter(None, (call.quiet_until, quiet_until)), default=None),
    }
    if retry_at is not None:
        call = replace(_rested(call), state=CallState.RETRYING, **changes)
        return state.with_call(step, operation, replace(call, due_at=retry_at))
    if operation == COMPENSATION:
        return _ended(state, record, CallState.FAILED, **changes)
    turned = state.state is SagaState.COMPENSATING
    return _ended(state, record, CallState.CANCELLED if turned else CallState.EXHAUSTED, **changes)


def _skipped(definition: Definition, state: State, record: Record) -> State:
    step, _ = _operation(record)
    state = replace(state, attention=_settled(definition, state, step))
    return _ended(state, record, CallState.SKIPPED)


def _turned(_: Definition, state: State, record: Record) -> State:
    def cancelled(call: Call) -> Call:
        if call.state is not CallState.PENDING and call.state not in UNDER_WAY:
            return call
        if call.state is CallState.RUNNING:
            return call  # its answer is awaited
        # Nobody waits for a callback once the saga has turned, so what the participant did is not known.
        unknown = call.unknown or call.state is CallState.WAITING
        return replace(_rested(call), state=CallState.CANCELLED, unknown=unknown, finished_at=record.at)

    def to_be_looked_at(call: Call) -> Call:
        return replace(call, state=CallState.PENDING) if call.state is CallState.NOT_NEEDED else call

    again = state.state is SagaState.COMPENSATION_FAILED
    steps = tuple(StepRecord(cancelled(step.action), to_be_looked_at(step.compensation)) for step in state.steps)
    return replace(
        state,
        state=SagaState.COMPENSATING,
        steps=steps,
        error=_error(record.data),
        turn=None,
        attention=state.attention if again else None,
    )


def _refused(_: Definition, state: State, record: Record) -> State:
    error = _error(record.data)
    turned = replace(state, error=error) if record.data.get("turned") else state
    return _ended(turned, record, CallState.REFUSED, error=error)


def _compensated(definition: Definition, state: State, record: Record) -> State:
    if _is_given_up(state):  # the event of a choreographed step, which came late
        return _settled_late(definition, state, record, CallState.COMPENSATED, error=None, unknown=False)
    return _ended(state, record, CallState.COMPENSATED, error=None, unknown=False)


def _resolved(definition: Definition, state: State, record: Record) -> State:
    return _settled_late(definition, state, record, CallState.RESOLVED)


def _settled_late(definition: Definition, state: State, record: Record, how: CallState, **changes: Any) -> State:
    step, _ = _operation(record)
    state = replace(state, attention=_settled(definition, state, step))
    state = _ended(state, record, how, **changes)
    failed = any(step.compensation.state is CallState.FAILED for step in state.steps)
    if state.state is SagaState.COMPENSATION_FAILED and not failed:
        return replace(state, state=SagaState.COMPENSATING, attention=None)
    return state


def _at_rest(rest: SagaState) -> Callable[[Definition, State, Record], State]:
    def settle(definition: Definition, state: State, record: Record) -> State:
        may_stand = {definition.index[name] for name in record.data.get("steps", ())}

        def settled(position: int, call: Call) -> Call:
            if call.state is CallState.PENDING and position not in may_stand:
                return replace(call, state=CallState.NOT_NEEDED)
            return call

        steps = tuple(
            StepRecord(step.action, settled(position, step.compensation)) for position, step in enumerate(state.steps)
        )
        finished_at = None if rest is SagaState.COMPENSATION_FAILED else record.at
        return replace(state, state=rest, steps=steps, pause=False, turn=None, attention=None, finished_at=finished_at)

    return settle


def _abandoned(_: Definition, state: State, record: Record) -> State:
    def stopped(call: Call, rest: CallState) -> Call:
        if call.state is not CallState.PENDING and call.state not in UNDER_WAY:
            return call
        # An attempt that was under way may have happened; the history keeps that it was never settled.
        unknown = call.unknown or call.state in {CallState.RUNNING, CallState.WAITING}
        finished = record.at if rest is CallState.CANCELLED else None
        return replace(_rested(call), state=rest, unknown=unknown, finished_at=finished)

    steps = tuple(
        StepRecord(stopped(step.action, CallState.CANCELLED), stopped(step.compensation, CallState.PENDING))
        for step in state.steps
    )
    return replace(
        state,
        state=SagaState.ABANDONED,
        steps=steps,
        pause=False,
        turn=None,
        attention=None,
        finished_at=record.at,
    )


def _operator_acted(definition: Definition, state: State, record: Record) -> State:
    """Most of what operators do is said by the records that follow; failed compensations begin again here."""
    names = record.data.get("compensations")
    if not names:
        return state
    again = [definition.index[name] for name in names]
    for step in again:
        call = replace(state.call(step, COMPENSATION), state=CallState.PENDING, spent=0, due_at=None, finished_at=None)
        state = state.with_call(step, COMPENSATION, call)
    at_rest = state.state is SagaState.COMPENSATION_FAILED
    attention = None if at_rest else _settled(definition, state, *again)
    return replace(state, state=SagaState.COMPENSATING, attention=attention)


def _attention_raised(_: Definition, state: State, record: Record) -> State:
    data = record.data
    attention = Attention(record.at, data["code"], data["reason"], tuple(data.get("steps", ())))
    turn = Error(**data["turn"]) if "turn" in data else state.turn
    return replace(state, attention=attention, turn=turn)


_FOLD: Final[Mapping[RecordType, Callable[[Definition, State, Record], State]]] = {
    RecordType.SAGA_STARTED: lambda _, s, __: replace(s, state=SagaState.EXECUTING),
    RecordType.STEP_SCHEDULED: _scheduled,
    RecordType.STEP_STARTED: _started,
    RecordType.STEP_SUCCEEDED: _succeeded,
    RecordType.STEP_REFUSED: _refused,
    RecordType.STEP_ATTEMPT_FAILED: _attempt_failed,
    RecordType.STEP_ATTEMPT_LOST: _attempt_failed,
    RecordType.STEP_WAITING: _waiting,
    RecordType.STEP_EXHAUSTED: lambda _, s, r: _ended(s, r, CallState.EXHAUSTED, error=_error(r.data)),
    RecordType.STEP_SKIPPED: _skipped,
    RecordType.SAGA_TIMED_OUT: lambda d, s, r: replace(
        s, deadline_fired=True, turn=turn_wanted(d, s) or _error(r.data)
    ),
    RecordType.SAGA_CANCELLED: lambda d, s, r: replace(s, pause=False, turn=turn_wanted(d, s) or _error(r.data)),
    RecordType.COMPENSATION_BEGAN: _turned,
    RecordType.COMPENSATION_SCHEDULED: _scheduled,
    RecordType.COMPENSATION_STARTED: _started,
    RecordType.COMPENSATION_SUCCEEDED: _compensated,
    RecordType.COMPENSATION_ATTEMPT_FAILED: _attempt_failed,
    RecordType.COMPENSATION_FAILED: lambda _, s, r: _ended(s, r, CallState.FAILED, error=_error(r.data)),
    RecordType.COMPENSATION_RESOLVED: _resolved,
    RecordType.SAGA_COMPLETED: _at_rest(SagaState.COMPLETED),
    RecordType.SAGA_FAILED: _at_rest(SagaState.FAILED),
    RecordType.SAGA_COMPENSATION_FAILED: _at_rest(SagaState.COMPENSATION_FAILED),
    RecordType.SAGA_PAUSED: lambda _, s, __: replace(s, pause=True),
    RecordType.SAGA_RESUMED: lambda _, s, __: replace(s, pause=False),
    RecordType.SAGA_EXTENDED: lambda _, s, r: replace(s, deadline_at=r.data["deadline_at"], deadline_fired=False),
    RecordType.SAGA_ABANDONED: _abandoned,
    RecordType.OPERATOR_ACTED: _operator_acted,
    RecordType.ATTENTION_RAISED: _attention_raised,
}
