"""Instants and durations as programs and people write them: RFC 3339, and few words."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from app.saga.fields import shown
from app.saga.state import Micros

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WRITTEN: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LATEST: Final[Micros] = 253_086_854_400 * 1_000_000
"""The year 9990: room is left for a timeout to be added before Python's years end."""


def rfc3339(at: Micros) -> str:
    """UTC, with microseconds: 2026-11-21T23:19:00.000123Z."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_instant(value: object) -> Micros:
    """Raises ValueError with a sentence for the person who wrote the value."""
    if isinstance(value, str) and _WRITTEN.fullmatch(value):
        try:
            at = (datetime.fromisoformat(value.upper()) - _EPOCH) // timedelta(microseconds=1)
        except ValueError:
            at = -1
        if 0 <= at < _LATEST:
            return at
    raise ValueError(f"must be a time with an offset such as 2026-11-21T23:19:00Z, not {shown(value)}")


def moment(text: str | None) -> datetime | None:
    """An RFC 3339 time."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def clock(at: datetime, *, fine: bool = False) -> str:
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}{f'.{at.microsecond // 1000:03d}' if fine else ''} UTC"


def duration(seconds: float) -> str:
    """In at most two units: 12 ms, 3.4 s, 2m 05s, 3h 12m, 2d 03h."""
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for name, unit, lower, below in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= unit:
            return f"{whole // unit}{name} {whole % unit // below:02d}{lower}"
    return f"{whole}s"


def age(seconds: float) -> str:
    """Short, for a column: 12s, 5m, 3h, 2d."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= unit:
            return f"{int(seconds // unit)}{name}"
    return f"{max(int(seconds), 0)}s"


def about(seconds: float) -> str:
    """In one unit, for a sentence: 40 s, 5 min, 3 h, 2 d."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{round(seconds / unit)} {name}"
    return f"{max(round(seconds), 0)} s"
