"""The kit's tables, in the service's own database: PostgreSQL or SQLite.

Make them with `metadata.create_all(engine)`, or in an Alembic revision::

    from saga_participant import tables

    def upgrade() -> None:
        tables.upgrade(op)

and give Alembic's `target_metadata` this `metadata` beside your own. A service that only uses the barrier needs
only `saga_barrier`. Times are seconds since 1970 by the service's clock: they order retries and end retentions,
and nothing that must be right hangs on them.
"""

import time
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    event,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateIndex, CreateTable, DropTable

DAY: Final = 86_400.0

AnySession = Session | Connection | AsyncSession | AsyncConnection
"""What the service's transaction may be; a scoped session works as well."""

metadata = MetaData()

_number: Final = BigInteger().with_variant(Integer(), "sqlite")

barrier = Table(
    "saga_barrier",
    metadata,
    Column("saga_id", Text, primary_key=True),
    Column("step", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("action_answer", Text),
    Column("compensation_answer", Text),
    Column("at", Double, nullable=False),
    CheckConstraint("state IN ('done', 'undone', 'void')", name="saga_barrier_state"),
    Index("saga_barrier_at", "at"),
)

outbox = Table(
    "saga_outbox",
    metadata,
    Column("id", _number, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("target", Text, nullable=False),  # the event's id, the saga's idempotency key, the callback's address
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("sent_at", Double),
    Column("stream_id", Text),
    Column("error", Text),
    CheckConstraint("kind IN ('event', 'saga', 'callback')", name="saga_outbox_kind"),
    CheckConstraint("state IN ('waiting', 'sent', 'dead')", name="saga_outbox_state"),
    Index("saga_outbox_state_kind_id", "state", "kind", "id"),
    sqlite_autoincrement=True,
)

inbox = Table(
    "saga_inbox",
    metadata,
    Column("id", _number, primary_key=True),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("handler", Text, nullable=False),
    Column("lane", Text),  # events of one lane are handled one after another; NULL waits for nothing
    Column("event", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("at", Double, nullable=False),
    Column("error", Text),
    UniqueConstraint("source", "event_id", "handler", name="saga_inbox_once"),
    CheckConstraint("state IN ('waiting', 'done', 'dead')", name="saga_inbox_state"),
    Index("saga_inbox_state_lane_id", "state", "lane", "id"),
    Index("saga_inbox_state_id", "state", "id"),
    sqlite_autoincrement=True,
)

lease = Table(
    "saga_lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until", Double, nullable=False),
    Column("position", Text, nullable=False),  # how far the stream has been read
)


def upgrade(op: Any) -> None:
    """Makes the tables in an Alembic revision; `op` is Alembic's. Works with `--sql` too."""
    for table in metadata.sorted_tables:
        op.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            op.execute(CreateIndex(index))


def downgrade(op: Any) -> None:
    for table in reversed(metadata.sorted_tables):
        op.execute(DropTable(table))


def immediate(engine: Engine | AsyncEngine) -> None:
    """Makes every transaction of a SQLite engine begin with BEGIN IMMEDIATE. Other databases are left alone.

    sqlite3 by itself begins a transaction only before the first write, and a deferred one: what was read before may
    be old by then, and two that read first and write later cannot both go on ('database is locked', at once and
    without waiting). IMMEDIATE takes the one write lock first, and waits for it as long as the driver's `timeout`.
    Call it before the engine is used; a second time changes nothing. It is SQLAlchemy's own recipe for pysqlite
    and aiosqlite ("Serializable isolation / Savepoints / Transactional DDL").
    """
    engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if engine.dialect.name == "sqlite" and not event.contains(engine, "begin", _begin):
        event.listen(engine, "connect", _take_over)
        event.listen(engine, "begin", _begin)


def _take_over(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver does not begin by itself any more


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def insert_once(db: Session | Connection, table: Table, row: dict[str, Any]) -> bool:
    """Inserts the row unless it collides with one that is there; whether it did.

    On PostgreSQL it waits for a transaction that has written such a row and is not over.
    """
    return changed(db, _insert(table, _dialect(db)), row) == 1


def insert_missing(db: Session | Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Inserts those of the rows that collide with none that is there, in their order."""
    if rows:
        db.execute(_insert(table, _dialect(db)), rows)


@cache  # building it anew each time would cost more than its execution
def _insert(table: Table, dialect: str) -> Any:
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    raise NotImplementedError(f"the kit knows PostgreSQL and SQLite, not {dialect}")


def _dialect(db: Session | Connection) -> str:
    return (db.get_bind() if isinstance(db, Session) else db).dialect.name


def changed(db: Session | Connection, statement: Any, parameters: dict[str, Any] | None = None) -> int:
    """How many rows an INSERT, UPDATE or DELETE has changed."""
    result: Any = db.execute(statement, parameters)
    return int(result.rowcount)


def now() -> float:
    return time.time()
