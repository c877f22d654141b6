"""The data directory of a house: who holds it, and what can be read in it.

It holds `credentials.json`, `house.json` (while the house runs, see `RunningHouse`), `lock`, `logs/`, `metrics/`,
`postgres/` and `valkey/`.
"""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from app.local import logs
from app.local.errors import HouseError
from app.local.locks import is_locked, lock_file, read_holder, write_holder

_LOOKED_AT_SECONDS = 0.2
"""`RunningHouse.of` holds the lock for a moment."""


@dataclass
class RunningHouse:
    """`house.json`: the running house of a data directory."""

    url: str
    pid: int
    started_at: str
    ready: bool
    database_url: str
    redis_url: str
    parts: dict[str, int] = field(default_factory=dict)
    """Process ids of `postgres`, `valkey`, `api`, `worker-1` and so on, `beat`."""

    @classmethod
    def of(cls, data: Path) -> "RunningHouse | None":
        """The house that runs on a data directory; None where none does, whatever a killed one left there."""
        if not is_locked(data / "lock"):
            return None
        try:
            return cls(**json.loads(notice_in(data).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def tell(self, data: Path) -> None:
        with contextlib.suppress(OSError):  # a full disk ends no house
            write_private(notice_in(data), asdict(self))


def notice_in(data: Path) -> Path:
    return data / "house.json"


def take(data: Path) -> int:
    """Make the data directory and lock it; the lock, an open file. Raises HouseError."""
    try:
        if not data.exists():
            data.mkdir(parents=True)
            (data / ".gitignore").write_text("*\n")  # it holds secrets
        lock = lock_file(data / "lock", _LOOKED_AT_SECONDS)
        if lock is None:
            raise HouseError(f"`saga up` already runs on {data}, as process {read_holder(data / 'lock')}.")
        write_holder(lock, os.getpid())
        for name in ("logs", "metrics"):
            (data / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise HouseError(f"The data directory {data} cannot be used: {error.strerror or error}.") from error
    return lock


def fresh_logs(data: Path) -> Callable[[str], Path]:
    """Where each part's log is; those of the last start are moved aside."""
    directory = data / "logs"
    for log in directory.glob("*.log"):
        log.replace(logs.previous(log))
    return lambda name: directory / f"{name}.log"


def fresh_metrics(data: Path) -> Path:
    """Where the parts keep their metrics. Files of processes that are gone would be counted for ever."""
    directory = data / "metrics"
    for left in directory.iterdir():
        left.unlink()
    return directory


def write_private(path: Path, content: Any) -> None:
    """Write JSON that only we may read, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
