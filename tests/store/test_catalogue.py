"""Definitions and services: kept in mind, and never for longer than promised."""

import asyncio
from typing import Any

import asyncpg
import pytest

from app.errors import DatabaseUnavailable
from app.house import House, open_house
from app.saga.service import Service
from app.settings import Settings
from app.store import definitions as definitions_module
from app.store import services as services_module

from .orders import definition


@pytest.fixture
async def other(settings: Settings) -> Any:
    async with open_house(settings) as house:
        yield house


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything had been read long ago."""
    monkeypatch.setattr(services_module, "FRESH_SECONDS", -1)
    monkeypatch.setattr(services_module, "MISSING_SECONDS", -1)
    monkeypatch.setattr(definitions_module, "LATEST_SECONDS", -1)


# --- definitions ------------------------------------------------------------------------------------------------


async def test_changed_content_is_the_next_version_and_the_same_is_none(house: House) -> None:
    register = house.definitions.register
    assert await register(definition(timeout="1s")) == (1, True)
    assert await register(definition(timeout="1s")) == (1, False)
    assert await register(definition(timeout="2s")) == (2, True)
    assert await register(definition(timeout="1s")) == (3, True)
    assert [row["version"] for row in await house.definitions.versions("order")] == [3, 2, 1]
    assert (await house.definitions.get("order", 2)).steps[0].timeout_seconds == 2


async def test_the_same_content_registered_by_many_at_once_is_one_version(house: House, other: House) -> None:
    made = definition()
    houses = (house, other)
    results = await asyncio.gather(*(houses[n % 2].definitions.register(made) for n in range(10)))
    assert {version for version, _ in results} == {1}
    assert sum(new for _, new in results) == 1


async def test_different_contents_registered_at_once_are_versions_of_their_own(house: House, other: House) -> None:
    houses = (house, other)
    made = [definition(timeout=f"{n + 1}s") for n in range(8)]
    results = await asyncio.gather(*(houses[n % 2].definitions.register(d) for n, d in enumerate(made)))
    assert sorted(version for version, _ in results) == list(range(1, 9))
    for n, (version, _) in enumerate(results):
        assert await house.definitions.get("order", version) == made[n]


async def test_a_version_that_is_not_there(house: House) -> None:
    with pytest.raises(LookupError):
        await house.definitions.get("order", 1)
    assert await house.definitions.latest("order") is None


async def test_twenty_concurrent_first_readings(house: House, other: House) -> None:
    await house.definitions.register(definition())
    await house.services.put(Service("shop", url="http://127.0.0.1:1"))
    assert set(await asyncio.gather(*(other.definitions.latest("order") for _ in range(20)))) == {1}
    found = await asyncio.gather(*(other.definitions.get("order", 1) for _ in range(20)))
    assert all(one == definition() for one in found)
    services = await asyncio.gather(*(other.services.get("shop") for _ in range(20)))
    assert {service.url for service in services if service} == {"http://127.0.0.1:1"}
    assert None not in services


async def test_a_version_once_read_is_not_read_again(house: House, database_url: str) -> None:
    await house.definitions.register(definition())
    first = await house.definitions.get("order", 1)
    await house.database.close()
    assert await house.definitions.get("order", 1) is first


async def test_a_new_version_is_seen_by_the_process_that_registered_it(house: House) -> None:
    await house.definitions.register(definition(timeout="1s"))
    assert await house.definitions.latest("order") == 1
    await house.definitions.register(definition(timeout="2s"))
    assert await house.definitions.latest("order") == 2


async def test_a_new_version_is_seen_by_others_within_a_second(house: House, other: House, stale: None) -> None:
    await house.definitions.register(definition(timeout="1s"))
    assert await other.definitions.latest("order") == 1
    await house.definitions.register(definition(timeout="2s"))
    assert await other.definitions.latest("order") == 2


async def test_names_are_of_the_newest_versions(house: House) -> None:
    for name, seconds in (("b", 1), ("a", 1), ("b", 2)):
        await house.definitions.register(definition(name, timeout=seconds))
    assert [(row["name"], row["version"]) for row in await house.definitions.names()] == [("a", 1), ("b", 2)]


# --- services ---------------------------------------------------------------------------------------------------


async def test_a_service_is_new_once(house: House) -> None:
    _, new = await house.services.put(Service("shop", url="http://127.0.0.1:1"))
    assert new
    changed, new = await house.services.put(Service("shop", url="http://127.0.0.1:2", max_in_flight=3))
    assert not new
    found = await house.services.get("shop")
    assert found == changed == Service("shop", url="http://127.0.0.1:2", max_in_flight=3)


async def test_everything_of_a_service_is_kept(house: House, other: House) -> None:
    service = Service(
        "shop", url="http://x", headers={"X-Env": "é"}, secrets=("whsec_YQ==", "whsec_Yg=="), max_in_flight=1
    )
    ledger = Service("ledger", python="./ledger.py")
    for one in (service, ledger):
        await house.services.put(one)
    assert await other.services.all() == {"shop": service, "ledger": ledger}


async def test_a_service_just_put_is_known_in_that_process(house: House) -> None:
    assert await house.services.get("shop") is None
    await house.services.put(Service("shop", url="http://x"))
    assert await house.services.get("shop") is not None


async def test_a_reading_that_began_before_a_put_does_not_hide_it(house: House, database_url: str) -> None:
    """The reading is held up, has seen the table as it was, and ends after the put."""
    await house.services.put(Service("old", url="http://x"))
    read, seen, go_on = house.services.read, asyncio.Event(), asyncio.Event()

    async def slow_read() -> Any:
        found = await read()
        seen.set()
        await go_on.wait()
        return found

    house.services.read = slow_read  # type: ignore[method-assign]
    reading = asyncio.create_task(house.services.all())
    await seen.wait()
    house.services.read = read  # type: ignore[method-assign]
    await house.services.put(Service("shop", url="http://x"))
    go_on.set()
    assert set(await reading) == {"old", "shop"}


async def test_a_service_put_by_another_process_is_found_when_it_is_missed(
    house: House, other: House, stale: None
) -> None:
    assert await other.services.get("shop") is None
    await house.services.put(Service("shop", url="http://x"))
    assert await other.services.get("shop") is not None


async def test_what_is_known_stays_in_use_while_the_database_is_away(
    house: House, other: House, stale: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.services.put(Service("shop", url="http://x"))
    assert await other.services.get("shop") is not None

    async def away() -> Any:
        raise DatabaseUnavailable(OSError("gone"))

    monkeypatch.setattr(other.services, "read", away)
    for _ in range(3):
        assert await other.services.get("shop") is not None
        await asyncio.sleep(0)


async def test_what_was_never_read_fails_while_the_database_is_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> Any:
        raise DatabaseUnavailable(OSError("gone"))

    read = house.services.read
    monkeypatch.setattr(house.services, "read", away)
    results = await asyncio.gather(*(house.services.get("shop") for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, DatabaseUnavailable) for result in results)
    monkeypatch.setattr(house.services, "read", read)
    assert await house.services.get("shop") is None


async def test_an_unknown_service_is_not_looked_for_at_every_call(house: House, database_url: str) -> None:
    counts = 0
    read = house.services.read

    async def counted() -> Any:
        nonlocal counts
        counts += 1
        return await read()

    house.services.read = counted  # type: ignore[method-assign]
    for _ in range(50):
        assert await house.services.get("nowhere") is None
    assert counts <= 3
    connection = await asyncpg.connect(database_url)
    await connection.close()
