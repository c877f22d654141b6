"""Keeps the parts of a house alive.

A part that dies is started again, at growing distances. One that never once came to stand is given up with the end
of its log, since repeating a mistake in the settings helps nobody; deaths that somebody else brought about, by a
signal or by taking away what the part stands on, do not count for that. A part that lives and does not answer is
left alone: the parts watch themselves.
"""

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.local import logs
from app.local.bell import Bell
from app.local.errors import EmbeddedError, HouseError
from app.local.program import Program

_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 0.2, 5.0
_STEADY_SECONDS = 10.0
"""A part that has lived for so long has come to stand: its next death is the first again."""
_ATTEMPTS_TO_STAND = 3
_START_LIMIT_SECONDS = 90.0
_RUN_GRACE_SECONDS = 5.0
_BUSY_TICK_SECONDS, _TICK_SECONDS = 0.03, 1.0
_SENT_BY_OTHERS = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}

Say = Callable[[str], None]


class Part(Protocol):
    """What is kept alive: an embedded server or a `Program`."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def log(self) -> Path: ...
    @property
    def pid(self) -> int | None:
        """None while it does not run."""

    def launch(self) -> None:
        """Start it without waiting. Raises EmbeddedError or OSError."""

    def is_ready(self) -> bool: ...
    def poll(self) -> int | None:
        """The exit code once it has ended, negative for a signal."""

    def interrupt(self) -> None:
        """Ask it to end, without waiting."""

    def stop(self, timeout_seconds: float) -> None:
        """End it, by force after `timeout_seconds`, and wait for that."""


@dataclass
class _Watched:
    part: Part
    stage: int
    """It stands on the parts of earlier stages."""
    since: float = 0.0
    """When its first start began, or when it died last."""
    due: float = 0.0
    """When it is started again."""
    launched_at: float | None = None
    """None while it is down."""
    pid: int | None = None
    ready_at: float | None = None
    was_ready: bool = False
    steady: bool = False
    deaths: int = 0
    """In a row, without having come to stand between them."""
    own_deaths: int = 0
    """Of these, those that nobody else brought about."""


class Supervisor:
    """`say` gets one line for each thing that a person would want to know.

    `changed` gets the process ids by name whenever they change; `buried` gets the id of each that has died.
    """

    def __init__(
        self,
        bell: Bell,
        say: Say,
        *,
        changed: Callable[[dict[str, int]], None] = lambda _: None,
        buried: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._bell = bell
        self._say = say
        self._changed = changed
        self._buried = buried
        self._watched: list[_Watched] = []

    def bring_up(self, parts: Iterable[Part]) -> bool:
        """Start them side by side and return when all are ready; keep alive what was brought up before.

        False when the end was asked for before that. Raises HouseError where one does not come to stand.
        """
        stage = 1 + max((watched.stage for watched in self._watched), default=0)
        self._watched += [_Watched(part, stage) for part in parts]
        return self._keep_until(self._all_ready)

    def run(self, program: Program) -> int | None:
        """Run a program to its end, and return its exit code; None when the end was asked for before."""
        try:
            program.launch()
        except OSError as error:
            raise HouseError(str(error)) from error
        try:
            return program.poll() if self._keep_until(lambda: program.poll() is not None) else None
        finally:
            program.stop(_RUN_GRACE_SECONDS)

    def watch(self) -> None:
        """Keep the parts alive until somebody asks for the end. Raises HouseError."""
        self._keep_until(lambda: False)

    def bring_down(self, groups: Iterable[tuple[float, Sequence[Part]]]) -> None:
        """End the groups one after the other; those of a group together, each with so many seconds of grace."""
        for grace_seconds, group in groups:
            for part in group:
                part.interrupt()
            give_up = time.monotonic() + grace_seconds
            while any(part.pid for part in group) and time.monotonic() < give_up and self._bell.rings < 2:
                self._bell.wait(_BUSY_TICK_SECONDS)
            for part in group:
                if part.pid is not None:
                    self._say(f"{part.title} does not end and is killed.")
                part.stop(0)

    def _keep_until(self, done: Callable[[], bool]) -> bool:
        while True:
            for watched in self._watched:
                self._look_after(watched, time.monotonic())
                logs.bound(watched.part.log)
            if self._bell.rings:
                return False
            if done():
                return True
            self._bell.wait(_TICK_SECONDS if self._all_ready() else _BUSY_TICK_SECONDS)

    def _all_ready(self) -> bool:
        return all(watched.ready_at is not None for watched in self._watched)

    def _look_after(self, watched: _Watched, now: float) -> None:
        if watched.launched_at is None:
            if now >= watched.due:
                self._launch(watched, now)
        elif (code := watched.part.poll()) is not None:
            on_its_own = -code not in _SENT_BY_OTHERS and self._had_ground(watched, watched.launched_at)
            self._bury(watched, now, _in_words(code), on_its_own=on_its_own)
        elif watched.ready_at is None:
            self._ask_whether_ready(watched, now, watched.launched_at)
        elif now - watched.launched_at >= _STEADY_SECONDS:
            watched.steady = True
            watched.deaths = watched.own_deaths = 0

    def _launch(self, watched: _Watched, now: float) -> None:
        if not watched.deaths:
            watched.since = now
        try:
            watched.part.launch()
        except (EmbeddedError, OSError) as error:
            if not watched.was_ready:
                raise HouseError(str(error)) from error
            self._bury(watched, now, f"could not be started: {error}", on_its_own=True)
        else:
            watched.launched_at = now
            watched.pid = watched.part.pid
            self._tell_pids()

    def _ask_whether_ready(self, watched: _Watched, now: float, launched_at: float) -> None:
        part = watched.part
        if part.is_ready():
            again = "again " if watched.was_ready else ""
            self._say(f"{part.title} is up {again}after {now - watched.since:.1f} s.")
            watched.ready_at, watched.was_ready = now, True
        elif now - launched_at > _START_LIMIT_SECONDS:
            part.stop(0)
            self._bury(watched, now, f"was not ready after {_START_LIMIT_SECONDS:g} s", on_its_own=True)

    def _bury(self, watched: _Watched, now: float, how: str, *, on_its_own: bool) -> None:
        part = watched.part
        watched.deaths += 1
        watched.own_deaths += on_its_own
        if watched.own_deaths >= _ATTEMPTS_TO_STAND and not watched.steady:
            raise HouseError(
                f"{part.title} does not come to stand: {watched.own_deaths} times in a row it {how}. "
                f"The end of {part.log}:\n{logs.tail(part.log, 15)}"
            )
        delay = _delay_seconds(watched.deaths)
        self._say(f"{part.title} {how.splitlines()[0]}; it is started again in {delay:g} s. Its log: {part.log}")
        if watched.pid is not None:
            self._buried(watched.pid)
        watched.launched_at = watched.pid = watched.ready_at = None
        watched.since = now
        watched.due = now + delay
        self._tell_pids()

    def _had_ground(self, watched: _Watched, launched_at: float) -> bool:
        """Whether what it stands on was there all its life: a worker ends when PostgreSQL is just coming back."""
        ground = [other.ready_at for other in self._watched if other.stage < watched.stage]
        return all(ready_at is not None and ready_at <= launched_at for ready_at in ground)

    def _tell_pids(self) -> None:
        self._changed({watched.part.name: watched.pid for watched in self._watched if watched.pid is not None})


def _delay_seconds(deaths: int) -> float:
    doubled = min(deaths - 1, 16)  # a part may die a thousand times while its database is away
    return min(_FIRST_DELAY_SECONDS * 2.0**doubled, _LONGEST_DELAY_SECONDS)


def _in_words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was ended by {names.get(-code, f'signal {-code}')}"
