"""What a definition says that it will do."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.saga.definition import Definition, parse_definition
from app.saga.plan import plan


def define(**depends_on: str | None) -> Definition:
    """Steps by name, each with the names that it depends on; a name in capitals has no compensation."""
    steps: list[dict[str, Any]] = [
        {
            "name": name,
            "service": "s",
            "action": "do",
            "compensation": "none" if name.isupper() else "undo",
            "depends_on": above.split(),
            "pivot": name.startswith("pivot"),
        }
        for name, above in depends_on.items()
    ]
    return parse_definition({"name": "saga", "steps": steps}, None)


PLANS = {
    "a single step": (define(a=""), [["a"]], {"a": []}),
    "a chain": (
        define(a="", b="a", c="b"),
        [["a"], ["b"], ["c"]],
        {"a": [], "b": [["a"]], "c": [["b"], ["a"]]},
    ),
    "a diamond": (
        define(a="", b="a", c="a", d="b c"),
        [["a"], ["b", "c"], ["d"]],
        {"a": [], "b": [["c"], ["a"]], "c": [["b"], ["a"]], "d": [["b", "c"], ["a"]]},
    ),
    "independent steps": (
        define(a="", b=""),
        [["a", "b"]],
        {"a": [["b"]], "b": [["a"]]},
    ),
    "a chain with nothing to undo in between": (
        define(a="", B="a", c="B", d="c"),
        [["a"], ["B"], ["c"], ["d"]],
        {"a": [], "B": [["a"]], "c": [["a"]], "d": [["c"], ["a"]]},
    ),
    "branches of different length": (
        define(a="", b="a", c="", d="b c"),
        [["a", "c"], ["b"], ["d"]],
        {"a": [["c"]], "b": [["a", "c"]], "c": [["a"]], "d": [["b", "c"], ["a"]]},
    ),
    "a point of no return": (
        define(a="", pivot="a", B="pivot"),
        [["a"], ["pivot"], ["B"]],
        {"a": [], "pivot": [["a"]], "B": []},
    ),
    "a step beside the point of no return": (
        define(a="", pivot="a", B="a", C="B"),
        [["a"], ["pivot", "B"], ["C"]],
        {"a": [], "pivot": [["a"]], "B": [], "C": []},
    ),
    "steps written in another order": (
        define(c="b", b="a", a=""),
        [["a"], ["b"], ["c"]],
        {"c": [["b"], ["a"]], "b": [["a"]], "a": []},
    ),
}


@pytest.mark.parametrize(("definition", "forward", "on_failure"), PLANS.values(), ids=PLANS)
def test_plan(definition, forward, on_failure):
    assert plan(definition) == {"forward": forward, "on_failure": on_failure}


def test_a_chain_of_the_greatest_length_has_a_plan():
    names = [f"s{i}" for i in range(1000)]
    definition = define(**dict(zip(names, ["", *names], strict=False)))
    assert plan(definition)["on_failure"]["s999"] == [[name] for name in reversed(names[:-1])]


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    names = draw(st.permutations([f"{letter}" for letter in "abcdEFGH"]))
    return define(**{n: " ".join(draw(st.sets(st.sampled_from(names[:i])))) if i else "" for i, n in enumerate(names)})


@settings(deadline=None)
@given(definitions())
def test_every_group_runs_as_soon_as_it_may_and_never_before(definition):
    whole = plan(definition)
    of = {name: group for group, names in enumerate(whole["forward"]) for name in names}
    assert sorted(of) == sorted(definition.index)
    for step in definition.steps:
        assert of[step.name] == max((of[name] + 1 for name in step.depends_on), default=0)
    for refused, groups in whole["on_failure"].items():
        undone = {name: group for group, names in enumerate(groups) for name in names}
        done = {name for name in of if of[name] <= of[refused] and name != refused}
        assert sum(map(len, groups)) == len(undone)
        assert set(undone) == {name for name in done if not name.isupper()}
        for name, group in undone.items():
            below = {definition.steps[other].name for other in definition.downstream[definition.index[name]]}
            assert group == max((undone[other] + 1 for other in below & set(undone)), default=0)
