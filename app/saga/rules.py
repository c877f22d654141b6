"""Questions about a saga's state. What the machine decides by, and what the API and the dashboard tell people."""

from collections.abc import Collection

from app.saga.definition import Definition
from app.saga.state import (
    ACTION,
    COMPENSATION,
    DONE,
    Call,
    CallState,
    Error,
    Micros,
    Operation,
    SagaState,
    State,
)


def past_pivot(definition: Definition, state: State) -> bool:
    return any(state.steps[p].action.state is CallState.SUCCEEDED for p in definition.pivots)


def pivot_open(definition: Definition, state: State) -> bool:
    """Whether a pivot may have happened, or may yet happen, without our knowing."""
    return any(_is_open(state.steps[p].action) for p in definition.pivots)


def _is_open(call: Call) -> bool:
    if call.state in {CallState.RUNNING, CallState.WAITING}:
        return True
    return call.unknown and call.state not in DONE


def failure(definition: Definition, state: State) -> Error | None:
    """The first failed step that turns the saga, as the error that it leaves."""

    def turns(position: int) -> bool:
        call, plan = state.steps[position].action, definition.steps[position]
        if call.state is CallState.EXHAUSTED:
            return plan.on_exhausted == "compensate"
        return call.state is CallState.REFUSED

    if not state.has_failures:
        return None
    failed = [position for position in range(len(state.steps)) if turns(position)]
    if not failed:
        return None
    first = min(failed, key=lambda position: state.steps[position].action.finished_at or 0)
    name = definition.steps[first].name
    return state.steps[first].action.error or Error("exhausted", "the step failed", step=name, operation=ACTION)


def turn_wanted(definition: Definition, state: State) -> Error | None:
    """What asks for compensation; still to be decided while a pivot is open, void once one has succeeded."""
    if state.state not in {SagaState.CREATED, SagaState.EXECUTING} or past_pivot(definition, state):
        return None
    return state.turn or failure(definition, state)


def held(definition: Definition, state: State) -> tuple[int, ...]:
    """Steps that hold the saga until an operator decides."""
    if not state.has_failures or state.state is not SagaState.EXECUTING or turn_wanted(definition, state):
        return ()
    past = past_pivot(definition, state)

    def holds(position: int) -> bool:
        call, plan = state.steps[position].action, definition.steps[position]
        if call.state is CallState.EXHAUSTED:
            return plan.on_exhausted == "pause"
        return past and call.state is CallState.REFUSED

    return tuple(position for position in range(len(state.steps)) if holds(position))


def paused(definition: Definition, state: State) -> bool:
    """Derived: an operator's pause, or a step that holds."""
    return state.pause or bool(held(definition, state))


def needs_compensation(definition: Definition, state: State, position: int) -> bool:
    """Whether the step has to be undone if the saga turns."""
    call = state.steps[position].action
    undoable = definition.steps[position].compensation is not None
    return undoable and (call.state is CallState.SUCCEEDED or call.unknown)


def compensation_state(definition: Definition, state: State, position: int) -> CallState:
    """The state of a step's compensation as people are told it."""
    if definition.steps[position].compensation is None:
        return CallState.NOT_NEEDED
    told = state.steps[position].compensation.state
    if told is CallState.PENDING and state.at_rest:
        # PENDING at rest tells that the effect may still stand, as after an abandonment.
        needed = needs_compensation(definition, state, position) and state.state is not SagaState.COMPLETED
        return told if needed else CallState.NOT_NEEDED
    return told


def may_still_run(call: Call, at: Micros) -> bool:
    """Whether an attempt of this operation may still take effect at the participant."""
    return call.state is CallState.RUNNING or (call.quiet_until or 0) > at


def may_be_sent(definition: Definition, state: State, position: int, operation: Operation) -> bool:
    """Whether the saga as a whole allows attempts of this operation; of a choreography nobody but its services acts."""
    if definition.type == "choreography" or paused(definition, state):
        return False
    if operation == COMPENSATION:
        return state.state is SagaState.COMPENSATING
    if state.state is not SagaState.EXECUTING:
        return False
    return turn_wanted(definition, state) is None or decides(definition, state, position)


def decides(definition: Definition, state: State, position: int) -> bool:
    """Whether the step is a pivot whose outcome a kept turn waits for."""
    return position in definition.pivots and _is_open(state.steps[position].action)


def waits_since(definition: Definition, state: State) -> Micros | None:
    """Since when, or from when, the saga waits for one of its definition's places (`max_concurrent`); else None."""
    if definition.max_concurrent is None or state.state is not SagaState.CREATED or state.pause:
        return None
    return state.start_at or state.created_at


def takes_place(definition: Definition, state: State) -> bool:
    """Whether it counts against `max_concurrent`."""
    running = state.state in {SagaState.EXECUTING, SagaState.COMPENSATING}
    return definition.max_concurrent is not None and running


def wake_at(
    definition: Definition, state: State, now: Micros, *, apart: Collection[tuple[int, Operation]] = ()
) -> Micros | None:
    """When somebody must look at the saga again: the least over every reason of the whole state.

    `apart`: operations that give no reason, since nothing could be done for them.
    """
    if state.at_rest:
        return None
    reasons: list[Micros] = []
    answers_only = paused(definition, state)
    compensating = state.state is SagaState.COMPENSATING
    turn = turn_wanted(definition, state) is not None
    for position, operation, call in state.calls():
        if call.due_at is not None:
            awaited = call.state in {CallState.RUNNING, CallState.WAITING}
            sendable = not answers_only and (compensating or not turn or decides(definition, state, position))
            sendable = sendable and (position, operation) not in apart
            if awaited or sendable:
                reasons.append(call.due_at)
            if call.poll_every is not None:
                reasons.append(_last_poll(call, now) + call.poll_every)
        if compensating and not answers_only and operation == ACTION and (call.quiet_until or 0) > now:
            reasons.append(call.quiet_until or now)
    if not compensating and not answers_only:
        if not state.deadline_fired:
            reasons.append(state.deadline_at)
        if state.state is SagaState.CREATED and definition.max_concurrent is None:
            reasons.append(state.start_at or state.created_at)
    return min(reasons, default=None)


def polls_due(state: State, since: Micros, now: Micros) -> list[tuple[int, Operation]]:
    """Operations whose answer was to be asked for in this time. A poll that brings nothing changes nothing, so the
    times follow from the state and `since`, when the saga was to be looked at.
    """

    def due(call: Call) -> bool:
        return call.poll_from is not None and max(since, call.poll_from + 1) <= _last_poll(call, now)

    return [(position, operation) for position, operation, call in state.calls() if due(call)]


def _last_poll(call: Call, now: Micros) -> Micros:
    """The last time, not after now, at which its answer was to be asked for; at first when it began to wait."""
    begun, every = call.poll_from or now, call.poll_every or 1
    return begun + (now - begun) // every * every


def key_suffix(plan_name: str, operation: Operation, generation: int) -> str:
    """What follows the saga's id in the idempotency key of an operation (contract, section 4)."""
    renewed = f"~{generation}" if generation else ""
    return f"{plan_name}{renewed}" + ("/compensation" if operation == COMPENSATION else "")
