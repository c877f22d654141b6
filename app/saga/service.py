"""Who takes part in sagas."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.saga.state import Micros


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator's: nothing new is sent to the service."""

    since: Micros
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Service:
    """One participant: `url` of an HTTP service, or `python`, a module or file of functions."""

    name: str
    url: str | None = None
    python: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Each signs: several are for rotation."""
    max_in_flight: int | None = None
    subscribes: tuple[str, ...] = ()
    """Types of the events that are posted to it."""
    pause: Pause | None = field(default=None, compare=False)
    """Of what happens to it, not of what it is: the same service whether it is paused or not."""
