"""The law of choreographed sagas: services act on each other's events, and the saga is what is known of them.

What it promises is what `machine` promises: all is done, or all is undone, or `attention` names every step whose
effect may still stand. What differs is who acts. Services undo by themselves when they see a failure event; the saga
watches, and asks with `CompensationRequested` where somebody stays silent.

What an event means. `succeeded` and `failed` are certain, since a service publishes them in the transaction that did
it or did not. They come in any order, doubled, late or never, so an event is taken for what it says by itself: it
also shows that its trigger, and the triggers before that one, have happened, and the steps that listen to them are
awaited from then on. `compensated` shows that the saga has begun and that its step is undone or was called off:
services answer a compensation also where they never saw the trigger. Silence past a step's timeout means that its
outcome is unknown.

How it turns. By a failure event, or by a `compensated` that comes before it: the services have seen the failure as
well, so whoever has something to undo is waited for, for `compensation_timeout`, and asked when that is over; a branch
that still runs is awaited until its answer or its timeout. By silence, the saga's timeout or a cancel: nobody else
knows of it, so every step that has begun is asked at once, those that run too, as a step that waits for a callback
is not waited for either. This relies on what `saga_participant` does: a request that comes before its trigger keeps
the trigger from taking effect. What is unknown and cannot be asked, having nothing to undo, may still trigger the
steps that listen to it: they are unknown as well.

In which order. Requests of one transition stand in reverse order of dependency, and no step is asked before what
depends on it has been asked, has answered, or need not be asked. The answer to a request is not waited for.

Who wins. `succeeded` counts whenever it comes, also after silence or `failed`: an effect must not stand unseen.
`failed` after silence settles the step. `compensated` settles its step for good. Everything else that is doubled
changes nothing, and a final state never changes. In COMPENSATION_FAILED a late `compensated` or `failed` settles its
step, and an event of a step that nobody knew of has the saga undo that one too.
"""

from typing import Any, Final

from app.saga.backoff import delay_seconds
from app.saga.definition import Definition, StepEvents
from app.saga.draft import Draft, Timing, attempts_told, micros, plain
from app.saga.graph import in_order
from app.saga.history import initial
from app.saga.messages import (
    Happened,
    OutcomeKind,
    Record,
    RecordType,
    Refusal,
    Retry,
    Skip,
    Transition,
    Woken,
)
from app.saga.rules import needs_compensation, turn_wanted
from app.saga.state import ACTION, COMPENSATION, UNDER_WAY, Call, CallState, Micros, SagaState, State

EVENT_FAILED: Final = "event-failed"
_SETTLED: Final = frozenset({CallState.COMPENSATED, CallState.RESOLVED})


def create(
    definition: Definition, at: Micros, event: str, *, saga_id: str, timing: Timing, reason: str | None = None
) -> Transition:
    """A saga of which this event is the first that was seen, whichever of its events it is."""
    deadline_at = at + micros(definition.timeout_seconds)
    record = Record(1, RecordType.SAGA_CREATED, at, data={"deadline_at": deadline_at, "event": event})
    draft = Draft(definition, initial(definition, record), at, saga_id, timing)
    draft.records.append(record)
    draft.record(RecordType.SAGA_STARTED)
    happened(draft, Happened(at, event, reason))
    advance(draft)
    return draft.transition(Transition(draft.state))


def _events(definition: Definition) -> list[StepEvents]:
    return [plan.events for plan in definition.steps if plan.events is not None]


# --- what services tell -----------------------------------------------------------------------------------------


def happened(draft: Draft, message: Happened) -> None:
    if draft.state.final:
        return
    for position, events in enumerate(_events(draft.definition)):
        if message.event == events.succeeded:
            _begin_up_to(draft, position, message)
            _succeeded(draft, position, message)
        elif message.event == events.failed:
            _begin_up_to(draft, position, message)
            _failed(draft, position, message)
        elif message.event == events.compensated:
            _compensated(draft, position, message)
    _begin(draft, message.event, message)


def _begin_up_to(draft: Draft, position: int, message: Happened) -> None:
    """A result of this step shows that its trigger has happened, and those before it."""
    upstream = draft.definition.upstream
    for each in sorted({*upstream[position], position}, key=lambda each: len(upstream[each])):
        _begin(draft, _events(draft.definition)[each].trigger, message)


def _begin(draft: Draft, trigger: str, message: Happened) -> None:
    """Whoever listens to it has begun, also where the saga has turned meanwhile: nobody has told the services."""
    for position, events in enumerate(_events(draft.definition)):
        call, undo = draft.state.steps[position].action, draft.state.steps[position].compensation
        never_begun = call.attempts == 0 and call.state in {CallState.PENDING, CallState.CANCELLED}
        if events.trigger == trigger and never_begun and undo.state not in _SETTLED:
            _undo_again(draft)
            until = draft.at + micros(draft.definition.steps[position].timeout_seconds)
            draft.record(RecordType.STEP_STARTED, position, ACTION, 1, until=until, event=message.event)


def _undo_again(draft: Draft) -> None:
    """In COMPENSATION_FAILED something is heard of that has to be undone as well."""
    if draft.state.state is SagaState.COMPENSATION_FAILED and draft.state.error is not None:
        draft.record(RecordType.COMPENSATION_BEGAN, error=plain(draft.state.error))


def _succeeded(draft: Draft, position: int, message: Happened) -> None:
    call, undo = draft.state.steps[position].action, draft.state.steps[position].compensation
    if call.state is CallState.SUCCEEDED:
        return
    if undo.state is CallState.NOT_NEEDED and draft.definition.steps[position].compensation is not None:
        _undo_again(draft)
    draft.record(RecordType.STEP_SUCCEEDED, position, ACTION, call.attempts or None, event=message.event)


def _failed(draft: Draft, position: int, message: Happened) -> None:
    state = draft.state
    call, undo = state.steps[position].action, state.steps[position].compensation
    # What is certainly not done needs no undoing, though it was unknown before.
    settles = needs_compensation(draft.definition, state, position) and undo.state not in _SETTLED
    if call.state in {CallState.SUCCEEDED, CallState.REFUSED} or (state.at_rest and not settles):
        return
    error = draft.error(position, ACTION, EVENT_FAILED, message.reason or f"{message.event} came")
    # What was undone before its failure was seen has turned the saga only in its place.
    first = state.state is SagaState.COMPENSATING and state.error is not None and state.error.operation == COMPENSATION
    turned = {"turned": True} if first else {}
    draft.record(
        RecordType.STEP_REFUSED,
        position,
        ACTION,
        call.attempts or None,
        error=plain(error),
        event=message.event,
        **turned,
    )
    if settles:
        _undone(draft, position, message)


def _compensated(draft: Draft, position: int, message: Happened) -> None:
    _begin(draft, draft.definition.started_by or "", message)
    state = draft.state
    call, undo = state.steps[position].action, state.steps[position].compensation
    if undo.state in _SETTLED or (state.at_rest and undo.state is not CallState.FAILED):
        return
    _undone(draft, position, message)
    if state.state is SagaState.EXECUTING and turn_wanted(draft.definition, state) is None:
        text = f"{message.event} came: what failed has not been heard of yet"
        error = draft.error(position, COMPENSATION, EVENT_FAILED, text)
        draft.record(RecordType.COMPENSATION_BEGAN, error=plain(error))
    if call.state is CallState.RUNNING:
        _lost(draft, position, f"{message.event} came before its result")


def _undone(draft: Draft, position: int, message: Happened) -> None:
    attempt = draft.state.steps[position].compensation.attempts or None
    draft.record(RecordType.COMPENSATION_SUCCEEDED, position, COMPENSATION, attempt, event=message.event)


# --- what time tells --------------------------------------------------------------------------------------------


def woken(draft: Draft, _: Woken) -> None:
    if draft.state.at_rest:
        return
    for position, operation, call in draft.before.calls():
        if call.state is not CallState.RUNNING or (call.due_at or 0) > draft.at:
            continue
        if operation == COMPENSATION:
            _unanswered(draft, position, call)
            continue
        plan = draft.definition.steps[position]
        text = f"no event of {plan.name} came within {plan.timeout_seconds:g} s"
        executing = draft.state.state is SagaState.EXECUTING
        _lost(draft, position, text)
        if executing:
            error = draft.error(position, ACTION, "exhausted", text)
            draft.record(RecordType.STEP_EXHAUSTED, position, ACTION, error=plain(error))


def _lost(draft: Draft, position: int, text: str) -> None:
    error = draft.error(position, ACTION, OutcomeKind.UNKNOWN, text)
    attempt = draft.state.steps[position].action.attempts or None
    data = {"outcome": str(OutcomeKind.UNKNOWN), "error": plain(error)}
    draft.record(RecordType.STEP_ATTEMPT_LOST, position, ACTION, attempt, **data)


def _unanswered(draft: Draft, position: int, call: Call) -> None:
    """A compensation was asked for, and its event has not come in time."""
    plan = draft.definition.steps[position]
    text = f"{plan.compensation} did not come within {plan.compensation_timeout_seconds:g} s of the request"
    error = draft.error(position, COMPENSATION, OutcomeKind.UNKNOWN, text)
    data: dict[str, Any] = {"outcome": str(OutcomeKind.UNKNOWN), "error": plain(error)}
    policy = plan.compensation_retry
    if call.spent < policy.max_attempts:
        key = f"{draft.saga_id}/{position}/{COMPENSATION}/{call.attempts}"
        data["retry_at"] = draft.at + micros(delay_seconds(policy, max(call.spent, 1), key))
        draft.record(RecordType.COMPENSATION_ATTEMPT_FAILED, position, COMPENSATION, call.attempts, **data)
        return
    draft.record(RecordType.COMPENSATION_ATTEMPT_FAILED, position, COMPENSATION, call.attempts, **data)
    text = f"{text}, after {attempts_told(call.attempts)}"
    given_up = draft.error(position, COMPENSATION, "exhausted", text)
    draft.record(RecordType.COMPENSATION_FAILED, position, COMPENSATION, error=plain(given_up))


# --- what people tell -------------------------------------------------------------------------------------------


def retry(draft: Draft, message: Retry) -> Refusal | None:
    """Asks again at once, with a fresh budget: what has failed, and what waits to be asked again."""
    definition, state = draft.definition, draft.state
    if state.final:
        return draft.refuse_at_rest()
    if message.new_input:
        detail = "A choreographed step takes its input from its trigger; an operator cannot give it another."
        return Refusal("nothing-to-retry", detail)
    wanted = range(len(state.steps)) if message.step is None else (message.step,)
    again = {CallState.FAILED, CallState.RETRYING}
    names = [definition.steps[p].name for p in wanted if state.steps[p].compensation.state in again]
    if not names:
        detail = "No compensation has failed or waits to be asked for again. Actions are up to their services."
        return Refusal("nothing-to-retry", detail)
    draft.acted("retry", message, message.step, compensations=names)
    return None


def skip(draft: Draft, message: Skip) -> Refusal:
    if refusal := draft.refuse_at_rest():
        return refusal
    name = draft.definition.steps[message.step].name
    detail = f"{name} is choreographed: its service goes by events, so leaving the step out here would not stop it."
    return Refusal("step-not-skippable", detail)


# --- conclusions ------------------------------------------------------------------------------------------------


def advance(draft: Draft) -> None:
    if draft.state.state is SagaState.EXECUTING:
        if turn := turn_wanted(draft.definition, draft.state):
            draft.record(RecordType.COMPENSATION_BEGAN, error=plain(turn))
        elif all(record.action.state is CallState.SUCCEEDED for record in draft.state.steps):
            draft.record(RecordType.SAGA_COMPLETED)
    if draft.state.state is SagaState.COMPENSATING:
        order = in_order(draft.definition.dependencies)
        must_ask = draft.state.error is not None and draft.state.error.code != EVENT_FAILED
        _find_unknown(draft, order, stop_waiting=must_ask and not draft.state.pause)
        if not draft.state.pause:
            _have_undone(draft, order, must_ask)
        _end_undoing(draft)


def _find_unknown(draft: Draft, order: list[int], *, stop_waiting: bool) -> None:
    """Of what was lost, what cannot be called off may still trigger those that listen to it: they are unknown too."""
    definition = draft.definition
    for position in order:
        call, undo = draft.state.steps[position].action, draft.state.steps[position].compensation
        if stop_waiting and call.state is CallState.RUNNING:
            _lost(draft, position, "the saga has turned; its result is not waited for")
        never_begun = call.state is CallState.CANCELLED and call.attempts == 0 and not call.unknown
        for before in definition.dependencies[position] if never_begun and undo.state not in _SETTLED else ():
            trigger = draft.state.steps[before].action
            unsettled = trigger.unknown and trigger.state in {CallState.CANCELLED, CallState.EXHAUSTED}
            if unsettled and definition.steps[before].compensation is None:
                _lost(draft, position, f"whether {definition.steps[before].name} has triggered it is not known")


def _have_undone(draft: Draft, order: list[int], must_ask: bool) -> None:
    """Waits for the services to undo by themselves, or asks them; later steps first."""
    definition = draft.definition
    awaited_below = [0] * len(definition.steps)
    for position in reversed(order):
        undo = draft.state.steps[position].compensation
        below = awaited_below[position]
        if undo.state is CallState.PENDING and needs_compensation(definition, draft.state, position):
            if must_ask or undo.error is not None:
                _ask(draft, position)
            else:
                by_itself = draft.at + micros(definition.steps[position].compensation_timeout_seconds)
                _wait(draft, position, max(by_itself, below))
        elif undo.state in {CallState.SCHEDULED, CallState.RETRYING} and (undo.due_at or 0) <= draft.at:
            if undo.state is CallState.SCHEDULED and below > draft.at:
                _wait(draft, position, below)
            else:
                _ask(draft, position)
        for before in definition.dependencies[position]:
            awaited = _awaited_until(draft.state, position)
            awaited_below[before] = max(awaited_below[before], awaited, below)


def _awaited_until(state: State, position: int) -> Micros:
    """How long a step is waited for before those that it depends on are asked; 0 where it is not."""
    record = state.steps[position]
    running = record.action.due_at if record.action.state is CallState.RUNNING else None
    undoing = record.compensation.due_at if record.compensation.state is CallState.SCHEDULED else None
    return max(running or 0, undoing or 0)


def _wait(draft: Draft, position: int, due_at: Micros) -> None:
    draft.record(RecordType.COMPENSATION_SCHEDULED, position, COMPENSATION, due_at=due_at)


def _ask(draft: Draft, position: int) -> None:
    until = draft.at + micros(draft.definition.steps[position].compensation_timeout_seconds)
    attempt = draft.state.steps[position].compensation.attempts + 1
    draft.record(RecordType.COMPENSATION_STARTED, position, COMPENSATION, attempt, until=until)


def _end_undoing(draft: Draft) -> None:
    definition, state = draft.definition, draft.state
    for position, record in enumerate(state.steps):
        under_way = record.action.state is CallState.RUNNING or record.compensation.state in UNDER_WAY
        to_begin = record.compensation.state is CallState.PENDING and needs_compensation(definition, state, position)
        if under_way or to_begin:
            return
    draft.end_undoing([p for p, r in enumerate(state.steps) if r.compensation.state is CallState.FAILED], ())
