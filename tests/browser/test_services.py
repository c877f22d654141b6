"""Services: one that is down is paused, whoever waits for it says so, and goes on when it is resumed."""

from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Place, shoot


def row_of(page: Page, service: str) -> Locator:
    return page.locator(f"tr[data-service='{service}']")


def act(page: Page, service: str, what: str, reason: str) -> None:
    page.goto("/admin/services")
    row = row_of(page, service)
    row.locator("details > summary").first.click()
    row.get_by_label("Reason").fill(reason)
    row.get_by_role("button", name=what).click()


def start_until_one_waits(place: Place) -> str:
    """A worker that is busy goes on calling for up to three seconds."""
    for _ in range(20):
        saga = place.start(wait=1)
        if saga["state"] == "EXECUTING":
            return str(saga["id"])
    raise AssertionError("the pause does not hold")


def test_a_service_is_paused_and_resumed_under_the_eyes_of_a_saga_that_waits(page: Page, place: Place):
    act(page, "payment", "Pause", "the bank is down")
    expect(page.get_by_role("status")).to_contain_text("nothing new is sent to it")
    expect(row_of(page, "payment")).to_contain_text("by user:admin: the bank is down")
    saga_id = start_until_one_waits(place)
    saga = page.context.new_page()
    saga.goto(f"/admin/sagas/{saga_id}")
    expect(saga.locator("#sentence")).to_contain_text("charge-payment waits: an operator has paused payment")
    page.goto("/admin/")
    expect(page.locator("#health")).to_contain_text("nothing new is sent to payment")
    page.goto("/admin/services")
    row_of(page, "payment").locator("details > summary").first.click()
    shoot(page, "services-paused")
    act(page, "payment", "Resume", "the bank is back")
    expect(row_of(page, "payment")).not_to_contain_text("by user:admin")
    expect(saga.locator("#head")).to_have_attribute("data-state", "COMPLETED")
    expect(saga.locator("#sentence")).to_contain_text("3 of 3 steps done")
