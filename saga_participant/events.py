"""Events as they stand on the stream, for those who publish and those who follow.

The stream is the Redis stream `STREAM`. Each entry has one field, `FIELD`, which holds one CloudEvent 1.0 in JSON
(structured mode). Nobody who publishes trims the stream: whoever runs the house decides how long it is kept, and keeps
a day at the least. This module needs the standard library only.
"""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

STREAM: Final = "saga:events"
FIELD: Final = "event"
COMPENSATION_REQUESTED: Final = "CompensationRequested"
"""The type of the event by which the orchestrator asks for a compensation; its data: `{saga, step, correlation,
reason}`."""
LONGEST_NAME_BYTES: Final = 500


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvent. What it does not name (`dataschema`, extensions) stands in `more` and is passed on."""

    type: str
    source: str
    data: Any = None
    subject: str | None = None
    """Events of the kit carry their correlation here."""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """With `source` it names the event: the same two are the same event."""
    time: str | None = field(default_factory=lambda: datetime.now(UTC).isoformat())
    more: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        document = {"specversion": "1.0", "id": self.id, "source": self.source, "type": self.type}
        given = {"subject": self.subject, "time": self.time}
        document |= {name: value for name, value in given.items() if value is not None}
        return json.dumps({**self.more, **document, "datacontenttype": "application/json", "data": self.data})

    @classmethod
    def from_json(cls, text: str | bytes) -> "Event":
        """ValueError where it is no CloudEvent, or its names are longer than 500 bytes."""
        try:
            document = json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(document, dict) or document.get("specversion") != "1.0":
            raise ValueError("not a CloudEvent 1.0 in JSON")
        if "data_base64" in document:
            raise ValueError("data in base64 is not for us")
        names = {name: _name(document.pop(name, None), name) for name in ("type", "source", "id")}
        optional = {name: document.pop(name, None) for name in ("subject", "time")}
        for name, value in optional.items():
            if value is not None:
                _name(value, name)
        data = document.pop("data", None)
        for ours in ("specversion", "datacontenttype"):
            document.pop(ours, None)
        return cls(**names, **optional, data=data, more=document)


def correlate(path: str) -> Callable[[Event], str | None]:
    """Finds the correlation of an event by a dotted path over it, such as `data.order_id` or `subject`.

    It is the part of JMESPath that a definition's `correlation` needs, without JMESPath. None where there is none.
    """
    head, *rest = path.split(".")
    if not (path == "subject" or (head == "data" and rest and all(rest))):
        raise ValueError(f"{path!r} is no path such as data.order_id, or subject")

    def find(event: Event) -> str | None:
        value = getattr(event, head)
        for name in rest:
            value = value.get(name) if isinstance(value, dict) else None
        if value is None or isinstance(value, dict | list | bool | float):
            return None
        try:
            return _name(str(value), path)
        except ValueError:
            return None

    return find


def _name(value: Any, what: str) -> str:
    """A text that every database can hold and index."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} is missing, or not a text")
    if "\0" in value or len(value.encode()) > LONGEST_NAME_BYTES:  # half a surrogate pair is a ValueError as well
        raise ValueError(f"{what} is longer than {LONGEST_NAME_BYTES} bytes, or has a NUL in it")
    return value
