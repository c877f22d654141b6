"""Where everything stands in a drawing: layers, as Sugiyama, Tagawa and Toda (1981) have them.

A step's column is its distance from the start (longest path). Long lines get places of their own in the columns that
they pass, so that they go round the boxes. Within a column the order is that of the neighbours' mean (barycentre), and
the heights are those nearest to the neighbours' at which nothing overlaps. More columns than stand side by side are
broken into bands that follow each other as lines of text do.

An item is a step, by its position, or a place that the lines from one step share where they pass a column.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.saga.graph import Dependencies, levels_of

GAP: Final = 24.0
PASSAGE: Final = 4.0
"""Height of a place where lines pass."""

_ROUNDS: Final = 4
_MOST_PASSAGES: Final = 4000
"""A tangle with more is unreadable anyway, and is drawn quickly: its long lines pass behind the boxes."""


@dataclass(frozen=True, slots=True)
class Place:
    band: int
    column: int
    """Within its band."""
    order: int
    """Within its column, from the top."""


@dataclass(frozen=True, slots=True)
class Line:
    """From one step to one that waits for it."""

    begin: int
    end: int
    items: tuple[int, ...]
    """All that it touches, both ends included."""


@dataclass(frozen=True, slots=True)
class Layout:
    places: tuple[Place, ...]
    """Of every item; the steps come first."""
    lines: tuple[Line, ...]
    lanes: tuple["Lane", ...]
    columns: int
    """Of the widest band."""


@dataclass(frozen=True, slots=True)
class Lane:
    """The same items in the same columns and order, with heights of their own."""

    middles: tuple[float, ...]
    """Of every item, from the top of its band."""
    heights: tuple[float, ...]
    """Of the bands."""


def lay_out(dependencies: Dependencies, lanes: Sequence[Sequence[float]], *, columns_at_most: int) -> Layout:
    """`dependencies`: without those that follow from others (`graph.reduced`). `lanes`: for each lane the height of
    every step. Lengths are of any unit.
    """
    columns, lines = _items(dependencies)
    before: dict[int, list[int]] = defaultdict(list)
    after: dict[int, list[int]] = defaultdict(list)
    for one, other in dict.fromkeys(pair for line in lines for pair in zip(line.items, line.items[1:], strict=False)):
        after[one].append(other)
        before[other].append(one)
    _order(columns, before, after)
    bands = -(-len(columns) // columns_at_most)
    across = -(-len(columns) // bands)
    places = {
        item: Place(number // across, number % across, order)
        for number, column in enumerate(columns)
        for order, item in enumerate(column)
    }
    passages = [PASSAGE] * (len(places) - len(dependencies))
    return Layout(
        tuple(places[item] for item in range(len(places))),
        tuple(lines),
        tuple(_lane(columns, across, before, after, [*heights, *passages]) for heights in lanes),
        across,
    )


def _lane(
    columns: list[list[int]],
    across: int,
    before: Mapping[int, Sequence[int]],
    after: Mapping[int, Sequence[int]],
    heights: Sequence[float],
) -> Lane:
    middles = _middles(columns, before, after, heights)
    bands: list[float] = []
    for begin in range(0, len(columns), across):
        band = [item for column in columns[begin : begin + across] for item in column]
        top = min(middles[item] - heights[item] / 2 for item in band)
        bands.append(max(middles[item] + heights[item] / 2 for item in band) - top)
        for item in band:
            middles[item] -= top
    return Lane(tuple(middles[item] for item in range(len(heights))), tuple(bands))


def _items(dependencies: Dependencies) -> tuple[list[list[int]], list[Line]]:
    """The items of each column, and the lines through them."""
    levels = levels_of(dependencies)
    columns: list[list[int]] = [[] for _ in range(max(levels) + 1)]
    for step, level in enumerate(levels):
        columns[level].append(step)
    longest: dict[int, int] = {}
    for step, needed in enumerate(dependencies):
        for other in needed:
            longest[other] = max(longest.get(other, 0), levels[step])
    passages: dict[tuple[int, int], int] = {}
    if sum(level - levels[step] for step, level in longest.items()) <= _MOST_PASSAGES:
        for step, level in longest.items():
            for passed in range(levels[step] + 1, level):
                item = passages[step, passed] = len(levels) + len(passages)
                columns[passed].append(item)
    lines = []
    for step, needed in enumerate(dependencies):
        for other in needed:
            passed_by = (passages.get((other, level)) for level in range(levels[other] + 1, levels[step]))
            lines.append(Line(other, step, (other, *(item for item in passed_by if item is not None), step)))
    return columns, lines


def _order(columns: list[list[int]], before: Mapping[int, Sequence[int]], after: Mapping[int, Sequence[int]]) -> None:
    """Sorts each column so that fewer lines cross."""
    rank: dict[int, float] = {}

    def number(column: list[int]) -> None:
        rank.update((item, (place + 0.5) / len(column)) for place, item in enumerate(column))

    for column in columns:
        number(column)
    for _ in range(_ROUNDS):
        for neighbours, ordered in ((before, columns), (after, columns[::-1])):
            for column in ordered:
                column.sort(key=lambda item, near=neighbours: _mean(near.get(item), rank, rank[item]))  # type: ignore[misc]
                number(column)


def _middles(
    columns: list[list[int]],
    before: Mapping[int, Sequence[int]],
    after: Mapping[int, Sequence[int]],
    heights: Sequence[float],
) -> dict[int, float]:
    middles: dict[int, float] = {}
    offsets: dict[int, float] = {}
    for column in columns:
        offset = 0.0
        for above, item in zip([None, *column], column, strict=False):
            if above is not None:
                offset += (heights[above] + heights[item]) / 2 + GAP
            offsets[item] = offset
        middles |= {item: offsets[item] - offset / 2 for item in column}
    for _ in range(_ROUNDS):
        for neighbours, ordered in ((before, columns), (after, columns[::-1])):
            for column in ordered:
                wanted = [_mean(neighbours.get(item), middles, middles[item]) - offsets[item] for item in column]
                for item, middle in zip(column, _ascending(wanted), strict=True):
                    middles[item] = middle + offsets[item]
    return middles


def _mean(items: Sequence[int] | None, values: Mapping[int, float], otherwise: float) -> float:
    return sum(values[item] for item in items) / len(items) if items else otherwise


def _ascending(values: Sequence[float]) -> list[float]:
    """The nearest values, by least squares, of which none is less than the one before (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pool = (value, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, count = pools.pop()
            pool = ((mean * count + pool[0] * pool[1]) / (count + pool[1]), count + pool[1])
        pools.append(pool)
    return [mean for mean, count in pools for _ in range(count)]
