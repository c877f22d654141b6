"""The frame of the pages: who may see them, and the files that they load."""

import pytest

from app.dashboard.pages import FILES, asset
from app.people import visits
from tests.api.conftest import ONCE, Client, World
from tests.conftest import KEY
from tests.dashboard.conftest import PASSWORD, Browser
from tests.participant import REFUSED, answers


@pytest.fixture
async def shop(world: World) -> World:
    await world.define({"name": "reserve", "compensation_retry": ONCE}, {"name": "charge"})
    return world


async def stuck(world: World) -> str:
    saga_id = (await world.submit(labels={"a": "b"}))["id"]
    world.participant.on("charge", REFUSED, saga_id=saga_id)
    world.participant.on("reserve", answers(400), operation="compensation", saga_id=saga_id)
    assert (await world.run(saga_id))["state"] == "COMPENSATION_FAILED"
    return saga_id


def paths(saga_id: str) -> list[str]:
    return [
        "/admin/",
        "/admin/sagas",
        f"/admin/sagas/{saga_id}",
        f"/admin/sagas/{saga_id}/again",
        "/admin/sagas/bulk?action=retry&of=all",
    ]


async def user(api: Client, name: str, role: str, tenant: str | None = None) -> Browser:
    answer = await api.post("/admin/api/users", {"name": name, "role": role, "tenant": tenant, "password": PASSWORD})
    assert answer.status == 201
    return await Browser.logged_in(api, name, PASSWORD)


async def test_who_is_not_known_sees_nothing(shop: World, api: Client):
    saga_id = await stuck(shop)
    for path in [*paths(saga_id), f"/admin/sagas/{saga_id}/live", "/admin/live", "/admin/sagas/live"]:
        for headers in ({}, {"Cookie": f"{visits.COOKIE}=wrong"}, {"Authorization": f"Bearer {KEY}"}):
            async with api.session.get(api.base + path, headers=headers, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"].partition("?")[0]) == (303, "/admin/login"), path
                assert saga_id not in await answer.text()
    before = (await api.get(f"/sagas/{saga_id}")).json
    for path in (f"/admin/sagas/{saga_id}/do/abandon", "/admin/sagas/bulk?action=retry"):
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        sent = {"data": "seq=1&reason=x&limit=1", "headers": headers, "allow_redirects": False}
        async with api.session.post(api.base + path, **sent) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/admin/login")
    assert (await api.get(f"/sagas/{saga_id}")).json == before


async def test_files_are_kept_by_browsers_as_long_as_they_are_the_same(api: Client):
    for name in FILES:
        answer = await api.get(asset(name), key=None)
        assert answer.status == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.content == FILES[name]
    old = await api.get("/admin/static/000000000000/app.css", key=None)
    assert old.headers["Cache-Control"] == "no-cache"
    for name in ("none.css", "../pages.py", "%2e%2e/pages.py"):
        assert (await api.get(f"/admin/static/0/{name}", key=None)).status == 404


async def test_pages_are_no_part_of_the_api_description(api: Client):
    described = (await api.get("/openapi.json")).json["paths"]
    assert not [path for path in described if path.startswith("/admin") and not path.startswith("/admin/api")]


async def test_who_may_only_look_is_offered_nothing_and_can_do_nothing(shop: World, browser: Browser):
    saga_id = await stuck(shop)
    seq = (await browser.get(f"/admin/sagas/{saga_id}")).page.one("section", id="head")["data-seq"]

    browser = await user(shop.api, "vera", "viewer")
    page = (await browser.get(f"/admin/sagas/{saga_id}")).main
    assert not list(page.all("form"))
    assert "This needs the role operator." in page.one("section", id="do").text
    assert not list((await browser.get("/admin/sagas")).page.all("input", type="checkbox"))
    assert not [link for link in (await browser.get("/admin/")).main.all("a") if "Retry" in link.text]
    for path in ("/admin/sagas/bulk?action=retry&of=all", f"/admin/sagas/{saga_id}/again"):
        assert (await browser.get(path)).status == 403
    assert (await browser.post(f"/admin/sagas/{saga_id}/do/retry", seq=seq, reason="x")).status == 403
    assert (await browser.post("/admin/sagas/bulk?action=retry&of=all", reason="x", limit="9")).status == 403
    assert (await browser.post(f"/admin/sagas/{saga_id}/again", key="k", input="{}")).status == 403
    assert (await shop.api.get(f"/sagas/{saga_id}")).json["state"] == "COMPENSATION_FAILED"


async def test_a_tenant_sees_its_own_and_nobody_elses(shop: World):
    saga_id = await stuck(shop)
    browser = await user(shop.api, "tom", "operator", "other")
    assert (await browser.get(f"/admin/sagas/{saga_id}")).status == 404
    assert (await browser.get(f"/admin/sagas/{saga_id}/live")).status == 404
    assert saga_id not in (await browser.get("/admin/sagas")).html
    assert "Nothing needs a person." in (await browser.get("/admin/")).text
    assert "0 sagas match" in (await browser.get("/admin/sagas/bulk?action=retry&of=all")).text
    assert (await browser.post(f"/admin/sagas/{saga_id}/do/abandon", seq="1", reason="x")).status == 404
