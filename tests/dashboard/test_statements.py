"""What a page costs the database: a bounded number of statements, however much there is to show.

A route that is looked at has a row here, or the test fails.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from sqlalchemy import event

from app.house import House
from app.store.database import Lane
from tests.api.conftest import World
from tests.dashboard.conftest import Browser
from tests.dashboard.routes import ROUTES, Furnished

MOST: Final = 5
"""Of any page. One statement is the session's."""
STATEMENTS: Final = {
    "/admin": 0,
    "/admin/": 3,
    "/admin/live": 2,
    "/admin/sagas": 4,
    "/admin/sagas/live": 2,
    "/admin/sagas/bulk": 3,
    "/admin/bulk": 2,
    "/admin/bulk/{id}": 2,
    "/admin/sagas/{id}": 4,
    "/admin/sagas/{id}/live": 3,
    "/admin/sagas/{id}/input/{step}": 2,
    "/admin/sagas/{id}/again": 2,
    "/admin/dead-letters": 2,
    "/admin/definitions": 4,
    "/admin/definitions/{name}": 5,
    "/admin/services": 5,
    "/admin/house": 3,
    "/admin/audit": 2,
    "/admin/keys": 2,
    "/admin/users": 2,
    "/admin/me": 1,
    "/admin/login": 1,
    "/admin/login/oidc": 0,
    "/admin/login/oidc/callback": 0,
    "/admin/static/{digest}/{name}": 0,
}
"""At most, by route. Of a stream: until it has said how things stand."""


@contextlib.asynccontextmanager
async def counted(house: House, monkeypatch: Any) -> AsyncIterator[list[str]]:
    """The statements that this house sends meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    run = Lane.run

    async def noted(lane: Lane, work: Any) -> Any:
        if lane in house.database._lanes:
            sent.append("a lane's")
        return await run(lane, work)

    monkeypatch.setattr(Lane, "run", noted)
    engine = house.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)
        monkeypatch.setattr(Lane, "run", run)


def test_every_route_that_is_looked_at_has_a_row_and_every_row_a_route() -> None:
    assert sorted(STATEMENTS) == sorted(row.removeprefix("GET ") for row in ROUTES if row.startswith("GET "))
    assert max(STATEMENTS.values()) <= MOST


async def test_a_page_asks_the_database_a_few_questions_however_much_there_is(
    world: World, browser: Browser, app_state: Any, monkeypatch: Any
) -> None:
    furnished = await Furnished.make(world)
    addresses = {path: furnished.page(path) for path in STATEMENTS}
    found: dict[str, list[int]] = {}
    for much in (False, True):
        if much:
            await furnished.more()
        for path, address in addresses.items():
            await look(browser, address)  # what a process reads once is read
            async with counted(app_state.house, monkeypatch) as sent:
                await look(browser, address)
            found.setdefault(path, []).append(len(sent))
    assert [(path, few, many) for path, (few, many) in found.items() if few != many] == []
    assert {path: many for path, (_, many) in found.items() if many > STATEMENTS[path]} == {}


async def look(browser: Browser, address: str) -> None:
    if "/live" in address:
        async with browser.stream(address) as stream:
            await stream.readuntil(b"id: ")
        return
    assert (await browser.get(address)).status in {200, 303, 307, 404}
