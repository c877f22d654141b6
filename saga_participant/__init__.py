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
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

__all__ = ["Call", "Refused", "handler"]

Handler = TypeVar("Handler", bound=Callable[..., Any])

_HANDLES = "__saga_handles__"


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


class Refused(Exception):  # noqa: N818 - the field's word, and it reads as one: raise Refused("no stock")
    """The operation certainly did not happen and repeating it would not help."""


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
