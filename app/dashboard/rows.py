"""A saga in a list: its sentence, and one small square for each action and each compensation.

The state, the counts and the signs are those of the page of one saga, made by the same functions of the same row, so
the two cannot disagree.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from app.engine import now_of
from app.saga import rules
from app.saga.diagram.signs import standing
from app.saga.state import ACTION, COMPENSATION, DONE, CallState, Micros, Operation
from app.sentence import sentence
from app.store.sagas import Saga

SQUARES: Final = 40
"""Steps that are drawn; of more there is the number."""
_TOUCHED: Final = frozenset(CallState) - {CallState.PENDING, CallState.NOT_NEEDED}


@dataclass(frozen=True, slots=True)
class Square:
    tone: str
    character: str
    title: str


@dataclass(frozen=True, slots=True)
class Progress:
    actions: list[Square]
    compensations: list[Square | None]
    """None: there is nothing to undo. Empty while nothing is undone."""
    more: int
    told: str
    """For who does not see squares."""


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    saga: str
    key: str
    state: str
    paused: bool
    attention: bool
    sentence: str
    progress: Progress
    labels: dict[str, str]
    tenant: str
    seq: int
    created_at: Micros
    updated_at: Micros


def row_of(saga: Saga, paused: Collection[str] = ()) -> Row:
    """`paused`: services to which nothing new is sent."""
    definition, state = saga.definition, saga.state
    return Row(
        saga.id,
        definition.name,
        saga.key,
        str(state.state),
        rules.paused(definition, state),
        state.attention is not None,
        sentence(definition, state, now_of(saga), paused),
        progress_of(saga),
        dict(saga.labels),
        saga.tenant,
        state.seq,
        state.created_at,
        state.updated_at,
    )


def progress_of(saga: Saga) -> Progress:
    definition, state = saga.definition, saga.state
    shown = range(min(len(definition.steps), SQUARES))
    done = sum(record.action.state in DONE for record in state.steps)
    undoing = any(rules.compensation_state(definition, state, p) in _TOUCHED for p in range(len(definition.steps)))
    undone = sum(record.compensation.state is CallState.COMPENSATED for record in state.steps)
    return Progress(
        [square for p in shown for square in _square(saga, p, ACTION)],
        [next(_square(saga, p, COMPENSATION), None) for p in shown] if undoing else [],
        len(definition.steps) - len(shown),
        f"{done} of {len(state.steps)} steps done{f', {undone} undone' if undone else ''}",
    )


def _square(saga: Saga, position: int, operation: Operation) -> Iterator[Square]:
    plan = saga.definition.steps[position]
    if operation == COMPENSATION and plan.compensation is None:
        return
    how = standing(saga.definition, saga.state, position, operation)
    name = plan.name if operation == ACTION else f"undo {plan.name}"
    yield Square(how.sign.tone, how.sign.character, f"{name}: {how.words}")
