"""What a definition hides: places in inputs and outputs, and their values wherever else they turn up.

`redact` names places by JMESPath, of which only what leads to a *place* is taken: names, `[n]`, `[*]` and `*`. A place
is hidden in what people are shown (`mask`); participants are sent the real value. Text that others wrote, such as the
message of a refusal, has no places: there the values themselves are looked for (`texts_at`, `scrub`).

Not promised: that a value is found which was changed on its way, as by a hash or in another spelling.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias
from urllib.parse import quote, quote_plus

from app.saga import expressions

REDACTED: Final = "[redacted]"
MAX_EXPRESSIONS: Final = 50
_WHOLE: Final = 4
"""Values of so many characters are looked for anywhere in a text. Those of one less count as a word of their own only
(a card's check digits); shorter ones are in every text, and are not looked for."""
_RUN: Final = re.compile("[A-Za-z0-9]+")
_CUT: Final = "…"
"""Ends a text that was cut off (`app.participants.contract.readable`): a value before it may be there in part."""


class Every(Enum):
    """The steps of a path that lead to several places."""

    ITEM = "[*]"
    VALUE = "*"


Path: TypeAlias = tuple[str | int | Every, ...]
"""From a payload's root to its places; the empty one is the payload itself."""
Paths: TypeAlias = tuple[Path, ...]


class NoPlace(ValueError):  # noqa: N818 - what the expression is
    """An expression that does not name places in inputs and outputs; says why."""


@dataclass(frozen=True, slots=True)
class Redaction:
    """What one definition hides."""

    input: Paths
    outputs: Mapping[str, Paths]
    """By the step's name; steps of which nothing is hidden are missing."""

    def output(self, step: str) -> Paths:
        return self.outputs.get(step, ())


def read_redaction(redact: Sequence[str], steps: Collection[str]) -> Redaction:
    """Raises NoPlace for an expression that is none."""
    of_input: list[Path] = []
    of_outputs: dict[str, list[Path]] = {}
    for expression in redact:
        found, path = _read(expression, steps)
        if found is None:
            of_input.append(path)
        for step in found or ():
            of_outputs.setdefault(step, []).append(path)
    return Redaction(tuple(of_input), {step: tuple(paths) for step, paths in of_outputs.items()})


def fault_of(expression: str, steps: Collection[str]) -> str | None:
    """What is wrong with an expression of `redact`, as a sentence, or None."""
    try:
        _read(expression, steps)
    except NoPlace as error:
        return str(error)
    return None


def _read(expression: str, steps: Collection[str]) -> tuple[list[str] | None, Path]:
    """(the steps whose outputs are meant, or None for the input, the path within)."""
    try:
        path = tuple(_follow(expressions.tree(expression)))
    except NoPlace:
        raise
    except ValueError as error:
        raise NoPlace(str(error)) from None
    match path:
        case ("input", *within):
            return None, tuple(within)
        case ("steps", Every.VALUE, "output", *within):
            return list(steps), tuple(within)
        case ("steps", str() as name, "output", *within):
            named = [step for step in steps if name in {step, step.replace("-", "_")}]
            if not named:
                raise NoPlace(f"there is no step {name!r}")
            return named, tuple(within)
    raise NoPlace("leads to nothing that is hidden: begin with input, or with steps.NAME.output")


def _follow(node: Any) -> Iterator[str | int | Every]:
    kind, children = node["type"], node["children"]
    match kind:
        case "field":
            yield node["value"]
        case "index":
            yield node["value"]
        case "identity":
            pass
        case "subexpression" | "index_expression":
            for child in children:
                yield from _follow(child)
        case "projection" | "value_projection":
            yield from _follow(children[0])
            yield Every.ITEM if kind == "projection" else Every.VALUE
            yield from _follow(children[1])
        case _:
            raise NoPlace(
                f"has no place of its own ({kind.replace('_', ' ')}): only names, [n], [*] and * lead to one, as in"
                " input.cards[*].number"
            )


# --- places -----------------------------------------------------------------------------------------------------


def mask(value: Any, paths: Paths, *, insert: bool = False) -> Any:
    """A copy with its places hidden; what holds none is not copied.

    `insert`: a place that is not there, but has a name, is made.
    """
    if any(not path for path in paths):
        return REDACTED
    below = _below(value, paths)
    if insert and (value is None or isinstance(value, dict)):
        for path in paths:
            if isinstance(path[0], str) and path[0] not in (value or ()):
                below.setdefault(path[0], []).append(path[1:])
        value = {} if value is None and below else value
    if not below:
        return value
    copy = dict(value) if isinstance(value, dict) else list(value)
    for key, rest in below.items():
        inside = copy.get(key) if isinstance(copy, dict) else copy[key]
        copy[key] = mask(inside, tuple(rest), insert=insert)
    return copy


def _below(value: Any, paths: Paths) -> dict[Any, list[Path]]:
    """What is left of each path, by the key or position that it leads on to."""
    found: dict[Any, list[Path]] = {}
    for head, *rest in paths:
        keys: Iterable[Any] = ()
        if isinstance(value, dict):
            keys = value if head is Every.VALUE else (head,) if isinstance(head, str) and head in value else ()
        elif isinstance(value, list):
            if head is Every.ITEM:
                keys = range(len(value))
            elif isinstance(head, int) and -len(value) <= head < len(value):
                keys = (head % len(value),)
        for key in keys:
            found.setdefault(key, []).append(tuple(rest))
    return found


def at(value: Any, paths: Paths) -> Iterator[Any]:
    """What stands at the places."""
    if any(not path for path in paths):
        yield value
        return
    for key, rest in _below(value, paths).items():
        yield from at(value[key], tuple(rest))


def covers(paths: Paths, place: Sequence[str | int]) -> int | None:
    """How many steps of the way to a place lead to one that is hidden, it or one around it; None where none is."""
    left = list(paths)
    for depth in range(len(place) + 1):
        if any(not path for path in left):
            return depth
        if depth < len(place):
            step = place[depth]
            every = Every.VALUE if isinstance(step, str) else Every.ITEM
            # A negative index may mean any place.
            left = [
                path[1:]
                for path in left
                if path[0] in (step, every) or (isinstance(step, int) and isinstance(path[0], int) and path[0] < 0)
            ]
    return None


class NothingKept(ValueError):  # noqa: N818 - what is the matter
    """`[redacted]` came back for a place at which nothing is kept."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def restore(given: Any, kept: Any, paths: Paths, at_path: str = "input") -> Any:
    """`given`, with what is kept in each place in which it says `[redacted]`: what a person who was shown that sends
    back means the value behind it.

    Items of a list go by their position, so it must have as many as there were. Raises NothingKept.
    """
    if any(not path for path in paths) and given == REDACTED:
        if kept is _NOTHING:
            raise NothingKept(at_path)
        return kept
    below = _below(given, tuple(path for path in paths if path))
    if not below:
        return given
    copy = dict(given) if isinstance(given, dict) else list(given)
    if isinstance(given, list) and not (isinstance(kept, list) and len(kept) == len(given)):
        kept = _NOTHING
    for key, rest in below.items():
        inside = _NOTHING
        if isinstance(given, list):
            inside = _NOTHING if kept is _NOTHING else kept[key]
        elif isinstance(kept, dict):
            inside = kept.get(key, _NOTHING)
        there = f"{at_path}[{key}]" if isinstance(given, list) else f"{at_path}.{key}"
        copy[key] = restore(given[key], inside, tuple(rest), there)
    return copy


_NOTHING: Final = object()


def differing(one: Any, other: Any) -> Paths:
    """The places in which two values differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return tuple((key, *path) for key in one for path in differing(one[key], other[key]))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return tuple((position, *path) for position, pair in pairs for path in differing(*pair))
    return () if one == other and type(one) is type(other) else ((),)


def places_in_step_input(mapping: Mapping[str, Any], redaction: Redaction, document: Mapping[str, Any]) -> Paths:
    """What is hidden of the input that a step's mapping makes: where it would be another if what is hidden were.

    `document`: what expressions see (`app.saga.expressions`).
    """
    steps = dict(document["steps"])
    for step, paths in redaction.outputs.items():
        for name in {step, step.replace("-", "_")} & steps.keys():
            steps[name] = {**steps[name], "output": mask(steps[name]["output"], paths, insert=True)}
    hidden = {**document, "input": mask(document["input"], redaction.input, insert=True), "steps": steps}
    found: list[Path] = []
    for key, value in mapping.items():
        if not isinstance(value, str):
            continue
        try:
            places = differing(expressions.evaluate(value, document), expressions.evaluate(value, hidden))
        except expressions.ExpressionFailed:
            places = ((),)
        found += [(key, *path) for path in places]
    return tuple(found)


# --- texts ------------------------------------------------------------------------------------------------------


def texts_at(value: Any, paths: Paths) -> set[str]:
    """The texts and numbers at the places, as they would be written in a text."""
    found: set[str] = set()
    if not paths:
        return found
    to_do = list(at(value, paths))
    while to_do:
        item = to_do.pop()
        if isinstance(item, dict):
            to_do.extend(item.values())
        elif isinstance(item, list):
            to_do.extend(item)
        elif isinstance(item, str):
            found.add(item)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            found.add(json.dumps(item))
            if isinstance(item, float) and item.is_integer():
                found.add(str(int(item)))
    return {text for text in found if len(text) >= _WHOLE - 1}


def scrub(text: str, secrets: Iterable[str]) -> str:
    """The text without these values, however they are escaped in it, nor the beginning of one where it was cut off."""
    hidden: list[tuple[int, int]] = []
    for secret in secrets:
        # However it is escaped, its letters and digits stand together; most values are not there at all.
        longest = max(_RUN.findall(secret), key=len, default="")
        if longest not in text and not text.endswith(_CUT):
            continue
        for written in _spellings(secret):
            hidden += _found(text, written)
    if not hidden:
        return text
    parts, end = [], 0
    for first, last in _merged(hidden):
        parts += [text[end:first], REDACTED]
        end = last
    return "".join([*parts, text[end:]])


def _spellings(secret: str) -> set[str]:
    """As it is, and as JSON, Python and addresses write it."""
    if secret.isalnum() and secret.isascii():
        return {secret}
    as_json = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    # Half of a surrogate pair can come in an answer that nobody has checked.
    in_address = (
        quote(secret, errors="replace"),
        quote(secret, "", errors="replace"),
        quote_plus(secret, errors="replace"),
    )
    return {secret, *as_json, repr(secret)[1:-1], *in_address}


def _found(text: str, written: str) -> Iterator[tuple[int, int]]:
    at_word = len(written) < _WHOLE
    begin = text.find(written)
    while begin >= 0:
        end = begin + len(written)
        inside = text[max(begin - 1, 0) : begin].isalnum() or text[end : end + 1].isalnum()
        if not (at_word and inside):
            yield begin, end
        begin = text.find(written, begin + 1)
    if text.endswith(_CUT):
        begin, head = text.find(written[:_WHOLE]), written[:_WHOLE]
        while begin >= 0:
            if written.startswith(text[begin : -len(_CUT)]):
                yield begin, len(text) - len(_CUT)
                return
            begin = text.find(head, begin + 1)


def _merged(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted, and those that overlap as one."""
    first, last = -1, -1
    for begin, end in sorted(spans):
        if begin > last:
            if last >= 0:
                yield first, last
            first, last = begin, end
        last = max(last, end)
    yield first, last
