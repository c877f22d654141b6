"""The page of one saga: it tells what happened, offers what its state allows, and does nothing that is out of date."""

import asyncio
import re

import pytest

from app.dashboard.attempts import WIDTH, attempts_of, line_of
from app.saga.state import SECOND
from tests.api.conftest import ONCE, World
from tests.conftest import KEY
from tests.dashboard.conftest import Browser, Element
from tests.participant import BUSY, REFUSED, answers

LATER = {"max_attempts": 3, "initial_delay": "1h", "max_delay": "1h"}
NO_SAGA = "01a217d2-9632-7413-8cdd-891220d2fef0"


@pytest.fixture
async def shop(world: World) -> World:
    await world.define(
        {"name": "reserve", "compensation_retry": ONCE},
        {"name": "charge", "retry": LATER, "input": {"amount": "input.amount", "by": "'card'"}},
        {"name": "mail", "compensation": "none"},
    )
    return world


async def stuck(world: World) -> str:
    saga_id = (await world.submit(input={"amount": 5}))["id"]
    world.participant.on("charge", REFUSED, saga_id=saga_id)
    world.participant.on("reserve", answers(400), operation="compensation", saga_id=saga_id)
    assert (await world.run(saga_id))["state"] == "COMPENSATION_FAILED"
    return saga_id


async def waiting(world: World, behaviour=BUSY) -> str:
    """Its charge is tried again in an hour."""
    saga_id = (await world.submit(input={"amount": 5}, labels={"customer": "4711"}))["id"]
    world.participant.on("charge", behaviour, saga_id=saga_id)
    assert (await world.run(saga_id))["steps"][1]["state"] == "RETRYING"
    return saga_id


def action(page: Element, name: str) -> Element:
    return page.one("details", id=f"do-{name}").one("form")


async def told(world: World, saga_id: str) -> dict:
    return (await world.api.get(f"/sagas/{saga_id}")).json


async def audited(world: World) -> list[str]:
    return [line["action"] for line in (await world.api.get("/admin/api/audit")).json["items"] if line["saga_id"]]


# --- what may be done -------------------------------------------------------------------------------------------


async def test_what_is_offered_is_what_the_api_allows_and_the_rest_says_why(shop: World, browser: Browser):
    for saga_id in (await stuck(shop), await waiting(shop), (await shop.submit())["id"], (await shop.ran())["id"]):
        page = (await browser.get(f"/admin/sagas/{saga_id}")).page
        verdicts = (await shop.api.get(f"/admin/api/sagas/{saga_id}/actions")).json
        offered = {each["id"].removeprefix("do-") for each in page.all("details", "action")}
        refused = {each["data-action"]: each.text for each in page.one("section", id="do").all("li")}
        assert offered == {name for name, verdict in verdicts.items() if verdict["allowed"]}
        assert offered | set(refused) == set(verdicts)
        for name, text in refused.items():
            assert verdicts[name]["why"] in text


async def test_a_failed_compensation_is_retried_and_the_page_says_so(shop: World, browser: Browser):
    saga_id = await stuck(shop)
    page = (await browser.get(f"/admin/sagas/{saga_id}")).page
    done = await browser.send(action(page, "retry"), reason="the shop is back")
    assert done.status == 303
    shown = await browser.get(done.headers["Location"])
    assert "It is tried again." in shown.text
    assert (await shop.run(saga_id))["state"] == "FAILED"
    assert "what was done is undone (1 of 1)" in (await browser.get(f"/admin/sagas/{saga_id}")).text
    assert await audited(shop) == ["retry"]


async def test_every_action_of_its_page_can_be_done(shop: World, browser: Browser):
    async def does(saga_id: str, name: str, **fields: str) -> dict:
        page = (await browser.get(f"/admin/sagas/{saga_id}")).page
        done = await browser.send(action(page, name), reason="a test", **fields)
        assert done.status == 303, done.text
        return await told(shop, done.headers["Location"].split("/")[3].partition("?")[0])

    saga_id = await waiting(shop, answers(429, {}))
    assert (await does(saga_id, "pause"))["paused"]
    assert not (await does(saga_id, "resume"))["paused"]
    before = await told(shop, saga_id)
    assert (await does(saga_id, "extend", timeout="3h"))["deadline_at"] > before["deadline_at"]
    skipped = await does(saga_id, "skip", step="charge", confirm_not_done="true")
    assert skipped["steps"][1]["state"] == "SKIPPED"
    assert (await does(saga_id, "compensate"))["state"] == "COMPENSATING"
    assert (await does(saga_id, "abandon"))["state"] == "ABANDONED"
    assert (await does(saga_id, "restart"))["restarted_from"] == saga_id
    settled = await does(await stuck(shop), "resolve", step="reserve")
    assert (settled["state"], settled["steps"][0]["compensation"]["state"]) == ("FAILED", "RESOLVED")


async def test_an_action_from_a_page_that_is_out_of_date_does_nothing_and_shows_the_truth(
    shop: World, browser: Browser
):
    saga_id = await stuck(shop)
    page = (await browser.get(f"/admin/sagas/{saga_id}")).page
    await shop.act(saga_id, "resolve", step="reserve")
    before = await told(shop, saga_id)
    for name in ("retry", "abandon", "restart"):
        shown = await browser.send(action(page, name), reason="too late")
        assert shown.status == 412
        assert "Nothing was done." in shown.text
        assert shown.page.one("section", id="head")["data-state"] == "FAILED"
        assert shown.page.one("main")["data-self"] == f"/admin/sagas/{saga_id}"
    assert await told(shop, saga_id) == before
    assert await audited(shop) == ["resolve"]


async def test_what_the_state_does_not_allow_is_refused_with_its_reason(shop: World, browser: Browser):
    saga_id = (await shop.ran())["id"]
    seq = (await browser.get(f"/admin/sagas/{saga_id}")).page.one("section", id="head")["data-seq"]
    shown = await browser.post(f"/admin/sagas/{saga_id}/do/pause", seq=seq, reason="x")
    assert shown.status == 409
    assert "COMPLETED" in shown.page.one("div", "alert").text


@pytest.mark.parametrize("fields", [{"reason": "x"}, {"seq": "", "reason": "x"}, {"seq": "1", "reason": "x"}])
async def test_a_form_that_does_not_say_what_it_has_seen_does_nothing(fields: dict, shop: World, browser: Browser):
    saga_id = await stuck(shop)
    assert (await browser.post(f"/admin/sagas/{saga_id}/do/abandon", **fields)).status == 412
    assert (await told(shop, saga_id))["state"] == "COMPENSATION_FAILED"


async def test_a_reason_is_asked_for(shop: World, browser: Browser):
    saga_id = await stuck(shop)
    page = (await browser.get(f"/admin/sagas/{saga_id}")).page
    shown = await browser.send(action(page, "abandon"), reason="  ")
    assert shown.status == 422
    assert "Say why" in shown.text
    assert not await audited(shop)


async def test_nonsense_gets_a_page_and_no_500(shop: World, browser: Browser):
    saga_id = await waiting(shop)
    seq = (await browser.get(f"/admin/sagas/{saga_id}")).page.one("section", id="head")["data-seq"]
    assert (await browser.get("/admin/sagas/nope")).status == 404
    assert (await browser.get(f"/admin/sagas/{NO_SAGA}")).status == 404
    assert (await browser.get(f"/admin/sagas/{NO_SAGA}/live")).status == 404
    assert (await browser.post(f"/admin/sagas/{NO_SAGA}/do/retry", seq="1", reason="x")).status == 404
    assert (await browser.post(f"/admin/sagas/{saga_id}/do/destroy", seq=seq, reason="x")).status == 404
    assert (await browser.post(f"/admin/sagas/{saga_id}/do/extend", seq=seq, reason="x", timeout="soon")).status == 422
    assert (await browser.post(f"/admin/sagas/{saga_id}/do/skip", seq=seq, reason="x", step="none")).status == 422
    assert (await browser.post(f"/admin/sagas/{saga_id}/do/skip", seq=seq, reason="x" * 5000, step="")).status == 422
    assert (await browser.post(f"/admin/sagas/{saga_id}/do/retry", seq=seq, reason="x", input="{")).status == 400
    assert (await browser.get(f"/admin/sagas/{saga_id}/input/none")).status == 409
    assert (await browser.get(f"/admin/sagas/{saga_id}/input/reserve")).status == 409
    assert (await browser.get(f"/admin/sagas/{saga_id}?done=%3Cb%3E")).status == 200
    headers = {**browser.headers, "Content-Type": "application/json"}
    wrong = await shop.api("POST", f"/admin/sagas/{saga_id}/do/retry", {"seq": seq}, key=None, **headers)
    assert wrong.status == 415
    assert not await audited(shop)


# --- another input ----------------------------------------------------------------------------------------------


async def test_an_input_is_edited_its_difference_shown_and_then_applied(shop: World, browser: Browser):
    saga_id = await waiting(shop, answers(429))
    page = (await browser.get(f"/admin/sagas/{saga_id}")).page
    link = page.one("a", href=f"/admin/sagas/{saga_id}/input/charge")
    assert link.text == "Edit and retry"
    edit = (await browser.get(link["href"])).main
    assert '"amount": 5' in edit.one("textarea").text
    preview = await browser.send(edit.one("form"), input='{"amount": 4, "by": "card"}')
    assert [line.text for line in preview.page.one("div", "diff").all("div", "del")] == ['- "amount": 5,']
    assert [line.text for line in preview.page.one("div", "diff").all("div", "add")] == ['+ "amount": 4,']
    assert not await audited(shop)

    form = next(form for form in preview.main.all("form") if form["action"].endswith("/do/retry"))
    done = await browser.send(form, reason="the price was wrong", confirm_not_done="true")
    assert done.status == 303, done.text
    await shop.run(saga_id)
    asked = [each for each in shop.participant.asked if each.step == "charge"]
    assert [each.body["input"] for each in asked] == [{"amount": 5, "by": "card"}, {"amount": 4, "by": "card"}]
    assert asked[1].key == f"{saga_id}/charge~1"
    shown = (await browser.get(f"/admin/sagas/{saga_id}")).page
    assert '"amount": 4' in shown.one("details", id="step-2").one("pre", aria_label="Input of charge").text


async def test_an_unknown_outcome_has_to_be_settled_by_who_edits(shop: World, browser: Browser):
    saga_id = await waiting(shop)
    edit = (await browser.get(f"/admin/sagas/{saga_id}/input/charge")).main
    preview = await browser.send(edit.one("form"), input="{}")
    form = next(form for form in preview.main.all("form") if form["action"].endswith("/do/retry"))
    refused = await browser.send(form, reason="x")
    assert refused.status == 409
    assert "not known" in refused.page.one("div", "alert").text
    assert (await browser.send(form, reason="x", confirm_not_done="true")).status == 303


async def test_an_input_that_is_no_json_or_no_change(shop: World, browser: Browser):
    saga_id = await waiting(shop)
    edit = (await browser.get(f"/admin/sagas/{saga_id}/input/charge")).main.one("form")
    broken = await browser.send(edit, input="{'amount': 4}")
    assert broken.status == 400
    assert "{'amount': 4}" in broken.page.one("textarea", id="input").text
    same = await browser.send(edit)
    assert "Nothing would change" in same.text


async def test_an_edit_of_a_saga_that_has_moved_shows_what_is_there_now(shop: World, browser: Browser):
    saga_id = await waiting(shop)
    edit = (await browser.get(f"/admin/sagas/{saga_id}/input/charge")).main.one("form")
    await shop.act(saga_id, "retry", step="charge", input={"amount": 3}, confirm_not_done=True)
    shop.participant.on("charge", BUSY, saga_id=saga_id)
    await shop.run(saga_id)
    shown = await browser.send(edit, input='{"amount": 4}')
    assert shown.status == 412
    assert '"amount": 3' in shown.page.one("textarea", id="input").text


# --- one like it ------------------------------------------------------------------------------------------------


async def test_one_like_it_is_started_once_for_a_key(shop: World, browser: Browser):
    saga_id = await waiting(shop)
    form = (await browser.get(f"/admin/sagas/{saga_id}/again")).main.one("form")
    first = await browser.send(form, key="again-1")
    second = await browser.send(form, key="again-1")
    assert (first.status, second.status) == (303, 303)
    assert first.headers["Location"] == second.headers["Location"]
    started = await told(shop, first.headers["Location"].split("/")[3].partition("?")[0])
    assert started["input"] == {"amount": 5}
    assert started["labels"] == {"customer": "4711"}
    other = await browser.send(form, key="again-1", input='{"amount": 6}')
    assert other.status == 422
    assert "again-1" in other.text
    for wrong in ({"key": ""}, {"key": "a b"}, {"key": "k", "labels": "x"}, {"key": "k", "labels": "a b: c"}):
        assert (await browser.send(form, **wrong)).status in {400, 422}


# --- what it tells ----------------------------------------------------------------------------------------------


async def test_each_attempt_with_status_time_key_and_head_of_the_answer(shop: World, browser: Browser):
    saga_id = (await shop.submit(input={"amount": 5}))["id"]
    shop.participant.on("charge", answers(503, {"why": "the bank is closed"}), saga_id=saga_id)
    await shop.run(saga_id)
    await shop.act(saga_id, "retry")
    await shop.run(saga_id)
    page = (await browser.get(f"/admin/sagas/{saga_id}")).page
    step = page.one("details", id="step-2")
    first, second = list(step.one("table").one("tbody").all("tr"))
    assert [cell.text for cell in first.all("td")][2] == "503"
    assert re.search(r"\d ms", first.text)
    assert "the bank is closed" in first.one("pre").text
    assert f"{saga_id}/charge" in first.text
    assert "succeeded" in second.text
    titles = [title.text for title in page.one("section", id="line").all("title")]
    assert any(title.startswith("attempt 1: failed, outcome unknown (503) after") for title in titles)
    events = (await shop.api.get(f"/sagas/{saga_id}/events")).json["items"]
    assert [row["data-seq"] for row in page.one("details", id="raw").all("tr") if row["data-seq"]] == [
        str(event["seq"]) for event in events
    ]


async def test_the_graph_says_how_every_operation_stands(shop: World, browser: Browser):
    saga_id = await stuck(shop)
    graph = (await browser.get(f"/admin/sagas/{saga_id}")).page.one("section", id="graph").one("svg")
    stands = {(g["data-operation"], g["data-step"]): g["data-state"] for g in graph.all("g") if g["data-state"]}
    saga = await told(shop, saga_id)
    for step in saga["steps"]:
        assert stands["action", step["name"]] == step["state"]
        if step["name"] != "mail":
            assert stands["compensation", step["name"]] == step["compensation"]["state"]
    assert not list(graph.all("style"))


async def test_what_curl_would_do_is_what_the_page_does(shop: World, browser: Browser):
    saga_id = await stuck(shop)
    page = (await browser.get(f"/admin/sagas/{saga_id}")).page
    text = page.one("details", id="do-resolve").one("pre").text
    assert f'"$SAGA_URL"/admin/api/sagas/{saga_id}/resolve' in text
    assert '"step": "reserve"' in text
    assert KEY not in (await browser.get(f"/admin/sagas/{saga_id}")).html
    tag = (await shop.api.get(f"/sagas/{saga_id}")).headers["ETag"]
    assert f"If-Match: {tag}" in text


async def test_a_choreographed_saga_has_events_in_place_of_calls(world: World, browser: Browser):
    steps = [
        {"name": "Reserve", "service": "shop", "trigger": "Placed", "succeeded": "Reserved", "failed": "NotReserved",
         "compensated": "Released"},
        {"name": "Pay", "service": "shop", "trigger": "Reserved", "succeeded": "Paid", "failed": "NotPaid",
         "compensated": "Refunded"},
    ]  # fmt: skip
    definition = {"name": "dance", "type": "choreography", "started_by": "Placed", "correlation": "data.id"}
    answer = await world.api.put("/definitions/dance", {**definition, "steps": steps})
    assert answer.status == 201, answer.content
    tracking = asyncio.create_task(world.worker.tracker.run())
    for number, kind in enumerate(("Placed", "Reserved", "NotPaid")):
        event = {
            "specversion": "1.0",
            "id": str(number),
            "source": "/s",
            "type": kind,
            "data": {"id": "A", "reason": "no"},
        }
        assert (await world.api.post("/events", event)).status == 202
    saga = None
    while saga is None or saga["state"] != "COMPENSATING":
        found = (await world.api.get("/sagas?saga=dance")).json["items"]
        saga = found[0] if found else None
        await asyncio.sleep(0.02)
    tracking.cancel()
    shown = await browser.get(f"/admin/sagas/{saga['id']}")
    assert "Pay failed; 0 of 1 undone" in shown.text
    assert "Events in time" in shown.text
    assert [code.text for code in shown.page.one("details", id="step-2").one("dl").all("code")] == [
        "Reserved", "Paid", "NotPaid", "Refunded"
    ]  # fmt: skip
    assert not list(shown.page.all("a", href=f"/admin/sagas/{saga['id']}/again"))
    assert '"type": "Placed"' in shown.page.one("details", id="start-curl").text
    listed = (await browser.get("/admin/sagas?saga=dance")).page
    assert listed.one("tr", "saga-row")["data-state"] == "COMPENSATING"


# --- it moves ---------------------------------------------------------------------------------------------------


async def test_an_open_page_hears_that_its_saga_has_moved(shop: World, browser: Browser):
    saga_id = await waiting(shop)
    live = (await browser.get(f"/admin/sagas/{saga_id}")).page.one("main")["data-live"]
    async with browser.stream(live) as stream:
        for action in ("pause", "resume"):
            await shop.act(saga_id, action)
            await _until_moved(stream)


async def test_the_list_hears_that_one_has_come(shop: World, browser: Browser):
    async with browser.stream("/admin/sagas/live?saga=order") as stream:
        moved = asyncio.create_task(_until_moved(stream))
        while not moved.done():
            await shop.submit()
            await asyncio.wait([moved], timeout=0.5)
        await moved


async def _until_moved(stream) -> None:
    while (await stream.readline()) != b"event: moved\n":
        pass


async def test_a_page_that_is_behind_hears_so_at_once(shop: World, browser: Browser):
    saga_id = await waiting(shop)
    async with browser.stream(f"/admin/sagas/{saga_id}/live?known=1") as stream:
        await _until_moved(stream)


async def test_a_saga_that_has_ended_is_not_listened_to(shop: World, browser: Browser):
    saga_id = (await shop.ran())["id"]
    assert "data-live" not in (await browser.get(f"/admin/sagas/{saga_id}")).page.one("main").attributes


# --- the line of time -------------------------------------------------------------------------------------------


def event(kind: str, at: float, attempt: int = 1, **data) -> dict:
    operation = "compensation" if kind.startswith("Compensation") else "action"
    return {
        "type": kind,
        "at": round(at * SECOND),
        "step": "a",
        "operation": operation,
        "attempt": attempt,
        "data": data,
    }


def test_idle_time_is_folded():
    """Two calls of a second, an hour apart, are each a third of the line or more."""
    found = attempts_of(
        [
            event("StepStarted", 0, key="k"),
            event("StepAttemptFailed", 1, outcome="unknown", retry_at=3600 * SECOND, error={"status": 503}),
            event("StepStarted", 3600, 2),
            event("StepSucceeded", 3601, 2, ms=990),
        ]
    )
    line = line_of(found, 3700 * SECOND)
    rest, first, second = line.tracks[0].bars
    assert (first.kind, second.kind, rest.kind) == ("bad", "good", "rest")
    assert first.width > WIDTH / 3
    assert second.width > WIDTH / 3
    assert rest.x == pytest.approx(first.x + first.width, abs=0.2)
    assert len(line.folds) == 1
    assert first.x + first.width < line.folds[0] < second.x
    assert second.x + second.width <= WIDTH + 0.2


def test_attempts_beside_each_other_share_the_line():
    events = [
        {**event("StepStarted", 0), "step": "a"},
        {**event("StepStarted", 1), "step": "b"},
        {**event("StepSucceeded", 2), "step": "a"},
        {**event("StepSucceeded", 4), "step": "b"},
    ]
    a, b = line_of(attempts_of(events), 9 * SECOND).tracks
    assert (a.bars[0].x, a.bars[0].width) == (0, WIDTH / 2)
    assert (b.bars[0].x, b.bars[0].width) == (WIDTH / 4, WIDTH * 3 / 4)


def test_what_is_under_way_is_drawn_until_now():
    line = line_of(attempts_of([event("StepStarted", 0), event("StepWaiting", 1, status=202)]), 10 * SECOND)
    assert line.tracks[0].bars[0].width == WIDTH
    assert line.tracks[0].bars[0].kind == "waiting"


def test_an_answer_that_came_too_late_has_an_attempt_of_its_own():
    found = attempts_of(
        [event("StepStarted", 0), event("StepAttemptLost", 9), event("StepSucceeded", 10), event("StepSkipped", 11)]
    )
    assert [attempt.word for attempt in found["a", "action"]] == ["lost", "succeeded"]


def test_nothing_tried_has_no_line():
    assert line_of({}, 0).tracks == []
