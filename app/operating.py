"""What operators do to sagas, whichever door they come by.

Every action goes through `Engine.ask`: the machine says whether the saga's state allows it, and the audit row is
written with the transition.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from app.access import NO_TENANT, Caller
from app.engine import Submission, not_allowed, summary
from app.errors import DatabaseUnavailable, Problem, refuse_tenants
from app.filters import as_body, uuid
from app.house import House
from app.input_schema import InputSchemas
from app.redacting import discreet, restored_input, restored_step_input
from app.saga.actions import refuse_restart
from app.saga.fields import shown
from app.saga.messages import (
    Abandon,
    Cancel,
    Extend,
    FromOperator,
    Pause,
    RecordType,
    Resolve,
    Resume,
    Retry,
    Skip,
    Transition,
)
from app.saga.service import Service
from app.saga.state import SECOND, Micros
from app.store.audit import AuditEntry
from app.store.events import TRACKED
from app.store.letters import OPEN
from app.store.listing import Filter
from app.store.sagas import INPUT, Saga, input_of, output_of
from app.submitting import check_input, find_definition, payload

PAUSES: Final = "Services are paused and resumed by the house"
"""They are common: who acts for one tenant would stop the sagas of others."""
BULK_AT_ONCE: Final = 16
BULK_MOST: Final = 1000
RESTART_KEYS: Final = 50

BulkAction: TypeAlias = Literal["retry", "compensate", "pause"]
_Message: TypeAlias = Callable[[Micros, Saga], FromOperator]
_Payloads: TypeAlias = Callable[[Transition], Mapping[str, bytes]]


class _Nothing:
    """In place of a value that was not given; null is one."""


NOT_GIVEN: Final = _Nothing()


@dataclass(frozen=True, slots=True)
class Bulk:
    matched: int
    done: int
    failed: list[dict[str, str]]
    """{id, code} of each that was refused."""
    job: str | None = None
    """Its id; None of one that only counts."""

    @property
    def remaining(self) -> int:
        return self.matched - self.done


@dataclass(frozen=True, slots=True)
class Operator:
    """One caller at work. Each method does one thing, and says why in the audit trail.

    Problem 404 where there is no such saga for the caller, 409 where its state does not allow it, 412 where it has
    moved on since `unmoved` was made; then nothing was done.
    """

    house: House
    caller: Caller
    unmoved: Callable[[Saga], bool] | None = None
    """Whether the saga is still what the caller has looked at."""

    # --- one saga ---

    async def retry(
        self,
        saga_id: str,
        reason: str,
        *,
        step: str | None = None,
        new_input: Any = NOT_GIVEN,
        confirm_not_done: bool = False,
    ) -> Saga:
        given = new_input is not NOT_GIVEN
        if given:
            payload(self.house, new_input, "The input")
        asked_of: list[Saga] = []

        def message(at: Micros, saga: Saga) -> Retry:
            asked_of[:] = [saga]
            position = None if step is None else _position(saga, step)
            return Retry(at, self.caller.actor(reason), given, confirm_not_done, position)

        def payloads(transition: Transition) -> Mapping[str, bytes]:
            # The record that begins a new key names the step that the input is for.
            (saga,) = asked_of
            renewed = [r.step for r in transition.records if r.type is RecordType.STEP_SCHEDULED and "key" in r.data]
            return {
                input_of(saga.definition.steps[position].name): payload(
                    self.house, restored_step_input(saga, position, new_input), "The input"
                )
                for position in renewed
                if position is not None
            }

        return await self._ask(saga_id, "retry", reason, message, payloads if given else None)

    async def skip(
        self, saga_id: str, reason: str, step: str, *, output: Any = NOT_GIVEN, confirm_not_done: bool = False
    ) -> Saga:
        given = output is not NOT_GIVEN
        data = payload(self.house, output, "The output") if given else b""

        def message(at: Micros, saga: Saga) -> Skip:
            return Skip(at, self.caller.actor(reason), _position(saga, step), confirm_not_done)

        def payloads(transition: Transition) -> Mapping[str, bytes]:
            skipped = any(record.type is RecordType.STEP_SKIPPED for record in transition.records)
            return {output_of(step): data} if skipped and given else {}

        return await self._ask(saga_id, "skip", reason, message, payloads)

    async def resolve(self, saga_id: str, reason: str, step: str) -> Saga:
        def message(at: Micros, saga: Saga) -> Resolve:
            return Resolve(at, self.caller.actor(reason), _position(saga, step))

        return await self._ask(saga_id, "resolve", reason, message)

    async def compensate(self, saga_id: str, reason: str) -> Saga:
        return await self._ask(saga_id, "compensate", reason, lambda at, _: Cancel(at, self.caller.actor(reason)))

    async def cancel(self, saga_id: str, reason: str | None) -> Saga:
        """As `compensate`, by who started it."""
        return await self._ask(saga_id, "cancel", reason, lambda at, _: Cancel(at, self.caller.actor(reason)))

    async def abandon(self, saga_id: str, reason: str) -> Saga:
        return await self._ask(saga_id, "abandon", reason, lambda at, _: Abandon(at, self.caller.actor(reason)))

    async def pause(self, saga_id: str, reason: str) -> Saga:
        return await self._ask(saga_id, "pause", reason, lambda at, _: Pause(at, self.caller.actor(reason)))

    async def resume(self, saga_id: str, reason: str) -> Saga:
        return await self._ask(saga_id, "resume", reason, lambda at, _: Resume(at, self.caller.actor(reason)))

    async def extend(self, saga_id: str, reason: str, timeout_seconds: float) -> Saga:
        return await self._ask(
            saga_id, "extend", reason, lambda at, _: Extend(at, self.caller.actor(reason), timeout_seconds)
        )

    async def _ask(
        self, saga_id: str, action: str, reason: str | None, message: _Message, payloads: _Payloads | None = None
    ) -> Saga:
        return await self.house.engine.ask(
            saga_id,
            message,
            action=action,
            actor=self.caller.actor(reason),
            tenant=self.caller.sees,
            address=self.caller.address,
            if_match=self.unmoved,
            payloads=payloads,
        )

    # --- a new one in its place ---

    async def restart(self, saga_id: str, reason: str, schemas: InputSchemas, *, new_input: Any = NOT_GIVEN) -> Saga:
        """With the newest version of the definition, and the labels, timeout and `notify_url` of the old saga."""
        house = self.house
        old = await house.engine.load(saga_id, self.caller.sees)
        if self.unmoved is not None and not self.unmoved(old):
            raise Problem(
                412, "saga-has-moved", f"Saga {old.id} has moved on since you looked at it; nothing was done."
            )
        if (refusal := refuse_restart(old.definition, old.state)) is not None:
            raise not_allowed(old, refusal)
        definition, version = await find_definition(house, old.definition.name, None)
        given = new_input is not NOT_GIVEN
        value = restored_input(old, new_input) if given else old.payload(INPUT)
        check_input(schemas, definition, version, value)
        submission = Submission(
            tenant=old.tenant,
            key="",
            digest=b"",
            definition=definition,
            version=version,
            input=payload(house, value, "The input") if given else old.payloads[INPUT],
            labels=old.labels,
            timeout_seconds=await self._timeout_given(old),
            notify_url=old.notify_url,
            restarted_from=old.id,
            by=self.caller.name,
        )
        return await self._start_with_free_key(old, submission, reason)

    async def _start_with_free_key(self, old: Saga, submission: Submission, reason: str) -> Saga:
        root = old.key if old.restarted_from is None else old.key.rpartition("~")[0]
        caller, first = self.caller, 1
        while True:
            keys = [f"{root}~{n}" for n in range(first, first + RESTART_KEYS)]
            taken = await self.house.listing.taken(old.tenant, keys)
            for key in keys:
                if key in taken:
                    continue
                before, after = summary(old), {"restarted_as": key}
                audit = AuditEntry(caller.name, "restart", discreet(old, reason), before, after, caller.address)
                # No request of a submitter has this digest, so the key of a restart is nobody's to replay.
                digest = secrets.token_bytes(32)
                try:
                    saga, known = await self.house.engine.start(
                        replace(submission, key=key, digest=digest, audit=audit)
                    )
                except Problem as problem:
                    if problem.code != "idempotency-key-reused":
                        raise
                    known = True
                if not known:
                    return saga
            first += RESTART_KEYS

    async def _timeout_given(self, old: Saga) -> float | None:
        """The timeout that the submitter asked for in place of the definition's."""
        created = await self.house.listing.history(old.id, old.tenant, limit=1)
        if not created:
            return None
        data = created[0]["data"]
        seconds: float = (data["deadline_at"] - data.get("start_at", created[0]["at"])) / SECOND
        return None if seconds == old.definition.timeout_seconds else seconds

    # --- many at once ---

    async def bulk(self, action: BulkAction, wanted: Filter, limit: int, reason: str, *, dry_run: bool) -> Bulk:
        """The newest `limit` of those that match. One that its state does not allow is told, and the rest go on."""
        ids, matched = await self.house.listing.ids(wanted, limit)
        if dry_run:
            return Bulk(matched, 0, [])
        act = {"retry": self.retry, "compensate": self.compensate, "pause": self.pause}[action]
        jobs = self.house.bulk_jobs
        job = await jobs.begin(self.caller, action, as_body(wanted), limit, reason, matched)
        failed: list[dict[str, str]] = []
        gate = asyncio.Semaphore(BULK_AT_ONCE)

        async def one(saga_id: str) -> None:
            async with gate:
                try:
                    await act(saga_id, reason)
                except Problem as problem:
                    failed.append({"id": saga_id, "code": problem.code})
                except DatabaseUnavailable:
                    failed.append({"id": saga_id, "code": "database-unavailable"})  # whether it was done is not known

        await asyncio.gather(*map(one, ids))
        await jobs.end(job, len(ids) - len(failed), failed)
        return Bulk(matched, len(ids) - len(failed), failed, job)

    # --- services ---

    async def pause_service(self, name: str, reason: str) -> Service:
        """Nothing new is sent to it; what is under way ends as it will, and deadlines go on."""
        return await self.house.services.pause(name, self._about_service(name, "pause-service", reason), NO_TENANT)

    async def resume_service(self, name: str, reason: str) -> Service:
        return await self.house.services.resume(name, self._about_service(name, "resume-service", reason), NO_TENANT)

    def _about_service(self, name: str, action: str, reason: str) -> AuditEntry:
        refuse_tenants(self.caller, PAUSES)
        return AuditEntry(self.caller.name, action, reason, None, None, self.caller.address, f"service/{name}")

    # --- dead letters ---

    async def retry_letter(self, letter_id: str, reason: str) -> Saga | dict[str, Any]:
        """Tries the operation again; an event is processed or delivered again, and the letter is the answer."""
        letter = await self._open_letter(letter_id)
        if letter["saga_id"] is not None:

            def message(at: Micros, saga: Saga) -> Retry:
                return Retry(at, self.caller.actor(reason), step=saga.definition.index[letter["step"]])

            return await self._ask(letter["saga_id"], "retry", reason, message)
        if letter["operation"] == TRACKED:
            await self.house.tracker.again(letter)
        return await self._close_letter(letter, "retried", reason)

    async def discard_letter(self, letter_id: str, reason: str) -> Saga | dict[str, Any]:
        """Closes a letter and leaves its saga as it is."""
        return await self._close_letter(await self._open_letter(letter_id), "discarded", reason)

    async def _open_letter(self, letter_id: str) -> dict[str, Any]:
        letter = await self.house.letters.get(letter_id, self.caller.sees)
        if letter is None:
            raise Problem(404, "letter-not-found", f"There is no dead letter {shown(letter_id)}.")
        if letter["status"] != OPEN:
            raise _closed(letter_id, letter["status"])
        return letter

    async def _close_letter(
        self, letter: dict[str, Any], status: Literal["discarded", "retried"], reason: str
    ) -> Saga | dict[str, Any]:
        caller = self.caller
        about = {"letter": letter["id"], "step": letter["step"], "operation": letter["operation"]}
        before, after = {**about, "status": OPEN}, {**about, "status": status}
        action = "discard" if status == "discarded" else "retry"
        if letter["saga_id"] is not None:
            reason = discreet(await self.house.engine.load(letter["saga_id"], caller.sees), reason)
        entry = AuditEntry(caller.name, action, reason, before, after, caller.address)
        if not await self.house.letters.close(letter["id"], caller.sees, status, entry):
            raise _closed(letter["id"], "closed")
        if letter["saga_id"] is None:
            return {**letter, "status": status}
        return await self.house.engine.load(letter["saga_id"], caller.sees)


async def bulk_job(house: House, caller: Caller, job_id: str) -> dict[str, Any]:
    """Problem 404 where the caller sees no such job."""
    try:
        found = await house.bulk_jobs.get(uuid(job_id), caller.sees)
    except ValueError:
        found = None
    if found is None:
        raise Problem(404, "job-not-found", f"There is no bulk job {shown(job_id)}; GET /admin/api/bulk lists them.")
    return found


def _position(saga: Saga, step: str) -> int:
    position = saga.definition.index.get(step)
    if position is None:
        names = ", ".join(plan.name for plan in saga.definition.steps)
        fault = ("step", f"{shown(step)} is not a step of this saga; its steps are {names}")
        raise Problem(422, "body-invalid", "The body is not as it should be: see `errors`.", errors=[fault])
    return position


def _closed(letter_id: str, status: str) -> Problem:
    return Problem(409, "letter-closed", f"Dead letter {letter_id} is {status}; only an open one can be acted on.")
