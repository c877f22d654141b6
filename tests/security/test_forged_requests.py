"""Cross-site request forgery: what another site makes a browser send changes nothing."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from app.api.openapi import document
from app.dashboard import PAGES
from app.main import ROUTERS
from tests.conftest import KEY
from tests.security.conftest import ADMIN_PASSWORD, Browser, hidden

UNSAFE = [
    (method.upper(), re.sub(r"\{\w+\}", "0199c4b2-7d1e-7c3a-9f00-1c2d3e4f5a6b", path), operation)
    for path, methods in document(ROUTERS, "1")["paths"].items()
    for method, operation in methods.items()
    if method != "get"
]
FORMS = [
    route.path
    for router in PAGES
    for route in router.routes
    if "POST" in route.methods and route.path != "/admin/login"
]


@pytest.fixture
async def inside(browser: Browser) -> Browser:
    assert (await browser.log_in()).status == 303
    return browser


async def test_every_route_that_changes_something_wants_the_token(inside: Browser) -> None:
    assert len(UNSAFE) > 25
    for method, path, operation in UNSAFE:
        if operation.get("security") == []:
            continue
        missing = await inside(method, path, b"{}")
        assert (missing.status, missing.code) == (403, "csrf-token-missing"), (method, path)
        wrong = await inside(method, path, b"{}", X_CSRF_Token="0" * 64)
        assert (wrong.status, wrong.code) == (403, "csrf-token-invalid"), (method, path)


async def test_every_form_wants_the_token(inside: Browser) -> None:
    assert FORMS
    for path in FORMS:
        for form in ({}, {"csrf_token": ""}, {"csrf_token": "0" * 64}, {"csrf_token": "é"}):
            answer = await inside.post(path, form)
            assert answer.status == 403, (path, form)
            assert answer.code in {"csrf-token-missing", "csrf-token-invalid"}
    assert (await inside.me()).status == 200


async def test_no_form_is_taken_from_another_site_or_with_the_token_of_another_session(
    inside: Browser, another: Callable[[], Browser]
) -> None:
    thief = another()
    await thief.log_in()
    theirs, ours = await thief.csrf(), await inside.csrf()
    for path in [*FORMS, "/admin/login"]:
        answer = await inside.post(path, {"csrf_token": theirs})
        assert answer.status == 403, path
        for headers in ({"Sec_Fetch_Site": "cross-site"}, {"Origin": "https://evil.example"}):
            answer = await inside.post(path, {"csrf_token": ours}, **headers)
            assert answer.status == 403, (path, headers)
            assert path == "/admin/login" or answer.code == "cross-site"
    assert (await inside.me()).status == 200


async def test_the_token_of_another_session_is_not_enough(inside: Browser, another: Callable[[], Browser]) -> None:
    thief = another()
    await thief.log_in()
    answer = await inside("POST", "/admin/api/users", b"{}", X_CSRF_Token=await thief.csrf())
    assert (answer.status, answer.code) == (403, "csrf-token-invalid")


async def test_with_the_right_token_it_is_done(inside: Browser) -> None:
    answer = await inside(
        "POST", "/admin/api/users", b'{"name": "ada", "role": "viewer"}', X_CSRF_Token=await inside.csrf()
    )
    assert answer.status == 201, answer.content


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://[::"},
    ],
)
async def test_what_another_site_sends_is_refused_also_with_the_right_token(
    inside: Browser, headers: dict[str, str]
) -> None:
    token = await inside.csrf()
    answer = await inside("POST", "/admin/api/users", b"{}", X_CSRF_Token=token, **headers)
    assert (answer.status, answer.code) == (403, "cross-site")
    answer = await inside.post("/admin/logout", {"csrf_token": token}, **headers)
    assert (answer.status, answer.code) == (403, "cross-site")
    assert (await inside.me()).status == 200


@pytest.mark.parametrize("headers", [{"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}, {}, {"Origin": ""}])
async def test_what_our_own_pages_send_is_taken(inside: Browser, headers: dict[str, str]) -> None:
    if "Origin" in headers:
        headers = {"Origin": inside.base}
    answer = await inside.post("/admin/logout", {"csrf_token": await inside.csrf()}, **headers)
    assert answer.status == 303


class TestKeyAndCookie:
    async def test_the_key_decides(self, inside: Browser) -> None:
        answer = await inside.get("/admin/api/me", Authorization=f"Bearer {KEY}")
        assert answer.json["name"] == "key:bootstrap"
        assert answer.json["csrf_token"] is None

    async def test_a_wrong_key_is_not_mended_by_a_cookie(self, inside: Browser) -> None:
        for given in ("Bearer wrong", "Bearer ", "Basic YTpi", ""):
            assert (await inside.get("/admin/api/me", Authorization=given)).status == 401

    async def test_a_key_needs_no_token(self, inside: Browser) -> None:
        answer = await inside("POST", "/admin/api/users", b"{}", Authorization=f"Bearer {KEY}")
        assert (answer.status, answer.code) == (422, "body-invalid")


class TestLoginForm:
    async def test_a_form_that_did_not_come_from_us_logs_nobody_in(
        self, browser: Browser, another: Callable[[], Browser]
    ) -> None:
        form = {"name": "admin", "password": ADMIN_PASSWORD}
        assert (await browser.post("/admin/login", form)).status == 403
        other = another()
        theirs = hidden(await other.get("/admin/login"))["csrf_token"]
        await browser.get("/admin/login")
        for token in ("", "x", theirs):
            answer = await browser.post("/admin/login", {**form, "csrf_token": token})
            assert answer.status == 403, token
            assert 'role="alert"' in answer.content.decode()
        assert "saga_session" not in browser.cookies

    async def test_another_site_that_has_our_token_is_refused_where_the_browser_says_so(self, browser: Browser) -> None:
        form = await browser.fill("admin", ADMIN_PASSWORD)
        assert (await browser.post("/admin/login", form, Sec_Fetch_Site="cross-site")).status == 403
        assert (await browser.post("/admin/login", form, Sec_Fetch_Site="same-origin")).status == 303

    async def test_the_form_shows_what_was_typed_as_text(self, browser: Browser) -> None:
        script = '"><script>alert(1)</script>'
        page = await browser.log_in(script, script, script)
        assert page.status == 401
        assert b"<script>" not in page.content
        assert ADMIN_PASSWORD not in page.content.decode()

    @pytest.mark.parametrize(
        ("kind", "body", "status"),
        [
            ("application/json", b"{}", 415),
            ("multipart/form-data; boundary=x", b"--x--", 415),
            ("application/x-www-form-urlencoded", b"a=" + b"x" * 70_000, 413),
            ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 1001), 413),
            ("application/x-www-form-urlencoded", b"name=%00&password=%ff%fe&next=%00&=&&&==", 403),
            ("application/x-www-form-urlencoded", b"\xff\x00", 403),
        ],
    )
    async def test_nonsense_is_refused(self, browser: Browser, kind: str, body: Any, status: int) -> None:
        await browser.get("/admin/login")
        answer = await browser("POST", "/admin/login", body, Content_Type=kind)
        assert answer.status == status


class TestAfterLogin:
    @pytest.mark.parametrize(
        "page", ["/admin/", "/admin/sagas", "/admin/sagas?state=FAILED&label=a%3Ab", "/admin/definitions/order%20x"]
    )
    async def test_one_comes_back_to_where_one_wanted_to_go(self, browser: Browser, page: str) -> None:
        answer = await browser.log_in(after=page)
        assert answer.headers["Location"] == page
        again = await browser.get("/admin/login?next=" + page.replace("%", "%25").replace("&", "%26"))
        assert (again.status, again.headers["Location"]) == (303, page)

    @pytest.mark.parametrize(
        "page",
        [
            "https://evil.example/admin/",
            "//evil.example/admin/",
            "/\\evil.example",
            "\\\\evil.example",
            "/admin//evil.example",
            "/admin/%2f%2fevil.example",
            "/admin/\\evil.example",
            "/admin/%5cevil.example",
            "/admin/../..//evil.example",
            "/admin/%2e%2e/x",
            "/administrator",
            "/sagas",
            "javascript:alert(1)",
            "/admin/\r\nSet-Cookie: a=b",
            "/admin/%0d%0aSet-Cookie:a=b",
            "/admin/\tx",
            " /admin/sagas",
            "/admin/login?next=//evil.example",
            "/admin/logout",
            "/admin/api/me",
            "/admin/é",
            "/admin/" + "x" * 3000,
            "@evil.example",
            "",
        ],
    )
    async def test_no_other_place_is_gone_to(self, browser: Browser, page: str) -> None:
        answer = await browser.log_in(after=page)
        assert (answer.status, answer.headers["Location"]) == (303, "/admin/")
