"""Section 5 of the contract once more, by somebody who has not read the machine.

A judge sees what a submitter, the participants and the workers see: what was sent, how each attempt ended, what people
did. From that alone it knows which requests are allowed at a moment, what state the saga must be in, and, at rest,
which effects may stand. It imports nothing of the law but the definition. Times are microseconds.

It answers with AssertionErrors. What it does not know: delays, re-sends, events, and which words stand in an error.
"""

from copy import copy
from dataclasses import dataclass

from app.saga.definition import Definition, Step

ACTION, COMPENSATION = "action", "compensation"
SECOND = 1_000_000
SUCCEEDED, REFUSED, PENDING, UNKNOWN, NOT_SENT = "succeeded", "refused", "pending", "unknown", "not-sent"
AT_REST = {"COMPLETED", "FAILED", "COMPENSATION_FAILED", "ABANDONED"}
Operation = tuple[int, str]


class Shape:
    """What of a definition matters here."""

    def __init__(self, definition: Definition) -> None:
        self.steps: tuple[Step, ...] = definition.steps
        self.halt = definition.on_compensation_failure == "halt"
        place = {step.name: position for position, step in enumerate(self.steps)}
        self.above = [{place[name] for name in step.depends_on} for step in self.steps]
        """Whom each step waits for, directly."""
        self.below: list[set[int]] = []
        """Who waits for each step, directly or through others."""
        for position in range(len(self.steps)):
            found = {position}
            while len(more := found | {p for p, above in enumerate(self.above) if above & found}) > len(found):
                found = more
            self.below.append(found - {position})
        self.pivot = next((position for position, step in enumerate(self.steps) if step.pivot), None)
        self.undoable = {position for position, step in enumerate(self.steps) if step.compensation is not None}

    def timeout(self, operation: Operation) -> float:
        step = self.steps[operation[0]]
        return step.timeout_seconds if operation[1] == ACTION else step.compensation_timeout_seconds

    def budget(self, operation: Operation) -> int:
        step = self.steps[operation[0]]
        return (step.retry if operation[1] == ACTION else step.compensation_retry).max_attempts


@dataclass(frozen=True, slots=True)
class Word:
    """How an attempt ended, as its worker or a callback tells it."""

    kind: str
    retriable: bool | None = None
    may_run_seconds: float = 0


class Judge:
    def __init__(self, shape: Shape, deadline_at: int, grace_seconds: float, start_at: int | None = None) -> None:
        self.shape, self.deadline_at, self.grace, self.start_at = shape, deadline_at, grace_seconds, start_at
        self.started = start_at is None
        self.overdue = False
        self.paused = self.turned = self.abandoned = False
        self.kept: str | None = None
        """A cancel, a timeout or the pivot's own failure: asks for a turn."""
        self.causes: set[str] = set()
        self.succeeded: set[int] = set()
        self.refused: set[int] = set()
        self.exhausted: set[int] = set()
        self.skipped: set[int] = set()
        self.unknown: set[int] = set()
        self.undone: set[int] = set()
        self.failed: set[int] = set()
        """Compensations that were given up."""
        self.once_failed: set[int] = set()
        self.begun: set[int] = set()
        """Compensations whose turn has come."""
        self.running: dict[Operation, tuple[int, int]] = {}
        """Attempt, and the end of its lease."""
        self.waiting: dict[Operation, tuple[int, int]] = {}
        """Attempt, and until when a callback is awaited."""
        self.window: dict[Operation, int] = {}
        """Until when an attempt that was cut off may still run."""
        self.attempts: dict[Operation, int] = {}
        self.spent: dict[Operation, int] = {}
        self.key_from: dict[int, int] = {}

    def fork(self) -> "Judge":
        other = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, set | dict):
                setattr(other, name, value.copy())
        return other

    # --- what follows -------------------------------------------------------------------------------------------

    @property
    def past_pivot(self) -> bool:
        return self.shape.pivot in self.succeeded

    @property
    def pivot_open(self) -> bool:
        pivot = self.shape.pivot
        if pivot is None or pivot in self.succeeded | self.skipped:
            return False
        return pivot in self.unknown or (pivot, ACTION) in self.running or (pivot, ACTION) in self.waiting

    @property
    def turn(self) -> str | None:
        """What asks for a turn that has not come, or not yet."""
        if self.turned or self.past_pivot:
            return None
        if self.kept:
            return self.kept
        if self.refused:
            return REFUSED
        return "exhausted" if any(self._gives_up(step) for step in self.exhausted) else None

    def _gives_up(self, step: int) -> bool:
        return self.shape.steps[step].on_exhausted == "compensate"

    @property
    def holding(self) -> set[int]:
        if self.turned or self.turn:
            return set()
        held = {step for step in self.exhausted if not self._gives_up(step)}
        return held | self.refused if self.past_pivot else held

    @property
    def to_undo(self) -> set[int]:
        return (self.succeeded | self.unknown) & self.shape.undoable

    @property
    def may_stand(self) -> set[int]:
        return self.to_undo - self.undone

    @property
    def state(self) -> str:
        if self.abandoned:
            return "ABANDONED"
        if not self.turned:
            if len(self.succeeded | self.skipped) == len(self.shape.steps) and not self.turn:
                return "COMPLETED"
            return "EXECUTING" if self.started else "CREATED"
        if any(kind == ACTION for _, kind in self.running) or self.may_stand & self.begun - self.failed:
            return "COMPENSATING"
        left = self.may_stand - self.failed
        if self.shape.halt and self.failed:
            left &= self.once_failed
        if left:
            return "COMPENSATING"
        return "COMPENSATION_FAILED" if self.failed else "FAILED"

    def may_run(self, operation: Operation, now: int) -> bool:
        return operation in self.running or self.window.get(operation, 0) > now

    # --- what the house does ------------------------------------------------------------------------------------

    def sends(self, step: int, kind: str, attempt: int, now: int) -> None:
        operation, name = (step, kind), f"{kind} of {self.shape.steps[step].name}"
        pauses = self.paused or self.holding
        assert not pauses, f"{name} is sent in a pause"
        assert operation not in self.running, f"{name} is sent while its last attempt runs"
        assert operation not in self.waiting, f"{name} is sent while its callback is awaited"
        assert attempt == self.attempts.get(operation, 0) + 1, f"{name}: attempt {attempt} is not the next"
        if kind == ACTION:
            assert self.state == "EXECUTING", f"{name} is sent in a saga that should be {self.state}"
            assert step not in self.begun, f"{name} is sent after its compensation"
            over = self.succeeded | self.skipped | self.refused | self.exhausted
            assert step not in over, f"{name} is sent though it has ended"
            assert self.shape.above[step] <= self.succeeded | self.skipped, f"{name} is sent before what it waits for"
            if self.turn:
                assert step == self.shape.pivot, f"{name} is sent while a turn is kept"
                assert self.pivot_open, f"{name} is sent, though the turn waits for nothing"
        else:
            assert self.state == "COMPENSATING", f"{name} is sent in a saga that should be {self.state}"
            assert step in self.may_stand - self.failed, f"{name} is sent, though there is nothing to undo"
            assert step in self.begun, f"{name} is sent before its turn"
        self.attempts[operation] = attempt
        self.spent[operation] = self.spent.get(operation, 0) + 1
        self.running[operation] = (attempt, now + round((self.shape.timeout(operation) + self.grace) * SECOND))

    def begins(self, now: int) -> None:
        """Compensations whose turn has come: the saga has changed, or was looked at."""
        if not self.turned or self.paused:
            return
        for step in self.may_stand - self.failed - self.begun:
            halted = self.shape.halt and self.failed and step not in self.once_failed
            after = {step, *self.shape.below[step]}
            over = not any(self.may_run((other, ACTION), now) for other in after)
            undone = not self.shape.below[step] & self.may_stand - self.failed
            if over and undone and not halted:
                self.begun.add(step)

    def hears(self, step: int, kind: str, attempt: int, word: Word, now: int) -> None:
        operation = (step, kind)
        if self.state in AT_REST:
            return
        for awaited in (self.running, self.waiting):
            if awaited.get(operation, (None,))[0] == attempt:
                if word.kind == PENDING and awaited is self.waiting:
                    return
                del awaited[operation]
                self._ends(step, kind, attempt, word, now)
                self._concludes()
                return
        if word.kind == SUCCEEDED and self._waits_to_be_repeated(step, kind, attempt):
            self._ends(step, kind, attempt, word, now)
            self._concludes()

    def _waits_to_be_repeated(self, step: int, kind: str, attempt: int) -> bool:
        operation = (step, kind)
        if operation in self.running or operation in self.waiting or operation not in self.attempts:
            return False
        if kind == COMPENSATION:
            return step in self.begun - self.failed - self.undone
        ended = step in self.succeeded | self.skipped | self.refused
        return not self.turned and not ended and self.key_from.get(step, 1) <= attempt <= self.attempts[operation]

    def _ends(self, step: int, kind: str, attempt: int, word: Word, now: int) -> None:
        operation = (step, kind)
        if word.kind == SUCCEEDED:
            if kind == COMPENSATION:
                self.undone.add(step)
                return
            self.succeeded.add(step)
            self.unknown.discard(step)
            self.exhausted.discard(step)
            if step == self.shape.pivot:
                self.kept = None
        elif word.kind == REFUSED and not word.retriable:
            self._is_refused(step, kind)
        elif word.kind == PENDING and not (kind == ACTION and self.turned):
            self.waiting[operation] = (attempt, now + round(self.shape.steps[step].callback_timeout_seconds * SECOND))
        else:
            uncertain = word.kind in {UNKNOWN, PENDING}
            if kind == ACTION and uncertain:
                self.unknown.add(step)
            if word.may_run_seconds:
                until = now + round(word.may_run_seconds * SECOND)
                self.window[operation] = max(until, self.window.get(operation, 0))
            no_more = uncertain and word.retriable is False
            if no_more or self.spent[operation] >= self.shape.budget(operation):
                self._is_used_up(step, kind)

    def _is_refused(self, step: int, kind: str) -> None:
        if kind == COMPENSATION:
            self.failed.add(step)
        elif self.pivot_open and step == self.shape.pivot and not self.turned:
            self._keep_own(REFUSED)
        else:
            self.refused.add(step)
            self.causes.add(REFUSED)

    def _is_used_up(self, step: int, kind: str) -> None:
        if kind == COMPENSATION:
            self.failed.add(step)
        elif not self.turned:
            holds = not self._gives_up(step) and not self.turn
            if self.past_pivot and not holds:
                return
            if step == self.shape.pivot and step in self.unknown and not holds:
                self._keep_own("exhausted")
            else:
                self.exhausted.add(step)
                self.causes.add("exhausted")

    def _keep(self, cause: str) -> None:
        self.kept = self.turn or cause
        self.causes.add(cause)

    def _keep_own(self, cause: str) -> None:
        """The pivot's own failure; where another step's asks for the turn already, it ends with that one's."""
        if not self.turn:
            self._keep(cause)

    def _concludes(self) -> None:
        if self.turned or self.state in AT_REST:
            return
        if self.past_pivot:
            for step in [step for step in self.exhausted if self._gives_up(step)]:
                self._again(step)
        elif self.turn and self.pivot_open:
            pivot = self.shape.pivot
            if pivot in self.unknown and pivot in self.exhausted | self.refused:
                self._again(pivot)
        elif self.turn:
            self.turned = True
            for step, kind in [operation for operation in self.waiting if operation[1] == ACTION]:
                del self.waiting[step, kind]
                self.unknown.add(step)

    def _again(self, step: int) -> None:
        self.exhausted.discard(step)
        self.refused.discard(step)
        self.spent[step, ACTION] = 0

    def is_looked_at(self, now: int) -> None:
        """The sweep has come by."""
        if self.state in AT_REST:
            return
        for operation in sorted(self.running.keys() | self.waiting.keys()):
            for awaited in (self.running, self.waiting):
                if operation in awaited and awaited[operation][1] <= now:
                    attempt, _ = awaited.pop(operation)
                    self._ends(*operation, attempt, Word(UNKNOWN), now)
        if not self.paused and (self.start_at or 0) <= now:
            self.started = True
        self._looks_at_the_clock(now)
        self._concludes()

    def _looks_at_the_clock(self, now: int) -> None:
        if self.turned or self.paused or self.holding or self.overdue or self.deadline_at > now:
            return
        self.overdue = True
        if not self.past_pivot:
            self._keep("saga-timeout")

    def finds_the_condition_false(self, step: int) -> None:
        self.skipped.add(step)
        self._concludes()

    def cannot_express(self, step: int, kind: str) -> None:
        (self.refused if kind == ACTION else self.failed).add(step)
        self.causes.add("expression-failed")
        self._concludes()

    # --- what people do: None where it is refused ---------------------------------------------------------------

    def cancels(self, accepted: bool) -> None:
        assert accepted == (self.state not in AT_REST and not self.past_pivot), f"cancel: accepted is {accepted}"
        if accepted:
            self.paused = False
            if not self.turned:
                self._keep("cancelled")
            self._concludes()

    def pauses(self, accepted: bool) -> None:
        assert accepted == (self.state not in AT_REST and not self.paused), f"pause: accepted is {accepted}"
        self.paused = self.paused or accepted

    def resumes(self, accepted: bool, now: int) -> None:
        assert accepted == (self.state not in AT_REST and self.paused), f"resume: accepted is {accepted}"
        if accepted:
            self.paused = False
            self._looks_at_the_clock(now)
            self._concludes()

    def extends(self, accepted: bool, deadline_at: int) -> None:
        allowed = self.state not in AT_REST and not self.turned and deadline_at > self.deadline_at
        assert accepted == allowed, f"extend: accepted is {accepted}"
        if accepted:
            self.deadline_at, self.overdue = deadline_at, False

    def abandons(self, accepted: bool) -> None:
        assert accepted == (self.state not in AT_REST - {"COMPENSATION_FAILED"})
        self.abandoned = self.abandoned or accepted

    def retries(self, accepted: bool, step: int | None, retrying: set[Operation], *, new_input: bool = False) -> None:
        """`retrying`: what the saga shows as RETRYING."""
        chosen = set(range(len(self.shape.steps))) if step is None else {step}
        failed = chosen & self.failed if self.state != "FAILED" else set()
        again = set() if self.turned else chosen & (self.exhausted | self.holding)
        actions = again | ({p for p, kind in retrying if kind == ACTION and p in chosen} if not self.turned else set())
        if not new_input:
            undoing = {p for p, kind in retrying if kind == COMPENSATION and p in chosen}
            rest = self.state in AT_REST - {"COMPENSATION_FAILED"}
            assert accepted == (bool(failed | undoing | actions) and not rest), f"retry: accepted is {accepted}"
        if not accepted:
            return
        for p in failed:
            self.failed.discard(p)
            self.begun.discard(p)
            self.once_failed.add(p)
        for p in chosen:
            if p in failed or (p, COMPENSATION) in retrying:
                self.spent[p, COMPENSATION] = 0
        for p in actions:
            self._again(p)
            if new_input:
                self.key_from[p] = self.attempts.get((p, ACTION), 0) + 1
        self._concludes()

    def skips(self, accepted: bool, step: int, retrying: set[Operation], confirmed: bool, now: int) -> None:
        skippable = step in self.exhausted | self.holding or (step, ACTION) in retrying
        settled = step not in self.unknown or confirmed
        allowed = self.state == "EXECUTING" and skippable and settled and not self.may_run((step, ACTION), now)
        assert accepted == allowed, f"skip: accepted is {accepted}"
        if accepted:
            self.exhausted.discard(step)
            self.refused.discard(step)
            self.skipped.add(step)
            self._concludes()

    def resolves(self, accepted: bool, step: int, now: int) -> None:
        allowed = step in self.failed and not self.abandoned and not self.may_run((step, COMPENSATION), now)
        assert accepted == allowed, f"resolve: accepted is {accepted}"
        if accepted:
            self.failed.discard(step)
            self.undone.add(step)

    # --- the promise --------------------------------------------------------------------------------------------

    def reads(self, state: str, attention: set[str] | None, error: str | None) -> None:
        """The saga as anybody may read it, after every message."""
        assert state == self.state, f"the saga is {state}, and should be {self.state}"
        # A pause ends with what it paused.
        self.paused = self.paused and state not in AT_REST
        if self.turned and not self.abandoned:
            assert error in self.causes, f"turned by {error}, but what happened was {self.causes}"
        if state == "COMPENSATION_FAILED":
            assert attention == self._names(self.may_stand), f"attention names {attention}"
        elif state in AT_REST:
            assert attention is None, f"{state} needs attention"
        elif self.holding:
            assert attention is not None, "it holds, and nobody is told"
            assert attention >= self._names(self.holding), f"attention names {attention}"

    def finds_standing(self, effects: dict[int, int]) -> None:
        """All or nothing, at rest: `effects` says how often each step's action stands at its participant."""
        standing = {step for step, count in effects.items() if count}
        matters = self.shape.undoable | {self.shape.pivot}
        if self.state == "COMPLETED":
            wrong = {step for step in range(len(self.shape.steps)) if effects.get(step, 0) != (step in self.succeeded)}
            assert not wrong, f"completed, but {self._names(wrong)} is not done exactly once"
        elif self.state == "FAILED":
            assert not standing & matters, f"failed, but {self._names(standing & matters)} stands"
        elif self.state == "COMPENSATION_FAILED":
            assert standing & matters <= self.may_stand, "something stands that nobody is told of"

    def _names(self, steps: set[int]) -> set[str]:
        return {self.shape.steps[step].name for step in steps}
