"""Pages of the dashboard: who may look, and where the others are sent."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from starlette.responses import PlainTextResponse, Response

from app.access import Right
from app.dashboard.access import Posting, Visiting, Visitor, visitor_who, who_is_there
from app.settings import Settings
from tests.api.conftest import Client, serve
from tests.security.conftest import Browser


@pytest.fixture
async def served(settings: Settings) -> AsyncIterator[tuple[Client, FastAPI]]:
    """With pages of our own, as another module would write them."""
    async with serve(settings) as (client, app):

        @app.get("/admin/probe")
        async def look(visitor: Visiting) -> Response:
            return PlainTextResponse(f"{visitor.name} {visitor.csrf_token}")

        @app.get("/admin/probe/admins")
        async def administer(visitor: Annotated[Visitor, Depends(visitor_who(Right.ADMINISTER))]) -> Response:
            return PlainTextResponse(visitor.name)

        @app.post("/admin/probe")
        async def act(request: Request, posted: Posting) -> Response:
            assert await who_is_there(request) == posted.visitor.caller
            return PlainTextResponse(posted.one("what"))

        yield client, app


async def test_who_is_not_logged_in_is_sent_to_the_login_and_comes_back(browser: Browser) -> None:
    answer = await browser.get("/admin/probe?state=FAILED&label=a%26b")
    assert (answer.status, answer.headers["Cache-Control"]) == (303, "no-store")
    where = answer.headers["Location"]
    assert where == "/admin/login?next=/admin/probe%3Fstate%3DFAILED%26label%3Da%2526b"
    assert b'value="/admin/probe?state=FAILED&amp;label=a%26b"' in (await browser.get(where)).content
    after = await browser.log_in(after="/admin/probe?state=FAILED&label=a%26b")
    page = await browser.get(after.headers["Location"])
    assert page.content.decode() == f"admin {await browser.csrf()}"


async def test_a_form_without_a_session_is_sent_to_the_login_and_not_repeated(browser: Browser) -> None:
    answer = await browser.post("/admin/probe", {"what": "x"})
    assert (answer.status, answer.headers["Location"]) == (303, "/admin/login")


async def test_a_form_of_ours_is_taken(browser: Browser) -> None:
    await browser.log_in()
    assert (await browser.post("/admin/probe", {"what": "x"})).code == "csrf-token-missing"
    answer = await browser.post("/admin/probe", {"what": "a & b", "csrf_token": await browser.csrf()})
    assert (answer.status, answer.content) == (200, b"a & b")


async def test_a_page_asks_for_a_right(browser: Browser, user: Callable[..., Any]) -> None:
    ada = await user("ada", "operator")
    refused = await ada.get("/admin/probe/admins")
    assert (refused.status, refused.code, refused.json["role"]) == (403, "role-missing", "admin")
    await browser.log_in()
    assert (await browser.get("/admin/probe/admins")).status == 200


async def test_a_key_is_no_visitor(api: Client) -> None:
    async with api.session.get(f"{api.base}/admin/probe", headers={"Authorization": "Bearer test.key"}) as page:
        assert page.url.path == "/admin/login"
