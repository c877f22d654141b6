"""What a test sees of processes that are not its own."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come true in time"
        threading.Event().wait(0.01)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(directory: Path) -> list[psutil.Process]:
    """Who works in a directory, by what they hold open: a backend renames itself, so names tell nothing."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or not is_alive(process.pid):
                continue
            open_files = [link.readlink() for link in Path(f"/proc/{process.pid}/fd").iterdir()]
            if any(directory in path.parents for path in open_files):
                found.append(process)
    return found
