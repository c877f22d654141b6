"""Events by HTTP, for services that do not speak Redis."""

import re
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api import schemas
from app.api.dependencies import MayStart, checked, house_of, read_json
from app.api.openapi import describe
from app.api.sagas import json_response
from app.errors import Problem
from app.strict_json import dumps
from app.submitting import payload

MEDIA_TYPES: Final = ("application/cloudevents+json", "application/json")

_ATTRIBUTE: Final = re.compile("[a-z0-9]{1,100}")

router = APIRouter(tags=["events"])


@router.post(
    "/events",
    **describe(
        "Publish an event",
        "One CloudEvent 1.0 in JSON (structured mode), for the stream `saga:events`. The same `source` and `id` again,"
        " within a week, is the same event: 200, and nothing is published twice.",
        body=schemas.EventRequest,
        body_types=MEDIA_TYPES,
        answers={200: schemas.PublishedView, 202: schemas.PublishedView},
        problems=(400, 413, 422),
    ),
)
async def publish(request: Request, _: MayStart) -> Response:
    house = house_of(request)
    body = await read_json(request)
    event = checked(schemas.EventRequest, body)
    _check_attributes(body)
    payload(house, event.data, "The data of the event")
    # As it was written but for null, by which JSON says that an attribute is not there.
    named = {name: value for name, value in body.items() if value is not None or name == "data"}
    is_new = await house.events.accept(event.source, event.id, dumps(named).decode())
    if is_new:
        house.relay.wake()
    return json_response({"id": event.id, "source": event.source}, 202 if is_new else 200)


def _check_attributes(body: dict[str, Any]) -> None:
    faults = []
    for name, value in body.items():
        if name == "data_base64":
            faults.append((name, "is not read: give `data` as JSON"))
        elif not _ATTRIBUTE.fullmatch(name):
            faults.append((name[:80], "is not the name of an attribute: small letters and digits (CloudEvents 1.0)"))
        elif name not in schemas.EventRequest.model_fields and isinstance(value, list | dict | float):
            faults.append((name, "must be a text, a whole number, true or false: what happened stands in `data`"))
    if faults:
        raise Problem(422, "body-invalid", "The body is not as it should be: see `errors`.", errors=faults)
