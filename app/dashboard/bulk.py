"""What is done to many sagas at once, and what was.

A page says how many there are, and asks for a reason and a limit; then it is done, and the job has a page of its own,
as it has a row (`app.store.bulk_jobs`): to load that anew does nothing again.
"""

from typing import Any, Final, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.access import Right
from app.dashboard.access import Posting, Visiting, Visitor, house_of, refuse_without
from app.dashboard.pages import Page, now, page
from app.dashboard.sagas import ACTIONS, ALL, WITHIN, View, read_view, sound
from app.errors import Problem
from app.filters import PAGING, Query, as_body
from app.instants import rfc3339
from app.operating import BULK_MOST, BulkAction, Operator, bulk_job
from app.saga.fields import shown
from app.saga.state import SECOND

DEFAULT_LIMIT: Final = 100
NAMED: Final = 5
"""Of the sagas that were left as they were for the same cause."""

router = APIRouter(route_class=Page, include_in_schema=False)


@router.get("/admin/sagas/bulk")
async def ask(request: Request, visitor: Visiting) -> Response:
    refuse_without(visitor, Right.OPERATE)
    view, action = _asked(request, visitor)
    return await _asking(request, visitor, view, action, limit=str(min(DEFAULT_LIMIT, BULK_MOST)))


@router.post("/admin/sagas/bulk")
async def act(request: Request, posted: Posting) -> Response:
    visitor = posted.visitor
    refuse_without(visitor, Right.OPERATE)
    view, action = _asked(request, visitor)
    reason, limit = posted.one("reason").strip(), posted.one("limit").strip()
    fault = None
    if not reason:
        fault = "Say why you do this: the reason stands in the audit trail."
    elif not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= BULK_MOST:
        fault = f"The limit must be a number from 1 to {BULK_MOST:,}."
    if fault is not None:
        return await _asking(request, visitor, view, action, reason=reason, limit=limit, fault=fault)
    operator = Operator(house_of(request), visitor.caller)
    done = await operator.bulk(action, view.wanted, int(limit), reason, dry_run=False)
    return RedirectResponse(f"/admin/bulk/{done.job}", 303)


def _asked(request: Request, visitor: Visitor) -> tuple[View, BulkAction]:
    """Problem 422 where the address is not as it should be: an action is not done to what somebody did not mean."""
    action = request.query_params.get("action", "")
    scope = request.query_params.get("of", ALL)
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in {"action", "of"}]
    if scope == ALL:
        kept = [(name, value) for name, value in kept if name != "selected"]
    else:
        kept = [("id" if name == "selected" else name, value) for name, value in kept if name == "selected"]
        if not kept:
            raise Problem(422, "nothing-selected", "Nothing is selected: tick some sagas, or choose all that match.")
    # The time is fixed here: what is confirmed is what was counted.
    kept = [
        (name, value) if name != "within" or value not in WITHIN else ("created_after", _since(WITHIN[value][1]))
        for name, value in kept
    ]
    view = sound(read_view(Request({**request.scope, "query_string": urlencode(kept).encode()}), visitor))
    if action not in get_args(BulkAction):
        raise Problem(422, "action-unknown", f"{shown(action)} cannot be done to many: it is one of {list(ACTIONS)}.")
    return view, action  # type: ignore[return-value]


def _since(seconds: int) -> str:
    return rfc3339(now() - seconds * SECOND)


async def _asking(
    request: Request,
    visitor: Visitor,
    view: View,
    action: BulkAction,
    *,
    limit: str,
    reason: str = "",
    fault: str | None = None,
) -> Response:
    tried = await Operator(house_of(request), visitor.caller).bulk(action, view.wanted, 1, "", dry_run=True)
    return page(
        request,
        visitor,
        "bulk.html",
        here="bulk",
        status=422 if fault else 200,
        action=action,
        verb=ACTIONS[action],
        matched=tried.matched,
        most=BULK_MOST,
        reason=reason,
        limit=limit,
        fault=fault,
        filters=as_body(view.wanted),
        target=view.address("/admin/sagas/bulk", action=action),
        back=view.address(),
    )


# --- what was done ----------------------------------------------------------------------------------------------


@router.get("/admin/bulk")
async def jobs(request: Request, visitor: Visiting) -> Response:
    query = Query(request, PAGING)
    limit, place = query.limit(), query.place()
    query.check()
    found, more = await house_of(request).bulk_jobs.page(visitor.caller.sees, limit=limit, after=place)
    sized = {"limit": str(limit)} if "limit" in query else {}
    return page(
        request,
        visitor,
        "bulk_jobs.html",
        here="bulk",
        jobs=found,
        verbs=ACTIONS,
        next=None if more is None else f"/admin/bulk?{urlencode({'cursor': more.cursor(), **sized})}",
        paged=place is not None,
    )


@router.get("/admin/bulk/{id}")
async def job(request: Request, visitor: Visiting, id: str) -> Response:  # noqa: A002
    found = await bulk_job(house_of(request), visitor.caller, id)
    failed: dict[str, list[str]] = {}
    for each in found["failed"] or ():
        failed.setdefault(each["code"], []).append(each["id"])
    return page(
        request,
        visitor,
        "bulk_job.html",
        here="bulk",
        job=found,
        verb=ACTIONS[found["action"]],
        failed=failed,
        named=NAMED,
        back=f"/admin/sagas?{urlencode(_address(found['filter']), doseq=True)}",
    )


def _address(filters: dict[str, Any]) -> dict[str, Any]:
    """A filter as the address of a list has it."""
    labels = [f"{name}:{value}" for name, value in filters.get("label", {}).items()]
    found = {**filters, **({"label": labels} if labels else {})}
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in found.items()}
