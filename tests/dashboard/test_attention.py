"""The landing page: causes with their counts, a button for exactly these, and the health of the house."""

import pytest
from sqlalchemy import text

from app.alive import KEPT_SECONDS, Alive, leave_sign
from app.engine import now_of
from app.house import House
from app.saga.messages import ParticipantMissing
from app.saga.state import ACTION
from app.store import overview
from tests.api.conftest import ONCE, World
from tests.dashboard.conftest import Browser, Element
from tests.dashboard.test_list import rows
from tests.participant import REFUSED, answers


@pytest.fixture
async def shop(world: World) -> World:
    await world.api.put("/services/bank", {"url": world.participant.url})
    await world.define(
        {"name": "reserve", "compensation_retry": ONCE},
        {"name": "charge", "service": "bank", "retry": ONCE, "on_exhausted": "pause"},
    )
    return world


async def stuck(world: World, status: int = 400) -> str:
    saga_id = (await world.submit())["id"]
    world.participant.on("charge", REFUSED, saga_id=saga_id)
    world.participant.on("reserve", answers(status), operation="compensation", saga_id=saga_id)
    assert (await world.run(saga_id))["state"] == "COMPENSATION_FAILED"
    return saga_id


async def holding(world: World) -> str:
    saga_id = (await world.submit())["id"]
    world.participant.on("charge", answers(503), saga_id=saga_id)
    assert (await world.run(saga_id))["paused"]
    return saga_id


def causes(page: Element) -> list[tuple[str, str, int]]:
    return [
        (
            group.one("h2").text,
            group["data-error"],
            int(group.one("a", "number").text.split()[0]),
        )
        for group in page.all("li", "group")
    ]


async def test_causes_by_service_step_and_error_with_links_to_exactly_these(shop: World, browser: Browser):
    first, second = await stuck(shop), await stuck(shop)
    third, fourth = await stuck(shop, 403), await holding(shop)
    await shop.ran()
    page = (await browser.get("/admin/")).page
    assert sorted(causes(page)) == [
        ("bank: charge exhausted-503", "exhausted-503", 1),
        ("shop: undo reserve refused-400", "refused-400", 2),
        ("shop: undo reserve refused-403", "refused-403", 1),
    ]
    met = {}
    for group in page.all("li", "group"):
        listed = await browser.get(group.one("a", "number")["href"])
        met[group["data-error"]] = list(rows(listed.page))
    assert met == {"refused-400": [second, first], "refused-403": [third], "exhausted-503": [fourth]}


async def test_the_button_of_a_cause_retries_exactly_these(shop: World, browser: Browser):
    mine, other = await stuck(shop), await stuck(shop, 403)
    group = next(g for g in (await browser.get("/admin/")).page.all("li", "group") if g["data-error"] == "refused-400")
    button = next(link for link in group.all("a", "button") if link.text.startswith("Retry"))
    asked = await browser.get(button["href"])
    assert "1 saga matches" in asked.text
    sent = await browser.send(asked.main.one("form", method="post"), reason="the shop is back")
    done = await browser.get(sent.headers["Location"])
    assert "done to 1 of 1" in done.text
    assert (await shop.run(mine))["state"] == "FAILED"
    assert (await shop.api.get(f"/sagas/{other}")).json["state"] == "COMPENSATION_FAILED"
    assert len(causes((await browser.get("/admin/")).page)) == 1


async def test_a_service_that_is_gone_is_a_cause(shop: World, browser: Browser):
    await shop.define({"name": "greet", "action": "a" * 20}, name="hello")
    saga = await shop.worker.engine.load((await shop.submit("hello"))["id"])
    missing = "greet: no service of this name"
    await shop.worker.engine.tell(saga, lambda saga: ParticipantMissing(now_of(saga), 0, ACTION, missing))
    found = causes((await browser.get("/admin/")).page)
    assert [(error, count) for _, error, count in found] == [("participant-missing", 1)]


async def test_more_than_can_be_looked_at_are_still_counted(shop: World, browser: Browser, monkeypatch):
    for _ in range(3):
        await stuck(shop)
    monkeypatch.setattr(overview, "LOOKED_AT", 2)
    text = (await browser.get("/admin/")).text
    assert "3 sagas need a person" in text
    assert "The newest 2 are counted here." in text


async def test_a_saga_whose_state_is_not_understood_keeps_nobody_from_seeing_the_others(shop: World, browser: Browser):
    await stuck(shop, 403)
    spoilt = await stuck(shop)
    before = causes((await browser.get("/admin/")).page)
    async with shop.worker.database.begin() as connection:
        spoil = """UPDATE saga SET document = document || '{"state": "NOWHERE", "steps": 1}' WHERE id = :id"""
        await connection.execute(text(spoil), {"id": spoilt})
    shown = await browser.get("/admin/")
    assert (shown.status, causes(shown.page)) == (200, before)


async def test_nothing_needs_a_person(shop: World, browser: Browser):
    await shop.ran()
    assert "Nothing needs a person." in (await browser.get("/admin/")).text


async def test_the_landing_page_is_found_without_its_slash(browser: Browser):
    assert (await browser.get("/admin")).headers["Location"] == "/admin/"


# --- the health of the house ------------------------------------------------------------------------------------


def told(page: Element) -> dict[str, tuple[str, str]]:
    """By part: its tone and its words."""
    return {part.one("b").text: (part["class"], part.text) for part in page.one("ul", "health").all("li")}


async def test_who_is_there_is_told_and_who_is_not(world: World, browser: Browser):
    parts = told((await browser.get("/admin/")).page)
    assert parts["Workers"][0] == "bad"
    assert parts["Beat"][0] == "bad"
    assert parts["Time"][0] == "good"
    alive = world.worker.alive
    pipeline = alive._redis.pipeline(transaction=False)
    leave_sign(pipeline, "worker", {"version": "1", "claimed_ago": 30.0})
    leave_sign(pipeline, "beat", {"version": "1"})
    await pipeline.execute()
    await alive.swept({"woken": 0})
    parts = told((await browser.get("/admin/")).page)
    assert parts["Workers"][0] == "good"
    assert "1 there, last claim 30 s ago" in parts["Workers"][1]
    assert parts["Beat"] == ("good", "✓ Beat last sweep 0 s ago")


async def test_workers_of_two_versions_are_told(world: World, browser: Browser):
    alive = world.worker.alive
    for pid, version in ((1, "1.0"), (2, "1.1")):
        await alive._redis.sadd("saga:alive", f"worker/host/{pid}")
        await alive._redis.set(f"saga:alive/worker/host/{pid}", f'{{"version":"{version}","claimed_ago":null}}', ex=60)
    assert told((await browser.get("/admin/")).page)["Versions"][1] == "! Versions workers of 1.0 and 1.1"


@pytest.mark.parametrize("options", [{"redis_url": "redis://127.0.0.1:1/0"}])
async def test_redis_gone_is_told_and_the_page_is_there(options: dict, browser: Browser):
    shown = await browser.get("/admin/")
    assert shown.status == 200
    assert told(shown.page)["Redis"][0] == "bad"


async def test_a_sign_fades(house: House):
    alive: Alive = house.alive
    pipeline = alive._redis.pipeline(transaction=False)
    leave_sign(pipeline, "worker", {"version": "1", "claimed_ago": None})
    await pipeline.execute()
    (sign,) = (await alive.look()).there("worker")
    assert sign.age_seconds < 5
    (name,) = await alive._redis.keys("saga:alive/*")
    await alive._redis.pexpire(name, (KEPT_SECONDS - 20) * 1000)  # as 20 seconds later
    seen = await alive.look()
    assert seen.there("worker") == []
    assert 20 <= seen.found[0].age_seconds < 25
    await alive._redis.delete(name)
    assert (await alive.look()).found == []
    assert await alive._redis.smembers("saga:alive") == set()
