"""2,000 random definitions with random scripts of answers, held by `Judge` against what the contract allows.

Fates of attempts (life.py: refused, 503, cut, worker lost, told late, 202 and its callback, ...), conditions that are
false, services that are missing for a while, and people who cancel, pause, resume, retry, skip, resolve, extend and
abandon at any moment. `SAGA_SEED` repeats a run, `SAGA_RANDOM_RUNS` says how many.
"""

import os
import random
from collections import Counter

import pytest

from app.saga.definition import parse_definition, to_document

from .build import shape
from .judge import ACTION, COMPENSATION
from .life import FATES, Life
from .shapes import random_definition

SEED = int(os.environ.get("SAGA_SEED") or random.SystemRandom().randrange(10**9))
RUNS = int(os.environ.get("SAGA_RANDOM_RUNS", "2000"))
PEOPLE_ACT = 40
"""Moments until people leave it alone."""


def random_life(chance: random.Random) -> Life:
    definition = random_definition(chance)
    assert parse_definition(to_document(definition), None) == definition, "not what validation allows"
    trouble = chance.choice([0, 0.05, 0.2, 0.6])
    fates = [name for name in FATES if name != "ok"]
    places = range(len(definition.steps))
    operations = [(place, kind) for place in places for kind in (ACTION, COMPENSATION)]
    script = {
        operation: tuple(chance.choice(fates) if chance.random() < trouble else "ok" for _ in range(4))
        for operation in operations
    }
    return Life(
        definition,
        script,
        uneven=chance.random() < 0.7,
        false=frozenset(place for place in places if chance.random() < 0.05),
        inexpressible=frozenset(o for o in operations if o[1] == ACTION and chance.random() < 0.02),
        missing=frozenset(operation for operation in operations if chance.random() < 0.03),
        start_in_seconds=chance.choice([None, None, None, 30]),
    )


def people_act(life: Life, chance: random.Random) -> None:
    troubled = sorted(
        life.judge.exhausted | life.judge.holding | life.judge.failed | {p for p, _ in life.shown_retrying}
    )
    step = chance.choice(troubled or [0])
    act = chance.choice(
        [
            Life.cancels,
            Life.pauses,
            Life.resumes,
            Life.resumes,
            Life.retries,
            lambda life: life.retries(step),
            lambda life: life.retries(step, new_input=True),
            lambda life: life.skips(step),
            lambda life: life.skips(step, looked=False),
            lambda life: life.resolves(step),
            lambda life: life.extends(chance.choice([5, 4000])),
            Life.abandons if chance.random() < 0.2 else Life.retries,
        ]
    )
    act(life)


def live(seed: str) -> tuple[Life, set[str]]:
    """One life to its final state, and what it met."""
    met: set[str] = set()
    chance = random.Random(seed)
    life = random_life(chance)
    often = chance.choice([0, 0, 0.05, 0.3])
    try:
        while life.goes_on():
            if life.moments < PEOPLE_ACT and chance.random() < often:
                people_act(life, chance)
            met |= {str(life.state.state)}
            met |= {"held"} if life.judge.holding else set()
            met |= {"kept"} if life.judge.turn else set()
            met |= {"past the pivot"} if life.judge.past_pivot else set()
        life.is_judged()
        life.gets_help()
    except AssertionError as error:
        steps = [
            f"{s.name} after {s.depends_on} undo={s.compensation} pivot={s.pivot} {s.on_exhausted}"
            for s in life.definition.steps
        ]
        told = f"run {seed!r}: SAGA_SEED={SEED} repeats it; {life.definition.on_compensation_failure}"
        error.add_note("\n".join([told, *steps, *life.story, shape(life.definition, life.state)]))
        raise
    return life, met


@pytest.mark.timeout(300)
def test_random_sagas_end_as_the_contract_allows(record_property):
    record_property("told", f"{RUNS:,} random runs, SAGA_SEED={SEED} repeats them")
    met: Counter[str] = Counter()
    for number in range(RUNS):
        _, found = live(f"{SEED}-{number}")
        met.update(found)
    if RUNS >= 1000:  # the stories are worth telling, otherwise their silence would mean nothing
        for word in ("COMPLETED", "FAILED", "ABANDONED", "COMPENSATION_FAILED", "held", "past the pivot", "kept"):
            assert met[word] >= RUNS // 200, f"too few runs meet {word}: {met}"


def test_a_seed_repeats_its_run():
    (one, _), (other, _) = live("a seed"), live("a seed")
    assert one.story == other.story
