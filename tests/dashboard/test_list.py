"""The list: it says what the pages of its sagas say, finds what is looked for, and acts on many when told twice."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from app import probes
from app.api import sagas as api_sagas
from app.errors import DatabaseUnavailable
from app.operating import Operator
from app.store import overview
from app.store.bulk_jobs import BulkJobs
from app.store.sagas import Saga
from tests.api.conftest import ONCE, World
from tests.dashboard.conftest import PASSWORD, Browser, Element
from tests.participant import ACCEPTED, ACTION, BUSY, COMPENSATION, REFUSED, Behaviour, answers

LATER = {"max_attempts": 3, "initial_delay": "1h", "max_delay": "1h"}
SCRIPT = "<script>alert('x')</script>"


@pytest.fixture
async def shop(world: World) -> World:
    await define(world)
    return world


async def define(world: World, **more: Any) -> None:
    """`more` of each step."""
    await world.define(
        {"name": "reserve", "compensation_retry": ONCE, **more},
        {"name": "charge", "retry": LATER, **more},
        {"name": "mail", "compensation": "none", "retry": ONCE, "on_exhausted": "pause", **more},
    )


async def stuck(world: World, **more) -> str:
    """A saga whose compensation has failed."""
    saga_id = (await world.submit(**more))["id"]
    world.participant.on("charge", REFUSED, saga_id=saga_id)
    world.participant.on("reserve", answers(400), operation="compensation", saga_id=saga_id)
    assert (await world.run(saga_id))["state"] == "COMPENSATION_FAILED"
    return saga_id


def rows(page: Element) -> dict[str, Element]:
    return {row["data-saga-id"]: row for row in page.all("tr", "saga-row")}


async def found(browser: Browser, **query: str) -> list[str]:
    shown = await browser.get(f"/admin/sagas?{urlencode(query)}")
    assert shown.status == 200, shown.text
    return list(rows(shown.page))


# --- it agrees with the detail ----------------------------------------------------------------------------------


def timeless(sentence: str) -> str:
    """Without how long it is until the next attempt: the two pages are made one after the other."""
    return re.sub(r"\bin \d+ (s|min|h)\b|\bas soon as a worker takes it\b", "soon", sentence)


async def agreed(world: World, browser: Browser, saga_id: str) -> dict[str, Any]:
    """The saga as the API tells it, once its row, its page and the API have been found to say the same."""
    row = rows((await browser.get("/admin/sagas")).page)[saga_id]
    head = (await browser.get(f"/admin/sagas/{saga_id}")).page.one("section", id="head")
    told = (await world.api.get(f"/sagas/{saga_id}")).json
    assert row["data-state"] == head["data-state"] == told["state"]
    assert row["data-seq"] == head["data-seq"]
    assert timeless(row.one("td", "said").text) == timeless(head.one("p", "sentence").text)
    squares = [(s["class"], s["title"]) for s in row.one("span", "progress").all("i")]
    assert squares == [(s["class"], s["title"]) for s in head.one("span", "progress").all("i")]
    assert ("attention" in row.one("td", "what").text) == (told["attention"] is not None)
    assert ("paused" in row.one("td", "what").text) == told["paused"]
    return {**told, "seq": int(row["data-seq"])}


async def test_the_list_says_what_the_detail_says_after_every_transition(shop: World, browser: Browser):
    saga_id = (await shop.submit())["id"]
    shop.participant.on("charge", BUSY, saga_id=saga_id)
    shop.participant.on("mail", answers(503), saga_id=saga_id)
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: shop.act(saga_id, "pause"),
        lambda: shop.act(saga_id, "resume"),
        lambda: shop.run(saga_id),  # charge waits to be repeated
        lambda: shop.act(saga_id, "retry"),
        lambda: shop.run(saga_id),  # mail holds
        lambda: shop.act(saga_id, "compensate"),
        lambda: shop.run(saga_id),  # undone
    ]
    seen = set()
    for step in steps:
        await step()
        told = await agreed(shop, browser, saga_id)
        seen.add((told["state"], told["seq"]))
    assert len(seen) == len(steps)


@pytest.mark.parametrize("options", [{"lease_grace": 240, "admin_password": PASSWORD}])
async def test_they_agree_after_every_transition_of_a_running_load(options: dict, shop: World, browser: Browser):
    """Sagas side by side; each waits after each of its transitions, claims too, until it has been looked at."""
    looked: list[dict[str, Any]] = []

    await define(shop, timeout="10m")  # an attempt's time goes on while it is looked at, and so does its grace
    one_at_a_time = asyncio.Lock()

    async def look(saga_id: str, **_: Any) -> None:
        async with one_at_a_time:
            looked.append(await agreed(shop, browser, saga_id))

    faults: list[dict[tuple[str, str], Behaviour]] = [
        {},
        {("charge", ACTION): BUSY},
        {("charge", ACTION): REFUSED},
        {("charge", ACTION): REFUSED, ("reserve", COMPENSATION): answers(400)},
        {("mail", ACTION): answers(503)},
        {("charge", ACTION): ACCEPTED},
    ]
    ids = []
    for behaviours in faults:
        ids.append((await shop.submit())["id"])
        for (step, operation), behaviour in behaviours.items():
            shop.participant.on(step, behaviour, operation=operation, saga_id=ids[-1])
    with probes.arm(probes.PERFORM_RUNG, look):
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            running = [group.create_task(shop.run(saga_id)) for saga_id in ids]
    ended = [each.result() for each in running]
    for saga in ended:
        events = (await shop.api.get(f"/sagas/{saga['id']}/events")).json["items"]
        assert max(told["seq"] for told in looked if told["id"] == saga["id"]) == events[-1]["seq"]
    assert {saga["state"] for saga in ended} == {"COMPLETED", "FAILED", "COMPENSATION_FAILED", "EXECUTING"}
    assert "COMPENSATING" in {told["state"] for told in looked}
    assert "RUNNING" in {step["state"] for told in looked for step in told["steps"]}


async def test_a_square_has_a_sign_and_words_beside_its_colour(shop: World, browser: Browser):
    saga_id = await stuck(shop)
    progress = rows((await browser.get("/admin/sagas")).page)[saga_id].one("span", "progress")
    assert progress["aria-label"] == "1 of 3 steps done"
    assert [(square.text, square["title"]) for square in progress.all("i") if square["title"]] == [
        ("✓", "reserve: SUCCEEDED"),
        ("✗", "charge: REFUSED"),
        ("⊘", "mail: CANCELLED"),
        ("✗", "undo reserve: FAILED"),
        ("⊘", "undo charge: NOT_NEEDED"),
    ]


# --- it finds what is looked for --------------------------------------------------------------------------------


async def test_search_by_key_label_error_text_cause_and_time(shop: World, browser: Browser):
    done = (await shop.ran(key="order-1", labels={"customer": "4711"}))["id"]
    needy = await stuck(shop, key="order-2", labels={"customer": "4712"})
    holding = (await shop.submit(key="order-3"))["id"]
    shop.participant.on("mail", answers(503), saga_id=holding)
    await shop.run(holding)

    assert await found(browser) == [holding, needy, done]
    assert await found(browser, key="order-2") == [needy]
    assert await found(browser, label="customer:4711") == [done]
    assert await found(browser, state="COMPLETED") == [done]
    assert await found(browser, attention="true") == [holding, needy]
    assert await found(browser, text="do NOT want") == [needy]
    assert await found(browser, text="100%_") == []
    assert await found(browser, step="reserve") == [needy]
    assert await found(browser, step="mail", error="exhausted-503") == [holding]
    assert await found(browser, step="mail", error="exhausted-500") == []
    assert await found(browser, within="1h") == [holding, needy, done]
    assert await found(browser, created_after="2999-01-01T00:00") == []
    assert await found(browser, created_before="2999-01-01T00:00:00") == [holding, needy, done]
    assert await found(browser, saga="refund") == []


async def test_the_api_finds_the_same(shop: World):
    needy = await stuck(shop)
    await shop.ran()
    for query in ("step=reserve", "error=refused-400", "text=not+want", f"id={needy}"):
        answer = await shop.api.get(f"/sagas?{query}")
        assert [saga["id"] for saga in answer.json["items"]] == [needy], query
    told = await shop.api.post(
        "/admin/api/bulk",
        {"action": "retry", "filter": {"step": "reserve", "error": "refused-400"}, "dry_run": True, "reason": "a test"},
    )
    assert told.json["matched"] == 1
    names = {each["name"] for each in api_sagas.FILTER_PARAMETERS}
    assert {"step", "error", "text", "id"} <= names


async def test_what_is_wrong_with_the_address_is_told_and_nothing_is_searched(shop: World, browser: Browser):
    await shop.ran()
    for query in ("state=NONE", "label=x", "cursor=%00", "nonsense=1", "within=1y", "limit=0", "attention=perhaps"):
        shown = await browser.get(f"/admin/sagas?{query}")
        assert shown.status == 422
        assert query.partition("=")[0] in shown.page.one("ul", "faults").text
        assert not rows(shown.page)


async def test_the_form_keeps_the_view(shop: World, browser: Browser):
    await shop.ran(key="order-1")
    page = (await browser.get("/admin/sagas?state=COMPLETED&key=order-1&within=1h")).page
    shown = await browser.send(page.one("form", role="search"))
    assert len(rows(shown.page)) == 1
    assert next(shown.page.all("a", "chip", aria_current="true")).text.startswith("COMPLETED")


async def test_pages_neither_skip_nor_repeat(shop: World, browser: Browser):
    ids = [(await shop.submit())["id"] for _ in range(7)]
    met, path = [], "/admin/sagas?limit=3&saga=order"
    while path:
        page = (await browser.get(path)).page
        met += list(rows(page))
        path = next((link["href"] for link in page.all("a", rel="next")), "")
        path = path and f"{path}&limit=3"
    assert met == ids[::-1]


async def test_chips_count_within_the_search_and_not_for_ever(shop: World, browser: Browser, monkeypatch):
    for n in range(3):
        await shop.ran(labels={"half": str(n % 2)})
    await stuck(shop)

    async def chips(query: str) -> dict[str, str]:
        page = (await browser.get(f"/admin/sagas{query}")).page
        return {re.sub(r"\s.*", "", chip.text): chip.one("b").text for chip in list(page.all("a", "chip"))[1:]}

    assert (await chips(""))["COMPLETED"] == "3"
    assert (await chips("?state=FAILED"))["COMPLETED"] == "3"
    assert (await chips("?label=half:0"))["COMPLETED"] == "2"
    assert (await chips(""))["needs"] == "1"
    told = {"COMPLETED": "0", "COMPENSATION_FAILED": "1", "needs": "1"}
    for query in ("?text=do+NOT+want", "?step=reserve", "?error=refused-400&state=FAILED"):
        assert told.items() <= (await chips(query)).items(), query
    monkeypatch.setattr(overview, "COUNTED", 2)
    assert (await chips(""))["COMPLETED"] == "2+"
    monkeypatch.setattr(overview, "COUNTED", 0)
    common = (await browser.get("/admin/sagas?step=reserve")).page
    assert [chip for chip in common.all("a", "chip") if list(chip.all("b"))] == []


async def test_no_saga_at_all(world: World, browser: Browser):
    assert "There are no sagas yet" in (await browser.get("/admin/sagas")).text
    assert "No saga matches" in (await browser.get("/admin/sagas?key=none")).text


# --- many at once -----------------------------------------------------------------------------------------------


async def test_all_that_match_are_counted_first_and_done_with_a_reason_and_a_limit(shop: World, browser: Browser):
    ids = [await stuck(shop) for _ in range(3)]
    await shop.ran()
    page = (await browser.get("/admin/sagas?attention=true")).page
    asked = await browser.send(page.one("form", action="/admin/sagas/bulk"), action="retry", of="all")
    assert "3 sagas match" in asked.text
    assert {(await shop.api.get(f"/sagas/{i}")).json["state"] for i in ids} == {"COMPENSATION_FAILED"}

    form = asked.main.one("form", method="post")
    for wrong in ({"reason": " "}, {"reason": "x", "limit": "0"}, {"reason": "x", "limit": "many"}):
        refused = await browser.send(form, **wrong)
        assert refused.status == 422
        assert "Nothing was done" in refused.text
    sent = await browser.send(form, reason="the shop is back", limit="2")
    assert sent.status == 303  # to load the result anew does nothing again
    done = await browser.get(sent.headers["Location"])
    assert "done to 2 of 3" in done.text
    assert "the shop is back" in done.text
    assert "attentionyes" in done.page.one("main").text.replace(" ", "")
    states = [(await shop.api.get(f"/sagas/{i}")).json["state"] for i in ids]
    assert states == ["COMPENSATION_FAILED", "COMPENSATING", "COMPENSATING"]  # the newest two
    audit = (await shop.api.get("/admin/api/audit")).json["items"]
    assert [line["reason"] for line in audit if line["saga_id"]] == ["the shop is back"] * 2


async def test_those_selected_and_no_others(shop: World, browser: Browser):
    ids = [await stuck(shop) for _ in range(3)]
    form = (await browser.get("/admin/sagas?attention=true")).main.one("form", action="/admin/sagas/bulk")
    asked = await browser.send(form, action="retry", of="selected", selected=[ids[0], ids[2]])
    assert "2 sagas match" in asked.text
    await browser.send(asked.main.one("form", method="post"), reason="these two")
    states = [(await shop.api.get(f"/sagas/{i}")).json["state"] for i in ids]
    assert states == ["COMPENSATING", "COMPENSATION_FAILED", "COMPENSATING"]


async def test_nothing_selected_is_not_everything(shop: World, browser: Browser):
    await stuck(shop)
    form = (await browser.get("/admin/sagas")).main.one("form", action="/admin/sagas/bulk")
    shown = await browser.send(form, action="retry", of="selected")
    assert shown.status == 422
    assert "Nothing is selected" in shown.text


@pytest.mark.parametrize(
    "query", ["action=abandon", "action=", "action=retry&state=NONE", "action=retry&statee=FAILED"]
)
async def test_an_action_on_what_was_not_meant_is_refused(query: str, shop: World, browser: Browser):
    saga_id = await stuck(shop)
    assert (await browser.get(f"/admin/sagas/bulk?{query}")).status == 422
    assert (await browser.post(f"/admin/sagas/bulk?{query}", reason="x", limit="10")).status == 422
    assert (await shop.api.get(f"/sagas/{saga_id}")).json["state"] == "COMPENSATION_FAILED"


async def test_those_whose_state_does_not_allow_it_are_told(shop: World, browser: Browser):
    saga_id = (await shop.ran())["id"]
    asked = await browser.get("/admin/sagas/bulk?action=pause&of=all")
    sent = await browser.send(asked.main.one("form", method="post"), reason="a try")
    done = await browser.get(sent.headers["Location"])
    assert "done to 0 of 1" in done.text
    assert saga_id in done.text
    assert "saga-at-rest" in done.text


async def test_jobs_are_listed_and_lead_to_those_that_match_now(shop: World, browser: Browser):
    assert "Nobody has done anything to many" in (await browser.get("/admin/bulk")).text
    for shelf in ("a", "b"):
        await shop.submit(labels={"shelf": shelf})
        query = urlencode({"action": "pause", "of": "all", "label": f"shelf:{shelf}", "state": "EXECUTING"})
        asked = await browser.get(f"/admin/sagas/bulk?{query}")
        await browser.send(asked.main.one("form", method="post"), reason=f"shelf {shelf}")
    first = (await browser.get("/admin/bulk?limit=1")).page
    (row,) = (row for row in first.all("tr") if row["data-job-id"])
    assert "shelf b" in row.text
    assert "user:admin" in row.text
    older = (await browser.get(first.one("a", rel="next")["href"])).page
    (row,) = (row for row in older.all("tr") if row["data-job-id"])
    job = (await browser.get(next(row.all("a"))["href"])).page
    back = next(link["href"] for link in job.all("a") if link.text == "Those that match now")
    assert dict(parse_qsl(urlsplit(back).query)) == {"label": "shelf:a", "state": "EXECUTING"}
    assert (await browser.get(back)).status == 200
    for path in ("/admin/bulk/nothing", "/admin/bulk/01900000-0000-7000-8000-000000000000"):
        assert (await browser.get(path)).status == 404
    assert (await browser.get("/admin/bulk?cursor=x")).status == 422


async def test_where_the_database_went_away_it_is_said_that_it_is_not_known(shop: World, browser: Browser, monkeypatch):
    done, doubtful = (await shop.submit())["id"], (await shop.submit())["id"]
    pause = Operator.pause

    async def away(operator: Operator, saga_id: str, reason: str) -> Saga:
        saga = await pause(operator, saga_id, reason)
        if saga_id == doubtful:
            raise DatabaseUnavailable(OSError("gone with the answer"))
        return saga

    monkeypatch.setattr(Operator, "pause", away)
    asked = await browser.get("/admin/sagas/bulk?action=pause&of=all")
    sent = await browser.send(asked.main.one("form", method="post"), reason="x")
    job = await browser.get(sent.headers["Location"])
    assert "done to 1 of 2" in job.text
    assert "it is not known whether it was done" in job.text
    assert [link["href"] for link in job.main.one("table").all("a")] == [f"/admin/sagas/{doubtful}"]
    assert (await shop.api.get(f"/sagas/{done}")).json["paused"]


async def test_a_job_whose_process_died_says_so(shop: World, browser: Browser, monkeypatch):
    async def dies(*_: object) -> None:
        raise DatabaseUnavailable("away")

    await shop.submit()
    asked = await browser.get("/admin/sagas/bulk?action=pause&of=all")
    monkeypatch.setattr(BulkJobs, "end", dies)
    assert (await browser.send(asked.main.one("form", method="post"), reason="x")).status == 503
    (row,) = (row for row in (await browser.get("/admin/bulk")).page.all("tr") if row["data-job-id"])
    assert "not ended" in row.text
    shown = await browser.get(next(row.all("a"))["href"])
    assert "it has not ended" in shown.text
    trail = next(link["href"] for link in shown.main.all("a") if link["href"].startswith("/admin/audit"))
    assert (await browser.get(trail)).page.one("tr", data_action="pause")


async def test_what_is_confirmed_is_what_was_counted_though_time_goes_on(shop: World, browser: Browser):
    await shop.submit()
    page = (await browser.get("/admin/sagas/bulk?action=pause&of=all&within=15m")).main
    action = page.one("form", method="post")["action"]
    assert "created_after=" in action
    assert "within" not in action


# --- what others wrote ------------------------------------------------------------------------------------------


async def test_stored_script_is_shown_and_not_run(shop: World, browser: Browser):
    saga_id = (await shop.submit(key=SCRIPT, labels={"note": SCRIPT}, input={"x": SCRIPT, SCRIPT: 1}))["id"]
    body = {"detail": SCRIPT}
    shop.participant.on("charge", answers(422, body, Content_Type="application/problem+json"), saga_id=saga_id)
    shop.participant.on("reserve", answers(400, SCRIPT), operation="compensation", saga_id=saga_id)
    await shop.run(saga_id)
    await shop.act(saga_id, "retry", reason=SCRIPT)
    await shop.run(saga_id)
    paths = ["/admin/", "/admin/sagas", f"/admin/sagas/{saga_id}", f"/admin/sagas/{saga_id}/again"]
    paths += [f"/admin/sagas?{urlencode({'key': SCRIPT, 'label': f'note:{SCRIPT}'})}"]
    paths += [f"/admin/sagas?{urlencode({'text': SCRIPT, 'state': SCRIPT})}"]
    paths += [f"/admin/sagas/bulk?{urlencode({'action': 'retry', 'of': 'all', 'key': SCRIPT})}"]
    paths += [f"/admin/sagas/bulk?{urlencode({'action': SCRIPT})}", "/admin/sagas/%3Cscript%3E"]
    for path in paths:
        shown = await browser.get(path)
        assert "<script>alert" not in shown.html, path
        if path not in {"/admin/", "/admin/sagas/%3Cscript%3E"}:
            assert "alert(" in shown.text or shown.status == 422, path
        for script in shown.page.all("script"):
            assert script["src"].startswith("/admin/static/")
    posted = await browser.post(f"/admin/sagas/{saga_id}/again", key="k", labels=SCRIPT, input=SCRIPT)
    assert "<script>alert" not in posted.html
    assert posted.status >= 400


async def test_a_waiting_saga_says_so(shop: World, browser: Browser):
    saga_id = (await shop.submit())["id"]
    shop.participant.on("charge", ACCEPTED, saga_id=saga_id)
    await shop.run(saga_id)
    said = rows((await browser.get("/admin/sagas")).page)[saga_id].one("td", "said").text
    assert said == "1 of 3 steps done; charge was accepted, and its answer is awaited, 60 min at most."
