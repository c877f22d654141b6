"""Durations as people write them: 500ms, 10s, 15m, 2h, 1d; a bare number is seconds."""

import re

from app.saga.fields import shown

MAX_SECONDS = 366 * 86_400.0
_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_WRITTEN = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(ms|s|m|h|d)?")


def parse_duration(value: object, *, allow_zero: bool = False) -> float:
    """Seconds. Raises ValueError with a sentence for the person who wrote the value.

    The upper bound is there so that a deadline is always a date that the database can hold.
    """
    if isinstance(value, str) and (written := _WRITTEN.fullmatch(value)):
        seconds = float(written[1]) * _SECONDS_PER_UNIT[written[2] or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Compared first: an int may be too large for a float.
        seconds = float(value) if 0 <= value <= MAX_SECONDS else -1.0
    else:
        raise ValueError(f"must be a duration: 500ms, 10s, 15m, 2h, 1d or a number of seconds, not {shown(value)}")
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"must be a duration between 0 and 366 days, not {shown(value)}")
    if seconds == 0 and not allow_zero:
        raise ValueError("must be a duration longer than 0")
    return seconds
