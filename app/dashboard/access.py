"""Who looks at a page.

    async def page(request: Request, visitor: Visiting) -> Response: ...    # whoever may look
    async def act(request: Request, posted: Posting) -> Response: ...       # a form of one of our pages

An API key stands for a visitor here; sessions take its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, TypeAlias, cast
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from app import access
from app.access import Caller, Right
from app.errors import Problem, too_large
from app.house import House

FORM_BYTES: Final = 65_536
"""What a form may have beside the payload that it carries."""
FORM_FIELDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Visitor:
    caller: Caller
    csrf_token: str | None = None
    """For the field `csrf_token` of every form."""

    @property
    def name(self) -> str:
        return self.caller.name.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Posted:
    """A form that came from one of our pages."""

    visitor: Visitor
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def one(self, name: str) -> str:
        return self.form.get(name, [""])[0]


def house_of(request: Request) -> House:
    return cast(House, request.app.state.house)


async def visitor(request: Request) -> Visitor:
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    address = None if request.client is None else request.client.host
    caller: Caller | None = None
    if kind.lower() == "bearer":
        caller = await request.app.state.keys.find(key.strip(), address)
    if caller is None:
        raise Problem(401, "unauthorized", "This page needs an API key.", headers={"WWW-Authenticate": "Bearer"})
    found = Visitor(caller)
    refuse_without(found, Right.LOOK)
    return found


Visiting: TypeAlias = Annotated[Visitor, Depends(visitor)]


async def posted(request: Request, who: Visiting) -> Posted:
    return Posted(who, await read_form(request, house_of(request).settings.max_payload_bytes * 2 + FORM_BYTES))


Posting: TypeAlias = Annotated[Posted, Depends(posted)]


def refuse_without(who: Visitor, right: Right) -> None:
    """Problem 403 `role-missing`."""
    if not who.caller.may(right):
        role = access.role_for(right)
        raise Problem(403, "role-missing", f"This needs a user with the role `{role}`.", role=role)


async def read_form(request: Request, limit: int = FORM_BYTES) -> dict[str, list[str]]:
    """The fields of a form as browsers send them. Problem 413, 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        detail = "This takes a form (application/x-www-form-urlencoded). Scripts ask the API."
        raise Problem(415, "form-expected", detail)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_large(limit, "The form")
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FORM_FIELDS)
    except ValueError:
        raise Problem(413, "body-too-large", f"The form has more than {FORM_FIELDS} fields.") from None
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form
