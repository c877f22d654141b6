"""Who stands behind an API key, `id.secret`.

A key is compared by the SHA-256 of its secret, in constant time, and for an id that is not known against nothing in the
same time. What is known of a key is asked of the database once in `FRESH_SECONDS`, however often it is used: so for so
long one that was revoked elsewhere may still open a door. Where the database is away, a key that was seen within
`KNOWN_SECONDS` goes on. When a key was last used is written beside the requests, once a minute.
"""

import asyncio
import contextlib
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app import access
from app.access import NO_TENANT, Caller, Scope
from app.errors import DatabaseUnavailable, Problem
from app.observability import log
from app.saga.fields import shown
from app.settings import Settings
from app.store.database import Database
from app.store.keys import ApiKeys
from app.store.sagas import new_id

FRESH_SECONDS: Final = 2.0
KNOWN_SECONDS: Final = 60.0
REMEMBERED: Final = 10_000
"""Ids, known and unknown, at most."""
USED_SECONDS: Final = 60.0
GATHER_SECONDS: Final = 1.0
"""Uses of so long are written together."""
SECRET_BYTES: Final = 32

_ID: Final = re.compile(r"[0-9a-f]{32}")
_NOBODY: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    scopes: tuple[Scope, ...]
    tenant: str
    ends_at: float | None
    """By our monotonic clock."""
    revoked: bool


class Keys:
    """Of one process and event loop."""

    def __init__(self, settings: Settings, store: ApiKeys) -> None:
        secret = settings.bootstrap_api_key.get_secret_value() if settings.bootstrap_api_key is not None else ""
        self._bootstrap = digest(secret) if secret else None
        self._store = store
        self._known: dict[str, tuple[_Known | None, float]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._used_at: dict[str, float] = {}
        self._used: set[str] = set()
        self._writing: asyncio.Task[None] | None = None

    @property
    def advice(self) -> str:
        """Where a house has no first key: how it gets one."""
        if self._bootstrap is not None:
            return ""
        return " Where none was made yet, start the API with SAGA_BOOTSTRAP_API_KEY."

    async def find(self, key: str, address: str | None) -> Caller:
        """Problem 401 `unauthorized`; DatabaseUnavailable where it cannot be told."""
        if self._bootstrap is not None and hmac.compare_digest(digest(key), self._bootstrap):
            return access.of_key("bootstrap", access.SCOPES, access.NO_TENANT, address)
        key_id, _, secret = key.partition(".")
        known = await self._look_up(key_id) if _ID.fullmatch(key_id) else None
        right = hmac.compare_digest(digest(secret), _NOBODY if known is None else known.digest)
        if known is None or not right:
            raise unauthorized(f"The API key is not known.{self.advice}")
        if known.revoked:
            raise unauthorized("The API key was revoked. Ask for a new one.")
        if known.ends_at is not None and known.ends_at <= time.monotonic():
            raise unauthorized("The API key has expired. Ask for a new one.")
        self._note_use(key_id)
        return access.of_key(key_id, known.scopes, known.tenant, address)

    def forget(self, key_id: str) -> None:
        """It was changed by this process."""
        self._known.pop(key_id, None)

    async def _look_up(self, key_id: str) -> _Known | None:
        found, read_at = self._known.get(key_id, (None, float("-inf")))
        if time.monotonic() - read_at < FRESH_SECONDS:
            return found
        task = self._reading.get(key_id)
        if task is None:
            task = self._reading[key_id] = asyncio.create_task(self._read(key_id))
            task.add_done_callback(lambda _: self._reading.pop(key_id, None))
        try:
            await asyncio.shield(task)
        except DatabaseUnavailable:
            if found is None or time.monotonic() - read_at > KNOWN_SECONDS:
                raise
            return found
        return self._known.get(key_id, (None, 0.0))[0]

    async def _read(self, key_id: str) -> None:
        asked_at = time.monotonic()
        row = await self._store.read(key_id)
        known = None
        if row is not None:
            left = row["seconds_left"]
            ends_at = None if left is None else asked_at + float(left)
            known = _Known(row["digest"], tuple(row["scopes"]), row["tenant"], ends_at, row["revoked"])
        self._known.pop(key_id, None)
        self._known[key_id] = known, asked_at
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    # --- when it was used ---

    def _note_use(self, key_id: str) -> None:
        now = time.monotonic()
        if now - self._used_at.get(key_id, float("-inf")) < USED_SECONDS:
            return
        self._used_at[key_id] = now
        self._used.add(key_id)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_uses())

    async def _write_uses(self) -> None:
        try:
            await asyncio.sleep(GATHER_SECONDS)
            await self._write_now()
        finally:
            self._writing = None

    async def _write_now(self) -> None:
        used, self._used = self._used, set()
        try:
            await self._store.touch(used)
        except DatabaseUnavailable as error:
            log.info("when keys were used is not written: %s", error)

    async def close(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writing
        if self._used:
            await self._write_now()
        for task in [*self._reading.values()]:
            await asyncio.wait([task])


async def new_key_id(database: Database) -> str:
    return UUID(new_id(await database.now())).hex


def tenant_of_new(caller: Caller, wanted: str | None) -> str:
    """Whose keys a caller makes: of its own tenant, or as the house of any. Problem 403 `tenant-bound`."""
    if caller.sees is None:
        return wanted or NO_TENANT
    if wanted is not None and wanted != caller.tenant:
        raise Problem(
            403,
            "tenant-bound",
            f"This caller belongs to the tenant {shown(caller.tenant)} and makes no keys of others.",
        )
    return caller.tenant


def no_key(key_id: str, what: str = "") -> Problem:
    return Problem(404, "key-not-found", f"There is no key {shown(key_id)}{what}.")


def new_key(key_id: str) -> tuple[str, bytes]:
    """(the key, shown once; the digest that is kept)."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return f"{key_id}.{secret}", digest(secret)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def unauthorized(detail: str, *, known: bool = True) -> Problem:
    more = ' error="invalid_token"' if known else ""
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": f'Bearer realm="saga"{more}'})
