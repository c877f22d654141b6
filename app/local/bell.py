"""Signals as something to wait for."""

import contextlib
import os
import select
import signal
from types import FrameType
from typing import Self


class Bell:
    """Rings when somebody asks for the end, or a child ends.

    Only a counter is changed in the handlers, so nothing is ever interrupted half done.
    """

    def __init__(self) -> None:
        self.rings = 0
        """How often the end was asked for: once, in good order; twice, at once."""
        self._restore = contextlib.ExitStack()
        self._read = -1

    def __enter__(self) -> Self:
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        self._restore.callback(os.close, self._read)
        self._restore.callback(os.close, write)
        self._restore.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(write, warn_on_full_buffer=False))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
                self._restore.callback(signal.signal, number, signal.signal(number, self._ring))
        # Without a handler of Python's own, the end of a child would not wake us.
        self._restore.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, lambda *_: None))
        return self

    def __exit__(self, *error: object) -> None:
        self._restore.close()

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or earlier with a signal."""
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 4096)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.rings += 1
