"""What came of a run, to be asserted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.saga import rules
from app.saga.definition import Definition
from app.saga.messages import Record, RecordType
from app.saga.state import ACTION, COMPENSATION, CallState, Operation, SagaState, State
from app.testing.timeline import draw
from saga_participant import Call


@dataclass(frozen=True, slots=True)
class Conflict:
    """An act that the saga's state did not allow: the 409 of the API."""

    at_seconds: float
    act: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Result:
    """A saga as a run has left it. A later `go()` of the same run gives another."""

    definition: Definition
    saga_state: State
    """The machine's own."""
    history: tuple[Record, ...]
    sent: tuple[Call, ...]
    """What the participants were sent, in order; also what never reached them."""
    conflicts: tuple[Conflict, ...]
    outputs: Mapping[str, Any]
    """Of the steps that succeeded, by name, as the orchestrator knows them."""
    effects: Mapping[str, Any]
    """What stands at the participants, heard of or not: step -> output."""
    seconds: float
    """On the run's own clock, since the saga was submitted."""
    answers: Mapping[tuple[int, Operation, int], str]

    def __repr__(self) -> str:
        return f"<Result of {self.definition.name}: {self.state}, calls {self.calls}>"

    # --- the saga ---

    @property
    def state(self) -> str:
        return str(self.saga_state.state)

    @property
    def steps(self) -> dict[str, str]:
        """The state of each step's action."""
        return self._states(ACTION)

    @property
    def compensations(self) -> dict[str, str]:
        """The state of each step's compensation."""
        return self._states(COMPENSATION)

    @property
    def completed(self) -> list[str]:
        """The steps that succeeded, in that order."""
        return [self.definition.steps[position].name for position in self.saga_state.completed]

    @property
    def compensated(self) -> list[str]:
        """The steps that were undone, in that order."""
        undone = {RecordType.COMPENSATION_SUCCEEDED, RecordType.COMPENSATION_RESOLVED}
        return [self._name(record.step) for record in self.history if record.type in undone]

    @property
    def error(self) -> str | None:
        """The code of what turned the saga: refused, exhausted, expression-failed, saga-timeout, cancelled."""
        return self.saga_state.error.code if self.saga_state.error else None

    @property
    def attention(self) -> str | None:
        """Why a person is needed."""
        return self.saga_state.attention.reason if self.saga_state.attention else None

    @property
    def paused(self) -> bool:
        return rules.paused(self.definition, self.saga_state)

    @property
    def held(self) -> list[str]:
        """The steps at which the saga holds until a person decides."""
        return [self.definition.steps[position].name for position in rules.held(self.definition, self.saga_state)]

    # --- the calls ---

    @property
    def calls(self) -> list[str]:
        """Every attempt in the order in which they began: `reserve`, or `reserve/compensation`."""
        return [name_of(call.step, call.operation) for call in self.sent]

    def attempts(self, call: str) -> int:
        """How often `reserve`, or `reserve/compensation`, was tried."""
        return self.calls.count(call)

    def sent_to(self, call: str) -> list[Call]:
        """What each attempt of `reserve`, or `reserve/compensation`, was sent: input, outputs, key and the rest."""
        return [each for each in self.sent if name_of(each.step, each.operation) == call]

    # --- the effects ---

    @property
    def standing(self) -> list[str]:
        """Steps whose effect stands and counts: they have a compensation, or they are the pivot."""
        return [step.name for step in self.definition.steps if step.name in self.effects and _counts(step)]

    def assert_done(self, *steps: str) -> None:
        """The effect of each of these steps stands, or without any named: of every step that was not skipped."""
        for step in steps or self._not_skipped():
            self._check(step)
            assert step in self.effects, f"{step} is not done: it is {self.steps[step]}, and no effect of it stands."

    def assert_undone(self, *steps: str) -> None:
        """The compensation of each of these steps was done, and nothing of the step stands."""
        for step in steps:
            self._check(step)
            told = f"its action is {self.steps[step]}, its compensation {self.compensations[step]}"
            assert step not in self.effects, f"{step} is not undone, its effect stands: {told}."
            assert step in self.compensated, f"{step} was not undone: {told}."

    def assert_all_or_nothing(self) -> None:
        """Completed, and everything stands; or failed, and nothing does; or a person is told of all that may stand."""
        match self.saga_state.state:
            case SagaState.COMPLETED:
                self.assert_done()
            case SagaState.FAILED:
                left = ", ".join(self.standing)
                assert not left, f"{self.definition.name} FAILED, and the effect of {left} still stands."
            case SagaState.COMPENSATION_FAILED:
                told = self.saga_state.attention.steps if self.saga_state.attention else ()
                left = ", ".join(step for step in self.standing if step not in told)
                assert not left, f"The effect of {left} still stands, and nobody is told."
            case state:
                raise AssertionError(f"{self.definition.name} is {state}: neither all nor nothing is done.")

    @property
    def timeline(self) -> str:
        """Every attempt and turn on the run's clock, for a person."""
        return draw(self.definition, self.saga_state, self.history, self.answers, self.conflicts, self.seconds)

    # ---

    def _states(self, operation: Operation) -> dict[str, str]:
        return {
            step.name: str(self.saga_state.call(position, operation).state)
            for position, step in enumerate(self.definition.steps)
        }

    def _not_skipped(self) -> list[str]:
        return [name for name, state in self.steps.items() if state != CallState.SKIPPED]

    def _name(self, step: int | None) -> str:
        return self.definition.steps[step or 0].name

    def _check(self, step: str) -> None:
        if step not in self.definition.index:
            raise ValueError(no_step(self.definition, step))


def _counts(step: Any) -> bool:
    return step.compensation is not None or step.pivot


def name_of(step: str, operation: str) -> str:
    """As in the idempotency key."""
    return f"{step}/compensation" if operation == COMPENSATION else step


def no_step(definition: Definition, name: str) -> str:
    known = ", ".join(step.name for step in definition.steps)
    return f"{definition.name} has no step {name!r}; it has {known}."
