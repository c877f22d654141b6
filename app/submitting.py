"""From a request to a `Submission`: keys, digests, and what a definition asks of its input."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from app import notices
from app.access import Caller
from app.engine import Submission
from app.errors import Problem, too_large
from app.house import House
from app.input_schema import InputSchemas
from app.registration import address_fault
from app.saga.definition import Definition
from app.saga.fields import shown
from app.saga.jsonable import text_fault
from app.saga.state import SECOND, Micros
from app.settings import Settings
from app.strict_json import canonical, dumps

KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
FIELDS: Final = ("saga", "input", "version", "labels", "timeout", "start_at", "notify_url")
LABEL: Final = re.compile(r"[A-Za-z0-9._/-]{1,64}")
MAX_VERSION: Final = 2**31 - 1
PAST_SECONDS: Final = 86_400
"""A `start_at` that is older is a mistake, not a clock that goes wrong."""

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class SagaRequest(Protocol):
    """A request for a saga, its fields checked one by one."""

    saga: str
    input: Any
    version: int | None
    labels: dict[str, str] | None
    timeout: float | None
    start_at: Micros | None
    notify_url: str | None


def idempotency_key(headers: list[str], body: Mapping[str, Any]) -> str:
    """The one key of a request, from its header or its body."""
    given = list(headers)
    if (named := body.get("idempotency_key")) is not None:
        if not isinstance(named, str):
            raise _bad_key(f"`idempotency_key` must be a text, not {shown(named)}.")
        given.append(named)
    if not given:
        raise Problem(
            400,
            "idempotency-key-missing",
            "Send a header `Idempotency-Key` with a name of your own for this saga, such as an order's number."
            " It makes repeating the request safe.",
        )
    for key in given:
        if not KEY.fullmatch(key):
            raise _bad_key(f"{shown(key)} is not 1 to 200 visible ASCII characters.")
        if key != given[0]:
            raise _bad_key("The request carries two keys that differ.")
    return given[0]


def _bad_key(detail: str) -> Problem:
    return Problem(400, "idempotency-key-invalid", detail)


def check_labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("must be an object whose values are texts")  # noqa: TRY004 - pydantic wants it so
    for key, text in value.items():
        if not LABEL.fullmatch(key):
            raise ValueError(f"the key {key[:80]!r} must be 1 to 64 letters, digits, . _ / or -")
        if not isinstance(text, str):
            raise ValueError(f"the value of {key!r} must be a text")  # noqa: TRY004
    return value


def digest(body: Mapping[str, Any]) -> bytes:
    """Of what makes two requests the same: the JSON value of these fields, null and no labels being nothing."""
    fields = {name: body[name] for name in FIELDS if body.get(name) is not None}
    if fields.get("labels") == {}:
        del fields["labels"]
    return hashlib.sha256(canonical(fields)).digest()


def traceparent(headers: Iterable[str]) -> str | None:
    """As W3C Trace Context writes it; anything else is none."""
    return next((header for header in headers if _TRACEPARENT.fullmatch(header)), None)


async def find_definition(house: House, name: str, version: int | None) -> tuple[Definition, int]:
    """Problem 404 `definition-not-found`."""
    newest = None if text_fault(name) else await house.definitions.latest(name)
    if newest is None:
        raise Problem(404, "definition-not-found", f"There is no definition {shown(name)}.")
    wanted = newest if version is None else version
    try:
        return await house.definitions.get(name, min(wanted, MAX_VERSION)), wanted
    except LookupError:
        detail = f"Definition {shown(name)} has no version {shown(version)}; the newest is {newest}."
        raise Problem(404, "definition-not-found", detail) from None


def _refuse_choreography(definition: Definition) -> None:
    """Problem 422: a saga of it is not started by a request."""
    if definition.type == "choreography":
        detail = (
            f"{definition.name} is a choreography: a saga of it begins with an event such as {definition.started_by}."
            " Publish that (`POST /events`)."
        )
        raise Problem(422, "saga-is-choreographed", detail)


def payload(house: House, value: Any, what: str) -> bytes:
    """JSON as it is stored; Problem 413 where it is too large."""
    data = dumps(value)
    if len(data) > (limit := house.settings.max_payload_bytes):
        raise too_large(limit, what)
    return data


def check_input(schemas: InputSchemas, definition: Definition, version: int, value: Any) -> None:
    """Problem 422 `input-invalid`."""
    if faults := schemas.faults(definition, version, value):
        detail = f"The input is not what {definition.name} (version {version}) asks for: see `errors`."
        raise Problem(422, "input-invalid", detail, errors=faults)


async def make_submission(
    house: House,
    schemas: InputSchemas,
    caller: Caller,
    key: str,
    request: SagaRequest,
    body: Mapping[str, Any],
    trace: str | None,
) -> Submission:
    """Raises what a new saga is refused for. A key that is known may be answered all the same."""
    if request.labels:
        _check_labels(house.settings, request.labels)
    definition, version = await find_definition(house, request.saga, request.version)
    _refuse_choreography(definition)
    data = payload(house, request.input, "The input")
    check_input(schemas, definition, version, request.input)
    if request.notify_url is not None:
        _check_notify_url(house, request.notify_url)
    start_at = None if request.start_at is None else _checked_start(request.start_at, await house.database.now())
    return Submission(
        tenant=caller.tenant,
        key=key,
        digest=digest(body),
        definition=definition,
        version=version,
        input=data,
        labels=request.labels or {},
        timeout_seconds=request.timeout,
        start_at=start_at,
        notify_url=request.notify_url,
        traceparent=trace,
        by=caller.name,
    )


def _checked_start(start_at: Micros, now: Micros) -> Micros | None:
    """None: at once, since that time has passed."""
    if start_at < now - PAST_SECONDS * SECOND:
        raise _fault("start_at", "lies in the past")
    return start_at if start_at > now else None


def _check_labels(settings: Settings, labels: Mapping[str, str]) -> None:
    if len(labels) > (most := settings.max_labels):
        raise _fault("labels", f"has {len(labels):,} entries; at most {most} are kept (SAGA_MAX_LABELS)")
    for key, text in labels.items():
        if len(text) > (longest := settings.max_label_length):
            message = f"the value of {key!r} must be a text of at most {longest} characters (SAGA_MAX_LABEL_LENGTH)"
            raise _fault("labels", message)


def _check_notify_url(house: House, url: str) -> None:
    if fault := address_fault(url) or notices.refused(url, house.settings):
        raise _fault("notify_url", fault)


def _fault(path: str, message: str) -> Problem:
    return Problem(422, "body-invalid", "The body is not as it should be: see `errors`.", errors=[(path, message)])
