"""Who sees what, and who may send what: every route of the dashboard, for every kind of visitor, as it is written here.

A route without a row fails, and so does a row without a route. Forms that did not come from us are another matter:
tests/security/test_forged_requests.py.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from app.people import visits
from tests.api.conftest import World
from tests.dashboard.conftest import PASSWORD, Browser, Shown
from tests.dashboard.routes import ROUTES, Furnished

COLUMNS: Final = ("nobody", "viewer", "operator", "admin", "admin of another tenant")
# . a page   ~ a stream   > done, and sent to a page   l sent to the login   3 403   4 404, as if it were not there
OPEN, NOT_THERE, MOVED = ".....", "44444", ">>>>>"
PAGE, STREAM = "l....", "l~~~~"
PAGE_OF_ONE, STREAM_OF_ONE = "l...4", "l~~~4"
OPERATORS_PAGE, OPERATORS_PAGE_OF_ONE = "l3...", "l3..4"
ADMINS_PAGE, HOUSES_PAGE = "l33..", "l33.3"
OPERATE, OPERATE_ON_ONE, ADMINISTER_ONE, ADMINISTER_THE_HOUSE = "l3>>>", "l3>>4", "l33>4", "l33>3"

TABLE: Final = {
    "GET /admin": MOVED,
    "GET /admin/": PAGE,
    "GET /admin/live": STREAM,
    "GET /admin/sagas": PAGE,
    "GET /admin/sagas/live": STREAM,
    "GET /admin/sagas/bulk": OPERATORS_PAGE,
    "POST /admin/sagas/bulk": OPERATE,
    "GET /admin/bulk": PAGE,
    "GET /admin/bulk/{id}": PAGE_OF_ONE,
    "GET /admin/sagas/{id}": PAGE_OF_ONE,
    "GET /admin/sagas/{id}/live": STREAM_OF_ONE,
    "POST /admin/sagas/{id}/do/{action}": OPERATE_ON_ONE,
    "GET /admin/sagas/{id}/input/{step}": OPERATORS_PAGE_OF_ONE,
    "POST /admin/sagas/{id}/input/{step}": OPERATORS_PAGE_OF_ONE,
    "GET /admin/sagas/{id}/again": OPERATORS_PAGE_OF_ONE,
    "POST /admin/sagas/{id}/again": OPERATE_ON_ONE,
    "GET /admin/dead-letters": PAGE,
    "POST /admin/dead-letters/{id}/{action}": OPERATE_ON_ONE,
    "GET /admin/definitions": PAGE,
    "GET /admin/definitions/{name}": PAGE,
    "GET /admin/services": PAGE,
    "POST /admin/services/{name}/{action}": "l3>>3",
    "GET /admin/house": PAGE,
    "GET /admin/audit": PAGE,
    "GET /admin/keys": ADMINS_PAGE,
    "POST /admin/keys": ADMINS_PAGE,  # which shows the key
    "POST /admin/keys/{id}/{action}": ADMINISTER_ONE,
    "GET /admin/users": HOUSES_PAGE,
    "POST /admin/users": HOUSES_PAGE,  # which shows the password
    "POST /admin/users/{name}/{action}": ADMINISTER_THE_HOUSE,
    "GET /admin/me": PAGE,
    "POST /admin/me": "l>>>>",
    "GET /admin/login": ".>>>>",
    "POST /admin/login": MOVED,
    "GET /admin/login/oidc": NOT_THERE,  # no issuer is set
    "GET /admin/login/oidc/callback": NOT_THERE,
    "POST /admin/logout": "lllll",
    "POST /admin/logout-everywhere": "lllll",
    "GET /admin/static/{digest}/{name}": OPEN,
}
ENDS_SESSIONS: Final = {"POST /admin/login", "POST /admin/logout", "POST /admin/logout-everywhere", "POST /admin/me"}
PEOPLE: Final = {
    "viewer": ("viewer", None),
    "operator": ("operator", None),
    "admin": ("admin", None),
    "admin of another tenant": ("admin", "theirs"),
}


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert sorted(TABLE) == sorted(ROUTES)
    assert all(len(row) == len(COLUMNS) for row in TABLE.values())


async def test_each_visitor_is_answered_as_it_is_written(world: World) -> None:
    furnished = await Furnished.make(world)
    known = {column: await logged_in(furnished, column) for column in COLUMNS}
    wrong = []
    for row, columns in TABLE.items():
        method, path = row.split(" ")
        for column, wanted in zip(COLUMNS, columns, strict=True):
            browser = await logged_in(furnished, column) if row in ENDS_SESSIONS else known[column]
            sent = Form(furnished.page(path)) if method == "GET" else await form(furnished, path)
            before = await told(world, sent.saga_id)
            answered = await ask(browser, world, method, sent)
            where = answered.headers.get("Location", "")
            kind = kind_of(answered)
            if kind == ">" and column != "nobody" and row not in ENDS_SESSIONS:
                assert (await browser.get(where)).status == 200, (row, column, where)
            if kind in "l34":
                assert await told(world, sent.saga_id) == before, (row, column)
            if kind == "." and column == COLUMNS[-1] and "{" not in path:
                assert furnished.held not in answered.html, row
                assert furnished.stuck not in answered.html, row
            if kind != wanted:
                wrong.append((row, column, wanted, answered.status, where, answered.html[:300]))
    assert wrong == []


def kind_of(answered: Shown) -> str:
    if answered.headers.get("Content-Type", "").startswith("text/event-stream"):
        return "~"
    if answered.status in {303, 307}:
        return "l" if answered.headers["Location"].partition("?")[0] == "/admin/login" else ">"
    return {200: ".", 201: ".", 403: "3", 404: "4"}.get(answered.status, "?")


async def logged_in(furnished: Furnished, column: str) -> Browser:
    """Somebody new of that kind."""
    if column == "nobody":
        return Browser(furnished.world.api, "nothing")
    name = await furnished.make_user(f"visitor-{secrets.token_hex(4)}", *PEOPLE[column])
    return await Browser.logged_in(furnished.world.api, name)


async def told(world: World, saga_id: str) -> bytes:
    return (await world.api.get(f"/sagas/{saga_id}")).content if saga_id else b""


@dataclass(frozen=True)
class Form:
    path: str
    fields: Mapping[str, str] = field(default_factory=dict)
    saga_id: str = ""
    """What it is about."""
    cookie: str = ""
    """That came with it."""


async def form(furnished: Furnished, path: str) -> Form:
    """Something that can be done once, made for each who sends it."""
    reason = {"reason": "a test"}
    match path:
        case "/admin/sagas/bulk":
            return Form(f"{path}?action=pause&of=all&label=none:such", {**reason, "limit": "1"})
        case "/admin/dead-letters/{id}/{action}":
            saga_id = await furnished.get_stuck()
            return Form(f"/admin/dead-letters/{await furnished.letter_of(saga_id)}/retry", reason, saga_id)
        case "/admin/keys":
            return Form(path, {"scopes": "read"})
        case "/admin/keys/{id}/{action}":
            return Form(f"/admin/keys/{await furnished.make_key()}/revoke", reason)
        case "/admin/services/{name}/{action}":
            return Form(f"/admin/services/{await furnished.make_service()}/pause", reason)
        case "/admin/users":
            return Form(path, {"name": f"made-{secrets.token_hex(4)}", "role": "viewer"})
        case "/admin/users/{name}/{action}":
            return Form(f"/admin/users/{furnished.user}/logout", reason)
        case "/admin/me":
            return Form(path, {"old": PASSWORD, "new": f"{PASSWORD} again", "again": f"{PASSWORD} again"})
        case "/admin/login":
            cookie = secrets.token_urlsafe(32)
            sent = {"name": "admin", "password": PASSWORD, "csrf_token": visits.csrf_token(cookie)}
            return Form(path, sent, cookie=f"saga_login={cookie}")
        case "/admin/logout" | "/admin/logout-everywhere":
            return Form(path)
    saga_id = await furnished.hold()
    seq = (await furnished.world.api.get(f"/sagas/{saga_id}/events")).json["items"][-1]["seq"]
    address = path.replace("{id}", saga_id).replace("{action}", "retry").replace("{step}", "charge")
    # The input is what `again` and `input` take, and nothing that a plain retry is asked for.
    given = {} if "{action}" in path else {"input": '{"n": 1}', "key": f"again-{saga_id}"}
    return Form(address, {**reason, "seq": str(seq), **given}, saga_id)


async def ask(browser: Browser, world: World, method: str, sent: Form) -> Shown:
    cookies = f"{browser.headers['Cookie']}; {sent.cookie}".rstrip("; ")
    data = None if method == "GET" else {"csrf_token": browser.csrf_token, **sent.fields}
    async with world.api.session.request(
        method, world.api.base + sent.path, data=data, headers={"Cookie": cookies}, allow_redirects=False
    ) as answer:
        stream = answer.headers.get("Content-Type", "").startswith("text/event-stream")
        return Shown(answer.status, answer.headers, "" if stream else await answer.text())
