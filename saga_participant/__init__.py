"""What a service that takes part in sagas installs. It imports nothing of the orchestrator.

A Python participant is a module whose functions carry out actions and compensations::

    from saga_participant import Call, Refused, handler

    @handler("reserve")
    async def reserve(call: Call) -> dict:
        if call.input["quantity"] > 10:
            raise Refused("we never sell more than ten")
        return {"reservation": 4711}

A handler returns the step's output (anything that JSON can say) or raises `Refused`. Any other exception
means 'unknown': the call is repeated with the same `idempotency_key`, so a handler must make a repeated
call harmless. Plain functions run in threads and cannot be stopped after their timeout: they should look
at `call.deadline` before they commit anything.

What a service needs beyond that is in modules of its own, so that this one stays cheap to import (the
orchestrator's workers do): `barrier` (an operation takes effect once), `calls` and `fastapi` (what arrives over
HTTP), `outbox` (what leaves after the commit), `participant` (events). docs/kit.md shows them at work.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

__all__ = ["Call", "Refused", "Retry", "handler"]

Handler = TypeVar("Handler", bound=Callable[..., Any])

_HANDLES = "__saga_handles__"
_GENERATION = re.compile(r"~([1-9][0-9]{0,5})(/compensation)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt of one operation, as an HTTP participant would be sent it."""

    saga_id: str
    saga: str
    step: str
    operation: str
    """`action` or `compensation`."""
    attempt: int
    input: Any
    """The step's mapped input, or the saga's whole input."""
    outputs: dict[str, Any]
    """Outputs of the steps that have succeeded, by step name."""
    output: Any
    """For a compensation: what its own action answered; None where that is unknown."""
    idempotency_key: str
    """The same on every attempt of this operation of this step."""
    deadline: datetime
    """After this instant nothing should take effect any more."""
    callback_url: str | None = None
    traceparent: str | None = None

    @property
    def generation(self) -> int:
        """How often an operator gave the step new input: 0, or the n of a key `{saga id}/{step}~{n}`.

        Each generation is an operation of its own. The n stands behind the step, which may not contain a tilde.
        """
        found = _GENERATION.fullmatch(self.idempotency_key.removeprefix(f"{self.saga_id}/{self.step}"))
        return int(found[1]) if found else 0

    def to_json(self) -> str:
        """For work that is answered with 202: keep it beside the work and read it back with `from_json`."""
        return json.dumps(asdict(self) | {"deadline": self.deadline.isoformat()})

    @classmethod
    def from_json(cls, text: str) -> "Call":
        fields = json.loads(text)
        return cls(**fields | {"deadline": datetime.fromisoformat(fields["deadline"])})


class Refused(Exception):  # noqa: N818 - the field's word, and it reads as one: raise Refused("no stock")
    """The operation certainly did not happen and repeating it would not help.

    `status` is what an HTTP participant answers: a 4xx that the orchestrator does not repeat.
    """

    def __init__(self, why: str = "", *, status: int = 422) -> None:
        super().__init__(why)
        if status not in range(400, 500) or status in (408, 425, 429):
            raise ValueError(f"{status} is no refusal: a 4xx but 408, 425 and 429 is")
        self.status = status


class Retry(Exception):  # noqa: N818 - as above: raise Retry("the warehouse is closed", after_seconds=60)
    """Not now: the call is repeated with the same key, no sooner than `after_seconds` from now."""

    def __init__(self, why: str = "", *, after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds


def handler(name: str) -> Callable[[Handler], Handler]:
    """Registers a function, `async` or plain, for the action or compensation `name`."""

    def register(function: Handler) -> Handler:
        setattr(function, _HANDLES, (*getattr(function, _HANDLES, ()), name))
        return function

    return register


def handlers_of(module: Any) -> dict[str, Callable[[Call], Any]]:
    """The handlers that a module defines or imports, by name; ValueError where two share a name."""
    found: dict[str, Callable[[Call], Any]] = {}
    for value in vars(module).values():
        for name in getattr(value, _HANDLES, ()) if callable(value) else ():
            if found.setdefault(name, value) is not value:
                raise ValueError(f"two functions of {module.__name__} handle {name!r}")
    return found
