"""The audit trail: pages of it, and all of it as JSON lines."""

from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from app.access import Caller
from app.api import schemas
from app.api.dependencies import MayLook, house_of
from app.api.openapi import describe, parameter
from app.api.sagas import INSTANT, LIMIT, OF_SAGA, page_response
from app.filters import PAGING, Query, instant, uuid, whole
from app.instants import rfc3339
from app.store.audit import AuditFilter

FILTERS: Final = ("saga_id", "actor", "action", "subject", "created_after", "created_before")
JSON_LINES: Final = "application/jsonl"
FORMATS: Final = ("json", "jsonl")

FILTER_PARAMETERS: Final = (
    OF_SAGA,
    parameter("actor", "query", "`key:ID`, `user:NAME`, or `house:files` for what was registered at start"),
    parameter("action", "query", "As `retry`, `create-key`, `put-definition`"),
    parameter("subject", "query", "`definition/NAME`, `service/NAME`, `key/ID`, `user/NAME`"),
    parameter("created_after", "query", "RFC 3339", INSTANT),
    parameter("created_before", "query", "RFC 3339", INSTANT),
)

router = APIRouter(prefix="/admin/api", tags=["admin"])


def audit_filter(query: Query, caller: Caller) -> AuditFilter:
    return AuditFilter(
        tenant=caller.sees,
        saga_id=query.one("saga_id", uuid),
        actor=query.one("actor", str),
        action=query.one("action", str),
        subject=query.one("subject", str),
        created_after=query.one("created_after", instant),
        created_before=query.one("created_before", instant),
    )


def _format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError(f"must be {' or '.join(FORMATS)}")
    return text


@router.get(
    "/audit",
    **describe(
        "Who did what and why, newest first",
        "With `format=jsonl` all that match, a line each; `limit` and `cursor` are of pages.",
        answers={200: schemas.AuditPage},
        also={200: {JSON_LINES: {"schema": {"type": "string"}}}},
        problems=(422,),
        parameters=(
            *FILTER_PARAMETERS,
            parameter("format", "query", "`json`, or `jsonl` for an export", {"enum": list(FORMATS)}),
            LIMIT,
            parameter("cursor", "query", "`next_cursor` of the page before", {"type": "string", "pattern": "^[0-9]+$"}),
        ),
    ),
)
async def audit(request: Request, caller: MayLook) -> Response:
    query = Query(request, (*FILTERS, "format", *PAGING))
    limit, before = query.limit(), query.one("cursor", whole)
    wanted, form = audit_filter(query, caller), query.one("format", _format, "json")
    query.check()
    trail = house_of(request).audit
    if form == "jsonl":

        async def lines() -> AsyncIterator[bytes]:
            async for found in trail.lines(wanted):
                yield b"".join(orjson.dumps(_view(line)) + b"\n" for line in found)

        name = {"Content-Disposition": 'attachment; filename="audit.jsonl"'}
        return StreamingResponse(lines(), media_type=JSON_LINES, headers=name)
    found, number = await trail.page(wanted, limit=limit, before=before)
    return page_response(query, [_view(line) for line in found], None if number is None else str(number))


def _view(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "at": rfc3339(line["at"])}
