"""What the routes ask for: the house, the caller, a body of bounded size."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeAlias, TypeVar, cast

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app import access, strict_json
from app.access import Caller, Right
from app.errors import MAX_FAULTS, DatabaseUnavailable, Problem, too_large
from app.filters import uuid
from app.house import House
from app.keys import Keys, unauthorized
from app.people import visits
from app.store.sagas import Saga

ENVELOPE_BYTES: Final = 65_536
"""What a body may have beside the payload that it carries."""

Model = TypeVar("Model", bound=BaseModel)


def house_of(request: Request) -> House:
    return cast(House, request.app.state.house)


# --- who asks ---------------------------------------------------------------------------------------------------


def needs(right: Right | None) -> Callable[[Request], Awaitable[Caller]]:
    """The dependency of a route that asks for this right; None: of anybody whom we know."""

    async def authenticate(request: Request) -> Caller:
        caller = await _caller(request)
        request.state.caller = caller
        request.app.state.rate_limit.take(request, caller)
        if right is not None and not caller.may(right):
            raise _right_missing(caller, right)
        return caller

    return authenticate


async def _caller(request: Request, *, again: bool = False) -> Caller:
    """A key decides where one is given; else the cookie of a session. `again`: whether it was let in before."""
    if "authorization" in request.headers:
        return await _caller_by_key(request)
    house = house_of(request)
    seen = not again and "text/event-stream" not in request.headers.get("accept", "")  # streams open by themselves
    visit = await visits.visit_of(request, house.logins, house.settings, address_of(request), seen=seen)
    if visit is None:
        return await _caller_by_key(request)
    if request.method not in visits.SAFE:
        visits.refuse_other_sites(request, house.settings)
        visits.check_csrf(visit.token, request.headers.get(visits.CSRF_HEADER))
    request.state.visit = visit
    return visit.caller


async def _caller_by_key(request: Request) -> Caller:
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    keys: Keys = request.app.state.keys
    if kind.lower() != "bearer" or not key:
        detail = "This needs an API key. Send yours as `Authorization: Bearer KEY`, or log in at /admin/login."
        raise unauthorized(detail + keys.advice, known=False)
    return await keys.find(key, address_of(request))


def _right_missing(caller: Caller, right: Right) -> Problem:
    if caller.role is not None:
        role = access.role_for(right)
        return Problem(
            403, "role-missing", f"This needs a user with the role `{role}`; yours is `{caller.role}`.", role=role
        )
    scope = access.scope_for(right)
    return Problem(403, "scope-missing", f"This needs a key with the scope `{scope}`.", scope=scope)


async def who_asks(request: Request) -> Caller | None:
    """Of a route that needs no key: whose key it was given all the same, None where that is nobody's."""
    if "authorization" not in request.headers:
        return None
    try:
        return await _caller_by_key(request)
    except (Problem, DatabaseUnavailable):
        return None


async def may_still(request: Request, caller: Caller, right: Right) -> bool:
    """Whether the caller of a long answer could ask for it again: its session or key may have ended meanwhile."""
    try:
        found = await _caller(request, again=True)
    except Problem:
        return False
    return found.name == caller.name and found.sees == caller.sees and found.may(right)


def address_of(request: Request) -> str | None:
    return None if request.client is None else request.client.host


Anybody: TypeAlias = Annotated[Caller, Depends(needs(None))]
MayStart: TypeAlias = Annotated[Caller, Depends(needs(Right.START))]
MayRead: TypeAlias = Annotated[Caller, Depends(needs(Right.READ))]
MayDefine: TypeAlias = Annotated[Caller, Depends(needs(Right.DEFINE))]
MayLook: TypeAlias = Annotated[Caller, Depends(needs(Right.LOOK))]
MayOperate: TypeAlias = Annotated[Caller, Depends(needs(Right.OPERATE))]
MayAdminister: TypeAlias = Annotated[Caller, Depends(needs(Right.ADMINISTER))]


# --- what is asked ----------------------------------------------------------------------------------------------


def saga_id(text: str) -> str:
    """A saga's id from a path; what cannot be one names no saga."""
    try:
        return uuid(text)
    except ValueError:
        raise Problem(404, "saga-not-found", f"There is no saga {text[:80]!r}: an id is a UUID.") from None


async def read_body(request: Request, limit: int) -> bytes:
    """The body; Problem 413 as soon as it is known to be larger, whatever Content-Length says.

    How long it may take is the server's to bound (`app.api.server`).
    """
    if (coding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        detail = f"The body is sent as {coding[:80]}: send it as it is, without Content-Encoding."
        raise Problem(415, "content-encoding-unsupported", detail, headers={"Accept-Encoding": "identity"})
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise too_large(limit)
    body = b""
    async for part in request.stream():
        body = body + part if body else part
        if len(body) > limit:
            raise too_large(limit)
    return body


async def read_json(request: Request, *, empty: Any = None) -> Any:
    """The body as JSON, whatever its Content-Type says (`curl -d` calls everything a form).

    `empty` stands for a body of no bytes; without it, none is refused.
    """
    settings = house_of(request).settings
    body = await read_body(request, settings.max_payload_bytes + ENVELOPE_BYTES)
    if not body and empty is not None:
        return empty
    return strict_json.parse(body, settings.max_depth)


def checked(model: type[Model], value: Any) -> Model:
    """The value as the model; Problem 422 `body-invalid` with every fault and its path."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = [(_path(fault), _message(fault)) for fault in error.errors()[:MAX_FAULTS]]
        raise Problem(422, "body-invalid", "The body is not as it should be: see `errors`.", errors=faults) from None


async def read_reasoned(request: Request, model: type[Model]) -> Model:
    """A body with a `reason`. Problem 422 `reason-missing` before any other fault of it."""
    body = await read_json(request, empty={})
    if isinstance(body, dict):
        reason = body.get("reason")
        if reason is None or (isinstance(reason, str) and not reason.strip()):
            detail = "Say why you do this: `reason` stands in the audit trail."
            raise Problem(422, "reason-missing", detail, errors=[("reason", "is missing")])
    return checked(model, body)


def _path(fault: ErrorDetails) -> str:
    path = ""
    for part in fault["loc"]:
        if part == "[key]":
            continue
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part[:80]}"
    return path


_SAID: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not a field that is known here",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
}


def _message(fault: ErrorDetails) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return _SAID.get(fault["type"], fault["msg"])


# --- on which state ---------------------------------------------------------------------------------------------


def etag(saga: Saga) -> str:
    """Strong: a saga changes only with the number of its last event."""
    return f'"{saga.state.seq}"'


def unchanged(request: Request, tag: str) -> bool:
    """Whether If-None-Match names what the saga is now."""
    given = request.headers.get("if-none-match")
    return given is not None and any(each in {"*", tag} for each in _tags(given.replace("W/", "")))


def if_match(request: Request) -> Callable[[Saga], bool] | None:
    """What If-Match asks for; None where it is not there."""
    given = request.headers.get("if-match")
    if given is None:
        return None
    tags = set(_tags(given))
    return lambda saga: "*" in tags or etag(saga) in tags


def _tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]
