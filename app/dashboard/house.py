"""The house itself: who works in it, what waits, and of which versions its parts are."""

import asyncio
from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.broker import COMPENSATIONS, DEAD_LETTERS, STEPS, SYSTEM
from app.dashboard.access import Visiting, house_of
from app.dashboard.attention import health
from app.dashboard.pages import Page, page
from app.filters import Query
from app.observability import our_version
from app.store.schema import known_revisions, revision_of

QUEUES: Final[Mapping[str, str]] = {
    STEPS: "Steps to be called",
    COMPENSATIONS: "Steps to be undone",
    SYSTEM: "Sweeps, and what wakes sagas",
    DEAD_LETTERS: "Dead letters, for who reads them from Redis",
}

router = APIRouter(route_class=Page, include_in_schema=False)


@router.get("/admin/house")
async def rooms(request: Request, visitor: Visiting) -> Response:
    house = house_of(request)
    Query(request, ()).check()
    looking, counting = asyncio.create_task(house.alive.look()), asyncio.create_task(house.publisher.depths())
    try:
        overdue = await house.overview.overdue_seconds()
        paused = await house.services.paused()
        revision = await revision_of(house.database)
    finally:
        signs, depths = await looking, await counting
    known = await asyncio.to_thread(known_revisions)  # the first time, it reads files
    return page(
        request,
        visitor,
        "house.html",
        here="house",
        health=health(house, signs, depths, overdue, paused),
        signs=signs,
        queues=QUEUES,
        depths=depths,
        overdue=overdue,
        version=our_version(),
        revision=revision,
        behind=None if revision not in known[:-1] else known[-1],
    )
