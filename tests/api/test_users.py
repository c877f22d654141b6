"""Users over the admin API: made, changed, removed, each with its line in the audit trail."""

from typing import Any

import asyncpg
import pytest

from app.settings import Settings
from tests.api.conftest import Client

PASSWORD = "correct horse battery"


async def audit(settings: Settings) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        rows = await connection.fetch(
            "SELECT actor, action, subject, tenant, reason, before::text, after::text, address FROM audit ORDER BY id"
        )
        return [tuple(row) for row in rows]
    finally:
        await connection.close()


async def make(api: Client, name: str = "ada", role: str = "viewer", **more: Any) -> Any:
    answer = await api.post("/admin/api/users", {"name": name, "role": role, **more})
    assert answer.status == 201, answer.content
    return answer.json


async def test_from_made_to_removed_with_a_trace(api: Client, settings: Settings) -> None:
    made = await make(api, role="operator", tenant="acme", password=PASSWORD, reason="new")
    assert made["password"] is None
    assert (made["name"], made["role"], made["tenant"], made["disabled"]) == ("ada", "operator", "acme", False)
    assert (made["logs_in_by"], made["created_by"], made["last_login_at"]) == (["password"], "key:bootstrap", None)
    changed = await api("PATCH", "/admin/api/users/ada", {"role": "admin", "tenant": None, "disabled": True})
    assert (changed.json["role"], changed.json["tenant"], changed.json["disabled"]) == ("admin", None, True)
    assert (await api("PATCH", "/admin/api/users/ada", {"password": "another horse battery"})).status == 200
    assert (await api("DELETE", "/admin/api/users/ada", {"reason": "gone"})).status == 204
    assert (await api.get("/admin/api/users")).json["items"] == []

    def told(role: str, tenant: str, disabled: str, more: str = "") -> str:
        return f'{{"role": "{role}", "tenant": {tenant}, "disabled": {disabled}{more}}}'

    first, second = told("operator", '"acme"', "false"), told("admin", "null", "true")
    third = told("admin", "null", "true", ', "new_password": true')
    rows = await audit(settings)
    assert [row[1:-1] for row in rows] == [
        ("create-user", "user/ada", "acme", "new", "null", first),
        ("change-user", "user/ada", "", None, first, second),
        ("change-user", "user/ada", "", None, second, third),
        ("remove-user", "user/ada", "", "gone", second, "null"),
    ]
    assert {(row[0], row[-1]) for row in rows} == {("key:bootstrap", "127.0.0.1")}


async def test_a_password_that_is_made_is_shown_once_and_kept_as_argon2id(api: Client, settings: Settings) -> None:
    made = await make(api)
    assert len(made["password"]) == 20
    listed = await api.get("/admin/api/users")
    assert made["password"] not in listed.content.decode()
    connection = await asyncpg.connect(settings.database_url)
    kept = await connection.fetchval("SELECT password_hash FROM account")
    everything = str([await connection.fetch(f"SELECT * FROM {table}") for table in ("account", "audit")])
    await connection.close()
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert made["password"] not in everything
    assert "argon2" not in str(await audit(settings))


async def test_pages_by_name(api: Client) -> None:
    for name in ("eve", "ada", "bob"):
        await make(api, name, password=PASSWORD)
    first = (await api.get("/admin/api/users?limit=2")).json
    assert [user["name"] for user in first["items"]] == ["ada", "bob"]
    second = (await api.get(f"/admin/api/users?limit=2&cursor={first['next_cursor']}")).json
    assert [user["name"] for user in second["items"]] == ["eve"]
    assert second["next_cursor"] is None
    assert (await api.get("/admin/api/users?role=admin")).code == "filter-invalid"


async def test_one_name_is_one_user(api: Client) -> None:
    await make(api, "ada")
    answer = await api.post("/admin/api/users", {"name": " ADA", "role": "admin"})
    assert (answer.status, answer.code) == (409, "user-exists")
    assert (await api("PATCH", "/admin/api/users/Ada", {"role": "admin"})).json["name"] == "ada"


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "é"}, "name"),
        ({"name": "-x"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a/../b"}, "name"),
        ({"role": "root"}, "role"),
        ({"role": None}, "role"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "acme\n"}, "tenant"),
        ({"password": "short"}, "password"),
        ({"password": "x" * 1025}, "password"),
        ({"password": "eleven char"}, "password"),
        ({"name": "a-long-enough-name", "password": "A-Long-Enough-Name"}, "password"),
        ({"disabled": True}, "disabled"),
        ({"password_hash": "x"}, "password_hash"),
    ],
)
async def test_what_no_user_can_be_is_refused(api: Client, wrong: dict[str, Any], path: str) -> None:
    answer = await api.post("/admin/api/users", {"name": "ada", "role": "viewer", **wrong})
    assert (answer.status, answer.paths) == (422, [path])


@pytest.mark.parametrize("name", ["nobody", "%00", "a%20b", "x" * 300, "%F0%9F%8D%B5"])
async def test_who_is_not_there_is_not_found(api: Client, name: str) -> None:
    for method, path, body in (("PATCH", "", {}), ("DELETE", "", None), ("POST", "/logout", None)):
        answer = await api(method, f"/admin/api/users/{name}{path}", body)
        assert (answer.status, answer.code) == (404, "user-not-found"), (method, answer.content)


async def test_passwords_of_any_script_and_length_are_taken(api: Client, app_state: Any) -> None:
    from app.people.logins import Client as From

    for number, password in enumerate(["пароль из слов", "🍵" * 12, "x" * 1024, "with spaces at the end  "]):
        await make(api, f"user{number}", password=password)
        assert await app_state.house.logins.log_in(f"user{number}", password, From())
    await make(api, "composed", password="cafe\u0301 au lait bitte")
    assert await app_state.house.logins.log_in("composed", "café au lait bitte", From())


class TestTheAdminOfTheSetting:
    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"admin_password": "the password of the admin"}

    async def test_it_is_changed_by_the_setting_alone(self, api: Client, app_state: Any) -> None:
        from app.people.logins import Client as From

        taken = await api.post("/admin/api/users", {"name": "admin", "role": "viewer"})
        assert (taken.status, taken.code) == (409, "user-of-a-setting")
        await app_state.house.logins.log_in("admin", "the password of the admin", From())
        for method, body in (("PATCH", {"disabled": True}), ("PATCH", {"role": "viewer"}), ("DELETE", None)):
            answer = await api(method, "/admin/api/users/admin", body)
            assert (answer.status, answer.code) == (409, "user-of-a-setting"), method
        assert (await api.post("/admin/api/users/admin/logout")).json == {"sessions": 1}

    async def test_it_is_the_way_back_in_where_the_account_was_shut(
        self, api: Client, app_state: Any, settings: Settings
    ) -> None:
        from app.people.logins import Client as From

        connection = await asyncpg.connect(settings.database_url)
        await connection.execute(
            "INSERT INTO account (name, role, tenant, created_by, disabled_at)"
            " VALUES ('admin', 'viewer', 'acme', 'somebody', now())"
        )
        await connection.close()
        await app_state.house.logins.log_in("admin", "the password of the admin", From())
        [user] = (await api.get("/admin/api/users")).json["items"]
        assert (user["role"], user["tenant"], user["disabled"]) == ("admin", None, False)


class TestMe:
    async def test_a_key_is_told_what_it_may(self, api: Client) -> None:
        me = (await api.get("/admin/api/me")).json
        assert (me["name"], me["role"], me["every_tenant"], me["csrf_token"]) == ("key:bootstrap", None, True, None)
        assert "administer" in me["rights"]

    async def test_a_key_has_no_password(self, api: Client) -> None:
        answer = await api.post("/admin/api/me/password", {"old": PASSWORD, "new": PASSWORD})
        assert (answer.status, answer.code) == (409, "not-a-user")
