"""Dead letters: what was given up, and what a person does about it.

The list is its address. Each open letter has one form with two buttons; where the letter has been closed meanwhile,
nothing is done and the page says so.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.access import Right
from app.dashboard.access import Posting, Visiting, Visitor, house_of, refuse_without
from app.dashboard.pages import Page, page, role_needed
from app.errors import Problem
from app.filters import PAGING, Query, uuid
from app.operating import Operator
from app.saga.diagram.signs import Tone
from app.saga.fields import shown
from app.store.letters import OPEN, STATUSES

ALL: Final = "all"
DONE: Final[Mapping[str, str]] = {"retry": "It is tried again.", "discard": "The letter is closed."}
TONES: Final[Mapping[str, Tone]] = {OPEN: Tone.BAD, "retried": Tone.ACTIVE, "resolved": Tone.GOOD}
"""Of the others there is nothing to say."""
REASON_CHARACTERS: Final = 2000

router = APIRouter(route_class=Page, include_in_schema=False)


@router.get("/admin/dead-letters")
async def letters(request: Request, visitor: Visiting) -> Response:
    return await _page(request, visitor, done=DONE.get(request.query_params.get("done", "")))


async def _page(
    request: Request, visitor: Visitor, *, status: int = 200, problem: Problem | None = None, done: str | None = None
) -> Response:
    query = Query(request, ("status", "saga_id", "done", *PAGING))
    wanted, of_saga = query.one("status", _status, OPEN), query.one("saga_id", uuid)
    limit, place = query.limit(), query.place()
    query.check()
    found, more = await house_of(request).letters.page(
        visitor.caller.sees,
        limit=limit,
        after=place,
        statuses=() if wanted == ALL else (wanted,),
        saga_id=of_saga,
    )

    def address(**changes: str | None) -> str:
        kept = {"status": wanted, "saga_id": of_saga, **changes}
        return f"/admin/dead-letters?{urlencode({name: value for name, value in kept.items() if value})}"

    allowed = visitor.caller.may(Right.OPERATE)
    return page(
        request,
        visitor,
        "letters.html",
        here="letters",
        status=status,
        letters=found,
        tones=TONES,
        wanted=wanted,
        of_saga=of_saga,
        chips=[(each, address(status=each), each == wanted) for each in (*STATUSES, ALL)],
        query=urlencode({name: value for name, value in (("status", wanted), ("saga_id", of_saga)) if value}),
        newest=address(),
        next=None if more is None else address(cursor=more.cursor(), limit=request.query_params.get("limit")),
        paged=place is not None,
        all_address=address(status=ALL),
        refusal=None if allowed else role_needed(Right.OPERATE),
        problem=problem,
        done=done,
    )


def _status(text: str) -> str:
    if text not in {*STATUSES, ALL}:
        raise ValueError(f"must be one of {', '.join(STATUSES)} or {ALL}, not {shown(text)}")
    return text


@router.post("/admin/dead-letters/{id}/{action}")
async def act(request: Request, posted: Posting, id: str, action: str) -> Response:  # noqa: A002 - the path's word
    if action not in DONE:
        raise Problem(404, "not-found", f"There is no action {action[:40]!r}.")
    refuse_without(posted.visitor, Right.OPERATE)
    operator = Operator(house_of(request), posted.visitor.caller)
    act = operator.retry_letter if action == "retry" else operator.discard_letter
    try:
        reason = posted.one("reason").strip()
        if not reason:
            raise Problem(422, "reason-missing", "Say why you do this: the reason stands in the audit trail.")  # noqa: TRY301
        await act(_id(id), reason[:REASON_CHARACTERS])
    except Problem as problem:
        if problem.status == 404:
            raise
        return await _page(request, posted.visitor, status=problem.status, problem=problem)
    kept: list[tuple[str, Any]] = [(n, v) for n, v in request.query_params.items() if n in {"status", "saga_id"}]
    return RedirectResponse(f"/admin/dead-letters?{urlencode([*kept, ('done', action)])}", 303)


def _id(text: str) -> str:
    try:
        return uuid(text)
    except ValueError:
        raise Problem(404, "letter-not-found", f"There is no dead letter {shown(text)}: an id is a UUID.") from None
