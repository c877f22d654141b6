"""Definitions to be tried: every graph of dependencies of some size, and random ones as validation lets them be."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, permutations

from app.saga.definition import Definition

from .build import a_step, define
from .judge import Shape

NAMES = "abcdefgh"
GRAPHS = {1: 1, 2: 2, 3: 6, 4: 31, 5: 302}
"""Graphs without circles by the number of their nodes, up to isomorphism (OEIS A003087)."""

Graph = tuple[tuple[int, ...], ...]
"""The places that each place waits for."""


@cache
def graphs(count: int) -> list[Graph]:
    """One of each kind: the places that each place waits for, all before it."""
    edges = list(combinations(range(count), 2))
    found: dict[frozenset[tuple[int, int]], Graph] = {}
    for chosen in range(1 << len(edges)):
        graph = [edge for number, edge in enumerate(edges) if chosen >> number & 1]
        alike = {frozenset((p[a], p[b]) for a, b in graph) for p in permutations(range(count))}
        if not any(other in found for other in alike):
            above = tuple(tuple(a for a, b in graph if b == place) for place in range(count))
            found[frozenset(graph)] = above
    return list(found.values())


def plain(graph: Graph, **more) -> Definition:
    steps = (a_step(name, after=[NAMES[p] for p in above]) for name, above in zip(NAMES, graph, strict=False))
    return define(*steps, **more)


def changed(definition: Definition, places: Sequence[int], **more) -> Definition:
    steps = [replace(step, **more) if place in places else step for place, step in enumerate(definition.steps)]
    return replace(definition, steps=tuple(steps))


def with_pivot(definition: Definition, pivot: int, *, undoable: bool = False) -> Definition:
    """What need not have ended before the pivot can have nothing to undo."""
    below = Shape(definition).below
    beside = [place for place in range(len(definition.steps)) if pivot not in below[place]]
    definition = changed(definition, beside, compensation=None)
    return changed(definition, [pivot], pivot=True, compensation="undo" if undoable else None)


def is_redundant(graph: Graph) -> bool:
    """Whether it waits for something twice, directly and through others: the same order with more words."""
    below = Shape(plain(graph)).below
    return any(p in below[other] for above in graph for p in above for other in above)


def has_branches(graph: Graph) -> bool:
    return any(place and place - 1 not in above for place, above in enumerate(graph))


def random_definition(chance: random.Random, most: int = len(NAMES)) -> Definition:
    """A chain, groups or any graph, as validation lets it be: one pivot at most, and nothing to undo beside it."""
    count = chance.randint(1, most)
    density = chance.choice([0, 0.2, 0.5, 1])
    chained = chance.random() < 0.3
    steps = []
    for place in range(count):
        above = [place - 1] * (place > 0) if chained else [p for p in range(place) if chance.random() < density]
        step = a_step(
            NAMES[place],
            after=[NAMES[p] for p in above],
            attempts=chance.choice([1, 2, 3]),
            undo_attempts=chance.choice([1, 2, 3]),
            compensation="undo" if chance.random() < 0.85 else None,
            on_exhausted=chance.choice(["compensate", "compensate", "pause"]),
            callback_timeout_seconds=chance.choice([5, 300]),
        )
        steps.append(replace(step, retry=replace(step.retry, jitter=chance.choice([0, 0.5]))))
    definition = define(
        *steps,
        timeout_seconds=chance.choice([3600, 3600, 60, 10]),
        on_compensation_failure=chance.choice(["continue", "continue", "halt"]),
    )
    if chance.random() < 0.4:
        definition = with_pivot(definition, chance.randrange(count), undoable=chance.random() < 0.2)
    return definition
