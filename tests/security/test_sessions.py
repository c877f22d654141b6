"""Sessions: how they begin, what they may, and that they end."""

import asyncio
import hashlib
import re
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from app.settings import Settings
from tests.api.conftest import Client, World, serve
from tests.security.conftest import ADMIN_PASSWORD, PASSWORD, Browser
from tests.waiting import until

User = Callable[..., Any]


async def sql(settings: Settings, statement: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        return list(await connection.fetch(statement, *arguments))
    finally:
        await connection.close()


class TestLogin:
    async def test_the_admin_of_the_setting_comes_in_and_may_do_all(self, browser: Browser) -> None:
        answer = await browser.log_in()
        assert (answer.status, answer.headers["Location"]) == (303, "/admin/")
        me = (await browser.me()).json
        assert (me["name"], me["role"], me["tenant"], me["every_tenant"]) == ("user:admin", "admin", "", True)
        assert "administer" in me["rights"]

    async def test_a_wrong_password_an_unknown_name_and_a_disabled_user_are_told_the_same(
        self, browser: Browser, another: Callable[[], Browser], user: User, api: Client
    ) -> None:
        await user("ada")
        await api("PATCH", "/admin/api/users/ada", {"disabled": True})
        told = set()
        for name, password in (("admin", "wrong"), ("nobody", ADMIN_PASSWORD), ("ada", PASSWORD), ("\0é'", "x")):
            answer = await another().log_in(name, password)
            told.add((answer.status, answer.content.decode().split('role="alert"')[1].split("</p>")[0]))
        assert len(told) == 1
        assert told.pop()[0] == 401

    async def test_a_hash_is_compared_also_for_unknown_names(
        self, browser: Browser, app_state: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hashing = app_state.house.logins._hashing
        real, compared = hashing._hasher, []

        class Spy:
            hash = staticmethod(real.hash)

            @staticmethod
            def verify(known: str, given: bytes) -> bool:
                compared.append(known)
                return real.verify(known, given)

        monkeypatch.setattr(hashing, "_hasher", Spy)
        for name in ("admin", "nobody", "no name at all!"):
            assert (await browser.log_in(name, "wrong password")).status == 401
        assert compared == [hashing._nobodys] * 3

    async def test_the_dummy_costs_what_a_real_hash_costs(self, app_state: Any) -> None:
        hashing = app_state.house.logins._hashing
        assert not (await hashing.verify(None, "anything")).right
        parameters = hashing._nobodys.rsplit("$", 2)[0]
        assert (await hashing.hash("anything")).rsplit("$", 2)[0] == parameters
        assert parameters == "$argon2id$v=19$m=65536,t=3,p=4"

    async def test_a_hash_of_older_parameters_is_renewed(
        self, browser: Browser, user: User, app_state: Any, settings: Settings
    ) -> None:
        from argon2 import PasswordHasher

        await user("ada")
        old = PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD)
        await sql(settings, "UPDATE account SET password_hash = $1 WHERE name = 'ada'", old)
        assert (await browser.log_in("ada", PASSWORD)).status == 303
        [row] = await sql(settings, "SELECT password_hash FROM account WHERE name = 'ada'")
        assert row["password_hash"].startswith("$argon2id$v=19$m=65536,t=3,p=4$")

    async def test_a_flood_of_logins_is_sent_away_before_a_password_is_hashed(
        self, browser: Browser, app_state: Any, settings: Settings
    ) -> None:
        hashing = app_state.house.logins._hashing
        form = await browser.fill("admin", ADMIN_PASSWORD)
        hashing._placed = 18
        answer = await browser.post("/admin/login", form)
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert b"Too many people log in" in answer.content
        hashing._placed = 0
        assert await sql(settings, "SELECT * FROM login_failure") == []
        assert (await browser.post("/admin/login", form)).status == 303

    async def test_names_are_written_in_small_letters(self, browser: Browser) -> None:
        assert (await browser.log_in(" Admin ")).status == 303

    async def test_logins_and_logouts_stand_in_the_audit_trail(self, browser: Browser, settings: Settings) -> None:
        await browser.log_in()
        await browser.post("/admin/logout", {"csrf_token": await browser.csrf()})
        rows = await sql(settings, "SELECT actor, action, subject, address FROM audit ORDER BY id")
        assert [tuple(row) for row in rows] == [
            ("user:admin", "login", "user/admin", "127.0.0.1"),
            ("user:admin", "logout", "user/admin", "127.0.0.1"),
        ]


class TestCookie:
    async def test_flags_over_http(self, browser: Browser) -> None:
        await browser.log_in()
        cookie = browser.set["saga_session"]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "lax", "/", "")
        assert (cookie["domain"], cookie["max-age"], cookie["expires"]) == ("", "", "")

    async def test_flags_over_https(self, browser: Browser) -> None:
        browser.headers["X-Forwarded-Proto"] = "https"  # as a proxy on this machine says it
        await browser.log_in()
        cookie = browser.set["__Host-saga_session"]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "lax", "/", True)
        assert cookie["domain"] == ""
        assert (await browser.me()).status == 200
        del browser.headers["X-Forwarded-Proto"]
        browser.cookies["saga_session"] = browser.cookies.pop("__Host-saga_session")
        assert (await browser.me()).status == 200
        browser.headers["X-Forwarded-Proto"] = "https"
        assert (await browser.me()).status == 401  # a name that another host of the domain could have set

    async def test_only_a_digest_is_kept(self, browser: Browser, settings: Settings) -> None:
        await browser.log_in()
        [row] = await sql(settings, "SELECT * FROM session")
        assert row["digest"] == hashlib.sha256(browser.token.encode()).digest()
        assert browser.token not in str(dict(row))
        browser.cookies["saga_session"] = row["digest"].hex()
        assert (await browser.me()).status == 401

    async def test_the_page_may_not_be_framed_kept_or_scripted(self, browser: Browser) -> None:
        page = await browser.get("/admin/login")
        assert page.headers["Cache-Control"] == "no-store"
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        scripts = re.findall(rb"<script[^>]*>[^<]*", page.content)
        assert all(re.fullmatch(rb'<script src="/admin/static/[0-9a-f]+/app\.js" defer>', each) for each in scripts)


class TestFixation:
    async def test_each_login_makes_a_new_token_whatever_cookie_came(
        self, browser: Browser, settings: Settings
    ) -> None:
        planted = "A" * 43
        browser.cookies["saga_session"] = planted
        await browser.log_in()
        first = browser.token
        assert first != planted
        form = {"csrf_token": "", "name": "admin", "password": ADMIN_PASSWORD}
        thief = Browser(browser.session, browser.base, {"saga_session": planted})
        assert (await thief.me()).status == 401

        # Logged in once more with a session that holds: it ends, and another one begins.
        page_of = Browser(browser.session, browser.base)
        form |= await page_of.fill("admin", ADMIN_PASSWORD)
        browser.cookies["saga_login"] = page_of.cookies["saga_login"]
        assert (await browser.post("/admin/login", form)).status == 303
        assert browser.token != first
        old = Browser(browser.session, browser.base, {"saga_session": first})
        assert (await old.me()).status == 401
        assert len(await sql(settings, "SELECT * FROM session")) == 1

    @pytest.mark.parametrize("cookie", ["", "x", "A" * 43, "A" * 5000, "é" * 43, "../../etc"])
    async def test_a_cookie_that_we_did_not_make_opens_nothing(self, browser: Browser, cookie: str) -> None:
        browser.cookies["saga_session"] = cookie
        assert (await browser.me()).status == 401
        page = await browser.post("/admin/logout", {"csrf_token": "x"})
        assert (page.status, page.headers["Location"]) == (303, "/admin/login")


class TestEnds:
    async def test_after_logout_the_old_cookie_opens_nothing(self, browser: Browser) -> None:
        await browser.log_in()
        stolen = dict(browser.cookies)
        answer = await browser.post("/admin/logout", {"csrf_token": await browser.csrf()})
        assert (answer.status, answer.headers["Location"]) == (303, "/admin/login")
        assert "saga_session" not in browser.cookies
        browser.cookies = stolen
        assert (await browser.me()).status == 401

    async def test_after_logout_everywhere_stolen_cookies_open_nothing(
        self, browser: Browser, another: Callable[[], Browser], user: User
    ) -> None:
        bystander = await user("ada")
        elsewhere = another()
        await browser.log_in()
        await elsewhere.log_in()
        await browser.post("/admin/logout-everywhere", {"csrf_token": await browser.csrf()})
        assert (await elsewhere.me()).status == 401
        assert (await bystander.me()).status == 200

    async def test_an_administrator_ends_the_sessions_of_another(self, browser: Browser, user: User) -> None:
        ada = await user("ada")
        await browser.log_in()
        answer = await browser.api("POST", "/admin/api/users/ada/logout", {"reason": "a lost laptop"})
        assert (answer.status, answer.json) == (200, {"sessions": 1})
        assert (await ada.me()).status == 401
        assert (await browser.me()).status == 200

    async def test_a_disabled_user_is_out_at_once_and_stays_out_when_enabled_again(
        self, user: User, api: Client
    ) -> None:
        ada = await user("ada")
        await api("PATCH", "/admin/api/users/ada", {"disabled": True})
        assert (await ada.me()).status == 401
        await api("PATCH", "/admin/api/users/ada", {"disabled": False})
        assert (await ada.me()).status == 401

    async def test_a_session_that_is_left_of_a_disabled_user_opens_nothing(
        self, user: User, settings: Settings
    ) -> None:
        ada = await user("ada")
        await sql(settings, "UPDATE account SET disabled_at = now()")
        assert (await ada.me()).status == 401
        assert len(await sql(settings, "SELECT * FROM session")) == 1

    async def test_a_changed_role_counts_from_the_next_request_on(self, user: User, api: Client) -> None:
        ada = await user("ada", "admin")
        assert (await ada.api("GET", "/admin/api/users")).status == 200
        await api("PATCH", "/admin/api/users/ada", {"role": "viewer"})
        answer = await ada.api("GET", "/admin/api/users")
        assert (answer.status, answer.code, answer.json["role"]) == (403, "role-missing", "admin")
        await api("PATCH", "/admin/api/users/ada", {"role": "admin", "tenant": "acme"})
        assert (await ada.api("GET", "/admin/api/users")).code == "tenant-bound"

    async def test_a_new_password_ends_the_other_sessions(self, user: User, another: Callable[[], Browser]) -> None:
        ada, thief = await user("ada"), another()
        await thief.log_in("ada", PASSWORD)
        new = "another horse battery"
        wrong = await ada.api("POST", "/admin/api/me/password", {"old": "wrong", "new": new})
        assert (wrong.status, wrong.code) == (401, "login-failed")
        assert (await ada.api("POST", "/admin/api/me/password", {"old": PASSWORD, "new": new})).status == 204
        assert (await ada.me()).status == 200
        assert (await thief.me()).status == 401
        assert (await another().log_in("ada", PASSWORD)).status == 401
        assert (await another().log_in("ada", new)).status == 303

    async def test_a_removed_user_is_out(self, user: User, api: Client) -> None:
        ada = await user("ada")
        assert (await api("DELETE", "/admin/api/users/ada")).status == 204
        assert (await ada.me()).status == 401

    async def test_nobody_stays_longer_than_a_session_lasts(self, browser: Browser, settings: Settings) -> None:
        await browser.log_in()
        [row] = await sql(settings, "SELECT extract(epoch FROM expires_at - created_at) AS seconds FROM session")
        assert row["seconds"] == settings.session_for == 12 * 3600
        await sql(settings, "UPDATE session SET expires_at = now()")
        assert (await browser.me()).status == 401

    async def test_an_idle_session_ends_and_requests_keep_it(self, browser: Browser, settings: Settings) -> None:
        await browser.log_in()
        await sql(settings, "UPDATE session SET seen_at = now() - interval '59 minutes'")
        assert (await browser.me()).status == 200
        [row] = await sql(settings, "SELECT now() - seen_at < interval '1 minute' AS renewed, seen_at FROM session")
        assert row["renewed"]
        await browser.me()  # within the same minute: not written again
        assert (await sql(settings, "SELECT seen_at FROM session"))[0]["seen_at"] == row["seen_at"]
        await sql(settings, "UPDATE session SET seen_at = now() - interval '61 minutes'")
        assert (await browser.me()).status == 401

    async def test_what_a_script_fetches_by_itself_keeps_no_session(self, browser: Browser, settings: Settings) -> None:
        await browser.log_in()
        await sql(settings, "UPDATE session SET seen_at = now() - interval '59 minutes'")
        assert (await browser.get("/admin/login", Sec_Fetch_Dest="empty")).status == 303
        [row] = await sql(settings, "SELECT now() - seen_at > interval '58 minutes' AS idle FROM session")
        assert row["idle"]
        assert (await browser.get("/admin/login", Sec_Fetch_Dest="document")).status == 303
        [row] = await sql(settings, "SELECT now() - seen_at > interval '58 minutes' AS idle FROM session")
        assert not row["idle"]

    async def test_another_admin_password_in_the_settings_ends_the_sessions_of_the_old_one(
        self, browser: Browser, user: User, settings: Settings
    ) -> None:
        ada = await user("ada")
        await browser.log_in()
        changed = settings.model_copy(update={"admin_password": type(settings.admin_password)("quite another one")})
        async with serve(changed) as (api, _):
            later = Browser(api.session, api.base, dict(browser.cookies))
            assert (await later.me()).status == 401
            later.cookies.clear()
            assert (await later.log_in()).status == 401
            assert (await later.log_in("admin", "quite another one")).status == 303
            assert (await later.me()).status == 200
            ada.base = api.base
            assert (await ada.me()).status == 200

    async def test_sessions_that_are_over_are_taken_away_by_the_next_login(
        self, browser: Browser, another: Callable[[], Browser], settings: Settings
    ) -> None:
        await browser.log_in()
        await sql(settings, "UPDATE session SET expires_at = now() - interval '1 second'")
        await another().log_in()
        assert len(await sql(settings, "SELECT * FROM session")) == 1


class TestStream:
    @pytest.mark.parametrize("end", ["logout", "disable"])
    async def test_a_stream_ends_with_the_session_that_opened_it(
        self, world: World, user: User, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        monkeypatch.setattr("app.api.sagas.STREAM_ASKS_SECONDS", 0.05)
        monkeypatch.setattr("app.api.sagas.STREAM_POLL_SECONDS", 0.02)
        await world.define({"name": "reserve"})
        saga = await world.submit()
        ada = await user("ada")
        headers = {"Accept": "text/event-stream", "Cookie": f"saga_session={ada.token}"}
        async with ada.session.get(f"{ada.base}/sagas/{saga['id']}/events", headers=headers) as response:
            assert response.status == 200
            await response.content.readuntil(b"\n\n")
            if end == "logout":
                await ada.post("/admin/logout", {"csrf_token": await ada.csrf()})
            else:
                await world.api("PATCH", "/admin/api/users/ada", {"disabled": True})
            await asyncio.wait_for(response.content.read(), 20)

    async def test_a_stream_is_no_sign_of_life(
        self, world: World, user: User, monkeypatch: pytest.MonkeyPatch, settings: Settings
    ) -> None:
        monkeypatch.setattr("app.api.sagas.STREAM_ASKS_SECONDS", 0.02)
        monkeypatch.setattr("app.api.sagas.STREAM_POLL_SECONDS", 0.02)
        await world.define({"name": "reserve"})
        saga = await world.submit()
        ada = await user("ada")
        asked: list[Any] = []
        headers = {"Accept": "text/event-stream", "Cookie": f"saga_session={ada.token}"}
        async with ada.session.get(f"{ada.base}/sagas/{saga['id']}/events", headers=headers) as response:
            await response.content.readuntil(b"\n\n")
            await sql(settings, "UPDATE session SET seen_at = now() - interval '59 minutes'")

            async def over() -> bool:
                asked.append(await sql(settings, "SELECT now() - seen_at > interval '58 minutes' AS idle FROM session"))
                return len(asked) > 5

            await until(over)
            assert all(row["idle"] for [row] in asked)
            await sql(settings, "UPDATE session SET seen_at = now() - interval '61 minutes'")
            await asyncio.wait_for(response.content.read(), 20)
