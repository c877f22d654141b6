"""The registry of participants."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from app.access import NO_TENANT
from app.errors import DatabaseUnavailable
from app.observability import log
from app.saga.service import Service
from app.store.audit import AuditEntry, record
from app.store.database import Database
from app.store.tables import service as table

FRESH_SECONDS: Final = 2
"""For about so long a process may call a service as it was before it was changed."""

MISSING_SECONDS: Final = 0.5
"""A service that is not known is looked for again, but not more often than this."""


class Services:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._all: dict[str, Service] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._puts = 0

    async def all(self) -> Mapping[str, Service]:
        """By name. What is old is read again in the background; only what was never read is waited for."""
        while (age := time.monotonic() - self._read_at) > FRESH_SECONDS:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
            if age < float("inf"):
                break
            await asyncio.shield(self._reading)
        return self._all

    async def get(self, name: str) -> Service | None:
        """Looks again before it says that there is none."""
        found = (await self.all()).get(name)
        if found is None and time.monotonic() - self._read_at > MISSING_SECONDS:
            self._read_at = float("-inf")
            found = (await self.all()).get(name)
        return found

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

    async def put(self, service: Service, audit: AuditEntry | None = None, tenant: str = NO_TENANT) -> bool:
        """Whether the service is new. `audit`: who does it, of that tenant; before and after are filled in here."""
        values = {
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
            await connection.execute(statement)
            if audit is not None and before != service:
                told = None if before is None else without_secrets(before)
                await record(connection, tenant, replace(audit, before=told, after=without_secrets(service)))
        self._puts += 1
        self._read_at = float("-inf")
        return before is None


def _service(row: Any) -> Service:
    return Service(
        row.name,
        row.url,
        row.python,
        row.headers,
        tuple(row.secrets),
        row.max_in_flight,
        tuple(row.subscribes),
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
    }
