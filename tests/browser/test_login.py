"""Coming in and going out."""

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import Console, fill_in_login


def test_a_wrong_password_is_refused_with_a_sentence(new_page: Callable[..., Page], console: Console):
    console.expected.add("status of 401")
    page = new_page()
    page.goto("/admin/login")
    fill_in_login(page, "viewer", "not the password of it")
    expect(page.get_by_role("alert")).to_contain_text("password")
    expect(page.get_by_label("Name")).to_have_value("viewer")
    expect(page.get_by_label("Password")).to_have_value("")
    page.goto("/admin/sagas")
    assert page.url.endswith("/admin/login?next=/admin/sagas")


def test_who_logs_in_comes_to_the_page_that_was_wanted_and_stays_until_logging_out(new_page: Callable[..., Page]):
    page = new_page()
    page.goto("/admin/sagas?state=FAILED")
    fill_in_login(page, "operator")
    page.wait_for_url("**/admin/sagas?state=FAILED")
    expect(page.locator("header")).to_contain_text("operator")
    page.goto("/admin/")
    expect(page).to_have_title("Needs attention · Saga orchestrator")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/admin/login")
    page.goto("/admin/sagas")
    expect(page).to_have_url(re.compile("/admin/login.next="))


def test_by_keyboard_alone(new_page: Callable[..., Page]):
    page = new_page()
    page.goto("/admin/login")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("viewer")
    page.keyboard.press("Tab")
    page.keyboard.type("a password for tests")
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('main').contains(document.activeElement)")
