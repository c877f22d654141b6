"""The law by property: any definition, in a world where anything may go wrong at any time.

`SAGA_PROPERTY_EXAMPLES` sets how many stories hypothesis tells (1200 by default, which with the rest of this file
takes about half a minute); five times as many are told by a plain random source, which is quicker and reaches
further, and finds its smallest story by leaving out what goes wrong for as long as the story still breaks the law.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from app.saga.definition import Definition
from app.saga.history import fold
from app.saga.rules import paused
from app.saga.state import pack, unpack

from .build import a_step, define, policy, shape, through_json
from .world import Plan, World

EXAMPLES = int(os.environ.get("SAGA_PROPERTY_EXAMPLES", "1200"))
NIGHTS = 5
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
T = TypeVar("T")


class Drawn:
    """Choices made of bytes; the first option is the simplest and what stands for a byte that is 0 or missing."""

    def __init__(self, drawn: bytes) -> None:
        self.bytes: Iterator[int] = iter(drawn)

    def one(self, *options: T) -> T:
        return options[next(self.bytes, 0) % len(options)]


def definition_of(drawn: Drawn) -> Definition:
    """Up to five steps, a chain or any graph; pivots only where the contract lets them be."""
    count = drawn.one(1, 2, 3, 4, 5)
    chained = drawn.one(True, False)
    above = [
        [place - 1] * (place > 0) if chained else [other for other in range(place) if drawn.one(False, True)]
        for place in range(count)
    ]
    upstream: list[set[int]] = []
    for place in range(count):
        upstream.append(set(above[place]).union(*(upstream[other] for other in above[place])))
    several = drawn.one(0, 1, 0, 1, 0, 2)
    pivots = {drawn.one(*range(count)) for _ in range(several)}
    steps = []
    for place, name in enumerate("abcde"[:count]):
        undoable = all(place in upstream[pivot] for pivot in pivots) and drawn.one(True, True, True, True, False)
        step = a_step(
            name,
            after=["abcde"[other] for other in above[place]],
            compensation="undo" if undoable else None,
            pivot=place in pivots,
            retry=policy(drawn.one(1, 2, 3), jitter=drawn.one(0, 0.5)),
            compensation_retry=policy(drawn.one(1, 2)),
            on_exhausted=drawn.one("compensate", "compensate", "pause"),
            callback_timeout_seconds=drawn.one(300, 5),
        )
        steps.append(step)
    return define(
        *steps,
        timeout_seconds=drawn.one(3600, 3600, 12, 40, 200),
        on_compensation_failure=drawn.one("continue", "halt"),
    )


def plan_of(drawn: Drawn) -> Plan:
    return Plan(
        condition_false=drawn.one(*[False] * 9, True),
        inexpressible=drawn.one(*[False] * 29, True),
        works_later=drawn.one(False, False, False, True),
    )


def live(shape_bytes: bytes, script: dict[int, int]) -> World:
    drawn = Drawn(shape_bytes)
    definition = definition_of(drawn)
    world = World(definition, [plan_of(drawn) for _ in definition.steps], script)
    try:
        world.run()
        assert world.state.at_rest or paused(definition, world.state), "neither at rest nor paused, and nothing comes"
        world.judge()
        world.help()
        assert world.state.final, "everything works again, and it does not come to its end"
        world.judge()
    except BaseException as error:
        steps = [
            f"{step.name} after {step.depends_on} undo={step.compensation} pivot={step.pivot} {step.on_exhausted}"
            for step in definition.steps
        ]
        told = [definition.on_compensation_failure, *steps, *world.story, shape(definition, world.state)]
        error.add_note("\n".join(told))
        raise
    return world


def misfortunes(density: int) -> st.SearchStrategy[dict[int, int]]:
    """At about `density` of 256 decisions something goes wrong. Bytes, since hypothesis is quick with them."""
    return st.binary(min_size=100, max_size=200).map(lambda drawn: script_of(drawn, density))


def script_of(drawn: bytes, density: int) -> dict[int, int]:
    return {place: byte - 255 + density for place, byte in enumerate(drawn) if byte > 255 - density}


shapes = st.binary(min_size=60, max_size=60)
scripts = st.one_of(
    st.dictionaries(st.integers(0, 50), st.integers(1, 59), min_size=1, max_size=6),
    misfortunes(25),
    misfortunes(100),
)


@SETTINGS
@given(shapes, scripts)
def test_whatever_happens_the_promise_holds(shape_bytes, script):
    world = live(shape_bytes, script)
    note("\n".join(world.story))
    assert fold(world.definition, map(through_json, world.history)) == world.state
    assert unpack(pack(world.state), len(world.definition.steps)) == world.state


@settings(SETTINGS, max_examples=max(EXAMPLES // 4, 20))
@given(shapes)
def test_without_any_fault_a_saga_completes(shape_bytes):
    definition = replace(definition_of(Drawn(shape_bytes)), timeout_seconds=3600)
    world = World(definition, [Plan() for _ in definition.steps], {})
    world.run()
    world.judge()
    assert world.state.state == "COMPLETED"
    assert all(len(world.ledger.effects(step)) == 1 for step in range(len(definition.steps)))


@pytest.mark.timeout(0)
def test_whatever_happens_in_a_long_night_the_promise_holds():
    met: Counter[str] = Counter()
    for seed in range(EXAMPLES * NIGHTS):
        source = random.Random(seed)
        shape_bytes = source.randbytes(60)
        script = script_of(source.randbytes(source.choice([40, 100, 200])), source.choice([15, 40, 80, 140]))
        try:
            world = live(shape_bytes, script)
        except AssertionError:
            live(shape_bytes, smallest(shape_bytes, script))
            raise
        met[str(world.state.state)] += 1
        met.update({str(record.type) for record in world.history})
        met.update({str(record.data["code"]) for record in world.history if record.type == "AttentionRaised"})
    for word in (
        # The stories are worth telling: otherwise their silence would mean nothing.
        *("COMPLETED", "FAILED", "SagaCompensationFailed", "ABANDONED"),
        *("StepAttemptLost", "StepWaiting", "StepSkipped", "SagaTimedOut", "SagaPaused", "CompensationResolved"),
        *("past-pivot", "pivot-undecided", "held", "participant-missing", "retried-without-limit", "overdue"),
    ):
        assert met[word] > EXAMPLES // 400, f"too few stories meet {word}: {met}"


def smallest(shape_bytes: bytes, script: dict[int, int]) -> dict[int, int]:
    """Without every misfortune that the story breaks the law without."""

    def breaks(shorter: dict[int, int]) -> bool:
        try:
            live(shape_bytes, shorter)
        except AssertionError:
            return True
        return False

    for place in sorted(script, reverse=True):
        shorter = {other: number for other, number in script.items() if other != place}
        if breaks(shorter):
            script = shorter
    return script
