"""One saga on a virtual clock: a queue that loses nothing, workers, participants that follow a script, people.

A loop over what comes next in time. The machine is told what a house would tell it (claims, answers, the time at which
it wants to be looked at), and what it rings for is carried out. Of what comes at the same instant, people act first,
then answers arrive, then attempts begin; and all of these in the order in which they came up. So a run is the same
every time.
"""

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import orjson

from app.input_schema import InputSchemas
from app.participants.contract import Attempt
from app.participants.python import call_of, load_handlers
from app.saga import machine, rules
from app.saga.definition import Definition
from app.saga.draft import Timing
from app.saga.durations import parse_duration
from app.saga.messages import (
    Abandon,
    Actor,
    Answered,
    Cancel,
    Claim,
    Extend,
    Message,
    Outcome,
    Pause,
    Record,
    RecordType,
    Resolve,
    Resume,
    Retry,
    Skip,
    Transition,
    Woken,
)
from app.saga.preparing import prepare
from app.saga.state import ACTION, COMPENSATION, SECOND, CallState, Micros, Operation
from app.testing.loading import load_definition
from app.testing.participants import Participants
from app.testing.result import Conflict, Result, name_of, no_step
from app.testing.script import Script
from saga_participant import Call, handlers_of

BEGIN: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""The same for every run, and in the future: a function that looks at `call.deadline` is in time."""

TIMING: Final = Timing()
MAX_MESSAGES: Final = 5_000
"""Of one `go`, and ten for each step: far more than a saga needs that comes to rest."""

SUBMITTER: Final = Actor("the submitter")
OPERATOR: Final = Actor("an operator", "test")

_BEGINS: Final = frozenset({RecordType.STEP_STARTED, RecordType.COMPENSATION_STARTED})
_ENDS: Final = frozenset(
    {
        RecordType.STEP_SUCCEEDED,
        RecordType.STEP_REFUSED,
        RecordType.STEP_ATTEMPT_FAILED,
        RecordType.STEP_ATTEMPT_LOST,
        RecordType.STEP_WAITING,
        RecordType.STEP_SKIPPED,
        RecordType.COMPENSATION_SUCCEEDED,
        RecordType.COMPENSATION_ATTEMPT_FAILED,
        RecordType.COMPENSATION_FAILED,
    }
)
_PEOPLE, _ANSWERS, _CLAIMS = range(3)


class NotAtRest(AssertionError):  # noqa: N818 - a condition of the saga, told to a person
    """A run that would not end, or an act whose moment never came."""


@dataclass(frozen=True, slots=True)
class _Act:
    """What a person does."""

    name: str
    message: Callable[[Micros], Message]
    then: Callable[[], None] = lambda: None
    """What goes with it where it is allowed."""


class Run:
    """One saga of a definition: say what its participants do, `go()`, and look at the `Result`.

    `definition` is a file, YAML or JSON text, a document, or a `Definition`. `timeout` is the saga's own, as in
    `POST /sagas`. ValueError where the input is not what the definition's `input_schema` asks for.
    """

    def __init__(
        self,
        definition: str | Path | Mapping[str, Any] | Definition,
        input: Any = None,  # noqa: A002 - the contract's word
        *,
        key: str = "key",
        timeout: str | float | None = None,
        beside: Path | None = None,
        number: int = 1,
    ) -> None:
        """`beside`: the folder in which a file is looked for first. `number`: makes the saga's id."""
        # A saga that is alone always has a place.
        self.definition = replace(load_definition(definition, beside), max_concurrent=None)
        if faults := InputSchemas().faults(self.definition, 1, input):
            raise ValueError("; ".join(f"{path}: {message}" for path, message in faults))
        self.id = f"00000000-0000-7000-8000-{number:012}"
        self._input, self._key, self._timeout = orjson.dumps(input), key, timeout
        self._participants = Participants()
        self._inputs: dict[str, bytes] = {}
        self._outputs: dict[str, bytes] = {}
        self._sent: list[Call] = []
        self._answers: dict[tuple[int, Operation, int], str] = {}
        self._conflicts: list[Conflict] = []
        self._coming: list[tuple[Micros, int, int, Callable[[], None]]] = []
        self._awaited: list[tuple[frozenset[RecordType], str, _Act]] = []
        self._order = count()
        self._begin = self._now = round(BEGIN.timestamp()) * SECOND
        created = machine.create(
            self.definition,
            self._begin,
            saga_id=self.id,
            timing=TIMING,
            timeout_seconds=None if timeout is None else parse_duration(timeout),
        )
        self._state, self._history = created.state, list[Record]()
        self._follow(created)

    # --- what participants do ---

    def step(self, name: str) -> Script:
        """What the participant does with the step's action."""
        return self._script(name, ACTION)

    def compensation(self, name: str) -> Script:
        """What the participant does with the step's compensation."""
        if self.definition.steps[self._position(name)].compensation is None:
            raise ValueError(f"{name} has no compensation.")
        return self._script(name, COMPENSATION)

    def with_handlers(self, module: ModuleType | str, *, service: str | None = None) -> "Run":
        """Real functions, registered with `saga_participant.handler`, for every operation that they are named for.

        `module` may be named, as in services.yaml. With `service` only for steps of that service. Where the script of
        a step says something for an attempt, the script wins. They run as in a worker, on the real clock.
        """
        handlers = load_handlers(module, Path.cwd()) if isinstance(module, str) else handlers_of(module)
        if not handlers:
            raise ValueError(f"{module} registers no function with @saga_participant.handler(...)")
        self._participants.handlers.append((service, handlers))
        return self

    # --- what people do ---
    # Each at a moment: `at` so many seconds after the saga was submitted, `during` the next attempt of a call, `after`
    # the next attempt of it has ended (`"reserve"`, `"reserve/compensation"`), or without any of these now. What the
    # saga's state does not allow is a `Conflict` of the result, and changes nothing.

    def cancel(self, *, at: float | None = None, during: str | None = None, after: str | None = None) -> None:
        self._plan(_Act("cancel", lambda now: Cancel(now, SUBMITTER)), at, during, after)

    def pause(self, *, at: float | None = None, during: str | None = None, after: str | None = None) -> None:
        self._plan(_Act("pause", lambda now: Pause(now, OPERATOR)), at, during, after)

    def resume(self, *, at: float | None = None, during: str | None = None, after: str | None = None) -> None:
        self._plan(_Act("resume", lambda now: Resume(now, OPERATOR)), at, during, after)

    def abandon(self, *, at: float | None = None, during: str | None = None, after: str | None = None) -> None:
        self._plan(_Act("abandon", lambda now: Abandon(now, OPERATOR)), at, during, after)

    def extend(
        self,
        timeout: str | float,
        *,
        at: float | None = None,
        during: str | None = None,
        after: str | None = None,
    ) -> None:
        """The deadline becomes that moment and `timeout`."""
        seconds = parse_duration(timeout)
        self._plan(_Act("extend", lambda now: Extend(now, OPERATOR, seconds)), at, during, after)

    def retry(
        self,
        step: str | None = None,
        *,
        new_input: Mapping[str, Any] | None = None,
        confirm_not_done: bool = False,
        at: float | None = None,
        during: str | None = None,
        after: str | None = None,
    ) -> None:
        """`new_input` replaces the input of `step`, which then has a key of its own."""
        if new_input is not None and step is None:
            raise ValueError("A new input is for one step: name it.")
        position = None if step is None else self._position(step)

        def renew() -> None:
            if new_input is not None and step is not None:
                self._inputs[step] = orjson.dumps(new_input)

        def message(now: Micros) -> Message:
            return Retry(now, OPERATOR, new_input is not None, confirm_not_done, position)

        self._plan(_Act("retry", message, renew), at, during, after)

    def skip(
        self,
        step: str,
        *,
        output: Any = None,
        confirm_not_done: bool = False,
        at: float | None = None,
        during: str | None = None,
        after: str | None = None,
    ) -> None:
        position = self._position(step)

        def keep() -> None:
            self._outputs[step] = orjson.dumps(output)

        self._plan(_Act("skip", lambda now: Skip(now, OPERATOR, position, confirm_not_done), keep), at, during, after)

    def resolve(
        self, step: str, *, at: float | None = None, during: str | None = None, after: str | None = None
    ) -> None:
        """The failed compensation was settled by hand: what it should have undone is undone."""
        position = self._position(step)
        act = _Act(
            "resolve", lambda now: Resolve(now, OPERATOR, position), partial(self._participants.ledger.settle, step)
        )
        self._plan(act, at, during, after)

    # --- running ---

    def go(self, *, until: float | None = None) -> Result:
        """Runs until the saga is at rest, or waits for a person; with `until` not past that second.

        Raises NotAtRest where it does not end, with what it waits for, and where the moment of an act never came.
        May be called again, after a person has acted or with a later `until`.
        """
        end = None if until is None else self._begin + round(until * SECOND)
        limit = MAX_MESSAGES + 10 * len(self.definition.steps)
        for _ in range(limit):
            at = self._next()
            if at is None or (end is not None and at > end):
                break
            self._now = max(self._now, at)
            if self._coming and self._coming[0][0] <= self._now:
                heapq.heappop(self._coming)[-1]()
            else:
                self._tell(Woken(self._now))
        else:
            raise NotAtRest(
                f"{self.definition.name} has not come to rest after {limit:,} messages and"
                f" {self._seconds:,.0f} s of its own time. {self._waits_for()}\n\n{self.result().timeline}"
            )
        if end is not None:
            self._now = max(self._now, end)
        if self._state.at_rest and self._awaited:
            moments = ", ".join(
                f"{act.name} {'during' if kinds is _BEGINS else 'after'} {call}" for kinds, call, act in self._awaited
            )
            raise NotAtRest(
                f"{self.definition.name} is {self._state.state}, and the moment of this never came: {moments}."
                f"\n\n{self.result().timeline}"
            )
        return self.result()

    def result(self) -> Result:
        """How things stand now."""
        standing = self._participants.ledger.effects
        effects = {step: orjson.loads(list(by_key.values())[-1]) for step, by_key in standing.items()}
        return Result(
            definition=self.definition,
            saga_state=self._state,
            history=tuple(self._history),
            sent=tuple(self._sent),
            conflicts=tuple(self._conflicts),
            outputs={step: orjson.loads(output) for step, output in self._outputs.items()},
            effects=effects,
            seconds=self._seconds,
            answers=dict(self._answers),
        )

    def again(self, number: int) -> "Run":
        """A new run with the same definition, input, scripts and handlers, and nothing that people do."""
        run = Run(self.definition, orjson.loads(self._input), key=self._key, timeout=self._timeout, number=number)
        run._participants = self._participants.copy()
        return run

    # --- time ---

    @property
    def _seconds(self) -> float:
        return (self._now - self._begin) / SECOND

    def _next(self) -> Micros | None:
        wake = rules.wake_at(self.definition, self._state, self._now)
        coming = self._coming[0][0] if self._coming else None
        return min((at for at in (wake, coming) if at is not None), default=None)

    def _later(self, seconds: float, priority: int, event: Callable[[], None]) -> None:
        heapq.heappush(self._coming, (self._now + round(seconds * SECOND), priority, next(self._order), event))

    def _tell(self, message: Message) -> Transition:
        transition = machine.step(self.definition, self._state, message, saga_id=self.id, timing=TIMING)
        self._state = transition.state
        self._follow(transition)
        return transition

    def _follow(self, transition: Transition) -> None:
        self._history += transition.records
        for record in transition.records:
            if record.step is not None and record.operation is not None:
                self._act_on(record.type, name_of(self.definition.steps[record.step].name, record.operation))
        for dispatch in transition.dispatches:
            self._later(
                dispatch.delay_seconds, _CLAIMS, partial(self._begin_attempt, dispatch.step, dispatch.operation)
            )

    def _waits_for(self) -> str:
        told = [
            f"{name_of(self.definition.steps[step].name, operation)} is {call.state} after {call.attempts} attempts"
            + (f" (last: {call.error.message})" if call.error else "")
            for step, operation, call in self._state.calls()
            if call.due_at is not None
        ]
        return f"It waits for this: {'; '.join(told) or 'nothing'}."

    # --- people ---

    def _plan(self, act: _Act, at: float | None, during: str | None, after: str | None) -> None:
        if sum(moment is not None for moment in (at, during, after)) > 1:
            raise ValueError("One moment, please: `at`, `during` or `after`.")
        if at is not None:
            self._later(max(at - self._seconds, 0), _PEOPLE, partial(self._perform, act))
        elif (call := during or after) is not None:
            step, _, operation = call.partition("/")
            self._position(step)
            if operation not in {"", COMPENSATION}:
                raise ValueError(f"{call!r} is no call; one is called {step!r} or '{step}/compensation'.")
            self._awaited.append((_BEGINS if during else _ENDS, call, act))
        else:
            self._perform(act)

    def _act_on(self, kind: RecordType, call: str) -> None:
        due = [each for each in self._awaited if kind in each[0] and call == each[1]]
        for each in due:
            self._awaited.remove(each)
            self._later(0, _PEOPLE, partial(self._perform, each[2]))

    def _perform(self, act: _Act) -> None:
        transition = self._tell(act.message(self._now))
        if transition.refusal is not None:
            refusal = transition.refusal
            self._conflicts.append(Conflict(self._seconds, act.name, refusal.code, refusal.detail))
        else:
            act.then()

    # --- workers ---

    def _begin_attempt(self, step: int, operation: Operation) -> None:
        if self._state.call(step, operation).state not in {CallState.SCHEDULED, CallState.RETRYING}:
            return
        plan = self.definition.steps[step]
        given = self._inputs.get(plan.name)
        decided = prepare(
            self.definition,
            self._state,
            step,
            operation,
            at=self._now,
            saga_id=self.id,
            key=self._key,
            renewed=given is not None,
            saga_input=lambda: orjson.loads(self._input),
            output=lambda name: orjson.loads(self._outputs.get(name, b"null")),
        )
        if decided is not None and not isinstance(decided, dict):
            self._tell(decided)
            return
        payload = (given or self._input) if decided is None else orjson.dumps(decided)
        after_unknown = self._state.call(step, operation).unknown
        transition = self._tell(Claim(self._now, step, operation))
        if not transition.records:
            return
        attempt = self._attempt(step, operation, transition.records[0], payload, after_unknown=after_unknown)
        self._sent.append(call_of(attempt))
        call = name_of(plan.name, operation)
        self._later(self._participants.seconds(attempt, call), _ANSWERS, partial(self._react, attempt, step, call))

    def _attempt(
        self, step: int, operation: Operation, started: Record, payload: bytes, *, after_unknown: bool
    ) -> Attempt:
        plan = self.definition.steps[step]
        timeout = plan.timeout_seconds if operation == ACTION else plan.compensation_timeout_seconds
        done = [self.definition.steps[position].name for position in self._state.completed]
        return Attempt(
            saga_id=self.id,
            saga=self.definition.name,
            step=plan.name,
            operation=operation,
            number=started.attempt or 0,
            name=plan.action if operation == ACTION else plan.compensation or "",
            key=started.data["key"],
            input=payload,
            outputs={name: self._outputs.get(name, b"null") for name in done},
            output=self._outputs.get(plan.name) if operation == COMPENSATION else None,
            timeout_seconds=timeout,
            send_before=time.monotonic() + timeout,
            deadline=BEGIN + timedelta(seconds=self._seconds + timeout),
            after_unknown=after_unknown,
            statuses=plan.statuses,
        )

    def _answer(self, attempt: Attempt, step: int, heard: Callable[[], Outcome]) -> None:
        outcome = heard()
        transition = self._tell(Answered(self._now, step, attempt.operation, attempt.number, outcome))
        self._answers[step, attempt.operation, attempt.number] = outcome.message
        if any(record.type is RecordType.STEP_SUCCEEDED and record.step == step for record in transition.records):
            self._outputs[attempt.step] = outcome.output

    def _react(self, attempt: Attempt, step: int, call: str) -> None:
        service = self.definition.steps[step].service
        heard = self._participants.react(attempt, call, service, TIMING.lease_grace_seconds)
        for seconds, outcome in heard:
            answer = partial(self._answer, attempt, step, outcome)
            self._later(seconds, _ANSWERS, answer) if seconds else answer()

    def _script(self, name: str, operation: Operation) -> Script:
        self._position(name)
        return self._participants.script(name_of(name, operation))

    def _position(self, name: str) -> int:
        if name not in self.definition.index:
            raise ValueError(no_step(self.definition, name))
        return self.definition.index[name]
