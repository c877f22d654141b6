"""Keyset paging: a cursor is the place of the last item, not a count, so pages neither skip nor repeat."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.saga.state import Micros

LIMIT: Final = 50
_CHECK_BYTES: Final = 6
_TEXT: Final = re.compile(r"(\d{1,18})/([0-9a-f-]{36})")


@dataclass(frozen=True, slots=True)
class Place:
    """Of an item in a list that is sorted by time and id."""

    at: Micros
    id: UUID

    def cursor(self) -> str:
        text = f"{self.at}/{self.id}".encode()
        return base64.urlsafe_b64encode(_check(text) + text).rstrip(b"=").decode()


def read_cursor(cursor: str) -> Place:
    """ValueError: it is not one that we have given out."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        check, text = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
        found = _TEXT.fullmatch(text.decode("ascii"))
    except (binascii.Error, ValueError):
        raise ValueError("is not a cursor of ours") from None
    if found is None or check != _check(text):
        raise ValueError("is not a cursor of ours")
    place = Place(int(found[1]), UUID(found[2]))
    if place.cursor() != cursor:  # the last character has bits that base64 does not use
        raise ValueError("is not a cursor of ours")
    return place


def _check(text: bytes) -> bytes:
    """Against typing errors and guesses, not against attackers: there is nothing to gain."""
    return hashlib.blake2s(text, digest_size=_CHECK_BYTES).digest()
