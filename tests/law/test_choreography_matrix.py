"""The law of choreographed sagas by property: every order of a few events, and stories in which services are slow or
die, events come doubled, late or never, and people interfere.

The services of the stories do what `saga_participant` promises: what a step does stands behind a barrier, so what was
called off is not done later, and each compensation is answered by its event, again each time.
"""

import heapq
import os
import random
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from app.saga.definition import Definition
from app.saga.messages import Happened, Request
from app.saga.rules import paused
from app.saga.state import SECOND, CallState, SagaState

from .listening import BEGIN, Story, a_listener, dance, in_a_row

EXAMPLES = int(os.environ.get("SAGA_PROPERTY_EXAMPLES", "1200"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
T = TypeVar("T")

ABC = in_a_row("a", "b", "c")
FORK = dance(a_listener("a"), a_listener("b", after="a"), a_listener("c", after="a"))
DONE = (BEGIN, "a.done", "b.done", "c.done")
FAILED = (BEGIN, "a.done", "b.done", "c.failed", "b.undone", "a.undone")


def told(definition: Definition, *events: str) -> Story:
    saga = Story(definition, events[0])
    saga.hears(*events[1:])
    return saga


def left_alone(saga: Story) -> list[str]:
    """Nothing is heard any more; the steps that were asked, in that order."""
    asked = []
    while saga.wake_at is not None:
        saga.wake_when_due()
        asked += saga.asked
    return asked


@pytest.mark.parametrize("definition", [ABC, FORK], ids=["in a row", "fork"])
def test_in_whatever_order_successes_are_heard_the_saga_completes(definition):
    for order in permutations(DONE):
        saga = told(definition, *order)
        assert saga.state.state is SagaState.COMPLETED, order
        names = [definition.steps[position].name for position in saga.state.completed]
        assert names == [event[0] for event in order if event != BEGIN]


@pytest.mark.parametrize("definition", [ABC, FORK], ids=["in a row", "fork"])
def test_in_whatever_order_a_failure_and_its_undoing_are_heard_the_saga_fails_and_nobody_is_asked(definition):
    for order in permutations(FAILED):
        saga = told(definition, *order)
        assert saga.state.state is SagaState.FAILED, order
        assert not any(record.type == "CompensationStarted" for record in saga.history), order
        assert saga.state.error.code == "event-failed"
        undoing_alone = {e[0] for e in order[: order.index("c.failed")] if e.endswith("undone")}
        if not undoing_alone:
            assert saga.state.error.step == "c", order


@pytest.mark.parametrize("events", [DONE, FAILED], ids=["all is done", "the last step fails"])
def test_every_event_twice_is_as_good_as_once(events):
    for order in permutations(events[:4]):
        rest = events[4:]
        once, twice = told(ABC, *order, *rest), told(ABC, *order, *order, *rest, *rest)
        assert once.shape == twice.shape


LOST = {
    BEGIN: ("COMPLETED", None, []),
    "a.done": ("COMPENSATION_FAILED", "a", ["c", "b", "a"]),
    "b.done": ("COMPENSATION_FAILED", "b", ["c", "b", "a"]),
    "c.done": ("COMPENSATION_FAILED", "c", ["c", "b", "a"]),
}


@pytest.mark.parametrize(("lost", "outcome"), LOST.items(), ids=LOST)
def test_a_success_that_is_lost_is_silence(lost, outcome):
    state, culprit, asked = outcome
    saga = told(ABC, *(event for event in DONE if event != lost))
    assert left_alone(saga)[: len(asked)] == asked
    assert saga.state.state == state
    if culprit is not None:
        assert (saga.state.error.code, saga.state.error.step) == ("exhausted", culprit)
        assert sorted(saga.state.attention.steps) == sorted(asked), "nobody has answered"


@pytest.mark.parametrize("lost", ["a.undone", "b.undone"])
def test_an_undoing_that_is_lost_is_asked_for(lost):
    saga = told(ABC, *(event for event in FAILED if event != lost))
    saga.wake_when_due()
    assert saga.asked == [lost[0]]
    saga.hears(lost)
    assert saga.state.state is SagaState.FAILED


# --- stories ----------------------------------------------------------------------------------------------------


class Drawn:
    """Choices made of bytes; the first option is the simplest and what stands for a byte that is 0 or missing."""

    def __init__(self, drawn: bytes) -> None:
        self.bytes: Iterator[int] = iter(drawn)

    def one(self, *options: T) -> T:
        return options[next(self.bytes, 0) % len(options)]

    def seconds(self) -> int:
        return self.one(0, 1, 2, 5, 9, 11, 25, 60)


class Service:
    """One step's service: a handler behind the kit's barrier, and an outbox that keeps its order."""

    def __init__(self, world: "World", position: int) -> None:
        self.world, self.plan = world, world.definition.steps[position]
        self.refuses = world.drawn.one(False, False, False, True)
        self.hears_failures = world.drawn.one(True, True, False)
        self.dies_after = world.drawn.one(99, 99, 99, 99, 0, 1, 2)
        """So many events are handled."""
        self.handled = 0
        self.began = self.stands = self.called_off = False
        self.published_at = 0

    @property
    def is_dead(self) -> bool:
        return self.handled >= self.dies_after

    def hears(self, event: str) -> None:
        events = self.plan.events
        undoable = events.compensated is not None
        if event == events.trigger:
            self._later(self._act)
        elif undoable and self.hears_failures and event.endswith(".failed") and event != events.failed:
            self._later(self._undo)

    def is_asked(self) -> None:
        self._later(self._undo)

    def _later(self, handle: Callable[[], None]) -> None:
        def unless_dead() -> None:
            if not self.is_dead:
                self.handled += 1
                handle()

        self.world.after(self.world.drawn.seconds(), unless_dead)

    def _act(self) -> None:
        if self.called_off:
            self._publish(self.plan.events.compensated)
        elif not self.began:
            self.began = True
            self.stands = not self.refuses
            self._publish(self.plan.events.failed if self.refuses else self.plan.events.succeeded)

    def _undo(self) -> None:
        self.called_off, self.stands = True, False
        self._publish(self.plan.events.compensated)

    def _publish(self, event: str) -> None:
        self.published_at = max(self.published_at, self.world.now + self.world.drawn.seconds())
        self.world.at(self.published_at, lambda: self.world.is_published(event))


class World:
    def __init__(self, drawn: Drawn) -> None:
        self.drawn, self.now, self.count = drawn, 0, 0
        self.agenda: list[tuple[int, int, Callable[[], None]]] = []
        self.definition = self._definition()
        self.loses = drawn.one(False, False, False, True)
        self.services = [Service(self, position) for position in range(len(self.definition.steps))]
        self.saga: Story | None = None
        self.told: list[str] = []
        self.behind = 0
        """The tracker reads the stream in its order, however late."""

    def _definition(self) -> Definition:
        drawn, names = self.drawn, "abcde"[: self.drawn.one(1, 2, 3, 4, 5)]
        steps = [
            a_listener(
                name,
                after=drawn.one(names[place - 1], *[None, *names[:place]][: place + 1]) if place else None,
                undone=drawn.one(True, True, True, False),
                timeout_seconds=drawn.one(10, 30),
                compensation_timeout_seconds=drawn.one(10, 3, 30),
            )
            for place, name in enumerate(names)
        ]
        return dance(*steps, timeout_seconds=drawn.one(3600, 3600, 20, 90))

    # time

    def at(self, moment: int, do: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.agenda, (moment, self.count, do))

    def after(self, seconds: int, do: Callable[[], None]) -> None:
        self.at(self.now + seconds, do)

    def run(self) -> None:
        self.is_published(BEGIN)
        self.after(self.drawn.seconds(), lambda: self._operate(self.drawn.one(None, None, "cancel", "pause", "extend")))
        self._run_out()
        self._operate("resume")
        self._run_out()
        # A person who has seen to it that what can answer does answer asks once more.
        self._operate("retry")
        self._run_out()

    def _run_out(self) -> None:
        for _ in range(2000):
            due = self.saga.wake_at if self.saga else None
            wakes = None if due is None else -(-(due - self._epoch) // SECOND)
            if self.agenda and (wakes is None or self.agenda[0][0] <= wakes):
                self.now, _, do = heapq.heappop(self.agenda)
                do()
            elif wakes is not None:
                self.now = max(self.now, wakes)
                self._tell(lambda saga: saga.wake())
            else:
                return
        raise AssertionError("it never ends")

    # the stream

    def is_published(self, event: str) -> None:
        for service in self.services:
            service.hears(event)
        if self.loses and self.drawn.one(False, False, True):
            return
        self.behind = max(self.behind, self.now + self.drawn.one(0, 0, 0, 1, 12))
        self.at(self.behind, lambda: self._tracker_reads(event))
        if self.drawn.one(False, False, True):
            self.at(self.behind + self.drawn.seconds(), lambda: self._tracker_reads(event))

    def _tracker_reads(self, event: str) -> None:
        if self.saga is None:
            self.saga = Story(self.definition, event)
            self._epoch = self.saga.now - self.now * SECOND
            self._publish(self.saga.last.requests)
            self._note(event)
            return
        self._tell(lambda saga: saga.tell(Happened(saga.now, event)), event)

    def _tell(self, what: Callable[[Story], object], word: str = "time") -> None:
        if self.saga is None:
            return
        was = self.saga.state
        self.saga.now = max(self.saga.now, self._epoch + self.now * SECOND)
        what(self.saga)
        if was.final:
            assert self.saga.state == was, "a final state never changes"
        if self.saga.last.records:
            self._note(word)
        if self.saga.last.requests:
            assert not paused(self.definition, was) or word == "resume", "something is asked in a pause"
        self._publish(self.saga.last.requests)

    def _note(self, word: str) -> None:
        self.told.append(f"{self.now:4} {word}: {self.saga.shape}; asked {self.saga.asked}")

    def _publish(self, requests: tuple[Request, ...]) -> None:
        for request in requests:
            plan, call = self.definition.steps[request.step], self.saga.state.steps[request.step]
            assert plan.compensation is not None, "asked to undo where there is nothing to undo"
            assert call.action.state is CallState.SUCCEEDED or call.action.unknown
            self.after(self.drawn.one(0, 1, 5), self.services[request.step].is_asked)

    # people

    def _operate(self, what: str | None) -> None:
        doing = {
            "cancel": lambda saga: saga.cancel(),
            "pause": lambda saga: saga.pause(),
            "resume": lambda saga: saga.resume(),
            "retry": lambda saga: saga.retry(),
            "extend": lambda saga: saga.extend(7200),
        }
        if what is not None:
            self._tell(doing[what], what)

    # what is promised

    def judge(self) -> None:
        if self.saga is None:  # whatever was published was lost
            assert self.loses
            return
        state = self.saga.state
        assert state.at_rest
        stands = {service.plan.name for service in self.services if service.stands}
        matters = {service.plan.name for service in self.services if service.stands and service.plan.compensation}
        if state.state is SagaState.COMPLETED:
            assert stands == {plan.name for plan in self.definition.steps}, "completed, but not all is done"
        if self.loses:
            return
        if state.state is SagaState.FAILED:
            assert not matters, "failed, but something still stands"
        if state.state is SagaState.COMPENSATION_FAILED:
            named = set(state.attention.steps)
            assert matters <= named, "something stands that nobody is told of"
            assert named <= {s.plan.name for s in self.services if s.is_dead}, "named, though its service has answered"


@SETTINGS
@given(st.binary(max_size=300))
def test_all_is_done_or_all_is_undone_or_attention_names_what_may_stand(drawn):
    world = World(Drawn(drawn))
    try:
        world.run()
        world.judge()
    finally:
        for line in world.told:
            note(line)


def test_a_plain_random_source_reaches_further():
    for seed in range(EXAMPLES // 2):
        world = World(Drawn(random.Random(seed).randbytes(300)))
        try:
            world.run()
            world.judge()
        except AssertionError as broken:
            raise AssertionError("\n".join([f"seed {seed}: {broken}", *world.told])) from broken
