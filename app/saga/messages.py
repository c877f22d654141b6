"""What the machine can be told and what it answers with: closed unions of frozen types.

A *message* is told to the machine, at an instant of the database's clock. A *record* is one line of the saga's
history; the state is the fold of its records. A *command* asks the engine for something outside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from app.saga.state import Micros, Operation, State


class OutcomeKind(StrEnum):
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    """It certainly did not happen."""
    PENDING = "pending"
    """Accepted; the answer comes by callback or by polling."""
    UNKNOWN = "unknown"
    """It may or may not have happened."""
    NOT_SENT = "not-sent"
    """It certainly never left the house."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, as a participant's adapter saw it."""

    kind: OutcomeKind
    message: str = ""
    """For a person; at most a few hundred characters."""
    status: int | None = None
    output: bytes = b"null"
    """What a success answered, as JSON. Not part of the state."""
    retriable: bool | None = None
    """The participant's own word, where it gave one: an unknown outcome is not repeated where it is false, a refusal is
    repeated where it is true."""
    may_run_seconds: float = 0
    """How much longer the attempt may still take effect; 0 where it is over. Opens the quiet window."""
    retry_after_seconds: float | None = None
    poll_url: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    """For the history: milliseconds, head of the answer."""
    answer: bytes = b""
    """The whole of an answer that was no success, which `head` is the beginning of. Kept nowhere: it says what in such
    texts has to be hidden (`app.redacting`)."""


# --- messages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker is about to carry out an attempt."""

    at: Micros
    step: int
    operation: Operation


@dataclass(frozen=True, slots=True)
class ConditionFalse:
    """A worker found the step's `when` false."""

    at: Micros
    step: int


@dataclass(frozen=True, slots=True)
class Inexpressible:
    """A worker could not evaluate the step's expressions."""

    at: Micros
    step: int
    operation: Operation
    message: str


@dataclass(frozen=True, slots=True)
class ParticipantMissing:
    """A worker does not know the step's service or function."""

    at: Micros
    step: int
    operation: Operation
    message: str


@dataclass(frozen=True, slots=True)
class Answered:
    at: Micros
    step: int
    operation: Operation
    attempt: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Woken:
    """It is time to look at the saga."""

    at: Micros


@dataclass(frozen=True, slots=True)
class Admitted:
    """Its definition has a free place (`max_concurrent`), and nobody has waited longer."""

    at: Micros


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of a choreographed saga stands on the stream; its number of appearances and their order say nothing."""

    at: Micros
    event: str
    """Its type."""
    reason: str | None = None
    """What a failure event's data says, for a person; at most a few hundred characters."""


@dataclass(frozen=True, slots=True)
class Actor:
    name: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """By the submitter, or by an operator's `compensate`."""

    at: Micros
    by: Actor


@dataclass(frozen=True, slots=True)
class Retry:
    at: Micros
    by: Actor
    new_input: bool = False
    confirm_not_done: bool = False
    step: int | None = None
    """Only this step; needed where `new_input` could mean several."""


@dataclass(frozen=True, slots=True)
class Skip:
    at: Micros
    by: Actor
    step: int
    confirm_not_done: bool = False


@dataclass(frozen=True, slots=True)
class Resolve:
    at: Micros
    by: Actor
    step: int


@dataclass(frozen=True, slots=True)
class Abandon:
    at: Micros
    by: Actor


@dataclass(frozen=True, slots=True)
class Pause:
    at: Micros
    by: Actor


@dataclass(frozen=True, slots=True)
class Resume:
    at: Micros
    by: Actor


@dataclass(frozen=True, slots=True)
class Extend:
    at: Micros
    by: Actor
    timeout_seconds: float


FromWorker: TypeAlias = Claim | ConditionFalse | Inexpressible | ParticipantMissing | Answered | Woken | Admitted
FromOperator: TypeAlias = Cancel | Retry | Skip | Resolve | Abandon | Pause | Resume | Extend
Message: TypeAlias = FromWorker | Happened | FromOperator


# --- history ----------------------------------------------------------------------------------------------------


class RecordType(StrEnum):
    SAGA_CREATED = "SagaCreated"
    SAGA_STARTED = "SagaStarted"
    STEP_SCHEDULED = "StepScheduled"
    STEP_STARTED = "StepStarted"
    STEP_SUCCEEDED = "StepSucceeded"
    STEP_REFUSED = "StepRefused"
    STEP_ATTEMPT_FAILED = "StepAttemptFailed"
    STEP_ATTEMPT_LOST = "StepAttemptLost"
    STEP_WAITING = "StepWaiting"
    STEP_EXHAUSTED = "StepExhausted"
    STEP_SKIPPED = "StepSkipped"
    SAGA_TIMED_OUT = "SagaTimedOut"
    SAGA_CANCELLED = "SagaCancelled"
    COMPENSATION_BEGAN = "CompensationBegan"
    COMPENSATION_SCHEDULED = "CompensationScheduled"
    COMPENSATION_STARTED = "CompensationStarted"
    COMPENSATION_SUCCEEDED = "CompensationSucceeded"
    COMPENSATION_ATTEMPT_FAILED = "CompensationAttemptFailed"
    COMPENSATION_FAILED = "CompensationFailed"
    COMPENSATION_RESOLVED = "CompensationResolved"
    SAGA_COMPLETED = "SagaCompleted"
    SAGA_FAILED = "SagaFailed"
    SAGA_COMPENSATION_FAILED = "SagaCompensationFailed"
    SAGA_PAUSED = "SagaPaused"
    SAGA_RESUMED = "SagaResumed"
    SAGA_EXTENDED = "SagaExtended"
    SAGA_ABANDONED = "SagaAbandoned"
    OPERATOR_ACTED = "OperatorActed"
    ATTENTION_RAISED = "AttentionRaised"


@dataclass(frozen=True, slots=True)
class Record:
    seq: int
    type: RecordType
    at: Micros
    step: int | None = None
    operation: Operation | None = None
    attempt: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


# --- answers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Ring the bell for this operation, now or in a while. The state says the same, so a lost bell loses nothing."""

    step: int
    operation: Operation
    delay_seconds: float = 0


@dataclass(frozen=True, slots=True)
class Request:
    """`CompensationRequested` has to be published, in the order of the transition's requests: written to the outbox
    with the transition.
    """

    step: int
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An operation was given up."""

    step: int
    operation: Operation
    attempts: int
    error: Mapping[str, Any]
    status: str
    """`open` where a person has to act, else `noted`."""


@dataclass(frozen=True, slots=True)
class ClosedLetter:
    step: int
    operation: Operation
    status: str
    """`retried` or `resolved`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The saga's state does not allow what an operator asked for."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Transition:
    """`records` empty: nothing changed. `refusal`: nothing changed, and the asker is told why."""

    state: State
    records: tuple[Record, ...] = ()
    dispatches: tuple[Dispatch, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    closed_letters: tuple[ClosedLetter, ...] = ()
    requests: tuple[Request, ...] = ()
    refusal: Refusal | None = None
