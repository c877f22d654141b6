"""The way in and out: `/admin/login`, also with OpenID Connect, `/admin/logout`, `/admin/logout-everywhere`.

The form of the login has a CSRF token too, or another site could log a browser in as somebody else and watch what
is done there: a MAC of a random cookie that came with the form. Nothing here needs JavaScript.
"""

import re
import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.dashboard.access import LANDING, LOGIN, Posting, address_of, house_of, local_page, read_form, visit_of
from app.dashboard.pages import Page, page
from app.errors import DatabaseUnavailable, Problem
from app.people import visits
from app.people.logins import Client

if TYPE_CHECKING:
    from app.people.oidc import Oidc

FORM_COOKIE: Final = "saga_login"
FORM_SECONDS: Final = 12 * 3600
OIDC: Final = f"{LOGIN}/oidc"
OIDC_BACK: Final = f"{OIDC}/callback"
OIDC_COOKIE: Final = "saga_oidc"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")

router = APIRouter(route_class=Page, include_in_schema=False)


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
        return _page(request, wanted, _no_database(), name)
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


# --- OpenID Connect ---------------------------------------------------------------------------------------------


@router.get(OIDC)
async def to_the_issuer(request: Request) -> Response:
    settings, oidc = house_of(request).settings, _oidc(request)
    wanted = local_page(request.query_params.get("next", ""))
    try:
        begun = await oidc.begin(_way_back(request), wanted)
    except Problem as problem:
        return _page(request, wanted, problem)
    response = RedirectResponse(begun.url, 303, headers={"Cache-Control": "no-store"})
    visits.set_cookie(response, request, settings, OIDC_COOKIE, begun.cookie, begun.cookie_seconds)
    return response


@router.get(OIDC_BACK)
async def from_the_issuer(request: Request) -> Response:
    house, oidc = house_of(request), _oidc(request)
    cookie = request.cookies.get(visits.cookie_name(request, house.settings, OIDC_COOKIE), "")
    try:
        identity, wanted = await oidc.finish(cookie, request.query_params, _way_back(request))
        before = await visit_of(request)
        client = Client(address_of(request), request.headers.get("user-agent"))
        token = await house.logins.admit(identity, client)
        if before is not None:
            await house.logins.log_out(before)
    except Problem as problem:
        response = _page(request, LANDING, problem)
    except DatabaseUnavailable:
        response = _page(request, LANDING, _no_database())
    else:
        response = came_in(request, token, local_page(wanted))
    visits.drop_cookie(response, request, house.settings, OIDC_COOKIE)
    return response


def _oidc(request: Request) -> "Oidc":
    oidc = house_of(request).oidc
    if oidc is None:
        raise Problem(404, "not-found", "No issuer of OpenID Connect is set (SAGA_OIDC_ISSUER).")
    return oidc


def _way_back(request: Request) -> str:
    """As it is registered with the issuer."""
    base = house_of(request).settings.public_url or str(request.base_url)
    return base.rstrip("/") + OIDC_BACK


# --- out --------------------------------------------------------------------------------------------------------


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
    oidc = house_of(request).oidc
    response = page(
        request,
        None,
        "login.html",
        here="",
        status=200 if problem is None else problem.status,
        headers={} if problem is None else problem.headers,
        oidc=None if oidc is None else {"host": oidc.host, "path": f"{OIDC}?{urlencode({'next': wanted})}"},
        form_token=visits.csrf_token(cookie),
        error=None if problem is None else problem.detail,
        name=name[:100],
        next=wanted,
    )
    visits.set_cookie(response, request, settings, FORM_COOKIE, cookie, FORM_SECONDS)
    return response


def _no_database() -> Problem:
    detail = "The database does not answer, so nobody can log in at this moment. Try again in a few seconds."
    return Problem(503, "database-unavailable", detail, headers={"Retry-After": "5"})


def _form_cookie(request: Request) -> str | None:
    found = request.cookies.get(visits.cookie_name(request, house_of(request).settings, FORM_COOKIE), "")
    return found if _TOKEN.fullmatch(found) else None


def _one(form: dict[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0]
