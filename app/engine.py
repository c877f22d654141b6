"""The one meeting of law, store and participants.

Everything that happens to a saga goes through here: a door (HTTP, Celery task, sweep, command line) brings a message,
the machine decides, one guarded write makes it so, and the bell rings for what comes next. No transaction is open while
a participant is called, and no lock is held over anything that waits.

Promised: a claim is durable before its call; an answer is judged against the newest state, however often the saga
moves; a claim whose commit is in doubt is not ours. Not promised: that an attempt is made once. It is made at least
once, with one key.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from app import broker, observability, probes
from app.errors import DatabaseUnavailable, Problem
from app.observability import log
from app.participants.contract import Attempt, Participant, not_sent, unknown
from app.participants.registry import Busy, Participants
from app.saga import expressions, machine, rules
from app.saga.definition import Definition
from app.saga.machine import Timing
from app.saga.messages import (
    Actor,
    Answered,
    Claim,
    ConditionFalse,
    FromOperator,
    Inexpressible,
    Message,
    Outcome,
    ParticipantMissing,
    RecordType,
    Transition,
    Woken,
)
from app.saga.state import ACTION, COMPENSATION, SECOND, CallState, Micros, Operation
from app.settings import Settings
from app.store.database import Database, to_moment
from app.store.sagas import INPUT, AuditEntry, NewSaga, Saga, Sagas, Write, early_enough, input_of, new_id, output_of

SWEEP_BATCH: Final = 500
SWEEP_ROUNDS: Final = 20
RESENDS_AT_LEAST: Final = 20
"""Per sweep, however long the queues are: a lost message is found behind any backlog, and adds little to it."""

EARLY_SECONDS: Final = 0.5
"""A bell that rings so much before a retry is due waits for it."""

RECENT: Final = 500
RECENT_BYTES: Final = 65_536
"""Sagas that a worker keeps in mind between two of their steps, and the payloads that each may bring along."""

ANSWER_PATIENCE_SECONDS: Final = 60
"""So long a worker tries to write an answer while PostgreSQL is away; then the lease decides."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What a submitter asks for, checked."""

    tenant: str
    key: str
    digest: bytes
    definition: Definition
    version: int
    input: bytes
    labels: Mapping[str, str]
    timeout_seconds: float | None = None
    start_at: Micros | None = None
    notify_url: str | None = None
    traceparent: str | None = None
    restarted_from: str | None = None
    audit: AuditEntry | None = None


class Engine:
    """Of one process and event loop. Only workers have `participants`."""

    def __init__(
        self,
        sagas: Sagas,
        database: Database,
        publisher: broker.Publisher,
        settings: Settings,
        participants: Participants | None = None,
        callback_url: Callable[[str, str, Operation, int], str] | None = None,
    ) -> None:
        self.sagas, self._database, self._publisher = sagas, database, publisher
        self._recent: OrderedDict[str, Saga] = OrderedDict()
        self._settings, self._participants = settings, participants
        self._callback_url = callback_url
        self._timing = Timing(settings.lease_grace, settings.redispatch_after)

    # --- what people ask ---

    async def start(self, submission: Submission) -> tuple[Saga, bool]:
        """The saga under that key, and whether it was there already. 422 where the key stands for another request."""
        at = await self._database.now()
        saga_id = new_id(at)
        transition = machine.create(
            submission.definition,
            at,
            saga_id=saga_id,
            timing=self._timing,
            timeout_seconds=submission.timeout_seconds,
            start_at=submission.start_at,
        )
        new = NewSaga(
            id=saga_id,
            tenant=submission.tenant,
            key=submission.key,
            request_digest=submission.digest,
            definition=submission.definition,
            version=submission.version,
            state=transition.state,
            records=transition.records,
            payloads={INPUT: submission.input},
            labels=submission.labels,
            traceparent=submission.traceparent,
            notify_url=submission.notify_url,
            restarted_from=submission.restarted_from,
            audit=submission.audit,
        )
        if await self.sagas.insert(new):
            await probes.passed(probes.CREATE_WRITTEN, saga_id=saga_id)
            saga = new.as_read(at)
            self._written(saga, transition)
            return saga, False
        found = await self.sagas.by_key(submission.tenant, submission.key)
        if found is None:
            raise RuntimeError(f"the key {submission.key!r} is taken, but no saga stands under it")
        return replay(found, submission.digest), True

    async def ask(
        self,
        saga_id: str,
        message: Callable[[Micros, Saga], FromOperator],
        *,
        action: str,
        actor: Actor,
        tenant: str | None = None,
        if_match: Callable[[Saga], bool] | None = None,
        payloads: Callable[[Transition], Mapping[str, bytes]] | None = None,
    ) -> Saga:
        """Does what a person asks for, with an audit row; Problem 404, 409 or 412 where it cannot be done."""
        while True:
            saga = await self.load(saga_id, tenant)
            if if_match is not None and not if_match(saga):
                raise Problem(
                    412, "saga-has-moved", f"Saga {saga_id} has moved on since you looked at it; nothing was done."
                )
            transition = self._step(saga, message(saga.read_at, saga))
            if (refusal := transition.refusal) is not None:
                raise Problem(409, refusal.code, refusal.detail, state=str(saga.state.state))
            if not transition.records:
                return saga
            audit = AuditEntry(
                actor.name, action, actor.reason, summary(saga), summary(replace(saga, state=transition.state))
            )
            written = await self._write(saga, transition, payloads(transition) if payloads else {}, audit)
            if written is not None:
                return written

    async def load(self, saga_id: str, tenant: str | None = None) -> Saga:
        """Problem 404 where there is none, or none of that tenant."""
        saga = await self.sagas.load(saga_id)
        if saga is None or (tenant is not None and saga.tenant != tenant):
            raise Problem(404, "saga-not-found", f"There is no saga {saga_id}.")
        return saga

    # --- what workers do ---

    async def perform(
        self,
        saga_id: str,
        step_name: str,
        operation: Operation,
        parked: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """One attempt: claim, call, answer. A message that is late, doubled or about nothing is dropped."""
        if self._participants is None:
            raise RuntimeError("this process has no participants")
        saga = self._recall(saga_id, step_name, operation) or await self.sagas.load(saga_id)
        await probes.passed(probes.PERFORM_LOADED, saga_id=saga_id, step=step_name, operation=operation)
        if saga is None or (step := saga.definition.index.get(step_name)) is None:
            return
        if saga.state.call(step, operation).state not in {CallState.SCHEDULED, CallState.RETRYING}:
            return
        plan = saga.definition.steps[step]
        name = plan.action if operation == ACTION else plan.compensation or ""
        participant = await self._participants.find(plan.service, name)
        if isinstance(participant, str):
            missing = f"{step_name}: {participant}"
            await self._tell(saga, lambda saga: ParticipantMissing(_now(saga), step, operation, missing))
            return
        try:
            # Slots are taken before the claim: what is claimed is sent at once.
            async with self._participants.slot(plan.service, operation, parked):
                await self._attempt(saga, step, operation, name, participant)
        except Busy:
            log.info("%s is busy: %s of saga %s is left to the sweep", plan.service, step_name, saga_id)

    def _recall(self, saga_id: str, step_name: str, operation: Operation) -> Saga | None:
        """The saga as this process left it, where that is enough to claim by; it saves a reading.

        It may be stale. Then the claim, which is guarded by it, is lost and made again from a fresh one; and what does
        not look claimable is read before it is dropped. Its time is the database's clock as last read, within a bound
        far below the margin in which a claimed attempt has to be sent.
        """
        saga = self._recent.pop(saga_id, None)
        if saga is None or not self._database.clock.tight:
            return None
        asked_at = time.monotonic()
        step = saga.definition.index[step_name]
        scheduled = saga.state.call(step, operation).state is CallState.SCHEDULED
        if not scheduled or not rules.may_be_sent(saga.definition, saga.state, step, operation):
            return None
        return replace(saga, read_at=self._database.clock.now(), asked_at=asked_at)

    def _remember(self, saga: Saga) -> None:
        if self._participants is None:
            return
        if saga.state.at_rest or saga.payload_bytes > RECENT_BYTES:
            self._recent.pop(saga.id, None)
            return
        self._recent[saga.id] = saga
        self._recent.move_to_end(saga.id)
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    async def _attempt(self, saga: Saga, step: int, operation: Operation, name: str, participant: Participant) -> None:
        call = saga.state.call(step, operation)
        due_in = ((call.due_at or 0) - saga.read_at) / SECOND
        early = call.state is CallState.RETRYING and 0 < due_in < EARLY_SECONDS
        if early:
            await asyncio.sleep(due_in + 0.001)  # timers of uvloop are rounded to a millisecond
        if early or time.monotonic() - saga.asked_at > EARLY_SECONDS / 2:
            # It waited for its time or for a slot: what was read then may be old, and so is the clock of its claim.
            saga = await self.load(saga.id)
        payload = b"null"

        def claim(saga: Saga) -> Message:
            nonlocal payload
            decided = _prepare(saga, step, operation)
            payload = decided if isinstance(decided, bytes) else payload
            return Claim(saga.read_at, step, operation) if isinstance(decided, bytes) else decided

        claimed, transition = await self._tell(saga, claim)
        if not transition.records or transition.records[0].attempt is None:
            return
        started = transition.records[0]
        await probes.passed(
            probes.PERFORM_CLAIMED, saga_id=saga.id, step=saga.definition.steps[step].name, operation=operation
        )
        number = started.attempt or 0
        send_before = claimed.asked_at + self._settings.lease_grace / 2
        key = started.data["key"]
        attempt = self._make_attempt(claimed, step, operation, name, number, payload, key, send_before)
        outcome: Outcome | None = None
        try:
            if time.monotonic() > send_before:
                # Its lease might be over before the participant is done; nothing has left the house, that is certain.
                outcome = not_sent("the worker came too late to send it")
            else:
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
                await self.answer(saga, step, operation, number, outcome)
            except DatabaseUnavailable as error:
                if time.monotonic() > give_up:
                    log.error("saga %s: the answer of step %d is lost to its lease: %s", saga.id, step, error)
                    return
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2)
            else:
                observability.attempt(saga.definition, step, operation, outcome)
                return

    async def answer(
        self, saga: Saga, step: int, operation: Operation, number: int, outcome: Outcome
    ) -> tuple[Saga, Transition]:
        """Tells the machine how an attempt ended; also the way in for callbacks."""
        output = output_of(saga.definition.steps[step].name)

        def payloads(transition: Transition) -> Mapping[str, bytes]:
            kept = any(r.type is RecordType.STEP_SUCCEEDED and r.step == step for r in transition.records)
            return {output: outcome.output} if kept else {}

        told = await self._tell(saga, lambda saga: Answered(_now(saga), step, operation, number, outcome), payloads)
        await probes.passed(probes.PERFORM_WRITTEN, saga_id=saga.id)
        return told

    # --- what time brings ---

    async def sweep(self) -> dict[str, int]:
        """Looks at every saga whose time has come. Safe in any number: writes are guarded, the loser does nothing."""
        counts = {"woken": 0, "postponed": 0, "raced": 0}
        for _ in range(SWEEP_ROUNDS):
            due = await self.sagas.due(SWEEP_BATCH)
            if due:
                await self._wake(due, counts)
            if len(due) < SWEEP_BATCH:
                break
        return counts

    async def _wake(self, due: list[str], counts: dict[str, int]) -> None:
        found = await asyncio.gather(*map(self.sagas.load, due), return_exceptions=True)
        moved: list[tuple[Saga, Transition]] = []
        resent: list[tuple[Saga, Transition]] = []
        later: list[tuple[Saga, Micros]] = []
        failed: dict[str, BaseException] = {}
        for saga_id, saga in zip(due, found, strict=True):
            if isinstance(saga, BaseException):
                failed[saga_id] = saga
                continue
            if saga is None:
                continue
            try:
                transition = self._step(saga, Woken(saga.read_at))
            except Exception as error:  # noqa: BLE001 - told below
                failed[saga_id] = error
                continue
            if _only_resends(transition):
                resent.append((saga, transition))
            elif transition.records:
                moved.append((saga, transition))
            elif (wake_at := rules.wake_at(saga.definition, saga.state, saga.read_at)) is not None:
                later.append((saga, wake_at))
        allowed = await self._resends_allowed(len(resent))
        later += [(saga, self._later(saga, transition)) for saga, transition in resent[allowed:]]
        writes = (*moved, *resent[:allowed])
        results = await asyncio.gather(
            *(self._write(saga, transition, {}) for saga, transition in writes), return_exceptions=True
        )
        for (saga, _), result in zip(writes, results, strict=True):
            if isinstance(result, BaseException):
                failed[saga.id] = result
        if later:
            await self.sagas.postpone(later)
        counts["woken"] += sum(isinstance(result, Saga) for result in results)
        counts["raced"] += sum(result is None for result in results)
        counts["postponed"] += len(later)
        if failed:
            await self._give_way(failed)

    def _later(self, saga: Saga, resent: Transition) -> Micros:
        """When to look again at a saga whose messages are not sent again this time; what else it waits for comes."""
        pause = saga.read_at + round(self._settings.redispatch_after * SECOND)
        return min(pause, rules.wake_at(saga.definition, resent.state, saga.read_at) or pause)

    async def _give_way(self, failed: Mapping[str, BaseException]) -> None:
        """A saga that cannot be looked at is told about, and does not keep others from being looked at."""
        for saga_id, error in failed.items():
            if not isinstance(error, Exception) or isinstance(error, DatabaseUnavailable):
                raise error
            log.error("saga %s cannot be looked at", saga_id, exc_info=error)
        await self.sagas.put_off(list(failed), self._settings.redispatch_after)

    async def _resends_allowed(self, wanted: int) -> int:
        """A backlog must not multiply itself: what is probably still in the queue is not sent again."""
        if wanted <= RESENDS_AT_LEAST:
            return wanted
        depths = await self._publisher.depths()
        if depths is None:
            return 0
        return max(wanted - depths[broker.STEPS] - depths[broker.COMPENSATIONS], RESENDS_AT_LEAST)

    # --- the one way to change a saga ---

    def _step(self, saga: Saga, message: Message) -> Transition:
        return machine.step(saga.definition, saga.state, message, saga_id=saga.id, timing=self._timing)

    async def _tell(
        self,
        saga: Saga,
        message: Callable[[Saga], Message],
        payloads: Callable[[Transition], Mapping[str, bytes]] = lambda _: {},
    ) -> tuple[Saga, Transition]:
        """Judges the message by the newest state until it is written or changes nothing."""
        while True:
            transition = self._step(saga, message(saga))
            if not transition.records:
                return saga, transition
            written = await self._write(saga, transition, payloads(transition))
            if written is not None:
                return written, transition
            saga = await self.load(saga.id)

    async def _write(
        self,
        saga: Saga,
        transition: Transition,
        payloads: Mapping[str, bytes],
        audit: AuditEntry | None = None,
    ) -> Saga | None:
        """The saga as written; None where it has moved meanwhile and nothing was written."""
        write = Write(
            saga,
            transition.state,
            early_enough(saga, transition.state),
            transition.records,
            payloads,
            transition.dead_letters,
            transition.closed_letters,
            audit,
        )
        if not await self.sagas.write(write):
            return None
        await probes.passed(probes.APPLY_WRITTEN, saga_id=saga.id, records=transition.records)
        written = write.after()
        self._remember(written)
        self._written(written, transition)
        await probes.passed(probes.PERFORM_RUNG, saga_id=saga.id)
        return written

    def _written(self, saga: Saga, transition: Transition) -> None:
        """What follows a commit: the bell, and the count of what happened."""
        for dispatch in transition.dispatches:
            action = dispatch.operation == ACTION
            self._publisher.ring(
                broker.STEPS if action else broker.COMPENSATIONS,
                broker.RUN_STEP if action else broker.RUN_COMPENSATION,
                saga.id,
                saga.definition.steps[dispatch.step].name,
                delay_seconds=dispatch.delay_seconds,
            )
        if saga.state.at_rest:
            self._publisher.came_to_rest(saga.id)
        observability.transition(saga.definition, saga.state, transition)


def replay(found: tuple[Saga, bytes], digest: bytes) -> Saga:
    """The saga that stands under a key, for a request that brings the key again; 422 where it is another request."""
    saga, first = found
    if digest != first:
        raise Problem(
            422,
            "idempotency-key-reused",
            f"The key {saga.key!r} stands for saga {saga.id}, which was started with another request."
            " Use a new key for a new saga.",
        )
    return saga


def _now(saga: Saga) -> Micros:
    """The database's time, from when the saga was read and what has passed since."""
    return saga.read_at + round((time.monotonic() - saga.asked_at) * SECOND)


def _only_resends(transition: Transition) -> bool:
    return bool(transition.records) and all(record.data.get("sends", 0) > 1 for record in transition.records)


def summary(saga: Saga) -> dict[str, Any]:
    """What an audit row says of a saga."""
    steps = {
        plan.name: [str(record.action.state), str(record.compensation.state)]
        for plan, record in zip(saga.definition.steps, saga.state.steps, strict=True)
    }
    return {"state": str(saga.state.state), "seq": saga.state.seq, "paused": saga.state.pause, "steps": steps}


def _prepare(saga: Saga, step: int, operation: Operation) -> bytes | Message:
    """The input of a call, or why there is none. Pure but for the payloads that it reads."""
    plan = saga.definition.steps[step]
    given = saga.payloads.get(input_of(plan.name))
    if plan.when is None and (plan.input is None or given is not None):
        return given or saga.payloads.get(INPUT, b"null")
    document = expressions.document(
        saga.payload(INPUT),
        {
            other.name: (str(saga.state.steps[position].action.state), saga.payload(output_of(other.name)))
            for position, other in enumerate(saga.definition.steps)
            if position in saga.definition.upstream[step]
        },
        saga_id=saga.id,
        key=saga.key,
        name=saga.definition.name,
    )
    try:
        first = operation == ACTION and saga.state.steps[step].action.attempts == 0
        if first and plan.when is not None and not expressions.truthy(expressions.evaluate(plan.when, document)):
            return ConditionFalse(saga.read_at, step)
        if given is not None or plan.input is None:
            return given or saga.payloads.get(INPUT, b"null")
        return orjson.dumps(expressions.evaluate_mapping(plan.input, document))
    except expressions.ExpressionFailed as error:
        return Inexpressible(saga.read_at, step, operation, str(error))
