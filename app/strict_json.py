"""JSON as RFC 8259 means it and PostgreSQL can keep it; anything else is refused at the door.

Python's reader takes NaN, doubled keys, NUL characters, halves of surrogate pairs and numbers that no double holds.
They are looked for only where the text can contain them, so that a plain body costs one pass of the C reader; a body
that is refused is read again, slowly, to say where.
"""

import json
import math
import re
from typing import Any, Final

import orjson

from app.errors import Problem
from app.saga.jsonable import MAX_DEPTH, text_fault

_LONG_NUMBER: Final = re.compile(r"[0-9]{300}")
_FLOAT_OF_AN_INTEGER: Final = re.compile(rb"\.0(?![0-9])|[0-9]e")


class _RefusedError(ValueError):
    """Something that Python reads and JSON does not have."""


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written, doubled keys included."""


class _Constant(str):
    """NaN, Infinity or -Infinity."""

    __slots__ = ()


def parse(data: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """The value. Problem 400 `body-not-json` with the position or the path of what is wrong."""
    if not data.strip():
        raise _problem("the body is empty; it has to be JSON")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _problem(f"byte {error.start + 1} of the body is not UTF-8") from None
    try:
        value = _STRICT.decode(text)
    except json.JSONDecodeError as error:
        raise _problem(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError):
        raise _explained(text, max_depth) from None
    if _suspicious(text, max_depth) and (found := _fault(value, max_depth)) is not None:
        raise _problem(*found)
    return value


def dumps(value: Any) -> bytes:
    """Compact JSON of what `parse` gave, nothing rounded."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def canonical(value: Any) -> bytes:
    """The same bytes for the same JSON value, however it was written: 1.0 is 1, and keys have one order."""
    data = _sorted(value)
    return _sorted(_whole(value)) if _FLOAT_OF_AN_INTEGER.search(data) else data


def _sorted(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _RefusedError
    return value


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _RefusedError
    return value


def _constant(_: str) -> Any:
    raise _RefusedError


_STRICT: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)
_LENIENT: Final = json.JSONDecoder(
    object_pairs_hook=_Pairs,
    parse_constant=_Constant,
    # Python refuses integers of more than 4,300 digits; this one is infinite, and found with its path.
    parse_int=lambda text: int(text) if len(text) < 400 else math.inf,
)


def _suspicious(text: str, max_depth: int) -> bool:
    r"""Whether the text can hold a NUL (\u0000), half of a surrogate pair (\ud800), deep nesting or a huge integer."""
    escapes = "\\u" in text and ("\\u0000" in text or "\\ud" in text or "\\uD" in text)
    return (
        escapes
        or text.count("[") + text.count("{") > max_depth
        or (len(text) > 300 and _LONG_NUMBER.search(text) is not None)
    )


def _explained(text: str, max_depth: int) -> Problem:
    try:
        value = _LENIENT.decode(text)
    except RecursionError:
        return _problem(f"the body is nested more than {max_depth} levels deep")
    except json.JSONDecodeError as error:  # a doubled key came before it
        return _problem(f"line {error.lineno}, column {error.colno}: {error.msg}")
    message, path = _fault(value, max_depth) or ("the body is not JSON", "")
    return _problem(message, path)


def _fault(value: Any, max_depth: int) -> tuple[str, str] | None:
    """(what is wrong, path) of the first fault."""
    to_do: list[tuple[Any, str, int]] = [(value, "", 0)]
    while to_do:
        item, path, depth = to_do.pop()
        if isinstance(item, _Constant):
            return f"{item} is not a number that JSON has", path
        if isinstance(item, str):
            if fault := text_fault(item):
                return f"the text {fault}", path
        elif isinstance(item, int | float) and not isinstance(item, bool):
            if _overflows(item):
                return "the number is larger than a double can hold", path
        elif isinstance(item, list | dict):
            if depth >= max_depth:
                return f"the body is nested more than {max_depth} levels deep", path
            if isinstance(item, dict):
                children = list(item.items())
            elif isinstance(item, _Pairs):
                children = item
                seen: set[str] = set()
                for key, _ in children:
                    if key in seen:
                        return f"the key {key[:80]!r} stands here twice", _at(path, key)
                    seen.add(key)
            else:
                to_do.extend((child, f"{path}[{i}]", depth + 1) for i, child in reversed(list(enumerate(item))))
                continue
            for key, _ in children:
                if fault := text_fault(key):
                    return f"a key {fault}", path
            to_do.extend((child, _at(path, key), depth + 1) for key, child in reversed(children))
    return None


def _overflows(number: float) -> bool:
    try:
        return math.isinf(float(number))
    except OverflowError:
        return True


def _at(path: str, key: str) -> str:
    name = key[:80]
    return f"{path}.{name}" if path else name


def _problem(message: str, path: str = "") -> Problem:
    where = f" (at {path[:300]})" if path else ""
    return Problem(
        400,
        "body-not-json",
        f"The body is not JSON that can be kept: {message}{where}.",
        errors=[(path[:300], message)],
    )
