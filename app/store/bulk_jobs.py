"""Bulk jobs: what somebody has done to many sagas at once, and what came of it.

A job is written before its first saga is touched, so one whose process died is seen: it has no end.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, tuple_, update

from app.access import Caller
from app.store.database import Database, to_micros, to_moment
from app.store.paging import Place
from app.store.tables import bulk_job as table
from app.store.tables import of_tenant


class BulkJobs:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(
        self, caller: Caller, action: str, wanted: Mapping[str, Any], most: int, reason: str, matched: int
    ) -> str:
        """Its id. `wanted`: the filter, as a body has it."""
        row = {
            "tenant": caller.tenant,
            "actor": caller.name,
            "action": action,
            "filter": wanted,
            "most": most,
            "reason": reason,
            "matched": matched,
        }
        async with self._database.begin() as connection:
            return str((await connection.execute(insert(table).values(row).returning(table.c.id))).scalar_one())

    async def end(self, job_id: str, done: int, failed: Sequence[Mapping[str, str]]) -> None:
        """`failed`: {id, code} of each saga that was left as it was."""
        result = {"ended_at": func.clock_timestamp(), "done": done, "failed": list(failed)}
        async with self._database.begin() as connection:
            await connection.execute(update(table).where(table.c.id == job_id).values(result))

    async def get(self, job_id: str, tenant: str | None) -> dict[str, Any] | None:
        """As in a page. None where the tenant has none of this id."""
        statement = select(table).where(table.c.id == job_id, of_tenant(table, tenant))
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return None if row is None else _job(row)

    async def page(
        self, tenant: str | None, *, limit: int, after: Place | None = None
    ) -> tuple[list[dict[str, Any]], Place | None]:
        """{id, actor, action, filter, limit, reason, begun_at, ended_at, matched, done, failed}, newest first, with
        the times in microseconds; without an end `ended_at`, `done` and `failed` are None.
        """
        statement = select(table).where(of_tenant(table, tenant))
        if after is not None:
            statement = statement.where(tuple_(table.c.begun_at, table.c.id) < tuple_(to_moment(after.at), after.id))
        statement = statement.order_by(table.c.begun_at.desc(), table.c.id.desc()).limit(limit + 1)
        async with self._database.connect() as connection:
            found = [_job(row) for row in (await connection.execute(statement)).mappings()]
        more = len(found) > limit
        del found[limit:]
        return found, Place(found[-1]["begun_at"], UUID(found[-1]["id"])) if more else None


def _job(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "actor": row["actor"],
        "action": row["action"],
        "filter": row["filter"],
        "limit": row["most"],
        "reason": row["reason"],
        "begun_at": to_micros(row["begun_at"]),
        "ended_at": None if row["ended_at"] is None else to_micros(row["ended_at"]),
        "matched": row["matched"],
        "done": row["done"],
        "failed": row["failed"],
    }
