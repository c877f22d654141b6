"""Who waits for whom. Steps are positions; `dependencies[3]` are the positions that step 3 waits for."""

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter

Dependencies = Sequence[Sequence[int]]


def in_order(dependencies: Dependencies) -> list[int]:
    """All positions, each after those it waits for."""
    return list(TopologicalSorter(dict(enumerate(dependencies))).static_order())


def levels_of(dependencies: Dependencies) -> list[int]:
    """How far each position is from the start: the length of the longest path to it."""
    levels = [0] * len(dependencies)
    for position in in_order(dependencies):
        levels[position] = max((levels[other] + 1 for other in dependencies[position]), default=0)
    return levels


def upstream_of(dependencies: Dependencies) -> tuple[frozenset[int], ...]:
    """All that each position waits for, directly or through others."""
    order = in_order(dependencies)
    rank = {position: place for place, position in enumerate(order)}
    above: dict[int, set[int]] = {}
    for position in order:
        above[position] = set()
        for other in sorted(dependencies[position], key=rank.__getitem__, reverse=True):
            # Latest first: what others wait for is in already, and a dense graph costs no more than a chain.
            if other not in above[position]:
                above[position] |= {other, *above[other]}
    return tuple(frozenset(above[position]) for position in range(len(dependencies)))


def downstream_of(upstream: Sequence[frozenset[int]]) -> tuple[frozenset[int], ...]:
    """All that wait for each position, directly or through others."""
    below: list[set[int]] = [set() for _ in upstream]
    for position, above in enumerate(upstream):
        for other in above:
            below[other].add(position)
    return tuple(map(frozenset, below))


def reduced(dependencies: Dependencies, upstream: Sequence[frozenset[int]]) -> list[list[int]]:
    """The dependencies without those that follow from others (transitive reduction: Aho, Garey and Ullman, 1972)."""
    direct: list[list[int]] = []
    for needed in dependencies:
        above: set[int] = set()
        kept = []
        # Who has more upstream comes first: nobody is upstream of one that stands before it.
        for other in sorted(needed, key=lambda other: len(upstream[other]), reverse=True):
            if other not in above:
                kept.append(other)
                above |= upstream[other]
        direct.append(sorted(kept))
    return direct


def circles(dependencies: Dependencies) -> Iterator[list[int]]:
    """Circles with no position in common, each as a list in which every position waits for the next one.

    The first position stands at the end once more.
    """
    graph = dict(enumerate(dependencies))
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as exc:
            circle: list[int] = exc.args[1][::-1]
        else:
            return
        yield circle
        graph = {
            position: [other for other in others if other not in circle]
            for position, others in graph.items()
            if position not in circle
        }
