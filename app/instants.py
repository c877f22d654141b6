"""Instants as people and programs write them: RFC 3339."""

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
