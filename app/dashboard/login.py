"""The way in and out: `/admin/login`, `/admin/logout`, `/admin/logout-everywhere`. They work without JavaScript.

The form of the login has a CSRF token too, or another site could log a browser in as somebody else and watch what
is done there: a MAC of a random cookie that came with the form.
"""

import re
import secrets
from typing import Any, Final

from fastapi import APIRouter, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.dashboard.access import LOGIN, Posting, address_of, house_of, local_page, read_form, visit_of
from app.errors import DatabaseUnavailable, Problem
from app.people import visits
from app.people.logins import Client

FORM_COOKIE: Final = "saga_login"
FORM_SECONDS: Final = 12 * 3600
HEADERS: Final = {
    "Cache-Control": "no-store",
    # The page has no script. `same-origin`: with `no-referrer` a browser would post the form with `Origin: null`.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")

router = APIRouter(include_in_schema=False)
templates: Final = Environment(
    loader=PackageLoader("app.dashboard"), autoescape=True, undefined=StrictUndefined, auto_reload=False
)


@router.get(LOGIN)
async def login_page(request: Request) -> Response:
    wanted = local_page(request.query_params.get("next", ""))
    if await visit_of(request) is not None:
        return RedirectResponse(wanted, 303, headers={"Cache-Control": "no-store"})
    return _page(request, wanted)


@router.post(LOGIN)
async def log_in(request: Request) -> Response:
    form = await read_form(request)
    name, wanted = _one(form, "name"), local_page(_one(form, "next"))
    try:
        token = await _admit(request, form)
    except DatabaseUnavailable:
        detail = "The database does not answer, so nobody can log in at this moment. Try again in a few seconds."
        return _page(request, wanted, Problem(503, "database-unavailable", detail, headers={"Retry-After": "5"}), name)
    except Problem as problem:
        return _page(request, wanted, problem, name)
    return came_in(request, token, wanted)


async def _admit(request: Request, form: dict[str, list[str]]) -> str:
    """The token of a new session; the one that the browser brought ends."""
    house = house_of(request)
    visits.refuse_other_sites(request, house.settings)
    cookie = _form_cookie(request)
    if cookie is None:
        detail = "The form has grown old, or your browser takes no cookies: without them nobody can log in. Try again."
        raise Problem(403, "csrf-token-missing", detail)
    visits.check_csrf(cookie, _one(form, visits.CSRF_FIELD))
    before = await visit_of(request)
    client = Client(address_of(request), request.headers.get("user-agent"))
    token = await house.logins.log_in(_one(form, "name"), _one(form, "password"), client)
    if before is not None:
        await house.logins.log_out(before)
    return token


def came_in(request: Request, token: str, wanted: str) -> Response:
    """Sets the cookie of the new session, and goes where it was wanted."""
    settings = house_of(request).settings
    response = RedirectResponse(wanted, 303, headers={"Cache-Control": "no-store"})
    visits.set_cookie(response, request, settings, visits.COOKIE, token)
    visits.drop_cookie(response, request, settings, FORM_COOKIE)
    return response


@router.post("/admin/logout")
async def log_out(request: Request, posted: Posting) -> Response:
    await house_of(request).logins.log_out(posted.visitor.visit)
    return _went_out(request)


@router.post("/admin/logout-everywhere")
async def log_out_everywhere(request: Request, posted: Posting) -> Response:
    await house_of(request).logins.log_out_everywhere(posted.visitor.visit)
    return _went_out(request)


def _went_out(request: Request) -> Response:
    response = RedirectResponse(LOGIN, 303, headers={"Cache-Control": "no-store"})
    visits.drop_cookie(response, request, house_of(request).settings)
    return response


def _page(request: Request, wanted: str, problem: Problem | None = None, name: str = "") -> Response:
    settings = house_of(request).settings
    cookie = _form_cookie(request) or secrets.token_urlsafe(32)
    content = templates.get_template("login.html").render(
        csrf_token=visits.csrf_token(cookie),
        error=None if problem is None else problem.detail,
        name=name[:100],
        next=wanted,
    )
    more: dict[str, Any] = {} if problem is None else problem.headers
    response = HTMLResponse(content, 200 if problem is None else problem.status, {**HEADERS, **more})
    visits.set_cookie(response, request, settings, FORM_COOKIE, cookie, FORM_SECONDS)
    return response


def _form_cookie(request: Request) -> str | None:
    found = request.cookies.get(visits.cookie_name(request, house_of(request).settings, FORM_COOKIE), "")
    return found if _TOKEN.fullmatch(found) else None


def _one(form: dict[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0]
