"""The page of one saga: what happened, what comes next, and what may be done."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson
from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import Response

from app.access import Right
from app.dashboard import live
from app.dashboard.access import Visiting, Visitor, house_of
from app.dashboard.attempts import Attempt, attempts_of, line_of
from app.dashboard.pages import Page, curl, page, pretty, role_needed
from app.dashboard.rows import progress_of
from app.engine import now_of
from app.errors import Problem
from app.filters import uuid
from app.instants import duration, rfc3339
from app.operating import NOT_GIVEN
from app.redacting import discreet_history, shown_step_input
from app.saga import diagram
from app.saga.actions import verdicts
from app.saga.messages import Refusal
from app.saga.preparing import prepare
from app.saga.state import ACTION, COMPENSATION, SECOND, CallState, Micros, SagaState
from app.sentence import sentence
from app.store.database import to_micros
from app.store.sagas import Saga
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
    next_attempt_at: Micros | None
    has_input: bool
    input: str
    output: str
    pivot: bool
    unknown: bool
    editable: bool
    events: Any


def read_id(text: str) -> str:
    try:
        return uuid(text)
    except ValueError:
        raise Problem(404, "saga-not-found", f"There is no saga {text[:80]!r}: an id is a UUID.") from None


# --- the page ---------------------------------------------------------------------------------------------------


@router.get("/admin/sagas/{id}")
async def show(request: Request, visitor: Visiting, id: str) -> Response:  # noqa: A002 - the path's word
    saga = await house_of(request).engine.load(read_id(id), visitor.caller.sees)
    return await saga_page(request, visitor, saga, done=DONE.get(request.query_params.get("done", "")))


async def saga_page(
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
    paused = await house_of(request).services.paused()
    # In a thread: a large graph must not hold up the others.
    picture = await asyncio.to_thread(diagram.svg, saga.definition, state, inline=True)
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
        sentence=sentence(saga.definition, state, at, paused),
        progress=progress_of(saga),
        picture=Markup(picture),  # noqa: S704 - it escapes what it is given
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
        live=None if state.final else f"/admin/sagas/{saga.id}/live?known={live.stamp_with(state.seq, paused)}",
        self_path=f"/admin/sagas/{saga.id}",
        title=f"{saga.definition.name} {saga.key}",
        finished=None if state.finished_at is None else duration((state.finished_at - state.created_at) / SECOND),
    )


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_BYTES else f"{text[:SHOWN_BYTES]}\n… {len(text) - SHOWN_BYTES:,} characters more"


def _step(saga: Saga, position: int, view: Mapping[str, Any], attempts: Mapping[Any, list[Attempt]]) -> StepView:
    plan, call = saga.definition.steps[position], saga.state.steps[position].action
    shown = view["steps"][position]
    given = step_input(saga, position, view) if call.attempts or call.state is not CallState.PENDING else NOT_GIVEN
    return StepView(
        name=plan.name,
        service=plan.service,
        action=plan.action,
        compensation=plan.compensation,
        view=shown,
        attempts=attempts.get((plan.name, ACTION), []),
        undoing=attempts.get((plan.name, COMPENSATION), []),
        next_attempt_at=call.due_at if call.state is CallState.RETRYING else None,
        has_input=given is not NOT_GIVEN,
        input=_cut(pretty(given)) if given is not NOT_GIVEN else "",
        output=_cut(pretty(shown["output"])),
        pivot=plan.pivot,
        unknown=call.unknown,
        editable=plan.name in editable(saga),
        events=plan.events,
    )


def step_input(saga: Saga, position: int, view: Mapping[str, Any]) -> Any:
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


def editable(saga: Saga) -> tuple[str, ...]:
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
    at: Micros


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
            to_micros(row.at),
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
    house, saga_id, sees = house_of(request), read_id(id), visitor.caller.sees
    if await house.overview.seq(saga_id, sees) is None:
        raise Problem(404, "saga-not-found", f"There is no saga {saga_id}.")

    async def stamp() -> str:
        return live.stamp_with(await house.overview.seq(saga_id, sees), await house.services.paused())

    return live.stream(request, visitor, stamp, every=1, known=request.query_params.get("known", "")[:40] or None)
