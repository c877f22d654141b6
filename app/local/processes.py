"""Children that die with us, however we die (on Linux, by PR_SET_PDEATHSIG).

Elsewhere nothing tells a child that its parent is gone (`DEATH_IS_TOLD`); who starts it again has to end it first.
"""

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Process = subprocess.Popen[bytes]

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_FAILED = 126  # as a shell says that it cannot execute something

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
DEATH_IS_TOLD = _LIBC is not None


@dataclass(frozen=True)
class Identity:
    """Whom a child becomes. With `capability` it may also enter directories that are closed to that user."""

    uid: int
    gid: int
    capability: int | None = None

    def assume(self) -> None:
        """Give up root. Runs in the child between fork and exec."""
        if self.capability is not None and _LIBC is not None:
            _LIBC.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        if self.capability is not None and _LIBC is not None:
            bit = 1 << self.capability
            header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
            sets = (ctypes.c_uint32 * 6)(bit, bit, bit)  # effective, permitted, inheritable; then the high halves
            failed = _LIBC.capset(header, sets)
            if failed or _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, self.capability, 0, 0):
                os._exit(_FAILED)


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path = Path("/"),
    death_signal: signal.Signals = signal.SIGKILL,
    identity: Identity | None = None,
    pass_fds: Sequence[int] = (),
    stdin: IO[bytes] | None = None,
) -> Process:
    """Start a child that gets `death_signal` when this process is gone.

    It has a session of its own, so that Ctrl-C reaches only us and we end things in order. Its output is
    appended to `log`, so that a log cut from outside stays whole. Raises OSError when it cannot be started.
    """
    parent = os.getpid()

    def prepare() -> None:
        if identity is not None:
            identity.assume()
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)  # after setuid, which clears it
            if os.getppid() != parent:  # it died before we could say so
                os._exit(_FAILED)

    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return _in_lasting_thread(
            lambda: subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=output,
                stderr=output,
                env=env,
                cwd=cwd,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - it takes no lock and imports nothing
                pass_fds=pass_fds,
            )
        )
    finally:
        os.close(output)


def end(process: Process, first: signal.Signals = signal.SIGTERM, grace_seconds: float = 10) -> None:
    """Ask a child to end, and insist after `grace_seconds`. Returns when it is gone."""
    process.send_signal(first)  # to nobody where it is gone already
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Spawner:
    """A thread that forks the children of this process and lives as long as it does.

    PR_SET_PDEATHSIG fires when the *thread* that forked ends. A server started from a thread of an executor
    would be killed with that executor.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()
        self._work: queue.SimpleQueue[tuple[Callable[[], Process], Future[Process]]] = queue.SimpleQueue()

    def __call__(self, make: Callable[[], Process]) -> Process:
        with self._start:
            if self._thread is None or not self._thread.is_alive():  # not alive: we are a fork of its process
                self._work = queue.SimpleQueue()
                self._thread = threading.Thread(target=self._run, name="spawner", daemon=True)
                self._thread.start()
        future: Future[Process] = Future()
        self._work.put((make, future))
        return future.result()

    def _run(self) -> None:
        while True:
            make, future = self._work.get()
            try:
                future.set_result(make())
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                future.set_exception(error)
            del make, future  # the next may be long in coming


_in_lasting_thread = _Spawner()
