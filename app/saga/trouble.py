"""What went wrong with a saga, in as few words as people look for it by.

It is written beside the state (`app.store.sagas`), so that nobody has to open the states of all sagas to find a few.
"""

from dataclasses import dataclass

from app.saga.state import Error, SagaState, State

UNDOING = frozenset({SagaState.COMPENSATING, SagaState.COMPENSATION_FAILED})


@dataclass(frozen=True, slots=True)
class Trouble:
    step: str | None
    """The step to blame: the first that the attention names, else the one that turned the saga."""
    error: str | None
    """What went wrong there, its code and its status: `exhausted-503`."""
    told: str
    """All that errors and the attention say, what went wrong there first, a line each."""


def trouble_of(state: State) -> Trouble | None:
    """None where nothing went wrong, and of what is COMPLETED: nobody looks for it there."""
    if state.state is SagaState.COMPLETED:
        return None
    errors = [
        call.error for record in state.steps for call in (record.action, record.compensation) if call.error is not None
    ]
    if state.attention is None and state.error is None and not errors:
        return None
    step = state.error.step if state.error is not None else None
    if state.attention is not None:
        step = next(iter(state.attention.steps), step)
    error = _of(state, step)
    code = None if error is None else error.code if error.status is None else f"{error.code}-{error.status}"
    said = [each.message for each in (error, state.error) if each is not None]
    said += [] if state.attention is None else [state.attention.reason]
    said += [each.message for each in errors]
    return Trouble(step, code, "\n".join(dict.fromkeys(said)))


def _of(state: State, step: str | None) -> Error | None:
    """Of the operation that has to be looked at, else the attention's own words."""
    undoing = state.state in UNDOING
    if step is not None:
        for record in state.steps:
            error = (record.compensation if undoing else record.action).error
            if error is not None and error.step == step:
                return error
    if state.attention is not None:
        return Error(state.attention.code, state.attention.reason)
    return state.error
