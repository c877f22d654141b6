"""Who looks at a page. Without a session it is sent to the login, and comes back to where it wanted to go.

async def page(visitor: Visiting) -> Response: ...              # whoever is logged in
async def page(visitor: Annotated[Visitor, Depends(visitor_who(Right.LOOK))]) -> Response: ...
async def act(posted: Posting) -> Response: ...                 # a form, with its CSRF token checked
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias, cast
from urllib.parse import parse_qsl, quote, unquote

from fastapi import Depends, FastAPI, Request
from starlette.responses import RedirectResponse, Response

from app import access
from app.access import Caller, Right
from app.errors import Problem, too_large
from app.house import House
from app.people import visits
from app.people.logins import Visit

LOGIN: Final = "/admin/login"
LANDING: Final = "/admin/"
LOGGED_OUT: Final = b"event: logged-out\ndata: .\n\n"
"""The last that a stream says to who is logged in no more."""
FORM_BYTES: Final = 65_536
"""What a form may have beside the payload that it carries."""
FORM_FIELDS: Final = 1000

_PAGE: Final = re.compile(r"/admin(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?")


class LoginNeeded(Exception):  # noqa: N818 - a condition
    """Becomes a redirect to the login."""


@dataclass(frozen=True, slots=True)
class Visitor:
    visit: Visit

    @property
    def caller(self) -> Caller:
        return self.visit.caller

    @property
    def name(self) -> str:
        return self.visit.user

    @property
    def csrf_token(self) -> str:
        """For the field `csrf_token` of every form, and the header `X-CSRF-Token` of every script."""
        return visits.csrf_token(self.visit.token)


@dataclass(frozen=True, slots=True)
class Posted:
    """A form that came from one of our pages."""

    visitor: Visitor
    form: dict[str, list[str]]

    def one(self, name: str) -> str:
        return self.form.get(name, [""])[0]


def send_to_the_login(app: FastAPI) -> None:
    """What `LoginNeeded` means to the application."""
    app.exception_handler(LoginNeeded)(_to_the_login)


async def _to_the_login(request: Request, _: Exception) -> Response:
    if "text/event-stream" in request.headers.get("accept", ""):
        # An open page that asks for its stream again. It can read no page, and would tell its console so.
        return Response(LOGGED_OUT, headers={"Cache-Control": "no-store"}, media_type="text/event-stream")
    wanted = local_page(str(request.url.path) + (f"?{request.url.query}" if request.url.query else ""))
    after = "" if request.method not in visits.SAFE or wanted == LANDING else f"?next={quote(wanted, safe='/')}"
    return RedirectResponse(LOGIN + after, 303, headers={"Cache-Control": "no-store"})


def house_of(request: Request) -> House:
    return cast(House, request.app.state.house)


def address_of(request: Request) -> str | None:
    return None if request.client is None else request.client.host


async def visit_of(request: Request) -> Visit | None:
    """A page that a script fetches anew is no sign that somebody is there."""
    house = house_of(request)
    seen = request.method not in visits.SAFE or request.headers.get("sec-fetch-dest", "document") == "document"
    return await visits.visit_of(request, house.logins, house.settings, address_of(request), seen=seen)


async def who_is_there(request: Request) -> Caller | None:
    """As whom the session of a long answer goes on, if it does."""
    house = house_of(request)
    found = await visits.visit_of(request, house.logins, house.settings, address_of(request), seen=False)
    return None if found is None else found.caller


async def visitor(request: Request) -> Visitor:
    found = await visit_of(request)
    if found is None:
        raise LoginNeeded
    return Visitor(found)


Visiting: TypeAlias = Annotated[Visitor, Depends(visitor)]


async def posted(request: Request, who: Visiting) -> Posted:
    """Problem 403 where another site may have sent it, 413, 415."""
    visits.refuse_other_sites(request, house_of(request).settings)
    form = await read_form(request, house_of(request).settings.max_payload_bytes * 2 + FORM_BYTES)
    visits.check_csrf(who.visit.token, form.get(visits.CSRF_FIELD, [request.headers.get(visits.CSRF_HEADER, "")])[0])
    return Posted(who, form)


Posting: TypeAlias = Annotated[Posted, Depends(posted)]


def visitor_who(right: Right) -> Callable[[Visitor], Awaitable[Visitor]]:
    """A visitor who has the right. Problem 403 `role-missing`."""

    async def allowed(who: Visiting) -> Visitor:
        refuse_without(who, right)
        return who

    return allowed


def refuse_without(who: Visitor, right: Right) -> None:
    if not who.caller.may(right):
        role = access.role_for(right)
        detail = f"This needs a user with the role `{role}`; yours is `{who.caller.role}`."
        raise Problem(403, "role-missing", detail, role=role)


async def read_form(request: Request, limit: int = FORM_BYTES) -> dict[str, list[str]]:
    """The fields of a form as browsers send them. Problem 413, 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        detail = "This takes a form (application/x-www-form-urlencoded). Scripts ask the API."
        raise Problem(415, "form-expected", detail)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_large(limit, "The form")
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FORM_FIELDS)
    except ValueError:
        raise Problem(413, "body-too-large", f"The form has more than {FORM_FIELDS} fields.") from None
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form


def local_page(text: str) -> str:
    """Where to go after the login: a page of ours as it was asked for, else the landing page.

    What a browser might read as another host never passes: two slashes, a backslash, a scheme, also when encoded.
    """
    path, _, _ = text.partition("?")
    plain = unquote(path)
    if (
        len(text) > 2000
        or not _PAGE.fullmatch(text)
        or "//" in plain
        or "\\" in plain
        or not plain.isprintable()
        or any(part in {".", ".."} for part in plain.split("/"))
        or plain.startswith((LOGIN, "/admin/logout", "/admin/api"))
    ):
        return LANDING
    return text
