"""The participants of a run: scripts, real functions, and the ledger of what they did."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import orjson

from app.participants.contract import Attempt, not_sent, unknown
from app.participants.python import PythonParticipant, call_of
from app.saga.messages import Outcome, OutcomeKind
from app.saga.state import ACTION
from app.testing.ledger import Ledger
from app.testing.script import Callback, How, Reaction, Script
from saga_participant import Call, Refused

MAX_OUTPUT_BYTES: Final = 262_144

Handlers = Mapping[str, Callable[[Call], Any]]


@dataclass
class Participants:
    scripts: dict[str, Script] = field(default_factory=dict)
    """By call: `reserve`, `reserve/compensation`."""
    handlers: list[tuple[str | None, Handlers]] = field(default_factory=list)
    """Of one service, or of any; the last that fits is asked."""
    ledger: Ledger = field(default_factory=Ledger)

    def copy(self) -> "Participants":
        """With nothing done yet."""
        return Participants({call: script.copy() for call, script in self.scripts.items()}, list(self.handlers))

    def script(self, call: str) -> Script:
        return self.scripts.setdefault(call, Script())

    def seconds(self, attempt: Attempt, call: str) -> float:
        """How long it works on an attempt before it reacts."""
        return min(self.script(call).seconds, attempt.timeout_seconds)

    def react(
        self, attempt: Attempt, call: str, service: str, lease_grace_seconds: float
    ) -> Iterator[tuple[float, Callable[[], Outcome]]]:
        """What is heard of an attempt, and in how many seconds; its effect, where there is one, is in the ledger then.

        Asked when the time that it takes is over.
        """
        script = self.script(call)
        reaction = script.reaction(attempt.number)
        handler = self._handler(service, attempt.name)
        if reaction is None and handler is not None:
            yield 0, partial(self._handle, attempt, handler, lease_grace_seconds)
            return
        left = attempt.timeout_seconds - self.seconds(attempt, call)
        # A known key is answered with what was done then.
        reaction = reaction or Reaction(body=orjson.loads(self.ledger.answered.get(attempt.key, b"null")))
        if reaction.how is How.ANSWERS and not left:
            # It looks at its deadline, and after that it does nothing any more.
            reaction = Reaction(How.IS_SILENT)
        if reaction.took_effect:
            body = reaction.body if reaction.status < 300 and reaction.body is not None else script.usual_output
            with contextlib.suppress(Refused):
                self._take_effect(attempt, self._output(attempt, body))
        match reaction.how:
            case How.ANSWERS:
                yield 0, partial(self._respond, attempt, service, reaction, left)
                if reaction.callback is not None:
                    yield reaction.callback.after_seconds, partial(self._call_back, attempt, reaction.callback)
            case How.IS_SILENT:
                yield left, lambda: unknown(f"{service} did not answer within {attempt.timeout_seconds:g} s")
            case How.BREAKS:
                broken = f"the connection to {service} broke before it had answered"
                yield 0, lambda: unknown(broken, may_run_seconds=left)
            case How.UNREACHABLE:
                yield 0, lambda: not_sent(f"no connection to {service} could be made")
            case How.LOSES_WORKER:
                return  # nobody answers; the lease ends

    def _respond(self, attempt: Attempt, service: str, reaction: Reaction, left: float) -> Outcome:
        # With the first answer, not before: it stands beside the HTTP client, whose import takes longer than most runs.
        from app.participants.http import judge  # noqa: PLC0415

        try:
            status, headers, content = reaction.status, reaction.headers, self._output(attempt, reaction.body)
        except Refused as refusal:
            status, headers = 422, {"Content-Type": "application/problem+json"}
            content = orjson.dumps({"detail": str(refusal)})
        outcome = judge(service, status, headers, content, attempt, left)
        if outcome.kind is OutcomeKind.SUCCEEDED:
            self._take_effect(attempt, outcome.output)
        return outcome

    def _call_back(self, attempt: Attempt, callback: Callback) -> Outcome:
        if callback.refusal is not None:
            return Outcome(OutcomeKind.REFUSED, callback.refusal)
        try:
            output = self._output(attempt, callback.output)
        except Refused as refusal:
            return Outcome(OutcomeKind.REFUSED, str(refusal))
        self._take_effect(attempt, output)
        return Outcome(OutcomeKind.SUCCEEDED, "called back", output=output)

    def _handle(self, attempt: Attempt, handler: Callable[[Call], Any], lease_grace_seconds: float) -> Outcome:
        async def carry_out() -> Outcome:
            with ThreadPoolExecutor(1) as threads:
                participant = PythonParticipant(
                    handler, threads, max_output_bytes=MAX_OUTPUT_BYTES, lease_grace_seconds=lease_grace_seconds
                )
                return await participant(replace(attempt, send_before=time.monotonic() + attempt.timeout_seconds))

        # In a thread of its own: the test may run in an event loop.
        with ThreadPoolExecutor(1) as thread:
            outcome = thread.submit(asyncio.run, carry_out()).result()
        if outcome.kind is OutcomeKind.SUCCEEDED:
            self._take_effect(attempt, outcome.output)
        return replace(outcome, record={})

    def _handler(self, service: str, name: str) -> Callable[[Call], Any] | None:
        found = (handlers.get(name) for only, handlers in reversed(self.handlers) if only in {None, service})
        return next(filter(None, found), None)

    def _output(self, attempt: Attempt, body: Any) -> bytes:
        """A function is asked once for each key that has taken effect."""
        if not callable(body):
            return orjson.dumps(body)
        known = self.ledger.answered.get(attempt.key)
        return orjson.dumps(body(call_of(attempt))) if known is None else known

    def _take_effect(self, attempt: Attempt, output: bytes) -> None:
        if attempt.operation == ACTION:
            self.ledger.act(attempt.step, attempt.key, output)
        else:
            self.ledger.undo(attempt.step, attempt.key, output)
