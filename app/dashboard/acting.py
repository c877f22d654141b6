"""What is done to one saga by a form of its page.

An action carries the number of the event up to which its page told the story. Where the saga has moved since, nothing
is done, and the new truth is shown.
"""

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app import strict_json
from app.access import Right
from app.dashboard.access import Posted, Posting, house_of, refuse_without
from app.dashboard.pages import Page
from app.dashboard.saga import ACTIONS, read_id, saga_page
from app.errors import Problem
from app.operating import NOT_GIVEN, Operator
from app.saga.durations import parse_duration
from app.saga.jsonable import text_fault
from app.store.sagas import Saga

TEXT_CHARACTERS: Final = 2000
"""Of a reason or a note."""

router = APIRouter(route_class=Page, include_in_schema=False)


@router.post("/admin/sagas/{id}/do/{action}")
async def act(request: Request, posted: Posting, id: str, action: str) -> Response:  # noqa: A002
    if action not in ACTIONS:
        raise Problem(404, "not-found", f"There is no action {action[:40]!r}.")
    refuse_without(posted.visitor, Right.OPERATE)
    saga_id = read_id(id)
    try:
        saga = await _do(request, posted, saga_id, action)
    except Problem as problem:
        if problem.status == 404:
            raise
        current = await house_of(request).engine.load(saga_id, posted.visitor.caller.sees)
        return await saga_page(request, posted.visitor, current, status=problem.status, problem=problem)
    return RedirectResponse(f"/admin/sagas/{saga.id}?done={action}", 303)


async def _do(request: Request, posted: Posted, saga_id: str, action: str) -> Saga:
    operator = Operator(house_of(request), posted.visitor.caller, unmoved(posted))
    reason, step = reason_of(posted), posted.one("step")
    confirmed = posted.one("confirm_not_done") == "true"
    match action:
        case "retry":
            given = parsed(posted.one("input")) if "input" in posted.form else NOT_GIVEN
            return await operator.retry(saga_id, reason, step=step or None, new_input=given, confirm_not_done=confirmed)
        case "skip":
            return await operator.skip(saga_id, reason, step, confirm_not_done=confirmed)
        case "resolve":
            return await operator.resolve(saga_id, reason, step)
        case "extend":
            return await operator.extend(saga_id, reason, _timeout(posted.one("timeout")))
        case "restart":
            return await operator.restart(saga_id, reason, request.app.state.schemas)
        case "compensate":
            return await operator.compensate(saga_id, reason)
        case "abandon":
            return await operator.abandon(saga_id, reason)
        case "pause":
            return await operator.pause(saga_id, reason)
    return await operator.resume(saga_id, reason)


def unmoved(posted: Posted) -> Callable[[Saga], bool]:
    """A form without the number comes from no page of ours, and is judged as one that is out of date."""
    seq = posted.one("seq")
    return lambda saga: str(saga.state.seq) == seq


def reason_of(posted: Posted) -> str:
    """Problem 422 where there is none."""
    reason = text_of(posted, "reason")
    if not reason:
        raise Problem(422, "reason-missing", "Say why you do this: the reason stands in the audit trail.")
    return reason


def text_of(posted: Posted, name: str) -> str:
    """As it can be stored. Problem 422 where it cannot."""
    text = posted.one(name).strip()[:TEXT_CHARACTERS]
    if fault := text_fault(text):
        raise Problem(422, "body-invalid", f"The {name} {fault}.")
    return text


def _timeout(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Problem(422, "body-invalid", f"The timeout {error}.") from None


def parsed(text: str) -> Any:
    return strict_json.parse(text.encode())
