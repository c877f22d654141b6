"""Payloads at rest: sealed where `SAGA_PAYLOAD_KEYS` names keys (AES-256-GCM, a random nonce of 96 bits for each).

A row says by its codec whether it is sealed, and a sealed one by which key, so keys can be added, replaced
(`app.store.rotation`) and taken away again, and what was written before there were any stays readable. Each is bound to
its place: the ciphertext of one payload opens as no other.

Not promised: that somebody who may write to the database cannot put an old or a plain payload in place of a sealed one.
"""

import base64
import json
import os
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.errors import PayloadUnreadable
from app.settings import Settings, read_payload_keys

PLAIN_CODEC: Final = 0
SEALED_CODEC: Final = 1
"""A byte with the length of the key's id, the id, the nonce, then ciphertext and tag."""

NOTICE, EVENT, LETTER = "notice", "event", "letter"
"""Names of what is sealed beside the payloads of sagas."""

NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class Sealer:
    """`current`: the id of the key that seals; None leaves what is written plain."""

    def __init__(self, current: str | None = None, keys: Mapping[str, bytes] | None = None) -> None:
        self.current = current
        self._ciphers = {key_id: AESGCM(key) for key_id, key in (keys or {}).items()}

    @classmethod
    def of(cls, settings: Settings) -> "Sealer":
        given = settings.payload_keys
        return cls() if given is None else cls(*read_payload_keys(given.get_secret_value()))

    @property
    def known(self) -> list[str]:
        """The ids of all keys, as they are configured."""
        return list(self._ciphers)

    @property
    def head(self) -> bytes:
        """How what is sealed now begins; empty where nothing is."""
        return b"" if self.current is None else head_of(self.current)

    def seal(self, owner: str, name: str, data: bytes) -> tuple[int, bytes]:
        """(codec, data) of a row. `owner` and `name` say which: `open` wants the same."""
        if self.current is None:
            return PLAIN_CODEC, data
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self.current].encrypt(nonce, data, _place(owner, name))
        return SEALED_CODEC, self.head + nonce + sealed

    def seal_text(self, owner: str, name: str, text: str) -> tuple[int, str]:
        """As `seal`, for a column of text: the key's id, a colon and base64 where it is sealed."""
        codec, data = self.seal(owner, name, text.encode())
        return codec, text if codec == PLAIN_CODEC else f"{self.current}:{base64.b64encode(data).decode()}"

    def open_text(self, owner: str, name: str, codec: int, text: str) -> str:
        """Raises PayloadUnreadable."""
        if codec == PLAIN_CODEC:
            return text
        try:
            data = base64.b64decode(text.partition(":")[2], validate=True)
        except (AttributeError, ValueError):
            raise PayloadUnreadable(owner, name) from None
        return self.open(owner, name, codec, data).decode()

    def seal_json(self, owner: str, name: str, text: str) -> tuple[int, str]:
        """As `seal`, for a column of JSON: such a text where it is sealed."""
        codec, sealed = self.seal_text(owner, name, text)
        return codec, text if codec == PLAIN_CODEC else json.dumps(sealed)

    def open_json(self, owner: str, name: str, codec: int, value: Any) -> Any:
        """The value of such a column, as JSON says it. Raises PayloadUnreadable."""
        return value if codec == PLAIN_CODEC else json.loads(self.open_text(owner, name, codec, value))

    def open(self, owner: str, name: str, codec: int, data: bytes) -> bytes:
        """Raises PayloadUnreadable."""
        if codec == PLAIN_CODEC:
            return data
        key_id = key_of(data) if codec == SEALED_CODEC else None
        if key_id is None:
            raise PayloadUnreadable(owner, name)
        cipher, begin = self._ciphers.get(key_id), 1 + len(key_id)
        if cipher is None:
            raise PayloadUnreadable(owner, name, key_id)
        try:
            return cipher.decrypt(data[begin : begin + NONCE_BYTES], data[begin + NONCE_BYTES :], _place(owner, name))
        except (InvalidTag, ValueError):
            raise PayloadUnreadable(owner, name) from None


def head_of(key_id: str) -> bytes:
    return bytes([len(key_id)]) + key_id.encode()


def key_of(data: bytes) -> str | None:
    """The id of the key that sealed it; None of what is damaged."""
    size = data[0] if data else 0
    if not size or len(data) < 1 + size + NONCE_BYTES + _TAG_BYTES:
        return None
    try:
        return data[1 : 1 + size].decode("ascii")
    except UnicodeDecodeError:
        return None


def _place(owner: str, name: str) -> bytes:
    return f"saga payload\0{owner}\0{name}".encode()
