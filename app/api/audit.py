"""The audit trail."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api import schemas
from app.api.dependencies import MayLook, house_of
from app.api.openapi import describe, parameter
from app.api.sagas import LIMIT, OF_SAGA, page_response
from app.filters import PAGING, Query, uuid, whole
from app.instants import rfc3339

router = APIRouter(prefix="/admin/api", tags=["admin"])


@router.get(
    "/audit",
    **describe(
        "Who did what and why, newest first",
        answers={200: schemas.AuditPage},
        problems=(422,),
        parameters=(
            OF_SAGA,
            LIMIT,
            parameter("cursor", "query", "`next_cursor` of the page before", {"type": "string", "pattern": "^[0-9]+$"}),
        ),
    ),
)
async def audit(request: Request, caller: MayLook) -> Response:
    query = Query(request, ("saga_id", *PAGING))
    limit, before = query.limit(), query.one("cursor", whole)
    of_saga = query.one("saga_id", uuid)
    query.check()
    found, number = await house_of(request).letters.audit_trail(
        caller.sees, limit=limit, before=before, saga_id=of_saga
    )
    cursor = None if number is None else str(number)
    return page_response(query, [{**line, "at": rfc3339(line["at"])} for line in found], cursor)
