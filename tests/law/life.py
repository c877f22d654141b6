"""One saga's life in a house with participants, moment by moment; it can be forked at each.

The house does what the engine does: a bell leads to a claim, `wake_at` to a look. Participants follow a *script*: for
each operation the fates of its attempts, in order; when they are used up all goes well. They honour the key, and what
they do takes effect as late as the contract allows (section 5, rules 1 and 4), which is the hardest for an
orchestrator. Every message goes to a `Judge` too, who knows the contract and not the machine; the ledger of the
participants is the oracle for what stands.
"""

import heapq
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

from app.saga import machine
from app.saga.definition import Definition
from app.saga.messages import (
    Abandon,
    Answered,
    Cancel,
    Claim,
    ConditionFalse,
    Extend,
    Inexpressible,
    Message,
    Outcome,
    OutcomeKind,
    ParticipantMissing,
    Pause,
    Resolve,
    Resume,
    Retry,
    Skip,
    Transition,
    Woken,
)
from app.saga.rules import wake_at
from app.saga.state import ACTION, SECOND, CallState, SagaState, State

from .build import GRACE, ID, OPERATOR, T0, TIMING
from .judge import AT_REST, Judge, Shape, Word

MOMENT = SECOND // 100
LIMIT = 400
"""Moments within which every life must have come to its end."""


@dataclass(frozen=True)
class Fate:
    """Of one attempt. Times: `pace` is the participant's own, `timeout` the attempt's, `lease` after its lease."""

    told: tuple[tuple[str, Outcome], ...] = ()
    """When the house hears what."""
    does: str | None = None
    """When it takes effect."""


def told(when: str, kind: str, **more) -> tuple[tuple[str, Outcome], ...]:
    return ((when, Outcome(OutcomeKind(kind), kind, **more)),)


OK = told("pace", "succeeded")
CUT = told("half", "unknown", may_run_seconds=1)
FATES: Mapping[str, Fate] = {
    "ok": Fate(OK, "pace"),
    "refused": Fate(told("pace", "refused")),
    "refused for now": Fate(told("pace", "refused", retriable=True)),
    "not sent": Fate(told("pace", "not-sent")),
    "503": Fate(told("pace", "unknown")),
    "503, done": Fate(told("pace", "unknown"), "pace"),
    "503 for good": Fate(told("pace", "unknown", retriable=False)),
    "503 for good, done": Fate(told("pace", "unknown", retriable=False), "pace"),
    "cut": Fate(CUT),
    "cut, done": Fate(CUT, "timeout"),
    "too slow": Fate(told("timeout", "unknown")),
    "too slow, done": Fate(told("timeout", "unknown"), "timeout"),
    "worker lost": Fate(),
    "worker lost, done": Fate((), "timeout"),
    "told late": Fate(told("lease", "succeeded"), "timeout"),
    "refusal told late": Fate(told("lease", "refused")),
    "told twice": Fate(OK + told("later", "succeeded"), "pace"),
    "202": Fate(told("pace", "pending") + told("later", "succeeded"), "later"),
    "202, twice": Fate(told("pace", "pending") + told("later", "succeeded") + told("lease", "succeeded"), "later"),
    "202 after its callback": Fate(told("pace", "succeeded") + told("later", "pending"), "pace"),
    "202, refused": Fate(told("pace", "pending") + told("later", "refused")),
    "202, never": Fate(told("pace", "pending")),
    "202, done, never told": Fate(told("pace", "pending"), "later"),
}
"""'..., done' takes effect though nobody says so."""


class Asked:
    """`machine.step` for one definition. It is pure, so the same question is put to it only once."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.answers: dict[tuple, tuple[State, Transition]] = {}
        self.states: dict[State, State] = {}

    def step(self, state: State, message: Message) -> Transition:
        named: Hashable = message
        if isinstance(message, Answered):  # an outcome holds what goes to the history, which has no hash
            outcome = message.outcome
            named = (message.at, message.step, message.operation, message.attempt)
            named += (outcome.kind, outcome.retriable, outcome.may_run_seconds)
        known = self.answers.get((id(state), named))
        if known is None:
            told = machine.step(self.definition, state, message, saga_id=ID, timing=TIMING)
            told = replace(told, state=self.states.setdefault(told.state, told.state))
            # The state is kept beside its answer, so that no other gets its id.
            known = self.answers[id(state), named] = (state, told)
        return known[1]


Script = Mapping[tuple[int, str], tuple[str, ...]]
Event = tuple[int, int, str, tuple]


class Life:
    def __init__(
        self,
        definition: Definition,
        script: Script | None = None,
        *,
        shape: Shape | None = None,
        asked: Asked | None = None,
        uneven: bool = False,
        false: frozenset[int] = frozenset(),
        inexpressible: frozenset[tuple[int, str]] = frozenset(),
        missing: frozenset[tuple[int, str]] = frozenset(),
        start_in_seconds: float | None = None,
    ) -> None:
        self.definition, self.script = definition, script or {}
        self.machine = asked or Asked(definition)
        self.uneven, self.false, self.inexpressible = uneven, false, inexpressible
        self.missing = missing
        self.now, self.moments, self.tells = T0, 0, 0
        self.changed = True
        """By the last message."""
        self.struck = False
        """Whether anything of the script has happened."""
        start_at = None if start_in_seconds is None else T0 + round(start_in_seconds * SECOND)
        self.agenda: list[Event] = []
        self.order = 0
        self.known: frozenset[str] = frozenset()
        """Keys that the participants have done."""
        self.standing: dict[int, int] = {}
        self.undone: frozenset[int] = frozenset()
        self.story: tuple[str, ...] = ()
        made = machine.create(definition, T0, saga_id=ID, timing=TIMING, start_at=start_at)
        self.state = self.machine.states.setdefault(made.state, made.state)
        self.judge = Judge(shape or Shape(definition), made.state.deadline_at, GRACE, start_at)
        self._reacts(made)

    def fork(self) -> "Life":
        other = object.__new__(Life)
        other.__dict__.update(self.__dict__)
        other.agenda, other.standing, other.judge = self.agenda.copy(), self.standing.copy(), self.judge.fork()
        return other

    # --- time ---------------------------------------------------------------------------------------------------

    def at(self, when: int, what: str, *about) -> None:
        self.order += 1
        heapq.heappush(self.agenda, (max(when, self.now), self.order, what, about))

    def goes_on(self) -> bool:
        """The next thing happens; False where nothing is coming."""
        due = self.wake_at
        if self.agenda and (due is None or self.agenda[0][0] <= due):
            self.now, _, what, about = heapq.heappop(self.agenda)
            _HAPPENS[what](self, *about)
        elif due is not None:
            self.now = max(self.now, due)
            self.looks()
            assert self.wake_at is None or self.wake_at > self.now, "it was looked at, and is due again at once"
        else:
            return False
        self.moments += 1
        assert self.moments < LIMIT, "it never ends"
        return True

    def ends(self) -> "Life":
        while self.goes_on():
            pass
        return self

    def each_moment(self) -> Iterator["Life"]:
        """Lives this life; yields a copy of it between any two messages."""
        yield self.fork()
        said = self.tells
        while self.goes_on():
            if self.tells > said:
                yield self.fork()
            said = self.tells

    # --- the house ----------------------------------------------------------------------------------------------

    def tell(self, message: Message) -> Transition:
        self.tells += 1
        transition = self.machine.step(self.state, message)
        self.state = transition.state
        return transition

    def _reacts(self, transition: Transition, *, woken: bool = False) -> None:
        """After the judge has heard the message."""
        for bell in transition.dispatches:
            self.at(self.now + round(bell.delay_seconds * SECOND), "bell", bell.step, bell.operation)
        state = self.state
        if transition.records or woken:  # a row that is not written keeps its `wake_at`
            self.wake_at = wake_at(self.definition, state, self.now)
            self.judge.begins(self.now)
        attention = None if state.attention is None else set(state.attention.steps)
        self.judge.reads(str(state.state), attention, state.error and state.error.code)

    def _bell(self, step: int, operation: str) -> None:
        if (step, operation) in self.missing and self.now < T0 + 60 * SECOND:
            self._tells(f"{operation} {step} has no participant", ParticipantMissing(self.now, step, operation, "gone"))
        elif operation == ACTION and step in self.false:
            told = self._says(f"{step} is false", ConditionFalse(self.now, step))
            if told.records:
                self.judge.finds_the_condition_false(step)
            self._reacts(told)
        elif (step, operation) in self.inexpressible:
            told = self._says(f"{operation} {step} fails", Inexpressible(self.now, step, operation, "1/0"))
            if told.records:
                self.judge.cannot_express(step, operation)
            self._reacts(told)
        else:
            told = self._says(f"{operation} {step} is claimed", Claim(self.now, step, operation))
            if told.records:
                started = told.records[0]
                self.judge.sends(step, operation, started.attempt, self.now)
                self._carries_out(step, operation, started.attempt, started.data["key"])
            self._reacts(told)

    def _says(self, word: str, message: Message) -> Transition:
        self.story += (f"{(self.now - T0) / SECOND:g} {word}",)
        told = self.tell(message)
        self.changed = bool(told.records)
        return told

    def _tells(self, word: str, message: Message) -> None:
        self._reacts(self._says(word, message))

    def looks(self) -> None:
        told = self._says("it is looked at", Woken(self.now))
        self.judge.is_looked_at(self.now)
        self._reacts(told, woken=True)

    # --- workers and participants -------------------------------------------------------------------------------

    def _carries_out(self, step: int, operation: str, attempt: int, key: str) -> None:
        fates = self.script.get((step, operation), ())
        name = fates[attempt - 1] if attempt <= len(fates) else "ok"
        self.struck = self.struck or (step, operation) in self.script
        self.story += (f"    its fate: {name}",)
        fate = FATES[name]
        timeout = round(self.judge.shape.timeout((step, operation)) * SECOND)
        pace = SECOND + (SECOND * (2 * step % 5) if self.uneven else 0)
        after = {
            "half": pace // 2,
            "pace": pace,
            "timeout": timeout - MOMENT,
            "later": pace + 4 * SECOND,
            "lease": timeout + (GRACE + 3) * SECOND,
        }
        if fate.does:
            self.at(self.now + after[fate.does], "effect", step, operation, key, fate.does == "later")
        for when, outcome in fate.told:
            if outcome.may_run_seconds:
                outcome = replace(outcome, may_run_seconds=(timeout - after["half"]) / SECOND)  # noqa: PLW2901
            # A timeout is over when the worker says so.
            heard = self.now + after[when] + (MOMENT if when == "timeout" else 0)
            self.at(heard, "answer", step, operation, attempt, outcome)

    def _answer(self, step: int, operation: str, attempt: int, outcome: Outcome) -> None:
        word = f"{operation} {step}, attempt {attempt}: {outcome.kind}"
        told = self._says(word, Answered(self.now, step, operation, attempt, outcome))
        self.judge.hears(
            step, operation, attempt, Word(str(outcome.kind), outcome.retriable, outcome.may_run_seconds), self.now
        )
        self._reacts(told)

    def _effect(self, step: int, operation: str, key: str, accepted: bool) -> None:
        if key in self.known:
            return
        if operation == ACTION:
            if accepted and step in self.undone:
                return  # the barrier: work that was accepted looks for its compensation before it takes effect
            assert step not in self.undone, f"the action of {step} took effect after its compensation"
            self.standing[step] = self.standing.get(step, 0) + 1
        else:
            shape = self.judge.shape
            above = {p for p in shape.below[step] & shape.undoable if self.standing.get(p)}
            assert above <= self.judge.failed | self.judge.once_failed, f"{step} was undone under {above}"
            self.standing[step] = 0
            self.undone |= {step}
        self.story += (f"{(self.now - T0) / SECOND:g} {operation} {step} takes effect",)
        self.known |= {key}

    # --- people -------------------------------------------------------------------------------------------------

    def _asks(self, word: str, message: Message) -> tuple[bool, Transition]:
        told = self._says(word, message)
        return told.refusal is None, told

    def cancels(self) -> bool:
        accepted, told = self._asks("cancel", Cancel(self.now, OPERATOR))
        self.judge.cancels(accepted)
        self._reacts(told)
        return accepted

    def times_out(self) -> None:
        """Its deadline falls on this moment."""
        self.judge.deadline_at = min(self.judge.deadline_at, self.now)
        self.state = replace(self.state, deadline_at=self.judge.deadline_at)
        self.looks()

    def pauses(self) -> bool:
        accepted, told = self._asks("pause", Pause(self.now, OPERATOR))
        self.judge.pauses(accepted)
        self._reacts(told)
        return accepted

    def resumes(self) -> bool:
        accepted, told = self._asks("resume", Resume(self.now, OPERATOR))
        self.judge.resumes(accepted, self.now)
        self._reacts(told)
        return accepted

    def extends(self, seconds: float) -> bool:
        accepted, told = self._asks("extend", Extend(self.now, OPERATOR, seconds))
        self.judge.extends(accepted, self.now + round(seconds * SECOND))
        self._reacts(told)
        return accepted

    def abandons(self) -> bool:
        accepted, told = self._asks("abandon", Abandon(self.now, OPERATOR))
        self.judge.abandons(accepted)
        self._reacts(told)
        return accepted

    @property
    def shown_retrying(self) -> set[tuple[int, str]]:
        return {(p, kind) for p, kind, call in self.state.calls() if call.state is CallState.RETRYING}

    def retries(self, step: int | None = None, *, new_input: bool = False) -> bool:
        retrying = self.shown_retrying
        confirmed = new_input and step is not None and self.has_not_happened(step)
        message = Retry(self.now, OPERATOR, new_input=new_input, confirm_not_done=confirmed, step=step)
        accepted, told = self._asks(f"retry {step} {new_input=}", message)
        self.judge.retries(accepted, step, retrying, new_input=new_input)
        self._reacts(told)
        return accepted

    def skips(self, step: int, *, looked: bool = True) -> bool:
        retrying, confirmed = self.shown_retrying, looked and self.has_not_happened(step)
        accepted, told = self._asks(f"skip {step}", Skip(self.now, OPERATOR, step, confirm_not_done=confirmed))
        self.judge.skips(accepted, step, retrying, confirmed, self.now)
        self._reacts(told)
        return accepted

    def resolves(self, step: int) -> bool:
        """Who settles a step by hand has looked: nothing is coming that would undo it once more."""
        if self.is_coming(step):
            return False
        accepted, told = self._asks(f"resolve {step}", Resolve(self.now, OPERATOR, step))
        self.judge.resolves(accepted, step, self.now)
        if accepted:
            self.standing[step] = 0
            self.undone |= {step}
        self._reacts(told)
        return accepted

    def is_coming(self, step: int) -> bool:
        return any(what == "effect" and about[0] == step for _, _, what, about in self.agenda)

    def has_not_happened(self, step: int) -> bool:
        return not self.standing.get(step) and not self.is_coming(step)

    # --- the end ------------------------------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        return str(self.state.state) in AT_REST

    @property
    def holds(self) -> bool:
        return bool(self.judge.holding) or self.judge.paused

    def is_judged(self) -> "Life":
        assert self.at_rest or self.holds, f"it is {self.state.state}, and nothing is coming"
        if self.at_rest:
            self.judge.finds_standing(self.standing)
        return self

    def gets_help(self) -> "Life":
        """A person does what it waits for, everything works, and it comes to a final state."""
        self.script, self.missing, self.inexpressible = {}, frozenset(), frozenset()
        for _ in range(len(self.definition.steps) + 2):
            if self.state.state not in AT_REST or self.state.state is SagaState.COMPENSATION_FAILED:
                self.resumes() if self.judge.paused else self.retries()
                self.ends()
        assert self.state.final, f"everything works, and it is {self.state.state}"
        return self.is_judged()


_HAPPENS = {"bell": Life._bell, "answer": Life._answer, "effect": Life._effect}
