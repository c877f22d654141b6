"""API keys: made, rotated, revoked. A secret is shown once, in the answer that makes it."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api import schemas
from app.api.dependencies import MayAdminister, checked, house_of, read_json
from app.api.openapi import describe
from app.api.sagas import CURSOR, LIMIT, json_response, page_response
from app.filters import PAGING, Query
from app.instants import rfc3339
from app.keys import known_id, new_key, new_key_id, no_key, tenant_of_new

PROBLEMS: Final = (400, 404, 413, 422)
TIMES: Final = ("created_at", "expires_at", "revoked_at", "last_used_at")
NOT_KEPT: Final = {"Cache-Control": "no-store"}

router = APIRouter(prefix="/admin/api", tags=["admin"])


def _view(key: Mapping[str, Any]) -> dict[str, Any]:
    return {**key, **{name: None if key[name] is None else rfc3339(key[name]) for name in TIMES}}


@router.post(
    "/keys",
    **describe(
        "Make an API key",
        "The key, `id.secret`, stands in this answer and nowhere else.",
        body=schemas.KeyRequest,
        answers={201: schemas.KeyMade},
        problems=(400, 413, 422),
    ),
)
async def create(request: Request, caller: MayAdminister) -> Response:
    wanted = checked(schemas.KeyRequest, await read_json(request))
    tenant = tenant_of_new(caller, wanted.tenant)
    key_id = await new_key_id(house_of(request).database)
    key, digest = new_key(key_id)
    made = await house_of(request).api_keys.create(
        key_id,
        digest,
        caller,
        scopes=list(dict.fromkeys(wanted.scopes)),
        tenant=tenant,
        expires_in=wanted.expires_in,
        note=wanted.note,
        reason=wanted.reason,
    )
    return json_response({**_view(made), "key": key}, 201, NOT_KEPT)


@router.get(
    "/keys",
    **describe(
        "API keys, newest first, without their secrets",
        answers={200: schemas.KeyPage},
        problems=(422,),
        parameters=(LIMIT, CURSOR),
    ),
)
async def list_keys(request: Request, caller: MayAdminister) -> Response:
    query = Query(request, PAGING)
    limit, place = query.limit(), query.place()
    query.check()
    found, following = await house_of(request).api_keys.page(caller.sees, limit=limit, after=place)
    return page_response(query, [_view(key) for key in found], None if following is None else following.cursor())


@router.get("/keys/{id}", **describe("One API key", answers={200: schemas.KeyView}, problems=(404,)))
async def show(request: Request, caller: MayAdminister, id: str) -> Response:  # noqa: A002
    found = await house_of(request).api_keys.get(known_id(id), caller.sees)
    if found is None:
        raise no_key(id)
    return json_response(_view(found))


@router.post(
    "/keys/{id}/rotate",
    **describe(
        "Make a key in place of another",
        "With its scopes, its tenant and its length of life. The old one ends after `overlap`, by default a day.",
        body=schemas.RotateRequest,
        body_required=False,
        answers={201: schemas.KeyMade},
        problems=PROBLEMS,
    ),
)
async def rotate(request: Request, caller: MayAdminister, id: str) -> Response:  # noqa: A002
    wanted = checked(schemas.RotateRequest, await read_json(request, empty={}))
    new = await new_key_id(house_of(request).database)
    key, digest = new_key(new)
    made = await house_of(request).api_keys.rotate(
        known_id(id), new, digest, caller, overlap_seconds=wanted.overlap, reason=wanted.reason
    )
    if made is None:
        raise no_key(id, " that still holds")
    request.app.state.keys.forget(id)
    return json_response({**_view(made), "key": key}, 201, NOT_KEPT)


@router.delete(
    "/keys/{id}",
    **describe(
        "Revoke a key",
        "It opens nothing any more: at once in the process that is asked, within two seconds in others.",
        body=schemas.CancelRequest,
        body_required=False,
        answers={200: schemas.KeyView},
        problems=PROBLEMS,
    ),
)
async def revoke(request: Request, caller: MayAdminister, id: str) -> Response:  # noqa: A002
    reason = checked(schemas.CancelRequest, await read_json(request, empty={})).reason
    gone = await house_of(request).api_keys.revoke(known_id(id), caller, reason)
    if gone is None:
        raise no_key(id)
    request.app.state.keys.forget(id)
    return json_response(_view(gone))
