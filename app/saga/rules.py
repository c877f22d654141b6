"""Questions about a saga's state. What the machine decides by, and what the API and the dashboard tell people."""

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


def may_still_run(call: Call, at: Micros) -> bool:
    """Whether an attempt of this operation may still take effect at the participant."""
    return call.state is CallState.RUNNING or (call.quiet_until or 0) > at


def may_be_sent(definition: Definition, state: State, position: int, operation: Operation) -> bool:
    """Whether the saga as a whole allows attempts of this operation."""
    if paused(definition, state):
        return False
    if operation == COMPENSATION:
        return state.state is SagaState.COMPENSATING
    if state.state is not SagaState.EXECUTING:
        return False
    return turn_wanted(definition, state) is None or decides(definition, state, position)


def decides(definition: Definition, state: State, position: int) -> bool:
    """Whether the step is a pivot whose outcome a kept turn waits for."""
    return position in definition.pivots and _is_open(state.steps[position].action)


def wake_at(definition: Definition, state: State, now: Micros) -> Micros | None:
    """When somebody must look at the saga again: the least over every reason of the whole state."""
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
            if awaited or sendable:
                reasons.append(call.due_at)
        if compensating and not answers_only and operation == ACTION and (call.quiet_until or 0) > now:
            reasons.append(call.quiet_until or now)
    if not compensating and not answers_only:
        if not state.deadline_fired:
            reasons.append(state.deadline_at)
        if state.state is SagaState.CREATED and state.start_at is not None:
            reasons.append(state.start_at)
    return min(reasons, default=None)


def key_suffix(plan_name: str, operation: Operation, generation: int) -> str:
    """What follows the saga's id in the idempotency key of an operation (contract, section 4)."""
    renewed = f"~{generation}" if generation else ""
    return f"{plan_name}{renewed}" + ("/compensation" if operation == COMPENSATION else "")
