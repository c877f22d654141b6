"""What a definition hides: which places, what is left of a payload that is shown, and of a text that others wrote."""

import json
from typing import Any
from urllib.parse import quote

import jmespath
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.saga import expressions
from app.saga.definition import DefinitionInvalid, digest, parse_definition, to_document
from app.saga.redaction import (
    REDACTED,
    Every,
    NothingKept,
    Path,
    Redaction,
    at,
    covers,
    mask,
    places_in_step_input,
    restore,
    scrub,
    texts_at,
)

ORDER = {
    "name": "order",
    "steps": [
        {"name": "reserve-it", "service": "shop", "action": "reserve", "compensation": "release"},
        {"name": "charge", "service": "shop", "action": "charge", "compensation": "refund"},
    ],
}
CHOREOGRAPHY = {
    "name": "order-events",
    "type": "choreography",
    "started_by": "Placed",
    "correlation": "data.id",
    "steps": [
        {"name": "a", "service": "s", "trigger": "Placed", "succeeded": "Done", "failed": "Not", "compensated": "none"}
    ],
}


def redaction(*expressions_: str) -> Redaction:
    found = parse_definition({**ORDER, "redact": list(expressions_)}, None).redaction
    assert found is not None
    return found


# --- definitions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("input", ()),
        ("input.card.number", ("card", "number")),
        ('input."card-no"', ("card-no",)),
        ("input.cards[*].number", ("cards", Every.ITEM, "number")),
        ("input.*.secret", (Every.VALUE, "secret")),
        ("input.cards[0].x", ("cards", 0, "x")),
        ("input[*][-1]", (Every.ITEM, -1)),
        ("input.*", (Every.VALUE,)),
        ("input.a[*].*.b[*]", ("a", Every.ITEM, Every.VALUE, "b", Every.ITEM)),
    ],
)
def test_an_expression_names_places_in_the_input(expression: str, path: Path) -> None:
    assert redaction(expression) == Redaction((path,), {})


def test_an_expression_names_places_in_outputs() -> None:
    found = redaction("steps.reserve_it.output.id", 'steps."reserve-it".output.*', "steps.charge.output")
    assert found == Redaction((), {"reserve-it": (("id",), (Every.VALUE,)), "charge": ((),)})
    assert redaction("steps.*.output.token").outputs == {"reserve-it": (("token",),), "charge": (("token",),)}


NO_PLACES = {
    "saga.id": "leads to nothing that is hidden",
    "steps": "leads to nothing that is hidden",
    "steps.charge": "leads to nothing that is hidden",
    "steps.charge.state": "leads to nothing that is hidden",
    "steps[*].output": "leads to nothing that is hidden",
    "*": "leads to nothing that is hidden",
    "card.number": "leads to nothing that is hidden",
    "steps.ship.output": "there is no step 'ship'",
    "input.cards[].number": "has no place of its own (flatten)",
    "input.cards[0:2]": "has no place of its own (slice)",
    "input.cards[?x]": "has no place of its own (filter projection)",
    "length(input)": "has no place of its own (function expression)",
    "input | card": "has no place of its own (pipe)",
    "[input.a, input.b]": "has no place of its own (multi select list)",
    "'input'": "has no place of its own (literal)",
    "@": "has no place of its own (current)",
    "input.a || input.b": "has no place of its own (or expression)",
    "input.": "is not a JMESPath expression: it ends too early",
    "": "is empty",
    "input.card-number": "any other name with - stands in double quotes",
}


@pytest.mark.parametrize("expression", NO_PLACES)
def test_what_names_no_place_is_refused_with_its_own(expression: str) -> None:
    with pytest.raises(DefinitionInvalid) as refused:
        parse_definition({**ORDER, "redact": ["input.fine", expression]}, None)
    ((path, message),) = refused.value.errors
    assert path == "redact[1]"
    assert NO_PLACES[expression] in message


@pytest.mark.parametrize(
    ("redact", "path"), [("input.a", "redact"), ([1], "redact[0]"), ([None], "redact[0]"), (["input"] * 51, "redact")]
)
def test_what_is_no_list_of_expressions_is_refused(redact: Any, path: str) -> None:
    with pytest.raises(DefinitionInvalid) as refused:
        parse_definition({**ORDER, "redact": redact}, None)
    assert [fault.path for fault in refused.value.errors] == [path]


@pytest.mark.parametrize("document", [ORDER, CHOREOGRAPHY])
def test_it_belongs_to_the_content(document: dict[str, Any]) -> None:
    plain = parse_definition(document, None)
    assert "redact" not in to_document(plain)
    assert plain.redaction is None
    for nothing in ([], None):
        assert digest(parse_definition({**document, "redact": nothing}, None)) == digest(plain)
    hiding = parse_definition({**document, "redact": ["input.a"]}, None)
    assert digest(hiding) != digest(plain)
    again = parse_definition(json.loads(json.dumps(to_document(hiding))), None)
    assert (again, digest(again)) == (hiding, digest(hiding))


# --- what is shown ----------------------------------------------------------------------------------------------

SECRETS = st.text("SECRT", min_size=4, max_size=9) | st.integers(5_000_000, 5_999_999)
"""Values that stand nowhere else in what is drawn below."""
KEYS = st.sampled_from("abc")


def around(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(children, max_size=3) | st.dictionaries(KEYS, children, max_size=3)


PLAIN = st.recursive(st.none() | st.booleans() | st.integers(0, 99) | st.text("xyz ", max_size=5), around, max_leaves=9)
MIXED = st.recursive(PLAIN | SECRETS, around, max_leaves=12)
PATHS = st.lists(KEYS | st.integers(-2, 2) | st.sampled_from(Every), max_size=4).map(tuple)


def written(path: Path) -> str:
    steps = [
        f"[{s}]" if isinstance(s, int) else s.value if s is Every.ITEM else f".{getattr(s, 'value', s)}" for s in path
    ]
    return "input" + "".join(steps)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [leaf for child in (value.values() if isinstance(value, dict) else value) for leaf in leaves(child)]
    return [value]


@given(MIXED, st.lists(PATHS, max_size=4))
def test_no_hidden_value_is_left_and_all_else_is_as_it_was(value: Any, paths: list[Path]) -> None:
    before = json.dumps(value)
    shown = mask(value, tuple(paths))
    assert json.dumps(value) == before
    for one in paths:
        assert all(left == REDACTED for left in at(shown, (one,)))

    def compare(ours: Any, theirs: Any, place: tuple[Any, ...]) -> None:
        if covers(tuple(paths), place) is not None and theirs == REDACTED:
            return
        if not isinstance(ours, dict | list):
            assert (theirs, type(theirs)) == (ours, type(ours))
            return
        pairs = ours.items() if isinstance(ours, dict) else enumerate(ours)
        assert type(theirs) is type(ours)
        assert len(theirs) == len(ours)
        for key, child in pairs:
            compare(child, theirs[key], (*place, key))

    compare(value, shown, ())


@given(MIXED, PATHS)
def test_a_place_is_where_jmespath_finds_its_value(value: Any, path: Path) -> None:
    found = jmespath.search(written(path), {"input": value})
    ours = list(at(value, (path,)))
    if Every.ITEM in path or Every.VALUE in path:  # jmespath leaves null out of what it projects
        assert sorted(told(found)) == sorted(told(ours))
    else:
        assert ours in ([found], [])
        assert ours or found is None


def told(value: Any) -> list[str]:
    return [repr(leaf) for leaf in leaves(value) if leaf is not None]


def test_what_is_not_there_is_not_made() -> None:
    assert mask({"a": 1}, (("b", "c"), ("a", "x"), (0,), (Every.ITEM, "a"))) == {"a": 1}
    assert mask({"a": None}, (("a",),)) == {"a": REDACTED}


# --- what comes back --------------------------------------------------------------------------------------------


@given(MIXED, st.lists(PATHS, max_size=4).map(tuple))
def test_what_was_shown_and_is_sent_back_is_what_was_kept(value: Any, paths: tuple[Path, ...]) -> None:
    assert restore(mask(value, paths), value, paths) == value


def test_only_what_is_hidden_is_put_back() -> None:
    kept = {"card": {"number": "4111", "name": "Ann"}, "note": "x"}
    paths = (("card", "number"),)
    given_ = {"card": {"number": REDACTED, "name": "Bea"}, "note": REDACTED}
    assert restore(given_, kept, paths) == {"card": {"number": "4111", "name": "Bea"}, "note": REDACTED}
    assert restore({"card": {"number": "4222"}}, kept, paths) == {"card": {"number": "4222"}}


@pytest.mark.parametrize(
    ("given_", "place"),
    [
        ({"cards": [{"n": REDACTED}]}, "input.cards[0].n"),
        ({"cards": [{"n": "1"}, {"n": "2"}, {"n": REDACTED}]}, "input.cards[2].n"),
        ({"card": {"n": REDACTED}}, "input.card.n"),
    ],
)
def test_what_nothing_is_kept_for_is_refused(given_: Any, place: str) -> None:
    kept = {"cards": [{"n": "4111"}, {"n": "4222"}]}
    with pytest.raises(NothingKept) as refused:
        restore(given_, kept, (("cards", Every.ITEM, "n"), ("card", "n")))
    assert refused.value.path == place


# --- inputs of steps --------------------------------------------------------------------------------------------


def document(saga_input: Any, **outputs: Any) -> dict[str, Any]:
    steps = {name.replace("_", "-"): ("SUCCEEDED", output) for name, output in outputs.items()}
    return expressions.document(saga_input, steps, saga_id="id", key="key", name="order")


def test_what_a_mapping_makes_of_what_is_hidden_is_hidden() -> None:
    mapping = {
        "number": "input.card.number",
        "card": "input.card",
        "text": "join('-', [input.card.number, 'x'])",
        "sum": "sum([input.amount, `1`])",
        "missing": "input.pin",
        "token": "steps.reserve_it.output.token",
        "name": "input.card.name",
        "id": "steps.reserve_it.output.id",
        "currency": "'EUR'",
        "literal": 7,
    }
    hidden = redaction("input.card.number", "input.amount", "input.pin", "steps.reserve_it.output.token")
    seen = document({"card": {"number": "4111", "name": "Ann"}, "amount": 3}, reserve_it={"token": "tok", "id": 1})
    places = places_in_step_input(mapping, hidden, seen)
    assert set(places) == {("number",), ("card", "number"), ("text",), ("sum",), ("missing",), ("token",)}


# --- texts ------------------------------------------------------------------------------------------------------


@given(st.lists(st.text("xyz. ", max_size=6), min_size=1, max_size=4), st.lists(SECRETS, max_size=4), st.data())
def test_no_hidden_value_is_left_in_a_text(around_: list[str], secrets: list[Any], data: st.DataObject) -> None:
    words = [str(data.draw(st.sampled_from(secrets))) for _ in around_] if secrets else [""] * len(around_)
    text = "".join(f"{plain}{word}" for plain, word in zip(around_, words, strict=True))
    scrubbed = scrub(text, texts_at(secrets, ((),)))
    assert not any(str(secret) in scrubbed for secret in secrets)
    assert "".join(scrubbed.split(REDACTED)) == "".join(around_) or secrets
    if not secrets:
        assert scrubbed == text


FOREIGN = st.text(st.characters(exclude_characters=REDACTED, exclude_categories=["Cs"]), min_size=4)


@given(FOREIGN, st.sampled_from([json.dumps, lambda s: json.dumps(s, ensure_ascii=False), repr, quote]))
def test_a_value_is_found_as_others_write_it(secret: str, write: Any) -> None:
    text = scrub(f"<<{write(secret)}>>", {secret})
    assert REDACTED in text
    assert secret not in text


@given(st.text("SECRT ", min_size=8, max_size=40), st.integers(4, 39))
def test_a_value_that_was_cut_off_is_not_told_in_part(secret: str, cut: int) -> None:
    assume(cut < len(secret))
    assert scrub(f"no such card: {secret[:cut]}…", {secret}).rstrip("…").endswith(REDACTED)


def test_values_that_overlap_leave_nothing_of_each_other() -> None:
    assert scrub("<4111 1111 2222>", {"4111 1111", "1111 2222"}) == f"<{REDACTED}>"
    assert scrub("<41114111>", {"4111"}) == f"<{REDACTED}>"


def test_what_is_short_counts_as_a_word_of_its_own_or_not_at_all() -> None:
    secrets = texts_at({"cvc": "123", "n": 456, "a": "ab", "yes": True, "no": None}, ((),))
    assert secrets == {"123", "456"}
    assert scrub("123, 1234, x123 (456) ab", secrets) == f"{REDACTED}, 1234, x123 ({REDACTED}) ab"


def test_numbers_are_found_as_digits() -> None:
    secrets = texts_at([4111111111111111, 12.5, 4000.0, 12345678901234567890123], ((),))
    text = scrub('{"n": 4111111111111111, "x": 12.5, "y": 4000, "z": 12345678901234567890123}', secrets)
    assert text == '{"n": [redacted], "x": [redacted], "y": [redacted], "z": [redacted]}'


def test_half_of_a_surrogate_pair_is_a_value_too() -> None:
    assert scrub("<x\ud800yz>", {"x\ud800yz"}) == f"<{REDACTED}>"
