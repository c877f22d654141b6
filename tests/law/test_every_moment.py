"""All or nothing, enumerated: every shape of up to five steps, with every fault at every step, stopped at every moment.

Shapes: all graphs of dependencies up to isomorphism (1, 2, 6, 31 and 302 of one to five steps; chains, groups, diamonds
and joins are among them), each plain, with a pivot at each place, with nothing to undo at each place and everywhere,
pausing where a step is exhausted, halting where a compensation fails, with each condition false, and with a later
start. Where branches run side by side, once in step and once at different paces.

Runs: each fault of an action at each step; each fault of a compensation at each step, after each refusal that leads
there; a cancel and a timeout between any two things that happen. What comes to a hold is retried, skipped and
compensated; what comes to COMPENSATION_FAILED is retried, resolved and abandoned. `Judge` and the participants' ledger
say whether it was right (judge.py, life.py).

Every shape meets a refusal and an unknown outcome at each step, and a cancel and a timeout at each moment of the run
without a fault. The smaller the graph, the more is combined: with one or two steps a stop meets every fault at every
moment, with three those that leave something open, with four and five none. A graph that only says in more words what
a smaller one says (it waits for something twice) is told plain. `SAGA_MOMENTS=all` leaves nothing out, and takes hours.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations

import pytest

from app.saga.definition import Definition

from .build import shape
from .judge import ACTION, COMPENSATION, Shape
from .life import Asked, Life, Script
from .shapes import GRAPHS, Graph, changed, graphs, has_branches, is_redundant, plain, with_pivot

EVERYTHING = os.environ.get("SAGA_MOMENTS") == "all"
MOST_THOROUGH = 2 if EVERYTHING else 5
CERTAINLY_NOT = [("refused",), ("refused for now",) * 2, ("not sent",) * 2, ("refusal told late",)]
NOT_KNOWN = [
    ("503",) * 2,
    ("503, done",) * 2,
    ("503", "refused"),
    ("503, done", "refused"),
    ("503, done", "not sent"),
    ("503 for good",),
    ("503 for good, done",),
    ("cut", "refused"),
    ("cut, done", "refused"),
    ("cut, done", "not sent"),
    ("too slow, done", "refused"),
    ("worker lost", "refused"),
    ("worker lost, done", "refused for now"),
    ("worker lost, done",) * 2,
    ("202, refused",),
    ("202, never",) * 2,
    ("202, done, never told", "refused"),
]
WELL_AFTER_ALL = [
    ("not sent",),
    ("503, done",),
    ("cut, done",),
    ("worker lost",),
    ("told late",),
    ("told twice",),
    ("202",),
    ("202, twice",),
    ("202 after its callback",),
    ("202, never",),
]
ACTIONS = [*CERTAINLY_NOT, *NOT_KNOWN, *WELL_AFTER_ALL]
LEFT_OPEN = [("503, done",), ("cut, done", "refused"), ("202",), ("refused",), ("worker lost, done", "refused")]
"""What a cancel or a timeout may find half done."""
BRIEFLY = [("refused",), ("503, done", "refused"), ("503, done",) * 2]
UNDOINGS = [
    ("refused",),
    ("503",) * 2,
    ("503, done",) * 2,
    ("cut, done",) * 2,
    ("worker lost, done", "refused"),
    ("202, refused",),
    ("503, done",),
    ("cut, done",),
    ("told late",),
    ("202",),
]
FAILED_UNDOINGS = [("refused",), ("503, done",) * 2]


def sorts(graph: Graph) -> Iterator[tuple[str, Definition, dict]]:
    """Every definition of this graph, and what its lives are told besides."""
    places, definition = range(len(graph)), plain(graph)
    yield "plain", definition, {}
    yield "halt", replace(definition, on_compensation_failure="halt"), {}
    yield "pause", changed(definition, places, on_exhausted="pause"), {}
    yield "later", definition, {"start_in_seconds": 60}
    yield "none", changed(definition, places, compensation=None), {}
    for place in places:
        yield "none", changed(definition, [place], compensation=None), {}
        yield "false", definition, {"false": frozenset({place})}
        pivot = with_pivot(definition, place)
        yield "pivot", pivot, {}
        yield "undoable pivot", with_pivot(definition, place, undoable=True), {}
        yield "false pivot", pivot, {"false": frozenset({place})}
        yield "pausing pivot", changed(pivot, places, on_exhausted="pause"), {}


# --- runs -------------------------------------------------------------------------------------------------------


class Runs:
    """Every life of one definition that is asked for; counts how many came to their end."""

    def __init__(self, definition: Definition, told: dict, paces: Sequence[bool]) -> None:
        self.definition, self.told, self.paces = definition, told, paces
        self.shape, self.asked = Shape(definition), Asked(definition)
        self.places = range(len(definition.steps))
        self.count = 0

    @contextmanager
    def _explained(self, life: Life, script: Script) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            if hasattr(error, "__notes__"):
                raise  # a life that was forked from this one has told its story
            steps = [
                f"{s.name} after {s.depends_on} undo={s.compensation} pivot={s.pivot} {s.on_exhausted}"
                for s in self.definition.steps
            ]
            told = f"{self.told}, {self.definition.on_compensation_failure}, script {dict(script)}"
            error.add_note("\n".join([told, *steps, *life.story, shape(self.definition, life.state)]))
            raise

    def live(self, script: Script, *, stopped: bool, **more) -> None:
        for uneven in self.paces:
            life = Life(self.definition, script, shape=self.shape, asked=self.asked, uneven=uneven, **self.told, **more)
            with self._explained(life, script):
                if not stopped:
                    life.ends()
                else:
                    for moment in life.each_moment():
                        if moment.struck or not script:
                            for stop in (Life.cancels, Life.times_out):
                                self._stopped(moment.fork(), script, stop)
                self._ended(life, script)

    def _stopped(self, life: Life, script: Script, stop: Callable[[Life], object]) -> None:
        with self._explained(life, script):
            stop(life)
            if life.changed or not (life.judge.turned or life.at_rest):
                life.ends().is_judged()
            # Otherwise it goes on as the life that it was forked from.
        self.count += 1

    def _ended(self, life: Life, script: Script) -> None:
        life.is_judged()
        self.count += 1
        if life.holds:
            holding = sorted(life.judge.holding)
            self._helped(life, script, Life.retries)
            self._helped(life, script, lambda life: [life.skips(step) for step in holding])
            self._helped(life, script, Life.cancels)
        if life.judge.state == "COMPENSATION_FAILED":
            failed = sorted(life.judge.failed)
            self._helped(life, script, Life.retries)
            self._helped(life, script, lambda life: [life.resolves(step) for step in failed])
            self._helped(life, script, Life.abandons)

    def _helped(self, life: Life, script: Script, act: Callable[[Life], object]) -> None:
        life = life.fork()
        with self._explained(life, script):
            act(life)
            life.ends().is_judged()
            if not life.state.final:
                life.gets_help()
            self.count += 1

    # what there is to enumerate

    def without_a_fault(self) -> None:
        self.live({}, stopped=True)

    def faults_of_actions(self, faults: Sequence[tuple[str, ...]], *, stopped: bool) -> None:
        for place in self.places:
            for fates in faults:
                self.live({(place, ACTION): fates}, stopped=stopped)

    def odd_beginnings(self) -> None:
        for place in self.places:
            for kind in (ACTION, COMPENSATION):
                at = frozenset({(place, kind)})
                last = {} if kind == ACTION else {(self.places[-1], ACTION): ("refused",)}
                self.live(last, stopped=False, missing=at)
                self.live(last, stopped=False, inexpressible=at)

    def faults_of_compensations(self, faults: Sequence[tuple[str, ...]], *, stopped: bool) -> None:
        """After each refusal that leads to that compensation."""
        above = [{p for p in self.places if place in self.shape.below[p]} for place in self.places]
        for refused in self.places:
            for place in self.places:
                leads_there = place in above[refused] or place not in self.shape.below[refused] | {refused}
                if leads_there and place in self.shape.undoable:
                    for fates in faults:
                        script = {(refused, ACTION): ("refused",), (place, COMPENSATION): fates}
                        self.live(script, stopped=stopped)
            pairs = combinations(sorted(above[refused] & self.shape.undoable), 2)
            for one, other in pairs:
                twice = {(one, COMPENSATION): ("refused",), (other, COMPENSATION): ("refused",)}
                self.live({(refused, ACTION): ("refused",), **twice}, stopped=False)


LEFT_OUT: dict[int, set[str]] = {
    1: set(),
    2: set(),
    3: set(),
    4: {"later", "false pivot", "undoable pivot"},
    5: {"later", "false pivot", "undoable pivot", "pausing pivot"},
}
"""A pivot that is skipped, that can be undone, that pauses, and a later start are no matter of size."""


def enumerate_graph(graph: Graph) -> tuple[int, int]:
    """How many runs over how many shapes."""
    runs_of_all, shapes = 0, 0
    for sort, definition, told in sorts(graph):
        if not EVERYTHING and (sort in LEFT_OUT[len(graph)] or (is_redundant(graph) and sort != "plain")):
            continue
        both = has_branches(graph) and (sort == "plain" or len(graph) < 4 or EVERYTHING)
        runs = Runs(definition, told, (False, True) if both else (has_branches(graph),))
        _ENUMERATE[min(len(graph), MOST_THOROUGH)](runs, sort)
        runs_of_all, shapes = runs_of_all + runs.count, shapes + 1
    return runs_of_all, shapes


def up_to_two(runs: Runs, sort: str) -> None:
    runs.without_a_fault()
    runs.faults_of_actions(ACTIONS, stopped=sort in {"plain", "pivot"})
    runs.faults_of_compensations(UNDOINGS, stopped=sort == "plain")
    runs.odd_beginnings()


def of_three(runs: Runs, sort: str) -> None:
    runs.without_a_fault()
    runs.faults_of_actions(ACTIONS, stopped=False)
    if sort == "plain":
        runs.faults_of_actions(LEFT_OPEN, stopped=True)
    runs.faults_of_compensations(UNDOINGS if sort in {"plain", "halt"} else FAILED_UNDOINGS, stopped=False)


def of_four(runs: Runs, sort: str) -> None:
    runs.without_a_fault()
    runs.faults_of_actions(ACTIONS if sort == "plain" else BRIEFLY, stopped=False)
    if sort in {"plain", "halt"}:
        runs.faults_of_compensations(FAILED_UNDOINGS, stopped=False)


def of_five(runs: Runs, sort: str) -> None:
    runs.without_a_fault()
    runs.faults_of_actions(BRIEFLY, stopped=False)
    if sort == "halt":
        runs.faults_of_compensations(FAILED_UNDOINGS[:1], stopped=False)


_ENUMERATE = {1: up_to_two, 2: up_to_two, 3: of_three, 4: of_four, 5: of_five}


@pytest.mark.parametrize("count", GRAPHS)
def test_there_are_as_many_graphs_as_there_should_be(count):
    assert len(graphs(count)) == GRAPHS[count]


def enumerate_all(some: Sequence[Graph], tell: Callable[[str, object], None]) -> None:
    found = [enumerate_graph(graph) for graph in some]
    runs, shapes = sum(runs for runs, _ in found), sum(shapes for _, shapes in found)
    told = f"enumerated {runs:,} runs over {shapes:,} shapes ({len(some)} graphs of {len(some[0])})"
    tell("told", told)
    print(told)  # noqa: T201 - for pytest -s
    assert runs > 20 * shapes


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_all_or_nothing_at_every_moment(count, record_property):
    enumerate_all(graphs(count), record_property)
