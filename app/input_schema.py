"""What a definition's `input_schema` asks for. JSON Schema, and nothing of it is ever fetched.

A schema comes from one person and the input from another, and between them they could keep the process busy for ever
or break its stack. So a pattern is matched in linear time (which costs look-around and back-references), and a schema
is weighed before it is compiled: how many of its parts may look at one and the same place of an input, by the depth of
that place. One that refers to itself twice over, as trees of alternatives do, doubles with each level: it is taken, and
of an input only as many levels as can be looked at in time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Final
from urllib.parse import unquote, urljoin

import jsonschema_rs

from app.saga.definition import Definition
from app.saga.fields import Fault
from app.saga.jsonable import MAX_DEPTH
from app.saga.redaction import REDACTED, Paths, covers

MAX_FAULTS: Final = 100
MAX_PARTS: Final = 5_000
MAX_PATTERNS: Final = 200
MAX_HEIGHT: Final = 50
"""Parts within parts that look at the same place of an input; each takes some of the stack, at each of its levels."""
MAX_WORK: Final = 3_000_000
"""Looks of a part at a place: some tenths of a second."""
MAX_WORK_FOR_ALL: Final = 10_000
"""For so much every fault is told, else the first: jsonschema_rs finds them all before it tells one, and a fault costs
a hundred times what a look costs."""
LIGHT: Final = 20
"""So many looks at each place are done without counting the places."""
COMPILED: Final = 1_000
"""Schemas that are kept compiled."""
_SHOWN: Final = 300
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=1_000_000)


def schema_faults(schema: Mapping[str, Any], path: str = "input_schema") -> list[Fault]:
    """What keeps it from being a JSON Schema; references must lead to places within it."""
    try:
        _Weighing(schema).by_depth()
        _compile(schema)
    except jsonschema_rs.ValidationError as error:
        message = error.message
        if message.endswith('is not a "regex"'):
            message += " that can be matched in linear time: no look-around, no back-references, no huge repetitions"
        return [Fault(_path(path, error.instance_path), _said(message))]
    except (ValueError, RecursionError) as error:
        return [Fault(path, _said(str(error)))]
    return []


class InputSchemas:
    """Compiled schemas of definitions. A version never changes, so its schema is compiled once per process."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, int], tuple[jsonschema_rs.Validator, list[int]]] = {}

    def faults(self, definition: Definition, version: int, value: Any) -> list[Fault]:
        """What is wrong with a saga's input."""
        if definition.input_schema is None:
            return []
        name = (definition.name, version)
        if (found := self._compiled.get(name)) is None:
            if refused := schema_faults(definition.input_schema):  # registered when more was taken
                return [Fault("input", f"cannot be checked: {refused[0].path} {refused[0].message}")]
            # Messages quote values; those of an input that is not to be seen in full quote none.
            mask = REDACTED if _hidden(definition) else None
            found = _compile(definition.input_schema, mask), _Weighing(definition.input_schema).by_depth()
            self._compiled[name] = found
            if len(self._compiled) > COMPILED:
                del self._compiled[next(iter(self._compiled))]
        compiled, looks = found
        if looks[-1] > LIGHT:
            places, levels = _measure(value)
            if places * _at(looks, levels) > MAX_WORK:
                return [Fault("input", _TOO_MUCH.format(places=places, levels=levels))]
        if compiled.is_valid(value):
            return []
        places, levels = _measure(value)
        if places * _at(looks, levels) > MAX_WORK_FOR_ALL:
            errors: Iterator[jsonschema_rs.ValidationError] = _first(compiled, value)
        else:
            errors = islice(compiled.iter_errors(value), MAX_FAULTS)
        return list(dict.fromkeys(_told(error, _hidden(definition)) for error in errors))


def _told(error: jsonschema_rs.ValidationError, hidden: Paths) -> Fault:
    place, message = error.instance_path, error.message
    if (depth := covers(hidden, place)) is not None:
        # The names of what stands in a hidden place are hidden too, and messages tell them.
        place, message = place[:depth], "is not what the schema asks for"
    return Fault(_path("input", place), _said(message))


def _hidden(definition: Definition) -> Paths:
    return () if definition.redaction is None else definition.redaction.input


def _compile(schema: Mapping[str, Any], mask: str | None = None) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(dict(schema), offline=True, mask=mask, pattern_options=_PATTERNS)


def _path(path: str, below: list[str | int]) -> str:
    for part in below:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:80]}"
    return path


def _said(message: str) -> str:
    return message if len(message) <= _SHOWN else message[: _SHOWN - 1] + "…"


# --- how much work a schema may be ------------------------------------------------------------------------------


_TOO_MUCH: Final = (
    "has {places:,} values on {levels} levels, which is more than can be held against this schema in time: its"
    " alternatives look at the same values again and again"
)


def _at(looks: list[int], levels: int) -> int:
    return looks[min(levels, len(looks)) - 1]


def _first(compiled: jsonschema_rs.Validator, value: Any) -> Iterator[jsonschema_rs.ValidationError]:
    try:
        compiled.validate(value)
    except jsonschema_rs.ValidationError as error:
        yield error


def _measure(value: Any) -> tuple[int, int]:
    """(how many values it is made of, on how many levels)."""
    places, deepest = 0, 0
    to_do: list[tuple[Any, int]] = [(value, 0)]
    while to_do:
        item, depth = to_do.pop()
        places += 1
        deepest = max(deepest, depth)
        if isinstance(item, dict):
            to_do.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list):
            to_do.extend((child, depth + 1) for child in item)
    return places, deepest + 1


_ONE: Final = ("not", "if", "then", "else")
_LISTS: Final = ("allOf", "anyOf", "oneOf")
_CHILD: Final = (
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "additionalItems",
    "contains",
    "unevaluatedItems",
)


@dataclass(slots=True)
class _Part:
    """A schema within the schema, by the numbers of those that it hands a place, or what lies in it, to."""

    cost: int = 1
    here: list[int] = field(default_factory=list)
    each: list[int] = field(default_factory=list)
    """That look at the same child."""
    one_of: list[int] = field(default_factory=list)
    """That look at different children."""


class _Weighing:
    """Raises ValueError with what makes a schema unfit."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self._parts: list[_Part] = []
        self._numbers: dict[int, int] = {}
        self._patterns = 0
        self._named: dict[str, Any] | None = None
        self._waiting: list[Mapping[str, Any]] = []
        self._number(schema)
        while self._waiting:
            part = self._waiting.pop()
            self._read(self._parts[self._numbers[id(part)]], part)

    def by_depth(self) -> list[int]:
        """The most looks at one place that lies so deep and at those above it; the last holds for all below."""
        order = self._order()
        before = [0] * len(self._parts)
        looks: list[int] = []
        for _ in range(MAX_DEPTH + 1):
            now = [0] * len(self._parts)
            for number in order:
                part = self._parts[number]
                below = sum(before[n] for n in part.each) + max((before[n] for n in part.one_of), default=0)
                now[number] = min(part.cost + sum(now[n] for n in part.here) + below, MAX_WORK + 1)
            looks.append(now[0])
            if looks[0] > MAX_WORK:
                raise ValueError("has parts that look at one and the same value millions of times")
            if now == before:
                break
            before = now
        return looks

    def _order(self) -> list[int]:
        """All parts, each after those that look at the same place for it."""
        heights = [0] * len(self._parts)
        order: list[int] = []
        for first in range(len(self._parts)):
            stack: list[tuple[int, Iterator[int]]] = []
            if heights[first] == 0:
                heights[first] = -1
                stack.append((first, iter(self._parts[first].here)))
            while stack:
                number, rest = stack[-1]
                following = next((n for n in rest if heights[n] <= 0), None)
                if following is None:
                    stack.pop()
                    heights[number] = 1 + max((heights[n] for n in self._parts[number].here), default=0)
                    order.append(number)
                    if heights[number] > MAX_HEIGHT:
                        raise ValueError(f"has more than {MAX_HEIGHT} parts within each other for one value")
                elif heights[following] < 0:
                    raise ValueError("has a part that refers to itself without going into the input")
                else:
                    heights[following] = -1
                    stack.append((following, iter(self._parts[following].here)))
        return order

    def _number(self, schema: Mapping[str, Any]) -> int:
        number = self._numbers.get(id(schema))
        if number is None:
            number = self._numbers[id(schema)] = len(self._parts)
            if number >= MAX_PARTS:
                raise ValueError(f"has more than {MAX_PARTS:,} parts")
            self._parts.append(_Part())
            self._waiting.append(schema)
        return number

    def _add(self, to: list[int], schema: Any) -> None:
        if isinstance(schema, Mapping):
            to.append(self._number(schema))

    def _read(self, part: _Part, schema: Mapping[str, Any]) -> None:
        patterns = schema.get("patternProperties")
        self._patterns += ("pattern" in schema) + (len(patterns) if isinstance(patterns, Mapping) else 0)
        if self._patterns > MAX_PATTERNS:
            raise ValueError(f"has more than {MAX_PATTERNS} patterns")
        for name in ("enum", "required", "patternProperties"):
            part.cost += len(schema[name]) // 8 if isinstance(schema.get(name), list | Mapping) else 0
        for name in _ONE:
            self._add(part.here, schema.get(name))
        for name in _LISTS:
            for each in _list(schema.get(name)):
                self._add(part.here, each)
        for name in ("dependentSchemas", "dependencies"):
            for each in _values(schema.get(name)):
                self._add(part.here, each)
        for name in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(reference := schema.get(name), str):
                self._add(part.here, self._target(reference))
        if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
            part.here *= 3  # the parts are asked again what they have seen
        for name in _CHILD:
            self._add(part.each, schema.get(name))
        for each in _values(patterns):
            self._add(part.each, each)
        one_of = _values(schema.get("properties")), _list(schema.get("prefixItems")), _list(schema.get("items"))
        for each in chain.from_iterable(one_of):
            self._add(part.one_of, each)

    def _target(self, reference: str) -> Any:
        if self._named is None:
            self._named = dict(_names(self._root))
        place, _, fragment = reference.partition("#")
        found: Any = self._root if not place else self._named.get(place)
        if fragment.startswith("/"):
            for step in unquote(fragment[1:]).split("/"):
                name = step.replace("~1", "/").replace("~0", "~")
                if isinstance(found, Mapping):
                    found = found.get(name)
                elif isinstance(found, list) and name.isdecimal() and int(name[:6]) < len(found):
                    found = found[int(name[:6])]
                else:
                    found = None
        elif fragment:
            found = self._named.get(f"#{fragment}")
        if not isinstance(found, Mapping | bool):
            raise ValueError(f"refers to {reference[:80]!r}, which is no place within it")  # noqa: TRY004 - of the schema
        return found


def _names(root: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """By which other words than their place parts can be referred to."""
    base = root.get("$id") or root.get("id") or ""
    to_do: list[Any] = [root]
    while to_do:
        item = to_do.pop()
        if isinstance(item, list):
            to_do.extend(item)
        elif isinstance(item, Mapping):
            to_do.extend(item.values())
            for key in ("$anchor", "$dynamicAnchor"):
                if isinstance(name := item.get(key), str):
                    yield f"#{name}", item
            for key in ("$id", "id"):
                if isinstance(name := item.get(key), str):
                    yield name.rstrip("#"), item
                    if isinstance(base, str):
                        try:
                            yield urljoin(base, name).rstrip("#"), item
                        except ValueError:
                            continue


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else []
