"""Attempts: claim, call, answer. What a worker does for one message.

No transaction is open while a participant is called. A claim is durable before its call, and what was claimed is sent
within half of `SAGA_LEASE_GRACE` or not at all; slots are taken before, so nothing is waited for in between.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Final

import orjson

from app import observability, probes
from app.engine import Engine, now_of
from app.errors import DatabaseUnavailable, PayloadUnreadable
from app.observability import log
from app.participants.contract import Attempt, Participant, unknown
from app.participants.registry import Busy, Participants
from app.recent import Recent
from app.redacting import discreet
from app.saga import rules
from app.saga.messages import Claim, Inexpressible, Message, Outcome, OutcomeKind, ParticipantMissing
from app.saga.preparing import prepare
from app.saga.state import ACTION, COMPENSATION, SECOND, CallState, Operation
from app.settings import Settings
from app.store.database import to_moment
from app.store.sagas import INPUT, Saga, input_of, output_of

EARLY_SECONDS: Final = 0.5
"""A bell that rings so much before a retry is due waits for it."""

ANSWER_PATIENCE_SECONDS: Final = 60
"""So long a worker tries to write an answer while PostgreSQL is away; then the lease decides."""


class Attempts:
    """Of one worker process and event loop."""

    def __init__(
        self,
        engine: Engine,
        participants: Participants,
        recent: Recent,
        settings: Settings,
        callback_url: Callable[[str, str, Operation, int], str] | None = None,
    ) -> None:
        self._engine, self._participants, self._recent = engine, participants, recent
        self._settings, self._callback_url = settings, callback_url
        self.claimed_at: float | None = None
        """When an attempt was last claimed here, by the monotonic clock."""

    async def perform(
        self,
        saga_id: str,
        step_name: str,
        operation: Operation,
        parked: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """One attempt: claim, call, answer; or one poll of an attempt that was accepted before.

        A message that is late, doubled or about nothing is dropped; so is one about a saga that cannot be read, which
        the sweep brings again.
        """
        try:
            await self._perform(saga_id, step_name, operation, parked)
        except PayloadUnreadable as error:
            log.error("%s of saga %s is not carried out: %s", step_name, saga_id, error)

    async def _perform(
        self,
        saga_id: str,
        step_name: str,
        operation: Operation,
        parked: Callable[[], AbstractContextManager[None]],
    ) -> None:
        saga = self._recent.claimable(saga_id, step_name, operation) or await self._engine.sagas.load(saga_id)
        await probes.passed(probes.PERFORM_LOADED, saga_id=saga_id, step=step_name, operation=operation)
        if saga is None or (step := saga.definition.index.get(step_name)) is None:
            return
        poll = saga.state.call(step, operation).poll
        if poll is None and saga.state.call(step, operation).state not in {CallState.SCHEDULED, CallState.RETRYING}:
            return
        plan = saga.definition.steps[step]
        name = plan.action if operation == ACTION else plan.compensation or ""
        participant = await self._participants.find(plan.service, name)
        if isinstance(participant, str):
            missing = f"{step_name}: {participant}"
            await self._engine.tell(saga, lambda saga: ParticipantMissing(now_of(saga), step, operation, missing))
            return
        try:
            # Slots are taken before the claim: what is claimed is sent at once.
            async with self._participants.slot(plan.service, operation, parked):
                if poll is not None:
                    await self._poll(saga, step, operation, participant, poll)
                elif await self._participants.paused(plan.service):  # perhaps since it waits for a slot
                    log.info("%s is paused: %s of saga %s waits", plan.service, step_name, saga_id)
                else:
                    await self._attempt(saga, step, operation, name, participant)
        except Busy:
            log.info("%s is busy: %s of saga %s is left to the sweep", plan.service, step_name, saga_id)

    async def _attempt(self, saga: Saga, step: int, operation: Operation, name: str, participant: Participant) -> None:
        call = saga.state.call(step, operation)
        due_in = ((call.due_at or 0) - saga.read_at) / SECOND
        early = call.state is CallState.RETRYING and 0 < due_in < EARLY_SECONDS
        if early:
            await asyncio.sleep(due_in + 0.001)  # timers of uvloop are rounded to a millisecond
        if early or time.monotonic() - saga.asked_at > EARLY_SECONDS / 2:
            # It waited for its time or for a slot: what was read then may be old, and so is the clock of its claim.
            saga = await self._engine.load(saga.id)
        payload = b"null"

        def claim(saga: Saga) -> Message:
            nonlocal payload
            decided = _prepare(saga, step, operation)
            if isinstance(decided, bytes):
                decided = self._bounded(saga, step, operation, decided)
            payload = decided if isinstance(decided, bytes) else payload
            return Claim(saga.read_at, step, operation) if isinstance(decided, bytes) else decided

        claimed, transition = await self._engine.tell(saga, claim)
        if not transition.records or transition.records[0].attempt is None:
            return
        started = transition.records[0]
        self.claimed_at = time.monotonic()
        await probes.passed(
            probes.PERFORM_CLAIMED, saga_id=saga.id, step=saga.definition.steps[step].name, operation=operation
        )
        number = started.attempt or 0
        send_before = claimed.asked_at + self._settings.lease_grace / 2
        key = started.data["key"]
        attempt = self._make_attempt(claimed, step, operation, name, number, payload, key, send_before)
        outcome: Outcome | None = None
        try:
            outcome = await participant(attempt)
            await probes.passed(probes.PERFORM_CALLED, saga_id=saga.id, step=attempt.step, operation=operation)
            await self._answer(claimed, step, operation, number, outcome)
        except asyncio.CancelledError:
            # The worker stops. What it knows of the attempt is written all the same; twice is once.
            if outcome is None:
                left = send_before + attempt.timeout_seconds - time.monotonic()
                outcome = unknown("its worker was stopped before the answer came", may_run_seconds=left)
            with contextlib.suppress(Exception):
                await asyncio.shield(self._answer(claimed, step, operation, number, outcome))
            raise

    async def _poll(self, saga: Saga, step: int, operation: Operation, participant: Participant, url: str) -> None:
        """Asks how an accepted attempt has ended. Nothing is claimed: asking twice does no harm."""
        plan, call = saga.definition.steps[step], saga.state.call(step, operation)
        key = f"{saga.id}/{rules.key_suffix(plan.name, operation, saga.state.steps[step].action.key)}"
        send_before = time.monotonic() + self._settings.lease_grace / 2
        attempt = self._make_attempt(saga, step, operation, "", call.attempts, b"null", key, send_before)
        outcome = await participant.poll(attempt, url)
        if outcome is not None and outcome.kind is OutcomeKind.PENDING:
            await self._engine.answer(saga, step, operation, call.attempts, outcome)
        elif outcome is not None:
            await self._answer(saga, step, operation, call.attempts, outcome)

    def _bounded(self, saga: Saga, step: int, operation: Operation, payload: bytes) -> bytes | Message:
        """The payload, or why the call is not sent: with everything that it carries it is too large."""
        plan, allowed = saga.definition.steps[step], f"SAGA_MAX_CALL_BYTES is {self._settings.max_call_bytes:,}"
        limit = self._settings.max_call_bytes
        if operation == COMPENSATION:
            # Its own output comes to what the action was sent, and so does that of the step at which the saga turned:
            # what could be done can be undone.
            limit += 2 * self._settings.max_payload_bytes
            allowed += f", which makes {limit:,} for a compensation"
        if operation == ACTION and saga.state.call(step, operation).unknown:
            # It was sent before and may have happened, so it is asked again; what has grown are outputs beside it.
            return payload
        outputs = [saga.payloads.get(output_of(saga.definition.steps[done].name), b"") for done in saga.state.completed]
        own = saga.payloads.get(output_of(plan.name), b"") if operation == COMPENSATION else b""
        size = len(payload) + sum(map(len, outputs)) + len(own)
        if size <= limit:
            return payload
        why = (
            f"the call would carry {size:,} bytes ({len(payload):,} of input, {size - len(payload):,} of outputs), and"
            f" {allowed}"
        )
        return Inexpressible(saga.read_at, step, operation, why)

    def _make_attempt(
        self,
        saga: Saga,
        step: int,
        operation: Operation,
        name: str,
        number: int,
        payload: bytes,
        key: str,
        send_before: float,
    ) -> Attempt:
        plan, call = saga.definition.steps[step], saga.state.call(step, operation)
        timeout = plan.timeout_seconds if operation == ACTION else plan.compensation_timeout_seconds
        callback_url = self._callback_url(saga.id, plan.name, operation, number) if self._callback_url else None
        return Attempt(
            saga_id=saga.id,
            saga=saga.definition.name,
            step=plan.name,
            operation=operation,
            number=number,
            name=name,
            key=key,
            input=payload,
            outputs={
                saga.definition.steps[done].name: saga.payloads.get(
                    output_of(saga.definition.steps[done].name), b"null"
                )
                for done in saga.state.completed
            },
            output=saga.payloads.get(output_of(plan.name)) if operation == COMPENSATION else None,
            timeout_seconds=timeout,
            send_before=send_before,
            deadline=to_moment(saga.state.updated_at + round(timeout * SECOND)),
            after_unknown=call.unknown,
            statuses=plan.statuses,
            callback_url=callback_url,
            traceparent=saga.traceparent,
        )

    async def _answer(self, saga: Saga, step: int, operation: Operation, number: int, outcome: Outcome) -> None:
        """Writes an answer, whatever has moved meanwhile and even if PostgreSQL is away for a while."""
        give_up = time.monotonic() + ANSWER_PATIENCE_SECONDS
        delay = 0.05
        while True:
            try:
                await self._engine.answer(saga, step, operation, number, outcome)
            except (DatabaseUnavailable, PayloadUnreadable) as error:
                if time.monotonic() > give_up:
                    log.error("saga %s: the answer of step %d is lost to its lease: %s", saga.id, step, error)
                    return
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2)
            else:
                observability.attempt(saga.definition, step, operation, outcome)
                return


def _prepare(saga: Saga, step: int, operation: Operation) -> bytes | Message:
    """The input of a call, or why there is none. Pure but for the payloads that it reads."""
    given = saga.payloads.get(input_of(saga.definition.steps[step].name))
    decided = prepare(
        saga.definition,
        saga.state,
        step,
        operation,
        at=saga.read_at,
        saga_id=saga.id,
        key=saga.key,
        renewed=given is not None,
        saga_input=lambda: saga.payload(INPUT),
        output=lambda name: saga.payload(output_of(name)),
    )
    if decided is None:
        return given or saga.payloads.get(INPUT, b"null")
    if isinstance(decided, Inexpressible):
        return replace(decided, message=discreet(saga, decided.message))  # it may quote a value
    return orjson.dumps(decided) if isinstance(decided, dict) else decided
