"""Dead letters, and the audit trail: what operators read and close."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Select, Table, func, select, text, tuple_, update

from app.store.audit import AuditEntry, record
from app.store.database import Database, to_micros, to_moment
from app.store.paging import Place
from app.store.tables import audit as audit_table
from app.store.tables import dead_letter as table
from app.store.tables import of_tenant

OPEN: Final = "open"
STATUSES: Final = (OPEN, "retried", "resolved", "discarded", "noted")


_DELIVER_AGAIN: Final = text("""
    INSERT INTO notice (id, tenant, service, type, body, created_at)
    SELECT id, tenant, service, step, convert_to(event::text, 'UTF8'), now() FROM dead_letter WHERE id = :id""")


class Letters:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        tenant: str | None,
        *,
        limit: int,
        after: Place | None = None,
        statuses: Sequence[str] = (),
        saga_id: str | None = None,
    ) -> tuple[list[dict[str, Any]], Place | None]:
        """{id, saga_id, saga, step, operation, attempts, error, status, created_at}, newest first."""
        statement = select(table).where(of_tenant(table, tenant))
        if statuses:
            statement = statement.where(table.c.status.in_(statuses))
        if saga_id is not None:
            statement = statement.where(table.c.saga_id == saga_id)
        if after is not None:
            place = tuple_(table.c.created_at, table.c.id)
            statement = statement.where(place < tuple_(to_moment(after.at), after.id))
        statement = statement.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit + 1)
        async with self._database.connect() as connection:
            rows = [_letter(row) for row in (await connection.execute(statement)).mappings()]
        found = rows[:limit]
        more = len(rows) > limit
        return found, Place(found[-1]["created_at"], UUID(found[-1]["id"])) if more else None

    async def get(self, letter_id: str, tenant: str | None) -> dict[str, Any] | None:
        statement = select(table).where(table.c.id == letter_id, of_tenant(table, tenant))
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).mappings().first()
        return None if row is None else _letter(row)

    async def close(
        self, letter_id: str, tenant: str | None, status: Literal["discarded", "retried"], entry: AuditEntry
    ) -> bool:
        """Closes an open letter, with a line in the audit trail; False where it is not open.

        The event of a delivery that is `retried` is posted again, under its old `webhook-id` and with all its attempts.
        """
        statement = (
            update(table)
            .where(table.c.id == letter_id, of_tenant(table, tenant), table.c.status == OPEN)
            .values(status=status, closed_at=func.clock_timestamp())
            .returning(table.c.tenant, table.c.saga_id, table.c.service)
        )
        async with self._database.begin() as connection:
            closed = (await connection.execute(statement)).one_or_none()
            if closed is None:
                return False
            if status == "retried" and closed.service is not None:
                await connection.execute(_DELIVER_AGAIN, {"id": letter_id})
            await record(connection, closed.tenant, entry, closed.saga_id)
        return True

    async def audit_trail(
        self,
        tenant: str | None,
        *,
        limit: int,
        before: int | None = None,
        saga_id: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        whole: bool = False,
    ) -> tuple[list[dict[str, Any]], int | None]:
        """{at, actor, action, saga_id, reason, before, after}, newest first, and the number to go on before.

        `whole`: with `subject`, `address` and `tenant`.
        """
        columns = audit_table.c
        statement: Select[Any] = select(audit_table).where(of_tenant(audit_table, tenant))
        if before is not None:
            statement = statement.where(columns.id < before)
        if saga_id is not None:
            statement = statement.where(columns.saga_id == saga_id)
        if actor is not None:
            statement = statement.where(columns.actor == actor)
        if action is not None:
            statement = statement.where(columns.action == action)
        async with self._database.connect() as connection:
            result = await connection.execute(statement.order_by(columns.id.desc()).limit(limit + 1))
            rows = [dict(row) for row in result.mappings()]
        number = rows[limit - 1]["id"] if len(rows) > limit else None
        but = ("id",) if whole else ("id", "tenant", "subject", "address")
        return [_plain(row, audit_table, but=but) for row in rows[:limit]], number


def _letter(row: Mapping[Any, Any]) -> dict[str, Any]:
    of_an_event = () if row["saga_id"] is None else ("service", "event")
    return _plain(row, table, but=("tenant", "closed_at", *of_an_event))


def _plain(row: Mapping[Any, Any], table: Table, *, but: Sequence[str]) -> dict[str, Any]:
    """Ids as text and times in microseconds."""
    plain: dict[str, Any] = {}
    for column in table.columns:
        value = row[column.name]
        if column.name in but:
            continue
        if isinstance(value, UUID):
            value = str(value)
        elif column.name in {"at", "created_at"}:
            value = to_micros(value)
        plain[str(column.name)] = value
    return plain
