"""The landing page: the health of the house in one line, and below it what needs a person, grouped by its cause."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.alive import Signs
from app.broker import COMPENSATIONS, STEPS, SYSTEM
from app.dashboard import live
from app.dashboard.access import Visiting, house_of
from app.dashboard.pages import Page, page
from app.house import House
from app.instants import about
from app.saga.diagram.signs import Tone
from app.store.listing import Filter
from app.store.overview import Group

BACKLOG = 1000
"""Messages in a queue that are worth a look."""
SWEEPS_MISSED = 5
LATE_SECONDS = 5.0

router = APIRouter(route_class=Page, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Part:
    """Of the house."""

    name: str
    words: str
    tone: Tone

    @property
    def sign(self) -> str:
        return {Tone.GOOD: "✓", Tone.WAITING: "!", Tone.BAD: "✗"}.get(self.tone, "○")


@router.get("/admin")
async def without_slash() -> Response:
    return RedirectResponse("/admin/", 307)


@router.get("/admin/")
async def attention(request: Request, visitor: Visiting) -> Response:
    house = house_of(request)
    signs, depths = asyncio.create_task(house.alive.look()), asyncio.create_task(house.publisher.depths())
    try:
        groups = await house.overview.groups(visitor.caller.sees)
        overdue = await house.overview.overdue_seconds()
        paused = await house.services.paused()
    finally:
        there, waiting = await signs, await depths
    return page(
        request,
        visitor,
        "attention.html",
        here="attention",
        health=health(house, there, waiting, overdue, paused),
        groups=[(group, address_of(group)) for group in groups.found],
        whole=groups,
        live="/admin/live",
    )


def address_of(group: Group) -> str:
    """The parameters of a list of exactly these."""
    wanted = {"attention": "true", "saga": group.saga, "step": group.step, "error": group.error}
    return urlencode({name: value for name, value in wanted.items() if value})


def health(
    house: House, signs: Signs | None, depths: dict[str, int] | None, overdue: float, paused: Collection[str]
) -> list[Part]:
    if signs is None or depths is None:
        parts = [Part("Redis", "does not answer: sagas go on, more slowly", Tone.BAD)]
    else:
        parts = [*_people(house, signs), _queues(depths)]
    late = Tone.GOOD if overdue < LATE_SECONDS + house.settings.sweep_interval else Tone.BAD
    words = "nothing is overdue" if overdue < 1 else f"the oldest work is {about(overdue)} overdue"
    parts.append(Part("Time", words, late))
    if paused:
        parts.append(Part("Paused", f"nothing new is sent to {', '.join(sorted(paused))}", Tone.WAITING))
    return parts


def _people(house: House, signs: Signs) -> list[Part]:
    workers = signs.there("worker")
    claims = [sign.facts["claimed_ago"] + sign.age_seconds for sign in workers if sign.facts["claimed_ago"] is not None]
    last = f", last claim {about(min(claims))} ago" if claims else ""
    told = f"{len(workers)} there{last}" if workers else "none is there"
    parts = [Part("Workers", told, Tone.GOOD if workers else Tone.BAD)]
    versions = sorted({str(sign.facts["version"]) for sign in workers})
    if len(versions) > 1:
        parts.append(Part("Versions", f"workers of {' and '.join(versions)}", Tone.WAITING))
    beats, swept = signs.there("beat"), signs.swept_ago
    on_time = swept is not None and swept < max(SWEEPS_MISSED * house.settings.sweep_interval, LATE_SECONDS)
    told = "no sweep is known of" if swept is None else f"last sweep {about(swept)} ago"
    if not beats:
        told += ", no beat is there"
    tone = Tone.GOOD if on_time and beats else Tone.WAITING if on_time else Tone.BAD
    return [*parts, Part("Beat", told, tone)]


def _queues(depths: dict[str, int]) -> Part:
    waiting = sum(depths[name] for name in (STEPS, COMPENSATIONS, SYSTEM))
    told = "Redis answers, queues are empty" if not waiting else f"{waiting:,} messages wait in the queues"
    return Part("Queues", told, Tone.WAITING if waiting > BACKLOG else Tone.GOOD)


@router.get("/admin/live")
async def moved(request: Request, visitor: Visiting) -> Response:
    house, needy = house_of(request), Filter(visitor.caller.sees, attention=True)
    looked = 0

    async def stamp() -> str:
        # The health of the house moves by itself: every fifth look counts as a change.
        nonlocal looked
        looked += 1
        return f"{await house.overview.stamp(needy, 500)}/{looked // 5}"

    return live.stream(request, visitor, stamp, every=2)
