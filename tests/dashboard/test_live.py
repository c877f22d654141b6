"""Pages that follow what happens: what is missed, and for whom."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from app.dashboard import live
from tests.api.conftest import Client, World
from tests.dashboard.conftest import Browser


@pytest.fixture
async def shop(world: World) -> World:
    await world.define({"name": "reserve"}, {"name": "charge"})
    return world


@contextlib.asynccontextmanager
async def listening(browser: Browser, api: Client, path: str, **headers: str) -> AsyncIterator[asyncio.StreamReader]:
    sent = {**browser.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with asyncio.timeout(20), api.session.get(api.base + path, headers=sent) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield answer.content


async def event(stream: asyncio.StreamReader) -> dict[str, str]:
    """The next one, or what is set without one."""
    while True:
        block = (await stream.readuntil(b"\n\n")).decode().strip()
        if not block.startswith(("retry:", ":")):
            return dict(line.split(": ", 1) for line in block.splitlines())


async def live_of(browser: Browser, path: str) -> str:
    return (await browser.get(path)).page.one("main")["data-live"]


async def test_what_moves_before_the_stream_of_a_list_stands_is_told(shop: World, browser: Browser, api: Client):
    saga_id = (await shop.submit())["id"]
    path = await live_of(browser, "/admin/sagas?saga=order")
    await shop.run(saga_id)
    async with listening(browser, api, path) as stream:
        assert (await event(stream))["event"] == "moved"


@pytest.mark.parametrize("path", ["/admin/sagas?saga=order", "/admin/sagas?limit=1", "/admin/sagas?state=COMPLETED"])
async def test_a_list_that_shows_how_it_is_hears_nothing_until_it_moves(
    path: str, shop: World, browser: Browser, api: Client
):
    for _ in range(2):
        await shop.ran()
    async with listening(browser, api, await live_of(browser, path)) as stream:
        begun = asyncio.create_task(event(stream))
        assert not (await asyncio.wait([begun], timeout=0.5))[0]
        await shop.ran()
        assert (await begun)["event"] == "moved"


async def test_a_browser_that_comes_back_hears_of_what_has_moved_meanwhile(shop: World, browser: Browser, api: Client):
    """Its page is long another one than that which it first asked for."""
    saga_id = (await shop.submit())["id"]
    path = "/admin/sagas/live?saga=order"
    async with listening(browser, api, path) as stream:
        first = await event(stream)
        assert "event" not in first
    await shop.run(saga_id)
    async with listening(browser, api, path, Last_Event_ID=first["id"]) as stream:
        moved = await event(stream)
    assert moved["event"] == "moved"
    async with listening(browser, api, path, Last_Event_ID=moved["id"]) as stream:
        told = asyncio.create_task(event(stream))
        assert not (await asyncio.wait([told], timeout=0.5))[0]
        told.cancel()


async def test_a_stream_ends_with_the_session_that_opened_it(
    shop: World, browser: Browser, api: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live, "ASKS_SECONDS", 0.02)
    saga_id = (await shop.submit())["id"]
    async with listening(browser, api, await live_of(browser, f"/admin/sagas/{saga_id}")) as stream:
        await shop.act(saga_id, "pause")
        assert (await event(stream))["event"] == "moved"
        assert (await browser.post("/admin/logout")).status == 303
        assert (await event(stream))["event"] == "logged-out"
        assert not (await stream.read()).strip()


async def test_who_asks_for_a_stream_without_a_session_is_told_so_in_a_stream(shop: World, api: Client):
    """A browser that comes back after its session has ended: a page in place of a stream is an error to it."""
    saga_id = (await shop.submit())["id"]
    for path in (f"/admin/sagas/{saga_id}/live", "/admin/live", "/admin/sagas/live"):
        async with listening(Browser(api, "ended"), api, path, Accept="text/event-stream") as stream:
            assert await stream.read() == b"event: logged-out\ndata: .\n\n"
