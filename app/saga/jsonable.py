"""What may be kept as JSON. Refused here it is a sentence to a person; refused by the database, a stuck saga."""

import math

MAX_DEPTH = 100
MAX_VALUES = 1_000_000


def text_fault(text: str) -> str | None:
    """Why PostgreSQL or UTF-8 would refuse the text, or None."""
    if "\0" in text:
        return "contains a NUL character (U+0000), which cannot be stored"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "contains half of a surrogate pair, which is not a character"
    return None


def json_fault(value: object, *, any_number: bool = False, max_depth: int = MAX_DEPTH) -> str | None:
    """Why the value cannot be written as JSON and be read back the same everywhere, or None.

    Values are counted as often as they would be written: a small structure that refers to its parts many times
    over (a 'bomb') ends here as well. `any_number` lets numbers pass that JSON lacks or that others round.
    """
    seen = 0
    to_do: list[tuple[object, int]] = [(value, 0)]
    while to_do:
        item, depth = to_do.pop()
        if item is None or isinstance(item, bool):
            continue
        if isinstance(item, str):
            if fault := text_fault(item):
                return fault
        elif isinstance(item, int | float):
            if not any_number and (fault := _number_fault(item)):
                return fault
        elif depth >= max_depth:
            return f"is nested more than {max_depth} levels deep"
        elif isinstance(item, list | dict):
            seen += len(item)
            if seen > MAX_VALUES:
                return f"has more than {MAX_VALUES:,} values"
            if isinstance(item, dict):
                for key in item:
                    if fault := text_fault(key) if isinstance(key, str) else "has a key that is not text":
                        return fault
            children = item.values() if isinstance(item, dict) else item
            to_do.extend((child, depth + 1) for child in children)
        else:
            return f"contains something that JSON does not have ({type(item).__name__.lstrip('_')})"
    return None


def _number_fault(number: float) -> str | None:
    if not math.isfinite(number) if isinstance(number, float) else False:
        return f"contains {number}, which JSON does not have"
    if isinstance(number, int) and not -(2**63) <= number < 2**64:
        return "contains an integer of more than 64 bits"
    return None
