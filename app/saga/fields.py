"""Reads a document that a person wrote, key by key, and collects what is wrong with it instead of stopping.

A converter takes a value and returns it checked, or raises ValueError with a sentence that can follow the
value's path: 'steps[2].timeout: must be …'.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

MAX_FAULTS = 500


class Fault(NamedTuple):
    """What is wrong at one place of a document, said to the person who wrote it."""

    path: str
    message: str


class Faults:
    """What was found so far. Bounded: one wrong document must not make an answer of any size."""

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self.count = 0

    def add(self, path: str, message: str) -> None:
        self.count += 1
        if len(self.found) < MAX_FAULTS:
            self.found.append(Fault(path, message))
        elif len(self.found) == MAX_FAULTS:
            self.found.append(Fault("", f"there is more: these are the first {MAX_FAULTS} faults"))


class Fields:
    """One object of the document. What is not an object reads as an empty one, and is one fault."""

    def __init__(self, document: object, path: str, faults: Faults) -> None:
        self.path = path
        self.faults = faults
        self._asked: list[str] = []
        self.is_object = isinstance(document, Mapping)
        self._values: Mapping[object, object] = document if isinstance(document, Mapping) else {}
        if not self.is_object:
            faults.add(path, f"must be an object with keys, not {shown(document)}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fault(self, key: str, message: str) -> None:
        self.faults.add(self.at(key), message)

    def raw(self, key: str) -> object:
        return self._values.get(key)

    def optional(self, key: str, convert: Callable[[object], T], default: T) -> T:
        self._asked.append(key)
        if key not in self._values:
            return default
        try:
            return convert(self._values[key])
        except ValueError as exc:
            self.fault(key, str(exc))
            return default

    def required(self, key: str, convert: Callable[[object], T], stand_in: T, missing: str = "is missing") -> T:
        """`stand_in` takes the place of a value that is a fault."""
        if self.is_object and key not in self._values:
            self.fault(key, missing)
        return self.optional(key, convert, stand_in)

    def object(self, key: str) -> "Fields":
        self._asked.append(key)
        return Fields(self._values.get(key, {}), self.at(key), self.faults)

    def refuse_others(self) -> None:
        """To be called last: whatever was not asked for is a fault."""
        known = ", ".join(sorted(self._asked))
        for key in self._values:
            if key not in self._asked:
                name = key if isinstance(key, str) else shown(key)
                self.fault(name[:80], f"is not a key that is known here; known are {known}")


def shown(value: object) -> str:
    """A value as it may stand in a sentence: never long, whatever it is."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() if abs(value) >= 10**15:
            return "so large a number"
        case int() | float():
            return str(value)
        case str():
            return repr(value) if len(value) <= 60 else f"{value[:57]!r}…"
        case Mapping():
            return "an object"
        case Sequence():
            return f"a list of {len(value)}"
    return f"a {type(value).__name__}"


def of_type(kind: type[T], what: str, *, secret: bool = False) -> Callable[[object], T]:
    """`secret`: what stands there instead is not to be shown."""

    def convert(value: object) -> T:
        if not isinstance(value, kind):
            seen = "" if secret else f", not {shown(value)}"
            raise ValueError(f"must be {what}{seen}")  # noqa: TRY004 - see above
        return value

    return convert


def whole_number(least: int, most: int) -> Callable[[object], int]:
    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least:,} to {most:,}, not {shown(value)}")
        return value

    return convert


def number(least: float, most: float) -> Callable[[object], float]:
    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(f"must be a number from {least} to {most}, not {shown(value)}")
        return float(value)

    return convert


def one_of(words: Collection[Any]) -> Callable[[object], Any]:
    def convert(value: object) -> Any:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"must be {' or '.join(words)}, not {shown(value)}")
        return value

    return convert


def or_nothing(convert: Callable[[object], T]) -> Callable[[object], T | None]:
    """null, as an empty key in YAML gives it, for a value that need not be there."""
    return lambda value: None if value is None else convert(value)
