"""The registry of participants, and which of them an operator has paused.

A pause is a fact of the service and not of any saga: no saga moves by it, so there is nothing to undo when it ends.
What would be sent stays scheduled. Workers drop its messages (`app.attempts`), the sweep looks after it now and then
instead of sending them again (`app.sweep`), and `resume` wakes who waits.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from app.access import NO_TENANT
from app.errors import DatabaseUnavailable, Problem
from app.instants import rfc3339
from app.observability import log
from app.saga.fields import shown
from app.saga.jsonable import text_fault
from app.saga.service import Pause, Service
from app.store.audit import AuditEntry, record
from app.store.database import Database, to_micros
from app.store.tables import service as table

FRESH_SECONDS: Final = 2
"""What a process knows of services is read again after this, beside what goes on."""

STALE_SECONDS: Final = 3
"""For so long at most a process calls a service as it was before it was changed or paused."""

MISSING_SECONDS: Final = 0.5
"""A service that is not known, or paused, is looked at again before that is believed, but not more often than this."""

WAIT_SECONDS: Final = 60
"""What waits for a paused service is looked at this often."""

# Once every process has heard of it: what is woken sooner would be dropped again.
_RESUMED: Final = f"now() + make_interval(secs => {2 * MISSING_SECONDS})"
_IS_NEXT: Final = "IN ('SCHEDULED', 'RETRYING')"
WAITS: Final = f"""EXISTS (
    SELECT FROM jsonb_array_elements(saga.document -> 'steps') AS step
    JOIN definition ON definition.name = saga.definition AND definition.version = saga.version
    JOIN service ON service.name = definition.document -> 'steps' -> (step ->> 0)::int ->> 'service'
    WHERE {{which}} AND definition.document ->> 'type' IS DISTINCT FROM 'choreography'
        AND (step #>> '{{{{1,state}}}}' {_IS_NEXT} OR step #>> '{{{{2,state}}}}' {_IS_NEXT}))"""
"""Whether something of a saga is to be sent to a service next; `which`: a condition on it."""
# Locked in the order of their ids, as by everybody who writes several.
_WAKE_SAGAS: Final = text(f"""
    WITH waiting AS (
        SELECT id FROM saga WHERE state IN ('EXECUTING', 'COMPENSATING') AND wake_at > {_RESUMED}
        AND {WAITS.format(which="service.name = :name")} ORDER BY id FOR NO KEY UPDATE)
    UPDATE saga SET wake_at = {_RESUMED} FROM waiting WHERE saga.id = waiting.id""")
_WAKE_EVENTS: Final = text(f"UPDATE notice SET due_at = {_RESUMED} WHERE service = :name AND due_at > {_RESUMED}")


class Services:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._all: dict[str, Service] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._puts = 0

    async def all(self) -> Mapping[str, Service]:
        """By name. What is old is read again in the background; only what is too old is waited for."""
        while (age := time.monotonic() - self._read_at) > FRESH_SECONDS:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
            if age < STALE_SECONDS:
                break
            read_at = self._read_at
            await asyncio.shield(self._reading)
            if self._read_at == read_at > float("-inf"):
                break  # the database is away: what is known stays in use
        return self._all

    async def get(self, name: str) -> Service | None:
        """Looks again before it says that there is none, or that it is paused."""
        found = (await self.all()).get(name)
        known = found is not None and found.pause is None
        if not known and time.monotonic() - self._read_at > MISSING_SECONDS:
            self._read_at = float("-inf")
            found = (await self.all()).get(name)
        return found

    async def paused(self) -> frozenset[str]:
        """Names of services to which nothing new is sent."""
        return frozenset(service.name for service in (await self.all()).values() if service.pause is not None)

    async def _read(self) -> None:
        puts = self._puts
        try:
            self._all = await self.read()
        except DatabaseUnavailable:
            if self._read_at == float("-inf"):
                raise
            log.warning("services could not be read again; what is known of them stays in use")
            return
        finally:
            self._reading = None
        # What was put while it read may be missing from it.
        self._read_at = time.monotonic() if puts == self._puts else float("-inf")

    async def read(self) -> dict[str, Service]:
        """As they are at this moment."""
        async with self._database.connect() as connection:
            rows = (await connection.execute(select(table).order_by(table.c.name))).all()
        return {row.name: _service(row) for row in rows}

    async def close(self) -> None:
        """Waits for a reading that is under way, so that it does not outlive the database's connections."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def put(
        self, service: Service, audit: AuditEntry | None = None, tenant: str = NO_TENANT
    ) -> tuple[Service, bool]:
        """The service with its pause, which goes on, and whether it is new.

        `audit`: who does it, of that tenant; before and after are filled in here.
        """
        values = {  # its pause is nothing of these
            "url": service.url,
            "python": service.python,
            "headers": dict(service.headers),
            "secrets": list(service.secrets),
            "max_in_flight": service.max_in_flight,
            "subscribes": list(service.subscribes),
        }
        exists = select(table).where(table.c.name == service.name).with_for_update()
        statement = (
            insert(table)
            .values(name=service.name, **values)
            .on_conflict_do_update(index_elements=[table.c.name], set_={**values, "updated_at": func.now()})
        )
        async with self._database.begin() as connection:
            row = (await connection.execute(exists)).one_or_none()
            before = None if row is None else _service(row)
            service = replace(service, pause=None if before is None else before.pause)
            await connection.execute(statement)
            if audit is not None and before != service:
                told = None if before is None else without_secrets(before)
                await record(connection, tenant, replace(audit, before=told, after=without_secrets(service)))
        self._changed()
        return service, before is None

    def _changed(self) -> None:
        self._puts += 1
        self._read_at = float("-inf")

    # --- pauses ---

    async def pause(self, name: str, audit: AuditEntry, tenant: str) -> Service:
        """Nothing new is sent to it. Problem 404, 409 `already-paused`."""
        paused = {"paused_at": func.now(), "paused_by": audit.actor, "pause_reason": audit.reason}
        return await self._set(name, paused, audit, tenant)

    async def resume(self, name: str, audit: AuditEntry, tenant: str) -> Service:
        """What has waited for it is sent. Problem 404, 409 `not-paused`."""
        return await self._set(name, dict.fromkeys(("paused_at", "paused_by", "pause_reason")), audit, tenant)

    async def _set(self, name: str, paused: Mapping[str, Any], audit: AuditEntry, tenant: str) -> Service:
        if text_fault(name):
            raise not_found(name)  # PostgreSQL cannot even be asked
        ends = paused["paused_at"] is None
        this = table.c.name == name
        async with self._database.begin() as connection:
            row = (await connection.execute(select(table).where(this).with_for_update())).one_or_none()
            if row is None:
                raise not_found(name)
            before = _service(row)
            if before.pause is not None and not ends:
                raise Problem(
                    409,
                    "already-paused",
                    f"{name} is paused already, by {before.pause.by}: resume it to send to it again.",
                )
            if before.pause is None and ends:
                raise Problem(409, "not-paused", f"{name} is not paused: what is for it is sent as it comes.")
            row = (await connection.execute(update(table).where(this).values(paused).returning(table))).one()
            after = _service(row)
            if ends:
                await connection.execute(_WAKE_SAGAS, {"name": name})
                await connection.execute(_WAKE_EVENTS, {"name": name})
            told = replace(audit, before={"paused": pause_view(before)}, after={"paused": pause_view(after)})
            await record(connection, tenant, told)
        self._changed()
        return after


def not_found(name: str) -> Problem:
    return Problem(404, "service-not-found", f"There is no service {shown(name)}.")


def _service(row: Any) -> Service:
    return Service(
        row.name,
        row.url,
        row.python,
        row.headers,
        tuple(row.secrets),
        row.max_in_flight,
        tuple(row.subscribes),
        None if row.paused_at is None else Pause(to_micros(row.paused_at), row.paused_by, row.pause_reason),
    )


def without_secrets(service: Service) -> dict[str, Any]:
    """As people are shown it: of its headers the names, of its secrets whether there are any."""
    return {
        "name": service.name,
        "url": service.url,
        "python": service.python,
        "headers": sorted(service.headers),
        "max_in_flight": service.max_in_flight,
        "signed": bool(service.secrets),
        "subscribes": list(service.subscribes),
        "paused": pause_view(service),
    }


def pause_view(service: Service) -> dict[str, Any] | None:
    if service.pause is None:
        return None
    return {"since": rfc3339(service.pause.since), "by": service.pause.by, "reason": service.pause.reason}
