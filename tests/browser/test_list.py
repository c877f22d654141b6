"""The list: looking, finding, and doing to many."""

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import Place


def shown(page: Page) -> list[str | None]:
    return [row.get_attribute("data-saga-id") for row in page.locator(".saga-list .saga-row").all()]


def test_found_by_chip_label_and_error_text(page: Page, place: Place):
    done = place.start(labels={"shelf": "one"})["id"]
    stuck = place.stuck(labels={"shelf": "two"})["id"]
    page.get_by_role("link", name="Sagas", exact=True).last.click()
    rows = page.locator(".saga-list .saga-row")
    expect(rows.first).to_have_attribute("data-saga-id", stuck)
    assert {done, stuck} <= set(shown(page))

    page.locator(".chip", has_text="COMPLETED").click()
    expect(page.locator(".chip[aria-current]")).to_contain_text("COMPLETED")
    expect(page).to_have_url(re.compile("state=COMPLETED"))
    assert done in shown(page)
    assert {row.get_attribute("data-state") for row in rows.all()} == {"COMPLETED"}

    page.locator(".chip", has_text="all").click()
    page.get_by_label("Label").fill("shelf:two")
    page.get_by_role("button", name="Search").click()
    expect(page).to_have_url(re.compile("label=shelf"))
    assert shown(page) == [stuck]
    page.get_by_role("link", name="Clear").click()

    page.locator(f"[data-saga-id='{done}'] a.label").click()
    expect(rows).to_have_count(1)
    assert shown(page) == [done]

    page.goto("/admin/sagas")
    page.get_by_label("Error text").fill("do not want")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("text="))
    assert stuck in shown(page)
    assert done not in shown(page)


def test_a_running_saga_moves_in_the_open_list(page: Page, place: Place):
    place.tell("charge-payment", "HELD")
    saga_id = place.start(wait=0)["id"]
    page.goto("/admin/sagas")
    page.evaluate("window.stayed = true")
    row = page.locator(f"[data-saga-id='{saga_id}']")
    expect(row).to_have_attribute("data-state", "EXECUTING")
    expect(row.get_by_role("img")).to_have_accessible_name("1 of 3 steps done")
    place.release()
    expect(row).to_have_attribute("data-state", "COMPLETED")
    expect(row.get_by_role("img")).to_have_accessible_name("3 of 3 steps done")
    assert page.evaluate("window.stayed")


def test_many_are_counted_first_then_retried_for_a_reason_and_no_more_than_the_limit(page: Page, place: Place):
    ids = [place.stuck(labels={"lot": "many"})["id"] for _ in range(3)]
    page.goto("/admin/sagas?label=lot:many")
    page.locator("select[name=action]").select_option("retry")
    page.locator("select[name=of]").select_option("all")
    page.get_by_role("button", name="Count them first").click()
    expect(page.locator("#matched")).to_have_text("3 sagas match. Nothing has been done yet.")
    assert [place.ask("GET", f"/sagas/{i}")[1]["state"] for i in ids] == ["COMPENSATION_FAILED"] * 3

    page.get_by_role("button", name="Retry them").click()
    expect(page.get_by_label("Reason")).to_be_focused()  # the browser asks for it
    page.get_by_label("Reason").fill("inventory is back")
    page.get_by_label("At most").fill("2")
    page.get_by_role("button", name="Retry them").click()
    expect(page.get_by_role("status")).to_contain_text("done to 2 of 3")

    page.get_by_role("link", name="Those that match now").click()
    expect(page.locator(".saga-row[data-state=FAILED]")).to_have_count(2)
    expect(page.locator(".saga-row[data-state=COMPENSATION_FAILED]")).to_have_count(1)
    assert [place.audit(i) for i in ids] == [
        [],
        [("user:admin", "retry", "inventory is back")],
        [("user:admin", "retry", "inventory is back")],
    ]


def test_those_selected(page: Page, place: Place):
    ids = [place.stuck(labels={"lot": "few"})["id"] for _ in range(3)]
    page.goto("/admin/sagas?label=lot:few")
    page.get_by_label("Select all on this page").check()
    page.locator(f"[data-saga-id='{ids[1]}'] input[type=checkbox]").uncheck()
    page.get_by_role("button", name="Count them first").click()
    expect(page.locator("#matched")).to_have_text("2 sagas match. Nothing has been done yet.")
    page.get_by_label("Reason").fill("these two")
    page.get_by_role("button", name="Retry them").click()
    expect(page.get_by_role("status")).to_contain_text("done to 2 of 2")
    assert [len(place.audit(i)) for i in ids] == [1, 0, 1]


def test_the_landing_page_leads_to_the_group_and_what_is_done_to_it(page: Page, place: Place):
    saga_id = place.stuck()["id"]
    page.goto("/admin/")
    group = page.locator(".group[data-step=reserve-inventory]")
    expect(group).to_contain_text("oldest since")
    group.get_by_role("link", name="Look").click()
    assert saga_id in shown(page)
    page.go_back()
    group.get_by_role("link", name="Retry all").click()
    expect(page.locator("#matched")).to_contain_text("Nothing has been done yet")
