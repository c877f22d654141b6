"""Notices: what a `notify_url` could not be told yet."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api import schemas
from app.api.dependencies import MayLook, MayOperate, checked, house_of, read_json, read_reasoned
from app.api.openapi import describe, parameter, several
from app.api.sagas import CURSOR, LIMIT, json_response, page_response
from app.errors import Problem
from app.filters import PAGING, Query, uuid
from app.instants import rfc3339
from app.saga.fields import shown
from app.store.notices import STATUSES

router = APIRouter(prefix="/admin/api", tags=["admin"])


def _notice_status(text: str) -> str:
    if text not in STATUSES:
        raise ValueError(f"must be one of {', '.join(STATUSES)}, not {shown(text)}")
    return text


def _notice_view(notice: Mapping[str, Any]) -> dict[str, Any]:
    next_attempt_at = notice["next_attempt_at"]
    return {
        **notice,
        "next_attempt_at": None if next_attempt_at is None else rfc3339(next_attempt_at),
        "created_at": rfc3339(notice["created_at"]),
    }


@router.get(
    "/notices",
    **describe(
        "What a `notify_url` still has to be told, newest first",
        answers={200: schemas.NoticePage},
        problems=(422,),
        parameters=(
            parameter("status", "query", "Repeated, or by commas", several({"enum": list(STATUSES)})),
            LIMIT,
            CURSOR,
        ),
    ),
)
async def list_notices(request: Request, caller: MayLook) -> Response:
    query = Query(request, ("status", *PAGING))
    statuses = query.many("status", _notice_status, commas=True)
    limit, place = query.limit(), query.place()
    query.check()
    found, following = await house_of(request).notices.page(caller.sees, limit=limit, after=place, statuses=statuses)
    cursor = None if following is None else following.cursor()
    return page_response(query, [_notice_view(notice) for notice in found], cursor)


PROBLEMS: Final = (400, 404, 413, 422)


@router.post(
    "/notices/{id}/retry",
    **describe(
        "Send a notice again now",
        "As if it had never been tried: its attempts, their distances and `SAGA_NOTIFY_FOR` count anew.",
        body=schemas.CancelRequest,
        body_required=False,
        answers={200: schemas.NoticeView},
        problems=PROBLEMS,
    ),
)
async def retry_notice(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = checked(schemas.CancelRequest, await read_json(request, empty={})).reason
    house = house_of(request)
    return _noticed(id, await house.notices.send_again(_notice_id(id), caller, reason))


@router.post(
    "/notices/{id}/discard",
    **describe(
        "Take a notice away untold",
        body=schemas.Reason,
        answers={200: schemas.NoticeView},
        problems=PROBLEMS,
    ),
)
async def discard_notice(request: Request, caller: MayOperate, id: str) -> Response:  # noqa: A002
    reason = (await read_reasoned(request, schemas.Reason)).reason
    house = house_of(request)
    return _noticed(id, await house.notices.discard(_notice_id(id), caller, reason))


def _notice_id(id: str) -> str:  # noqa: A002
    try:
        return uuid(id)
    except ValueError:
        raise _no_notice(id) from None


def _noticed(id: str, notice: Mapping[str, Any] | None) -> Response:  # noqa: A002
    if notice is None:
        raise _no_notice(id)
    return json_response(_notice_view(notice))


def _no_notice(id: str) -> Problem:  # noqa: A002
    return Problem(404, "notice-not-found", f"There is no notice {shown(id)}: none was made, or it was taken.")
