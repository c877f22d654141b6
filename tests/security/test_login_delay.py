"""Guessing passwords: each failure makes the next try wait longer. Time is moved in the database; nobody sleeps."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from app.errors import Problem
from app.house import House
from app.people.logins import Client as From
from app.settings import Settings
from app.store import login_failures
from app.store.login_failures import Limit
from tests.security.conftest import ADMIN_PASSWORD, PASSWORD, Browser
from tests.security.test_sessions import sql


async def later(settings: Settings, seconds: float) -> None:
    """So much time has passed since the last failure, and no more."""
    await sql(settings, "UPDATE login_failure SET last_at = clock_timestamp() - make_interval(secs => $1)", seconds)


async def hold(settings: Settings) -> None:
    """However slow the test is, no wait ends by itself."""
    await later(settings, -3600)


async def fail(browser: Browser, times: int, name: str = "admin") -> list[int]:
    return [(await browser.log_in(name, "wrong password")).status for _ in range(times)]


async def failures(settings: Settings, subject: str) -> int | None:
    rows = await sql(settings, "SELECT failures FROM login_failure WHERE subject = $1", subject)
    return rows[0]["failures"] if rows else None


class TestOfAnAccount:
    async def test_the_delay_grows_up_to_the_longest(self, house: House) -> None:
        limit = Limit("account/ada", free=5, longest=300, forget=600)
        waits = [limit.wait(failures) for failures in range(20)]
        assert waits == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300, 300, 300]
        assert limit.wait(limit.most) == 300
        assert limit.wait(limit.most - 1) == 256
        async with house.database.connect() as connection:
            statement = text(f"SELECT {login_failures._WAIT} FROM generate_series(0, 19) AS f(failures)")
            found = (await connection.execute(statement, {"free": 5, "longest": 300.0})).scalars().all()
        assert [float(wait) for wait in found] == waits, "the database says the same"

    async def test_each_failure_counts_up_to_where_more_would_change_nothing(
        self, browser: Browser, settings: Settings
    ) -> None:
        for expected in (1, 2, 3, 4, 5, 6, 7):
            assert await fail(browser, 1) == [401]
            assert await failures(settings, "account/admin") == expected
            await later(settings, 300)
        await sql(settings, "UPDATE login_failure SET failures = 14")
        await later(settings, 300)
        assert await fail(browser, 1) == [401]
        assert await failures(settings, "account/admin") == 14

    async def test_while_it_lasts_the_right_password_is_not_looked_at(
        self, browser: Browser, app_state: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert await fail(browser, 5) == [401] * 5
        await hold(settings)
        monkeypatch.setattr(app_state.house.logins._hashing, "_verify", None)
        answer = await browser.log_in()
        assert answer.status == 429
        assert 3500 < int(answer.headers["Retry-After"]) <= 3601
        assert b"Too many logins have failed. Try again in 6" in answer.content
        assert "saga_session" not in browser.cookies

    async def test_tries_while_it_lasts_do_not_lengthen_it(self, browser: Browser, settings: Settings) -> None:
        await fail(browser, 5)
        await later(settings, 1)
        assert await fail(browser, 1) == [401]
        await hold(settings)
        assert await fail(browser, 5) == [429] * 5
        assert await failures(settings, "account/admin") == 6
        await later(settings, 2)
        assert (await browser.log_in()).status == 303

    async def test_a_success_clears_the_count(self, browser: Browser, settings: Settings) -> None:
        await fail(browser, 4)
        assert (await browser.log_in()).status == 303
        assert await failures(settings, "account/admin") is None

    async def test_unknown_names_are_delayed_like_others(self, browser: Browser, settings: Settings) -> None:
        assert await fail(browser, 5, "nobody") == [401] * 5
        await hold(settings)
        assert await fail(browser, 1, "nobody") == [429]

    async def test_another_name_from_the_same_address_is_not_delayed(
        self, browser: Browser, settings: Settings
    ) -> None:
        await fail(browser, 5, "nobody")
        assert (await browser.log_in()).status == 303

    async def test_failures_are_forgotten_with_time(self, browser: Browser, settings: Settings) -> None:
        await fail(browser, 5)
        await later(settings, 2 * 600)
        assert await fail(browser, 1) == [401]
        assert await failures(settings, "account/admin") == 4

    async def test_many_at_once_are_no_more_than_many_in_a_row(self, app_state: Any, settings: Settings) -> None:
        logins = app_state.house.logins
        await sql(settings, "INSERT INTO login_failure (subject, failures) VALUES ('account/admin', 13)")
        await later(settings, 300)

        async def guess() -> int:
            with pytest.raises(Problem) as raised:
                await logins.log_in("admin", "wrong password", From("192.0.2.1"))
            return raised.value.status

        assert sorted(await asyncio.gather(*(guess() for _ in range(15)))) == [401] + [429] * 14

    async def test_a_new_password_from_an_administrator_ends_the_delay(
        self, browser: Browser, user: Callable[..., Any], api: Any, settings: Settings
    ) -> None:
        await user("ada")
        await fail(browser, 5, "ada")
        await sql(settings, "DELETE FROM login_failure WHERE subject LIKE 'address/%'")
        await hold(settings)
        assert (await browser.log_in("ada", PASSWORD)).status == 429
        await api("PATCH", "/admin/api/users/ada", {"password": "another horse battery"})
        assert (await browser.log_in("ada", "another horse battery")).status == 303

    async def test_changing_ones_own_password_is_no_way_round_it(
        self, user: Callable[..., Any], settings: Settings
    ) -> None:
        ada = await user("ada")
        body = {"old": "wrong password", "new": "another horse battery"}
        answers = [await ada.api("POST", "/admin/api/me/password", body) for _ in range(5)]
        await hold(settings)
        answers.append(await ada.api("POST", "/admin/api/me/password", {**body, "old": PASSWORD}))
        assert [answer.code for answer in answers] == ["login-failed"] * 5 + ["login-delayed"]


class TestOfAnAddress:
    async def test_it_has_ten_times_the_attempts_and_waits_a_tenth(self, app_state: Any, settings: Settings) -> None:
        logins = app_state.house.logins

        async def guess(name: str, address: str) -> Problem:
            with pytest.raises(Problem) as raised:
                await logins.log_in(name, "wrong password", From(address))
            return raised.value

        for subject in ("address/192.0.2.1", "address/2001:db8::/64"):
            await sql(settings, "INSERT INTO login_failure (subject, failures) VALUES ($1, 49)", subject)
        assert (await guess("a", "192.0.2.1")).status == 401
        assert (await guess("b", "2001:db8::1")).status == 401
        await hold(settings)
        assert (await guess("c", "192.0.2.1")).status == 429
        assert (await guess("d", "2001:db8::ffff")).status == 429, "one customer has 2⁶⁴ addresses"
        assert (await guess("e", "::ffff:192.0.2.1")).status == 429
        assert (await guess("f", "192.0.2.2")).status == 401
        await sql(settings, "UPDATE login_failure SET failures = 99")
        await later(settings, 0)
        assert int((await guess("g", "192.0.2.1")).headers["Retry-After"]) <= 30
        await later(settings, 30)
        assert (await guess("g", "192.0.2.1")).status == 401

    async def test_what_succeeds_takes_its_count_back(self, app_state: Any, settings: Settings) -> None:
        await sql(settings, "INSERT INTO login_failure (subject, failures) VALUES ('address/192.0.2.3', 7)")
        assert await app_state.house.logins.log_in("admin", ADMIN_PASSWORD, From("192.0.2.3"))
        assert await failures(settings, "address/192.0.2.3") == 7

    async def test_a_refused_address_does_not_count_against_the_account(
        self, app_state: Any, settings: Settings
    ) -> None:
        await sql(settings, "INSERT INTO login_failure (subject, failures) VALUES ('address/192.0.2.1', 55)")
        await hold(settings)
        with pytest.raises(Problem) as raised:
            await app_state.house.logins.log_in("admin", "wrong password", From("192.0.2.1"))
        assert raised.value.status == 429
        assert await failures(settings, "account/admin") is None


async def test_the_audit_trail_has_a_line_for_each_wait_and_no_more(browser: Browser, settings: Settings) -> None:
    assert await fail(browser, 5) == [401] * 5
    await hold(settings)
    assert await fail(browser, 10) == [429] * 10
    rows = await sql(settings, "SELECT actor, subject, address, after::text FROM audit WHERE action = 'login-failed'")
    assert [(row["actor"], row["address"]) for row in rows] == [("anonymous", "127.0.0.1")]


async def test_an_unknown_name_is_not_written_to_the_audit_trail(browser: Browser, settings: Settings) -> None:
    await fail(browser, 5, "my-secret-password")
    rows = await sql(settings, "SELECT * FROM audit WHERE action = 'login-failed'")
    assert len(rows) == 1
    assert "secret" not in str([dict(row) for row in rows])


async def test_old_counts_are_taken_away(browser: Browser, settings: Settings) -> None:
    await fail(browser, 1, "nobody")
    await later(settings, 3 * 3600)
    await fail(browser, 1, "somebody")
    rows = await sql(settings, "SELECT subject FROM login_failure ORDER BY subject")
    assert [row["subject"] for row in rows] == ["account/somebody", "address/127.0.0.1"]
