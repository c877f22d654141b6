"""Reading and writing sagas on the real PostgreSQL: the loser is told, and a write is whole or not at all."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from app.house import House, open_house
from app.saga.messages import OutcomeKind, Record, RecordType, Woken
from app.saga.rules import wake_at
from app.saga.state import SECOND, CallState, SagaState
from app.settings import Settings
from app.store.database import to_micros, to_moment
from app.store.sagas import FORMAT, Write, early_enough, new_id
from tests.waiting import until

from .orders import Orders, answer, claim, step, write


@pytest.fixture
async def orders(house: House) -> Orders:
    return await Orders.of(house)


@pytest.fixture
async def sql(database_url: str) -> Any:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def rows_of(sql: asyncpg.Connection, saga_id: str) -> tuple[Any, ...]:
    """Everything that stands of a saga."""
    tables = ("saga", "saga_event", "saga_payload", "dead_letter")
    found = [
        await sql.fetch(
            f"SELECT * FROM {table} WHERE {'id' if table == 'saga' else 'saga_id'} = $1 ORDER BY 1, 2", saga_id
        )
        for table in tables
    ]
    return tuple(map(tuple, found))


# --- one wins, the other is told --------------------------------------------------------------------------------


async def test_of_two_claims_from_one_reading_one_is_written(orders: Orders, sql: asyncpg.Connection) -> None:
    saga = await orders.insert("k")
    sagas = orders.house.sagas
    assert await asyncio.gather(sagas.write(claim(saga)), sagas.write(claim(saga))) == [True, False]
    before = await rows_of(sql, saga.id)
    assert await sagas.write(claim(saga)) is False
    assert await rows_of(sql, saga.id) == before
    assert [row["type"] for row in before[1]] == ["SagaCreated", "SagaStarted", "StepScheduled", "StepStarted"]


async def test_a_loser_of_another_process_writes_nothing_at_all(orders: Orders, settings: Settings, sql: Any) -> None:
    saga = await orders.insert("k")
    async with open_house(settings) as other:
        theirs = await other.sagas.load(saga.id)
        assert theirs is not None
        assert await orders.house.sagas.write(claim(saga))
        before = await rows_of(sql, saga.id)
        refused = write(theirs, step(theirs, Woken(theirs.read_at + 3600 * SECOND)), {"output/reserve": b"1"})
        refused = replace(refused, dead_letters=())
        assert await other.sagas.write(refused) is False
    assert await rows_of(sql, saga.id) == before


async def test_two_branches_answered_in_one_batch_are_both_kept(house: House, sql: asyncpg.Connection) -> None:
    """The second is told that the saga has moved, judges again and writes: nothing is dropped."""
    orders = await Orders.of(house, parallel=True)
    saga = await orders.insert("k")
    for position in (0, 1):
        assert await house.sagas.write(claim(await orders.load(saga.id), position))
    running = await orders.load(saga.id)
    first, second = await asyncio.gather(
        house.sagas.write(answer(running, 0)),
        house.sagas.write(answer(running, 1)),
    )
    assert (first, second) == (True, False)
    assert await house.sagas.write(answer(await orders.load(saga.id), 1))
    done = await orders.load(saga.id)
    assert done.state.state is SagaState.COMPLETED
    assert set(done.payloads) == {"input", "output/reserve", "output/charge"}


async def test_a_write_and_its_reading_agree(orders: Orders) -> None:
    saga = await orders.insert("k")
    claimed = claim(saga)
    await orders.house.sagas.write(claimed)
    read = await orders.load(saga.id)
    assert replace(claimed.after(), read_at=0, asked_at=0) == replace(read, read_at=0, asked_at=0)
    answered = answer(read)
    await orders.house.sagas.write(answered)
    again = await orders.load(saga.id)
    assert replace(answered.after(), read_at=0, asked_at=0) == replace(again, read_at=0, asked_at=0)


async def test_a_saga_as_inserted_and_as_read_agree(orders: Orders) -> None:
    new = await orders.new("k", labels={"a": "é"}, traceparent="00-x", notify_url="http://127.0.0.1/", tenant="t")
    assert await orders.house.sagas.insert(new)
    read = await orders.load(new.id)
    assert replace(new.as_read(0), asked_at=0) == replace(read, read_at=0, asked_at=0)


# --- a key is taken once ----------------------------------------------------------------------------------------


async def test_of_many_inserts_under_one_key_one_is_written(orders: Orders, settings: Settings, sql: Any) -> None:
    async with open_house(settings) as other:
        new = [await orders.new("same") for _ in range(20)]
        houses = (orders.house, other)
        won = await asyncio.gather(*(houses[n % 2].sagas.insert(saga) for n, saga in enumerate(new)))
    assert sum(won) == 1
    assert await sql.fetchval("SELECT count(*) FROM saga") == 1
    assert await sql.fetchval("SELECT count(*) FROM saga_event") == 3
    assert await sql.fetchval("SELECT count(*) FROM saga_payload") == 1
    found = await orders.house.sagas.by_key("", "same")
    assert found is not None
    assert found[0].id == new[won.index(True)].id
    assert found[1] == b"digest"


async def test_a_key_belongs_to_its_tenant(orders: Orders) -> None:
    assert await orders.house.sagas.insert(await orders.new("k", tenant="a"))
    assert await orders.house.sagas.insert(await orders.new("k", tenant="b"))
    assert await orders.house.sagas.insert(await orders.new("k", tenant="a")) is False
    assert await orders.house.sagas.by_key("c", "k") is None


# --- one bad row ------------------------------------------------------------------------------------------------

BAD = [
    ("a number that does not fit", {"seq": 2**40}),
    ("text that is none", {"state": "\ud800"}),
    ("what the table forbids", {"state": "NOWHERE"}),
]


@pytest.mark.parametrize(("changes"), [changes for _, changes in BAD], ids=[name for name, _ in BAD])
async def test_a_row_that_cannot_be_written_does_not_fail_its_neighbours(
    orders: Orders, changes: dict[str, Any]
) -> None:
    sagas = [await orders.insert(f"k{n}") for n in range(5)]
    writes = [claim(saga) for saga in sagas]
    writes[2] = replace(writes[2], state=replace(writes[2].state, **changes))
    results = await asyncio.gather(*map(orders.house.sagas.write, writes), return_exceptions=True)
    assert isinstance(results[2], Exception)
    assert [results[n] for n in (0, 1, 3, 4)] == [True] * 4
    assert (await orders.load(sagas[2].id)).state == sagas[2].state


async def test_an_insert_that_cannot_be_written_does_not_fail_its_neighbours(orders: Orders) -> None:
    new = [await orders.new(f"k{n}") for n in range(4)]
    new[1] = replace(new[1], traceparent="\ud800")
    results = await asyncio.gather(*map(orders.house.sagas.insert, new), return_exceptions=True)
    assert isinstance(results[1], Exception)
    assert [results[n] for n in (0, 2, 3)] == [True] * 3


async def test_an_id_that_is_none_does_not_fail_its_neighbours(orders: Orders) -> None:
    saga = await orders.insert("k")
    ids = [saga.id, "no id at all", new_id(0)]
    found = await asyncio.gather(*map(orders.house.sagas.load, ids), return_exceptions=True)
    assert found[0].id == saga.id
    assert isinstance(found[1], asyncpg.DataError)
    assert found[2] is None


async def test_a_row_that_cannot_be_read_does_not_fail_its_neighbours(orders: Orders, sql: asyncpg.Connection) -> None:
    good, bad = await orders.insert("good"), await orders.insert("bad")
    await sql.execute("""UPDATE saga SET document = '{"state": "NOWHERE"}' WHERE id = $1""", bad.id)
    found = await asyncio.gather(*map(orders.house.sagas.load, (good.id, bad.id)), return_exceptions=True)
    assert found[0].id == good.id
    assert isinstance(found[1], Exception)


# --- what the law forbids ---------------------------------------------------------------------------------------

FORBIDDEN = [
    ("state = 'SLEEPING'", "known_state"),
    ("wake_at = NULL", "nothing_sleeps_for_ever"),
    ("state = 'COMPLETED', finished_at = now()", "rest_sleeps"),
    ("state = 'FAILED', wake_at = NULL", "final_is_finished"),
    ("finished_at = now()", "final_is_finished"),
    ("state = 'COMPENSATION_FAILED', wake_at = NULL", "failed_compensation_needs_a_person"),
    ("definition = 'unknown'", "fk_saga_definition"),
    ("version = 99", "fk_saga_definition"),
    ("tenant = '', idempotency_key = 'other'", "uq_saga_tenant_idempotency_key"),
]
ALLOWED = [
    "paused = true, wake_at = NULL",
    "state = 'ABANDONED', wake_at = NULL, finished_at = now()",
    "state = 'COMPENSATION_FAILED', wake_at = NULL, attention = true",
    "tenant = 'another', idempotency_key = 'other'",
]


@pytest.mark.parametrize(("change", "constraint"), FORBIDDEN)
async def test_the_table_refuses_what_the_law_forbids(
    orders: Orders, sql: asyncpg.Connection, change: str, constraint: str
) -> None:
    saga = await orders.insert("k")
    await orders.insert("other")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refusal:
        await sql.execute(f"UPDATE saga SET {change} WHERE id = $1", saga.id)
    assert constraint in str(refusal.value.constraint_name)


@pytest.mark.parametrize("change", ALLOWED)
async def test_the_table_refuses_nothing_else(orders: Orders, sql: asyncpg.Connection, change: str) -> None:
    saga = await orders.insert("k")
    await orders.insert("other")
    await sql.execute(f"UPDATE saga SET {change} WHERE id = $1", saga.id)


async def test_an_event_is_written_once(orders: Orders, sql: asyncpg.Connection) -> None:
    saga = await orders.insert("k")
    twice = replace(claim(saga), records=(Record(1, RecordType.STEP_STARTED, saga.read_at, 0, "action", 1, {}),))
    with pytest.raises(asyncpg.UniqueViolationError):
        await orders.house.sagas.write(twice)
    assert (await orders.load(saga.id)).state == saga.state


async def test_a_service_is_of_one_kind(sql: asyncpg.Connection) -> None:
    for columns, values in (("name", "'a'"), ("name, url, python", "'a', 'http://x', 'y'")):
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute(f"INSERT INTO service ({columns}) VALUES ({values})")


# --- when to look again -----------------------------------------------------------------------------------------


async def row_wake(sql: asyncpg.Connection, saga_id: str) -> int | None:
    at = await sql.fetchval("SELECT wake_at FROM saga WHERE id = $1", saga_id)
    return None if at is None else to_micros(at)


async def test_the_time_to_look_again_stays_while_it_is_early_enough(orders: Orders, sql: asyncpg.Connection) -> None:
    """Moving an indexed column would cost every transition its HOT update."""
    saga = await orders.insert("k")
    first = await row_wake(sql, saga.id)
    assert first == wake_at(saga.definition, saga.state, saga.read_at)
    claimed = claim(saga)
    assert wake_at(saga.definition, claimed.state, saga.read_at) > first
    await orders.house.sagas.write(claimed)
    assert await row_wake(sql, saga.id) == first


async def test_it_is_never_later_than_needed(orders: Orders, sql: asyncpg.Connection) -> None:
    saga = await orders.insert("k")
    await orders.house.sagas.postpone([(saga, saga.read_at + 3600 * SECOND)])
    saga = await orders.load(saga.id)
    await orders.house.sagas.write(claim(saga))
    claimed = await orders.load(saga.id)
    assert await row_wake(sql, saga.id) == wake_at(claimed.definition, claimed.state, claimed.read_at)


async def test_what_is_past_is_moved(orders: Orders) -> None:
    saga = await orders.insert("k")
    state = replace(saga.state, updated_at=saga.wake_at)
    assert early_enough(saga, state) == wake_at(saga.definition, state, state.updated_at)


async def test_at_rest_there_is_none(orders: Orders, sql: asyncpg.Connection) -> None:
    saga = await orders.insert("k")
    for position in (0, 1):
        await orders.house.sagas.write(claim(await orders.load(saga.id), position))
        await orders.house.sagas.write(answer(await orders.load(saga.id), position))
    assert await row_wake(sql, saga.id) is None
    row = await sql.fetchrow("SELECT * FROM saga WHERE id = $1", saga.id)
    assert (row["state"], row["paused"], row["attention"]) == ("COMPLETED", False, False)
    assert row["finished_at"] == row["updated_at"]


async def test_a_step_is_two_cheap_updates(house: House, sql: asyncpg.Connection) -> None:
    """HOT: neither the claim nor the answer of a step in the middle touches an index."""
    orders = await Orders.of(house)
    saga = await orders.insert("k")
    await house.sagas.write(claim(await orders.load(saga.id), 0))
    await house.sagas.write(answer(await orders.load(saga.id), 0))
    await house.sagas.write(claim(await orders.load(saga.id), 1))
    for lane in house.database._lanes:  # counts are told when a connection has nothing to do, or ends
        lane.drop()
    counts: dict[str, int] = {}
    async with asyncio.timeout(10):
        while counts.get("n_tup_upd", 0) < 3:
            await sql.execute("SELECT pg_stat_clear_snapshot()")
            counts = dict(
                await sql.fetchrow("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'saga'")
            )
            await asyncio.sleep(0.01)
    assert counts == {"n_tup_upd": 3, "n_tup_hot_upd": 3}


async def test_postponing_moves_no_saga_that_has_moved_itself(orders: Orders, sql: asyncpg.Connection) -> None:
    saga = await orders.insert("k")
    await orders.house.sagas.write(claim(saga))
    before = await row_wake(sql, saga.id)
    await orders.house.sagas.postpone([(saga, saga.read_at + 3600 * SECOND)])
    assert await row_wake(sql, saga.id) == before


async def test_due_are_those_whose_time_has_come_the_longest_waiting_first(orders: Orders, sql: Any) -> None:
    sagas = [await orders.insert(f"k{n}") for n in range(5)]
    for saga, seconds in zip(sagas, (-10, -30, 1000, -20, None), strict=True):
        if seconds is not None:
            moment = to_moment(saga.read_at + seconds * SECOND)
            await sql.execute("UPDATE saga SET wake_at = $2 WHERE id = $1", saga.id, moment)
    assert await orders.house.sagas.due(10) == [sagas[n].id for n in (1, 3, 0)]
    assert await orders.house.sagas.due(2) == [sagas[n].id for n in (1, 3)]


async def test_a_newer_format_is_left_alone(orders: Orders, sql: asyncpg.Connection) -> None:
    """A row that a newer release has written is not for this one to read, to write or to be held up by."""
    saga = await orders.insert("k")
    await sql.execute(
        "UPDATE saga SET format = $2, wake_at = now() - interval '1 hour' WHERE id = $1", saga.id, FORMAT + 1
    )
    assert await orders.house.sagas.load(saga.id) is None
    assert await orders.house.sagas.by_key("", "k") is None
    assert await orders.house.sagas.due(10) == []


# --- dead letters -----------------------------------------------------------------------------------------------


async def exhausted(orders: Orders, key: str, **more: Any) -> Write:
    saga = await orders.insert(key)
    await orders.house.sagas.write(claim(saga))
    return answer(await orders.load(saga.id), 0, OutcomeKind.NOT_SENT)


async def test_a_dead_letter_and_its_notice_are_written_with_the_transition(house: House, sql: Any) -> None:
    orders = await Orders.of(house, retries=0, on_exhausted="pause")
    given_up = await exhausted(orders, "k")
    assert await house.sagas.write(given_up)
    (letter,) = await sql.fetch("SELECT * FROM dead_letter")
    assert (letter["step"], letter["operation"], letter["status"], letter["attempts"]) == (
        "reserve",
        "action",
        "open",
        1,
    )
    (notice,) = await sql.fetch("SELECT * FROM outbox")
    assert str(letter["id"]) in notice["payload"]
    assert (await orders.load(given_up.saga.id)).state.steps[0].action.state is CallState.EXHAUSTED


async def test_a_loser_leaves_no_dead_letter(house: House, sql: asyncpg.Connection) -> None:
    orders = await Orders.of(house, retries=0, on_exhausted="pause")
    given_up = await exhausted(orders, "k")
    neighbour = await exhausted(orders, "neighbour")
    assert await house.sagas.write(answer(await orders.load(given_up.saga.id)))
    assert await asyncio.gather(house.sagas.write(given_up), house.sagas.write(neighbour)) == [False, True]
    assert [str(row["saga_id"]) for row in await sql.fetch("SELECT saga_id FROM dead_letter")] == [neighbour.saga.id]
    assert await sql.fetchval("SELECT count(*) FROM outbox") == 1


async def test_one_open_letter_for_one_operation(house: House, sql: asyncpg.Connection) -> None:
    orders = await Orders.of(house, retries=0, on_exhausted="pause")
    given_up = await exhausted(orders, "k")
    await house.sagas.write(given_up)
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute("""
            INSERT INTO dead_letter (saga_id, saga, step, operation, attempts, error, status, created_at)
            SELECT saga_id, saga, step, operation, attempts, error, status, created_at FROM dead_letter""")


# --- batches of two processes -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def all_at_once(sql: asyncpg.Connection) -> AsyncIterator[None]:
    """What is written within the block waits at the table's door, and then begins together."""
    async with sql.transaction():
        await sql.execute("LOCK TABLE saga IN EXCLUSIVE MODE")
        yield


async def begun(sql: asyncpg.Connection, count: int) -> bool:
    return count == await sql.fetchval(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'saga'::regclass"
    )


async def deadlocks(house: House, sql: asyncpg.Connection) -> int:
    for lane in house.database._lanes:  # counts are told when a connection has nothing to do, or ends
        lane.drop()
    await until(lambda: no_others(sql))
    await sql.execute("SELECT pg_stat_clear_snapshot()")
    return await sql.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


async def no_others(sql: asyncpg.Connection) -> bool:
    steps = "application_name = 'saga-steps' AND datname = current_database()"
    return await sql.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {steps}") == 0


def touch(saga: Any) -> Write:
    """A transition that changes little and may be repeated: the message is sent again."""
    transition = step(saga, Woken(saga.state.steps[0].action.due_at))
    assert transition.records
    return write(saga, transition)


async def test_batches_of_two_processes_over_the_same_sagas_do_not_lock_each_other(
    orders: Orders, settings: Settings, sql: asyncpg.Connection
) -> None:
    """Two sweeps, or a sweep and a worker, in opposite orders: a deadlock would cost each of them a second."""
    ids = [(await orders.insert(f"k{n}")).id for n in range(60)]
    async with open_house(settings) as other:
        for _ in range(3):
            ours = await asyncio.gather(*map(orders.load, ids))
            theirs = [saga for saga in await asyncio.gather(*map(other.sagas.load, ids)) if saga is not None]
            async with all_at_once(sql):
                writes = [orders.house.sagas.write(touch(saga)) for saga in ours]
                writes += [other.sagas.write(touch(saga)) for saga in reversed(theirs)]
                written = asyncio.gather(*writes)
                await until(lambda: begun(sql, 2))
            assert sum(await written) == len(ids)
    assert await deadlocks(orders.house, sql) == 0


async def test_inserts_of_two_processes_under_the_same_keys_do_not_lock_each_other(
    orders: Orders, settings: Settings, sql: asyncpg.Connection
) -> None:
    async with open_house(settings) as other:
        for round_ in range(3):
            ours = [await orders.new(f"{round_}-{n}") for n in range(60)]
            theirs = [replace(saga, id=new_id(saga.state.created_at)) for saga in reversed(ours)]
            async with all_at_once(sql):
                inserts = [orders.house.sagas.insert(saga) for saga in ours]
                inserts += [other.sagas.insert(saga) for saga in theirs]
                inserted = asyncio.gather(*inserts)
                await until(lambda: begun(sql, 2))
            assert sum(await inserted) == 60
    assert await deadlocks(orders.house, sql) == 0


def test_ids_are_of_version_7_and_sort_by_time() -> None:
    earlier, later = new_id(1_700_000_000 * SECOND), new_id(1_700_000_001 * SECOND)
    assert earlier < later
    assert uuid.UUID(earlier).version == 7
    assert uuid.UUID(earlier).variant == uuid.RFC_4122
