"""A part of the house that is a program."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.local.processes import Process, end, spawn

_SETTLED_SECONDS = 1.0
"""A program that nobody can ask counts as ready when it has lived for so long: a mistake shows itself sooner."""


class Program:
    """One of our own, or a dummy in a test. A `Part`, as the supervisor calls it."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        """Without `ready` it counts as ready when it has lived for a second."""
        self.name = name
        self.title = name
        self.log = log
        self._argv = argv
        self._env = env
        self._ready = ready
        self._process: Process | None = None
        self._launched_at = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def launch(self) -> None:
        self._process = spawn(self._argv, log=self.log, env=self._env, cwd=Path.cwd())
        self._launched_at = time.monotonic()

    def is_ready(self) -> bool:
        if self._ready is not None:
            return self._ready()
        return time.monotonic() - self._launched_at >= _SETTLED_SECONDS

    def poll(self) -> int | None:
        return self._process.poll() if self._process is not None else 0

    def interrupt(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def stop(self, timeout_seconds: float) -> None:
        if self._process is not None:
            end(self._process, grace_seconds=timeout_seconds)
