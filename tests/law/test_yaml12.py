"""YAML 1.2 as data: what words mean, and what is refused."""

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.saga.yaml12 import YamlInvalid, load_yaml

VALUES = {
    "on and no are words": ("[on, off, yes, no, y, n]", ["on", "off", "yes", "no", "y", "n"]),
    "a time is a word": ("1:30", "1:30"),
    "a date is a word": ("2024-01-01", "2024-01-01"),
    "a version directive brings no older words": ("%YAML 1.1\n---\non: no", {"on": "no"}),
    "booleans": ("[true, False, TRUE]", [True, False, True]),
    "nulls": ("[null, ~, Null]", [None, None, None]),
    "an empty value": ("a:", {"a": None}),
    "integers": ("[12, -7, +3, 010, 0o17, 0x1F]", [12, -7, 3, 10, 15, 31]),
    "an underscore is no digit": ("1_000", "1_000"),
    "floats": ("[1.5, -.5, 1e3, 2.]", [1.5, -0.5, 1000.0, 2.0]),
    "infinity": ("[.inf, -.Inf]", [math.inf, -math.inf]),
    "text in quotes": ("['1', \"true\", '~']", ["1", "true", "~"]),
    "text with a tag": ("[!!str 1, ! 2]", ["1", "2"]),
    "keys are text": ("{1: a, true: b, null: c, 1.5: d}", {"1": "a", "true": "b", "null": "c", "1.5": "d"}),
    "aliases": ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
    "an anchor used again": ("[&x 1, &x 2, *x]", [1, 2, 2]),
    "a merge": ("{a: &x {p: 1, q: 2}, b: {<<: *x, q: 3}}", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
    "merges, the first wins": ("{<<: [{p: 1}, {p: 2, q: 2}]}", {"p": 1, "q": 2}),
    "a merge that is text": ("{'<<': 1, a: <<}", {"<<": 1, "a": "<<"}),
    "nothing": ("", None),
    "a comment": ("# nothing", None),
    "a block": ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
    "a mark at the start": ("\ufeffa: 1", {"a": 1}),
    "JSON": ('{"a": [1, null, true, "x", 1.5], "b": {}}', {"a": [1, None, True, "x", 1.5], "b": {}}),
    "JSON with tabs": ('{\t"a":\t1\n}', {"a": 1}),
    "JSON with a character of two halves": ('{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    "JSON with a mark at the start": ('\ufeff["\\ud83d\\ude00"]', ["\U0001f600"]),
    "a JSON number that JSON lacks is a word": ('{"a": NaN}', {"a": "NaN"}),
}


@pytest.mark.parametrize(("text", "value"), VALUES.values(), ids=VALUES)
def test_what_is_read(text, value):
    for form in (text, text.encode()):
        read = load_yaml(form)
        assert read == value
        assert repr(read) == repr(value)


def test_nan_is_read_for_the_reader_to_refuse():
    assert math.isnan(load_yaml(".nan"))


def bomb(first: str, part: str, closed: str) -> str:
    lines = [f"x0: &x0 {first}"]
    lines += [f"x{i}: &x{i} {part.replace('*', f'*x{i - 1}')}{closed}" for i in range(1, 40)]
    return "\n".join(lines)


REFUSED = {
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' stands here twice"),
    "a key twice in JSON": ('{"a": 1, "a": 2}', "the key 'a' stands here twice"),
    "a key twice, deep": ("x: [{a: 1, 'a': 2}]", "the key 'a' stands here twice"),
    "two documents": ("a: 1\n---\nb: 2", "a second document begins"),
    "two empty documents": ("---\n---\n", "a second document begins"),
    "lists without end": ("[" * 100_000, "more than 100 levels"),
    "objects without end": ("{a: " * 10_000, "more than 100 levels"),
    "dashes without end": ("- " * 10_000, "more than 100 levels"),
    "JSON too deep": ("[" * 101 + "]" * 101, "more than 100 levels"),
    "JSON far too deep": ("[" * 90_000 + "]" * 90_000, "more than 100 levels"),
    "depth by aliases": (
        bomb("[1]", "[*]", "").replace("x39", "y") + "\nz: " + "[" * 70 + "*y" + "]" * 70,
        "100 levels",
    ),
    "a bomb of lists": (bomb("[1, 1]", "[*, *]", ""), "more than 100,000 values"),
    "a bomb of objects": (bomb("{k: 1}", "{p: *, q: *}", ""), "more than 100,000 values"),
    "an alias of nothing": ("a: *x", "*x stands for nothing"),
    "a list within itself": ("&x [*x]", "*x stands for nothing"),
    "a tag of an application": ("a: !order {}", "the tag !order"),
    "a Python object": ("!!python/object/apply:os.system ['true']", "python/object"),
    "bytes": ("a: !!binary aGk=", "binary"),
    "a set": ("!!set {a}", "set is not plain data"),
    "a key that is a list": ("[a, b]: 1", "a key must be a word"),
    "a key that is an alias of a list": ("{a: &x [1], *x : 1}", "a key must be a word"),
    "a merge of a word": ("{<<: a}", "<< takes an object"),
    "half a list": ("a: [1, 2", "line 1"),
    "half a text": ('a: "b', "line 1"),
    "a tab as indentation": ("a:\n\tb: 1", "line 2"),
    "two colons": ("a: b: c", "line 1, column 5"),
    "wrong indentation": ("a: 1\n b: 2", "line 2"),
    "a NUL": ("a: b\0", "NUL"),
    "a NUL that is escaped": ('a: "\\0"', "NUL"),
    "a NUL in a key": ('{"a\\u0000": 1}', "NUL"),
    "half a character": ('a: "\\ud800"', "surrogate"),
    "half a character in JSON": ('["\\ud800"]', "surrogate"),
    "half a character in the text": ("a: \ud800", "surrogate"),
    "a control character": ("a: \x07", "not YAML"),
    "Latin-1": ("a: é".encode("latin-1"), "byte 4 is not UTF-8"),
    "UTF-16": ("a: 1".encode("utf-16"), "byte 1 is not UTF-8"),
    "a number too long": ("9" * 5000, "too many digits"),
    "a number too long, in JSON": (f'{{"a": {"9" * 5000}}}', "too many digits"),
    "a text too long": ("a" * 1_000_001, "longer than 1,000,000 characters"),
    "a version that does not exist": ("%YAML 3.0\n---\na", "line 1"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(text, words):
    with pytest.raises(YamlInvalid) as caught:
        load_yaml(text)
    assert words in caught.value.message
    assert "\n" not in caught.value.message


PIECES = st.sampled_from(
    ["a", "b: ", "- ", "\n", "  ", "\n  ", "[", "]", "{", "}", ", ", ": ", "? ", "&x ", "*x", "!!str ", "!t ", "|\n"]
) | st.sampled_from(
    ["'", '"', "#", "%YAML 1.2\n", "---\n", "...\n", "\t", "\\", "<<: ", "~", ".inf", "0x", "\0", "é", "\r", "%", "@"]
)


@settings(deadline=None, max_examples=1500)
@given(st.lists(PIECES, max_size=25).map("".join) | st.text() | st.binary())
def test_any_text_is_data_or_is_refused(text):
    with suppress(YamlInvalid):
        json.dumps(load_yaml(text)).encode()
