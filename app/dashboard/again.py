"""Another input for a step, and another saga like one that there is: forms with JSON in them."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.access import Right
from app.dashboard.access import Posting, Visiting, Visitor, house_of, refuse_without
from app.dashboard.acting import parsed, unmoved
from app.dashboard.pages import Page, page, pretty
from app.dashboard.saga import editable, read_id, step_input
from app.errors import Problem
from app.operating import NOT_GIVEN
from app.store.sagas import Saga
from app.submitting import check_labels, idempotency_key, make_submission
from app.views import saga_json

router = APIRouter(route_class=Page, include_in_schema=False)


# --- another input ----------------------------------------------------------------------------------------------


@router.get("/admin/sagas/{id}/input/{step}")
async def edit(request: Request, visitor: Visiting, id: str, step: str) -> Response:  # noqa: A002
    refuse_without(visitor, Right.OPERATE)
    saga = await house_of(request).engine.load(read_id(id), visitor.caller.sees)
    before = _editablestep_input(saga, step)
    return _input_page(request, visitor, saga, step, before=before, given=before)


@router.post("/admin/sagas/{id}/input/{step}")
async def preview(request: Request, posted: Posting, id: str, step: str) -> Response:  # noqa: A002
    """Shows what would change; nothing is done yet."""
    visitor = posted.visitor
    refuse_without(visitor, Right.OPERATE)
    saga = await house_of(request).engine.load(read_id(id), visitor.caller.sees)
    before, given = _editablestep_input(saga, step), posted.one("input")
    try:
        after = pretty(parsed(given))
    except Problem as problem:
        return _input_page(request, visitor, saga, step, before=before, given=given, problem=problem)
    if not unmoved(posted)(saga):
        detail = "The saga has moved on since you looked at it. This is the input of the step now."
        moved = Problem(412, "saga-has-moved", detail)
        return _input_page(request, visitor, saga, step, before=before, given=before, problem=moved)
    diff = None if posted.one("again") else list(_diff(_sorted(before), _sorted(after)))
    return _input_page(request, visitor, saga, step, before=before, given=after, diff=diff)


def _editablestep_input(saga: Saga, step: str) -> str:
    """Problem 409 where the step can be given none."""
    position = saga.definition.index.get(step)
    given = NOT_GIVEN
    if position is not None and step in editable(saga):
        given = step_input(saga, position, orjson.loads(saga_json(saga)))
    if given is NOT_GIVEN:
        detail = f"{step[:64]} of this saga can be given no other input now: only a step that is to be tried again can."
        raise Problem(409, "step-not-editable", detail)
    return pretty(given)


def _sorted(text: str) -> str:
    """Without the order of keys, which means nothing."""
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False, sort_keys=True)


def _diff(before: str, after: str) -> Iterator[tuple[str, str]]:
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), "now", "then", lineterm="", n=3):
        if not line.startswith(("---", "+++")):
            yield {"+": "add", "-": "del", "@": "at"}.get(line[:1], ""), line


def _input_page(
    request: Request,
    visitor: Visitor,
    saga: Saga,
    step: str,
    *,
    before: str,
    given: str,
    diff: list[tuple[str, str]] | None = None,
    problem: Problem | None = None,
) -> Response:
    position = saga.definition.index[step]
    return page(
        request,
        visitor,
        "input.html",
        here="sagas",
        status=200 if problem is None else problem.status,
        saga=saga,
        step=step,
        before=before,
        given=given,
        diff=diff,
        unchanged=diff == [],
        problem=problem,
        doubtful=saga.state.steps[position].action.unknown,
        rows=min(max(given.count("\n") + 2, 6), 30),
    )


# --- one like it ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Wanted:
    """A saga to start, as `app.submitting` reads it."""

    saga: str
    input: Any
    labels: dict[str, str] | None
    version: int | None = None
    timeout: float | None = None
    start_at: int | None = None
    notify_url: str | None = None


@router.get("/admin/sagas/{id}/again")
async def again(request: Request, visitor: Visiting, id: str) -> Response:  # noqa: A002
    refuse_without(visitor, Right.START)
    saga = await house_of(request).engine.load(read_id(id), visitor.caller.sees)
    labels = "\n".join(f"{name}: {value}" for name, value in saga.labels.items())
    given = pretty(orjson.loads(saga_json(saga))["input"])
    return _again_page(request, visitor, saga, key="", labels=labels, given=given)


@router.post("/admin/sagas/{id}/again")
async def start(request: Request, posted: Posting, id: str) -> Response:  # noqa: A002
    visitor, house = posted.visitor, house_of(request)
    refuse_without(visitor, Right.START)
    saga = await house.engine.load(read_id(id), visitor.caller.sees)
    try:
        key = idempotency_key([posted.one("key")], {})
        wanted = Wanted(saga.definition.name, parsed(posted.one("input")), _labels(posted.one("labels")))
        body = {"saga": wanted.saga, "input": wanted.input, "labels": wanted.labels}
        schemas = request.app.state.schemas
        submission = await make_submission(house, schemas, visitor.caller, key, wanted, body, None)
        started, _ = await house.engine.start(submission)
    except Problem as problem:
        return _again_page(
            request,
            visitor,
            saga,
            key=posted.one("key"),
            labels=posted.one("labels"),
            given=posted.one("input"),
            problem=problem,
        )
    return RedirectResponse(f"/admin/sagas/{started.id}?done=start", 303)


def _labels(text: str) -> dict[str, str]:
    labels = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            raise Problem(422, "body-invalid", f"A label is written `name: value`, not {line[:80]!r}.")
        labels[name.strip()] = value.strip()
    try:
        return check_labels(labels)
    except ValueError as error:
        raise Problem(422, "body-invalid", f"The labels are not as they should be: the object {error}.") from None


def _again_page(
    request: Request, visitor: Visitor, saga: Saga, *, key: str, labels: str, given: str, problem: Problem | None = None
) -> Response:
    return page(
        request,
        visitor,
        "again.html",
        here="sagas",
        status=200 if problem is None else problem.status,
        saga=saga,
        key=key,
        labels=labels,
        given=given,
        problem=problem,
        rows=min(max(given.count("\n") + 2, 6), 30),
    )
