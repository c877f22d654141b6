"""A service's own database: PostgreSQL with async sessions, PostgreSQL with plain ones, SQLite in a file."""

import contextlib
from itertools import count

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine, delete, event, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from saga_participant import Call
from saga_participant.barrier import Barrier
from saga_participant.calls import OPEN_END
from saga_participant.store import Store
from saga_participant.tables import metadata

own = MetaData()
effects = Table("effect", own, Column("id", Integer, primary_key=True), Column("saga_id", Text), Column("what", Text))

_numbers = count(1)


def call(saga_id, operation="action", *, step="reserve", generation=0, **more):
    key = f"{saga_id}/{step}" + (f"~{generation}" if generation else "")
    key += "/compensation" if operation == "compensation" else ""
    return Call(saga_id, "order", step, operation, 1, {}, {}, None, key, OPEN_END, **more)


class Service:
    """Does a call as its service would; what it did stands in `effects`, apart from the kit's tables."""

    def __init__(self, engine, *, is_async):
        self.engine, self.is_async, self.store = engine, is_async, Store(engine)

    async def perform(self, call, *, then=None):
        """The answer. `then` runs in the transaction, after the effect."""
        if self.is_async:
            async with AsyncSession(self.engine) as session, session.begin(), Barrier(session, call) as step:
                await session.run_sync(self._effect, step, then)
        else:
            step = await self.store.run(lambda session: self._plainly(session, call, then))
        return step.answer

    def _plainly(self, session, call, then):
        with Barrier(session, call) as step:
            self._effect(session, step, then)
        return step

    def _effect(self, session, step, then):
        if step.due:
            session.execute(insert(effects).values(saga_id=step.call.saga_id, what=step.call.operation))
            step.answer = {"number": next(_numbers), "done": step.done}
            if then is not None:
                then(session, step)

    async def effects(self, saga_id):
        """What took effect, in order."""
        found = select(effects.c.what).where(effects.c.saga_id == saga_id).order_by(effects.c.id)
        return await self.store.run(lambda session: list(session.execute(found).scalars()))


def engine_of(kind, url):
    if kind == "sqlite async":
        return async_sqlite_engine(url)
    return sqlite_engine(url) if kind == "sqlite" else postgres_engine(url)


def async_sqlite_engine(url):
    url = url.replace("sqlite:", "sqlite+aiosqlite:")
    engine = create_async_engine(url, connect_args={"timeout": 60}, poolclass=NullPool)
    _make_quick(engine.sync_engine)
    return engine


def sqlite_engine(url):
    engine = create_engine(url, connect_args={"timeout": 60}, poolclass=NullPool)
    _make_quick(engine)
    return engine


def _make_quick(engine):
    @event.listens_for(engine, "connect")
    def _(connection, _record):
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = OFF")
        cursor.close()


def postgres_engine(url):
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)


def make_tables(session):
    """And empties them."""
    for tables in (own, metadata):
        tables.create_all(session.connection())
        for table in tables.sorted_tables:
            session.execute(delete(table))


KINDS = ["postgres async", "postgres plain", "sqlite", "sqlite async"]


@contextlib.contextmanager
def own_database(request, kind, path):
    """The URL of a new database of the service's own; None is a file at `path`."""
    if kind.startswith("sqlite"):
        yield f"sqlite:///{path}"
        return
    with request.getfixturevalue("servers").database(template=None) as url:
        yield url


@contextlib.asynccontextmanager
async def open_service(kind, url):
    engine = engine_of(kind, url)
    service = Service(engine, is_async=kind.endswith("async"))
    await service.store.run(make_tables)
    yield service
    if isinstance(engine, AsyncEngine):
        await engine.dispose()
    else:
        engine.dispose()


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def url(request, kind, tmp_path_factory):
    with own_database(request, kind, tmp_path_factory.mktemp("service") / "service.sqlite") as url:
        yield url


@pytest.fixture
async def service(kind, url):
    async with open_service(kind, url) as service:
        yield service
