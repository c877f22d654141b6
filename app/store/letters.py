"""Dead letters: what operators read and close."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Table, func, select, text, tuple_, update

from app.errors import PayloadUnreadable
from app.store.audit import AuditEntry, record
from app.store.database import Database, to_micros, to_moment
from app.store.paging import Place
from app.store.sealing import LETTER, NOTICE, PLAIN_CODEC, Sealer
from app.store.tables import dead_letter as table
from app.store.tables import of_tenant

OPEN: Final = "open"
STATUSES: Final = (OPEN, "retried", "resolved", "discarded", "noted")


_DELIVER_AGAIN: Final = text("""
    INSERT INTO notice (id, tenant, service, type, codec, body, created_at)
    SELECT id, tenant, service, step, :codec, :body, now() FROM dead_letter WHERE id = :id""")


class Letters:
    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database, self._sealer = database, sealer

    async def page(
        self,
        tenant: str | None,
        *,
        limit: int,
        after: Place | None = None,
        statuses: Sequence[str] = (),
        saga_id: str | None = None,
    ) -> tuple[list[dict[str, Any]], Place | None]:
        """{id, saga_id, saga, step, operation, attempts, error, status, created_at}, newest first.

        Where an event cannot be read, a sentence takes its place.
        """
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
            rows = [self._shown(row) for row in (await connection.execute(statement)).mappings()]
        found = rows[:limit]
        more = len(rows) > limit
        return found, Place(found[-1]["created_at"], UUID(found[-1]["id"])) if more else None

    def _shown(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        try:
            return self._letter(row)
        except PayloadUnreadable as error:
            return self._letter({**row, "codec": PLAIN_CODEC, "event": str(error)})

    def _letter(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        if row["saga_id"] is not None:
            return _plain(row, table, but=("tenant", "closed_at", "codec", "service", "event"))
        event = self._sealer.open_json(str(row["id"]), LETTER, row["codec"], row["event"])
        return _plain({**row, "event": event}, table, but=("tenant", "closed_at", "codec"))

    async def get(self, letter_id: str, tenant: str | None) -> dict[str, Any] | None:
        """Raises PayloadUnreadable."""
        statement = select(table).where(table.c.id == letter_id, of_tenant(table, tenant))
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).mappings().first()
        return None if row is None else self._letter(row)

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
            .returning(table.c.tenant, table.c.saga_id, table.c.service, table.c.codec, table.c.event)
        )
        async with self._database.begin() as connection:
            closed = (await connection.execute(statement)).one_or_none()
            if closed is None:
                return False
            if status == "retried" and closed.service is not None:
                event = self._sealer.open_json(letter_id, LETTER, closed.codec, closed.event)
                codec, body = self._sealer.seal(letter_id, NOTICE, json.dumps(event, ensure_ascii=False).encode())
                await connection.execute(_DELIVER_AGAIN, {"id": letter_id, "codec": codec, "body": body})
            await record(connection, closed.tenant, entry, closed.saga_id)
        return True


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
