"""Pictures of every page, in light, dark and on a phone; axe looks at each."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NARROW, Console, Place, shoot


@pytest.fixture(scope="module")
def populated(place: Place) -> dict[str, str]:
    """A saga of each kind, by name."""
    done = place.start(labels={"customer": "4711", "region": "eu"})
    place.tell("charge-payment", "BUSY", "BUSY")
    repeated = place.start(labels={"customer": "4712"})
    place.tell("confirm-order", "REFUSED")
    failed = place.start(labels={"customer": "4713"})
    found = {"done": done, "repeated": repeated, "failed": failed, "stuck": place.stuck(), "holding": place.holding()}
    return {name: saga["id"] for name, saga in found.items()}


def test_the_login(new_page: Callable[..., Page]):
    page = new_page()
    page.goto("/admin/login")
    shoot(page, "login")


def test_every_place_of_the_navigation(page: Page, populated: dict[str, str]):
    links = page.locator("header nav a").all()
    paths = [link.get_attribute("href") or "" for link in links]
    assert {"/admin/", "/admin/sagas"} <= set(paths)
    for path in paths:
        page.goto(path)
        shoot(page, re.sub(r"\W+", "-", path.removeprefix("/admin/")).strip("-") or "attention")


@pytest.mark.parametrize("kind", ["done", "repeated", "failed", "stuck", "holding"])
def test_a_saga(kind: str, page: Page, populated: dict[str, str]):
    page.goto(f"/admin/sagas/{populated[kind]}")
    if kind in {"stuck", "holding"}:
        expect(page.locator("#head")).to_contain_text("needs attention")
        page.locator(".action > summary").first.click()
    page.evaluate("for (const step of document.querySelectorAll('details.step')) step.open = true")
    shoot(page, f"saga-{kind}")


def test_a_choreographed_saga(page: Page, place: Place):
    place.happened("4711", "OrderPlaced", "Reserved", "PaymentFailed", reason="the card was declined")
    page.goto("/admin/sagas?saga=order-events")
    row = page.locator(".saga-row").first
    expect(row).to_have_attribute("data-state", "COMPENSATING")  # the list follows
    row.locator("a").first.click()
    expect(page.locator("#head")).to_contain_text("order-events:4711")
    page.evaluate("for (const step of document.querySelectorAll('details.step')) step.open = true")
    shoot(page, "saga-of-events")
    place.happened("4711", "Released")
    expect(page.locator("#head")).to_have_attribute("data-state", "FAILED")


def test_further_pages(page: Page, populated: dict[str, str]):
    page.goto("/admin/definitions/order")
    shoot(page, "definition")
    page.goto("/admin/me")
    shoot(page, "me")
    page.goto("/admin/keys")
    page.locator("#make").get_by_label("read").check()
    page.locator("#make").get_by_role("button").click()
    expect(page.locator("main")).to_contain_text("shown")
    shoot(page, "key-made")


def test_what_is_done_to_one(page: Page, populated: dict[str, str]):
    page.goto(f"/admin/sagas/{populated['done']}/again")
    shoot(page, "saga-again")
    page.goto(f"/admin/sagas/{populated['holding']}/input/charge")
    shoot(page, "saga-input")
    page.get_by_label("Input").fill('{"sku": "book", "amount": 900}')
    page.get_by_role("button", name="Show the difference").click()
    expect(page.locator(".diff")).to_be_visible()
    shoot(page, "saga-input-diff")


def test_what_is_done_to_many(page: Page, populated: dict[str, str], place: Place):
    page.goto("/admin/sagas/bulk?action=pause&of=all&label=customer:4711")
    shoot(page, "bulk")
    page.get_by_label("Reason").fill("a picture")
    page.get_by_role("button", name="Pause them").click()
    expect(page.locator("main")).to_contain_text("done to 0 of 1")
    shoot(page, "bulk-job")


def test_what_goes_wrong(page: Page, console: Console):
    console.expected |= {"status of 404", "status of 422"}
    page.goto("/admin/sagas/nonsense")
    shoot(page, "problem")
    page.goto("/admin/sagas?state=NONSENSE&label=x")
    shoot(page, "sagas-wrong")


def test_as_a_viewer_sees_it(log_in: Callable[..., Page], populated: dict[str, str]):
    page = log_in("viewer")
    page.goto(f"/admin/sagas/{populated['stuck']}")
    shoot(page, "saga-viewer")


def test_on_a_phone_the_place_where_one_is_is_in_sight(log_in: Callable[..., Page]):
    page = log_in(viewport=NARROW)
    for path in ("/admin/", "/admin/audit", "/admin/users"):
        page.goto(path)
        expect(page.locator("header nav [aria-current]")).to_be_in_viewport(ratio=1)
        assert page.evaluate("window.scrollX + window.scrollY") == 0
