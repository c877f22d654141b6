"""Locks that the kernel drops by itself with the last process that holds them: no crash leaves one behind."""

import fcntl
import os
import time
from pathlib import Path

_TICK_SECONDS = 0.01


def lock_file(path: Path, wait_seconds: float = 0) -> int | None:
    """An open file that holds the lock on `path`; None where others hold it for longer than `wait_seconds`.

    The lock ends with the last process that has the file open, so a child that inherits it carries it on.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                os.close(file)
                return None
            time.sleep(_TICK_SECONDS)
        except BaseException:
            os.close(file)
            raise
        else:
            return file


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock. Looking takes it for a moment, so who wants it has to be patient."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def write_holder(file: int, pid: int) -> None:
    """Note in a locked file who works under it: for messages, and to end what outlived its starter."""
    os.ftruncate(file, 0)
    os.pwrite(file, f"{pid}\n".encode(), 0)


def read_holder(path: Path) -> int | None:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
