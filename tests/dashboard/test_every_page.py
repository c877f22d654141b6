"""What holds for every page: it is whole for who does not see it, and no browser runs what does not come from us."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from app.dashboard.pages import PLACES
from tests.api.conftest import Client, World
from tests.dashboard.conftest import PASSWORD, Browser, Element, Shown
from tests.dashboard.routes import ROUTES, Furnished
from tests.participant import BUSY

NO_PAGES: Final = {"/admin", "/admin/live", "/admin/sagas/live", "/admin/sagas/{id}/live"} | {
    "/admin/static/{digest}/{name}",
    "/admin/login",  # to who is logged in already
    "/admin/login/oidc",
    "/admin/login/oidc/callback",
}
PLAIN_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}


@pytest.fixture
async def every_page(world: World, browser: Browser, api: Client) -> dict[str, Shown]:
    furnished = await Furnished.make(world)
    assert (await world.act(furnished.held, "extend", timeout="1h")).status == 200
    shown = {name: each async for name, each in visited(furnished, browser)}
    nobody = Browser(api, "nothing")
    shown["login"] = await nobody.get("/admin/login")
    viewer = await Browser.logged_in(api, await furnished.make_user("vera"), PASSWORD)
    for path in ("/admin/", "/admin/sagas", "/admin/sagas/{id}", "/admin/dead-letters"):
        shown[f"{path} as a viewer"] = await viewer.get(furnished.page(path))
    return shown


async def visited(furnished: Furnished, browser: Browser) -> AsyncIterator[tuple[str, Shown]]:
    for path in (row.removeprefix("GET ") for row in ROUTES if row.startswith("GET ")):
        if path not in NO_PAGES:
            answered = await browser.get(furnished.page(path))
            assert answered.status == 200, path
            yield path, answered
    yield "a saga that failed", await browser.get(f"/admin/sagas/{furnished.stuck}")
    retrying = (await furnished.world.submit())["id"]
    furnished.world.participant.on("charge", BUSY, saga_id=retrying)
    await furnished.world.run(retrying)
    yield "a saga that is tried again", await browser.get(f"/admin/sagas/{retrying}")
    yield "no saga", await browser.get("/admin/sagas/none")
    yield "a wrong search", await browser.get("/admin/sagas?state=NONE")
    edit = await browser.get(furnished.page("/admin/sagas/{id}/input/{step}"))
    form = next(edit.main.all("form", method="post"))
    yield "another input, as a difference", await browser.send(form, input='{"n": 1}')
    done = await browser.post("/admin/sagas/bulk?action=pause&of=all", reason="a test", limit="9")
    yield "what came of it", await browser.get(done.headers["Location"])
    yield "a new key", await browser.post("/admin/keys", scopes="read")


async def test_every_page_is_whole_for_who_does_not_see_it(every_page: dict[str, Shown]) -> None:
    assert "Next attempt in " in every_page["a saga that is tried again"].text
    faults = [(name, fault) for name, shown in every_page.items() for fault in faults_of(shown.page)]
    assert faults == []


def faults_of(page: Element) -> Iterator[str]:
    if page.one("html")["lang"] != "en" or not page.one("head").one("title").text.endswith("· Saga orchestrator"):
        yield "it does not say what it is"
    if page.one("a", "skip")["href"] != f"#{page.one('main')['id']}":
        yield "nothing leads to the content"
    ids = [element["id"] for element in page.all() if element["id"]]
    yield from (f"the id {each} is there twice" for each in set(ids) if ids.count(each) > 1)
    yield from headings(page)
    yield from fields(page)
    yield from tables(page)
    yield from times(page)
    yield from signs(page)


def headings(page: Element) -> Iterator[str]:
    """In order, and no level is left out."""
    last = 0
    for heading in (each for each in page.all() if each.tag in HEADINGS):
        level = HEADINGS[heading.tag]
        if level > last + 1 or (level == 1) != (last == 0) or not heading.text:
            yield f"<{heading.tag}> {heading.text!r} after a heading of level {last}"
        last = level


def fields(page: Element) -> Iterator[str]:
    named = {label["for"] for label in page.all("label")}
    inside = {id(field) for label in page.all("label") for field in label.all()}
    for field in [*page.all("input"), *page.all("select"), *page.all("textarea")]:
        known = id(field) in inside or field["id"] in named or field["aria-label"]
        if field["type"] != "hidden" and not known:
            yield f"a field has no label: {field.attributes}"
    for each in [*page.all("a"), *page.all("button"), *page.all("summary")]:
        if not each.text and not each["aria-label"]:
            yield f"<{each.tag}> has no words: {each.attributes}"
    for each in page.all("fieldset"):
        if not list(each.all("legend")):
            yield "a group of fields has no name"


def tables(page: Element) -> Iterator[str]:
    for table in page.all("table"):
        head = next((each.text for each in table.all("caption")), "")
        if not head:
            yield f"a table has no caption: {table.text[:60]}"
        yield from (f"{head}: {cell.text!r} heads nothing" for cell in table.all("th") if not cell["scope"])
        columns = next(table.all("thead")).all("th")
        yield from (
            f"{head}: a column has no name" for cell in columns if not cell.text and not list(cell.all("input"))
        )
        for row in next(table.all("tbody")).all("tr"):
            if not list(row.all("th", scope="row")):
                yield f"{head}: a row has no name: {row.text[:60]}"


def times(page: Element) -> Iterator[str]:
    """As people read them, with the exact one at hand; none as machines write it."""
    for time in page.all("time"):
        if not PLAIN_TIME.match(time["datetime"]) or not time["title"]:
            yield f"a time is not exact: {time.text}"
        if not time["title"].endswith(" UTC"):
            yield f"a time does not say where: {time['title']}"
    yield from (
        f"a time for machines: {words[:80]}" for words in read_out(page.one("main")) if PLAIN_TIME.search(words)
    )


def read_out(element: Element) -> Iterator[str]:
    for child in element.children:
        if isinstance(child, str):
            yield child
        elif child.tag not in {"pre", "code", "textarea"}:
            yield from read_out(child)


def signs(page: Element) -> Iterator[str]:
    """A colour never stands alone."""
    for each in [*page.all("span", "state"), *page.all("span", "mark"), *page.all("span", "sign")]:
        if not each.text:
            yield f"a colour without a word: {each.attributes}"
    for square in page.all("i", "sq"):
        if "none" not in square.classes and not square.text:
            yield "a square without a sign"
    for picture in [*page.all("img"), *page.all("svg")]:
        if "alt" not in picture.attributes and picture["aria-hidden"] != "true" and not picture["aria-label"]:
            titled = list(picture.all("title")) or picture["aria-labelledby"]
            if not titled:
                yield f"a picture says nothing: {picture.attributes}"


async def test_no_page_has_a_script_or_style_of_its_own_and_none_may(every_page: dict[str, Shown]) -> None:
    for name, shown in every_page.items():
        policy = shown.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), name
        assert "unsafe" not in policy
        assert shown.headers["Cache-Control"] == "no-store"
        assert shown.headers["X-Content-Type-Options"] == "nosniff"
        assert shown.headers["Referrer-Policy"] == "same-origin"
        for element in shown.page.all():
            assert element.tag != "style", name
            assert "style" not in element.attributes, (name, element.tag)
            assert not [each for each in element.attributes if each.startswith("on")], (name, element.tag)
            assert element.tag != "script" or element["src"].startswith("/admin/static/"), name


async def test_every_form_that_does_something_has_the_token_and_is_taken_by_a_route(
    every_page: dict[str, Shown], browser: Browser
) -> None:
    taken = [re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(row[5:]))) for row in ROUTES if row.startswith("POST ")]
    posted = set()
    for name, shown in every_page.items():
        for form in shown.page.all("form", method="post"):
            token = form.one("input", name="csrf_token")["value"]
            assert token == browser.csrf_token or name == "login" or "viewer" in name, (name, form["action"])
            for action in (form["action"], *(b["formaction"] for b in form.all("button") if b["formaction"])):
                path = action.partition("?")[0]
                (route,) = [each.pattern for each in taken if each.fullmatch(path)]
                posted.add(route)
    assert posted == {each.pattern for each in taken}


async def test_each_place_is_marked_in_the_navigation(every_page: dict[str, Shown]) -> None:
    for place in PLACES:
        (marked,) = every_page[place.path].page.one("nav", aria_label="Pages").all("a", aria_current="page")
        assert marked["href"] == place.path
