"""The one way to change a saga: law and store meet here.

Everything that happens to a saga goes through here: a door (HTTP, Celery task, sweep, command line) brings a message,
the machine decides, one guarded write makes it so, and the bell rings for what comes next. No transaction is open while
a participant is called, and no lock is held over anything that waits.

Promised: a claim is durable before its call; an answer is judged against the newest state, however often the saga
moves; a claim whose commit is in doubt is not ours. Not promised: that an attempt is made once. It is made at least
once, with one key.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from app import broker, observability, probes
from app.access import NO_TENANT
from app.errors import DatabaseUnavailable, Problem
from app.instants import rfc3339
from app.notices import notice_of
from app.observability import log
from app.participants.contract import readable
from app.recent import Recent
from app.redacting import discreet, discreet_outcome, discreet_reason
from app.saga import actions, choreography, machine, rules
from app.saga.definition import Definition
from app.saga.draft import Timing
from app.saga.messages import (
    Actor,
    Admitted,
    Answered,
    FromOperator,
    Happened,
    Message,
    Outcome,
    Record,
    RecordType,
    Refusal,
    Request,
    Transition,
)
from app.saga.state import ACTION, SECOND, CallState, Micros, Operation, SagaState, State
from app.settings import Settings
from app.store.audit import AuditEntry
from app.store.database import Database
from app.store.definitions import Definitions, Follower
from app.store.sagas import INPUT, NO_INPUT, NewSaga, Saga, Sagas, Write, early_enough, new_id, output_of
from saga_participant.events import COMPENSATION_REQUESTED, Event

SOURCE: Final = "/saga-orchestrator"
"""Of the events that the orchestrator itself publishes."""


class Observed(StrEnum):
    """What came of an event."""

    OPENED = "opened"
    MOVED = "moved"
    UNCHANGED = "unchanged"
    STANDS = "stands"
    """A step succeeded of which its saga, which is FAILED for good, knew nothing: its effect may stand."""


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
    by: str | None = None
    """Who asks for it; told by the first line of the saga's history."""


class Engine:
    """Of one process and event loop. `recent`: where it leaves what it has written, for `app.attempts`. `publish` is
    called after events were written that have to leave the house.
    """

    def __init__(
        self,
        sagas: Sagas,
        definitions: Definitions,
        database: Database,
        publisher: broker.Publisher,
        settings: Settings,
        recent: Recent | None = None,
        publish: Callable[[], None] = lambda: None,
    ) -> None:
        self.sagas, self._definitions, self._database = sagas, definitions, database
        self._publisher, self._recent, self._publish = publisher, recent, publish
        self._timing = Timing(settings.lease_grace, settings.redispatch_after)
        self._wanted: set[str] = set()  # definitions of which somebody may be admitted
        self._admitting: asyncio.Task[None] | None = None

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
            records=_begun_by(transition, submission.by),
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
        address: str | None = None,
        if_match: Callable[[Saga], bool] | None = None,
        payloads: Callable[[Transition], Mapping[str, bytes]] | None = None,
    ) -> Saga:
        """Does what a person asks for, with an audit row; Problem 404, 409 or 412 where it cannot be done.

        `tenant`: the one that is looked at, None being every one. `address`: where the request came from.
        """
        while True:
            saga = await self.load(saga_id, tenant)
            if if_match is not None and not if_match(saga):
                raise has_moved(saga)
            asked = message(saga.read_at, saga)
            if saga.definition.redaction is not None and asked.by.reason:
                asked = replace(asked, by=replace(asked.by, reason=discreet(saga, asked.by.reason)))
            transition = self.step(saga, asked)
            if (refusal := transition.refusal) is not None:
                raise not_allowed(saga, refusal)
            if not transition.records:
                return saga
            before, after = summary(saga), summary(replace(saga, state=transition.state))
            audit = AuditEntry(actor.name, action, asked.by.reason, before, after, address)
            written = await self.write(saga, transition, payloads(transition) if payloads else {}, audit)
            if written is not None:
                return written

    async def load(self, saga_id: str, tenant: str | None = None) -> Saga:
        """Problem 404 where there is none, or none of that tenant."""
        saga = await self.sagas.load(saga_id)
        if saga is None or (tenant is not None and saga.tenant != tenant):
            raise Problem(404, "saga-not-found", f"There is no saga {saga_id}.")
        return saga

    # --- what workers and time bring ---

    async def answer(
        self, saga: Saga, step: int, operation: Operation, number: int, outcome: Outcome
    ) -> tuple[Saga, Transition]:
        """Tells the machine how an attempt ended; also the way in for callbacks."""
        output = output_of(saga.definition.steps[step].name)

        def payloads(transition: Transition) -> Mapping[str, bytes]:
            kept = any(r.type is RecordType.STEP_SUCCEEDED and r.step == step for r in transition.records)
            return {output: outcome.output} if kept else {}

        def answered(saga: Saga) -> Answered:
            return Answered(now_of(saga), step, operation, number, discreet_outcome(saga, step, outcome))

        told = await self.tell(saga, answered, payloads)
        await probes.passed(probes.PERFORM_WRITTEN, saga_id=saga.id)
        return told

    async def tell(
        self,
        saga: Saga,
        message: Callable[[Saga], Message],
        payloads: Callable[[Transition], Mapping[str, bytes]] = lambda _: {},
    ) -> tuple[Saga, Transition]:
        """Judges the message by the newest state until it is written or changes nothing."""
        while True:
            transition = self.step(saga, message(saga))
            if not transition.records:
                return saga, transition
            written = await self.write(saga, transition, payloads(transition))
            if written is not None:
                return written, transition
            saga = await self.load(saga.id)

    async def observe(self, follower: Follower, correlation: str, event: Event, data: bytes) -> Observed:
        """Tells the saga of that correlation what has happened, and opens it where there is none.

        `data`: the event's, as it is kept. Told again, or of a saga that has ended, it changes nothing.
        """
        name = follower.definition.name
        key, said = f"{name}:{correlation}", reason_of(event)

        def reason(definition: Definition, saga: Saga | None) -> str | None:
            return None if said is None else discreet_reason(definition, saga, event.type, event.data, said)

        while (found := await self.sagas.by_key(NO_TENANT, key)) is None:
            if not follower.opens:
                return Observed.UNCHANGED
            if await self._open(follower, key, event.type, reason(follower.definition, None), data):
                return Observed.OPENED
        saga = found[0]
        if saga.definition.name != name or saga.definition.type != "choreography":
            raise Problem(409, "key-taken", f"The key {key!r} stands for saga {saga.id}, which follows no events.")
        saga, transition = await self.tell(
            saga,
            lambda saga: Happened(now_of(saga), event.type, reason(saga.definition, saga)),
            lambda transition: _outputs(saga.definition, transition, event.type, data),
        )
        if event.type == follower.definition.started_by and saga.payloads.get(INPUT, NO_INPUT) == NO_INPUT:
            await self.sagas.put_input(saga.id, data)  # an event that it has caused came before it
        if transition.records:
            return Observed.MOVED
        return Observed.STANDS if _stands(saga, event.type) else Observed.UNCHANGED

    async def _open(self, follower: Follower, key: str, event: str, reason: str | None, data: bytes) -> bool:
        """Of several that open the same saga at once, one does."""
        at = await self._database.now()
        saga_id, definition = new_id(at), follower.definition
        transition = choreography.create(definition, at, event, saga_id=saga_id, timing=self._timing, reason=reason)
        new = NewSaga(
            id=saga_id,
            tenant=NO_TENANT,
            key=key,
            request_digest=secrets.token_bytes(32),  # of no request: `POST /sagas` under this key is another one
            definition=definition,
            version=follower.version,
            state=transition.state,
            records=transition.records,
            payloads={
                INPUT: data if event == definition.started_by else NO_INPUT,
                **_outputs(definition, transition, event, data),
            },
        )
        if not await self.sagas.insert(new):
            return False
        self._written(new.as_read(at), transition)
        return True

    async def admit(self, name: str) -> int:
        """Starts sagas of that definition which wait for a place, first come, first served, while there are any."""
        transitions: dict[str, Transition] = {}

        def start(saga: Saga) -> Write:
            transition = transitions[saga.id] = self.step(saga, Admitted(saga.read_at))
            return _write_of(saga, transition)

        admitted = 0
        while (newest := await self._definitions.latest(name)) is not None:
            # The newest version's limit: who changes it means those too that wait already.
            limit = (await self._definitions.get(name, newest)).max_concurrent
            writes = await self.sagas.admit(name, limit, start)
            for write in writes:
                await self._after(write, transitions[write.saga.id])
            admitted += len(writes)
            if not writes:
                break
        return admitted

    async def _admit_wanted(self) -> None:
        try:
            while self._wanted:
                await asyncio.sleep(0)  # what else comes to rest in this turn of the loop goes along
                await self.admit(self._wanted.pop())
        except DatabaseUnavailable as error:
            log.warning("places are given by the sweep: %s", error)
        finally:
            self._admitting = None

    async def close(self) -> None:
        if self._admitting is not None:
            await asyncio.wait([self._admitting])

    def step(self, saga: Saga, message: Message) -> Transition:
        """What the message would change; nothing is written."""
        return machine.step(saga.definition, saga.state, message, saga_id=saga.id, timing=self._timing)

    async def write(
        self,
        saga: Saga,
        transition: Transition,
        payloads: Mapping[str, bytes],
        audit: AuditEntry | None = None,
    ) -> Saga | None:
        """The saga as written; None where it has moved meanwhile and nothing was written."""
        write = _write_of(saga, transition, payloads, audit)
        return await self._after(write, transition) if await self.sagas.write(write) else None

    def ring(self, saga: Saga, step: int, operation: Operation, delay_seconds: float = 0) -> None:
        """Has a worker look at this operation."""
        action = operation == ACTION
        self._publisher.ring(
            broker.STEPS if action else broker.COMPENSATIONS,
            broker.RUN_STEP if action else broker.RUN_COMPENSATION,
            saga.id,
            saga.definition.steps[step].name,
            delay_seconds=delay_seconds,
        )

    async def _after(self, write: Write, transition: Transition) -> Saga:
        """What follows a commit: memory, bell and counts."""
        saga = write.saga
        await probes.passed(probes.APPLY_WRITTEN, saga_id=saga.id, records=transition.records)
        written = write.after()
        if self._recent is not None:
            self._recent.remember(written)
        self._written(written, transition)
        await probes.passed(probes.PERFORM_RUNG, saga_id=saga.id)
        return written

    def _written(self, saga: Saga, transition: Transition) -> None:
        """What follows a commit: the bell, and the count of what happened."""
        for dispatch in transition.dispatches:
            self.ring(saga, dispatch.step, dispatch.operation, dispatch.delay_seconds)
        if transition.requests:
            self._publish()
        if saga.state.at_rest:
            self._publisher.came_to_rest(saga.id)
        waits = rules.waits_since(saga.definition, saga.state) is not None
        if waits or (saga.state.at_rest and saga.definition.max_concurrent is not None):
            self._wanted.add(saga.definition.name)
            if self._admitting is None:
                self._admitting = asyncio.create_task(self._admit_wanted())
        observability.transition(saga.definition, saga.state, transition)


def _begun_by(transition: Transition, by: str | None) -> Sequence[Record]:
    """The history of a new saga says who began it; a line in the audit trail for each would double its writes."""
    first, *rest = transition.records
    return transition.records if by is None else (replace(first, data={**first.data, "by": by}), *rest)


def _write_of(
    saga: Saga, transition: Transition, payloads: Mapping[str, bytes] | None = None, audit: AuditEntry | None = None
) -> Write:
    write = Write(
        saga,
        transition.state,
        early_enough(saga, transition.state),
        transition.records,
        payloads or {},
        transition.dead_letters,
        transition.closed_letters,
        audit,
        events=[_requested(saga, transition.state, request) for request in transition.requests],
    )
    return write if saga.notify_url is None else replace(write, notice=notice_of(write.after(), transition))


def _outputs(definition: Definition, transition: Transition, event: str, data: bytes) -> Mapping[str, bytes]:
    """The output of the step that this event says has succeeded, where it is news."""
    done = {record.step for record in transition.records if record.type is RecordType.STEP_SUCCEEDED}
    steps = [plan for position, plan in enumerate(definition.steps) if position in done and plan.events is not None]
    return {output_of(plan.name): data for plan in steps if plan.events and plan.events.succeeded == event}


def _stands(saga: Saga, event: str) -> bool:
    if saga.state.state is not SagaState.FAILED:
        return False
    known = {CallState.COMPENSATED, CallState.RESOLVED}
    return any(
        plan.events is not None
        and plan.events.succeeded == event
        and record.action.state is not CallState.SUCCEEDED
        and record.compensation.state not in known
        for plan, record in zip(saga.definition.steps, saga.state.steps, strict=True)
    )


def _requested(saga: Saga, state: State, request: Request) -> str:
    """`CompensationRequested`; published twice for one attempt it is the same event."""
    step, correlation = saga.definition.steps[request.step].name, saga.key.partition(":")[2]
    data = {"saga": saga.definition.name, "step": step, "correlation": correlation, "reason": request.reason}
    event_id = f"{saga.id}/{step}/{request.attempt}"
    return Event(
        COMPENSATION_REQUESTED, SOURCE, data, subject=correlation, id=event_id, time=rfc3339(state.updated_at)
    ).to_json()


def reason_of(event: Event) -> str | None:
    """What the data of an event says of its cause, for a person."""
    data = event.data if isinstance(event.data, dict) else {}
    said = next((data[name] for name in ("reason", "message", "error") if isinstance(data.get(name), str)), None)
    return None if said is None else readable(said)


def has_moved(saga: Saga) -> Problem:
    return Problem(412, "saga-has-moved", f"Saga {saga.id} has moved on since you looked at it; nothing was done.")


def not_allowed(saga: Saga, refusal: Refusal) -> Problem:
    """Says why the saga's state does not allow an action, and which it does."""
    state = saga.state
    can = actions.allowed(saga.definition, state, now_of(saga))
    return Problem(409, refusal.code, refusal.detail, state=str(state.state), allowed=can)


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


def now_of(saga: Saga) -> Micros:
    """The database's time, from when the saga was read and what has passed since."""
    return saga.read_at + round((time.monotonic() - saga.asked_at) * SECOND)


def summary(saga: Saga) -> dict[str, Any]:
    """What an audit row says of a saga."""
    steps = {
        plan.name: [str(record.action.state), str(record.compensation.state)]
        for plan, record in zip(saga.definition.steps, saga.state.steps, strict=True)
    }
    return {"state": str(saga.state.state), "seq": saga.state.seq, "paused": saga.state.pause, "steps": steps}
