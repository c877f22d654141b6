"""What a definition will do, worked out in advance for the person who writes it."""

from bisect import bisect_left

from app.saga.definition import Definition
from app.saga.graph import in_order, levels_of

Groups = list[list[str]]


def plan(definition: Definition) -> dict[str, Groups | dict[str, Groups]]:
    """`{"forward": [[step, ...], ...], "on_failure": {step: [[step, ...], ...]}}`.

    The groups stand in the order in which they run; the steps of one group run side by side. `forward` is what
    happens when nothing fails.

    `on_failure` says, for a refusal of each step, what would be compensated. It takes the groups of `forward` at
    their word, as if each ended before the next one began: done are the groups up to that of the refused step.
    In a real run a parallel branch may be further or less far, and its steps are undone as far as it got. The
    refused step itself certainly did not happen, so it is not compensated. Once the point of no return is done
    nothing is, and the list is empty.
    """
    order = in_order(definition.dependencies)
    levels = levels_of(definition.dependencies)
    forward: Groups = [[] for _ in range(max(levels) + 1)]
    for step, level in zip(definition.steps, levels, strict=True):
        forward[level].append(step.name)
    on_failure = {}
    for refused, step in enumerate(definition.steps):
        done = [other for other in order if levels[other] <= levels[refused] and other != refused]
        past_return = any(pivot in done for pivot in definition.pivots)
        on_failure[step.name] = [] if past_return else _undoing(definition, done)
    return {"forward": forward, "on_failure": on_failure}


def _undoing(definition: Definition, done: list[int]) -> Groups:
    """The compensations of `done`, which stands in order of dependency."""
    groups: list[set[int]] = []
    for position in reversed(done):
        if definition.steps[position].compensation is None:
            continue
        # Goes after the last group that holds something which depends on it. All groups before that one do as
        # well, or it would not be where it is: so the place can be found by halves.
        place = bisect_left(groups, True, key=definition.downstream[position].isdisjoint)
        if place == len(groups):
            groups.append(set())
        groups[place].add(position)
    return [[definition.steps[position].name for position in sorted(group)] for group in groups]
