"""What an open page does when the server was away: it follows again, and shows what it has missed."""

from collections.abc import Callable

from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Console, Place, fill_in_login


def answered_once(page: Page, pattern: str, status: int) -> list[str]:
    """The first request of that kind is answered so, the others by the server; the addresses of them all."""
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=status, body="away")
        else:
            route.continue_()

    page.route(pattern, answer)
    return asked


def test_a_stream_that_was_answered_with_an_error_is_opened_again(page: Page, place: Place, console: Console):
    console.expected.add("503")
    asked = answered_once(page, "**/live?*", 503)
    saga = held(place)
    page.goto(f"/admin/sagas/{saga['id']}")
    expect(page.locator("#head")).to_have_attribute("data-state", "EXECUTING")
    status, _ = place.ask("POST", f"/admin/api/sagas/{saga['id']}/abandon", {"reason": "a test"})
    assert status == 200
    expect(page.locator("#head")).to_have_attribute("data-state", "ABANDONED", timeout=15_000)
    assert len(asked) <= 2


def test_a_page_that_could_not_be_fetched_is_fetched_again(page: Page, place: Place, console: Console):
    console.expected.add("503")
    saga = held(place)
    page.goto(f"/admin/sagas/{saga['id']}")
    expect(page.locator("[data-live-state]")).to_be_visible()
    asked = answered_once(page, f"**/admin/sagas/{saga['id']}", 503)
    status, _ = place.ask("POST", f"/admin/api/sagas/{saga['id']}/abandon", {"reason": "a test"})
    assert status == 200
    expect(page.locator("#head")).to_have_attribute("data-state", "ABANDONED", timeout=15_000)
    assert len(asked) == 2


def test_who_is_logged_out_elsewhere_is_told_so_and_comes_back_to_the_same_page(
    new_page: Callable[..., Page], place: Place
):
    page = new_page()
    page.goto("/admin/login")
    fill_in_login(page, "operator")
    page.wait_for_url("**/admin/")
    saga = held(place)
    page.goto(f"/admin/sagas/{saga['id']}")
    expect(page.locator("[data-live-state]")).to_be_visible()
    elsewhere = page.context.new_page()
    elsewhere.goto("/admin/")
    elsewhere.get_by_role("button", name="Log out").click()
    elsewhere.wait_for_url("**/admin/login")
    elsewhere.close()
    notice = page.locator("#logged-out")
    expect(notice).to_contain_text("You are logged out", timeout=25_000)
    expect(page.locator("[data-live-state]")).to_be_hidden()
    expect(page.locator("#head")).to_contain_text(saga["id"])  # what was being read is still there
    notice.get_by_role("link", name="Log in").click()
    fill_in_login(page, "operator")
    page.wait_for_url(f"**/admin/sagas/{saga['id']}")


def held(place: Place) -> dict:
    """A saga that stays as it is until somebody does something."""
    place.tell("charge", "BUSY")
    return place.start("careful", wait=0)
