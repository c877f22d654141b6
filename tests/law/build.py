"""Small sagas, a teller that leads one through a story, and what holds after every single message.

In the stories `"a"` is the action of the step called a, and `"-a"` its compensation.
"""

from dataclasses import fields, replace

import orjson

from app.saga import machine
from app.saga.definition import Definition, RetryPolicy, Statuses, Step
from app.saga.history import evolve, fold
from app.saga.machine import Timing
from app.saga.messages import (
    Abandon,
    Actor,
    Admitted,
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
    Record,
    RecordType,
    Resolve,
    Resume,
    Retry,
    Skip,
    Transition,
    Woken,
)
from app.saga.rules import paused, wake_at
from app.saga.state import ACTION, COMPENSATION, SECOND, Call, CallState, Operation, SagaState, State, pack, unpack

T0 = 1_700_000_000 * SECOND
ID = "0199aaaa"
GRACE = 5
RESEND = 10
TIMING = Timing(lease_grace_seconds=GRACE, redispatch_after_seconds=RESEND)
OPERATOR = Actor("olga", "because")


# --- definitions ------------------------------------------------------------------------------------------------


def policy(attempts: int, *, delay=1.0, multiplier=2.0, ceiling=60.0, jitter=0.0) -> RetryPolicy:
    return RetryPolicy(attempts, delay, multiplier, ceiling, jitter)


def a_step(name: str, *, after=(), attempts=2, undo_attempts=2, compensation: str | None = "undo", **more) -> Step:
    """One attempt lasts ten seconds, the first retry comes after one second, the next after two. No jitter."""
    step = Step(
        name=name,
        service="service",
        action="do",
        compensation=compensation,
        timeout_seconds=10,
        retry=policy(attempts),
        compensation_timeout_seconds=10,
        compensation_retry=policy(undo_attempts),
        depends_on=tuple(after),
        when=None,
        input=None,
        on_exhausted="compensate",
        pivot=False,
        statuses=Statuses(),
        callback_timeout_seconds=3600,
    )
    return replace(step, **more)


def define(*steps: Step, **more) -> Definition:
    definition = Definition(
        name="order",
        type="orchestration",
        timeout_seconds=900,
        max_concurrent=None,
        input_schema=None,
        on_compensation_failure="continue",
        steps=steps,
    )
    return replace(definition, **more) if more else definition


def chain(*steps: Step | str, **more) -> Definition:
    made: list[Step] = []
    for step in steps:
        before = (made[-1].name,) if made else ()
        made.append(replace(a_step(step) if isinstance(step, str) else step, depends_on=before))
    return define(*made, **more)


def beside(*steps: Step | str, **more) -> Definition:
    """Steps that depend on nothing but what they say themselves."""
    return define(*(a_step(step) if isinstance(step, str) else step for step in steps), **more)


def a_pivot(name: str, **more) -> Step:
    return a_step(name, pivot=True, compensation=None, **more)


# --- what holds after every message -----------------------------------------------------------------------------


def through_json(record: Record) -> Record:
    """The record as the database gives it back."""
    plain = {field.name: getattr(record, field.name) for field in fields(record)}
    read = orjson.loads(orjson.dumps(plain))
    return Record(**{**read, "type": RecordType(read["type"])})


def check(definition: Definition, before: State, message: Message | None, transition: Transition) -> None:
    after, records = transition.state, transition.records
    if transition.refusal is not None:
        assert records == (), "a refusal changes nothing"
    if not records:
        assert after == before, "what changes nothing leaves the state as it is"
        assert (transition.dispatches, transition.dead_letters, transition.closed_letters) == ((), (), ())
        return

    assert not before.final, f"{before.state} is final, and {message} has changed it"
    replayed = before
    for record in records:
        assert record.at == after.updated_at
        assert record.step is None or record.step in range(len(definition.steps))
        replayed = evolve(definition, replayed, through_json(record))
    assert replayed == after, "the fold of the history is the state"
    assert unpack(orjson.loads(orjson.dumps(pack(after))), len(after.steps)) == after
    assert unpack(pack(after), len(after.steps)) == after

    assert after.updated_at >= before.updated_at
    assert after.completed[: len(before.completed)] == before.completed
    for (_, _, was), (step, operation, now) in zip(before.calls(), after.calls(), strict=True):
        _check_call(after, step, operation, was, now)

    if after.at_rest:
        assert wake_at(definition, after, after.updated_at) is None
        assert not paused(definition, after)
        assert (after.finished_at is not None) == after.final
        assert (after.attention is not None) == (after.state is SagaState.COMPENSATION_FAILED)
    elif not paused(definition, after):
        assert wake_at(definition, after, after.updated_at) is not None, "nothing waits for ever"
    for letter in transition.dead_letters:
        assert letter.status in {"open", "noted"}
    dispatched = [(d.step, d.operation) for d in transition.dispatches]
    assert len(dispatched) == len(set(dispatched)), "one bell for one operation"


ENDED_ACTION = {
    CallState.SUCCEEDED,
    CallState.REFUSED,
    CallState.EXHAUSTED,
    CallState.SKIPPED,
    CallState.CANCELLED,
}
ENDED_COMPENSATION = {CallState.COMPENSATED, CallState.FAILED, CallState.NOT_NEEDED, CallState.RESOLVED}
COMMON = {CallState.PENDING, CallState.SCHEDULED, CallState.RUNNING, CallState.WAITING, CallState.RETRYING}


def _check_call(after: State, step: int, operation: Operation, was: Call, now: Call) -> None:
    where = f"{operation} of step {step}"
    assert now.attempts >= was.attempts, f"{where}: attempt numbers only grow"
    assert now.key >= was.key
    assert 0 <= now.spent <= now.attempts
    assert now.state in COMMON | (ENDED_ACTION if operation == ACTION else ENDED_COMPENSATION), where
    waits = now.state in {CallState.SCHEDULED, CallState.RUNNING, CallState.WAITING, CallState.RETRYING}
    assert (now.due_at is not None) == waits, f"{where}: due_at belongs to what is under way"
    settles = {CallState.SUCCEEDED, CallState.COMPENSATED}
    if was.unknown and not now.unknown:
        assert now.state in settles, f"{where}: only a success settles an unknown outcome"
    if after.state is SagaState.COMPENSATING and operation == ACTION:
        assert now.state in ENDED_ACTION | {CallState.RUNNING}, f"{where}: nothing new after the turn"
    if after.at_rest:
        assert not waits, f"{where}: nothing is under way at rest"


# --- telling a story --------------------------------------------------------------------------------------------


class Tale:
    """One saga, and the clock beside it."""

    def __init__(self, definition: Definition, **options) -> None:
        self.definition, self.now = definition, T0
        made = machine.create(definition, T0, saga_id=ID, timing=TIMING, **options)
        self.state = made.state
        self.history = list(made.records)
        self.last = made
        self.letters: list[tuple[str, str]] = []

    # telling

    def tell(self, message: Message) -> Transition:
        before = self.state
        self.last = machine.step(self.definition, before, message, saga_id=ID, timing=TIMING)
        check(self.definition, before, message, self.last)
        self.state = self.last.state
        self.history += self.last.records
        for closed in self.last.closed_letters:
            self.letters.remove((self.word(closed.step, closed.operation), "open"))
            self.letters.append((self.word(closed.step, closed.operation), closed.status))
        self.letters += [(self.word(d.step, d.operation), d.status) for d in self.last.dead_letters]
        assert fold(self.definition, map(through_json, self.history)) == self.state
        return self.last

    def wait(self, seconds: float) -> "Tale":
        self.now += round(seconds * SECOND)
        return self

    def wake(self, after: float = 0) -> Transition:
        return self.wait(after).tell(Woken(self.now))

    def admit(self) -> Transition:
        return self.tell(Admitted(self.now))

    def wake_when_due(self) -> Transition:
        due = self.wake_at
        assert due is not None, "nobody would look at this saga again"
        self.now = max(self.now, due)
        woken = self.tell(Woken(self.now))
        later = self.wake_at
        assert later is None or later > self.now, "a saga that has been looked at is not due at once"
        return woken

    def _at(self, word: str) -> tuple[int, Operation]:
        if word.startswith("-"):
            return self.definition.index[word[1:]], COMPENSATION
        return self.definition.index[word], ACTION

    def word(self, step: int, operation: Operation) -> str:
        name = self.definition.steps[step].name
        return name if operation == ACTION else f"-{name}"

    def claim(self, word: str) -> Transition:
        return self.tell(Claim(self.now, *self._at(word)))

    def begins(self, *words: str) -> Transition:
        for word in words:
            assert self.claim(word).records, f"{word} could not begin: {self.shape}"
            assert self.call(word).state is CallState.RUNNING
        return self.last

    def answer(self, word: str, outcome: Outcome, attempt: int | None = None) -> Transition:
        number = self.call(word).attempts if attempt is None else attempt
        return self.tell(Answered(self.now, *self._at(word), number, outcome))

    def succeeds(self, word: str, attempt: int | None = None) -> Transition:
        return self.answer(word, Outcome(OutcomeKind.SUCCEEDED, status=200), attempt)

    def refuses(self, word: str, attempt: int | None = None, **more) -> Transition:
        return self.answer(word, Outcome(OutcomeKind.REFUSED, "no stock", 422, **more), attempt)

    def fails(self, word: str, attempt: int | None = None, *, cut: float = 0, **more) -> Transition:
        """Unknown: over at once, or cut off and possibly running for another `cut` seconds."""
        text = "connection broken" if cut else "503 from the service"
        return self.answer(word, Outcome(OutcomeKind.UNKNOWN, text, may_run_seconds=cut, **more), attempt)

    def is_not_sent(self, word: str, attempt: int | None = None) -> Transition:
        return self.answer(word, Outcome(OutcomeKind.NOT_SENT, "no connection"), attempt)

    def accepts(self, word: str, attempt: int | None = None, **more) -> Transition:
        return self.answer(word, Outcome(OutcomeKind.PENDING, status=202, **more), attempt)

    def does(self, *words: str) -> Transition:
        for word in words:
            self.begins(word)
            assert self.succeeds(word).records
        return self.last

    def tries(self, word: str, how: str, *more) -> Transition:
        """Begins, as soon as it is due, and ends so: `tries("a", "fails")`."""
        call = self.call(word)
        if call.state is CallState.RETRYING and call.due_at is not None:
            self.now = max(self.now, call.due_at)
        self.begins(word)
        return getattr(self, how)(word, *more)

    def is_false(self, name: str) -> Transition:
        return self.tell(ConditionFalse(self.now, self.definition.index[name]))

    def is_inexpressible(self, word: str) -> Transition:
        return self.tell(Inexpressible(self.now, *self._at(word), "cannot divide by zero"))

    def is_missing(self, word: str) -> Transition:
        return self.tell(ParticipantMissing(self.now, *self._at(word), "no service of this name"))

    def cancel(self) -> Transition:
        return self.tell(Cancel(self.now, OPERATOR))

    def retry(self, name: str | None = None, **more) -> Transition:
        step = None if name is None else self.definition.index[name]
        return self.tell(Retry(self.now, OPERATOR, step=step, **more))

    def skip(self, name: str, **more) -> Transition:
        return self.tell(Skip(self.now, OPERATOR, self.definition.index[name], **more))

    def resolve(self, name: str) -> Transition:
        return self.tell(Resolve(self.now, OPERATOR, self.definition.index[name]))

    def abandon(self) -> Transition:
        return self.tell(Abandon(self.now, OPERATOR))

    def pause(self) -> Transition:
        return self.tell(Pause(self.now, OPERATOR))

    def resume(self) -> Transition:
        return self.tell(Resume(self.now, OPERATOR))

    def extend(self, seconds: float) -> Transition:
        return self.tell(Extend(self.now, OPERATOR, seconds))

    # looking

    def call(self, word: str) -> Call:
        return self.state.call(*self._at(word))

    @property
    def shape(self) -> str:
        """`COMPENSATING a=SUCCEEDED/COMPENSATED b=REFUSED`; `?` marks an outcome that is unknown."""
        return shape(self.definition, self.state)

    @property
    def said(self) -> list[str]:
        """The types of the records that the last message has written."""
        return [str(record.type) for record in self.last.records]

    @property
    def sent(self) -> list[str]:
        """What the last message rings for at once."""
        return [self.word(d.step, d.operation) for d in self.last.dispatches if not d.delay_seconds]

    @property
    def sent_later(self) -> list[tuple[str, float]]:
        return [(self.word(d.step, d.operation), d.delay_seconds) for d in self.last.dispatches if d.delay_seconds]

    @property
    def refused_with(self) -> str | None:
        return self.last.refusal.code if self.last.refusal else None

    @property
    def ignored(self) -> bool:
        return not self.last.records and self.last.refusal is None

    @property
    def wake_at(self) -> int | None:
        return wake_at(self.definition, self.state, self.now)

    @property
    def wakes_in(self) -> float | None:
        due = self.wake_at
        return None if due is None else (due - self.now) / SECOND

    @property
    def paused(self) -> bool:
        return paused(self.definition, self.state)

    @property
    def attention(self) -> str | None:
        return self.state.attention.code if self.state.attention else None

    def record(self, kind: str) -> Record:
        """The latest record of this type."""
        return next(record for record in reversed(self.history) if record.type == kind)


def shape(definition: Definition, state: State) -> str:
    words = [str(state.state)]
    if paused(definition, state):
        words.append("paused")
    for plan, record in zip(definition.steps, state.steps, strict=True):
        word = f"{plan.name}={record.action.state}" + ("?" if record.action.unknown else "")
        if record.compensation.state not in {CallState.PENDING, CallState.NOT_NEEDED}:
            word += f"/{record.compensation.state}" + ("?" if record.compensation.unknown else "")
        words.append(word)
    return " ".join(words)


def compensating(*names: str, **more) -> Tale:
    """All of these steps were done; a last one was refused."""
    saga = Tale(chain(*names, "z", **more))
    saga.does(*names)
    saga.tries("z", "refuses")
    return saga
