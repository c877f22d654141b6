"""Who may do what: every route of the API, for every kind of caller, as it is written down here.

A route without a row fails, and so does a row without a route.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from app.main import ROUTERS
from app.settings import Settings
from tests.api.conftest import ONCE, Answer, Client, World
from tests.participant import ACCEPTED, answers

from .conftest import Browser

COLUMNS: Final = (
    *("no key", "wrong key", "expired key", "revoked key"),
    *("start", "read", "define", "admin"),
    "admin of another tenant",
    *("viewer", "operator", "administrator"),
)
# . let in   1 401   3 403   4 404, as if it were not there
OPEN = ".... .... . ..."
READ, READ_ONE = "1111 3.3. . ...", "1111 3.3. 4 ..."
START, START_ONE = "1111 .33. . 3..", "1111 .33. 4 3.."
DEFINE = "1111 33.. . 33."
LOOK, LOOK_AT_ONE = "1111 333. . ...", "1111 333. 4 ..."
OPERATE, OPERATE_ON_ONE = "1111 333. . 3..", "1111 333. 4 3.."
PAUSE = "1111 333. 3 3.."
ADMINISTER, ADMINISTER_ONE, OF_THE_HOUSE = "1111 333. . 33.", "1111 333. 4 33.", "1111 333. 3 33."
KNOWN = "1111 .... . ..."

REFUSALS: Final = {"1": 401, "3": 403, "4": 404}

TABLE: Final = {
    "POST /sagas": START,
    "GET /sagas": READ,
    "GET /sagas/{id}": READ_ONE,
    "GET /sagas/{id}/diagram": READ_ONE,
    "GET /sagas/{id}/events": READ_ONE,
    "POST /sagas/{id}/cancel": START_ONE,
    "POST /callbacks/{token}": OPEN,
    "POST /events": START,
    "GET /definitions": READ,
    "GET /definitions/{name}": READ,
    "GET /definitions/{name}/diagram": READ,
    "PUT /definitions/{name}": DEFINE,
    "POST /definitions/validate": READ,
    "GET /services": READ,
    "GET /services/{name}": READ,
    "PUT /services/{name}": DEFINE,
    "GET /admin/api/sagas": LOOK,
    "GET /admin/api/sagas/{id}/actions": LOOK_AT_ONE,
    "POST /admin/api/sagas/{id}/retry": OPERATE_ON_ONE,
    "POST /admin/api/sagas/{id}/skip": OPERATE_ON_ONE,
    "POST /admin/api/sagas/{id}/resolve": OPERATE_ON_ONE,
    "POST /admin/api/sagas/{id}/compensate": OPERATE_ON_ONE,
    "POST /admin/api/sagas/{id}/abandon": OPERATE_ON_ONE,
    "POST /admin/api/sagas/{id}/pause": OPERATE_ON_ONE,
    "POST /admin/api/sagas/{id}/resume": OPERATE_ON_ONE,
    "POST /admin/api/sagas/{id}/extend": OPERATE_ON_ONE,
    "POST /admin/api/sagas/{id}/restart": OPERATE_ON_ONE,
    "POST /admin/api/bulk": OPERATE,
    "GET /admin/api/bulk": LOOK,
    "GET /admin/api/bulk/{id}": LOOK_AT_ONE,
    "POST /admin/api/services/{name}/pause": PAUSE,
    "POST /admin/api/services/{name}/resume": PAUSE,
    "GET /admin/api/dead-letters": LOOK,
    "POST /admin/api/dead-letters/{id}/retry": OPERATE_ON_ONE,
    "POST /admin/api/dead-letters/{id}/discard": OPERATE_ON_ONE,
    "GET /admin/api/notices": LOOK,
    "POST /admin/api/notices/{id}/retry": OPERATE_ON_ONE,
    "POST /admin/api/notices/{id}/discard": OPERATE_ON_ONE,
    "GET /admin/api/audit": LOOK,
    "GET /admin/api/keys": ADMINISTER,
    "POST /admin/api/keys": ADMINISTER,
    "GET /admin/api/keys/{id}": ADMINISTER_ONE,
    "POST /admin/api/keys/{id}/rotate": ADMINISTER_ONE,
    "DELETE /admin/api/keys/{id}": ADMINISTER_ONE,
    "GET /admin/api/users": OF_THE_HOUSE,
    "POST /admin/api/users": OF_THE_HOUSE,
    "PATCH /admin/api/users/{name}": OF_THE_HOUSE,
    "DELETE /admin/api/users/{name}": OF_THE_HOUSE,
    "POST /admin/api/users/{name}/logout": OF_THE_HOUSE,
    "GET /admin/api/me": KNOWN,
    "POST /admin/api/me/password": KNOWN,
    "GET /livez": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": OPEN,
    "GET /openapi.json": OPEN,
    "GET /docs": OPEN,
    "GET /docs/{asset}": OPEN,
}
BODY: Final = {
    "reason": "a test",
    "step": "reserve",
    "timeout": "1h",
}
"""Of what is done to one thing; fields that a route does not know are left out."""
FIELDS: Final = {
    "skip": ("reason", "step"),
    "resolve": ("reason", "step"),
    "extend": ("reason", "timeout"),
}


def routes() -> list[tuple[str, str]]:
    return [(method, route.path) for router in ROUTERS for route in router.routes for method in sorted(route.methods)]


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert sorted(TABLE) == sorted(f"{method} {path}" for method, path in routes())
    assert all(len(row.replace(" ", "")) == len(COLUMNS) for row in TABLE.values())


async def make_key(api: Client, *scopes: str, **more: Any) -> tuple[str, str]:
    """(its id, the key)."""
    answer = await api.post("/admin/api/keys", {"scopes": scopes, **more})
    assert answer.status == 201, answer.content
    return answer.json["id"], answer.json["key"]


async def test_each_caller_is_let_in_where_it_is_written(
    world: World, settings: Settings, user: Callable[..., Any], another: Callable[[], Browser]
) -> None:
    api = world.api
    await world.define({"name": "reserve", "compensation_retry": ONCE}, {"name": "charge", "retry": ONCE})
    world.participant.on("charge", answers(422))
    world.participant.on("reserve", answers(400), operation="compensation")
    saga = await world.ran(notify_url="http://127.0.0.1:9/told")
    assert saga["state"] == "COMPENSATION_FAILED"
    (letter,) = (await api.get("/admin/api/dead-letters")).json["items"]
    notice = (await api.get("/admin/api/notices")).json["items"][0]
    nobody = {"action": "pause", "filter": {"key": "of nobody"}, "reason": "a test"}
    job = await api.post("/admin/api/bulk", nobody)
    keys = {scope: await make_key(api, scope) for scope in ("start", "read", "define", "admin")}
    keys["expired key"], keys["revoked key"] = await make_key(api, "admin"), await make_key(api, "admin")
    keys["admin of another tenant"] = await make_key(api, "admin", tenant="theirs")
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("UPDATE api_key SET expires_at = now() WHERE id = $1", keys["expired key"][0])
    await connection.close()
    assert (await api("DELETE", f"/admin/api/keys/{keys['revoked key'][0]}")).status == 200
    people = {
        "viewer": await user("ada", "viewer"),
        "operator": await user("bob", "operator"),
        "administrator": await user("cleo", "admin"),
    }
    tokens = {name: await browser.csrf() for name, browser in people.items()}
    await user("dan", "viewer")
    named = {
        "/sagas/{id}": saga["id"],
        "/dead-letters/{id}": letter["id"],
        "/notices/{id}": notice["id"],
        "/keys/{id}": keys["read"][0],
        "/bulk/{id}": job.headers["Location"].rpartition("/")[2],
    }

    def filled(path: str) -> str:
        for part, value in named.items():
            path = path.replace(part, part.replace("{id}", value))
        name = {"/definitions": "order", "/services": "shop", "/admin/api/services": "shop", "/admin/api/users": "dan"}
        path = path.replace("{name}", next((value for start, value in name.items() if path.startswith(start)), ""))
        return path.replace("{token}", "x").replace("{asset}", "start.js")

    async def ask(column: str, method: str, path: str) -> Answer:
        # Whoever is let in sends nonsense, so that nothing is done; to whom it is not there, it has to make sense.
        last = path.rpartition("/")[2]
        makes_sense = column == "admin of another tenant" and "{id}" in path
        sensible = {name: BODY[name] for name in FIELDS.get(last, ("reason",))}
        body = None if method == "GET" else sensible if makes_sense else None
        data = b"{" if method != "GET" and not makes_sense else None
        if column in people:
            headers = {} if method == "GET" else {"X_CSRF_Token": tokens[column]}
            return await people[column](method, filled(path), data, **headers)
        key = {"no key": None, "wrong key": f"{keys['admin'][0]}.wrong"}.get(column, keys.get(column, ("", ""))[1])
        return await api(method, filled(path), body, data=data, key=key)

    wrong = []
    for row, columns in TABLE.items():
        method, path = row.split(" ")
        asked = [ask(column, method, path) for column in COLUMNS]
        for column, answer, wanted in zip(COLUMNS, await asyncio.gather(*asked), columns.replace(" ", ""), strict=True):
            hidden = {404} if path != "/callbacks/{token}" else set()
            let_in = answer.status < 500 and answer.status not in {401, 403} | hidden
            fits = let_in if wanted == "." else answer.status == REFUSALS[wanted]
            if not fits:
                wrong.append((row, column, wanted, answer.status, answer.content[:200]))
    assert wrong == []
    assert (await api.get(f"/sagas/{saga['id']}")).json == saga


class TestTenants:
    @pytest.fixture
    async def two(self, world: World) -> tuple[Client, Client]:
        """The API as two tenants see it."""

        def of(key: str) -> Client:
            class Tenant(Client):
                async def __call__(self, *args: Any, **more: Any) -> Answer:
                    return await super().__call__(*args, **{"key": key, **more})

            return Tenant(world.api.session, world.api.base)

        await world.define({"name": "reserve", "compensation_retry": ONCE}, {"name": "charge", "retry": ONCE})
        return (
            of((await make_key(world.api, "admin", tenant="ours"))[1]),
            of((await make_key(world.api, "admin", tenant="theirs"))[1]),
        )

    async def test_the_same_idempotency_key_of_two_tenants_is_two_sagas(self, two: tuple[Client, Client]) -> None:
        body = {"saga": "order", "input": {}}
        ids = {(await api.post("/sagas", body, Idempotency_Key="one")).json["id"] for api in two}
        assert len(ids) == 2
        for api in two:
            (found,) = (await api.get("/sagas?key=one")).json["items"]
            assert found["id"] in ids

    async def test_what_belongs_to_one_is_not_there_for_the_other(
        self, world: World, two: tuple[Client, Client]
    ) -> None:
        ours, theirs = two
        world.participant.on("charge", answers(422))
        world.participant.on("reserve", answers(400), operation="compensation")
        body = {"saga": "order", "input": {}, "labels": {"a": "b"}, "notify_url": "http://127.0.0.1:9/told"}
        saga_id = (await ours.post("/sagas", body, Idempotency_Key="one")).json["id"]
        await world.run(saga_id)
        assert (
            await ours.post(f"/admin/api/sagas/{saga_id}/resolve", {"reason": "done", "step": "charge"})
        ).status == 409
        await ours.post(f"/admin/api/sagas/{saga_id}/retry", {"reason": "again"})
        lists = (
            "/sagas",
            "/sagas?label=a:b",
            "/sagas?key=one",
            "/admin/api/sagas?saga=order",
            "/admin/api/dead-letters",
            "/admin/api/notices",
            "/admin/api/audit?action=retry",
        )
        for path in lists:
            assert (await ours.get(path)).json["items"] != [], path
            assert (await theirs.get(path)).json["items"] == [], path
        matched = {"action": "pause", "filter": {}, "reason": "x", "dry_run": True}
        assert [(await api.post("/admin/api/bulk", matched)).json["matched"] for api in two] == [1, 0]
        exported = await theirs.get("/admin/api/audit?format=jsonl")
        assert saga_id.encode() not in exported.content

    async def test_a_callback_is_opened_by_its_token_whoever_brings_it_and_shows_nothing(
        self, world: World, two: tuple[Client, Client]
    ) -> None:
        ours, theirs = two
        world.participant.on("reserve", ACCEPTED)
        saga_id = (await ours.post("/sagas", {"saga": "order", "input": {}}, Idempotency_Key="one")).json["id"]
        await world.run(saga_id)
        (asked,) = world.participant.requests("reserve", saga_id=saga_id)
        path = urlsplit(asked.headers["Saga-Callback-Url"]).path
        forged = await theirs.post(path[:-1] + ("A" if path[-1] != "A" else "B"), {"status": "succeeded"})
        assert (forged.status, forged.code) == (404, "token-unknown")
        answer = await theirs.post(path, {"status": "succeeded", "output": {"by": "them"}})
        assert (answer.status, answer.json) == (200, {"accepted": True, "repeated": False})
        assert (await theirs.get(f"/sagas/{saga_id}")).status == 404
        assert (await ours.get(f"/sagas/{saga_id}")).json["steps"][0]["state"] == "SUCCEEDED"

    async def test_a_tenants_admin_makes_keys_of_its_own_tenant_only(self, two: tuple[Client, Client]) -> None:
        ours, theirs = two
        made = await ours.post("/admin/api/keys", {"scopes": ["read"]})
        assert (made.status, made.json["tenant"]) == (201, "ours")
        refused = await ours.post("/admin/api/keys", {"scopes": ["read"], "tenant": "theirs"})
        assert (refused.status, refused.code) == (403, "tenant-bound")
        assert [key["tenant"] for key in (await theirs.get("/admin/api/keys")).json["items"]] == ["theirs"]

    async def test_metrics_asked_by_a_tenant_are_its_own(self, world: World, two: tuple[Client, Client]) -> None:
        ours, _ = two
        for api in two:
            await api.get("/sagas")
        shown = (await ours.get("/metrics")).content.decode()
        counts = [line for line in shown.splitlines() if line.startswith("saga_api_requests_total")]
        assert counts
        assert all('tenant="ours"' in line for line in counts)
        assert "saga_active" not in shown
        whole = (await world.api("GET", "/metrics", key=None)).content.decode()
        assert 'tenant="theirs"' in whole
        assert "saga_active" in whole

    async def test_the_house_sees_every_tenant(self, world: World, two: tuple[Client, Client]) -> None:
        saga = (await two[0].post("/sagas", {"saga": "order", "input": {}}, Idempotency_Key="one")).json
        assert (await world.api.get(f"/sagas/{saga['id']}")).status == 200
        reader = (await make_key(world.api, "read"))[1]
        assert (await world.api.get(f"/sagas/{saga['id']}", key=reader)).status == 404  # no tenant is one of its own
