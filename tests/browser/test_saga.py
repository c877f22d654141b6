"""The page of one saga: it moves by itself, and what is done from it is done once, to what was seen."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Console, Place


def head(page: Page) -> Locator:
    return page.locator("#head")


def step_of(page: Page, name: str) -> Locator:
    return page.locator("details.step", has=page.get_by_role("heading", name=name, exact=True))


def edit(page: Page, step: str) -> None:
    expect(head(page)).to_contain_text("needs attention")
    step_of(page, step).evaluate("step => { step.open = true }")
    page.get_by_role("link", name="Edit and retry").click()


def do(page: Page, action: str, reason: str) -> None:
    form = page.locator(f"#do-{action}")
    form.locator("> summary").click()
    form.get_by_label("Reason").fill(reason)
    form.locator("form button").click()


def test_a_running_saga_moves_before_the_eyes(page: Page, place: Place):
    place.tell("charge-payment", "HELD")
    saga_id = place.start(wait=0)["id"]
    page.goto(f"/admin/sagas/{saga_id}")
    page.evaluate("window.stayed = true")
    step = step_of(page, "charge-payment")
    expect(head(page)).to_have_attribute("data-state", "EXECUTING")
    expect(step.locator("> summary")).to_contain_text("RUNNING")
    step.locator("> summary").click()
    place.release()
    expect(head(page)).to_have_attribute("data-state", "COMPLETED")
    expect(page.locator("#sentence")).to_contain_text("3 of 3 steps done")
    expect(step.locator("> summary")).to_contain_text("SUCCEEDED")
    assert step.get_attribute("open") is not None  # as the reader left it
    assert page.evaluate("window.stayed")


def test_a_step_that_comes_to_need_a_person_is_opened_and_nothing_is_closed(page: Page, place: Place):
    place.tell("reserve", "HELD")
    place.tell("charge", "BUSY")
    saga_id = place.start("careful", wait=0)["id"]
    page.goto(f"/admin/sagas/{saga_id}")
    reserve, charge = step_of(page, "reserve"), step_of(page, "charge")
    expect(reserve.locator("> summary")).to_contain_text("RUNNING")
    reserve.locator("> summary").click()
    assert charge.get_attribute("open") is None
    place.release()
    expect(charge).to_have_attribute("open", "")
    expect(page.locator("#said")).to_contain_text("charge")  # and is told to who hears the page
    assert reserve.get_attribute("open") is not None
    charge.locator("> summary").click()
    seq = head(page).get_attribute("data-seq") or ""
    status, _ = place.ask("POST", f"/admin/api/sagas/{saga_id}/extend", {"reason": "a test", "timeout": "1h"})
    assert status == 200
    expect(head(page)).not_to_have_attribute("data-seq", seq)
    assert charge.get_attribute("open") is None


def test_a_failed_compensation_is_retried_from_the_page(page: Page, place: Place):
    saga_id = place.stuck()["id"]
    page.goto("/admin/sagas?attention=true")
    page.locator(f"[data-saga-id='{saga_id}'] a").first.click()
    expect(head(page)).to_have_attribute("data-state", "COMPENSATION_FAILED")
    expect(page.get_by_role("alert")).to_contain_text("A person is needed")
    do(page, "retry", "inventory has been mended")
    expect(page.get_by_role("status").first).to_contain_text("It is tried again")
    expect(head(page)).to_have_attribute("data-state", "FAILED")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert place.audit(saga_id) == [("user:admin", "retry", "inventory has been mended")]


def test_another_input_is_shown_as_a_difference_before_it_is_applied(page: Page, place: Place):
    saga_id = place.holding()["id"]
    page.goto(f"/admin/sagas/{saga_id}")
    edit(page, "charge")
    field = page.get_by_label("Input")
    field.fill(field.input_value().replace("1200", "900"))
    page.get_by_role("button", name="Show the difference").click()
    expect(page.locator(".diff .del")).to_contain_text("1200")
    expect(page.locator(".diff .add")).to_contain_text("900")
    assert place.ask("GET", f"/sagas/{saga_id}")[1]["steps"][1]["attempts"] == 1

    page.get_by_label("Reason").fill("the price was wrong")
    page.get_by_label("I have looked").check()  # a 503 does not say whether it was charged
    page.get_by_role("button", name="Apply, and retry").click()
    expect(head(page)).to_have_attribute("data-state", "COMPLETED")
    expect(page.locator("#steps")).to_contain_text(f"{saga_id}/charge~1")
    assert place.audit(saga_id) == [("user:admin", "retry", "the price was wrong")]


def test_what_is_no_json_is_kept_and_told(page: Page, place: Place, console: Console):
    console.expected.add("status of 400")
    saga_id = place.holding()["id"]
    page.goto(f"/admin/sagas/{saga_id}")
    edit(page, "charge")
    page.get_by_label("Input").fill('{"amount": 9')
    page.get_by_role("button", name="Show the difference").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was done")
    expect(page.get_by_label("Input")).to_have_value('{"amount": 9')


def test_a_page_that_is_out_of_date_does_nothing_and_shows_the_new_truth(page: Page, place: Place, console: Console):
    console.expected.add("status of 412")
    saga_id = place.stuck()["id"]
    page.goto(f"/admin/sagas/{saga_id}")
    form = page.locator("#do-abandon")
    form.locator("> summary").click()
    form.get_by_label("Reason").fill("nothing can be done")
    _, moved = place.ask("POST", f"/admin/api/sagas/{saga_id}/retry", {"reason": "by another"})
    assert moved["state"] == "COMPENSATING"
    expect(head(page)).to_have_attribute("data-state", "FAILED")
    expect(form.get_by_label("Reason")).to_have_value("nothing can be done")  # what is being written is left alone
    form.locator("form button").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was done")
    expect(page.get_by_role("alert")).to_contain_text("how it stands now")
    expect(head(page)).to_have_attribute("data-state", "FAILED")
    assert [action for _, action, _ in place.audit(saga_id)] == ["retry"]


def test_one_like_it_is_started(page: Page, place: Place):
    saga_id = place.start(labels={"customer": "4711"})["id"]
    page.goto(f"/admin/sagas/{saga_id}")
    page.get_by_role("link", name="Start one like this").click()
    page.get_by_label("Idempotency key").fill("one-like-it")
    page.get_by_role("button", name="Start it").click()
    expect(page.get_by_role("status").first).to_contain_text("It is started")
    expect(head(page)).to_have_attribute("data-state", "COMPLETED")
    expect(head(page)).to_contain_text("one-like-it")
    expect(head(page)).to_contain_text("4711")


# --- who may what -----------------------------------------------------------------------------------------------


def test_a_viewer_sees_what_may_not_be_done_and_why(log_in: Callable[..., Page], place: Place, console: Console):
    console.expected.add("status of 403")
    stuck, holding = place.stuck()["id"], place.holding()["id"]
    page = log_in("viewer")
    page.goto(f"/admin/sagas/{stuck}")
    expect(page.locator("#do form")).to_have_count(0)
    expect(page.locator("#do [data-action=retry]")).to_contain_text("This needs the role operator")
    expect(page.get_by_role("link", name="Start one like this", exact=True)).to_have_count(0)
    page.goto(f"/admin/sagas/{holding}")
    expect(head(page)).to_contain_text("needs attention")
    expect(page.get_by_role("link", name="Edit and retry")).to_have_count(0)
    page.goto("/admin/sagas")
    expect(page.locator(".saga-row").first).to_be_visible()
    expect(page.locator("input[type=checkbox], fieldset.bulk :enabled")).to_have_count(0)
    for path in (f"/admin/sagas/{holding}/input/charge", f"/admin/sagas/{stuck}/again"):
        page.goto(path)
        expect(page.locator("main")).to_contain_text("operator")
        expect(page.locator("main form")).to_have_count(0)


@pytest.mark.parametrize("role", ["operator", "admin"])
def test_who_may_act_acts_under_the_own_name(role: str, log_in: Callable[..., Page], place: Place):
    saga_id = place.stuck()["id"]
    page = log_in(role)
    page.goto(f"/admin/sagas/{saga_id}")
    do(page, "resolve", "released by hand")
    expect(head(page)).to_have_attribute("data-state", "FAILED")
    assert place.audit(saga_id) == [(f"user:{role}", "resolve", "released by hand")]


# --- without JavaScript -----------------------------------------------------------------------------------------


def test_all_is_read_and_done_without_javascript(log_in: Callable[..., Page], place: Place):
    saga_id = place.stuck()["id"]
    page = log_in(java_script_enabled=False)
    expect(page.locator(".group[data-step=reserve-inventory]")).to_be_visible()
    expect(page.locator(".health")).to_contain_text("Workers 1 there")
    page.get_by_role("link", name="Sagas", exact=True).last.click()
    page.locator(f"[data-saga-id='{saga_id}'] a").first.click()
    expect(page.locator("#sentence")).not_to_be_empty()
    expect(page.locator("#graph svg")).to_be_visible()
    expect(page.locator("#line svg").first).to_be_visible()
    expect(page.locator("#told li").first).to_be_visible()
    step = step_of(page, "confirm-order")
    step.locator("> summary").click()
    expect(step.get_by_text("Not tried.")).to_be_visible()
    expect(page.locator("[data-copy]:visible")).to_have_count(0)  # what needs a script is not offered
    do(page, "retry", "without a script")
    expect(page.get_by_role("status").first).to_contain_text("It is tried again")
