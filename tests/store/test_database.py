"""Connections that break, and the database's clock."""

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import DatabaseUnavailable
from app.store import notices, outbox, sagas
from app.store.database import Clock, Connection, Database, Lane, to_micros, to_moment
from tests.conftest import Servers
from tests.waiting import until


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def one(lane: Lane) -> int:
    return await lane.run(lambda connection: connection.fetchval("SELECT 1"))


async def pid_of(lane: Lane) -> int:
    return await lane.run(lambda connection: connection.fetchval("SELECT pg_backend_pid()"))


async def until_busy(sql: Connection, pid: int) -> None:
    state = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1"
    await until(lambda: sql.fetchval(state, pid))


async def test_a_connection_that_is_lost_in_the_middle_of_a_statement(database: Database, sql: Connection) -> None:
    """Whether it was committed is not known; the next caller gets a new connection."""
    lane = database.lane()
    pid = await pid_of(lane)
    task = asyncio.create_task(lane.run(lambda connection: connection.fetchval("SELECT pg_sleep(60)")))
    await until_busy(sql, pid)
    await sql.fetchval("SELECT pg_terminate_backend($1)", pid)
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL does not answer"):
        await task
    assert await pid_of(lane) != pid


async def test_a_connection_that_was_lost_while_nobody_used_it(database: Database, sql: Connection) -> None:
    lane = database.lane()
    pid = await pid_of(lane)
    assert await sql.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    with contextlib.suppress(DatabaseUnavailable):  # it may not have been noticed yet
        await one(lane)
    assert await one(lane) == 1


async def test_what_postgresql_refuses_does_not_cost_the_connection(database: Database) -> None:
    lane = database.lane()
    pid = await pid_of(lane)
    with pytest.raises(asyncpg.UndefinedTableError):
        await lane.run(lambda connection: connection.execute("SELECT * FROM nowhere"))
    with pytest.raises(asyncpg.DataError):
        await lane.run(lambda connection: connection.fetchval("SELECT $1::int", "no number"))
    assert await pid_of(lane) == pid


async def test_a_caller_that_goes_away_does_not_leave_its_statement_to_the_next(
    database: Database, sql: Connection
) -> None:
    lane = database.lane()
    pid = await pid_of(lane)
    task = asyncio.create_task(lane.run(lambda connection: connection.fetchval("SELECT pg_sleep(60)")))
    await until_busy(sql, pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await one(lane) == 1


async def test_one_runs_at_a_time_on_a_lane(database: Database) -> None:
    lane, inside, most = database.lane(), 0, 0

    async def work(connection: Connection) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await connection.fetchval("SELECT 1")
        inside -= 1

    await asyncio.gather(*(lane.run(work) for _ in range(5)))
    assert most == 1


async def test_a_lane_does_not_read_whole_tables(database: Database) -> None:
    """Before a table has statistics the planner would like to; a batch of ids is looked up by the index."""
    query = "EXPLAIN SELECT s.seq FROM unnest($1::uuid[]) AS w(id) JOIN saga AS s ON s.id = w.id"
    plan = await database.lane().run(lambda connection: connection.fetch(query, []))
    text = "\n".join(row[0] for row in plan)
    assert "Index" in text
    assert "Seq Scan" not in text
    assert "Hash" not in text


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [(sagas._DUE, [10]), (outbox._LEASE, [10, outbox.LEASE, ["a"]]), (notices._LEASE, [10, 10, notices.LEASE])],
    ids=["due", "outbox", "notices"],
)
async def test_what_is_due_is_looked_up_by_its_time(database: Database, statement: str, arguments: list) -> None:
    """Every sweep asks: it must not walk all that sleeps, which it would if the time were a filter."""
    plan = await database.lane().run(lambda connection: connection.fetch(f"EXPLAIN {statement}", *arguments))
    text = "\n".join(row[0] for row in plan)
    assert re.search(r"Index Cond: .*(wake_at|due_at) <= now\(\)", text), text


async def test_a_server_that_is_not_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    database = Database(f"postgresql://saga@/saga?host={tmp_path_factory.mktemp('nobody')}")
    for ask in (lambda: one(database.lane()), database.now):
        with pytest.raises(DatabaseUnavailable):
            await ask()
    await database.close()


async def test_a_server_that_restarts_is_found_again(servers: Servers, database: Database) -> None:
    lane = database.lane()
    assert await one(lane) == 1
    await database.now()
    await asyncio.to_thread(servers.postgres.restart)
    with contextlib.suppress(DatabaseUnavailable):
        await one(lane)
    assert await one(lane) == 1
    async with database.connect() as connection:  # the pool looks before it hands out
        assert (await connection.exec_driver_sql("SELECT 1")).scalar_one() == 1


# --- the clock --------------------------------------------------------------------------------------------------


async def test_the_clock_is_never_ahead_of_the_database_and_little_behind(database: Database, sql: Connection) -> None:
    for _ in range(20):
        ours = await database.now()
        theirs = to_micros(await sql.fetchval("SELECT clock_timestamp()"))
        assert ours <= theirs
        assert theirs - ours < 5_000_000


async def test_the_database_is_asked_for_the_time_only_where_no_reading_is_fresh(database: Database) -> None:
    assert not database.clock.known
    await database.now()
    assert database.clock.known
    read_at = database.clock._read_at
    await database.now()
    assert database.clock._read_at == read_at
    database.clock._read_at -= Clock.MAX_AGE_SECONDS
    assert not database.clock.known
    await database.now()
    assert database.clock._read_at > read_at


@settings(deadline=None)
@given(
    start=st.integers(0, 4_000_000_000),
    trips=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30),
    step_after=st.none() | st.tuples(st.integers(0, 29), st.floats(-100, 100)),
)
def test_its_bounds_hold_the_database_s_clock_whatever_a_trip_takes(
    start: int, trips: list[tuple[float, float, float]], step_after: tuple[int, float] | None
) -> None:
    """Also when the database's clock is set: from the reading on that shows it."""
    clock, ours = Clock(), 1000.0
    offset = start - ours
    for number, (pause, there, back) in enumerate(trips):
        ours += pause
        if step_after is not None and step_after[0] == number:
            offset += step_after[1]
        sent, read, received = ours, ours + there, ours + there + back
        clock.observe(sent, round((read + offset) * 1e6), received)
        ours = received
        if step_after is None or (step_after[0] == number and abs(step_after[1]) > 10):
            assert clock._low - 1e-5 <= offset <= clock._high + 1e-5
        assert clock._high - clock._low <= there + back + 1e-5
    assert clock._low <= clock._high + 1e-5


def test_readings_narrow_the_bound() -> None:
    clock = Clock()
    for there, back in ((1.0, 0.0), (0.0, 1.0)):
        clock.observe(100.0, round((100.0 + there + 50) * 1e6), 100.0 + there + back)
    assert clock._low == pytest.approx(50, abs=1e-5)
    assert clock._high == pytest.approx(50, abs=1e-5)
    assert not clock.tight  # it is of long ago, by our clock
    clock.observe(time.monotonic(), round((time.monotonic() + 50) * 1e6), time.monotonic())
    assert clock.tight


@settings(deadline=None)
@given(st.integers(0, 4_000_000_000_000_000))
def test_moments_keep_their_microseconds(at: int) -> None:
    assert to_micros(to_moment(at)) == at


def test_every_driver_is_asked_for_the_same_server() -> None:
    urls = itertools.product(
        ("postgresql", "postgresql+asyncpg", "postgresql+psycopg"), ("saga:p%40ss@127.0.0.1:5432/x",)
    )
    assert {Database(f"{driver}://{rest}").url for driver, rest in urls} == {
        "postgresql://saga:p%40ss@127.0.0.1:5432/x"
    }
