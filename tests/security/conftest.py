"""Browsers that mean well, and some that do not."""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import Morsel, SimpleCookie
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from app.access import Role
from tests.api.conftest import Answer, Client, api, app_state, served, world  # noqa: F401 - fixtures

ADMIN_PASSWORD = "the password of the admin"
PASSWORD = "correct horse battery"


@pytest.fixture
def options() -> dict[str, Any]:
    return {"admin_password": ADMIN_PASSWORD}


@dataclass
class Browser:
    """Keeps cookies, follows no redirect, and runs no script."""

    session: aiohttp.ClientSession
    base: str
    cookies: dict[str, str] = field(default_factory=dict)
    set: dict[str, Morsel[str]] = field(default_factory=dict)
    """As the server has set them, with what it said of each."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with each request."""

    async def __call__(self, method: str, path: str, data: Any = None, **headers: str) -> Answer:
        named = dict(self.headers) | {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            named["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with self.session.request(
            method, self.base + path, data=data, headers=named, allow_redirects=False
        ) as response:
            for line in response.headers.getall("Set-Cookie", []):
                for name, morsel in SimpleCookie(line).items():
                    self.set[name] = morsel
                    if morsel["max-age"] == "0":
                        self.cookies.pop(name, None)
                    else:
                        self.cookies[name] = morsel.value
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self("GET", path, **headers)

    async def post(self, path: str, form: dict[str, str], **headers: str) -> Answer:
        return await self("POST", path, urlencode(form), Content_Type="application/x-www-form-urlencoded", **headers)

    async def fill(self, name: str, password: str, after: str = "") -> dict[str, str]:
        """The form of the login, filled in."""
        page = await self.get("/admin/login" + (f"?{urlencode({'next': after})}" if after else ""))
        assert page.status == 200, page.content
        return hidden(page) | {"name": name, "password": password}

    async def log_in(self, name: str = "admin", password: str = ADMIN_PASSWORD, after: str = "") -> Answer:
        return await self.post("/admin/login", await self.fill(name, password, after))

    @property
    def token(self) -> str:
        return self.cookies["saga_session"]

    async def me(self) -> Answer:
        return await self.get("/admin/api/me")

    async def csrf(self) -> str:
        token: str = (await self.me()).json["csrf_token"]
        return token

    async def api(self, method: str, path: str, json: Any = None, **headers: str) -> Answer:
        """As a script of ours would ask, with the token where it is needed."""
        if method != "GET":
            headers.setdefault("X_CSRF_Token", await self.csrf())
        return await self(method, path, None if json is None else aiohttp.JsonPayload(json), **headers)


def hidden(page: Answer) -> dict[str, str]:
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.content.decode())
    return {name: html.unescape(value) for name, value in found}


@pytest.fixture
def browser(api: Client) -> Browser:  # noqa: F811
    return Browser(api.session, api.base)


@pytest.fixture
def another(api: Client) -> Callable[[], Browser]:  # noqa: F811
    return lambda: Browser(api.session, api.base)


@pytest.fixture
def user(api: Client, another: Callable[[], Browser]) -> Callable[..., Any]:  # noqa: F811
    """`await user("ada", "operator")`: made, and logged in."""

    async def make(name: str, role: Role = "viewer", tenant: str | None = None) -> Browser:
        body = {"name": name, "role": role, "tenant": tenant, "password": PASSWORD}
        answer = await api.post("/admin/api/users", body)
        assert answer.status == 201, answer.content
        browser = another()
        answer = await browser.log_in(name, PASSWORD)
        assert answer.status == 303, answer.content
        return browser

    return make
