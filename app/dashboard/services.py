"""Services: where they are, what they are doing now, and how the last calls of them went."""

from dataclasses import dataclass, field
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.dashboard.access import Visiting, house_of
from app.dashboard.definitions import share
from app.dashboard.pages import Page, page
from app.filters import Query
from app.house import House
from app.instants import duration
from app.saga.service import Service
from app.saga.state import COMPENSATION
from app.store.rates import RECENT_CALLS, RECENT_SAGAS, RecentCall, in_flight, recent_calls

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
    Query(request, ()).check()
    rooms = await _rooms(house_of(request), visitor.caller.sees)
    return page(
        request,
        visitor,
        "services.html",
        here="services",
        rooms=rooms,
        told=told,
        recent_sagas=RECENT_SAGAS,
        recent_calls=RECENT_CALLS,
    )


async def _rooms(house: House, sees: str | None) -> list[Room]:
    rooms = {name: Room(name, service) for name, service in (await house.services.read()).items()}

    def of(name: str) -> Room:
        return rooms.setdefault(name, Room(name, None))

    for (name, version, position), number in (await in_flight(house.database, sees)).items():
        of((await house.definitions.get(name, version)).steps[position].service).in_flight += number
    for call in await recent_calls(house.database, sees):
        definition = await house.definitions.get(call.definition, call.version)
        room = of(definition.steps[definition.index[call.step]].service)
        room.calls += 1
        room.failed += not call.well and not call.refused
        if len(room.last) < LAST:
            room.last.append(call)
    for group in (await house.overview.groups(sees)).found:
        if group.service is not None:
            of(group.service).attention += group.count
    return sorted(rooms.values(), key=lambda room: (-room.attention, room.name))


def told(call: RecentCall) -> str:
    step = f"undo {call.step}" if call.operation == COMPENSATION else call.step
    status = f" ({call.status})" if call.status else ""
    word = "succeeded" if call.well else "refused" if call.refused else "failed"
    took = "" if call.ms is None else f" in {duration(call.ms / 1000)}"
    return f"{step}, attempt {call.attempt}: {word}{status}{took}"
