"""The audit trail, as people read it: who did what, to what, why and from where."""

from typing import Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.dashboard.access import Visiting, house_of
from app.dashboard.pages import Page, page
from app.filters import PAGING, Query, uuid, whole
from app.store.audit import AuditFilter

FILTERS: Final = ("actor", "action", "saga_id")
ACTIONS: Final = (
    "abandon",
    "cancel",
    "compensate",
    "discard",
    "extend",
    "pause",
    "resolve",
    "restart",
    "resume",
    "retry",
    "skip",
)
"""What is offered to who looks for one; any other may be asked for."""

router = APIRouter(route_class=Page, include_in_schema=False)


@router.get("/admin/audit")
async def audit(request: Request, visitor: Visiting) -> Response:
    query = Query(request, (*FILTERS, *PAGING))
    actor, action, saga_id = query.one("actor", str), query.one("action", str), query.one("saga_id", uuid)
    limit, before = query.limit(), query.one("cursor", whole)
    query.check()
    wanted = AuditFilter(visitor.caller.sees, saga_id=saga_id, actor=actor, action=action)
    lines, number = await house_of(request).audit.page(wanted, limit=limit, before=before)
    given = {name: request.query_params.get(name, "") for name in FILTERS}

    def address(**changes: str) -> str:
        kept = {name: value for name, value in {**given, **changes}.items() if value}
        return f"/admin/audit?{urlencode(kept)}" if kept else "/admin/audit"

    sized = {"limit": str(limit)} if "limit" in query else {}
    return page(
        request,
        visitor,
        "audit.html",
        here="audit",
        lines=lines,
        given=given,
        actions=ACTIONS,
        address=address,
        next=None if number is None else address(cursor=str(number), **sized),
        paged=before is not None,
    )
