"""Bells where the races live. Inert unless a test arms one.

In a test's own process: `probes.arm("perform.claimed", hook)`; the code under test waits for the hook. In a process of
its own: `SAGA_CRASH_AT=perform.claimed#2` ends the process with SIGKILL when the probe is passed for the second time.
"""

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

CREATE_WRITTEN: Final = "create.written"
APPLY_WRITTEN: Final = "apply.written"
PERFORM_LOADED: Final = "perform.loaded"
PERFORM_CLAIMED: Final = "perform.claimed"
PERFORM_CALLED: Final = "perform.called"
PERFORM_WRITTEN: Final = "perform.written"
PERFORM_RUNG: Final = "perform.rung"
NOTICE_SENT: Final = "notice.sent"
PLACES_COUNTED: Final = "places.counted"
EVENTS_PUBLISHED: Final = "events.published"
EVENTS_DEALT_WITH: Final = "events.dealt-with"
ALL: Final = (
    CREATE_WRITTEN,
    APPLY_WRITTEN,
    PERFORM_LOADED,
    PERFORM_CLAIMED,
    PERFORM_CALLED,
    PERFORM_WRITTEN,
    PERFORM_RUNG,
    NOTICE_SENT,
    PLACES_COUNTED,
    EVENTS_PUBLISHED,
    EVENTS_DEALT_WITH,
)

Hook = Callable[..., Awaitable[None]]

_hooks: dict[str, Hook] = {}
_passed: Counter[str] = Counter()
_crash_at, _, _crash_nth = os.environ.get("SAGA_CRASH_AT", "").partition("#")


async def passed(name: str, **facts: Any) -> None:
    """Called by the code under test; `facts` say where it is."""
    if _crash_at == name:
        _passed[name] += 1
        if _passed[name] == int(_crash_nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)
    if (hook := _hooks.get(name)) is not None:
        await hook(**facts)


@contextmanager
def arm(name: str, hook: Hook) -> Iterator[None]:
    if name not in ALL:
        raise LookupError(f"no probe is called {name!r}")
    _hooks[name] = hook
    try:
        yield
    finally:
        del _hooks[name]
