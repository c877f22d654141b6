"""Users, for those who administer the house; and one's own password."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.access import ROLES, Right, Role
from app.dashboard.access import Posted, Posting, Visiting, Visitor, house_of, refuse_without
from app.dashboard.acting import reason_of, text_of
from app.dashboard.keys import tenant_in
from app.dashboard.pages import Page, page
from app.errors import Problem, refuse_tenants
from app.filters import PAGING, Query
from app.people import passwords
from app.people.logins import is_name, plain_name
from app.people.users import NAME_RULE, USERS, known_name
from app.saga.fields import shown
from app.store.accounts import Account
from app.store.database import to_micros

PATH: Final = "/admin/users"
ME: Final = "/admin/me"
DONE: Final[Mapping[str, str]] = {
    "role": "The role is changed. It counts from the user's next request on.",
    "disable": "The user is disabled, and all sessions are ended.",
    "enable": "The user may log in again.",
    "logout": "All sessions of the user are ended.",
}
NEW: Final[Mapping[str, str]] = {"name": "", "role": "viewer", "tenant": "", "reason": ""}
"""What the form begins with."""

router = APIRouter(route_class=Page, include_in_schema=False)


def _refuse_others(visitor: Visitor) -> None:
    refuse_without(visitor, Right.ADMINISTER)
    refuse_tenants(visitor.caller, USERS)


@router.get(PATH)
async def users(request: Request, visitor: Visiting) -> Response:
    _refuse_others(visitor)
    return await _page(request, visitor, done=DONE.get(request.query_params.get("done", "")))


async def _page(
    request: Request,
    visitor: Visitor,
    *,
    given: Mapping[str, str] = NEW,
    problem: Problem | None = None,
    done: str | None = None,
) -> Response:
    query = Query(request, ("done", *PAGING))
    limit, after = query.limit(), query.one("cursor", str)
    query.check()
    found, following = await house_of(request).users.page(limit=limit, after=after)
    return page(
        request,
        visitor,
        "users.html",
        here="users",
        status=200 if problem is None else problem.status,
        headers={} if problem is None else problem.headers,
        users=[_view(account) for account in found],
        roles=ROLES,
        given=given,
        next=None if following is None else f"{PATH}?{urlencode({'cursor': following, 'limit': limit})}",
        paged=after is not None,
        problem=problem,
        done=done,
    )


def _view(account: Account) -> dict[str, Any]:
    last = account.last_login_at
    return {
        "name": account.name,
        "role": account.role,
        "tenant": account.tenant,
        "disabled": account.disabled_at is not None,
        "created_at": to_micros(account.created_at),
        "created_by": account.created_by,
        "last_login_at": None if last is None else to_micros(last),
    }


@router.post(PATH)
async def make(request: Request, posted: Posting) -> Response:
    visitor = posted.visitor
    _refuse_others(visitor)
    given = {name: posted.one(name).strip() for name in NEW}
    try:
        name, role, tenant = plain_name(given["name"]), _role(given["role"]), tenant_in(given["tenant"])
        if not is_name(name):
            raise Problem(422, "body-invalid", f"The name {NAME_RULE}.")  # noqa: TRY301
        password, reason = passwords.made(), text_of(posted, "reason") or None
        await house_of(request).users.create(visitor.caller, name, role, tenant, password, reason)
    except Problem as problem:
        return await _page(request, visitor, given=given, problem=problem)
    return page(
        request,
        visitor,
        "secret.html",
        here="users",
        status=201,
        told="The user is made.",
        of=name,
        name="password",
        secret=password,
        back=(PATH, "All users"),
    )


@router.post(PATH + "/{name}/{action}")
async def act(request: Request, posted: Posting, name: str, action: str) -> Response:
    if action not in DONE:
        raise Problem(404, "not-found", f"There is no action {action[:40]!r}.")
    _refuse_others(posted.visitor)
    name = known_name(name)
    try:
        await _do(request, posted, name, action)
    except Problem as problem:
        if problem.status == 404:
            raise
        return await _page(request, posted.visitor, problem=problem)
    return RedirectResponse(f"{PATH}?done={action}", 303)


async def _do(request: Request, posted: Posted, name: str, action: str) -> None:
    manage, caller, reason = house_of(request).users, posted.visitor.caller, reason_of(posted)
    match action:
        case "role":
            await manage.change(caller, name, {"role": _role(posted.one("role"))}, reason)
        case "logout":
            await manage.log_out(caller, name, reason)
        case _:
            await manage.change(caller, name, {"disabled": action == "disable"}, reason)


def _role(text: str) -> Role:
    if text not in ROLES:
        raise Problem(422, "body-invalid", f"The role must be one of {', '.join(ROLES)}, not {shown(text)}.")
    return text


# --- oneself ----------------------------------------------------------------------------------------------------


@router.get(ME)
async def me(request: Request, visitor: Visiting) -> Response:
    query = Query(request, ("done",))
    done = query.one("done", str)
    query.check()
    return _me(request, visitor, done="Your password is changed; your other sessions are ended." if done else None)


@router.post(ME)
async def set_own_password(request: Request, posted: Posting) -> Response:
    visit, new = posted.visitor.visit, posted.one("new")
    try:
        if new != posted.one("again"):
            raise Problem(422, "body-invalid", "The new password is not the same both times.")  # noqa: TRY301
        if fault := passwords.fault(new, visit.user):
            raise Problem(422, "body-invalid", f"The new password {fault}.")  # noqa: TRY301
        await house_of(request).users.set_own_password(visit, posted.one("old"), new)
    except Problem as problem:
        return _me(request, posted.visitor, problem=problem)
    return RedirectResponse(f"{ME}?done=password", 303)


def _me(request: Request, visitor: Visitor, *, problem: Problem | None = None, done: str | None = None) -> Response:
    return page(
        request,
        visitor,
        "me.html",
        here="",
        status=200 if problem is None else problem.status,
        headers={} if problem is None else problem.headers,
        shortest=passwords.SHORTEST,
        problem=problem,
        done=done,
    )
