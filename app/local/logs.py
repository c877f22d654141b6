"""A log for each part: what it says now, and beside it (`.log.1`) what it said before."""

import contextlib
import os
import shutil
from pathlib import Path

_LIMIT_BYTES = 10_000_000
_TAIL_BYTES = 20_000


def size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def tail(log: Path, lines: int = 10, since: int = 0) -> str:
    """The last lines, of what was written after the offset `since`."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def bound(log: Path) -> None:
    """Begin anew when it is long. Cut in place, since the part has it open (and appends)."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LIMIT_BYTES:
            shutil.copyfile(log, previous(log))
            os.truncate(log, 0)


def previous(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")
