"""Rows of notices: leased once, and each attempt speaks for itself."""

import asyncpg
import pytest

from app.access import SCOPES, of_key
from app.house import House
from app.store.notices import Notice, Notices

OPERATOR = of_key("operator", SCOPES, "")


@pytest.fixture
def notices(house: House) -> Notices:
    return house.notices


async def made(house: House, *types: str) -> None:
    connection = await asyncpg.connect(house.database.url)
    for kind in types:
        await connection.execute(
            "INSERT INTO notice (saga_id, type, url, body, created_at) VALUES (gen_random_uuid(), $1, 'u', '', now())",
            kind,
        )
    await connection.close()


async def change(house: House, statement: str) -> None:
    connection = await asyncpg.connect(house.database.url)
    await connection.execute(statement)
    await connection.close()


async def only(notices: Notices) -> dict[str, object]:
    (notice,), _ = await notices.page("", limit=10)
    return notice


async def lease(notices: Notices, first: int = 10, again: int = 10) -> list[Notice]:
    return await notices.lease(first, again)


async def test_what_is_leased_is_nobody_elses_until_the_lease_is_over(house: House, notices: Notices) -> None:
    await made(house, "a", "b")
    leased = await lease(notices)
    assert sorted(notice.type for notice in leased) == ["a", "b"]
    assert await lease(notices) == []
    await change(house, "UPDATE notice SET due_at = due_at - interval '30 s'")
    again = await lease(notices)
    assert [notice.attempt for notice in again] == [2, 2]


async def test_new_ones_and_failed_ones_have_room_of_their_own(house: House, notices: Notices) -> None:
    await made(house, "old", "old")
    await lease(notices)
    await change(house, "UPDATE notice SET due_at = now() - interval '1 day'")
    await made(house, "new", "new")
    assert [notice.type for notice in await lease(notices, first=1, again=0)] == ["new"]
    assert sorted(notice.type for notice in await lease(notices, first=2, again=1)) == ["new", "old"]


async def test_a_failure_puts_off_and_after_long_enough_gives_up(house: House, notices: Notices) -> None:
    await made(house, "a")
    (notice,) = await lease(notices)
    assert not await notices.failed(notice, "no", 60, keep_seconds=3600)
    found = await only(notices)
    assert (found["status"], found["last_error"], found["attempts"]) == ("failing", "no", 1)
    assert await lease(notices) == []
    await change(house, "UPDATE notice SET due_at = now(), since = now() - interval '1 hour'")
    (notice,) = await lease(notices)
    assert await notices.failed(notice, "never", 60, keep_seconds=3600)
    found = await only(notices)
    assert (found["status"], found["next_attempt_at"]) == ("given-up", None)
    assert await lease(notices) == []


async def test_the_failure_of_an_attempt_says_nothing_of_a_later_one(house: House, notices: Notices) -> None:
    await made(house, "a")
    (notice,) = await lease(notices)
    await notices.send_again(notice.id, OPERATOR, None)
    assert not await notices.failed(notice, "too late", 60, keep_seconds=0.001)
    assert (await only(notices))["status"] == "waiting"
