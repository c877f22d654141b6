"""What a picture shows, and that it can be read: as Mermaid and as SVG."""

import re
from dataclasses import replace
from itertools import combinations, pairwise
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from app.saga.diagram import mermaid, svg
from app.saga.diagram.signs import CALLS, SAGAS
from app.saga.graph import reduced, upstream_of
from app.saga.messages import Outcome, OutcomeKind
from app.saga.state import CallState, SagaState
from tests.law.build import Tale, a_pivot, a_step, beside, chain
from tests.law.listening import Story, a_listener, dance, in_a_row

SVG = "{http://www.w3.org/2000/svg}"
NUMBER = r"-?\d+(?:\.\d+)?"


class Picture:
    """An SVG, read as a browser would."""

    def __init__(self, text: str) -> None:
        self.root = ET.fromstring(text)
        self.width, self.height = float(self.root.get("width", "")), float(self.root.get("height", ""))
        self.boxes: dict[tuple[str, str], ET.Element] = {}
        for group in self.root.iter(f"{SVG}g"):
            if group.get("data-operation"):
                key = (group.get("data-step", ""), group.get("data-operation", ""))
                assert key not in self.boxes
                self.boxes[key] = group

    def edges(self, operation: str) -> set[tuple[str | None, str | None]]:
        lines = [line for line in self.root.iter(f"{SVG}path") if line.get("data-operation") == operation]
        return {(line.get("data-from"), line.get("data-to")) for line in lines}

    def place(self, step: str, operation: str = "action") -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        group = self.boxes[step, operation]
        left, top = map(float, re.findall(NUMBER, group.get("transform", "")))
        rect = next(each for each in group.iter(f"{SVG}rect") if each.get("class") == "box")
        return left, top, left + float(rect.get("width", "")), top + float(rect.get("height", ""))

    def words(self, step: str, operation: str = "action") -> list[str]:
        return [text.text or "" for text in self.boxes[step, operation].iter(f"{SVG}text")]

    def state(self, step: str, operation: str = "action") -> str | None:
        return self.boxes[step, operation].get("data-state")

    @property
    def text(self) -> str:
        return " ".join(each.text or "" for each in self.root.iter() if each.tag != f"{SVG}style")


def diamond():
    return beside(
        a_step("quote", compensation=None),
        a_step("stock", after=["quote"], service="shop", action="stock/reserve", compensation="stock/release"),
        a_step("van", after=["quote"]),
        a_step("charge", after=["quote", "stock", "van"]),
    )


# --- a definition -----------------------------------------------------------------------------------------------


def test_the_steps_run_from_left_to_right_and_are_undone_below_from_right_to_left() -> None:
    picture = Picture(svg(diamond()))
    assert picture.edges("action") == {("quote", "stock"), ("quote", "van"), ("stock", "charge"), ("van", "charge")}
    assert picture.edges("compensation") == {("charge", "stock"), ("charge", "van")}
    assert picture.place("quote")[2] < picture.place("van")[0] == picture.place("stock")[0]
    assert picture.place("van")[2] < picture.place("charge")[0]
    lowest = max(picture.place(step)[3] for step in ("quote", "stock", "van", "charge"))
    for step in ("stock", "van", "charge"):
        assert picture.place(step, "compensation")[0] == picture.place(step)[0]
        assert picture.place(step, "compensation")[1] > lowest
    assert ("quote", "compensation") not in picture.boxes
    assert "nothing to undo" in picture.text
    assert picture.words("stock", "compensation") == ["undo stock", "shop: stock/release"]


def test_what_is_undone_waits_through_a_step_that_has_nothing_to_undo() -> None:
    picture = Picture(svg(chain("a", a_step("b", compensation=None), "c", a_step("d", compensation=None))))
    assert picture.edges("compensation") == {("c", "b"), ("b", "a")}


def test_where_nothing_is_ever_undone_there_is_no_lower_lane() -> None:
    text = svg(chain(a_step("a", compensation=None), a_step("b", compensation=None)))
    assert "undo" not in Picture(text).text
    assert 'data-operation="compensation"' not in text


def test_the_pivot_and_a_condition_are_marked_in_words() -> None:
    definition = chain(a_step("a", when="input.n > `1` && input.x < '\"'"), a_pivot("b"))
    picture = Picture(svg(definition))
    assert picture.words("a")[2:] == ["when"]
    assert picture.words("b")[2:] == ["pivot"]
    assert "input.n > `1` && input.x < '\"'" in picture.text
    text = mermaid(definition)
    assert 's0["a<br/>service: do<br/>when"]' in text
    assert 's1{{"b<br/>service: do<br/>pivot"}}' in text


def test_mermaid_leaves_out_what_follows_from_other_dependencies() -> None:
    assert mermaid(diamond()).splitlines() == [
        "flowchart LR",
        '    s0["quote<br/>service: do"]',
        '    s1["stock<br/>shop: stock/reserve"]',
        '    s2["van<br/>service: do"]',
        '    s3["charge<br/>service: do"]',
        "    s0 --> s1",
        "    s0 --> s2",
        "    s1 --> s3",
        "    s2 --> s3",
        '    s1 -. undone by .-> u1("shop: stock/release")',
        '    s2 -. undone by .-> u2("service: undo")',
        '    s3 -. undone by .-> u3("service: undo")',
    ]


def test_a_long_chain_is_broken_like_lines_of_text() -> None:
    picture = Picture(svg(chain(*(f"step-{number}" for number in range(200)))))
    assert picture.width < 1600
    assert len(picture.edges("action")) == 199
    lefts = [picture.place(f"step-{number}")[0] for number in range(200)]
    tops = [picture.place(f"step-{number}")[1] for number in range(200)]
    for left, right, above, below in zip(lefts, lefts[1:], tops, tops[1:], strict=False):
        assert (above == below and left < right) or (above < below and right == lefts[0])


def test_long_names_are_cut_and_stay_whole_in_the_tooltip() -> None:
    name = "W" * 64
    picture = Picture(svg(chain(a_step(name, action="call/" * 20 + "x"))))
    shown = picture.words(name)[0]
    assert shown.endswith("…")
    assert name.startswith(shown[:-1])
    assert picture.boxes[name, "action"].findtext(f"{SVG}title", "").startswith(name)
    assert picture.width < 600


# --- a running saga ---------------------------------------------------------------------------------------------


def test_every_state_has_a_sign() -> None:
    assert set(CALLS) == set(CallState)
    assert set(SAGAS) == set(SagaState)


def test_a_saga_that_is_being_undone_shows_how_everything_stands() -> None:
    saga = Tale(chain("a", a_step("b", compensation=None), "c", "d"))
    saga.does("a", "b")
    saga.tries("c", "fails")
    saga.tries("c", "succeeds")
    saga.tries("d", "refuses")
    saga.begins("-c")
    picture = Picture(svg(saga.definition, saga.state))
    states = {
        ("a", "action"): "SUCCEEDED",
        ("b", "action"): "SUCCEEDED",
        ("c", "action"): "SUCCEEDED",
        ("d", "action"): "REFUSED",
        ("a", "compensation"): "PENDING",
        ("c", "compensation"): "RUNNING",
        ("d", "compensation"): "PENDING",
    }
    assert {key: group.get("data-state") for key, group in picture.boxes.items()} == states
    for (step, operation), state in states.items():
        classes = picture.boxes[step, operation].get("class", "").split()
        assert {operation, state.lower(), CALLS[CallState(state)].tone} <= set(classes)
        assert sum(path.get("class") == "sign" for path in picture.boxes[step, operation].iter(f"{SVG}path")) == 1
    assert picture.words("a")[-1] == "SUCCEEDED"
    assert picture.words("c")[-1] == "SUCCEEDED · 2 attempts"
    assert "COMPENSATING" in picture.text
    assert "Turned by d (refused): no stock" in picture.text

    lines = [line.strip() for line in mermaid(saga.definition, saga.state).splitlines()]
    assert 'saga(["order<br/>↶ COMPENSATING"])' in lines
    assert 's2["c<br/>service: do<br/>✓ SUCCEEDED · 2 attempts"]' in lines
    assert 's2 -. undone by .-> u2("service: undo<br/>▶ RUNNING")' in lines
    assert {"class s2 SUCCEEDED", "class s3 REFUSED", "class u2 RUNNING", "class saga COMPENSATING"} <= set(lines)
    used = {line.split()[2] for line in lines if line.startswith("class ")}
    assert {line.split()[1] for line in lines if line.startswith("classDef ")} == used


def test_at_rest_only_what_may_still_stand_is_told_as_still_to_be_undone() -> None:
    saga = Tale(chain("a", "b"))
    saga.does("a")
    saga.abandon()
    picture = Picture(svg(saga.definition, saga.state))
    assert picture.state("a", "compensation") == "PENDING"
    assert picture.state("b", "compensation") == "NOT_NEEDED"


def test_a_step_that_holds_is_marked_and_the_saga_says_why() -> None:
    saga = Tale(chain("a", a_step("b", attempts=1, on_exhausted="pause")))
    saga.does("a")
    saga.tries("b", "fails")
    picture = Picture(svg(saga.definition, saga.state))
    assert "EXECUTING, paused, needs attention" in picture.text
    assert f"Attention: {saga.state.attention.reason}" in picture.text
    assert picture.words("b")[-1] == "attention"
    assert "attention" not in picture.words("a") + picture.words("b", "compensation")
    assert "! EXHAUSTED<br/>needs attention" in mermaid(saga.definition, saga.state)


def test_a_compensation_that_failed_is_marked_and_not_its_action() -> None:
    saga = Tale(chain("a", "b"))
    saga.does("a")
    saga.tries("b", "refuses")
    saga.tries("-a", "refuses")
    picture = Picture(svg(saga.definition, saga.state))
    assert picture.state("a", "compensation") == "FAILED"
    assert picture.words("a", "compensation")[-1] == "attention"
    assert "attention" not in picture.words("a")


@given(st.text())
@settings(deadline=None)
def test_whatever_a_participant_says_it_is_text(message: str) -> None:
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.answer("a", Outcome(OutcomeKind.REFUSED, f"<script>&{message}", 422))
    picture = Picture(svg(saga.definition, saga.state))
    assert not list(picture.root.iter(f"{SVG}script"))
    assert "<script>&" in picture.boxes["a", "action"].findtext(f"{SVG}title", "")


def test_a_turn_that_waits_for_the_pivot_is_told() -> None:
    saga = Tale(chain("a", a_pivot("b")))
    saga.does("a")
    saga.begins("b")
    saga.cancel()
    assert "Turns once the pivot's outcome is known (cancelled): " in Picture(svg(saga.definition, saga.state)).text


def test_a_long_reason_is_cut_to_the_picture_and_told_as_a_whole_to_who_cannot_see_it() -> None:
    saga = Tale(chain("a"))
    saga.begins("a")
    saga.answer("a", Outcome(OutcomeKind.REFUSED, "no " * 10_000 + "end", 422))
    picture = Picture(svg(saga.definition, saga.state))
    (shown,) = (text.text or "" for text in picture.root.iter(f"{SVG}text") if (text.text or "").startswith("Turned"))
    assert shown.endswith("…")
    assert len(shown) < 100
    assert picture.root.findtext(f"{SVG}desc", "").endswith(saga.state.error.message)


# --- any graph --------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    count = draw(st.integers(1, 14))
    return [sorted(draw(st.sets(st.integers(0, step - 1), max_size=4))) if step else [] for step in range(count)]


@given(graphs())
@settings(deadline=None)
def test_reduced_dependencies_are_the_fewest_that_say_the_same(dependencies: list[list[int]]) -> None:
    upstream = upstream_of(dependencies)
    fewest = reduced(dependencies, upstream)
    assert upstream_of(fewest) == upstream
    for step, needed in enumerate(fewest):
        for other in needed:
            fewer = [[each for each in needs if (at, each) != (step, other)] for at, needs in enumerate(fewest)]
            assert upstream_of(fewer) != upstream


@given(graphs(), st.lists(st.booleans(), min_size=14, max_size=14), st.integers(1, 64))
@settings(deadline=None)
def test_no_box_covers_another_and_all_stand_within_the_picture(
    dependencies: list[list[int]], undone: list[bool], length: int
) -> None:
    names = [f"s{step}".ljust(length, "x") for step in range(len(dependencies))]
    steps = (
        a_step(name, after=[names[other] for other in needed], compensation="undo" if undo else None)
        for name, needed, undo in zip(names, dependencies, undone, strict=False)
    )
    definition = beside(*steps)
    for state in (None, Tale(definition).state):
        picture = Picture(svg(definition, state))
        places = {key: picture.place(*key) for key in picture.boxes}
        for left, top, right, bottom in places.values():
            assert 0 <= left < right <= picture.width
            assert 0 <= top < bottom <= picture.height
        for (a, b, c, d), (e, f, g, h) in combinations(places.values(), 2):
            assert c < e or g < a or d < f or h < b
        for step, needed in zip(definition.steps, reduced(definition.dependencies, definition.upstream), strict=True):
            for other in needed:
                before, after = places[definition.steps[other].name, "action"], places[step.name, "action"]
                assert before[2] < after[0] or before[3] < after[1], "to the right, or further down"
        numbers = [float(n) for path in picture.root.iter(f"{SVG}path") for n in re.findall(NUMBER, path.get("d", ""))]
        assert all(abs(number) <= max(picture.width, picture.height) for number in numbers)


def test_a_tangle_is_drawn_all_the_same() -> None:
    roots = [a_step(f"root-{number}") for number in range(90)]
    tower = [a_step(f"tower-{number}", after=[f"tower-{number - 1}"] if number else []) for number in range(90)]
    top = replace(tower[-1], depends_on=(*(root.name for root in roots), tower[-2].name))
    picture = Picture(svg(beside(*roots, *tower[:-1], top)))
    assert len(picture.edges("action")) == 179


# --- a choreography ---------------------------------------------------------------------------------------------


def test_a_choreography_has_its_events_on_the_lines() -> None:
    definition = dance(a_listener("stock"), a_listener("charge", after="stock", undone=False), a_listener("log"))
    picture = Picture(svg(definition))
    assert picture.edges("action") == {("stock", "charge")}
    events = [each for each in picture.root.iter(f"{SVG}text") if each.get("class") == "event"]
    on_lines = [(each.get("data-event"), each.get("data-step"), each.text) for each in events]
    assert on_lines == [("begin", "stock", "begin"), ("stock.done", "charge", "stock.done"), ("begin", "log", "begin")]
    for each in events:
        left, top, _, bottom = picture.place(each.get("data-step", ""))
        assert 0 < float(each.get("x", "")) < left
        assert top < float(each.get("y", "")) < bottom
    assert picture.words("stock") == ["stock", "service: stock.done"]
    assert picture.words("stock", "compensation") == ["undo stock", "service: stock.undone"]
    assert "stock.failed" in picture.text
    assert ("charge", "compensation") not in picture.boxes


def test_long_names_of_events_leave_the_boxes_apart() -> None:
    names = ["a" * 64, "b" * 64, "c" * 64]
    picture = Picture(svg(in_a_row(*names)))
    for before, after in pairwise(names):
        assert picture.place(before)[2] < picture.place(after)[0]
    assert picture.place("c" * 64)[2] < picture.width


def test_a_choreography_as_text_names_the_events() -> None:
    text = mermaid(dance(a_listener("stock"), a_listener("charge", after="stock", undone=False)))
    assert text.splitlines()[1:] == [
        '    s0["stock<br/>service: stock.done or stock.failed"]',
        '    s1["charge<br/>service: charge.done or charge.failed"]',
        '    begin(["begin"])',
        "    begin --> s0",
        '    s0 -- "stock.done" --> s1',
        '    s0 -. undone by .-> u0("service: stock.undone")',
    ]


def test_a_choreographed_saga_says_how_it_stands() -> None:
    saga = Story(in_a_row("a", "b"))
    saga.hears("a.done", "b.failed")
    picture = Picture(svg(saga.definition, saga.state))
    assert (picture.state("a"), picture.state("a", "compensation")) == ("SUCCEEDED", "SCHEDULED")
    assert picture.state("b") == "REFUSED"
    assert "event-failed" in picture.text
