"""Who stands behind an API key, `id.secret`.

A key is compared by the SHA-256 of its secret, in constant time, and for an id that is not known against nothing in the
same time. What is known of a key holds for `FRESH_SECONDS`: for so long one that was revoked elsewhere may still open a
door. One in use is read again in the background before that time is over, so no request waits for it. Where the
database is away, a key that was seen within `KNOWN_SECONDS` goes on. When a key was last used is written beside the
requests, once a minute.
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
RENEW_SECONDS: Final = 1.0
KNOWN_SECONDS: Final = 60.0
REMEMBERED: Final = 10_000
"""Keys at most, and as many ids that no key has. Apart: who tries ids drives out no key."""
USED_SECONDS: Final = 60.0
GATHER_SECONDS: Final = 1.0
"""Uses of so long are written together."""
SECRET_BYTES: Final = 32

ID: Final = re.compile(r"[0-9a-f]{32}")
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
        self._known: dict[str, tuple[_Known, float]] = {}
        self._unknown: dict[str, float] = {}
        self._reading: dict[str, asyncio.Task[_Known | None]] = {}
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
        known = await self._look_up(key_id) if ID.fullmatch(key_id) else None
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
        """It was changed by this process. What is being read of it may be older than the change."""
        self._known.pop(key_id, None)
        self._reading.pop(key_id, None)

    async def _look_up(self, key_id: str) -> _Known | None:
        now = time.monotonic()
        known, read_at = self._known.get(key_id, (None, float("-inf")))
        if known is not None and now - read_at < FRESH_SECONDS:
            if now - read_at > RENEW_SECONDS:
                self._read_again(key_id)
            return known
        if now - self._unknown.get(key_id, float("-inf")) < FRESH_SECONDS:
            return None
        try:
            return await asyncio.shield(self._read_again(key_id))
        except DatabaseUnavailable:
            if known is None or now - read_at > KNOWN_SECONDS:
                raise
            return known

    def _read_again(self, key_id: str) -> "asyncio.Task[_Known | None]":
        """One reading at a time of each."""
        task = self._reading.get(key_id)
        if task is None:
            task = self._reading[key_id] = asyncio.create_task(self._read(key_id))
            task.add_done_callback(_looked_at)
        return task

    async def _read(self, key_id: str) -> _Known | None:
        asked_at = time.monotonic()
        try:
            row = await self._store.read(key_id)
        finally:
            ours = self._reading.get(key_id) is asyncio.current_task()
            if ours:
                del self._reading[key_id]
        known = None
        if row is not None:
            left = row["seconds_left"]
            ends_at = None if left is None else asked_at + float(left)
            known = _Known(row["digest"], tuple(row["scopes"]), row["tenant"], ends_at, row["revoked"])
        if ours:
            self._remember(key_id, known, asked_at)
        return known

    def _remember(self, key_id: str, known: _Known | None, read_at: float) -> None:
        self._known.pop(key_id, None)
        self._unknown.pop(key_id, None)
        if known is None:
            self._unknown[key_id] = read_at
        else:
            self._known[key_id] = known, read_at
        for remembered in (self._known, self._unknown):
            if len(remembered) > REMEMBERED:
                del remembered[next(iter(remembered))]

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
            while self._used:
                await asyncio.sleep(GATHER_SECONDS)
                await self._write_now()
        finally:
            self._writing = None

    async def _write_now(self) -> None:
        used, self._used = self._used, set()
        now = time.monotonic()
        self._used_at = {key_id: at for key_id, at in self._used_at.items() if now - at < USED_SECONDS}
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


def _looked_at(task: "asyncio.Task[_Known | None]") -> None:
    """Who waits for a reading is told how it failed; of one in the background the next that has to wait will be."""
    if not task.cancelled():
        task.exception()


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


def known_id(text: str) -> str:
    """From a path; Problem 404 where it cannot name a key."""
    if not ID.fullmatch(text):
        raise no_key(text)
    return text


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
