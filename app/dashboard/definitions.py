"""Definitions: what can be run, how it fares, and where it takes its time."""

import asyncio
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import Response

from app.dashboard.access import Visiting, house_of
from app.dashboard.pages import Page, page
from app.filters import Query, whole
from app.saga import diagram
from app.saga.state import ACTION, COMPENSATION
from app.store.database import to_micros
from app.store.rates import COUNTED, FEW, MANY, Active, Rates, active, rates, rates_of
from app.submitting import find_definition

VERSIONS: Final = 50
"""The newest of them are listed."""

router = APIRouter(route_class=Page, include_in_schema=False)


def share(part: int, of: int) -> str:
    """As people read it. What has happened is never `0 %`, and what has not always happened never `100 %`."""
    if not of:
        return "\N{EN DASH}"
    percent = 100 * part / of
    if 0 < percent < 1:
        return "< 1 %"
    if 99 < percent < 100:
        return "> 99 %"
    return f"{percent:.0f} %"


def _running(counted: Active, name: str, version: int | None = None) -> str:
    number = counted.of(name, version)
    return f"{number:,}" if counted.all_counted else f"{number:,} or more"


@router.get("/admin/definitions")
async def definitions(request: Request, visitor: Visiting) -> Response:
    house, sees = house_of(request), visitor.caller.sees
    Query(request, ()).check()
    names = await house.definitions.names()
    found, counted = await rates(house.database, sees), await active(house.database, sees)
    rows = [
        (each["name"], quote(each["name"], safe=""), each["version"], to_micros(each["created_at"])) for each in names
    ]
    return page(
        request,
        visitor,
        "definitions.html",
        here="definitions",
        rows=rows,
        running={name: _running(counted, name) for name, *_ in rows},
        rates={name: found.get(name, Rates()) for name, *_ in rows},
        share=share,
        most=FEW,
        counted=COUNTED,
        all_counted=counted.all_counted,
    )


@router.get("/admin/definitions/{name}")
async def definition(request: Request, visitor: Visiting, name: str) -> Response:
    house, sees = house_of(request), visitor.caller.sees
    query = Query(request, ("version",))
    asked = query.one("version", whole)
    query.check()
    found, version = await find_definition(house, name, asked)
    versions = await house.definitions.versions(name)
    whole_rates, steps = await rates_of(house.database, sees, name)
    counted = await active(house.database, sees, name)
    # In a thread: a large graph must not hold up the others.
    picture = await asyncio.to_thread(diagram.svg, found, inline=True)
    rows = [(plan, steps.get((plan.name, ACTION)), steps.get((plan.name, COMPENSATION))) for plan in found.steps]
    return page(
        request,
        visitor,
        "definition.html",
        here="definitions",
        definition=found,
        name=name,
        address=f"/admin/definitions/{quote(name, safe='')}",
        version=version,
        versions=[
            (each["version"], to_micros(each["created_at"]), _running(counted, name, each["version"]))
            for each in versions[:VERSIONS]
        ],
        older=max(len(versions) - VERSIONS, 0),
        running=_running(counted, name),
        rates=whole_rates,
        steps=rows,
        picture=Markup(picture),  # noqa: S704 - it escapes what it is given
        share=share,
        most=MANY,
    )
