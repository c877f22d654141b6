"""Users, for those who administer the house; and who one is oneself."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api import schemas
from app.api.dependencies import Anybody, MayAdminister, checked, house_of, read_json
from app.api.openapi import describe, parameter
from app.api.sagas import json_response, page_response
from app.errors import Problem, refuse_tenants
from app.filters import PAGING, Query
from app.instants import rfc3339
from app.people import passwords, visits
from app.people.logins import Visit, is_name, plain_name
from app.people.users import NAME_RULE, USERS, known_name
from app.store.accounts import Account
from app.store.database import to_micros

router = APIRouter(prefix="/admin/api", tags=["users"])

PROBLEMS: Final = (400, 404, 409, 413, 422)


def _view(account: Account) -> dict[str, Any]:
    ways = [("password", account.password_hash), ("oidc", account.oidc_subject)]
    last = account.last_login_at
    return {
        "name": account.name,
        "role": account.role,
        "tenant": account.tenant,
        "disabled": account.disabled_at is not None,
        "logs_in_by": [way for way, given in ways if given is not None],
        "created_at": rfc3339(to_micros(account.created_at)),
        "created_by": account.created_by,
        "last_login_at": None if last is None else rfc3339(to_micros(last)),
    }


def _invalid(path: str, message: str) -> Problem:
    return Problem(422, "body-invalid", "The body is not as it should be: see `errors`.", errors=[(path, message)])


def _check_password(path: str, password: str, name: str) -> None:
    if fault := passwords.fault(password, name):
        raise _invalid(path, fault)


@router.get(
    "/users",
    **describe(
        "Users, by name",
        answers={200: schemas.UserPage},
        problems=(422,),
        parameters=(
            parameter("limit", "query", "Default 50; more than 200 is 200"),
            parameter("cursor", "query", "`next_cursor` of the page before"),
        ),
    ),
)
async def find(request: Request, caller: MayAdminister) -> Response:
    refuse_tenants(caller, USERS)
    query = Query(request, PAGING)
    limit, after = query.limit(), query.one("cursor", str)
    query.check()
    found, following = await house_of(request).users.page(limit=limit, after=after)
    return page_response(query, [_view(account) for account in found], following)


@router.post(
    "/users",
    **describe(
        "Make a user",
        "Without `password` one is made, and shown in this answer alone.",
        body=schemas.UserRequest,
        answers={201: schemas.NewUserView},
        problems=(400, 409, 413, 422),
    ),
)
async def create(request: Request, caller: MayAdminister) -> Response:
    refuse_tenants(caller, USERS)
    wanted = checked(schemas.UserRequest, await read_json(request))
    name = plain_name(wanted.name)
    if not is_name(name):
        raise _invalid("name", NAME_RULE)
    made = None
    if wanted.password is None:
        made = passwords.made()
    else:
        _check_password("password", wanted.password, name)
    account = await house_of(request).users.create(
        caller, name, wanted.role, wanted.tenant, wanted.password or made or "", wanted.reason
    )
    return json_response({**_view(account), "password": made}, 201)


@router.patch(
    "/users/{name}",
    **describe(
        "Change a user",
        "It counts from the user's next request on. A new password ends the user's sessions, and so does `disabled`.",
        body=schemas.UserChange,
        answers={200: schemas.UserView},
        problems=PROBLEMS,
    ),
)
async def change(request: Request, caller: MayAdminister, name: str) -> Response:
    refuse_tenants(caller, USERS)
    wanted = checked(schemas.UserChange, await read_json(request))
    name = known_name(name)
    changes: dict[str, Any] = {
        key: value for key in ("role", "disabled", "password") if (value := getattr(wanted, key)) is not None
    }
    if "tenant" in wanted.model_fields_set:
        changes["tenant"] = wanted.tenant
    if "password" in changes:
        _check_password("password", changes["password"], name)
    return json_response(_view(await house_of(request).users.change(caller, name, changes, wanted.reason)))


@router.delete(
    "/users/{name}",
    **describe(
        "Remove a user, with all sessions",
        "What the user did stays in the audit trail.",
        body=schemas.CancelRequest,
        body_required=False,
        answers={204: None},
        problems=PROBLEMS,
    ),
)
async def remove(request: Request, caller: MayAdminister, name: str) -> Response:
    refuse_tenants(caller, USERS)
    reason = checked(schemas.CancelRequest, await read_json(request, empty={})).reason
    await house_of(request).users.remove(caller, known_name(name), reason)
    return Response(status_code=204)


@router.post(
    "/users/{name}/logout",
    **describe(
        "End every session of a user",
        body=schemas.CancelRequest,
        body_required=False,
        answers={200: schemas.EndedView},
        problems=PROBLEMS,
    ),
)
async def log_out(request: Request, caller: MayAdminister, name: str) -> Response:
    refuse_tenants(caller, USERS)
    reason = checked(schemas.CancelRequest, await read_json(request, empty={})).reason
    return json_response({"sessions": await house_of(request).users.log_out(caller, known_name(name), reason)})


# --- oneself ----------------------------------------------------------------------------------------------------


def _visit(request: Request) -> Visit | None:
    found: Visit | None = getattr(request.state, "visit", None)
    return found


@router.get("/me", **describe("Who asks, and what that lets them do", answers={200: schemas.MeView}))
async def me(request: Request, caller: Anybody) -> Response:
    visit = _visit(request)
    view = {
        "name": caller.name,
        "role": caller.role,
        "rights": sorted(caller.rights),
        "tenant": caller.tenant,
        "every_tenant": caller.every_tenant,
        "csrf_token": None if visit is None else visits.csrf_token(visit.token),
    }
    return json_response(view, headers={"Cache-Control": "no-store"})


@router.post(
    "/me/password",
    **describe(
        "Change one's own password",
        "With a session. The user's other sessions end. A wrong `old` counts as a failed login.",
        body=schemas.PasswordChange,
        answers={204: None},
        problems=(400, 409, 413, 422, 429),
    ),
)
async def set_own_password(request: Request, caller: Anybody) -> Response:
    visit = _visit(request)
    if visit is None:
        raise Problem(409, "not-a-user", f"{caller.name} is a key and has no password: log in, and do it there.")
    wanted = checked(schemas.PasswordChange, await read_json(request))
    _check_password("new", wanted.new, visit.user)
    await house_of(request).users.set_own_password(visit, wanted.old, wanted.new)
    return Response(status_code=204)
