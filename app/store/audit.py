"""The audit trail: who changed what, why, from where, and what it was before.

Written in the transaction of the change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import Connection
from app.store.tables import audit as table

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
