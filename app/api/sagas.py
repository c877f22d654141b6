"""Starting sagas, looking at them, stopping them."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from app.access import Caller, Right
from app.api import diagrams, schemas
from app.api.dependencies import (
    MayRead,
    MayStart,
    checked,
    etag,
    house_of,
    if_match,
    may_still,
    read_json,
    saga_id,
    unchanged,
)
from app.api.openapi import describe, parameter, several
from app.api.waiting import Waiting, preferred_wait
from app.engine import replay
from app.errors import DatabaseUnavailable, PayloadUnreadable, Problem
from app.filters import PAGING, SAGA_FILTERS, Query, count, saga_filter, truth
from app.house import House
from app.instants import rfc3339
from app.operating import Operator
from app.redacting import discreet_history
from app.saga.state import SagaState
from app.store.listing import Filter
from app.store.sagas import Saga
from app.submitting import KEY, digest, idempotency_key, make_submission, traceparent
from app.views import event_data, saga_json, saga_view

EVENTS: Final = 1000
STREAM_POLL_SECONDS: Final = 1.0
STREAM_ALIVE_SECONDS: Final = 15.0
STREAM_ASKS_SECONDS: Final = 5.0
"""So long a stream may go on after the session or the key that opened it has ended."""
JSON: Final = "application/json"

KEY_SCHEMA: Final = {"type": "string", "pattern": f"^{KEY.pattern}$", "examples": ["order-1001"]}
PREFER: Final = parameter(
    "Prefer", "header", "`wait=N`: up to 60 seconds (RFC 7240)", {"type": "string", "examples": ["wait=10"]}
)
LIMIT: Final = parameter(
    "limit", "query", "Default 50; more than `SAGA_MAX_LIST` (200) is that", {"type": "integer", "minimum": 1}
)
OF_SAGA: Final = parameter("saga_id", "query", "Of one saga", {"type": "string", "format": "uuid"})
CURSOR: Final = parameter("cursor", "query", "`next_cursor` of the page before")
INSTANT: Final = {"type": "string", "format": "date-time"}
BOOLEAN: Final = {"type": "boolean"}
COUNT: Final = {"type": "integer", "minimum": 0}

router = APIRouter(tags=["sagas"])


def saga_response(saga: Saga, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(saga_json(saga), status, {"ETag": etag(saga), **(headers or {})}, JSON)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, JSON)


def page_response(query: Query, items: Sequence[Any], cursor: str | None) -> Response:
    """One page of a list, and where the next one is."""
    headers = None if cursor is None else query.next_link(cursor)
    return json_response({"items": items, "next_cursor": cursor}, headers=headers)


@router.post(
    "/sagas",
    **describe(
        "Start a saga",
        "Answers 202 at once. With `Prefer: wait=N` it answers when the saga has come to rest (200), or after N"
        " seconds (202). The same key and body again answer the same saga, with `Idempotency-Replayed: true`.",
        body=schemas.SagaRequest,
        answers={200: schemas.SagaView, 202: schemas.SagaView},
        problems=(400, 404, 413, 422),
        parameters=(
            parameter("Idempotency-Key", "header", "A name of your own; or `idempotency_key` in the body", KEY_SCHEMA),
            PREFER,
            parameter("traceparent", "header", "W3C Trace Context; handed on to the participants"),
        ),
        links={
            "get_sagas_id": {"id": "$response.body#/id"},
            "get_sagas_id_events": {"id": "$response.body#/id"},
            "get_sagas_id_diagram": {"id": "$response.body#/id"},
            "post_sagas_id_cancel": {"id": "$response.body#/id"},
            "get_admin_api_sagas_id_actions": {"id": "$response.body#/id"},
            "post_admin_api_sagas_id_pause": {"id": "$response.body#/id"},
        },
        headers={
            "Location": "Where the saga is",
            "ETag": "For `If-Match` and `If-None-Match`",
            "Idempotency-Replayed": "`true` where the saga was there already",
        },
    ),
)
async def submit(request: Request, caller: MayStart) -> Response:
    house, headers = house_of(request), request.headers
    body = await read_json(request)
    key = idempotency_key(headers.getlist("idempotency-key"), body if isinstance(body, dict) else {})
    wanted = checked(schemas.SagaRequest, body)
    try:
        submission = await make_submission(
            house, request.app.state.schemas, caller, key, wanted, body, traceparent(headers.getlist("traceparent"))
        )
    except Problem:
        # What a new saga would be refused for does not matter to one that stands: its definition may have changed.
        known = await house.sagas.by_key(caller.tenant, key)
        if known is None:
            raise
        saga, replayed = replay(known, digest(body)), True
    else:
        saga, replayed = await house.engine.start(submission)
    if not saga.state.at_rest and (seconds := preferred_wait(headers.getlist("prefer"))):
        waiting: Waiting = request.app.state.waiting
        saga = await waiting.until_rest(saga, seconds)
    more = {"Location": f"/sagas/{saga.id}"}
    if replayed:
        more["Idempotency-Replayed"] = "true"
    return saga_response(saga, 200 if saga.state.at_rest else 202, more)


@router.get(
    "/sagas/{id}",
    **describe(
        "One saga",
        "With `Prefer: wait=N` it answers when the saga has come to rest, or after N seconds.",
        answers={200: schemas.SagaView, 304: None},
        problems=(404,),
        parameters=(
            parameter("If-None-Match", "header", "An `ETag`: 304 where the saga has not moved since"),
            PREFER,
        ),
        headers={"ETag": "For `If-Match` and `If-None-Match`"},
    ),
)
async def show(request: Request, caller: MayRead, id: str) -> Response:  # noqa: A002 - the path's word
    saga = await house_of(request).engine.load(saga_id(id), caller.sees)
    if not saga.state.at_rest and (seconds := preferred_wait(request.headers.getlist("prefer"))):
        waiting: Waiting = request.app.state.waiting
        saga = await waiting.until_rest(saga, seconds)
    tag = etag(saga)
    if unchanged(request, tag):
        return Response(status_code=304, headers={"ETag": tag})
    return saga_response(saga)


@router.get(
    "/sagas/{id}/diagram",
    **describe(
        "One saga as a picture: Mermaid, or SVG",
        "The steps of its definition, and how each action and compensation stands.",
        answers={200: diagrams.MERMAID, 304: None},
        problems=(404, 406),
        parameters=(parameter("If-None-Match", "header", "An `ETag`: 304 where the saga has not moved since"),),
        also=diagrams.ALSO,
        headers={"ETag": "For `If-None-Match`"},
    ),
)
async def diagram(request: Request, caller: MayRead, id: str) -> Response:  # noqa: A002
    saga = await house_of(request).engine.load(saga_id(id), caller.sees)
    return await diagrams.diagram_response(request, saga.definition, saga.state)


FILTER_PARAMETERS: Final = (
    parameter("state", "query", "Repeated, or several by commas", several({"enum": list(SagaState.__members__)})),
    parameter("saga", "query", "Name of a definition"),
    parameter(
        "label",
        "query",
        "`key:value`; several have to hold together",
        several({"type": "string", "pattern": "^[^:]+:", "examples": ["customer:4711"]}),
    ),
    parameter("key", "query", "Idempotency key"),
    parameter("created_after", "query", "RFC 3339", INSTANT),
    parameter("created_before", "query", "RFC 3339", INSTANT),
    parameter("attention", "query", "Whether a person is needed", BOOLEAN),
    parameter("step", "query", "The step to blame: the first that its attention names, else the one that turned it"),
    parameter("error", "query", "Code of what went wrong there, with its status: `exhausted-503`"),
    parameter("text", "query", "Part of what an error or the attention says, in any case"),
    parameter("id", "query", "Repeated, or several by commas", several({"type": "string", "format": "uuid"})),
    parameter("payloads", "query", "With inputs and outputs", BOOLEAN),
    LIMIT,
    CURSOR,
)


@router.get(
    "/sagas",
    **describe(
        "Sagas, newest first",
        answers={200: schemas.SagaPage},
        problems=(422,),
        parameters=FILTER_PARAMETERS,
        links={"get_sagas_id": {"id": "$response.body#/items/0/id"}},
    ),
)
async def find(request: Request, caller: MayRead) -> Response:
    query = Query(request, (*SAGA_FILTERS, *PAGING, "payloads"))
    return await list_response(house_of(request), query, saga_filter(query, caller))


async def list_response(house: House, query: Query, wanted: Filter) -> Response:
    payloads = query.one("payloads", truth, default=False)
    limit, place = query.limit(), query.place()
    query.check()
    found, following = await house.listing.sagas(wanted, limit=limit, after=place, payloads=payloads)
    cursor = None if following is None else following.cursor()
    return page_response(query, [saga_view(saga, payloads=payloads) for saga in found], cursor)


@router.post(
    "/sagas/{id}/cancel",
    **describe(
        "Stop a saga, and undo what was done",
        body=schemas.CancelRequest,
        body_required=False,
        answers={202: schemas.SagaView},
        problems=(400, 404, 409, 412, 413, 422),
        parameters=(parameter("If-Match", "header", "An `ETag`: 412 where the saga has moved on"),),
    ),
)
async def cancel(request: Request, caller: MayStart, id: str) -> Response:  # noqa: A002
    wanted = checked(schemas.CancelRequest, await read_json(request, empty={}))
    operator = Operator(house_of(request), caller, if_match(request))
    saga = await operator.cancel(saga_id(id), wanted.reason)
    return saga_response(saga, 202)


# --- history ----------------------------------------------------------------------------------------------------


@router.get(
    "/sagas/{id}/events",
    **describe(
        "The history of a saga, oldest first",
        "With `Accept: text/event-stream` a live stream, which ends (204 for a client that knows all) with the saga.",
        answers={200: schemas.EventPage, 204: None},
        problems=(404, 422),
        parameters=(
            parameter("after", "query", "Sequence number of the last event that is known", COUNT),
            parameter("limit", "query", "Default 1000, and no more", {"type": "integer", "minimum": 1}),
            parameter("Last-Event-ID", "header", "As `after`, for streams"),
        ),
        also={200: {"text/event-stream": {"schema": {"type": "string"}}}},
    ),
)
async def history(request: Request, caller: MayRead, id: str) -> Response:  # noqa: A002
    query = Query(request, ("after", "limit"))
    after, limit = query.one("after", count, 0), query.limit(EVENTS, EVENTS)
    query.check()
    if "text/event-stream" in request.headers.get("accept", ""):
        return await _stream(request, caller, saga_id(id), after)
    events = await _events(house_of(request), caller.sees, saga_id(id), after, limit + 1)
    more = len(events) > limit
    page = {"items": events[:limit], "next_cursor": events[limit - 1]["seq"] if more else None}
    return json_response(page, headers=query.next_link(page["next_cursor"], "after") if more else None)


async def _events(house: House, tenant: str | None, saga: str, after: int, limit: int) -> list[dict[str, Any]]:
    rows = await house.listing.history(saga, tenant, after=after, limit=limit)
    if rows is None:
        raise Problem(404, "saga-not-found", f"There is no saga {saga}.")
    if any("poll" in row["data"] for row in rows):
        # An address of the participant's making, which has to be kept as it is.
        found = await house.engine.load(saga, tenant)
        rows = discreet_history(found, rows)
    return [_event(row) for row in rows]


def _event(row: Mapping[str, Any]) -> dict[str, Any]:
    event = {"seq": row["seq"], "type": row["type"], "at": rfc3339(row["at"])}
    for name in ("step", "operation", "attempt"):
        if row[name] is not None:
            event[name] = row[name]
    return {**event, "data": event_data(row["data"])}


async def _stream(request: Request, caller: Caller, saga: str, after: int) -> Response:
    house, waiting, tenant = house_of(request), request.app.state.waiting, caller.sees
    known = request.headers.get("last-event-id", "")
    if re.fullmatch(r"\d{1,9}", known, re.ASCII):
        after = max(after, int(known))
    state = (await house.engine.load(saga, tenant)).state
    if state.final and after >= state.seq:
        return Response(status_code=204)  # an EventSource does not come back after that

    async def lines() -> AsyncIterator[bytes]:
        seen, silent, asked = after, 0.0, time.monotonic()
        # Then the stream ends, and an EventSource comes back.
        with contextlib.suppress(DatabaseUnavailable, PayloadUnreadable):
            while not waiting.leaving:
                if time.monotonic() - asked > STREAM_ASKS_SECONDS:
                    if not await may_still(request, caller, Right.READ):
                        return
                    asked = time.monotonic()
                events = await _events(house, tenant, saga, seen, EVENTS)
                for event in events:
                    head = f"id: {event['seq']}\nevent: {event['type']}\ndata: ".encode()
                    yield head + orjson.dumps(event) + b"\n\n"
                seen = events[-1]["seq"] if events else seen
                silent = 0.0 if events else silent + STREAM_POLL_SECONDS
                state = (await house.engine.load(saga, tenant)).state
                if state.final and seen >= state.seq:
                    return
                if silent >= STREAM_ALIVE_SECONDS:
                    silent = 0.0
                    yield b": still here\n\n"
                if seen >= state.seq:
                    await asyncio.sleep(STREAM_POLL_SECONDS)

    return StreamingResponse(lines(), headers={"Cache-Control": "no-store"}, media_type="text/event-stream")
