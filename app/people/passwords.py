"""Passwords: argon2id with the parameters of RFC 9106 (the second recommendation), a few at a time.

A hash takes 64 MiB and a tenth of a second on purpose, and anybody may ask for one. So a process computes two at a
time, lets some more wait, and sends the rest away: a flood of logins costs patience, not memory.
"""

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import Problem
from app.saga.jsonable import text_fault

SHORTEST: Final = 12
LONGEST: Final = 1024
AT_ONCE: Final = 2
WAITING: Final = 16

T = TypeVar("T")


def fault(password: str, name: str) -> str | None:
    """What keeps it from being a password. NIST SP 800-63B: length counts, and no rules of composition."""
    if len(password) < SHORTEST:
        return f"must have {SHORTEST} characters or more; a few words that you can remember are fine"
    if len(password) > LONGEST:
        return f"must have at most {LONGEST} characters"
    if password.casefold() == name.casefold():
        return "must not be the user's name"
    return text_fault(password)


def made() -> str:
    """A password nobody has to remember: 120 bits."""
    return secrets.token_urlsafe(15)


def same(given: str, known: str) -> bool:
    """In constant time, whatever their lengths."""
    return hmac.compare_digest(hashlib.sha256(_bytes(given)).digest(), hashlib.sha256(_bytes(known)).digest())


class Verdict(NamedTuple):
    right: bool
    outdated: bool
    """Right, and hashed with other parameters than today's."""


class Passwords:
    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(AT_ONCE, "passwords")
        self._placed = 0
        self._nobodys: str | None = None

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place among those that are computed or wait for it. Problem 503 `logins-busy`."""
        if self._placed >= AT_ONCE + WAITING:
            detail = "Too many people log in at this moment. Try again in a few seconds."
            raise Problem(503, "logins-busy", detail, headers={"Retry-After": "3"})
        self._placed += 1
        try:
            yield
        finally:
            self._placed -= 1

    async def hash(self, password: str) -> str:
        """To be called with a place."""
        return await self._run(lambda: self._hasher.hash(_bytes(password)))

    async def verify(self, known: str | None, password: str) -> Verdict:
        """To be called with a place. Where there is no hash to compare with, it takes as long and says no."""
        return await self._run(lambda: self._verify(known, password))

    def _verify(self, known: str | None, password: str) -> Verdict:
        if self._nobodys is None:
            self._nobodys = self._hasher.hash(secrets.token_bytes(16))
        try:
            self._hasher.verify(known or self._nobodys, _bytes(password))
        except (VerificationError, InvalidHashError):
            return Verdict(right=False, outdated=False)
        return Verdict(known is not None, known is not None and self._hasher.check_needs_rehash(known))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def _bytes(password: str) -> bytes:
    """One password has one spelling, whichever keyboard it comes from."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
