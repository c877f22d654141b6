"""One saga: what happened, what comes next, and what may be done.

An action carries the number of the event up to which its page told the story. Where the saga has moved since, nothing
is done, and the new truth is shown.
"""

import contextlib
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson
from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from app import strict_json
from app.access import Right
from app.dashboard import live
from app.dashboard.access import Posted, Posting, Visiting, Visitor, house_of, refuse_without
from app.dashboard.attempts import Attempt, attempts_of, line_of
from app.dashboard.pages import Page, curl, page, pretty, role_needed
from app.dashboard.rows import progress_of
from app.engine import now_of
from app.errors import Problem
from app.filters import uuid
from app.instants import duration, rfc3339
from app.operating import NOT_GIVEN, Operator
from app.redacting import discreet_history, shown_step_input
from app.saga import diagram
from app.saga.actions import verdicts
from app.saga.durations import parse_duration
from app.saga.messages import Refusal
from app.saga.preparing import prepare
from app.saga.state import ACTION, COMPENSATION, SECOND, CallState, SagaState
from app.sentence import sentence
from app.store.sagas import Saga
from app.submitting import check_labels, idempotency_key, make_submission
from app.telling import CYAN, DIM, GREEN, RED, YELLOW, tell
from app.views import event_data, saga_json

EVENTS: Final = 1000
"""Of a longer history the last ones are shown."""
SHOWN_BYTES: Final = 100_000
"""Of a payload on the page; the whole of it is one call away."""
TONES: Final = {RED: "bad", GREEN: "good", YELLOW: "waiting", CYAN: "active", DIM: "idle"}

router = APIRouter(route_class=Page, include_in_schema=False)


class Action(NamedTuple):
    title: str
    does: str
    done: str
    danger: bool = False
    of_step: bool = False


ACTIONS: Final[Mapping[str, Action]] = {
    "retry": Action("Retry", "Try again now what failed, or waits to be tried again.", "It is tried again."),
    "resolve": Action(
        "Resolve", "You have settled a failed compensation by hand.", "It counts as settled.", of_step=True
    ),
    "skip": Action(
        "Skip a step", "Go on without a step that cannot be done.", "The step is skipped.", True, of_step=True
    ),
    "resume": Action("Resume", "End an operator's pause.", "It goes on."),
    "pause": Action("Pause", "Send nothing new; answers under way are kept.", "It is paused."),
    "extend": Action("Extend", "Give it more time: its deadline becomes now and so much.", "It has more time."),
    "compensate": Action("Compensate", "Stop it, and undo what was done.", "It turns back.", True),
    "abandon": Action("Abandon", "Stop it for good, and undo nothing.", "It is abandoned.", True),
    "restart": Action("Restart", "Run it again, as a new saga of the newest version.", "This is the new saga."),
}


DONE: Final = {"start": "It is started.", **{name: action.done for name, action in ACTIONS.items()}}


@dataclass(frozen=True, slots=True)
class Offered:
    """An action, and whether it may be done now."""

    name: str
    action: Action
    refusal: str | None
    """Why not."""
    steps: tuple[str, ...]
    doubtful: bool
    """A step of it may have happened: who acts has to say that it did not."""
    curl: str


@dataclass(frozen=True, slots=True)
class StepView:
    name: str
    service: str
    action: str
    compensation: str | None
    view: Mapping[str, Any]
    """As the API shows it."""
    attempts: list[Attempt]
    undoing: list[Attempt]
    has_input: bool
    input: str
    output: str
    pivot: bool
    unknown: bool
    editable: bool
    events: Any


def _id(text: str) -> str:
    try:
        return uuid(text)
    except ValueError:
        raise Problem(404, "saga-not-found", f"There is no saga {text[:80]!r}: an id is a UUID.") from None


# --- the page ---------------------------------------------------------------------------------------------------


@router.get("/admin/sagas/{id}")
async def show(request: Request, visitor: Visiting, id: str) -> Response:  # noqa: A002 - the path's word
    saga = await house_of(request).engine.load(_id(id), visitor.caller.sees)
    return await _page(request, visitor, saga, done=DONE.get(request.query_params.get("done", "")))


async def _page(
    request: Request,
    visitor: Visitor,
    saga: Saga,
    *,
    status: int = 200,
    problem: Problem | None = None,
    done: str | None = None,
) -> Response:
    state, at = saga.state, now_of(saga)
    after = max(state.seq - EVENTS, 0)
    events = await house_of(request).listing.history(saga.id, visitor.caller.sees, after=after, limit=EVENTS) or []
    events = discreet_history(saga, (event for event in events if event["seq"] <= state.seq))  # one page, one moment
    attempts = attempts_of(events)
    view = orjson.loads(saga_json(saga))
    return page(
        request,
        visitor,
        "saga.html",
        here="sagas",
        status=status,
        saga=saga,
        view=view,
        state=state,
        choreographed=saga.definition.type == "choreography",
        sentence=sentence(saga.definition, state, at),
        progress=progress_of(saga),
        picture=Markup(diagram.svg(saga.definition, state, inline=True)),  # noqa: S704 - it escapes what it is given
        line=line_of(attempts, at),
        steps=[_step(saga, position, view, attempts) for position in range(len(saga.definition.steps))],
        told=_told(view, events, at, at_rest=state.at_rest),
        events=[{**event, "data": event_data(event["data"])} for event in events],
        left_out=after,
        offered=_offered(visitor, saga),
        input=_cut(pretty(view["input"])),
        start=_start_curl(saga, view),
        problem=problem,
        done=done,
        moved=problem is not None and problem.code == "saga-has-moved",
        live=None if state.final else f"/admin/sagas/{saga.id}/live?seq={state.seq}",
        self_path=f"/admin/sagas/{saga.id}",
        title=f"{saga.definition.name} {saga.key}",
        finished=None if state.finished_at is None else duration((state.finished_at - state.created_at) / SECOND),
    )


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_BYTES else f"{text[:SHOWN_BYTES]}\n… {len(text) - SHOWN_BYTES:,} characters more"


def _step(saga: Saga, position: int, view: Mapping[str, Any], attempts: Mapping[Any, list[Attempt]]) -> StepView:
    plan, call = saga.definition.steps[position], saga.state.steps[position].action
    shown = view["steps"][position]
    given = _input(saga, position, view) if call.attempts or call.state is not CallState.PENDING else NOT_GIVEN
    return StepView(
        name=plan.name,
        service=plan.service,
        action=plan.action,
        compensation=plan.compensation,
        view=shown,
        attempts=attempts.get((plan.name, ACTION), []),
        undoing=attempts.get((plan.name, COMPENSATION), []),
        has_input=given is not NOT_GIVEN,
        input=_cut(pretty(given)) if given is not NOT_GIVEN else "",
        output=_cut(pretty(shown["output"])),
        pivot=plan.pivot,
        unknown=call.unknown,
        editable=plan.name in _editable(saga),
        events=plan.events,
    )


def _input(saga: Saga, position: int, view: Mapping[str, Any]) -> Any:
    """What the step's action is sent, made of what may be shown; NOT_GIVEN where that is nothing, or not yet known."""
    plan = saga.definition.steps[position]
    if plan.events is not None:
        return NOT_GIVEN
    with contextlib.suppress(LookupError):
        return shown_step_input(saga, position)
    if plan.input is None:
        return view["input"]
    outputs = {step["name"]: step["output"] for step in view["steps"]}
    made = prepare(
        saga.definition,
        saga.state,
        position,
        ACTION,
        at=saga.read_at,
        saga_id=saga.id,
        key=saga.key,
        renewed=False,
        saga_input=lambda: view["input"],
        output=outputs.__getitem__,
    )
    return made if isinstance(made, dict) else NOT_GIVEN


def _editable(saga: Saga) -> tuple[str, ...]:
    """Steps that a new input can be given to: their action is to be tried again."""
    able = {CallState.RETRYING, CallState.EXHAUSTED, CallState.REFUSED}
    if saga.definition.type == "choreography" or saga.state.state is not SagaState.EXECUTING:
        return ()
    names = verdicts(saga.definition, saga.state, now_of(saga))["retry"].steps
    index = saga.definition.index
    return tuple(name for name in names if saga.state.steps[index[name]].action.state in able)


class Told(NamedTuple):
    offset: str
    who: str
    text: str
    tone: str
    at: str


def _told(view: Mapping[str, Any], events: list[dict[str, Any]], at: int, *, at_rest: bool) -> list[Told]:
    """The history in words."""
    if not events:
        return []
    lines = [{**event, "at": rfc3339(event["at"])} for event in events]
    now = datetime.fromtimestamp(at / SECOND, UTC)
    begin = datetime.fromisoformat(view["created_at"])
    return [
        Told(
            duration((row.at - begin).total_seconds()),
            row.who,
            row.told,
            TONES.get(row.tone or "", ""),
            row.at.isoformat(),
        )
        for row in tell(lines, None if at_rest else now)
    ]


def _offered(visitor: Visitor, saga: Saga) -> list[Offered]:
    """What may be done first, then what may not, with the reason."""
    found = []
    allowed = visitor.caller.may(Right.OPERATE)
    for name, verdict in verdicts(saga.definition, saga.state, now_of(saga)).items():
        refusal = verdict.refusal
        steps = () if refusal is not None else verdict.steps
        doubtful = name == "skip" and any(
            saga.state.steps[saga.definition.index[step]].action.unknown for step in steps
        )
        why = _why_not(refusal) if allowed or refusal is not None else None
        if why is None and not allowed:
            why = role_needed(Right.OPERATE)
        body: dict[str, Any] = {"reason": "…"}
        if ACTIONS[name].of_step and steps:
            body["step"] = steps[0]
        if doubtful:
            body["confirm_not_done"] = True
        if name == "extend":
            body["timeout"] = "1h"
        asked = curl("POST", f"/admin/api/sagas/{saga.id}/{name}", body, If_Match=f'"{saga.state.seq}"')
        found.append(Offered(name, ACTIONS[name], why, steps, doubtful, asked))
    order = list(ACTIONS)
    return sorted(found, key=lambda offered: (offered.refusal is not None, order.index(offered.name)))


def _why_not(refusal: Refusal | None) -> str | None:
    return None if refusal is None else refusal.detail


def _start_curl(saga: Saga, view: Mapping[str, Any]) -> str:
    if saga.definition.type == "choreography":
        event = {
            "specversion": "1.0",
            "id": "…",
            "source": "/by-hand",
            "type": saga.definition.started_by,
            "data": view["input"],
        }
        return curl("POST", "/events", event)
    body = {"saga": saga.definition.name, "input": view["input"]}
    if saga.labels:
        body["labels"] = dict(saga.labels)
    return curl("POST", "/sagas", body, Idempotency_Key="…")


@router.get("/admin/sagas/{id}/live")
async def moved(request: Request, visitor: Visiting, id: str) -> Response:  # noqa: A002
    house, saga_id, sees = house_of(request), _id(id), visitor.caller.sees
    await house.engine.load(saga_id, sees)

    async def stamp() -> str:
        return str((await house.engine.load(saga_id, sees)).state.seq)

    return live.stream(request, visitor, stamp, every=1, known=request.query_params.get("seq", "")[:20] or None)


# --- what is done -----------------------------------------------------------------------------------------------


@router.post("/admin/sagas/{id}/do/{action}")
async def act(request: Request, posted: Posting, id: str, action: str) -> Response:  # noqa: A002
    if action not in ACTIONS:
        raise Problem(404, "not-found", f"There is no action {action[:40]!r}.")
    refuse_without(posted.visitor, Right.OPERATE)
    saga_id = _id(id)
    try:
        saga = await _do(request, posted, saga_id, action)
    except Problem as problem:
        if problem.status == 404:
            raise
        current = await house_of(request).engine.load(saga_id, posted.visitor.caller.sees)
        return await _page(request, posted.visitor, current, status=problem.status, problem=problem)
    return RedirectResponse(f"/admin/sagas/{saga.id}?done={action}", 303)


async def _do(request: Request, posted: Posted, saga_id: str, action: str) -> Saga:
    operator = Operator(house_of(request), posted.visitor.caller, _unmoved(posted))
    reason, step = _reason(posted), posted.one("step")
    confirmed = posted.one("confirm_not_done") == "true"
    match action:
        case "retry":
            given = _parsed(posted.one("input")) if "input" in posted.form else NOT_GIVEN
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


def _unmoved(posted: Posted) -> Any:
    """A form without the number comes from no page of ours, and is judged as one that is out of date."""
    seq = posted.one("seq")
    return lambda saga: str(saga.state.seq) == seq


def _reason(posted: Posted) -> str:
    reason = posted.one("reason").strip()
    if not reason:
        raise Problem(422, "reason-missing", "Say why you do this: the reason stands in the audit trail.")
    return reason[:2000]


def _timeout(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Problem(422, "body-invalid", f"The timeout {error}.") from None


def _parsed(text: str) -> Any:
    return strict_json.parse(text.encode())


# --- another input ----------------------------------------------------------------------------------------------


@router.get("/admin/sagas/{id}/input/{step}")
async def edit(request: Request, visitor: Visiting, id: str, step: str) -> Response:  # noqa: A002
    refuse_without(visitor, Right.OPERATE)
    saga = await house_of(request).engine.load(_id(id), visitor.caller.sees)
    before = _editable_input(saga, step)
    return _input_page(request, visitor, saga, step, before=before, given=before)


@router.post("/admin/sagas/{id}/input/{step}")
async def preview(request: Request, posted: Posting, id: str, step: str) -> Response:  # noqa: A002
    """Shows what would change; nothing is done yet."""
    visitor = posted.visitor
    refuse_without(visitor, Right.OPERATE)
    saga = await house_of(request).engine.load(_id(id), visitor.caller.sees)
    before, given = _editable_input(saga, step), posted.one("input")
    try:
        after = pretty(_parsed(given))
    except Problem as problem:
        return _input_page(request, visitor, saga, step, before=before, given=given, problem=problem)
    if not _unmoved(posted)(saga):
        detail = "The saga has moved on since you looked at it. This is the input of the step now."
        moved = Problem(412, "saga-has-moved", detail)
        return _input_page(request, visitor, saga, step, before=before, given=before, problem=moved)
    diff = None if posted.one("again") else list(_diff(_sorted(before), _sorted(after)))
    return _input_page(request, visitor, saga, step, before=before, given=after, diff=diff)


def _editable_input(saga: Saga, step: str) -> str:
    """Problem 409 where the step can be given none."""
    position = saga.definition.index.get(step)
    given = NOT_GIVEN
    if position is not None and step in _editable(saga):
        given = _input(saga, position, orjson.loads(saga_json(saga)))
    if given is NOT_GIVEN:
        detail = f"{step[:64]} of this saga can be given no other input now: only a step that is to be tried again can."
        raise Problem(409, "step-not-editable", detail)
    return pretty(given)


def _sorted(text: str) -> str:
    """Without the order of keys, which means nothing."""
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False, sort_keys=True)


def _diff(before: str, after: str) -> Any:
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
    saga = await house_of(request).engine.load(_id(id), visitor.caller.sees)
    labels = "\n".join(f"{name}: {value}" for name, value in saga.labels.items())
    given = pretty(orjson.loads(saga_json(saga))["input"])
    return _again_page(request, visitor, saga, key="", labels=labels, given=given)


@router.post("/admin/sagas/{id}/again")
async def start(request: Request, posted: Posting, id: str) -> Response:  # noqa: A002
    visitor, house = posted.visitor, house_of(request)
    refuse_without(visitor, Right.START)
    saga = await house.engine.load(_id(id), visitor.caller.sees)
    try:
        key = idempotency_key([posted.one("key")], {})
        wanted = Wanted(saga.definition.name, _parsed(posted.one("input")), _labels(posted.one("labels")))
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
