"""Payloads at rest: sealed, bound to their place; what cannot be opened is left alone, and comes back with its key."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from app.errors import PayloadUnreadable
from app.house import House, open_house
from app.saga.messages import Abandon, Actor
from app.saga.state import SagaState
from app.settings import Settings, read_payload_keys
from app.store.events import Delivery, EventLetter
from app.store.listing import Filter
from app.store.rotation import Rotated, rotate, sampled_keys
from app.store.sagas import INPUT, AuditEntry
from app.store.sealing import NONCE_BYTES, PLAIN_CODEC, SEALED_CODEC, Sealer, key_of
from tests.waiting import until

from .orders import Orders, answer, claim

K1, K2, K3 = (
    f"{name}:{base64.b64encode(bytes([number]) * 32).decode()}" for name, number in (("k1", 1), ("k2", 2), ("k3", 3))
)
MARKER = b"4111222233334444"
PAYLOAD = b'{"card": "4111222233334444"}'
EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "Placed", "data": {"card": MARKER.decode()}}


def sealer(*keys: str) -> Sealer:
    return Sealer(*read_payload_keys(" ".join(keys)))


# --- one payload ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.uuids().map(str), st.text(max_size=20))
def test_what_is_sealed_opens_as_it_was_and_says_nothing(data: bytes, saga_id: str, name: str) -> None:
    codec, sealed = sealer(K1).seal(saga_id, name, data)
    assert codec == SEALED_CODEC
    assert len(data) < 8 or data not in sealed
    assert key_of(sealed) == "k1"
    for keys in ((K1,), (K2, K1), ("plain", K1)):
        assert sealer(*keys).open(saga_id, name, codec, sealed) == data


@given(st.binary(max_size=40), st.data())
def test_what_was_changed_does_not_open(data: bytes, drawn: st.DataObject) -> None:
    ours = sealer(K1, K2)
    codec, sealed = ours.seal("saga", INPUT, data)
    position, bit = drawn.draw(st.integers(0, len(sealed) - 1)), drawn.draw(st.integers(0, 7))
    spoilt = bytearray(sealed)
    spoilt[position] ^= 1 << bit
    cut = drawn.draw(st.integers(0, len(sealed) - 1))
    other = Sealer("k1", {"k1": bytes([9]) * 32})
    for opens, owner, name, code, content in (
        (ours, "saga", INPUT, codec, bytes(spoilt)),
        (ours, "saga", INPUT, codec, sealed[:cut]),
        (ours, "saga", INPUT, codec, sealed + b"\0"),
        (ours, "other", INPUT, codec, sealed),
        (ours, "saga", "output/a", codec, sealed),
        (ours, "saga", INPUT, 7, sealed),
        (other, "saga", INPUT, codec, sealed),
        (sealer(K2), "saga", INPUT, codec, sealed),
        (sealer(), "saga", INPUT, codec, sealed),
    ):
        with pytest.raises(PayloadUnreadable) as refused:
            opens.open(owner, name, code, content)
        assert refused.value.status == 503


def test_a_key_that_is_missing_is_named_and_damage_is_called_so() -> None:
    codec, sealed = sealer(K1).seal("saga", INPUT, PAYLOAD)
    with pytest.raises(PayloadUnreadable, match="sealed with the key 'k1', which SAGA_PAYLOAD_KEYS") as missing:
        sealer(K2).open("saga", INPUT, codec, sealed)
    assert (missing.value.code, missing.value.extra) == ("payload-key-missing", {"key": "k1"})
    with pytest.raises(PayloadUnreadable, match="damaged") as damaged:
        sealer(K1).open("saga", INPUT, codec, sealed[:-1])
    assert damaged.value.code == "payload-damaged"


def test_no_two_are_sealed_alike() -> None:
    ours = sealer(K1)
    begins = {ours.seal("saga", INPUT, b"null")[1][: 3 + NONCE_BYTES] for _ in range(1000)}
    assert len(begins) == 1000


@given(st.text(max_size=50))
def test_texts_and_json_columns_are_sealed_as_well(text: str) -> None:
    written = orjson.dumps(text, option=0).decode() if text.isascii() else '"x"'
    for keys in ((K1,), ()):
        ours = sealer(*keys)
        codec, kept = ours.seal_text("event", "event", written)
        assert ours.open_text("event", "event", codec, kept) == written
        codec, column = ours.seal_json("event", "event", written)
        assert ours.open_json("event", "event", codec, orjson.loads(column)) == orjson.loads(written)
        assert codec == (SEALED_CODEC if keys else PLAIN_CODEC)


WRONG = {
    "no id": (base64.b64encode(bytes(32)).decode(), "entry 1 must be id:key"),
    "no key": ("k1:", "entry 1 must be id:key"),
    "a strange id": (f"k.1:{base64.b64encode(bytes(32)).decode()}", "entry 1 must be id:key"),
    "too short": (f"{K1} k2:c2VjcmV0", "the key of entry 2 must be 32 bytes in base64"),
    "no base64": ("k1:not-base64-but-secret!", "the key of entry 1 must be 32 bytes in base64"),
    "an id twice": (f"{K1} {K1}", "entry 2 has the id of an earlier one"),
    "plain behind": (f"{K1} plain", "entry 2 must be id:key"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_refused_without_quoting_it(case: str) -> None:
    given_, said = WRONG[case]
    with pytest.raises(ValidationError) as refused:
        Settings(payload_keys=SecretStr(given_))
    assert said in str(refused.value)
    assert not any(word.partition(":")[2] in str(refused.value) for word in given_.split() if word.partition(":")[2])


# --- in the database --------------------------------------------------------------------------------------------


@asynccontextmanager
async def house_with(settings: Settings, *keys: str, worker: bool = False) -> AsyncIterator[House]:
    given_ = SecretStr(" ".join(keys)) if keys else None
    async with open_house(settings.model_copy(update={"payload_keys": given_}), worker=worker) as house:
        yield house


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


TABLES = ("saga_payload", "notice", "event_seen", "dead_letter")


async def at_rest(connection: asyncpg.Connection) -> bytes:
    """Everything in the tables that keep payloads."""
    rows = [row for table in TABLES for row in await connection.fetch(f"SELECT * FROM {table}")]
    return b"\n".join(each if isinstance(each, bytes) else str(each).encode() for row in rows for each in row)


async def fill(house: House, name: str) -> str:
    """One of everything that is sealed; the id of a saga that has begun."""
    orders = await Orders.of(house)
    saga = await orders.insert(name, payloads={INPUT: PAYLOAD}, notify_url="http://127.0.0.1:1/")
    assert await house.sagas.write(claim(saga))
    saga = await orders.load(saga.id)
    done = answer(saga)
    assert await house.sagas.write(
        type(done)(saga, done.state, done.wake_at, done.records, {"output/reserve": PAYLOAD})
    )
    other = await orders.insert(f"{name}-other", payloads={INPUT: PAYLOAD}, notify_url="http://127.0.0.1:1/")
    transition = house.engine.step(other, Abandon(other.read_at, Actor("a test")))
    assert await house.engine.write(other, transition, {}) is not None
    text = orjson.dumps({**EVENT, "id": name}).decode()
    await house.events.accept("s", name, text)
    await house.events.deliver([Delivery("shop", "s", name, "Placed", text.encode())])
    await house.events.give_up(EventLetter(name, "order", "Placed", 1, {"code": "x", "message": "y"}, EVENT))
    return saga.id


async def test_everything_is_sealed_and_comes_back(settings: Settings, connection: asyncpg.Connection) -> None:
    async with house_with(settings, K1) as house:
        saga_id = await fill(house, "one")
        kept = await at_rest(connection)
        assert MARKER not in kept
        saga = await house.sagas.load(saga_id)
        assert saga is not None
        assert saga.payloads == {INPUT: PAYLOAD, "output/reserve": PAYLOAD}
        found = await house.sagas.by_key("", "one")
        assert found is not None
        assert found[0].payloads == saga.payloads
        listed, _ = await house.listing.sagas(Filter(""), limit=10, payloads=True)
        assert [each.payloads.get("output/reserve") for each in listed] == [None, PAYLOAD]
        notices = await house.notices.lease(10, 10)
        assert [MARKER in notice.body for notice in notices] == [True, True]
        (letter,), _ = await house.letters.page("", limit=10)
        assert letter["event"] == EVENT
        await house.sagas.put_input(saga_id, b'{"new": 1}')
        assert (await house.engine.load(saga_id)).payloads[INPUT] == b'{"new": 1}'


async def test_sealing_may_be_switched_on_and_off(settings: Settings, connection: asyncpg.Connection) -> None:
    ids = []
    for name, keys in (("plain", ()), ("sealed", (K1,)), ("off", ("plain", K1)), ("other", (K2, K1))):
        async with house_with(settings, *keys) as house:
            ids.append(await fill(house, name))
            for saga_id in ids:
                saga = await house.engine.load(saga_id)
                assert set(saga.payloads.values()) == {PAYLOAD}
            letters, _ = await house.letters.page("", limit=10)
            assert [letter["event"] for letter in letters] == [EVENT] * len(ids)
    codecs = await connection.fetch("SELECT codec, count(*) FROM saga_payload GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in codecs] == [(PLAIN_CODEC, 6), (SEALED_CODEC, 6)]
    assert await sampled_keys(connection) == {"k1", "k2"}


async def test_a_letter_that_is_delivered_again_stays_sealed(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    text = orjson.dumps(EVENT)
    async with house_with(settings, K1) as house:
        await house.events.deliver([Delivery("shop", "s", "1", "Placed", text)])
        (notice,) = await house.notices.lease(10, 10)
        await house.notices.dead(notice, {"code": "refused", "message": "no"})
        (letter,), _ = await house.letters.page("", limit=10)
        assert (letter["event"], letter["id"]) == (EVENT, notice.id)
        entry = AuditEntry("a test", "retry", None, {}, {})
        assert await house.letters.close(letter["id"], "", "retried", entry)
        (again,) = await house.notices.lease(10, 10)
        assert (again.id, orjson.loads(again.body)) == (notice.id, EVENT)
        assert MARKER not in await at_rest(connection)


async def test_events_of_the_door_are_published_again_as_they_were(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    for name, keys in (("1", ()), ("2", (K1,)), ("3", (K2,))):
        async with house_with(settings, *keys) as house:
            await house.events.accept("s", name, orjson.dumps({**EVENT, "id": name}).decode())
    await connection.execute("DELETE FROM outbox")
    async with house_with(settings, K1) as house:
        await house.events.publish_again()
    rows = await connection.fetch("SELECT payload #>> '{}' AS text FROM outbox ORDER BY id")
    assert [orjson.loads(row["text"])["id"] for row in rows] == ["1", "2"]


# --- without the key --------------------------------------------------------------------------------------------


async def test_a_saga_without_its_key_does_not_keep_others_from_being_read(settings: Settings) -> None:
    async with house_with(settings, K1) as house:
        sealed = await fill(house, "sealed")
    async with house_with(settings, K2) as house:
        readable = await fill(house, "readable")
        first, second = await asyncio.gather(
            house.sagas.load(sealed), house.sagas.load(readable), return_exceptions=True
        )
        assert isinstance(first, PayloadUnreadable)
        assert not isinstance(second, BaseException)
        with pytest.raises(PayloadUnreadable):
            await house.sagas.by_key("", "sealed")
        listed, _ = await house.listing.sagas(Filter(""), limit=10)
        assert len(listed) == 4
        with pytest.raises(PayloadUnreadable):
            await house.listing.sagas(Filter(""), limit=10, payloads=True)
        letters, _ = await house.letters.page("", limit=10)
        assert sorted(isinstance(letter["event"], str) for letter in letters) == [False, True]


async def test_the_sweep_leaves_it_alone_and_finds_it_again_with_its_key(
    settings: Settings, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings.model_copy(update={"redispatch_after": 0.2})
    async with house_with(settings, K1) as house:
        orders = await Orders.of(house)
        saga = await orders.insert("sealed")
    await connection.execute("UPDATE saga SET wake_at = now()")
    async with house_with(settings, K2, worker=True) as house:
        assert (await house.sweeper.sweep())["woken"] == 0
        assert "1 sagas are left alone" in caplog.text
        assert "k1" in caplog.text
        assert await house.sagas.due(10) == []
        assert house.attempts is not None
        await house.attempts.perform(saga.id, "reserve", "action")
        assert "is not carried out" in caplog.text
    await connection.execute("UPDATE saga SET wake_at = now()")
    async with house_with(settings, K2, K1) as house:
        assert await house.sagas.due(10) == [saga.id]
        await house.sweeper.sweep()
        assert (await house.engine.load(saga.id)).state.state is SagaState.EXECUTING


async def test_one_that_waits_for_a_place_is_passed_over(settings: Settings) -> None:
    async with house_with(settings, K1) as house:
        orders = await Orders.of(house)
        limited = type(orders.definition)(
            **{
                field: getattr(orders.definition, field)
                for field in ("name", "type", "timeout_seconds", "input_schema", "on_compensation_failure", "steps")
            },
            max_concurrent=2,
        )
        version, _ = await house.definitions.register(limited)
        orders = Orders(house, limited, version)
        sealed = [(await orders.insert(f"sealed-{n}")).id for n in range(3)]
    async with house_with(settings, K2) as house:
        orders = Orders(house, limited, version)
        readable = [(await orders.insert(f"readable-{n}")).id for n in range(3)]
        assert await house.engine.admit("order") == 2
        states = [(await house.engine.load(each)).state.state for each in readable]
        assert states == [SagaState.EXECUTING, SagaState.EXECUTING, SagaState.CREATED]
    async with house_with(settings, K1, K2) as house:
        for each in sealed:
            assert (await house.engine.load(each)).state.state is SagaState.CREATED


async def test_a_notice_without_its_key_is_put_off(settings: Settings, connection: asyncpg.Connection) -> None:
    async with house_with(settings, K1) as house:
        await fill(house, "sealed")
    async with house_with(settings, K2, worker=True) as house:
        assert house.courier is not None
        house.courier.wake()

        async def tried() -> bool:
            return await connection.fetchval("SELECT bool_and(last_error LIKE '%k1%') FROM notice")

        await until(tried)
    rows = await connection.fetch("SELECT due_at FROM notice")
    assert [row["due_at"] is not None for row in rows] == [True, True]


# --- another key ------------------------------------------------------------------------------------------------


async def used(connection: asyncpg.Connection, *keys: str, batch: int = 2) -> tuple[Rotated, dict[str | None, int]]:
    rotated = await rotate(connection, sealer(*keys), batch)
    return rotated, dict(rotated.used)


async def test_everything_comes_under_the_first_key(settings: Settings, connection: asyncpg.Connection) -> None:
    ids = []
    for name, keys in (("plain", ()), ("k1", (K1,)), ("k2", (K2,))):
        async with house_with(settings, *keys) as house:
            ids.append(await fill(house, name))
    rotated, now = await used(connection, K3, K1, K2)
    assert (rotated.resealed, now) == (21, {"k3": 21})
    assert MARKER not in await at_rest(connection)
    assert (await used(connection, K3))[0].resealed == 0
    async with house_with(settings, K3) as house:
        for saga_id in ids:
            assert set((await house.engine.load(saga_id)).payloads.values()) == {PAYLOAD}
        notices = await house.notices.lease(20, 20)
        assert [MARKER in notice.body for notice in notices] == [True] * 6
        letters, _ = await house.letters.page("", limit=10)
        assert [letter["event"] for letter in letters] == [EVENT] * 3
    rotated, now = await used(connection, "plain", K3)
    assert (rotated.resealed, now) == (21, {None: 21})
    async with house_with(settings) as house:
        assert (await house.engine.load(ids[0])).payloads[INPUT] == PAYLOAD
        letters, _ = await house.letters.page("", limit=10)
        assert [letter["event"] for letter in letters] == [EVENT] * 3


async def test_what_cannot_be_opened_is_left_and_told(settings: Settings, connection: asyncpg.Connection) -> None:
    async with house_with(settings, K1) as house:
        await fill(house, "k1")
    async with house_with(settings, K2) as house:
        await fill(house, "k2")
    await connection.execute(
        "UPDATE saga_payload SET data = overlay(data placing '\\x00' from 40 for 1) WHERE name = 'output/reserve'"
    )
    rotated, now = await used(connection, K3, K2, batch=1)
    assert now == {"k1": 7, "k2": 1, "k3": 6}
    assert set(rotated.unreadable) == {"k1", ""}
    assert "damaged" in rotated.unreadable[""]
    assert "k1" in rotated.unreadable["k1"]


async def test_what_is_written_meanwhile_is_neither_held_up_nor_overwritten(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """A worker by an older setting has a row of the batch locked, and writes it after the rotation has passed."""
    async with house_with(settings, K1) as house:
        saga_id = await fill(house, "k1")
        writer = await asyncpg.connect(settings.database_url)
        held = writer.transaction()
        await held.start()
        codec, data = sealer(K1).seal(saga_id, INPUT, b'{"new": true}')
        await writer.execute(
            "UPDATE saga_payload SET codec = $2, data = $3 WHERE saga_id = $1 AND name = 'input'", saga_id, codec, data
        )
        _, now = await used(connection, K2, K1)
        assert now == {"k2": 6, "k1": 1}
        await held.commit()
        await writer.close()
        assert (await used(connection, K2, K1))[1] == {"k2": 7}
    async with house_with(settings, K2) as house:
        assert (await house.engine.load(saga_id)).payloads[INPUT] == b'{"new": true}'
