"""What is known of one saga: small, without payloads, rewritten as a whole by every transition.

Times are whole microseconds since the epoch, by the database's clock. Inputs and outputs are not here: they
are written once, to rows of their own (`app.store.sagas`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final, Literal, TypeAlias

Operation: TypeAlias = Literal["action", "compensation"]
ACTION: Final = "action"
COMPENSATION: Final = "compensation"
OPERATIONS: Final[tuple[Operation, Operation]] = (ACTION, COMPENSATION)

Micros: TypeAlias = int
SECOND: Final[Micros] = 1_000_000

FORMAT: Final = 1
"""Of the packed state. A process leaves rows of a newer format alone (`app.store.sagas`)."""


class SagaState(StrEnum):
    CREATED = "CREATED"
    EXECUTING = "EXECUTING"
    COMPLETED = "COMPLETED"
    COMPENSATING = "COMPENSATING"
    FAILED = "FAILED"
    COMPENSATION_FAILED = "COMPENSATION_FAILED"
    ABANDONED = "ABANDONED"


FINAL: Final = frozenset({SagaState.COMPLETED, SagaState.FAILED, SagaState.ABANDONED})
AT_REST: Final = FINAL | {SagaState.COMPENSATION_FAILED}


class CallState(StrEnum):
    """Of an action or a compensation: the first five are common to both."""

    PENDING = "PENDING"
    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    RETRYING = "RETRYING"
    # how an action ends
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"
    EXHAUSTED = "EXHAUSTED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"
    # how a compensation ends
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"
    NOT_NEEDED = "NOT_NEEDED"
    RESOLVED = "RESOLVED"


UNDER_WAY: Final = frozenset({CallState.SCHEDULED, CallState.RUNNING, CallState.WAITING, CallState.RETRYING})
DONE: Final = frozenset({CallState.SUCCEEDED, CallState.SKIPPED})
GAVE_UP: Final = frozenset({CallState.REFUSED, CallState.EXHAUSTED})
UNDONE: Final = frozenset({CallState.COMPENSATED, CallState.RESOLVED, CallState.NOT_NEEDED})


@dataclass(frozen=True, slots=True)
class Error:
    code: str
    message: str
    status: int | None = None
    step: str | None = None
    operation: str | None = None
    attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """Why a person is needed."""

    since: Micros
    code: str
    reason: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One operation of one step, over all of its attempts."""

    state: CallState = CallState.PENDING
    attempts: int = 0
    """Claimed so far. Only grows, also over an operator's retry: it fences answers."""
    spent: int = 0
    """Attempts counted against the present budget."""
    sends: int = 0
    """How often the bell has rung since it was scheduled: re-sends keep growing distances."""
    due_at: Micros | None = None
    """SCHEDULED: sent again then. RUNNING: the lease's end. WAITING: the callback's limit. RETRYING: next attempt."""
    unknown: bool = False
    """An attempt ended unknown. Sticks until a success settles it."""
    quiet_until: Micros | None = None
    """An attempt that was cut off may still run at the participant until then."""
    key: int = 0
    """Generation of the idempotency key: 0, then n for the n-th input that an operator gave."""
    key_from: int = 1
    """The first attempt that carries this key."""
    poll: str | None = None
    """WAITING: where the answer is asked for (the `Location` of a 202), every `poll_every`; None: it is called back."""
    poll_every: Micros | None = None
    poll_from: Micros | None = None
    """It is asked for at this time plus 1, 2, 3, ... times `poll_every`."""
    error: Error | None = None
    started_at: Micros | None = None
    finished_at: Micros | None = None


UNTOUCHED_CALL: Final = Call()


@dataclass(frozen=True, slots=True)
class StepRecord:
    action: Call = UNTOUCHED_CALL
    compensation: Call = UNTOUCHED_CALL

    def call(self, operation: Operation) -> Call:
        return self.action if operation == ACTION else self.compensation


@dataclass(frozen=True, slots=True)
class State:
    state: SagaState
    seq: int
    """Number of the last event in the history; guards every write."""
    steps: tuple[StepRecord, ...]
    created_at: Micros
    updated_at: Micros
    deadline_at: Micros
    start_at: Micros | None = None
    finished_at: Micros | None = None
    deadline_fired: bool = False
    pause: bool = False
    """An operator's; `app.saga.machine.paused` adds what holds by itself."""
    turn: Error | None = None
    """A turn that is kept until the pivot's outcome is known."""
    error: Error | None = None
    """What turned the saga."""
    attention: Attention | None = None
    completed: tuple[int, ...] = ()
    """Positions of the steps that succeeded, in that order."""

    @property
    def at_rest(self) -> bool:
        return self.state in AT_REST

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def has_failures(self) -> bool:
        """Whether any operation was given up; most sagas never have one, and most questions are about these."""
        return any(s.action.state in GAVE_UP or s.compensation.state is CallState.FAILED for s in self.steps)

    def call(self, step: int, operation: Operation) -> Call:
        return self.steps[step].call(operation)

    def with_call(self, step: int, operation: Operation, call: Call) -> "State":
        record = self.steps[step]
        new = StepRecord(call, record.compensation) if operation == ACTION else StepRecord(record.action, call)
        return replace(self, steps=(*self.steps[:step], new, *self.steps[step + 1 :]))

    def calls(self) -> Iterator[tuple[int, Operation, Call]]:
        for position, record in enumerate(self.steps):
            yield position, ACTION, record.action
            yield position, COMPENSATION, record.compensation


# --- to and from JSON -------------------------------------------------------------------------------------------
# Only what differs from the default is written: a saga of 200 steps that has begun two stays small.


def _changed(value: Any) -> dict[str, Any]:
    packed = {}
    for name, default in _DEFAULTS[type(value)]:
        v = getattr(value, name)
        if v is not default and v != default:
            packed[name] = v
    return packed


def _pack_call(call: Call) -> dict[str, Any]:
    if call is UNTOUCHED_CALL:
        return {}
    packed = _changed(call)
    if call.error is not None:
        packed["error"] = _changed(call.error)
    return packed


def _unpack_call(packed: Mapping[str, Any]) -> Call:
    if not packed:
        return UNTOUCHED_CALL
    values = dict(packed)
    if "state" in values:
        values["state"] = CallState(values["state"])
    if "error" in values:
        values["error"] = Error(**values["error"])
    return Call(**values)


def pack(state: State) -> dict[str, Any]:
    """The state as JSON can say it; `unpack(pack(state), len(state.steps)) == state`."""
    packed = _changed(state)
    packed["steps"] = [
        [position, _pack_call(record.action), _pack_call(record.compensation)]
        for position, record in enumerate(state.steps)
        if record is not UNTOUCHED and record != UNTOUCHED
    ]
    for name in ("turn", "error", "attention"):
        if name in packed:
            packed[name] = _changed(packed[name])
    return packed


def unpack(packed: Mapping[str, Any], step_count: int) -> State:
    values = dict(packed)
    values["state"] = SagaState(values["state"])
    steps = [UNTOUCHED] * step_count
    for position, action, compensation in values["steps"]:
        steps[position] = StepRecord(_unpack_call(action), _unpack_call(compensation))
    values["steps"] = tuple(steps)
    for name in ("turn", "error"):
        if name in values:
            values[name] = Error(**values[name])
    if "attention" in values:
        attention = values["attention"]
        values["attention"] = Attention(**{**attention, "steps": tuple(attention.get("steps", ()))})
    if "completed" in values:
        values["completed"] = tuple(values["completed"])
    return State(**values)


UNTOUCHED: Final = StepRecord()
_DEFAULTS: Final = {
    kind: tuple((field.name, field.default) for field in fields(kind)) for kind in (State, Call, Error, Attention)
}
