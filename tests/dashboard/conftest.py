"""Pages as a browser gets them, from the API's own server; `Browser` is the one place that knows how one is let in."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import SecretStr

from app.people import visits
from app.settings import Settings
from tests.api.conftest import Client, World, api, app_state, served, world

__all__ = ["api", "app_state", "served", "world"]

PASSWORD = "the password of the admin"
VOID = {"area", "br", "hr", "img", "input", "link", "meta", "path", "rect", "source", "col", "wbr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        words = (child if isinstance(child, str) else child.text for child in self.children)
        return re.sub(r"\s+", " ", " ".join(words)).strip()

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name) or ""

    @property
    def classes(self) -> list[str]:
        return self["class"].split()

    def all(self, tag: str = "", cls: str = "", **attributes: str) -> Iterator["Element"]:
        named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        for child in self.children:
            if isinstance(child, str):
                continue
            fits = (not tag or child.tag == tag) and (not cls or cls in child.classes)
            if fits and all(child.attributes.get(name) == value for name, value in named.items()):
                yield child
            yield from child.all(tag, cls, **attributes)

    def one(self, tag: str = "", cls: str = "", **attributes: str) -> "Element":
        found = list(self.all(tag, cls, **attributes))
        assert len(found) == 1, f"{len(found)} of {tag} .{cls} {attributes}"
        return found[0]


class _Reader(HTMLParser):
    """Strict: what is opened is closed, in its order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice: {names}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(html: str) -> Element:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is not closed"
    return reader.root


@dataclass
class Shown:
    status: int
    headers: Any
    html: str

    @property
    def page(self) -> Element:
        return read(self.html)

    @property
    def main(self) -> Element:
        """What the page is about, without its frame."""
        return self.page.one("main")

    @property
    def text(self) -> str:
        return self.main.text


class Browser:
    """Somebody who has logged in."""

    def __init__(self, client: Client, token: str) -> None:
        self._client, self._token = client, token

    @classmethod
    async def logged_in(cls, client: Client, name: str = "admin", password: str = PASSWORD) -> "Browser":
        async with client.session.get(f"{client.base}/admin/login") as answer:
            form, cookie = read(await answer.text()).one("form", cls="login"), answer.cookies["saga_login"].value
        sent = {"csrf_token": form.one("input", name="csrf_token")["value"], "name": name, "password": password}
        headers = {"Cookie": f"saga_login={cookie}"}
        async with client.session.post(
            f"{client.base}/admin/login", data=sent, headers=headers, allow_redirects=False
        ) as answer:
            assert answer.status == 303, await answer.text()
            return cls(client, answer.cookies[visits.COOKIE].value)

    @property
    def headers(self) -> dict[str, str]:
        return {"Cookie": f"{visits.COOKIE}={self._token}"}

    @property
    def csrf_token(self) -> str:
        return visits.csrf_token(self._token)

    async def get(self, path: str) -> Shown:
        return await self._ask("GET", path)

    async def post(self, path: str, **fields: Any) -> Shown:
        fields.setdefault("csrf_token", self.csrf_token)
        body = urlencode({name: value for name, value in fields.items() if value is not None}, doseq=True)
        return await self._ask("POST", path, body)

    async def send(self, form: Element, **fields: Any) -> Shown:
        """Fills the form in, and sends it as a browser does."""
        filled: dict[str, list[str]] = {}
        for field_ in [*form.all("input"), *form.all("textarea"), *form.all("select")]:
            name, kind = field_["name"], field_["type"]
            if not name or (kind in {"checkbox", "radio"} and "checked" not in field_.attributes):
                continue
            value = field_["value"] if field_.tag == "input" else _raw(field_)
            filled.setdefault(name, []).append(value)
        for name, value in fields.items():
            filled[name] = value if isinstance(value, list) else [value]
        if form["method"] == "post":
            return await self.post(form["action"], **filled)
        return await self.get(f"{form['action']}?{urlencode(filled, doseq=True)}")

    @contextlib.asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[Any]:
        """An event stream, as it comes in."""
        async with (
            asyncio.timeout(20),
            self._client.session.get(self._client.base + path, headers=self.headers) as answer,
        ):
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            yield answer.content

    async def _ask(self, method: str, path: str, body: str | None = None) -> Shown:
        headers = dict(self.headers)
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        url = self._client.base + path
        async with self._client.session.request(
            method, url, data=body, headers=headers, allow_redirects=False
        ) as answer:
            return Shown(answer.status, answer.headers, await answer.text())


def _raw(element: Element) -> str:
    if element.tag == "textarea":
        return "".join(child for child in element.children if isinstance(child, str)).removeprefix("\n")
    options = list(element.all("option"))
    chosen = next((option for option in options if "selected" in option.attributes), options[0] if options else None)
    return "" if chosen is None else chosen["value"] if "value" in chosen.attributes else chosen.text


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"admin_password": SecretStr(PASSWORD)})


@pytest.fixture
async def browser(api: Client) -> Browser:
    return await Browser.logged_in(api)


@pytest.fixture
def orders(world: World) -> World:
    return world
