"""`notify_url` at the door, and what operators see and do of what it could not be told."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from app.access import SCOPES, of_key
from app.settings import Settings
from tests.api.conftest import World
from tests.participant import closed_port
from tests.receiver import Receiver
from tests.waiting import until

UNKNOWN_ID = "01a20088-707d-7471-80b7-140b7fdea249"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver.serve() as receiver:
        yield receiver


@pytest.fixture
async def orders(world: World) -> World:
    await world.define({"name": "reserve"})
    return world


async def notices(world: World, query: str = "") -> list[dict[str, Any]]:
    answer = await world.api.get(f"/admin/api/notices?{query}")
    assert answer.status == 200, answer.content
    return answer.json["items"]


async def failing(world: World, url: str | None = None) -> dict[str, Any]:
    """A notice that was tried once, in vain."""
    saga = await world.ran(notify_url=url or f"http://127.0.0.1:{closed_port()}/told")
    assert world.worker.courier is not None
    world.worker.courier.wake()

    async def tried() -> bool:
        return any(notice["saga_id"] == saga["id"] for notice in await notices(world, "status=failing"))

    await until(tried)
    return next(notice for notice in await notices(world) if notice["saga_id"] == saga["id"])


async def give_up(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("UPDATE notice SET due_at = NULL WHERE last_error IS NOT NULL")
    await connection.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://user:secret@127.0.0.1/", "holds a user or a password"),
        ("http://user@127.0.0.1/", "holds a user or a password"),
        ("http://@127.0.0.1/", "holds a user or a password"),
        ("http://example.org/", "SAGA_NOTIFY_HOSTS"),
        ("http://127.0.0.1.example.org/", "SAGA_NOTIFY_HOSTS"),
        ("http://127.1/", "must write its address as 127.0.0.1"),
        ("http://2130706433/", "must write its address as 127.0.0.1"),
        ("http://[::ffff:127.0.0.1]/", "SAGA_NOTIFY_HOSTS"),
        ("http://0.0.0.0/", "never called"),
        ("http://localhost./", "SAGA_NOTIFY_HOSTS"),
        ("http://example.org#@127.0.0.1/", "SAGA_NOTIFY_HOSTS"),
        ("http://example.org?@127.0.0.1/", "SAGA_NOTIFY_HOSTS"),
        ("file://127.0.0.1/etc/hosts", "must be an http or https address"),
        ("gopher://127.0.0.1/", "must be an http or https address"),
        ("//127.0.0.1/", "must be an http or https address"),
    ],
)
async def test_an_address_that_may_not_be_told_is_refused(orders: World, url: str, said: str) -> None:
    body = {"saga": "order", "input": 1, "notify_url": url}
    answer = await orders.api.post("/sagas", body, Idempotency_Key="k")
    assert (answer.status, answer.code, answer.paths) == (422, "body-invalid", ["notify_url"])
    assert said in answer.json["errors"][0]["message"]
    assert "secret" not in answer.json["errors"][0]["message"]


@pytest.mark.parametrize("url", ["http://LOCALHOST:1/x?y=z", "https://127.0.0.1/", "http://[::1]:8080/told"])
async def test_loopback_may_be_told(orders: World, url: str) -> None:
    await orders.submit(notify_url=url)


class TestOfOthers:
    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"notify_hosts": "Shop.example.org, [::1]"}

    async def test_the_hosts_are_a_setting(self, orders: World) -> None:
        await orders.submit(notify_url="https://shop.example.org/told")
        await orders.submit(notify_url="http://[::1]/told")
        body = {"saga": "order", "input": 1, "notify_url": "http://127.0.0.1/"}
        assert (await orders.api.post("/sagas", body, Idempotency_Key="k")).status == 422


class TestTheList:
    async def test_one_that_fails_says_why_and_when_it_goes_on(self, orders: World) -> None:
        notice = await failing(orders)
        expected = {
            "id": notice["id"],
            "saga_id": notice["saga_id"],
            "type": "saga.completed",
            "url": notice["url"],
            "attempts": 1,
            "last_error": notice["last_error"],
            "next_attempt_at": notice["next_attempt_at"],
            "created_at": notice["created_at"],
            "status": "failing",
        }
        assert notice == expected
        assert "Connection refused" in notice["last_error"]
        assert notice["next_attempt_at"] > notice["created_at"]

    async def test_what_was_taken_is_gone(self, orders: World, receiver: Receiver) -> None:
        await orders.ran(notify_url=receiver.url)
        assert [notice["status"] for notice in await notices(orders)] == ["waiting"]
        orders.worker.courier.wake()

        async def gone() -> bool:
            return not await notices(orders)

        await until(gone)
        assert len(receiver.told) == 1

    async def test_it_is_filtered_and_has_pages(self, orders: World, settings: Settings) -> None:
        first = await failing(orders)
        await give_up(settings)
        second = await failing(orders)
        await orders.ran(notify_url="http://127.0.0.1:1/")
        found = await notices(orders)
        assert [notice["status"] for notice in found] == ["waiting", "failing", "given-up"]
        assert found[2]["next_attempt_at"] is None
        assert [notice["id"] for notice in await notices(orders, "status=given-up")] == [first["id"]]
        both = await notices(orders, "status=failing,given-up")
        assert [notice["id"] for notice in both] == [second["id"], first["id"]]
        paged, query = [], "limit=1"
        while True:
            answer = await orders.api.get(f"/admin/api/notices?{query}")
            paged += answer.json["items"]
            if (cursor := answer.json["next_cursor"]) is None:
                break
            assert 'rel="next"' in answer.headers["Link"]
            query = f"limit=1&cursor={cursor}"
        assert paged == found

    @pytest.mark.parametrize("query", ["status=lost", "cursor=x", "limit=0", "state=failing"])
    async def test_a_wrong_question_is_422(self, orders: World, query: str) -> None:
        answer = await orders.api.get(f"/admin/api/notices?{query}")
        assert (answer.status, answer.code) == (422, "filter-invalid")

    async def test_the_gauges_count_it(self, orders: World, settings: Settings) -> None:
        await failing(orders)
        await give_up(settings)
        await failing(orders)
        text = (await orders.api.get("/metrics", key=None)).content.decode()
        found = {line for line in text.splitlines() if line.startswith("saga_notices")}
        assert found == {
            'saga_notices{status="waiting"} 0.0',
            'saga_notices{status="failing"} 1.0',
            'saga_notices{status="given-up"} 1.0',
        }


class TestWhatIsDone:
    async def test_one_that_was_given_up_is_sent_again(
        self, orders: World, receiver: Receiver, settings: Settings
    ) -> None:
        receiver.answers = [503]
        notice = await failing(orders, receiver.url)
        await give_up(settings)
        answer = await orders.api.post(f"/admin/api/notices/{notice['id']}/retry")
        again = answer.json
        assert (answer.status, again["status"], again["attempts"], again["last_error"]) == (200, "waiting", 0, None)
        orders.worker.courier.wake()
        await receiver.until_told(2)
        assert {told.id for told in receiver.told} == {notice["id"]}
        (line,) = (await orders.api.get(f"/admin/api/audit?saga_id={notice['saga_id']}")).json["items"]
        assert (line["action"], line["reason"]) == ("retry-notice", None)
        assert (line["before"]["status"], line["after"]["status"]) == ("given-up", "waiting")

    async def test_one_is_discarded_with_a_reason(self, orders: World) -> None:
        notice = await failing(orders)
        path = f"/admin/api/notices/{notice['id']}/discard"
        unsaid = await orders.api.post(path)
        assert (unsaid.status, unsaid.code) == (422, "reason-missing")
        answer = await orders.api.post(path, {"reason": "they know"})
        assert (answer.status, answer.json["id"]) == (200, notice["id"])
        assert await notices(orders) == []
        (line,) = (await orders.api.get(f"/admin/api/audit?saga_id={notice['saga_id']}")).json["items"]
        assert (line["action"], line["reason"]) == ("discard-notice", "they know")

    @pytest.mark.parametrize("action", ["retry", "discard"])
    async def test_what_is_not_there_is_404(self, orders: World, action: str) -> None:
        for notice_id in (UNKNOWN_ID, "nonsense"):
            answer = await orders.api.post(f"/admin/api/notices/{notice_id}/{action}", {"reason": "a test"})
            assert (answer.status, answer.code) == (404, "notice-not-found")

    async def test_another_tenant_neither_sees_nor_touches_it(self, orders: World, settings: Settings) -> None:
        notice = await failing(orders)
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute("UPDATE notice SET tenant = 'other'")
        await connection.close()
        theirs, ours = of_key("theirs", SCOPES, "other"), of_key("ours", SCOPES, "mine")
        assert [len((await orders.worker.notices.page(who.sees, limit=9))[0]) for who in (theirs, ours)] == [1, 0]
        assert await orders.worker.notices.send_again(notice["id"], ours, "a test") is None
        assert await orders.worker.notices.discard(notice["id"], ours, "a test") is None
        assert await orders.worker.notices.discard(notice["id"], theirs, "a test") is not None
