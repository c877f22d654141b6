"""One attempt in, one outcome out: what every kind of participant is held to (contract, section 4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import orjson

from app.saga.definition import Statuses
from app.saga.messages import Outcome, OutcomeKind
from app.saga.state import Operation

MESSAGE_LENGTH: Final = 500
HEAD_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Attempt:
    """Payloads are JSON as it is stored: most calls pass it on without looking into it."""

    saga_id: str
    saga: str
    step: str
    operation: Operation
    number: int
    name: str
    """Of the action or compensation, as the service knows it."""
    key: str
    input: bytes
    outputs: Mapping[str, bytes]
    output: bytes | None
    timeout_seconds: float
    send_before: float
    """By our monotonic clock: what has not left the house by then does not leave it (contract, section 5, rule 1), or
    its lease might be over before the participant is done."""
    deadline: datetime
    after_unknown: bool
    """An earlier attempt ended unknown, so a 409 may be the answer to the repetition."""
    statuses: Statuses
    callback_url: str | None = None
    traceparent: str | None = None

    def body(self) -> bytes:
        """What the participant is told, as JSON."""
        return orjson.dumps(
            {
                "saga_id": self.saga_id,
                "saga": self.saga,
                "step": self.step,
                "operation": self.operation,
                "attempt": self.number,
                "input": orjson.Fragment(self.input),
                "outputs": {step: orjson.Fragment(output) for step, output in self.outputs.items()},
                "output": None if self.output is None else orjson.Fragment(self.output),
            }
        )


class Participant(Protocol):
    async def __call__(self, attempt: Attempt) -> Outcome:
        """Sends it before `send_before` or not at all. Never raises but for CancelledError: a fault is an outcome."""
        ...

    async def poll(self, attempt: Attempt, url: str) -> Outcome | None:
        """Asks how an attempt that was accepted has ended; None where nothing was learned."""
        ...


def readable(text: str, limit: int = MESSAGE_LENGTH) -> str:
    """Text that came from outside, so that it can be stored and shown: no NUL, no lone surrogates, not endless."""
    clean = text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def unknown(message: str, *, may_run_seconds: float = 0, **more: Any) -> Outcome:
    return Outcome(OutcomeKind.UNKNOWN, readable(message), may_run_seconds=max(may_run_seconds, 0), **more)


def not_sent(message: str) -> Outcome:
    return Outcome(OutcomeKind.NOT_SENT, readable(message))


def too_late() -> Outcome:
    return not_sent("the worker came too late to send it")
