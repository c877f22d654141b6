"""What operators' tools ask: does it live, can it work, how much is there; and the description of the API."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import FileResponse, HTMLResponse, Response

from app import observability
from app.api import schemas
from app.api.dependencies import house_of, who_asks
from app.api.openapi import describe, document
from app.api.sagas import json_response
from app.errors import DatabaseUnavailable, Problem
from app.house import House
from app.observability import our_version
from app.store.database import caused_by
from app.store.gauges import Gauges, read_gauges
from app.store.notices import STATUSES
from app.store.schema import known_revisions, revision_of

ACTIVE_STATES: Final = ("CREATED", "EXECUTING", "COMPENSATING")
SCRAPE_SECONDS: Final = 1.0
"""Nobody needs a key for /metrics: however often it is asked, the database is asked once in so long."""

router = APIRouter(tags=["operations"])


# --- health -----------------------------------------------------------------------------------------------------


@router.get("/livez", **describe("The process lives", answers={200: schemas.AliveView}, is_open=True))
async def livez() -> Response:
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    **describe(
        "Sagas can be taken",
        "The database answers and is migrated. Redis gone is `degraded`: sagas go on, more slowly.",
        answers={200: schemas.ReadyView},
        is_open=True,
    ),
)
async def readyz(request: Request) -> Response:
    house = house_of(request)
    redis = asyncio.create_task(house.publisher.depths())
    try:
        sentence = await _unready(house) or request.app.state.registering.sentence
    finally:
        reached = await redis is not None
    if sentence is not None:
        raise Problem(503, "not-ready", sentence, headers={"Retry-After": "1"})
    status, found = ("ready", "ok") if reached else ("degraded", "unavailable")
    return json_response({"status": status, "database": "ok", "redis": found})


async def _unready(house: House) -> str | None:
    """Why no saga can be taken, in a sentence."""
    try:
        found = await revision_of(house.database)
    except DatabaseUnavailable as error:
        return f"{error}."
    if found is None:
        return "The database has no tables yet: run `saga migrate`."
    known = await asyncio.to_thread(known_revisions)  # the first time, it reads files
    # One that we do not know was made by a newer version, and those leave to us what we read and write.
    if found in known[:-1]:
        return f"The database is at migration {found} and this version needs {known[-1]}: run `saga migrate`."
    return None


# --- metrics ----------------------------------------------------------------------------------------------------


class Scrapes:
    """Gauges as they are now; those who ask at the same time share the answer."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._read_at = float("-inf")
        self._registry = CollectorRegistry()
        self._lock = asyncio.Lock()

    async def registry(self) -> CollectorRegistry:
        async with self._lock:
            if time.monotonic() - self._read_at > SCRAPE_SECONDS:
                self._registry = await self._read()
                self._read_at = time.monotonic()
        return self._registry

    async def _read(self) -> CollectorRegistry:
        version = _gauge("saga_build_info", "The version that runs", {our_version(): 1}, "version")
        depths = asyncio.create_task(self._house.publisher.depths())
        lag = asyncio.create_task(self._house.bus.lag())
        up, read = 0, []
        try:
            found = await read_gauges(self._house.database, self._house.settings.stuck_after)
        except Exception as error:
            if not isinstance(error, DatabaseUnavailable) and not caused_by(error, asyncpg.UndefinedTableError):
                raise
        else:
            up, read = 1, _gauges(found)
        told = "Whether the gauges could be read from the database"
        queues = _gauge("saga_queue_depth", "Messages that nobody has taken yet", await depths or {}, "queue")
        lags = {} if await lag is None else {(): lag.result() or 0}
        behind = _gauge("saga_events_lag", "Entries of the event stream that the tracker has not dealt with", lags)
        registry = CollectorRegistry()
        registry.register(_Read([version, GaugeMetricFamily("saga_database_up", told, up), *read, queues, behind]))
        return registry


class _Read(Collector):
    """What was read just now. A `Gauge` of its own would be kept in a file for each process under `saga up`, beside and
    beyond what was read.
    """

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> Metric:
    """`values`: by the label, or by a tuple of them."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric([key] if isinstance(key, str) else list(key), value)
    return family


def _gauges(found: Gauges) -> list[Metric]:
    # A series that vanishes where it should fall to 0 keeps its alert.
    none = dict.fromkeys(found.definitions, 0)
    none_active = {(name, state): 0 for name in found.definitions for state in ACTIVE_STATES}
    active = none_active | found.active
    notices = dict.fromkeys(STATUSES, 0) | found.notices
    text_of_stuck = "Sagas under way without a change for SAGA_STUCK_AFTER that do not wait on purpose"
    return [
        _gauge("saga_active", "Sagas that are not at rest", active, "saga", "state"),
        _gauge("saga_attention", "Sagas that need a person", none | found.attention, "saga"),
        _gauge("saga_dead_letters", "Open dead letters", none | found.open_letters, "saga"),
        _gauge("saga_notices", "Notices that nobody has taken yet", notices, "status"),
        _gauge("saga_event_deliveries", "Events that a service has not taken yet", found.deliveries, "service"),
        _gauge("saga_service_paused", "1 while nothing new is sent to a service", found.paused, "service"),
        GaugeMetricFamily("saga_stuck", text_of_stuck, found.stuck),
        GaugeMetricFamily("saga_oldest_overdue_seconds", "How late the sweep is", max(found.oldest_overdue_seconds, 0)),
    ]


@router.get(
    "/metrics",
    **describe(
        "Metrics, as Prometheus reads them",
        "Asked with a key of a tenant, only what is labelled with that tenant.",
        answers={200: "text/plain"},
        is_open=True,
    ),
)
async def metrics(request: Request) -> Response:
    scrapes: Scrapes = request.app.state.scrapes
    content = observability.exposition(await scrapes.registry())
    caller = await who_asks(request)
    if caller is not None and caller.sees is not None:
        content = observability.of_tenant(content, caller.sees)
    return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})


# --- description ------------------------------------------------------------------------------------------------

ASSETS: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
"""Of Swagger UI, as the package `fastapi-offline` ships them; nothing is loaded from elsewhere."""

_START: Final = (
    'window.onload = () => SwaggerUIBundle({url: "openapi.json", dom_id: "#docs", deepLinking: true,'
    " validatorUrl: null, persistAuthorization: false});"
)
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Saga orchestrator: API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="docs"></div>
<noscript>The description of this API is at <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_POLICY: Final = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"


@router.get("/openapi.json", **describe("This description", answers={200: "application/json"}, is_open=True))
async def openapi(request: Request) -> Response:
    return Response(description(request.app), media_type="application/json")


@lru_cache
def description(app: Any) -> bytes:
    return orjson.dumps(document(app.state.routers, our_version()))


@router.get("/docs", **describe("This description, for people", answers={200: "text/html"}, is_open=True))
async def docs() -> Response:
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})


@router.get(
    "/docs/{asset}",
    **describe(
        "What /docs is made of",
        answers={200: "text/javascript"},
        problems=(404,),
        also={200: {"text/css": {"schema": {"type": "string"}}}},
        is_open=True,
    ),
)
async def docs_asset(asset: str) -> Response:
    if asset == "start.js":
        return Response(_START, media_type="text/javascript")
    path = _asset(asset) if asset in ASSETS else None
    if path is None:
        raise Problem(404, "not-found", f"There is nothing at /docs/{asset[:80]}.")
    return FileResponse(path, media_type=ASSETS[asset], headers={"Cache-Control": "public, max-age=86400"})


def _asset(name: str) -> Path | None:
    found = find_spec("fastapi_offline")
    path = Path(found.origin).parent / "static" / name if found is not None and found.origin else None
    return path if path is not None and path.is_file() else None
