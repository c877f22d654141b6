"""What an open page does when the server was away: it follows again, and shows what it has missed."""

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Console, Place


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


def test_who_is_logged_out_elsewhere_is_sent_to_the_login(
    log_in: Callable[..., Page], sessions: dict[str, Any], place: Place, console: Console
):
    page = log_in()
    del sessions["admin"]  # it ends here, and other tests log in anew
    saga = held(place)
    console.expected.add("EventSource's response")  # it gets the login, and that is no stream
    page.goto(f"/admin/sagas/{saga['id']}")
    expect(page.locator("[data-live-state]")).to_be_visible()
    elsewhere = page.context.new_page()
    elsewhere.goto("/admin/")
    elsewhere.get_by_role("button", name="Log out").click()
    elsewhere.wait_for_url("**/admin/login")
    elsewhere.close()
    page.wait_for_url(re.compile(f"/admin/login.next=/admin/sagas/{saga['id']}$"), timeout=25_000)


def held(place: Place) -> dict:
    """A saga that stays as it is until somebody does something."""
    place.tell("charge", "BUSY")
    return place.start("careful", wait=0)
