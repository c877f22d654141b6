"""How a state looks. Each has a word, a sign and a tone; the tone is never alone."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from app.saga import rules
from app.saga.definition import Definition
from app.saga.state import COMPENSATION, CallState, Operation, SagaState, State


class Tone(StrEnum):
    IDLE = "idle"
    ACTIVE = "active"
    WAITING = "waiting"
    GOOD = "good"
    UNDONE = "undone"
    BAD = "bad"


class Sign(NamedTuple):
    tone: Tone
    character: str
    outline: str
    """An SVG path in a square of 12 by 12, to be stroked."""


_RING: Final = "M6 2.5a3.5 3.5 0 1 0 .01 0z"
_DOTS: Final = "M2.5 6h.01M6 6h.01M9.5 6h.01"
_PLAY: Final = "M4 2.5l5.5 3.5-5.5 3.5z"
_CLOCK: Final = "M6 1.5a4.5 4.5 0 1 0 .01 0zM6 3.7v2.5l1.7 1.1"
_AGAIN: Final = "M9.9 4.4A4.3 4.3 0 1 0 10.3 6.8M10.2 1.8v2.8H7.4"
_CHECK: Final = "M2.2 6.4l2.7 2.7 5-6"
_CROSS: Final = "M3 3l6 6M9 3l-6 6"
_BANG: Final = "M6 1.8v5.4M6 10h.01"
_PAST: Final = "M2.5 3l3 3-3 3M6.5 3l3 3-3 3"
_BAR: Final = "M2.8 6h6.4"
_BACK: Final = "M4.6 2L2 4.6l2.6 2.6M2 4.6h5.2a2.6 2.6 0 0 1 0 5.2H4.6"

CALLS: Final[Mapping[CallState, Sign]] = {
    CallState.PENDING: Sign(Tone.IDLE, "○", _RING),
    CallState.SCHEDULED: Sign(Tone.ACTIVE, "…", _DOTS),
    CallState.RUNNING: Sign(Tone.ACTIVE, "▶", _PLAY),
    CallState.WAITING: Sign(Tone.WAITING, "◷", _CLOCK),
    CallState.RETRYING: Sign(Tone.WAITING, "↻", _AGAIN),
    CallState.SUCCEEDED: Sign(Tone.GOOD, "✓", _CHECK),
    CallState.REFUSED: Sign(Tone.BAD, "✗", _CROSS),
    CallState.EXHAUSTED: Sign(Tone.BAD, "!", _BANG),
    CallState.SKIPPED: Sign(Tone.IDLE, "»", _PAST),
    CallState.CANCELLED: Sign(Tone.IDLE, "⊘", _BAR),
    CallState.COMPENSATED: Sign(Tone.UNDONE, "↶", _BACK),
    CallState.FAILED: Sign(Tone.BAD, "✗", _CROSS),
    CallState.NOT_NEEDED: Sign(Tone.IDLE, "⊘", _BAR),
    CallState.RESOLVED: Sign(Tone.UNDONE, "✓", _CHECK),
}
SAGAS: Final[Mapping[SagaState, Sign]] = {
    SagaState.CREATED: Sign(Tone.IDLE, "○", _RING),
    SagaState.EXECUTING: Sign(Tone.ACTIVE, "▶", _PLAY),
    SagaState.COMPLETED: Sign(Tone.GOOD, "✓", _CHECK),
    SagaState.COMPENSATING: Sign(Tone.WAITING, "↶", _BACK),
    SagaState.FAILED: Sign(Tone.BAD, "✗", _CROSS),
    SagaState.COMPENSATION_FAILED: Sign(Tone.BAD, "!", _BANG),
    SagaState.ABANDONED: Sign(Tone.BAD, "⊘", _BAR),
}


class Standing(NamedTuple):
    """How one operation of a saga stands, as the API tells it."""

    state: CallState
    attempts: int
    needs_attention: bool

    @property
    def sign(self) -> Sign:
        return CALLS[self.state]

    @property
    def words(self) -> str:
        return self.state if self.attempts < 2 else f"{self.state} · {self.attempts} attempts"


def standing(definition: Definition, state: State, position: int, operation: Operation) -> Standing:
    call = state.call(position, operation)
    told = call.state if operation != COMPENSATION else rules.compensation_state(definition, state, position)
    turned = state.state in {SagaState.COMPENSATING, SagaState.COMPENSATION_FAILED}
    named = state.attention is not None and definition.steps[position].name in state.attention.steps
    return Standing(told, call.attempts, named and turned == (operation == COMPENSATION))


def saga_words(definition: Definition, state: State) -> str:
    """`EXECUTING, paused, needs attention`."""
    words = [str(state.state)]
    if rules.paused(definition, state):
        words.append("paused")
    if state.attention is not None:
        words.append("needs attention")
    return ", ".join(words)
