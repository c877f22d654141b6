"""API keys: what opens the door, for how long, and what is kept of them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import orjson
import pytest

from app import keys as module
from app.errors import DatabaseUnavailable, Problem
from app.house import House
from app.keys import Keys
from app.settings import Settings
from app.store import audit
from app.store.database import Database
from tests.api.conftest import Answer, Client
from tests.waiting import until


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


async def make(api: Client, *scopes: str, **more: Any) -> dict[str, Any]:
    answer = await api.post("/admin/api/keys", {"scopes": scopes or ["read"], **more})
    assert answer.status == 201, answer.content
    return answer.json


async def opens(api: Client, key: str) -> Answer:
    return await api.get("/sagas", key=key)


class TestMaking:
    async def test_a_key_is_shown_once_and_only_its_digest_is_kept(
        self, api: Client, database: asyncpg.Connection
    ) -> None:
        answer = await api.post("/admin/api/keys", {"scopes": ["start", "read"], "note": "the shop"})
        assert answer.headers["Cache-Control"] == "no-store"
        made = answer.json
        key_id, _, secret = made["key"].partition(".")
        assert (key_id, made["note"], made["scopes"]) == (made["id"], "the shop", ["start", "read"])
        assert len(secret) >= 43
        row = await database.fetchrow("SELECT * FROM api_key")
        assert row["digest"] == hashlib.sha256(secret.encode()).digest()
        assert secret not in str(dict(row))
        listed = await api.get("/admin/api/keys")
        assert [key["id"] for key in listed.json["items"]] == [key_id]
        assert secret.encode() not in listed.content + (await api.get(f"/admin/api/keys/{key_id}")).content
        assert secret.encode() not in (await api.get("/admin/api/audit")).content
        assert (await opens(api, made["key"])).status == 200

    @pytest.mark.parametrize(
        ("body", "path"),
        [
            ({}, "scopes"),
            ({"scopes": []}, "scopes"),
            ({"scopes": ["write"]}, "scopes[0]"),
            ({"scopes": ["read"], "tenant": "a b"}, "tenant"),
            ({"scopes": ["read"], "expires_in": "soon"}, "expires_in"),
            ({"scopes": ["read"], "expires_in": 0}, "expires_in"),
            ({"scopes": ["read"], "expires_in": "99999999d"}, "expires_in"),
            ({"scopes": ["read"], "secret": "mine"}, "secret"),
        ],
    )
    async def test_a_wrong_wish_is_refused(self, api: Client, body: dict[str, Any], path: str) -> None:
        answer = await api.post("/admin/api/keys", body)
        assert (answer.status, answer.code, answer.paths) == (422, "body-invalid", [path])

    async def test_pages_of_keys(self, api: Client) -> None:
        made = [(await make(api))["id"] for _ in range(5)]
        first = (await api.get("/admin/api/keys?limit=3")).json
        second = (await api.get(f"/admin/api/keys?limit=3&cursor={first['next_cursor']}")).json
        assert [key["id"] for key in first["items"] + second["items"]] == made[::-1]
        assert second["next_cursor"] is None


class TestTheDoor:
    @pytest.mark.parametrize("change", ["", "x", ".", "\u00e4", "'; DROP TABLE api_key; --"])
    async def test_a_secret_that_is_not_quite_right_opens_nothing(self, api: Client, change: str) -> None:
        made = await make(api)
        for key in (made["key"][:-1] + (change or "_"), made["id"], f"{made['id']}.", f"{made['id'][::-1]}.x", change):
            if key != made["key"] and key:
                answer = await api.get("/sagas", key=None, Authorization=f"Bearer {key}")
                assert (answer.status, answer.code) == (401, "unauthorized"), key
                assert "Bearer" in answer.headers["WWW-Authenticate"]

    async def test_one_that_has_expired_says_so_to_who_knows_its_secret(
        self, api: Client, database: asyncpg.Connection
    ) -> None:
        made = await make(api, expires_in="90d")
        assert made["expires_at"] is not None
        await database.execute("UPDATE api_key SET expires_at = now()")
        assert "expired" in (await opens(api, made["key"])).json["detail"]
        assert "expired" not in (await opens(api, f"{made['id']}.wrong")).json["detail"]

    async def test_one_expires_while_it_is_remembered(self, api: Client, app_state: Any) -> None:
        made = await make(api, expires_in="90d")
        assert (await opens(api, made["key"])).status == 200
        known, read_at = app_state.keys._known[made["id"]]
        object.__setattr__(known, "ends_at", read_at)
        assert (await opens(api, made["key"])).status == 401

    async def test_one_that_is_revoked_opens_nothing_at_once(self, api: Client) -> None:
        made = await make(api)
        assert (await opens(api, made["key"])).status == 200
        gone = await api("DELETE", f"/admin/api/keys/{made['id']}", {"reason": "it was lost"})
        assert (gone.status, gone.json["revoked_at"] is None) == (200, False)
        answer = await opens(api, made["key"])
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert "revoked" in answer.json["detail"]
        again = await api("DELETE", f"/admin/api/keys/{made['id']}")
        assert again.json == gone.json

    async def test_in_another_process_it_ends_when_what_is_remembered_has_grown_old(
        self, api: Client, settings: Settings, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = await make(api)
        elsewhere = Keys(settings, house.api_keys)
        assert (await elsewhere.find(made["key"], None)).name == f"key:{made['id']}"
        await api("DELETE", f"/admin/api/keys/{made['id']}")
        assert (await elsewhere.find(made["key"], None)).name == f"key:{made['id']}"  # within FRESH_SECONDS
        known, read_at = elsewhere._known[made["id"]]
        elsewhere._known[made["id"]] = known, read_at - 3
        with pytest.raises(Problem, match="revoked"):
            await elsewhere.find(made["key"], None)
        await elsewhere.close()

    async def test_many_at_once_ask_the_database_once(self, settings: Settings, house: House, api: Client) -> None:
        made = await make(api)
        asked = 0
        read = house.api_keys.read

        async def counted(key_id: str) -> Any:
            nonlocal asked
            asked += 1
            return await read(key_id)

        house.api_keys.read = counted  # type: ignore[method-assign]
        keys = Keys(settings, house.api_keys)
        await asyncio.gather(*(keys.find(made["key"], None) for _ in range(50)))
        for _ in range(50):
            await keys.find(made["key"], None)
        assert asked == 1
        await keys.close()

    async def test_without_the_database_a_key_that_was_seen_goes_on_and_a_new_one_is_no_401(
        self, api: Client, settings: Settings, house: House
    ) -> None:
        made, unseen = await make(api), await make(api)
        keys = Keys(settings, house.api_keys)
        await keys.find(made["key"], None)
        house.api_keys._database = Database("postgresql://nobody@127.0.0.1:1/none")
        known, read_at = keys._known[made["id"]]
        keys._known[made["id"]] = known, read_at - 30
        assert (await keys.find(made["key"], None)).name == f"key:{made['id']}"
        with pytest.raises(DatabaseUnavailable):
            await keys.find(unseen["key"], None)
        keys._known[made["id"]] = known, read_at - 90
        with pytest.raises(DatabaseUnavailable):
            await keys.find(made["key"], None)

    async def test_ids_that_nobody_has_take_no_more_room_than_is_set(
        self, settings: Settings, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = Keys(settings, house.api_keys)
        monkeypatch.setattr(module, "REMEMBERED", 10)
        for number in range(30):
            with pytest.raises(Problem, match="not known"):
                await keys.find(f"{number:032x}.x", None)
        assert len(keys._known) == 10


async def test_when_it_was_used_is_written_beside_the_requests(api: Client) -> None:
    made = await make(api)
    assert made["last_used_at"] is None
    for _ in range(3):
        await opens(api, made["key"])

    async def told() -> bool:
        return (await api.get(f"/admin/api/keys/{made['id']}")).json["last_used_at"] is not None

    await until(told)


class TestRotation:
    async def test_both_open_the_door_until_the_overlap_is_over(
        self, api: Client, database: asyncpg.Connection
    ) -> None:
        old = await make(api, "read", "start", tenant="shop", expires_in="90d", note="the shop")
        answer = await api.post(f"/admin/api/keys/{old['id']}/rotate", {"overlap": "1h", "reason": "every quarter"})
        new = answer.json
        assert answer.status == 201
        assert [new[name] for name in ("scopes", "tenant", "note", "replaces")] == [
            ["read", "start"],
            "shop",
            "the shop",
            old["id"],
        ]
        assert new["expires_at"] > old["expires_at"]
        for key in (old["key"], new["key"]):
            assert (await opens(api, key)).status == 200
        left = await database.fetchval("SELECT expires_at - now() FROM api_key WHERE id = $1", old["id"])
        assert 3500 < left.total_seconds() <= 3600

    async def test_without_an_overlap_the_old_one_ends_at_once(self, api: Client) -> None:
        old = await make(api)
        assert (await opens(api, old["key"])).status == 200
        new = (await api.post(f"/admin/api/keys/{old['id']}/rotate", {"overlap": 0})).json
        assert [(await opens(api, key)).status for key in (old["key"], new["key"])] == [401, 200]

    async def test_an_overlap_does_not_lengthen_a_life(self, api: Client) -> None:
        old = await make(api, expires_in="1h")
        await api.post(f"/admin/api/keys/{old['id']}/rotate", {"overlap": "30d"})
        assert (await api.get(f"/admin/api/keys/{old['id']}")).json["expires_at"] == old["expires_at"]

    async def test_one_that_is_gone_is_not_rotated(self, api: Client) -> None:
        made = await make(api)
        await api("DELETE", f"/admin/api/keys/{made['id']}")
        for key_id in (made["id"], "0" * 32, "nonsense"):
            answer = await api.post(f"/admin/api/keys/{key_id}/rotate")
            assert (answer.status, answer.code) == (404, "key-not-found")


class TestAudit:
    async def lines(self, api: Client, query: str = "") -> list[dict[str, Any]]:
        return (await api.get(f"/admin/api/audit?{query}")).json["items"]

    async def test_each_change_says_who_what_why_and_from_where(self, api: Client) -> None:
        made = await make(api, reason="for the shop")
        await api.post(f"/admin/api/keys/{made['id']}/rotate", {"reason": "old"})
        await api("DELETE", f"/admin/api/keys/{made['id']}", {"reason": "lost"})
        await api.put("/services/shop", {"url": "http://127.0.0.1:9", "headers": {"X-Token": "hush"}})
        await api.put("/services/shop", {"url": "http://127.0.0.1:9", "headers": {"X-Token": "hush"}})
        await api.put("/services/shop", {"url": "http://127.0.0.1:8"})
        steps = [{"name": "a", "service": "shop", "action": "a", "compensation": "none"}]
        for _ in range(2):
            await api.put("/definitions/order", {"name": "order", "steps": steps})
        lines = await self.lines(api)
        assert {line["actor"] for line in lines} == {"key:bootstrap"}
        assert {line["address"] for line in lines} == {"127.0.0.1"}
        told = [(line["action"], line["subject"].partition("/")[0], line["reason"]) for line in lines[::-1]]
        assert told == [
            ("create-key", "key", "for the shop"),
            ("rotate-key", "key", "old"),
            ("create-key", "key", "old"),
            ("revoke-key", "key", "lost"),
            ("put-service", "service", None),
            ("put-service", "service", None),
            ("put-definition", "definition", None),
        ]
        first, second = lines[2], lines[1]
        assert (first["before"], first["after"]["headers"]) == (None, ["X-Token"])
        assert (second["before"]["url"], second["after"]["url"]) == ("http://127.0.0.1:9", "http://127.0.0.1:8")
        assert "hush" not in str(lines)
        assert (lines[0]["before"], lines[0]["after"]) == (None, {"version": 1})

    async def test_filters(self, api: Client) -> None:
        made = await make(api)
        await api("DELETE", f"/admin/api/keys/{made['id']}")
        (revoked,) = await self.lines(api, "action=revoke-key")
        assert len(await self.lines(api, f"subject=key/{made['id']}")) == 2
        assert await self.lines(api, "actor=key:nobody") == []
        at = revoked["at"]
        assert [line["action"] for line in await self.lines(api, f"created_before={at}")] == ["create-key"]
        assert await self.lines(api, f"created_after={at}") == []
        answer = await api.get("/admin/api/audit?who=me")
        assert (answer.status, answer.code) == (422, "filter-invalid")

    async def test_the_export_is_all_of_it_a_line_each(self, api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(audit, "LINES_AT_ONCE", 2)
        for _ in range(5):
            await make(api)
        answer = await api.get("/admin/api/audit?format=jsonl")
        assert answer.headers["Content-Type"].startswith("application/jsonl")
        lines = [orjson.loads(line) for line in answer.content.splitlines()]
        assert lines == await self.lines(api)
        assert len(lines) == 5

    async def test_the_history_of_a_saga_says_who_began_it(self, api: Client) -> None:
        await api.put("/services/shop", {"url": "http://127.0.0.1:9"})
        steps = [{"name": "a", "service": "shop", "action": "a", "compensation": "none"}]
        await api.put("/definitions/order", {"name": "order", "steps": steps})
        made = await make(api, "admin")
        body = {"saga": "order", "input": {}}
        saga = (await api.post("/sagas", body, Idempotency_Key="a", key=made["key"])).json
        created = (await api.get(f"/sagas/{saga['id']}/events")).json["items"][0]
        assert (created["type"], created["data"]["by"]) == ("SagaCreated", f"key:{made['id']}")
