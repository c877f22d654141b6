"""Services: where they are, what they are doing now, how the last calls of them went; and pausing them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.access import Right
from app.dashboard.access import Posting, Visiting, Visitor, house_of, refuse_without
from app.dashboard.acting import reason_of
from app.dashboard.definitions import share
from app.dashboard.pages import Page, page, role_needed
from app.errors import Problem, refuse_tenants
from app.filters import Query
from app.house import House
from app.instants import duration
from app.operating import PAUSES, Operator
from app.saga.service import Service
from app.saga.state import COMPENSATION
from app.store.rates import RECENT_CALLS, RECENT_SAGAS, RecentCall, in_flight, recent_calls

DONE: Final[Mapping[str, str]] = {
    "pause": "The service is paused: nothing new is sent to it.",
    "resume": "The service goes on: what waits for it is sent now.",
}
LAST: Final = 5
"""Calls that are shown of each service."""

router = APIRouter(route_class=Page, include_in_schema=False)


@dataclass
class Room:
    """Of one service."""

    name: str
    service: Service | None
    """None: sagas name it, and it is not registered."""
    in_flight: int = 0
    waiting: int = 0
    """To be called or undone next."""
    attention: int = 0
    calls: int = 0
    failed: int = 0
    last: list[RecentCall] = field(default_factory=list)

    @property
    def where(self) -> str:
        if self.service is None:
            return ""
        return self.service.url or f"Python: {self.service.python}"

    @property
    def errors(self) -> str:
        return share(self.failed, self.calls)


@router.get("/admin/services")
async def services(request: Request, visitor: Visiting) -> Response:
    Query(request, ("done",)).check()
    return await _page(request, visitor, done=DONE.get(request.query_params.get("done", "")))


@router.post("/admin/services/{name}/{action}")
async def act(request: Request, posted: Posting, name: str, action: str) -> Response:
    if action not in DONE:
        raise Problem(404, "not-found", f"There is no action {action[:40]!r}.")
    refuse_without(posted.visitor, Right.OPERATE)
    operator = Operator(house_of(request), posted.visitor.caller)
    try:
        reason = reason_of(posted)
        await (operator.pause_service if action == "pause" else operator.resume_service)(name, reason)
    except Problem as problem:
        if problem.status == 404:
            raise
        return await _page(request, posted.visitor, status=problem.status, problem=problem)
    return RedirectResponse(f"/admin/services?done={action}", 303)


async def _page(
    request: Request, visitor: Visitor, *, status: int = 200, problem: Problem | None = None, done: str | None = None
) -> Response:
    rooms = await _rooms(house_of(request), visitor.caller.sees)
    return page(
        request,
        visitor,
        "services.html",
        here="services",
        status=status,
        rooms=rooms,
        refusal=_refusal(visitor),
        problem=problem,
        done=done,
        told=told,
        recent_sagas=RECENT_SAGAS,
        recent_calls=RECENT_CALLS,
    )


def _refusal(visitor: Visitor) -> str | None:
    """Why the visitor may pause none."""
    if not visitor.caller.may(Right.OPERATE):
        return role_needed(Right.OPERATE)
    try:
        refuse_tenants(visitor.caller, PAUSES)
    except Problem as problem:
        return problem.detail
    return None


async def _rooms(house: House, sees: str | None) -> list[Room]:
    found, under_way, calls, groups = await asyncio.gather(
        house.services.read(),
        in_flight(house.database, sees),
        recent_calls(house.database, sees),
        house.overview.groups(sees),
    )
    rooms = {name: Room(name, service) for name, service in found.items()}

    def of(name: str) -> Room:
        return rooms.setdefault(name, Room(name, None))

    for (name, version, position), (called, waiting) in under_way.items():
        definition = await house.definitions.get(name, version)
        room = of(definition.steps[position].service)
        room.in_flight += called
        room.waiting += waiting if definition.type == "orchestration" else 0  # of others nothing is sent
    for call in calls:
        definition = await house.definitions.get(call.definition, call.version)
        room = of(definition.steps[definition.index[call.step]].service)
        room.calls += 1
        room.failed += not call.well and not call.refused
        if len(room.last) < LAST:
            room.last.append(call)
    for group in groups.found:
        if group.service is not None:
            of(group.service).attention += group.count
    return sorted(rooms.values(), key=lambda room: (-room.attention, room.name))


def told(call: RecentCall) -> str:
    step = f"undo {call.step}" if call.operation == COMPENSATION else call.step
    status = f" ({call.status})" if call.status else ""
    word = "succeeded" if call.well else "refused" if call.refused else "failed"
    took = "" if call.ms is None else f" in {duration(call.ms / 1000)}"
    return f"{step}, attempt {call.attempt}: {word}{status}{took}"
