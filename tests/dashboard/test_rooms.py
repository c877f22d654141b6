"""The other rooms: dead letters, the audit trail, definitions, services, and the house itself."""

import re
from typing import Any

import pytest

from app.access import Caller, Right
from app.broker import STEPS
from app.engine import now_of
from app.observability import our_version
from app.saga.messages import Claim
from app.saga.state import ACTION
from app.store import rates
from app.store.schema import known_revisions
from tests.api.conftest import ONCE, World
from tests.dashboard.conftest import Browser, Element
from tests.dashboard.test_frame import user
from tests.participant import REFUSED, answers

SCRIPT = "<script>alert('x')</script>"


@pytest.fixture
async def shop(world: World) -> World:
    await world.define({"name": "reserve", "compensation_retry": ONCE}, {"name": "charge"})
    return world


async def stuck(world: World, message: str | None = None) -> str:
    """A saga with an open dead letter: its compensation was given up."""
    saga_id = (await world.submit())["id"]
    world.participant.on("charge", REFUSED, saga_id=saga_id)
    refused = answers(400) if message is None else answers(400, {"message": message})
    world.participant.on("reserve", refused, operation="compensation", saga_id=saga_id)
    assert (await world.run(saga_id))["state"] == "COMPENSATION_FAILED"
    return saga_id


# --- dead letters -----------------------------------------------------------------------------------------------


def letters(page: Element) -> dict[str, Element]:
    return {row["data-letter-id"]: row for row in page.all("tr") if row["data-letter-id"]}


async def test_open_letters_are_listed_and_one_is_retried(shop: World, browser: Browser):
    saga_id = await stuck(shop)
    shown = await browser.get("/admin/dead-letters")
    ((letter_id, row),) = letters(shown.page).items()
    assert "undo reserve" in row.text
    assert f"/admin/sagas/{saga_id}" in [link["href"] for link in row.all("a")]
    form = row.one("form", method="post")
    refused = await browser.send(form, reason=" ")
    assert (refused.status, "Say why you do this" in refused.text) == (422, True)
    done = await browser.send(form, reason="the shop is back")
    assert (done.status, done.headers["Location"]) == (303, "/admin/dead-letters?status=open&done=retry")
    assert "It is tried again." in (await browser.get(done.headers["Location"])).text
    assert (await shop.run(saga_id))["state"] == "FAILED"
    assert letters((await browser.get("/admin/dead-letters")).page) == {}
    (closed,) = letters((await browser.get("/admin/dead-letters?status=all")).page).values()
    assert closed["data-letter-id"] == letter_id
    assert all("disabled" in button.attributes for button in closed.all("button"))


async def test_a_letter_is_discarded_once(shop: World, browser: Browser):
    saga_id = await stuck(shop)
    page = (await browser.get("/admin/dead-letters")).page
    discard = next(button for button in page.all("button", "danger"))["formaction"]
    assert (await browser.post(discard, reason="settled by phone")).status == 303
    assert (await shop.api.get(f"/sagas/{saga_id}")).json["state"] == "COMPENSATION_FAILED"
    again = await browser.post(discard, reason="settled by phone")
    assert (again.status, "Nothing was done." in again.text) == (409, True)
    trail = (await shop.api.get("/admin/api/audit")).json["items"]
    assert [(line["action"], line["reason"]) for line in trail if line["saga_id"]] == [("discard", "settled by phone")]


async def test_letters_page_by_page(shop: World, browser: Browser):
    for _ in range(3):
        await stuck(shop)
    whole = list(letters((await browser.get("/admin/dead-letters")).page))
    seen, address = [], "/admin/dead-letters?limit=2"
    while address:
        page = (await browser.get(address)).page
        seen.append(list(letters(page)))
        address = next((link["href"] for link in page.all("a", rel="next")), "")
    assert [len(each) for each in seen] == [2, 1]
    assert [letter_id for each in seen for letter_id in each] == whole
    assert len(whole) == 3


async def test_who_may_only_look_sees_why_nothing_can_be_done(shop: World, browser: Browser, monkeypatch):
    await stuck(shop)
    may_not = (await browser.get("/admin/dead-letters")).main.one("form", method="post")
    monkeypatch.setattr(Caller, "may", lambda _, right: right is not Right.OPERATE)
    shown = await browser.get("/admin/dead-letters")
    (row,) = letters(shown.page).values()
    assert list(row.all("form")) == []
    assert all("disabled" in button.attributes for button in row.all("button"))
    assert "This needs the role operator." in row.text
    assert (await browser.send(may_not, reason="still")).status == 403


async def test_letters_of_a_wrong_address(browser: Browser):
    for query in ("status=lost", "saga_id=1", "cursor=x", "nothing=1"):
        assert (await browser.get(f"/admin/dead-letters?{query}")).status == 422, query
    assert (await browser.post("/admin/dead-letters/1/retry", reason="x")).status == 404
    assert (await browser.post("/admin/dead-letters/1/burn", reason="x")).status == 404


# --- the audit trail --------------------------------------------------------------------------------------------


async def test_the_trail_says_who_did_what_to_which_saga_and_why(shop: World, browser: Browser):
    first, second = await stuck(shop), await stuck(shop)
    await shop.act(first, "retry", reason="the shop is back")
    await shop.act(second, "abandon", reason="nobody wants it")
    page = (await browser.get("/admin/audit?actor=key:bootstrap&limit=2")).page
    assert [row["data-action"] for row in lines(page)] == ["abandon", "retry"]
    assert "nobody wants it" in lines(page)[0].text
    assert f"/admin/sagas/{second}" in [link["href"] for link in lines(page)[0].all("a")]
    (actor,) = {row["data-actor"] for row in lines(page)}
    form = page.one("form", role="search")
    for fields, actions in (
        ({"action": "retry"}, ["retry"]),
        ({"saga_id": second}, ["abandon"]),
        ({"actor": actor}, ["abandon", "retry", "put-definition", "put-service"]),
        ({"actor": "user:nobody"}, []),
    ):
        shown = await browser.send(form, **fields)
        assert [row["data-action"] for row in lines(shown.page)] == actions, fields
    assert (await browser.send(form, saga_id="1")).status == 422


async def test_the_trail_page_by_page(shop: World, browser: Browser):
    for _ in range(3):
        await shop.act(await stuck(shop), "retry")
    pages, address = [], "/admin/audit?limit=2&action=retry"
    while address:
        page = (await browser.get(address)).page
        pages.append([row.one("time")["datetime"] for row in lines(page)])
        address = next((link["href"] for link in page.all("a", rel="next")), "")
    times = [at for each in pages for at in each]
    assert [len(each) for each in pages] == [2, 1]
    assert times == sorted(set(times), reverse=True)


def lines(page: Element) -> list[Element]:
    return [row for row in page.all("tr") if row["data-action"]]


# --- definitions ------------------------------------------------------------------------------------------------


def cells(row: Element) -> dict[str, str]:
    return {cell["data-label"]: cell.text for cell in row.all("td") if cell["data-label"]}


async def finished(world: World, **more: Any) -> str:
    saga_id = (await world.submit(**more))["id"]
    assert (await world.run(saga_id))["state"] == "COMPLETED"
    return saga_id


async def test_definitions_with_what_runs_and_how_they_fare(shop: World, browser: Browser):
    await shop.define({"name": "greet"}, name="hello")
    for _ in range(2):
        await finished(shop)
    await stuck(shop)
    failed = (await shop.submit())["id"]
    shop.participant.on("charge", REFUSED, saga_id=failed)
    assert (await shop.run(failed))["state"] == "FAILED"
    await shop.submit()
    page = (await browser.get("/admin/definitions")).page
    rows = {row["data-definition"]: cells(row) for row in page.all("tr") if row["data-definition"]}
    rows = {name: {label: row[label] for label in row if label != "Since"} for name, row in rows.items()}
    shares = {"Completed": "50 %", "Failed": "50 %", "Something undone": "50 %"}
    nothing = dict.fromkeys(shares, "\N{EN DASH}")
    assert rows.pop("hello") == {"Version": "1", "Running": "0", **nothing, "Of": "0 ended"}
    assert list(rows.values()) == [{"Version": "1", "Running": "1", **shares, "Of": "4 ended"}]


async def test_a_definition_with_its_steps_versions_and_graph(shop: World, browser: Browser):
    for _ in range(3):
        await finished(shop)
    await stuck(shop)
    name = (await shop.api.get("/sagas")).json["items"][0]["saga"]
    await shop.define({"name": "reserve"}, {"name": "charge"}, {"name": "mail"}, name=name)
    page = (await browser.get(f"/admin/definitions/{name}?version=1")).page
    assert page.one("svg", "saga-diagram")
    steps = {(row["data-step"], row["data-operation"]): cells(row) for row in page.all("tr") if row["data-step"]}
    assert list(steps) == [("reserve", "action"), ("reserve", "compensation"), ("charge", "action")]
    charge = steps["charge", "action"]
    assert (charge["Succeeded in"], charge["Attempts failed or refused"]) == ("3", "25 %")
    assert charge["p50"].endswith("s")
    assert charge["p95"].endswith("s")
    assert steps["reserve", "action"]["Undone"] == "0 %"
    assert steps["reserve", "compensation"]["Attempts failed or refused"] == "100 %"
    assert [row["data-version"] for row in page.all("tr") if row["data-version"]] == ["2", "1"]
    newest = (await browser.get(f"/admin/definitions/{name}")).page
    assert "mail" in [row["data-step"] for row in newest.all("tr")]
    for path in (f"{name}?version=3", "nothing"):
        assert (await browser.get(f"/admin/definitions/{path}")).status == 404
    assert (await browser.get(f"/admin/definitions/{name}?version=x")).status == 422


async def test_rates_are_of_the_newest_sagas_only(shop: World, browser: Browser, monkeypatch):
    await stuck(shop)
    for _ in range(2):
        await finished(shop)
    monkeypatch.setattr(rates, "FEW", 2)
    (row,) = (each for each in (await browser.get("/admin/definitions")).page.all("tr") if each["data-definition"])
    assert (cells(row)["Completed"], cells(row)["Of"]) == ("100 %", "2 ended")


async def test_rates_for_one_tenant_are_of_its_sagas(shop: World, app_state: Any):
    await finished(shop)
    database = app_state.house.database
    for ask in (rates.rates(database, "other"), rates.in_flight(database, "other")):
        assert await ask == {}
    assert await rates.recent_calls(database, "other") == []
    assert (await rates.active(database, "other")).numbers == {}
    for tenant in ("", None):
        (found,) = (await rates.rates(database, tenant)).values()
        assert (found.sagas, found.completed) == (1, 1)
        assert len(await rates.recent_calls(database, tenant)) == 2


# --- services ---------------------------------------------------------------------------------------------------


def services(page: Element) -> dict[str, Element]:
    return {row["data-service"]: row for row in page.all("tr") if row["data-service"]}


async def test_services_with_what_they_do_and_how_their_last_calls_went(shop: World, browser: Browser):
    headers = {"X-Token": "very-secret"}
    bank = {"url": "http://127.0.0.1:1/bank", "headers": headers, "max_in_flight": 3}
    assert (await shop.api.put("/services/bank", bank)).status == 201
    saga_id = await stuck(shop)
    shown = await browser.get("/admin/services")
    found = services(shown.page)
    assert list(found) == ["shop", "bank"]  # what needs attention comes first
    row = cells(found["shop"])
    assert (row["Attention"], row["In flight"], row["Errors"]) == ("1", "0", "33 % of 3")
    last = list(found["shop"].all("a"))
    assert {link["href"] for link in last} == {f"/admin/sagas/{saga_id}"}
    assert last[0].text.startswith("undo reserve, attempt 1: failed (400) in ")
    assert last[1].text.startswith("charge, attempt 1: refused (422) in ")
    assert last[-1].text.startswith("reserve, attempt 1: succeeded (200) in ")
    assert "http://127.0.0.1:1/bank" in found["bank"].text
    assert "at most 3 at once" in found["bank"].text
    assert "very-secret" not in shown.html


async def test_a_step_that_is_called_now_is_in_flight(shop: World, browser: Browser):
    saga = await shop.worker.engine.load((await shop.submit())["id"])
    await shop.worker.engine.tell(saga, lambda saga: Claim(now_of(saga), 0, ACTION))
    assert cells(services((await browser.get("/admin/services")).page)["shop"])["In flight"] == "1"


async def test_one_is_paused_and_resumed_and_whoever_waits_for_it_says_so(shop: World, browser: Browser):
    form = services((await browser.get("/admin/services")).page)["shop"].one("form", method="post")
    refused = await browser.send(form, reason=" ")
    assert (refused.status, "Say why you do this" in refused.text) == (422, True)
    done = await browser.send(form, reason="it is being moved")
    assert (done.status, done.headers["Location"]) == (303, "/admin/services?done=pause")
    saga_id = (await shop.submit())["id"]
    await shop.worker.sweeper.sweep()
    shown = await browser.get(done.headers["Location"])
    assert "nothing new is sent to it" in shown.text
    row = services(shown.page)["shop"]
    assert "by user:admin: it is being moved" in row.text
    assert (cells(row)["In flight"], cells(row)["Waiting"]) == ("0", "1")
    waits = "reserve waits: an operator has paused shop."
    assert waits in (await browser.get(f"/admin/sagas/{saga_id}")).page.one(id="sentence").text
    assert waits in (await browser.get("/admin/sagas")).page.one(data_saga_id=saga_id).text
    health = (await browser.get("/admin/")).page.one("ul", id="health").text
    assert "nothing new is sent to shop" in health

    twice = await browser.send(form, reason="again")
    assert (twice.status, "Nothing was done." in twice.text, "shop is paused already" in twice.text) == (
        409,
        True,
        True,
    )
    resume = services(shown.page)["shop"].one("form", method="post")
    done = await browser.send(resume, reason="it has moved")
    assert (done.status, done.headers["Location"]) == (303, "/admin/services?done=resume")
    assert "by user:admin" not in services((await browser.get(done.headers["Location"])).page)["shop"].text
    assert (await shop.run(saga_id))["state"] == "COMPLETED"
    trail = (await shop.api.get("/admin/api/audit?subject=service/shop")).json["items"]
    assert [(line["actor"], line["action"]) for line in trail][:2] == [
        ("user:admin", "resume-service"),
        ("user:admin", "pause-service"),
    ]


async def test_who_may_pause_none_sees_why(shop: World, browser: Browser, monkeypatch):
    form = services((await browser.get("/admin/services")).page)["shop"].one("form", method="post")
    assert (await browser.post("/admin/services/none/pause", reason="x")).status == 404
    assert (await browser.post("/admin/services/shop/burn", reason="x")).status == 404
    monkeypatch.setattr(Caller, "may", lambda _, right: right is not Right.OPERATE)
    row = services((await browser.get("/admin/services")).page)["shop"]
    assert list(row.all("form")) == []
    assert "This needs the role operator." in row.text
    assert (await browser.send(form, reason="still")).status == 403


async def test_an_operator_of_a_tenant_pauses_nothing(shop: World, browser: Browser):
    form = services((await browser.get("/admin/services")).page)["shop"].one("form", method="post")
    theirs = await user(shop.api, "ada", "operator", "acme")
    row = services((await theirs.get("/admin/services")).page)["shop"]
    assert list(row.all("form")) == []
    assert "Services are paused and resumed by the house" in row.text
    refused = await theirs.post(form["action"], reason="still")
    assert (refused.status, "Nothing was done." in refused.text) == (403, True)
    assert (await shop.api.get("/services/shop")).json["paused"] is None


async def test_pages_that_are_open_hear_of_a_pause(shop: World, browser: Browser):
    saga_id = (await shop.submit())["id"]
    pages = [f"/admin/sagas/{saga_id}", "/admin/sagas"]
    streams = [(await browser.get(page)).page.one("main")["data-live"] for page in pages]
    form = services((await browser.get("/admin/services")).page)["shop"].one("form", method="post")
    assert (await browser.send(form, reason="it is being moved")).status == 303
    for stream in streams:  # of the pages that were made before
        async with browser.stream(stream) as lines:
            while await lines.readline() != b"event: moved\n":
                pass
    for page in pages:  # and those that are made now have nothing to hear
        stream = (await browser.get(page)).page.one("main")["data-live"]
        async with browser.stream(stream) as lines:
            assert (await lines.readline()).startswith(b"retry: ")
            assert await lines.readline() == b"\n"
            assert not (await lines.readline()).startswith(b"event")


# --- the house --------------------------------------------------------------------------------------------------


async def test_the_house_tells_who_works_and_what_waits(world: World, browser: Browser):
    redis = world.worker.alive._redis
    for who, facts in (
        ("worker/host-a/11", '{"version":"1.0","claimed_ago":30.0}'),
        ("worker/host-b/12", '{"version":"1.1","claimed_ago":null}'),
        ("beat/host-a/13", '{"version":"1.1"}'),
    ):
        await redis.sadd("saga:alive", who)
        await redis.set(f"saga:alive/{who}", facts, ex=60)
    await redis.lpush(STEPS, "1", "2")
    page = (await browser.get("/admin/house")).page
    people = {row["data-who"]: row.text for row in page.all("tr") if row["data-who"]}
    assert list(people) == ["beat/host-a/13", "worker/host-a/11", "worker/host-b/12"]
    assert re.search("3[0-9] s ago", people["worker/host-a/11"])
    assert "never" in people["worker/host-b/12"]
    depths = {row["data-queue"]: cells(row)["Messages"] for row in page.all("tr") if row["data-queue"]}
    assert depths[STEPS] == "2"
    assert our_version() in page.one("main").text
    assert known_revisions()[-1] in page.one("main").text


@pytest.mark.parametrize("options", [{"redis_url": "redis://127.0.0.1:1/0"}])
async def test_the_house_without_redis_says_so(options: dict, browser: Browser):
    shown = await browser.get("/admin/house")
    assert (shown.status, "Redis does not answer" in shown.text) == (200, True)


# --- all of them ------------------------------------------------------------------------------------------------

PATHS = [
    "/admin/dead-letters",
    "/admin/audit",
    "/admin/definitions",
    "/admin/definitions/order",
    "/admin/services",
    "/admin/house",
]


async def test_what_others_wrote_is_escaped(shop: World, browser: Browser):
    saga_id = await stuck(shop, SCRIPT)
    await shop.act(saga_id, "retry", reason=SCRIPT)
    await shop.run(saga_id)
    for path in PATHS:
        shown = await browser.get(path)
        assert shown.status == 200, path
        assert "<script>alert" not in shown.html, path
        assert ("alert(" in shown.text) == (path == "/admin/audit")
        for element in shown.page.all():
            assert element.tag != "style", path
            assert "style" not in element.attributes, (path, element.tag)
            assert element.tag != "script" or element["src"].startswith("/admin/static/"), path
