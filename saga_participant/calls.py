"""What arrives over HTTP, for any framework: a request becomes a `Call`, or is refused.

Signatures are those of Standard Webhooks (https://www.standardwebhooks.com), HMAC-SHA-256 only.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from saga_participant import Call, Refused

TOLERANCE_SECONDS = 300
OPEN_END = datetime.max.replace(tzinfo=UTC)


def read_call(headers: Mapping[str, str], body: bytes, secrets: Sequence[str] = ()) -> Call:
    """The call that a request carries. `headers` may be a framework's or a dict.

    With `secrets` (`whsec_...`; several while one is replaced by another) it has to be signed with one of them.
    Raises `Refused`: 401 where the signature is missing, wrong or older than five minutes, 400 where it is no call.
    """
    header = {name.lower(): value for name, value in headers.items()}
    if secrets:
        verify(header, body, secrets)
    try:
        said = json.loads(body)
        call = Call(
            saga_id=_text(said["saga_id"]),
            saga=_text(said["saga"]),
            step=_text(said["step"]),
            operation=_text(said["operation"]),
            attempt=int(said["attempt"]),
            input=said.get("input"),
            outputs=dict(said.get("outputs") or {}),
            output=said.get("output"),
            idempotency_key=header["idempotency-key"],
            deadline=_instant(header.get("saga-deadline")),
            callback_url=header.get("saga-callback-url"),
            traceparent=header.get("traceparent"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"this is not a call of a saga: {error!r}", status=400) from None
    if call.operation not in ("action", "compensation"):
        raise Refused("operation is action or compensation", status=400)
    # Which operation it is stands in the key, and the key itself is not signed; the id of the message is.
    if secrets and header["webhook-id"] != f"{call.idempotency_key}/{call.attempt}":
        raise Refused("the Idempotency-Key is not the one that was signed", status=401)
    return call


def verify(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], *, at: float | None = None) -> None:
    """Returns if one of the `secrets` signed this; else raises `Refused` with 401. Header names in lower case.

    `at`: seconds since 1970, for tests. An empty list of secrets lets nothing pass.
    """
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    message_id, timestamp, given = (headers.get(name, "") for name in names)
    if not (message_id and timestamp and given):
        raise Refused("the request is not signed", status=401)
    try:
        age = (time.time() if at is None else at) - int(timestamp)
    except ValueError:
        raise Refused("webhook-timestamp is no number of seconds", status=401) from None
    if abs(age) > TOLERANCE_SECONDS:
        raise Refused("the signature is too old, or from the future: look at both clocks", status=401)
    message = f"{message_id}.{timestamp}.".encode(errors="replace") + body
    expected = [_sign(secret, message) for secret in secrets]
    signatures = [one.removeprefix("v1,").encode(errors="replace") for one in given.split() if one.startswith("v1,")]
    if not any(hmac.compare_digest(one, ours) for one in signatures for ours in expected):
        raise Refused("the signature is not one of ours", status=401)


def _sign(secret: str, message: bytes) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_") + "==")
    except binascii.Error:
        raise ValueError("a secret is whsec_ and base64") from None
    if not key:
        raise ValueError("a secret may not be empty")
    return base64.b64encode(hmac.digest(key, message, hashlib.sha256))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is not a name")
    value.encode()  # half a surrogate pair is no text
    return value


def _instant(text: str | None) -> datetime:
    if text is None:
        return OPEN_END
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("Saga-Deadline has no time zone")
    return instant
