"""Notices: what a saga's `notify_url` still has to be told, and the events that subscribed services are to be posted.

A row is written with the transition that it tells of (`app.store.sagas`), or by whoever follows the stream
(`app.store.events`), leased by moving its `due_at`, and deleted when the receiver has taken it; what dies in between is
leased again. A saga's notice without `due_at` is given up, and stays until a person has it sent again or discards it;
an event that is given up becomes a dead letter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import Delete, Update, case, delete, func, null, select, tuple_, update

from app.access import Caller
from app.errors import PayloadUnreadable
from app.store.audit import AuditEntry, record
from app.store.database import Database, to_micros, to_moment
from app.store.paging import Place
from app.store.sealing import LETTER, NOTICE, Sealer
from app.store.tables import notice as table
from app.store.tables import of_tenant

LEASE: Final = timedelta(seconds=30)

WAITING: Final = "waiting"
FAILING: Final = "failing"
GIVEN_UP: Final = "given-up"
STATUSES: Final = (WAITING, FAILING, GIVEN_UP)

STATUS: Final = case(
    (table.c.due_at.is_(None), GIVEN_UP), (table.c.last_error.is_not(None), FAILING), else_=WAITING
).label("status")

# now(), not clock_timestamp(): a volatile function keeps PostgreSQL from looking the time up in an index.
_LEASE: Final = """
    WITH first AS (
        SELECT id FROM notice WHERE attempts = 0 AND due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ), again AS (
        SELECT id FROM notice WHERE attempts > 0 AND due_at <= now() ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    UPDATE notice AS n SET attempts = n.attempts + 1, due_at = now() + $3
    FROM (SELECT id FROM first UNION ALL SELECT id FROM again) AS due WHERE n.id = due.id
    RETURNING n.id, n.saga_id, n.type, n.url, n.service, n.codec, n.body, n.attempts"""
_TOLD: Final = "DELETE FROM notice WHERE id = $1"
# Of this attempt: what a person has had sent again meanwhile begins anew.
_FAILED: Final = """
    UPDATE notice SET last_error = $3,
        due_at = CASE WHEN $5::interval IS NULL OR now() < since + $5 THEN now() + $4::interval END
    WHERE id = $1 AND attempts = $2
    RETURNING due_at IS NULL"""
# Nothing was sent, so nothing is counted.
_WAIT: Final = """
    UPDATE notice SET attempts = attempts - 1, due_at = now() + $3::interval WHERE id = $1 AND attempts = $2"""
# The letter has the id of what it stands for: given up again after a retry, it is the same letter, open again.
_DEAD: Final = """
    WITH gone AS (
        DELETE FROM notice WHERE id = $1 AND attempts = $2 RETURNING *
    ), letter AS (
        INSERT INTO dead_letter (id, tenant, saga, step, operation, attempts, error, status, created_at, service, codec,
            event)
        SELECT id, tenant, '', type, 'delivery', attempts, $3, 'open', clock_timestamp(), service, $4, $5 FROM gone
        ON CONFLICT (id) DO UPDATE SET status = 'open', attempts = excluded.attempts, error = excluded.error,
            closed_at = NULL
        RETURNING id, step, operation
    )
    INSERT INTO outbox (topic, payload)
    SELECT 'dead-letter', jsonb_build_object('id', id, 'saga_id', NULL, 'step', step, 'operation', operation)
    FROM letter"""


@dataclass(frozen=True, slots=True)
class Notice:
    id: str
    saga_id: str | None
    type: str
    url: str | None
    service: str | None
    """Either a saga's `url` is told, or a `service` is posted an event."""
    body: bytes
    attempt: int
    """From 1 on: the one that this lease is for."""
    unreadable: str | None = None
    """Why there is no `body`."""


class Notices:
    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database, self._sealer = database, sealer
        self._lane = database.lane()  # every sweep asks, so it is one statement on an open connection

    # --- for who delivers them ---

    async def lease(self, first: int, again: int) -> list[Notice]:
        """What is due, for half a minute ours: at most so many that were not tried yet, and so many that were."""
        rows = await self._lane.run(lambda connection: connection.fetch(_LEASE, first, again, LEASE))
        return [self._leased(row) for row in rows]

    def _leased(self, row: Mapping[str, Any]) -> Notice:
        notice_id, body, unreadable = str(row["id"]), b"", None
        try:
            body = self._sealer.open(notice_id, NOTICE, row["codec"], row["body"])
        except PayloadUnreadable as error:
            unreadable = str(error)
        return Notice(
            notice_id,
            None if row["saga_id"] is None else str(row["saga_id"]),
            row["type"],
            row["url"],
            row["service"],
            body,
            row["attempts"],
            unreadable,
        )

    async def told(self, notice: Notice) -> None:
        await self._lane.run(lambda connection: connection.execute(_TOLD, notice.id))

    async def wait(self, notice: Notice, seconds: float) -> None:
        """Puts it off as if it had not been leased."""
        pause = timedelta(seconds=seconds)
        await self._lane.run(lambda connection: connection.execute(_WAIT, notice.id, notice.attempt, pause))

    async def dead(self, notice: Notice, error: Mapping[str, Any]) -> None:
        """Gives up an event: a dead letter takes its place."""
        said = orjson.dumps(error).decode()
        codec, event = self._sealer.seal_json(notice.id, LETTER, notice.body.decode())
        await self._lane.run(
            lambda connection: connection.execute(_DEAD, notice.id, notice.attempt, said, codec, event)
        )

    async def failed(self, notice: Notice, error: str, delay_seconds: float, keep_seconds: float | None) -> bool:
        """Puts it off, or gives it up where it has been tried for `keep_seconds`: whether it did that."""
        delay, keep = (
            timedelta(seconds=delay_seconds),
            None if keep_seconds is None else timedelta(seconds=keep_seconds),
        )
        given_up = await self._lane.run(
            lambda connection: connection.fetchval(_FAILED, notice.id, notice.attempt, error, delay, keep)
        )
        return bool(given_up)

    # --- for people ---

    async def page(
        self, tenant: str | None, *, limit: int, after: Place | None = None, statuses: Sequence[str] = ()
    ) -> tuple[list[dict[str, Any]], Place | None]:
        """{id, saga_id, type, url, attempts, last_error, next_attempt_at, created_at, status}, newest first."""
        statement = select(*_COLUMNS).where(of_tenant(table, tenant), table.c.service.is_(None))
        if statuses:
            statement = statement.where(STATUS.in_(statuses))
        if after is not None:
            statement = statement.where(tuple_(table.c.created_at, table.c.id) < tuple_(to_moment(after.at), after.id))
        statement = statement.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit + 1)
        async with self._database.connect() as connection:
            rows = [_plain(row) for row in (await connection.execute(statement)).mappings()]
        found = rows[:limit]
        more = len(rows) > limit
        return found, Place(found[-1]["created_at"], UUID(found[-1]["id"])) if more else None

    async def send_again(self, notice_id: str, caller: Caller, reason: str | None) -> dict[str, Any] | None:
        """Makes it due as if it had never been tried; the notice as it is then, or None where there is none."""
        anew = {"attempts": 0, "since": func.now(), "due_at": func.now(), "last_error": null()}
        return await self._act(update(table).values(anew), WAITING, notice_id, caller, "retry-notice", reason)

    async def discard(self, notice_id: str, caller: Caller, reason: str) -> dict[str, Any] | None:
        """Takes it away untold; the notice as it was, or None where there is none."""
        return await self._act(delete(table), "discarded", notice_id, caller, "discard-notice", reason)

    async def _act(
        self,
        act: Update | Delete,
        status: str,
        notice_id: str,
        caller: Caller,
        action: str,
        reason: str | None,
    ) -> dict[str, Any] | None:
        """With a line in the audit trail of its saga."""
        this = (table.c.id == notice_id, of_tenant(table, caller.sees), table.c.service.is_(None))
        async with self._database.begin() as connection:
            found = (
                (await connection.execute(select(table.c.tenant, *_COLUMNS).where(*this).with_for_update()))
                .mappings()
                .first()
            )
            if found is None:
                return None
            acted = (await connection.execute(act.where(*this).returning(*_COLUMNS))).mappings().one()
            about = {"notice": notice_id, "type": found["type"]}
            before = {**about, "status": found["status"], "last_error": found["last_error"]}
            entry = AuditEntry(caller.name, action, reason, before, {**about, "status": status}, caller.address)
            await record(connection, found["tenant"], entry, found["saga_id"])
        return _plain(acted)


_COLUMNS: Final = (
    table.c.id,
    table.c.saga_id,
    table.c.type,
    table.c.url,
    table.c.attempts,
    table.c.last_error,
    table.c.due_at.label("next_attempt_at"),
    table.c.created_at,
    STATUS,
)


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Ids as text and times in microseconds."""
    due_at = row["next_attempt_at"]
    return {
        **{str(name): value for name, value in row.items()},
        "id": str(row["id"]),
        "saga_id": str(row["saga_id"]),
        "next_attempt_at": None if due_at is None else to_micros(due_at),
        "created_at": to_micros(row["created_at"]),
    }
