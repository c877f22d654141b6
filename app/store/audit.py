"""The audit trail: who changed what, why, from where, and what it was before.

Written in the transaction of the change.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.saga.state import Micros
from app.store.database import Connection, Database, to_micros, to_moment
from app.store.tables import audit as table
from app.store.tables import of_tenant

LINES_AT_ONCE: Final = 500
_INSERT: Final = """
    INSERT INTO audit (at, tenant, actor, action, saga_id, reason, before, after, address)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    actor: str
    action: str
    reason: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    address: str | None = None
    """Where the request came from."""
    subject: str | None = None
    """What it was done to, where that is no saga: `key/ID`, `user/NAME`, `service/NAME`, `definition/NAME`."""


async def record(connection: AsyncConnection, tenant: str, entry: AuditEntry, saga_id: str | None = None) -> None:
    """In a transaction of what people ask for."""
    line = {
        "tenant": tenant,
        "actor": entry.actor,
        "action": entry.action,
        "saga_id": saga_id,
        "subject": entry.subject,
        "reason": entry.reason,
        "before": entry.before,
        "after": entry.after,
        "address": entry.address,
    }
    await connection.execute(insert(table).values(**line))


async def record_at(connection: Connection, at: datetime, tenant: str, saga_id: str | None, entry: AuditEntry) -> None:
    """In a transaction of the step path, with a transition of the saga."""
    before, after = orjson.dumps(entry.before).decode(), orjson.dumps(entry.after).decode()
    await connection.execute(
        _INSERT, at, tenant, entry.actor, entry.action, saga_id, entry.reason, before, after, entry.address
    )


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Every condition that is set has to hold."""

    tenant: str | None
    """None: every tenant."""
    saga_id: str | None = None
    actor: str | None = None
    action: str | None = None
    subject: str | None = None
    created_after: Micros | None = None
    created_before: Micros | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        found = [of_tenant(table, self.tenant)]
        equal = {name: getattr(self, name) for name in ("saga_id", "actor", "action", "subject")}
        found += [table.c[name] == value for name, value in equal.items() if value is not None]
        if self.created_after is not None:
            found.append(table.c.at > to_moment(self.created_after))
        if self.created_before is not None:
            found.append(table.c.at < to_moment(self.created_before))
        return found


class AuditTrail:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, wanted: AuditFilter, *, limit: int, before: int | None = None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """{at, actor, action, saga_id, subject, reason, before, after, address}, newest first, with the times in
        microseconds; and the number to go on before.
        """
        conditions = wanted.conditions()
        if before is not None:
            conditions.append(table.c.id < before)
        statement = select(table).where(*conditions).order_by(table.c.id.desc()).limit(limit + 1)
        async with self._database.connect() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        number = rows[limit - 1]["id"] if len(rows) > limit else None
        return [_line(row) for row in rows[:limit]], number

    async def lines(self, wanted: AuditFilter) -> AsyncIterator[list[dict[str, Any]]]:
        """All that match, newest first, some at a time; what is written meanwhile is not among them."""
        before: int | None = None
        while True:
            found, before = await self.page(wanted, limit=LINES_AT_ONCE, before=before)
            if found:
                yield found
            if before is None:
                return


def _line(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "at": to_micros(row["at"]),
        "actor": row["actor"],
        "action": row["action"],
        "saga_id": None if row["saga_id"] is None else str(row["saga_id"]),
        "subject": row["subject"],
        "reason": row["reason"],
        "before": row["before"],
        "after": row["after"],
        "address": row["address"],
    }
