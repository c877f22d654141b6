"""Tokens for answers that come later: one for each attempt, and nothing of them is stored.

A token names its attempt and carries an HMAC-SHA-256 of that name under `SAGA_SECRET_KEY`; so it cannot be forged, a
copy of the database reveals none, and the machine's judgement of an answer (is it the current attempt's?) makes it
a token of one use.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from app.saga.state import ACTION, COMPENSATION, Operation
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class AttemptName:
    saga_id: str
    step: str
    operation: Operation
    attempt: int


def make_token(secret: str, name: AttemptName) -> str:
    text = f"{name.saga_id}/{name.step}/{name.operation}/{name.attempt}"
    return f"{_encode(text.encode())}.{_encode(_mac(secret, text))}"


def read_token(secret: str, token: str) -> AttemptName | None:
    """What the token stands for; None where we did not make it."""
    encoded, _, mac = token.partition(".")
    try:
        text = _decode(encoded).decode("ascii")
        given = _decode(mac)
    except (binascii.Error, ValueError):
        return None
    if not hmac.compare_digest(given, _mac(secret, text)):
        return None
    saga_id, step, operation, attempt = text.split("/")
    name = AttemptName(saga_id, step, ACTION if operation == ACTION else COMPENSATION, int(attempt))
    return name if make_token(secret, name) == token else None  # base64 has bits that it does not use


def maker(settings: Settings) -> Callable[[str, str, Operation, int], str] | None:
    """Makes callback addresses; None where no secret key is set, and then participants are given none."""
    if settings.secret_key is None:
        return None
    secret = settings.secret_key.get_secret_value()
    base = (settings.public_url or f"http://{settings.host}:{settings.port}").rstrip("/")

    def make(saga_id: str, step: str, operation: Operation, attempt: int) -> str:
        return f"{base}/callbacks/{make_token(secret, AttemptName(saga_id, step, operation, attempt))}"

    return make


def _mac(secret: str, text: str) -> bytes:
    return hmac.digest(secret.encode(), b"saga callback\0" + text.encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
