"""One sentence that says what has happened to a saga and what comes next.

`Failed at charge after 4 attempts (503); 1 of 2 undone; release is tried again in 40 s.`

Pure: it reads the state as the machine does, so it cannot promise what will not be done.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from app.instants import about, duration
from app.saga import rules
from app.saga.definition import Definition
from app.saga.state import (
    ACTION,
    COMPENSATION,
    DONE,
    SECOND,
    UNDER_WAY,
    Call,
    CallState,
    Error,
    Micros,
    Operation,
    SagaState,
    State,
)

NAMED: Final = 3
"""So many things are named at once; the rest are counted."""
_SETTLED: Final = frozenset({CallState.COMPENSATED, CallState.RESOLVED})


def sentence(definition: Definition, state: State, at: Micros, paused: Collection[str] = ()) -> str:
    """`at`: now, by the database. `paused`: services to which nothing new is sent."""
    told = "; ".join(part for part in _Words(definition, state, at, paused).parts() if part)
    return f"{told[:1].upper()}{told[1:]}."


class _Words:
    def __init__(self, definition: Definition, state: State, at: Micros, paused: Collection[str]) -> None:
        self.definition, self.state, self.at = definition, state, at
        self.choreographed: Final = definition.type == "choreography"
        self.paused: Final = () if self.choreographed else paused  # nobody sends it anything

    def parts(self) -> Iterator[str]:
        match self.state.state:
            case SagaState.CREATED:
                yield from self._created()
            case SagaState.EXECUTING:
                yield from self._executing()
            case SagaState.COMPLETED:
                yield f"completed in {self._took()}"
                yield self._done()
            case SagaState.COMPENSATING:
                yield self._cause()
                yield self._undone()
                yield from self._next(COMPENSATION)
            case SagaState.FAILED:
                yield self._cause()
                yield self._undone(at_rest=True)
            case SagaState.COMPENSATION_FAILED:
                yield self._cause()
                yield self._undone()
                yield from self._left_standing()
            case SagaState.ABANDONED:
                yield "abandoned: nothing more is done or undone"
                standing = self._standing()
                yield f"what {_list(standing)} did still stands" if standing else "nothing that was done still stands"

    def _created(self) -> Iterator[str]:
        state = self.state
        if state.pause:
            yield "held by an operator before its first step"
        elif state.start_at is not None and state.start_at > self.at:
            yield f"begins in {self._in(state.start_at)}"
        elif self.definition.max_concurrent is not None:
            yield f"waits for a place: of {self.definition.name} only {self.definition.max_concurrent} run at a time"
        else:
            yield "accepted; its first step is about to begin"

    def _executing(self) -> Iterator[str]:
        state = self.state
        yield self._done()
        if state.turn is not None:
            undecided = _list(self._undecided())
            yield f"{self._cause(state.turn)}: it turns back unless {undecided} turns out to have happened"
        holding = rules.held(self.definition, state)
        for position in holding[:NAMED]:
            yield f"{self._name(position)} holds it {self._given_up(state.steps[position].action)}"
        if holding:
            yield "a person has to retry, skip or compensate"
        elif state.pause:
            yield "held by an operator: nothing new is sent"
        yield from self._next(ACTION)
        if state.attention is not None and not holding:
            yield "a person should look at it"

    # --- what has happened ---

    def _cause(self, error: Error | None = None) -> str:
        error = error or self.state.error
        if error is None:
            return "turned back"
        step, status = error.step or "a step", f" ({error.status})" if error.status else ""
        match error.code:
            case "cancelled":
                return "cancelled"
            case "saga-timeout":
                return "ran out of time"
            case "refused":
                return f"refused at {step}{status}"
            case "expression-failed":
                return f"the input of {step} could not be made"
            case "event-failed":
                return f"{step} failed"
            case "exhausted" if self.choreographed:
                return f"nothing was heard of {step}"
            case "exhausted":
                return f"failed at {step}{_after(error.attempts)}{status}"
        return f"failed at {step}: {error.code}{status}"

    def _done(self) -> str:
        steps = self.state.steps
        done = sum(record.action.state in DONE for record in steps)
        return f"{done} of {len(steps)} steps done"

    def _undone(self, *, at_rest: bool = False) -> str:
        to_undo = [p for p in range(len(self.state.steps)) if self._is_to_undo(p)]
        done = sum(self.state.steps[p].compensation.state in _SETTLED for p in to_undo)
        if not to_undo:
            return "nothing had to be undone"
        if at_rest and done == len(to_undo):
            return f"what was done is undone ({done} of {done})"
        return f"{done} of {len(to_undo)} undone"

    def _is_to_undo(self, position: int) -> bool:
        undo = self.state.steps[position].compensation.state
        if undo in UNDER_WAY or undo in _SETTLED or undo is CallState.FAILED:
            return True
        return undo is CallState.PENDING and rules.needs_compensation(self.definition, self.state, position)

    def _left_standing(self) -> Iterator[str]:
        failed = [p for p, r in enumerate(self.state.steps) if r.compensation.state is CallState.FAILED]
        for position in failed[:NAMED]:
            undo = self.state.steps[position].compensation
            yield f"{self._call_name(position, COMPENSATION)} failed{_after(undo.attempts)}{_status(undo)}"
        if len(failed) > NAMED:
            yield f"and {len(failed) - NAMED} more"
        yield f"what {_list(self._standing())} did may still stand, and a person has to decide"

    def _standing(self) -> list[str]:
        return [
            self._name(position)
            for position, record in enumerate(self.state.steps)
            if rules.needs_compensation(self.definition, self.state, position)
            and record.compensation.state not in _SETTLED
        ]

    def _took(self) -> str:
        return duration(((self.state.finished_at or self.at) - self.state.created_at) / SECOND)

    # --- what comes next ---

    def _next(self, operation: Operation) -> Iterator[str]:
        calls = [(p, self.state.call(p, operation)) for p in range(len(self.state.steps))]
        under_way = [(p, call) for p, call in calls if call.state in UNDER_WAY]
        held_back = rules.paused(self.definition, self.state)
        if operation == COMPENSATION and self.state.pause:
            yield "held by an operator: nothing new is sent"
        shown = [
            (p, call) for p, call in under_way if not held_back or call.state in {CallState.RUNNING, CallState.WAITING}
        ]
        for position, call in shown[:NAMED]:
            yield f"{self._call_name(position, operation)} {self._doing(position, call)}"
        if len(shown) > NAMED:
            yield f"{len(shown) - NAMED} more are under way"
        if not under_way and operation == COMPENSATION:
            running = [self._name(p) for p in range(len(calls)) if self._may_run(p)]
            if running:
                yield f"nothing is undone before the last attempt of {_list(running)} has surely ended"

    def _may_run(self, position: int) -> bool:
        return rules.may_still_run(self.state.steps[position].action, self.at)

    def _doing(self, position: int, call: Call) -> str:
        service = self.definition.steps[position].service
        if service in self.paused and call.state in {CallState.SCHEDULED, CallState.RETRYING}:
            return f"waits: an operator has paused {service}"
        number = f" (attempt {call.attempts})" if call.attempts > 1 else ""
        match call.state:
            case CallState.RUNNING if self.choreographed:
                return f"is awaited{self._at_most(call)}"
            case CallState.RUNNING:
                return f"is being called{number}"
            case CallState.WAITING:
                return f"was accepted, and its answer is awaited{self._at_most(call)}"
            case CallState.SCHEDULED if self.choreographed:
                later = call.due_at is not None and call.due_at > self.at
                return f"is awaited{f', and asked for in {self._in(call.due_at or 0)}' if later else ''}"
            case CallState.SCHEDULED:
                return "waits for a worker"
        if call.due_at is not None and call.due_at > self.at:
            again = "is asked for again" if self.choreographed else "is tried again"
            return f"{again} in {self._in(call.due_at)}{_after(call.attempts, ',')}{_status(call)}"
        return f"is tried again as soon as a worker takes it{_after(call.attempts, ',')}{_status(call)}"

    def _at_most(self, call: Call) -> str:
        return f", {self._in(call.due_at)} at most" if call.due_at is not None and call.due_at > self.at else ""

    def _given_up(self, call: Call) -> str:
        if call.state is CallState.REFUSED:
            return f"since it was refused{_status(call)}"
        return f"{_after(call.attempts).strip()}{_status(call)}".strip()

    def _undecided(self) -> Sequence[str]:
        return [self._name(p) for p in self.definition.pivots if rules.decides(self.definition, self.state, p)]

    def _name(self, position: int) -> str:
        return self.definition.steps[position].name

    def _call_name(self, position: int, operation: Operation) -> str:
        plan = self.definition.steps[position]
        if operation == ACTION:
            return plan.name
        if self.choreographed:
            return f"the undoing of {plan.name}"
        return plan.compensation or plan.name

    def _in(self, moment: Micros) -> str:
        return about((moment - self.at) / SECOND)


def _after(attempts: int | None, lead: str = "") -> str:
    if not attempts:
        return ""
    return f"{lead} after {attempts} attempt{'' if attempts == 1 else 's'}"


def _status(call: Call) -> str:
    return f" ({call.error.status})" if call.error is not None and call.error.status else ""


def _list(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    shown = list(names[:NAMED])
    if len(names) > NAMED:
        shown.append(f"{len(names) - NAMED} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
