"""The list of sagas. The view is its address: chips, searches and pages are links and GET forms."""

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.dashboard import live
from app.dashboard.access import Visiting, Visitor, house_of
from app.dashboard.pages import Page, now, page
from app.dashboard.rows import Row, row_of
from app.errors import Problem
from app.filters import PAGING, SAGA_FILTERS, Query, saga_filter
from app.saga.fields import shown
from app.saga.state import SECOND, SagaState
from app.store.listing import Filter
from app.store.overview import ATTENTION, stamp_of, told_count
from app.store.paging import LIMIT, Place

WITHIN: Final[Mapping[str, tuple[str, int]]] = {
    "15m": ("in the last 15 minutes", 900),
    "1h": ("in the last hour", 3600),
    "24h": ("in the last 24 hours", 86_400),
    "7d": ("in the last 7 days", 604_800),
}
KNOWN: Final = (*SAGA_FILTERS, *PAGING, "within", "known")
OF_NO_VIEW: Final = frozenset({*PAGING, "known"})
"""The page, and what an open one knows."""
ALL: Final = "all"
ACTIONS: Final[Mapping[str, str]] = {"retry": "Retry", "compensate": "Compensate", "pause": "Pause"}

# As a browser sends a field of the kind `datetime-local`.
_LOCAL: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?")

router = APIRouter(route_class=Page, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class View:
    """What the address says."""

    wanted: Filter
    given: list[tuple[str, str]]
    """Its parameters, without the page."""
    faults: list[tuple[str, str]]
    limit: int
    place: Place | None

    def __getitem__(self, name: str) -> str:
        return next((value for known, value in self.given if known == name), "")

    def address(self, path: str = "/admin/sagas", **changes: str | None) -> str:
        """The same view with other values; None takes one away."""
        kept = [(name, value) for name, value in self.given if name not in changes]
        kept += [(name, value) for name, value in changes.items() if value is not None]
        return f"{path}?{urlencode(kept)}" if kept else path

    @property
    def filtered(self) -> bool:
        return bool(self.given)


def read_view(request: Request, visitor: Visitor) -> View:
    """What is wrong with the address is kept as a fault: the page shows it beside the form."""
    query = Query(_timed(request), KNOWN)
    wanted = saga_filter(query, visitor.caller)
    within, limit, place = query.one("within", _within), query.limit(), query.place()
    if within is not None:
        wanted = replace(wanted, created_after=now() - within * SECOND)
    faults: list[tuple[str, str]] = []
    try:
        query.check()
    except Problem as problem:
        faults = list(problem.errors)
    given = [(name, value) for name, value in request.query_params.multi_items() if name in KNOWN and value]
    return View(wanted, [(name, value) for name, value in given if name not in OF_NO_VIEW], faults, limit, place)


def _within(text: str) -> int:
    if text not in WITHIN:
        raise ValueError(f"must be one of {', '.join(WITHIN)}, not {shown(text)}")
    return WITHIN[text][1]


def _timed(request: Request) -> Request:
    """With the times of a form, which have no offset, in UTC."""
    items = [
        (name, value + ("Z" if value.count(":") == 2 else ":00Z"))
        if name in {"created_after", "created_before"} and _LOCAL.fullmatch(value)
        else (name, value)
        for name, value in request.query_params.multi_items()
    ]
    return Request({**request.scope, "query_string": urlencode(items).encode()})


# --- the list ---------------------------------------------------------------------------------------------------


@router.get("/admin/sagas")
async def sagas(request: Request, visitor: Visiting) -> Response:
    house = house_of(request)
    view = read_view(request, visitor)
    faults, place = view.faults, view.place
    rows, more, paused = [], None, frozenset[str]()
    counts: Mapping[str, int] = {}
    if faults:
        names = await house.definitions.names()
    else:
        (found, more), counts, names, paused = await asyncio.gather(
            house.listing.sagas(view.wanted, limit=view.limit, after=place),
            house.overview.counts(view.wanted),
            house.definitions.names(),
            house.services.paused(),
        )
        rows = [row_of(saga, paused) for saga in found]
    return page(
        request,
        visitor,
        "sagas.html",
        here="sagas",
        status=422 if faults else 200,
        view=view,
        rows=rows,
        chips=_chips(view, counts),
        names=[each["name"] for each in names],
        within=WITHIN,
        faults=faults,
        next=None if more is None else view.address(cursor=more.cursor()),
        paged=place is not None,
        actions=ACTIONS,
        live=None if faults or place is not None or view.wanted.text else _live(view, rows, paused),
    )


@dataclass(frozen=True, slots=True)
class Chip:
    name: str
    count: str
    address: str
    chosen: bool


def _chips(view: View, counts: Mapping[str, int]) -> list[Chip]:
    chosen = list(view.wanted.states)
    attention = view.wanted.attention is True
    chips = [Chip(ALL, "", view.address(state=None, attention=None), not chosen and not attention)]
    needy = view.address(state=None, attention="true")
    chips.append(Chip("needs attention", told_count(counts.get(ATTENTION)), needy, attention))
    for state in SagaState:
        address = view.address(attention=None, state=str(state))
        chips.append(Chip(str(state), told_count(counts.get(str(state))), address, chosen == [state]))
    return chips


@router.get("/admin/sagas/live")
async def moved(request: Request, visitor: Visiting) -> Response:
    view, house = sound(read_view(request, visitor)), house_of(request)

    async def stamp() -> str:
        return live.stamp_with(await house.overview.stamp(view.wanted, view.limit), await house.services.paused())

    return live.stream(request, visitor, stamp, every=2, known=request.query_params.get("known"))


def _live(view: View, rows: Sequence[Row], paused: Collection[str]) -> str:
    """With what the page was made of: what moves before its stream stands is not missed."""
    limit = None if view.limit == LIMIT else str(view.limit)
    known = live.stamp_with(stamp_of((row.id, row.seq) for row in rows), paused)
    return view.address("/admin/sagas/live", known=known, limit=limit)


def sound(view: View) -> View:
    """Problem 422 where the address is not as it should be."""
    if view.faults:
        detail = "The address is not as it should be, so nothing was done."
        raise Problem(422, "filter-invalid", detail, errors=view.faults)
    return view
