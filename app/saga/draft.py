"""A saga's state and the records written to it so far: what every law writes into.

Each record is folded into the state at once, so the next decision sees it, and the history gives the state by
construction. What follows outside (bells, dead letters) is read off the finished draft.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from app.saga.definition import Definition
from app.saga.history import evolve
from app.saga.messages import (
    ClosedLetter,
    DeadLetter,
    Dispatch,
    FromOperator,
    Record,
    RecordType,
    Refusal,
    Request,
    Transition,
)
from app.saga.rules import held, may_be_sent
from app.saga.state import ACTION, COMPENSATION, SECOND, CallState, Error, Micros, Operation, State


@dataclass(frozen=True, slots=True)
class Timing:
    """The house's own durations, from its settings."""

    lease_grace_seconds: float = 5
    redispatch_after_seconds: float = 10


RESEND_GROWTH: Final = 1.5
RESEND_CAP: Final = 2
"""A step that nobody claims is sent again after 1, 1.5, 2, 2, ... times `redispatch_after_seconds`."""

SELF_RING_SECONDS: Final = 5
"""A retry due within this is rung by the worker that set it; a later one is left to the sweep."""


class Draft:
    """A state and the records written to it so far."""

    def __init__(self, definition: Definition, state: State, at: Micros, saga_id: str, timing: Timing) -> None:
        self.definition, self.before, self.state = definition, state, state
        self.at, self.saga_id, self.timing = at, saga_id, timing
        self.records: list[Record] = []

    def record(
        self,
        kind: RecordType,
        step: int | None = None,
        operation: Operation | None = None,
        attempt: int | None = None,
        /,
        **data: Any,
    ) -> None:
        record = Record(self.state.seq + 1, kind, self.at, step, operation, attempt, data)
        self.state = evolve(self.definition, self.state, record)
        self.records.append(record)

    def schedule(self, step: int, operation: Operation, **data: Any) -> None:
        call = self.state.call(step, operation)
        sends = 1 if data.get("fresh") or call.state is not CallState.SCHEDULED else call.sends + 1
        factor = min(RESEND_GROWTH ** min(sends - 1, 10), RESEND_CAP)
        due_at = self.at + micros(self.timing.redispatch_after_seconds * factor)
        kind = RecordType.STEP_SCHEDULED if operation == ACTION else RecordType.COMPENSATION_SCHEDULED
        self.record(kind, step, operation, due_at=due_at, sends=sends, **data)

    def error(self, step: int, operation: Operation, code: str, message: str, status: int | None = None) -> Error:
        return Error(
            code=code,
            message=message,
            status=status,
            step=self.definition.steps[step].name,
            operation=operation,
            attempts=self.state.call(step, operation).attempts,
        )

    def raise_attention(self, code: str, reason: str, *steps: int, turn: Error | None = None) -> None:
        """Raised once; the history does not repeat what already stands."""
        named = {self.definition.steps[step].name for step in steps}
        standing = self.state.attention
        if standing and standing.code == code:
            if named <= set(standing.steps) and turn is None:
                return
            named |= set(standing.steps)
        names = [plan.name for plan in self.definition.steps if plan.name in named]
        data: dict[str, Any] = {"code": code, "reason": reason, "steps": names}
        if turn is not None:
            data["turn"] = plain(turn)
        self.record(RecordType.ATTENTION_RAISED, **data)

    def acted(self, action: str, message: FromOperator, step: int | None = None, **data: Any) -> None:
        by = {"actor": message.by.name, "reason": message.by.reason}
        self.record(RecordType.OPERATOR_ACTED, step, action=action, **by, **data)

    def refuse_at_rest(self) -> Refusal | None:
        if not self.state.at_rest:
            return None
        if not self.state.final:
            advice = "goes on only when its failed compensations are retried or resolved."
            return Refusal("saga-at-rest", f"The saga is {self.state.state}, and {advice}")
        return Refusal("saga-at-rest", f"The saga is {self.state.state} and changes no more; restart makes a new one.")

    def end_undoing(self, failed: Sequence[int], standing: Sequence[int]) -> None:
        """Nothing is under way any more. `standing`: steps beside the failed ones that have not been undone."""
        if not failed:
            self.record(RecordType.SAGA_FAILED)
            return
        positions = sorted((*failed, *standing))
        names = [self.definition.steps[p].name for p in positions]
        self.record(RecordType.SAGA_COMPENSATION_FAILED, steps=names)
        first = self.state.steps[failed[0]].compensation.error
        because = f": {first.message}" if first else ""
        reason = (
            f"{self.definition.steps[failed[0]].name} could not be compensated{because}. The effect of"
            f" {', '.join(names)} may still stand: retry the compensations, or settle them by hand and resolve them."
        )
        self.raise_attention("compensation-failed", reason, *positions)

    def transition(self, unchanged: Transition, *, retried: bool = False) -> Transition:
        if not self.records:
            return unchanged
        return Transition(
            self.state,
            tuple(self.records),
            tuple(self._dispatches()),
            tuple(self._dead_letters()),
            tuple(self._closed_letters("retried" if retried else "resolved")),
            tuple(self._requests()),
        )

    def _dispatches(self) -> Iterator[Dispatch]:
        for record in self.records:
            if record.step is None or record.operation is None:
                continue
            call = self.state.call(record.step, record.operation)
            if not may_be_sent(self.definition, self.state, record.step, record.operation):
                continue
            if call.state is CallState.SCHEDULED and "sends" in record.data:
                yield Dispatch(record.step, record.operation)
            retry_at = record.data.get("retry_at")
            if call.state is CallState.RETRYING and retry_at is not None:
                delay = (retry_at - self.at) / SECOND
                if delay <= SELF_RING_SECONDS:
                    yield Dispatch(record.step, record.operation, delay)

    def _requests(self) -> Iterator[Request]:
        if self.definition.type != "choreography" or self.state.error is None:
            return
        for record in self.records:
            if record.type is RecordType.COMPENSATION_STARTED and record.step is not None:
                yield Request(record.step, record.attempt or 1, self.state.error.message)

    def _dead_letters(self) -> Iterator[DeadLetter]:
        before, after = self._given_up(self.before), self._given_up(self.state)
        for (step, operation), status in after.items():
            if (step, operation) not in before or (status == "open" and before[step, operation] != "open"):
                call = self.state.call(step, operation)
                error = plain(call.error) if call.error else {}
                yield DeadLetter(step, operation, call.attempts, error, status)

    def _closed_letters(self, status: str) -> Iterator[ClosedLetter]:
        after = self._given_up(self.state)
        for (step, operation), was in self._given_up(self.before).items():
            if was == "open" and after.get((step, operation)) != "open":
                yield ClosedLetter(step, operation, status)

    def _given_up(self, state: State) -> dict[tuple[int, Operation], str]:
        """Operations that nothing repeats by itself: `open` where a person has to act, else `noted`."""
        if not state.has_failures:
            return {}
        found: dict[tuple[int, Operation], str] = {(step, ACTION): "open" for step in held(self.definition, state)}
        for step, operation, call in state.calls():
            if operation == COMPENSATION and call.state is CallState.FAILED and not state.final:
                found[step, operation] = "open"
            elif operation == ACTION and call.state is CallState.EXHAUSTED:
                found.setdefault((step, operation), "noted")
        return found


def micros(seconds: float) -> Micros:
    return round(seconds * SECOND)


def attempts_told(count: int) -> str:
    return f"{count} attempt" if count == 1 else f"{count} attempts"


def plain(error: Error) -> dict[str, Any]:
    return {name: value for name, value in asdict(error).items() if value is not None}
