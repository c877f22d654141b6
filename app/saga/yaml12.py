"""YAML 1.2, the part of it that is data.

Built from the parser's events and not with a ready-made loader: the loaders still read some scalars as older
YAML did (`2024-01-01` as a date, `%YAML 1.1` turns `on` into true), and what a stranger sends has to be bounded
while it is read, in depth and in aliases that multiply (the 'billion laughs').
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
)

from app.saga.jsonable import MAX_DEPTH, json_fault, text_fault

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000

# The core schema, https://yaml.org/spec/1.2.2/#1032-tag-resolution
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SCALAR_TAGS = {None, "!", "tag:yaml.org,2002:str"}
_COLLECTION_TAGS = {None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


class YamlInvalid(ValueError):  # noqa: N818 - as DefinitionInvalid
    """A text that is not one YAML document of plain data; says where and why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def load_yaml(text: str | bytes, max_depth: int = MAX_DEPTH) -> Any:
    """The document as JSON has it: dicts with text as keys, lists, str, int, float, bool, None.

    Numbers may be infinite or NaN: whoever reads the document knows the place and says it better. An empty text
    is None. `<<` merges. Raises YamlInvalid and nothing else.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as exc:
            raise YamlInvalid(f"byte {exc.start + 1} is not UTF-8: save the file as UTF-8") from None
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_CHARACTERS:
        raise YamlInvalid(f"the document is longer than {MAX_CHARACTERS:,} characters")
    if fault := text_fault(text):
        raise YamlInvalid(f"the document {fault}")
    try:
        # Not for speed alone: \ud83d\ude00 is one character in JSON and two halves of one in YAML.
        value = json.loads(text, object_pairs_hook=_refuse_doubles, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        value = _Builder(max_depth).build(text)
    if fault := json_fault(value, any_number=True, max_depth=max_depth):
        raise YamlInvalid(f"the document {fault}")
    return value


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("the YAML reader will find it again and name the line")
    return values


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON; in YAML it is a word")


_NO_KEY = object()
_MERGE = object()


@dataclass(slots=True)
class _Open:
    """A list or object whose end has not been read yet."""

    value: list[Any] | dict[str, Any]
    anchor: str | None
    counted_before: int
    key: object = _NO_KEY
    merged: list[dict[str, Any]] = field(default_factory=list)


class _RefusedError(Exception):
    """What is wrong at the event in hand."""


class _Builder:
    """Makes values of the parser's events; one is made for each text."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}  # the value, and how many values it stands for
        self._result: Any = None
        self._documents = 0
        self._counted = 0

    def build(self, text: str) -> Any:
        try:
            for event in YAML(typ="safe", pure=True).parse(text):
                try:
                    self._take(event)
                except _RefusedError as exc:
                    raise YamlInvalid(_at(event.start_mark, str(exc))) from None
        except YamlInvalid:
            raise
        except MarkedYAMLError as exc:
            raise YamlInvalid(_at(exc.problem_mark, exc.problem or "this is not YAML")) from None
        except Exception as exc:
            # ruamel.yaml meets some broken texts with whatever broke inside it: IndexError, AssertionError, …
            first_line = (str(exc).splitlines() or [type(exc).__name__])[0]
            raise YamlInvalid(f"the document is not YAML: {first_line}") from exc
        return self._result

    def _take(self, event: Any) -> None:
        match event:
            case DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _RefusedError("a second document begins; send one")
            case AliasEvent():
                if event.anchor not in self._anchors:
                    raise _RefusedError(f"*{event.anchor} stands for nothing that ended before it")
                value, count = self._anchors[event.anchor]
                self._count(count)
                self._put(value)
            case ScalarEvent():
                self._take_scalar(event)
            case CollectionStartEvent():
                if event.tag not in _COLLECTION_TAGS:
                    raise _RefusedError(f"the tag {event.tag} is not plain data; leave it out")
                if len(self._open) >= self._max_depth:
                    raise _RefusedError(f"the document is nested more than {self._max_depth} levels deep")
                empty: list[Any] | dict[str, Any] = {} if isinstance(event, MappingStartEvent) else []
                self._open.append(_Open(empty, event.anchor, self._counted))
                self._count(1)
            case CollectionEndEvent():
                self._close(self._open.pop())

    def _take_scalar(self, event: Any) -> None:
        if event.tag not in _SCALAR_TAGS:
            raise _RefusedError(f"the tag {event.tag} is not plain data; leave it out")
        plain = event.tag is None and event.style in (None, "")
        is_key = self._open and isinstance(self._open[-1].value, dict) and self._open[-1].key is _NO_KEY
        self._count(1)
        if is_key and plain and event.value == "<<":
            self._open[-1].key = _MERGE
            return
        # A key is text, as in JSON, whatever the word would be as a value.
        value = _resolve(event.value) if plain and not is_key else event.value
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)
        self._put(value)

    def _close(self, ended: _Open) -> None:
        if isinstance(ended.value, dict):
            for merged in ended.merged:
                ended.value = {**merged, **ended.value}
        if ended.anchor is not None:
            self._anchors[ended.anchor] = (ended.value, self._counted - ended.counted_before)
        self._put(ended.value)

    def _put(self, value: Any) -> None:
        if not self._open:
            self._result = value
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.key is _NO_KEY:
            if not isinstance(value, str):
                raise _RefusedError("a key must be a word")
            if value in parent.value:
                raise _RefusedError(f"the key {value!r} stands here twice")
            parent.key = value
        elif parent.key is _MERGE:
            sources = value if isinstance(value, list) else [value]
            if not all(isinstance(source, dict) for source in sources):
                raise _RefusedError("<< takes an object, or a list of objects")
            parent.merged += sources
            parent.key = _NO_KEY
        else:
            parent.value[str(parent.key)] = value
            parent.key = _NO_KEY

    def _count(self, values: int) -> None:
        self._counted += values
        if self._counted > MAX_VALUES:
            raise _RefusedError(f"more than {MAX_VALUES:,} values, counting each alias as what it stands for")


def _resolve(word: str) -> str | int | float | bool | None:
    """What a plain word means in the core schema."""
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(word):
        try:
            return int(word, 0 if word.startswith(("0o", "0x")) else 10)
        except ValueError:
            raise _RefusedError("this number has too many digits") from None
    if _FLOAT.fullmatch(word):
        return float(word)
    if _NOT_FINITE.fullmatch(word):
        return float(word.replace(".", "", 1))
    return word


def _at(mark: Any, problem: str) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem
