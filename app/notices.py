"""What the `notify_url` of a saga is told, and which addresses may be told anything.

Told at least once of each transition that brings the saga to rest or raises attention; not necessarily in order:
`timestamp`, and `updated_at` of the saga, say what is newer. Polling stays the promise.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import orjson

from app.instants import rfc3339
from app.saga.fields import shown
from app.saga.messages import RecordType, Transition
from app.settings import Settings
from app.store.sagas import NewNotice, Saga
from app.views import saga_view

# One for a transition: the first of these that it records, so that attention which comes with a rest is not told apart.
_TYPES: Final[Mapping[RecordType, str]] = {
    RecordType.SAGA_COMPLETED: "saga.completed",
    RecordType.SAGA_FAILED: "saga.failed",
    RecordType.SAGA_ABANDONED: "saga.abandoned",
    RecordType.SAGA_COMPENSATION_FAILED: "saga.compensation_failed",
    RecordType.ATTENTION_RAISED: "saga.attention",
}


def notice_of(saga: Saga, transition: Transition) -> NewNotice | None:
    """What there is to tell of a transition. `saga`: as it leaves it."""
    happened = {record.type for record in transition.records}
    kind = next((name for record, name in _TYPES.items() if record in happened), None)
    if kind is None:
        return None
    # The saga as it stands now and not as it will stand when the receiver is reached: one whose failed compensation was
    # retried meanwhile would contradict the type, and each repetition would say something else under the same id.
    body = {"type": kind, "timestamp": rfc3339(saga.state.updated_at), "data": saga_view(saga)}
    return NewNotice(kind, orjson.dumps(body))


def refused(url: str, settings: Settings) -> str | None:
    """Why this address may not be told, in words that follow its name; None where it may."""
    hosts = {host.strip().lower().strip("[]") for host in settings.notify_hosts.split(",")} - {""}
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"must be an http or https address with a host, not {shown(url)}"
    if parts.scheme not in {"http", "https"}:
        return f"must be an http or https address with a host, not {shown(url)}"
    if parts.username is not None or parts.password is not None:
        return "holds a user or a password; the receiver knows us by the signature"
    host = (parts.hostname or "").lower()
    if host not in hosts:
        return f"names the host {shown(host)}, which is not among those that may be told (SAGA_NOTIFY_HOSTS)"
    return None
