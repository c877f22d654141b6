"""Connections to PostgreSQL.

Two kinds, for two kinds of work. The SQLAlchemy engine serves everything that people ask: lists, definitions,
repairs. The *lanes* serve the step path: each is one asyncpg connection that runs one batch at a time, so a
hundred concurrent steps cost a handful of statements (`app.store.coalesce`).

Pools and lanes belong to one event loop of one process: open them there, after any fork.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import DatabaseUnavailable
from app.saga.state import Micros

Connection: TypeAlias = asyncpg.Connection

CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 30

# A batch joins an array of ids with a table. Before the table has statistics, or with a plan made when it was
# small, the planner may read the whole table for that; on these connections it may not.
PINNED_TO_INDEXES: Final = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "jit": "off",
}
# Lists ask for labels and states that few sagas have, or nearly all. From the sixth time on PostgreSQL may take one
# plan for all of them, which is good for none. To plan again costs a millisecond.
PLANNED_FOR_WHAT_IS_ASKED: Final = {"plan_cache_mode": "force_custom_plan", "jit": "off"}
_UNREACHABLE: Final = (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, TimeoutError)
_RESTARTING: Final = (
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_moment(at: Micros) -> datetime:
    return EPOCH + timedelta(microseconds=at)


def to_micros(moment: datetime) -> Micros:
    return (moment - EPOCH) // timedelta(microseconds=1)


def plain_url(url: str) -> str:
    """The URL as asyncpg reads it, whichever driver it names."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


class Clock:
    """The database's clock between two readings of it.

    Each reading bounds the difference to our monotonic clock by what the round trip took; readings narrow the bound
    until one contradicts it (the server's clock was set, or another server has taken over) or it has grown old.
    """

    MAX_AGE_SECONDS: Final = 10
    TIGHT_SECONDS: Final = 0.1

    def __init__(self) -> None:
        self._low = self._high = self._read_at = float("-inf")

    def observe(self, sent: float, now: Micros, received: float) -> None:
        low, high = now / 1e6 - received, now / 1e6 - sent
        fresh = received - self._read_at < self.MAX_AGE_SECONDS
        if fresh and low <= self._high and high >= self._low:
            low, high = max(low, self._low), min(high, self._high)
        else:
            self._read_at = received
        self._low, self._high = low, high

    @property
    def known(self) -> bool:
        return time.monotonic() - self._read_at < self.MAX_AGE_SECONDS

    @property
    def tight(self) -> bool:
        """Whether `now` is good enough for a lease: not old, and bounded well below any grace."""
        return self.known and self._high - self._low < self.TIGHT_SECONDS

    def now(self) -> Micros:
        """Microseconds since the epoch; never ahead of the database by more than its clock drifts."""
        return round((time.monotonic() + self._low) * 1e6)


class Lane:
    """One connection for batches, reopened after a failure."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    async def run(self, work: Callable[[Connection], Awaitable[Any]]) -> Any:
        """Runs `work` alone on the connection. DatabaseUnavailable: whether it was committed is not known."""
        async with self._lock:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(
                        self._url,
                        timeout=CONNECT_SECONDS,
                        command_timeout=STATEMENT_SECONDS,
                        server_settings={"application_name": "saga-steps", **PINNED_TO_INDEXES},
                    )
                return await work(self._connection)
            except (*_UNREACHABLE, *_RESTARTING) as error:
                self.drop()
                raise DatabaseUnavailable(error) from error
            except asyncio.CancelledError:
                # The statement may still be running on the server: its connection is of no further use.
                self.drop()
                raise

    def drop(self) -> None:
        if self._connection is not None and not self._connection.is_closed():
            self._connection.terminate()
        self._connection = None


class Database:
    """Everything of one process that speaks to PostgreSQL."""

    def __init__(self, url: str, *, pool: int = 8) -> None:
        self.url = plain_url(url)
        self.clock = Clock()
        self.engine: AsyncEngine = create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            pool_size=2,
            max_overflow=max(pool - 2, 0),
            pool_pre_ping=True,
            hide_parameters=True,
            pool_timeout=CONNECT_SECONDS,
            connect_args={
                "timeout": CONNECT_SECONDS,
                "command_timeout": STATEMENT_SECONDS,
                "server_settings": {"application_name": "saga", **PLANNED_FOR_WHAT_IS_ASKED},
            },
        )
        self._lanes: list[Lane] = []

    def lane(self) -> Lane:
        lane = Lane(self.url)
        self._lanes.append(lane)
        return lane

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection outside any transaction that matters: for reading."""
        async with self._guarded(), self.engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed when the block ends well."""
        async with self._guarded(), self.engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:
            if unreachable(error):
                raise DatabaseUnavailable(error) from error
            raise

    async def now(self) -> Micros:
        """The database's time; asks it only where the last readings are too old."""
        if not self.clock.known:
            async with self.connect() as connection:
                sent = time.monotonic()
                moment = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
                self.clock.observe(sent, to_micros(moment), time.monotonic())
        return self.clock.now()

    async def close(self) -> None:
        for lane in self._lanes:
            lane.drop()
        await self.engine.dispose()


def unreachable(error: BaseException) -> bool:
    """Whether the database could not be asked, rather than that it refused what it was asked."""
    return caused_by(error, *_UNREACHABLE, *_RESTARTING)


def caused_by(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether one of these is behind the error, however often it was wrapped."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, kinds):
            return True
        cause = getattr(cause, "orig", None) or cause.__cause__
    return False
