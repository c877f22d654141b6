"""Query parameters of every door: strict, since a filter that is misspelt and ignored answers another question."""

import re
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlencode

from fastapi import Request

from app.access import Caller
from app.errors import MAX_FAULTS, Problem
from app.instants import parse_instant, rfc3339
from app.saga.fields import shown
from app.saga.jsonable import text_fault
from app.saga.state import SagaState
from app.store.listing import Filter
from app.store.paging import LIMIT, Place, read_cursor

T = TypeVar("T")

SAGA_FILTERS: Final = (
    "state",
    "saga",
    "label",
    "key",
    "created_after",
    "created_before",
    "attention",
    "step",
    "error",
    "text",
    "id",
)
PAGING: Final = ("limit", "cursor")
MAX_COUNT: Final = 2**31 - 1
MAX_LABELS: Final = 100
"""That are asked for at a time."""
_MANY_LABELS: Final = f"asks for more than {MAX_LABELS} labels"
MAX_IDS: Final = 1000
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_PLUS_LOST: Final = re.compile(r" (?=\d\d:\d\d$)")


class BodyFilter(Protocol):
    """A filter as a part of a body, its fields checked one by one."""

    state: list[str] | str | None
    saga: str | None
    label: dict[str, str] | list[str] | str | None
    key: str | None
    created_after: int | None
    created_before: int | None
    attention: bool | None
    step: str | None
    error: str | None
    text: str | None
    id: list[str] | str | None


class Query:
    """The parameters of one request; what is wrong with them is collected, and told together."""

    def __init__(self, request: Request, known: Collection[str]) -> None:
        self._request = request
        self._values: dict[str, list[str]] = {}
        self._faults: list[tuple[str, str]] = []
        for name, value in request.query_params.multi_items():
            if name not in known:
                self.fault(name[:80], f"is not known here; known are {', '.join(known)}")
            elif fault := text_fault(value):
                self.fault(name, fault)
            else:
                self._values.setdefault(name, []).append(value)

    def fault(self, name: str, message: str) -> None:
        if len(self._faults) < MAX_FAULTS:
            self._faults.append((name, message))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def one(self, name: str, convert: Callable[[str], T], default: Any = None) -> T | Any:
        """An empty value is as good as none."""
        given = [value for value in self._values.get(name, []) if value]
        if not given:
            return default
        if len(given) > 1:
            self.fault(name, "is given more than once")
            return default
        try:
            return convert(given[0])
        except ValueError as error:
            self.fault(name, str(error))
            return default

    def many(self, name: str, convert: Callable[[str], T], *, commas: bool = False) -> list[T]:
        found = []
        for value in self._values.get(name, []):
            for part in value.split(",") if commas else [value]:
                if part:
                    try:
                        found.append(convert(part))
                    except ValueError as error:
                        self.fault(name, str(error))
        return found

    def limit(self, default: int = LIMIT, most: int | None = None) -> int:
        """At most `most`, by default `SAGA_MAX_LIST`."""
        found: int = self.one("limit", whole, default)
        return min(found, self._request.app.state.house.settings.max_list if most is None else most)

    def place(self) -> Place | None:
        found: Place | None = self.one("cursor", read_cursor)
        return found

    def check(self) -> None:
        """To be called last: Problem 422 `filter-invalid`."""
        if self._faults:
            detail = "The query is not as it should be: see `errors`."
            raise Problem(422, "filter-invalid", detail, errors=self._faults)

    def next_link(self, cursor: object, name: str = "cursor") -> dict[str, str]:
        """Headers: where the next page is."""
        kept = [(other, value) for other, values in self._values.items() for value in values if other != name]
        return {"Link": f'<{self._request.url.path}?{urlencode([*kept, (name, str(cursor))])}>; rel="next"'}


def saga_filter(query: Query, caller: Caller) -> Filter:
    given = query.many("label", label)
    labels = dict(given)
    if len(labels) > MAX_LABELS:
        query.fault("label", _MANY_LABELS)
    if any(labels[key] != value for key, value in given):
        query.fault("label", "asks for two values of one label")
    return Filter(
        tenant=caller.sees,
        states=_once(query.many("state", state, commas=True)),
        saga=query.one("saga", str),
        labels=labels or None,
        key=query.one("key", str),
        created_after=query.one("created_after", instant),
        created_before=query.one("created_before", instant),
        attention=query.one("attention", truth),
        step=query.one("step", str),
        error=query.one("error", str),
        text=query.one("text", str),
        ids=query.many("id", uuid, commas=True) or None,
    )


def body_filter(given: BodyFilter, tenant: str | None) -> Filter:
    """The same as a part of a body; Problem 422 `body-invalid`."""
    faults = []
    states, labels = given.state or [], given.label or {}
    if isinstance(labels, str | list):
        try:
            labels = dict(label(text) for text in ([labels] if isinstance(labels, str) else labels))
        except ValueError as error:
            faults.append(("filter.label", str(error)))
    for text in (named := states.split(",") if isinstance(states, str) else states):
        try:
            state(text)
        except ValueError as error:
            faults.append(("filter.state", str(error)))
    if len(labels) > MAX_LABELS:
        faults.append(("filter.label", _MANY_LABELS))
    ids = given.id.split(",") if isinstance(given.id, str) else given.id
    try:
        ids = None if ids is None else [uuid(text) for text in ids]
    except ValueError as error:
        faults.append(("filter.id", str(error)))
    if faults or isinstance(labels, str | list):
        raise Problem(422, "body-invalid", "The body is not as it should be: see `errors`.", errors=faults[:MAX_FAULTS])
    return Filter(
        tenant,
        _once(named),
        given.saga,
        labels or None,
        given.key,
        given.created_after,
        given.created_before,
        given.attention,
        step=given.step,
        error=given.error,
        text=given.text,
        ids=ids,
    )


def as_body(wanted: Filter) -> dict[str, Any]:
    """The filter as a body has it, with what it asks for and no more."""
    times = {"created_after": wanted.created_after, "created_before": wanted.created_before}
    said: dict[str, Any] = {
        "state": list(wanted.states) or None,
        "saga": wanted.saga,
        "label": dict(wanted.labels) if wanted.labels else None,
        "key": wanted.key,
        **{name: None if at is None else rfc3339(at) for name, at in times.items()},
        "attention": wanted.attention,
        "step": wanted.step,
        "error": wanted.error,
        "text": wanted.text,
        "id": None if wanted.ids is None else list(wanted.ids),
    }
    return {name: value for name, value in said.items() if value is not None}


def _once(words: list[str]) -> list[str]:
    return list(dict.fromkeys(words))


def whole(text: str) -> int:
    if (number := count(text)) < 1:
        raise ValueError(f"must be a whole number from 1 on, not {shown(text)}")
    return number


def count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"must be a whole number, not {shown(text)}")
    return min(int(text), MAX_COUNT) if len(text) <= 18 else MAX_COUNT


def truth(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(f"must be true or false, not {shown(text)}")
    return text == "true"


def state(text: str) -> str:
    if text not in SagaState.__members__:
        raise ValueError(f"must be one of {', '.join(SagaState.__members__)}, not {shown(text)}")
    return text


def uuid(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise ValueError(f"must be a UUID, not {shown(text)}")
    return text.lower()


def instant(text: str) -> int:
    # A + that nobody escaped arrives as a space.
    return parse_instant(_PLUS_LOST.sub("+", text))


def label(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not key or not colon:
        raise ValueError(f"must be key:value, not {shown(text)}")
    return key, value
