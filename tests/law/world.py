"""A world for one saga: a queue that loses and doubles, workers that die, connections that break, participants
that honour the key and keep a ledger of their own, and operators who act at random.

Everything that could go one way or another is decided by a *script*: at the n-th decision the script says which way,
and where it says nothing all goes well. So a shorter script is a simpler story, and taking one misfortune out of it
leaves the others in their places: that is how hypothesis finds the smallest story that still breaks the law.

What the world grants, because the contract does (section 5, rules 1 and 4): a worker sends within half of the
lease's grace after its claim or not at all; and a request takes effect within its timeout or never, also when its
connection breaks earlier. Work that was accepted with 202 has no such limit, but the participant looks for a
compensation before it takes effect (the barrier). An operator who says `confirm_not_done` has looked.

The oracle is the ledger. It never looks into the saga's state to know what was done.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from app.saga import machine
from app.saga.definition import Definition
from app.saga.history import evolve
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
from app.saga.state import ACTION, COMPENSATION, SECOND, CallState, Micros, Operation, SagaState, State

from .build import GRACE, ID, OPERATOR, T0, TIMING, check

MOMENT = SECOND // 100
LIMIT = 1500
"""Messages after the end of the script within which all must be at rest: far more than any honest saga needs."""


@dataclass
class Plan:
    """What the definition does not say of a step."""

    condition_false: bool = False
    inexpressible: bool = False
    works_later: bool = False
    """The participant answers 202 and calls back."""


@dataclass
class Request:
    step: int
    operation: Operation
    attempt: int
    key: str
    over_by: Micros


@dataclass
class Ledger:
    """What the participants did. Effects are named by their key."""

    definition: Definition
    standing: dict[int, set[str]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    undone: set[int] = field(default_factory=set)
    by_hand: set[int] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def effects(self, step: int) -> set[str]:
        return self.standing.setdefault(step, set())

    def do(self, step: int, key: str) -> None:
        if key in self.known:
            return
        if step in self.undone:
            self.faults.append(f"the action of step {step} took effect after its compensation")
        self.known.add(key)
        self.effects(step).add(key)

    def undo(self, step: int, key: str, given_up: set[int]) -> None:
        if key in self.known:
            return
        if step in self.by_hand:
            self.faults.append(f"step {step} was settled by hand, then undone once more")
        for later in self.definition.downstream[step]:
            can_be_undone = self.definition.steps[later].compensation is not None
            if self.effects(later) and can_be_undone and later not in given_up | self.by_hand:
                self.faults.append(f"step {step} was undone under step {later}, which depends on it")
        self.known.add(key)
        self.undone.add(step)
        self.effects(step).clear()

    def settle(self, step: int) -> None:
        self.by_hand.add(step)
        self.undone.add(step)
        self.effects(step).clear()


class World:
    def __init__(self, definition: Definition, plans: list[Plan], script: dict[int, int]) -> None:
        self.definition, self.plans = definition, plans
        self.script, self.decisions, self.end = script, 0, max(script, default=-1)
        self.now = T0
        self.coming: list[tuple[Micros, int, Callable[[], None]]] = []
        self.count = 0
        self.told = 0
        self.ledger = Ledger(definition)
        self.about_to_send: list[tuple[int, Operation]] = []
        self.on_the_wire: list[Request] = []
        self.jobs: list[Request] = []
        self.story: list[str] = []
        self.history: list[Record] = []
        self.touched: set[int] = set()
        self.waiting: set[int] = set()
        self.compensation_sent: set[int] = set()
        self.turn_kept = False
        self.past_pivot = False
        made = machine.create(definition, self.now, saga_id=ID, timing=TIMING)
        self.state = made.state
        self.wake_at: Micros | None = None
        self._react(made)

    # --- time and chance ----------------------------------------------------------------------------------------

    def choose(self, *options: str) -> str:
        number = self.script.get(self.decisions, 0)
        self.decisions += 1
        return options[number % len(options)]

    @property
    def quiet(self) -> bool:
        """From the end of the script on, all goes well."""
        return self.decisions > self.end

    def some(self, most: Micros) -> Micros:
        """A length of time below `most`; none where all goes well."""
        return int(self.choose("0", "1", "3", "7", "9")) * (most // 10)

    def at(self, when: Micros, do: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.coming, (max(when, self.now), self.count, do))

    def run(self) -> None:
        """To the end: until nothing is coming any more."""
        spoken = 0
        while self.coming:
            self.now, _, do = heapq.heappop(self.coming)
            if not self.quiet:
                spoken = self.told
                self._maybe_an_operator()
            do()
            assert self.told - spoken < LIMIT, "it never comes to rest"

    def help(self) -> None:
        """Operators do what the saga waits for; everything works again."""
        self.script, self.end = {}, -1
        self.plans = [Plan(condition_false=plan.condition_false) for plan in self.plans]
        for _ in range(len(self.plans) + 2):
            if self.state.final:
                break
            self.tell(Resume(self.now, OPERATOR) if self.state.pause else Retry(self.now, OPERATOR))
            self.run()

    # --- the house ----------------------------------------------------------------------------------------------

    def tell(self, message: Message) -> Transition:
        self.told += 1
        before = self.state
        transition = machine.step(self.definition, before, message, saga_id=ID, timing=TIMING)
        if isinstance(message, Claim):
            word = "" if transition.records else " (too late)"
            self.story.append(f"{(self.now - T0) / SECOND:g} {message.operation} {message.step} is claimed{word}")
        else:
            told = transition.refusal or [str(record.type) for record in transition.records]
            self.story.append(f"{(self.now - T0) / SECOND:g} {message} -> {told}")
        check(self.definition, before, message, transition)
        self.state = transition.state
        self._watch(before, transition)
        if transition.records:
            self._react(transition)
        return transition

    def _react(self, transition: Transition) -> None:
        self.history += transition.records
        for dispatch in transition.dispatches:
            self._ring(dispatch.step, dispatch.operation, round(dispatch.delay_seconds * SECOND))
        self._write_wake_at()

    def _write_wake_at(self) -> None:
        """Every write of the row works it out anew, as the engine does."""
        due = wake_at(self.definition, self.state, self.now)
        if due != self.wake_at:
            self.wake_at = due
            if due is not None:
                self.at(due + self.some(SECOND), self._sweep)

    def _sweep(self) -> None:
        if self.wake_at is None or self.wake_at > self.now:
            return
        if not self.tell(Woken(self.now)).records:
            self._write_wake_at()
        after = self.wake_at
        assert after is None or after > self.now, "a saga that was looked at is due again at once: the sweep spins"

    def _ring(self, step: int, operation: Operation, delay: Micros) -> None:
        fate = self.choose("arrives", "lost", "doubled", "late")
        if fate == "lost":
            return
        late = 25 * SECOND if fate == "late" else 0
        for _ in range(2 if fate == "doubled" else 1):
            self.at(self.now + delay + late + MOMENT, lambda: self._arrives(step, operation))

    def _arrives(self, step: int, operation: Operation) -> None:
        if operation == ACTION and self.plans[step].condition_false:
            self.tell(ConditionFalse(self.now, step))
        elif operation == ACTION and self.plans[step].inexpressible:
            self.tell(Inexpressible(self.now, step, operation, "division by zero"))
        elif self.choose("there", "missing") == "missing":
            self.tell(ParticipantMissing(self.now, step, operation, "no such service"))
        else:
            claimed = self.tell(Claim(self.now, step, operation))
            if claimed.records:
                self._carry_out(claimed.records[0])

    # --- a worker -----------------------------------------------------------------------------------------------

    def _carry_out(self, started: Record) -> None:
        assert started.step is not None
        assert started.operation is not None
        step, operation, attempt = started.step, started.operation, started.attempt or 0
        plan = self.definition.steps[step]
        timeout = plan.timeout_seconds if operation == ACTION else plan.compensation_timeout_seconds
        request = Request(step, operation, attempt, started.data["key"], 0)

        def answer(kind: OutcomeKind, after: Micros = 0, **more: object) -> None:
            def tell() -> None:
                outcome = Outcome(kind, str(kind), **more)  # type: ignore[arg-type]
                self.tell(Answered(self.now, step, operation, attempt, outcome))

            fate = self.choose("told", "worker dies", "told late")
            if fate == "worker dies":
                return
            self.at(self.now + after + (40 * SECOND if fate == "told late" else 0), tell)

        fate = self.choose("sends", "dies", "stalls", "stalls too long")
        if fate == "dies":
            return
        if fate == "stalls too long":
            self.at(self.now + GRACE * SECOND, lambda: answer(OutcomeKind.NOT_SENT))
            return
        self.about_to_send.append((step, operation))

        def send() -> None:
            self.about_to_send.remove((step, operation))
            self._send(request, round(timeout * SECOND), answer)

        self.at(self.now + (GRACE * SECOND // 2 if fate == "stalls" else 0), send)

    def _send(self, request: Request, timeout: Micros, answer: Callable[..., None]) -> None:
        step, operation = request.step, request.operation
        self._look_at_the_order(request)
        if self.choose("connected", "no connection") == "no connection":
            answer(OutcomeKind.NOT_SENT, after=MOMENT)
            return
        request.over_by = self.now + timeout
        self.on_the_wire.append(request)
        work = MOMENT + self.some(timeout - 2 * MOMENT)
        how = self.choose(
            "done",
            "refused",
            "refused as busy",
            "503, not done",
            "503, done",
            "done, answer lost",
            "cut, done later",
            "cut, never done",
            "too slow, done",
            "422 retriable",
        )
        if operation == COMPENSATION and how == "422 retriable":
            how = "done"

        def is_over(*, done: bool) -> None:
            self.on_the_wire.remove(request)
            if done:
                self._take_effect(request)

        def answers(kind: OutcomeKind, *, done: bool, **more: object) -> None:
            def arrive() -> None:
                is_over(done=done)
                answer(kind, **more)

            self.at(self.now + work, arrive)

        def is_cut(*, done: bool) -> None:
            cut = self.now + work // 2
            left = (request.over_by - cut) / SECOND
            self.at(cut, lambda: answer(OutcomeKind.UNKNOWN, may_run_seconds=left))
            self.at(request.over_by - MOMENT, lambda: is_over(done=done))

        known = request.key in self.ledger.known
        if self.plans[step].works_later and not known:
            self._accept(request, is_over, answer)
        elif how == "done" or known:
            retry_after = 20 if self.choose("", "retry after") else None
            answers(OutcomeKind.SUCCEEDED, done=True, retry_after_seconds=retry_after)
        elif how == "refused":
            answers(OutcomeKind.REFUSED, done=False)
        elif how == "422 retriable":
            answers(OutcomeKind.REFUSED, done=False, retriable=True)
        elif how == "refused as busy":
            # The contract reads a 409 after an unknown attempt as unknown; another refusal it cannot tell apart.
            busy = any(r.key == request.key and r is not request for r in self.on_the_wire)
            answers(OutcomeKind.UNKNOWN if busy else OutcomeKind.REFUSED, done=False)
        elif how == "503, not done":
            answers(OutcomeKind.UNKNOWN, done=False)
        elif how == "503, done":
            answers(OutcomeKind.UNKNOWN, done=True, retriable=False if self.choose("", "final") else None)
        elif how == "too slow, done":
            self.at(request.over_by - MOMENT, lambda: is_over(done=True))
            self.at(request.over_by, lambda: answer(OutcomeKind.UNKNOWN))
        else:
            is_cut(done=how != "cut, never done")

    # --- participants -------------------------------------------------------------------------------------------

    def _take_effect(self, request: Request) -> None:
        if request.operation == ACTION:
            self.ledger.do(request.step, request.key)
        else:
            failed = {
                step
                for step, record in enumerate(self.state.steps)
                if record.compensation.state is CallState.FAILED or record.compensation.error is not None
            }
            self.ledger.undo(request.step, request.key, failed)

    def _accept(self, request: Request, is_over: Callable[..., None], answer: Callable[..., None]) -> None:
        """202; the work is done later, once, however often it is asked for."""
        running = next((job for job in self.jobs if job.key == request.key), None)
        if running is not None:
            if self.choose("newest", "first") == "newest":
                running.attempt = request.attempt
        else:
            job = Request(request.step, request.operation, request.attempt, request.key, 0)
            self.jobs.append(job)
            end = self.choose("done", "refused", "forgotten", "done, no callback")
            self.at(self.now + 2 * MOMENT + self.some(1000 * SECOND), lambda: self._job_ends(job, end))

        def accepted() -> None:
            is_over(done=False)
            answer(OutcomeKind.PENDING, after=self.some(SECOND))

        self.at(self.now + MOMENT, accepted)

    def _job_ends(self, job: Request, end: str) -> None:
        self.jobs.remove(job)
        barred = job.operation == ACTION and job.step in self.ledger.undone
        done = end.startswith("done") and not barred
        if done:
            self._take_effect(job)
        if end in {"forgotten", "done, no callback"}:
            return

        def call_back() -> None:
            kind = OutcomeKind.SUCCEEDED if done else OutcomeKind.REFUSED
            self.tell(Answered(self.now, job.step, job.operation, job.attempt, Outcome(kind, "by callback")))

        for _ in range(2 if self.choose("once", "twice") == "twice" else 1):
            self.at(self.now + self.some(30 * SECOND), call_back)

    # --- operators ----------------------------------------------------------------------------------------------

    def _maybe_an_operator(self) -> None:
        often = ["cancel", "pause", "retry", "skip", "new input", "resolve"] * 2
        what = self.choose(*["nobody"] * 12, *often, "resume", "retry this", "extend", "abandon", "skip unseen")
        if what != "nobody":
            troubled = sorted(range(len(self.plans)), key=lambda step: not self._in_trouble(step))
            self._operate(what, troubled[int(self.choose("0", "1", "2", "3", "4")) % len(troubled)])

    def _in_trouble(self, step: int) -> bool:
        record = self.state.steps[step]
        troubles = {CallState.RETRYING, CallState.EXHAUSTED, CallState.REFUSED, CallState.FAILED}
        return bool({record.action.state, record.compensation.state} & troubles)

    def _operate(self, what: str, step: int) -> None:
        at, by = self.now, OPERATOR
        idle = not any(job.step == step for job in self.jobs)
        not_done = idle and not self.ledger.effects(step)
        messages: dict[str, Message] = {
            "cancel": Cancel(at, by),
            "pause": Pause(at, by),
            "resume": Resume(at, by),
            "retry": Retry(at, by),
            "retry this": Retry(at, by, step=step),
            "skip": Skip(at, by, step, confirm_not_done=not_done),
            "skip unseen": Skip(at, by, step),
            "new input": Retry(at, by, new_input=True, confirm_not_done=not_done, step=step),
            "extend": Extend(at, by, 4000),
            "abandon": Abandon(at, by),
            "resolve": Resolve(at, by, step),
        }
        if what == "resolve" and not idle:
            return  # work that was accepted may still land; somebody who looks sees it
        told = self.tell(messages[what])
        if what == "resolve" and told.records:
            self.ledger.settle(step)
        if what == "cancel" and told.refusal is None:
            assert not self.state.pause, "a cancel ends a pause"

    # --- what is watched ----------------------------------------------------------------------------------------

    def _look_at_the_order(self, request: Request) -> None:
        """At the moment of sending."""
        step = request.step
        if request.operation == ACTION:
            assert step not in self.compensation_sent, "an action was sent after its compensation"
            return
        self.compensation_sent.add(step)
        assert (step, ACTION) not in self.about_to_send, "compensated while a worker is about to send the action"
        running = [r for r in self.on_the_wire if r.operation == ACTION]
        assert not any(r.step == step for r in running), "compensated while the action is under way"
        below = self.definition.downstream[step]
        assert not any(r.step in below for r in running), "compensated while a later step is under way"
        assert not any((later, ACTION) in self.about_to_send for later in below)

    def _watch(self, before: State, transition: Transition) -> None:
        """What the history may say, by what it has said before."""
        for record in transition.records:
            kind, step = record.type, record.step
            lost_or_unknown = kind is RecordType.STEP_ATTEMPT_LOST or record.data.get("outcome") == "unknown"
            if step is not None and record.operation == ACTION:
                self.waiting.discard(step)
                if kind is RecordType.STEP_WAITING:
                    self.waiting.add(step)
                if lost_or_unknown or kind is RecordType.STEP_SUCCEEDED:
                    self.touched.add(step)
                if kind is RecordType.STEP_STARTED:
                    self._watch_start(before, step)
                if kind is RecordType.STEP_SUCCEEDED and step in self.definition.pivots:
                    self.past_pivot, self.turn_kept = True, False
            elif step is not None and kind is RecordType.COMPENSATION_SCHEDULED:
                self._watch_undo(before, step)
            elif kind is RecordType.COMPENSATION_STARTED:
                assert not paused(self.definition, before), "a compensation is begun in a pause"
            if kind in {RecordType.SAGA_CANCELLED, RecordType.SAGA_TIMED_OUT} and not self.past_pivot:
                self.turn_kept = True
            if kind is RecordType.COMPENSATION_BEGAN:
                assert not self.past_pivot, "turned after the point of no return"
                self.turn_kept = False
                self.touched |= self.waiting
            before = evolve(self.definition, before, record)

    def _watch_start(self, before: State, step: int) -> None:
        assert not paused(self.definition, before), "something new is sent in a pause"
        assert before.state is SagaState.EXECUTING
        for other in self.definition.dependencies[step]:
            assert before.steps[other].action.state in {CallState.SUCCEEDED, CallState.SKIPPED}
        if self.turn_kept:
            assert step in self.definition.pivots, "something but the pivot is sent while a turn is kept"

    def _watch_undo(self, before: State, step: int) -> None:
        assert step in self.touched, "compensated, though it was never done and is not unknown"
        assert self.definition.steps[step].compensation is not None
        if before.steps[step].compensation.state is not CallState.PENDING:
            return  # it was begun before; what an operator retries below it comes too late for the order
        if self.definition.on_compensation_failure == "halt" and before.steps[step].compensation.error is None:
            assert all(r.compensation.state is not CallState.FAILED for r in before.steps), "begun after the halt"
        over = {CallState.COMPENSATED, CallState.RESOLVED, CallState.FAILED}
        for later in self.definition.downstream[step]:
            below = before.steps[later]
            assert below.action.state is not CallState.RUNNING
            if later in self.touched and self.definition.steps[later].compensation is not None:
                assert below.compensation.state in over, "undone before what depends on it"

    def judge(self) -> None:
        """When nothing is coming any more: what the promise says, by the ledger."""
        assert self.ledger.faults == []
        assert not self.on_the_wire
        state, steps = self.state, self.definition.steps
        if state.state is SagaState.COMPLETED:
            for step, record in enumerate(state.steps):
                expected = 1 if record.action.state is CallState.SUCCEEDED else 0
                assert len(self.ledger.effects(step)) == expected, f"{steps[step].name} in a completed saga"
        stands = {s for s in self.ledger.standing if self.ledger.effects(s)}
        matters = {steps[s].name for s in stands if steps[s].compensation is not None or steps[s].pivot}
        if state.state is SagaState.FAILED:
            assert not matters, "failed, but something still stands"
            for step in self.touched:
                ended = state.steps[step].compensation.state
                if steps[step].compensation is not None:
                    assert ended in {CallState.COMPENSATED, CallState.RESOLVED}
        if state.state is SagaState.COMPENSATION_FAILED:
            assert state.attention is not None
            assert matters <= set(state.attention.steps), "something stands that nobody is told of"
