"""API keys: who may come in without a password. A secret stands on the page that answers its making, and nowhere else.

That page reads nothing more from the database: what was made is shown even if the next query would fail.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.access import SCOPES, TENANT, Right, Scope
from app.dashboard.access import Posted, Posting, Visiting, Visitor, house_of, refuse_without
from app.dashboard.acting import reason_of, text_of
from app.dashboard.pages import Page, now, page
from app.errors import Problem
from app.filters import PAGING, Query
from app.keys import known_id, new_key, new_key_id, no_key, tenant_of_new
from app.saga.durations import parse_duration
from app.saga.state import Micros

PATH: Final = "/admin/keys"
ACTIONS: Final = ("rotate", "revoke")
DONE: Final[Mapping[str, str]] = {"revoke": "The key is revoked. Other processes know it within two seconds."}
NEW: Final[Mapping[str, Any]] = {"scopes": ["start", "read"], "tenant": "", "expires_in": "90d", "note": ""}
"""What the form begins with."""
_ID: Final = re.compile(r"[0-9a-f]{32}")

router = APIRouter(route_class=Page, include_in_schema=False)


@router.get(PATH)
async def keys(request: Request, visitor: Visiting) -> Response:
    refuse_without(visitor, Right.ADMINISTER)
    return await _page(request, visitor, done=DONE.get(request.query_params.get("done", "")))


async def _page(
    request: Request,
    visitor: Visitor,
    *,
    given: Mapping[str, Any] = NEW,
    problem: Problem | None = None,
    done: str | None = None,
) -> Response:
    query = Query(request, ("done", *PAGING))
    limit, place = query.limit(), query.place()
    query.check()
    found, more = await house_of(request).api_keys.page(visitor.caller.sees, limit=limit, after=place)
    return page(
        request,
        visitor,
        "keys.html",
        here="keys",
        status=200 if problem is None else problem.status,
        keys=[(key, _standing(key, now())) for key in found],
        scopes=SCOPES,
        given=given,
        next=None if more is None else f"{PATH}?cursor={more.cursor()}&limit={limit}",
        paged=place is not None,
        problem=problem,
        done=done,
    )


def _standing(key: Mapping[str, Any], at: Micros) -> str:
    if key["revoked_at"] is not None:
        return "revoked"
    return "ended" if key["expires_at"] is not None and key["expires_at"] <= at else "holds"


@router.post(PATH)
async def make(request: Request, posted: Posting) -> Response:
    visitor = posted.visitor
    refuse_without(visitor, Right.ADMINISTER)
    house = house_of(request)
    given: dict[str, Any] = {name: posted.one(name).strip() for name in NEW} | {"scopes": posted.form.get("scopes", [])}
    try:
        scopes = _scopes(given["scopes"])
        tenant = tenant_of_new(visitor.caller, tenant_in(given["tenant"]))
        expires_in = _duration("end", given["expires_in"]) if given["expires_in"] else None
        note = text_of(posted, "note") or None
        key_id = await new_key_id(house.database)
        key, digest = new_key(key_id)
        await house.api_keys.create(
            key_id,
            digest,
            visitor.caller,
            scopes=scopes,
            tenant=tenant,
            expires_in=expires_in,
            note=note,
            reason=None,
        )
    except Problem as problem:
        return await _page(request, visitor, given=given, problem=problem)
    return _made(request, visitor, key, "The key is made.")


@router.post(PATH + "/{id}/{action}")
async def act(request: Request, posted: Posting, id: str, action: str) -> Response:  # noqa: A002 - the path's word
    if action not in ACTIONS:
        raise Problem(404, "not-found", f"There is no action {action[:40]!r}.")
    visitor = posted.visitor
    refuse_without(visitor, Right.ADMINISTER)
    if not _ID.fullmatch(id):
        raise no_key(id)
    try:
        return await (_rotate if action == "rotate" else _revoke)(request, posted, id)
    except Problem as problem:
        return await _page(request, visitor, problem=problem)


async def _rotate(request: Request, posted: Posted, key_id: str) -> Response:
    house, caller = house_of(request), posted.visitor.caller
    reason, overlap = reason_of(posted), _duration("overlap", posted.one("overlap").strip(), allow_zero=True)
    new = await new_key_id(house.database)
    key, digest = new_key(new)
    if (
        await house.api_keys.rotate(known_id(key_id), new, digest, caller, overlap_seconds=overlap, reason=reason)
        is None
    ):
        raise no_key(key_id, " that still holds")
    request.app.state.keys.forget(key_id)
    return _made(request, posted.visitor, key, "A key is made in place of the old one.")


async def _revoke(request: Request, posted: Posted, key_id: str) -> Response:
    if await house_of(request).api_keys.revoke(known_id(key_id), posted.visitor.caller, reason_of(posted)) is None:
        raise no_key(key_id)
    request.app.state.keys.forget(key_id)
    return RedirectResponse(f"{PATH}?done=revoke", 303)


def _made(request: Request, visitor: Visitor, key: str, told: str) -> Response:
    back, name = (PATH, "All keys"), "API key"
    return page(
        request, visitor, "secret.html", here="keys", status=201, told=told, of=None, name=name, secret=key, back=back
    )


def _scopes(given: list[str]) -> list[Scope]:
    if not given or set(given) - set(SCOPES):
        raise Problem(422, "body-invalid", f"Tick one scope or more: {', '.join(SCOPES)}.")
    return [cast(Scope, scope) for scope in dict.fromkeys(given)]


def tenant_in(text: str) -> str | None:
    """None where there is none. Problem 422."""
    if text and not re.fullmatch(TENANT, text):
        detail = "A tenant has 1 to 64 letters, digits and . _ -, and begins with a letter or digit."
        raise Problem(422, "body-invalid", detail)
    return text or None


def _duration(name: str, text: str, *, allow_zero: bool = False) -> float:
    try:
        return parse_duration(text, allow_zero=allow_zero)
    except ValueError as error:
        raise Problem(422, "body-invalid", f"The {name} {error}.") from None
