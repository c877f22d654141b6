"""Who may come in, and who is in.

A session is a random token of 256 bits. Its SHA-256 is kept and nothing else of it, so a copy of the database opens
nothing. Each login makes a new one, whatever the browser brought. It ends after SAGA_SESSION_FOR, or after
SAGA_SESSION_IDLE without a request, or with its account, or when somebody ends it. The account's row is read with each
request: who is disabled is out, and a changed role counts, from the next request on.

The user `admin` has the password SAGA_ADMIN_PASSWORD while that is set, whatever else was set before: it is the way
back in for whoever runs the house. Another value ends the sessions of `admin` that began with the old one.
"""

import asyncio
import hashlib
import ipaddress
import math
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app import access
from app.access import Caller, Role
from app.errors import Problem
from app.people import passwords
from app.people.passwords import Passwords
from app.settings import Settings
from app.store import accounts, login_failures, sessions
from app.store.accounts import Account
from app.store.audit import AuditEntry, record
from app.store.database import Database
from app.store.login_failures import Limit, Waits
from app.store.sessions import Open

ADMIN: Final = "admin"
SEEN_SECONDS: Final = 60.0
"""Requests of one session write down that it was seen at most once in so long."""
ACCOUNT_FORGETS_SECONDS: Final = 600.0
ADDRESS_FORGETS_SECONDS: Final = 60.0
AN_ADDRESS_IS_MANY: Final = 10
"""A company may stand behind one address: it has so many times the attempts of an account, and waits as much less."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Client:
    """Where a login comes from."""

    address: str | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who is logged in."""

    user: str
    caller: Caller
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    of_hash: str | None
    """The hash that the password was compared with."""
    new_hash: str | None
    """In its place, where that is not of today."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who has come, as an issuer of OpenID Connect tells it and the settings take it."""

    subject: str
    """Issuer and subject: the one thing that stays."""
    name: str
    role: Role
    tenant: str | None


def plain_name(text: str) -> str:
    """Names are written in small letters, however they are typed."""
    return text.strip().lower()


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def user_of(caller: Caller) -> str | None:
    """The user's name; None where a key asks."""
    return caller.name.removeprefix("user:") if caller.role is not None else None


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Logins:
    def __init__(self, database: Database, settings: Settings, hashing: Passwords) -> None:
        self._database, self._settings, self._hashing = database, settings, hashing
        secret = settings.admin_password
        self._admin_password = secret.get_secret_value() if secret is not None else ""
        self._admin_is_current = not self._admin_password
        self._admin_lock = asyncio.Lock()

    @property
    def admin_is_set(self) -> bool:
        """Whether the password of `admin` is a setting."""
        return bool(self._admin_password)

    # --- coming in ----------------------------------------------------------------------------------------------

    async def log_in(self, name: str, password: str, client: Client) -> str:
        """The token of a new session. Problem 401 `login-failed`, 429 `login-delayed`, 503 `logins-busy`."""
        name = plain_name(name)
        proof = await self.prove(name, password, client)
        async with self._database.begin() as connection:
            if name == ADMIN and self._admin_password:
                await self._keep_admin(connection, proof.new_hash)
            else:
                account = await accounts.get(connection, name, for_update=True)
                if account is None or account.password_hash != proof.of_hash:
                    raise _wrong()  # it was changed while we looked at it
                if proof.new_hash is not None:
                    await accounts.change(connection, name, password_hash=proof.new_hash)
            return await self.open(connection, name, client)

    async def prove(self, name: str, password: str, client: Client) -> Proof:
        """That somebody knows the password of a user. Problems as those of `log_in`."""
        limits = self._limits(name, client)
        with self._hashing.place():
            failures = await self._count(limits)
            account = await self._account(name)
            usable = None if account is None or account.disabled_at is not None else account.password_hash
            verdict = await self._hashing.verify(usable, password)
            right, renewed = verdict.right, verdict.outdated
            if name == ADMIN and self._admin_password:
                renewed = not verdict.right or verdict.outdated
                right = passwords.same(password, self._admin_password)
            if not right:
                await self._refuse(name, account, client, limits, failures)
            new_hash = await self._hashing.hash(password) if renewed else None
        async with self._database.begin() as connection:
            for limit in limits:
                if limit.subject.startswith("account/"):
                    await login_failures.clear(connection, limit.subject)
                else:
                    await login_failures.forgive(connection, limit.subject)
        return Proof(usable, new_hash)

    async def admit(self, identity: Identity, client: Client) -> str:
        """The token of a new session of whom an issuer of OpenID Connect has named. Problem 403 `user-disabled`.

        The account is made at the first login, and has the role and tenant that were told at the last.
        """
        async with self._database.begin() as connection:
            account = await accounts.of_subject(connection, identity.subject)
            if account is None:
                account = await self._make(connection, identity, client)
            elif (account.role, account.tenant) != (identity.role, identity.tenant):
                before = account
                account = await accounts.change(connection, before.name, role=identity.role, tenant=identity.tenant)
                await record(connection, account.belongs_to, _by_issuer("change-user", client, before, account))
            if account.disabled_at is not None:
                raise Problem(403, "user-disabled", f"The user {account.name} is disabled. Ask who runs this house.")
            return await self.open(connection, account.name, client)

    async def _make(self, connection: AsyncConnection, identity: Identity, client: Client) -> Account:
        """Under its own name if that is free: it never comes to an account that somebody else has."""
        own = f"{identity.name}.{hashlib.sha256(identity.subject.encode()).hexdigest()[:12]}"
        for name in (own,) if identity.name == ADMIN else (identity.name, own):
            account = await accounts.add(
                connection, name, identity.role, identity.tenant, created_by="oidc", oidc_subject=identity.subject
            )
            if account is not None:
                await record(connection, account.belongs_to, _by_issuer("create-user", client, None, account))
                return account
        account = await accounts.of_subject(connection, identity.subject)  # two first logins at once
        if account is None:
            raise Problem(409, "user-exists", f"There is a user {own} already, who is somebody else.")
        return account

    async def open(self, connection: AsyncConnection, name: str, client: Client) -> str:
        """Begins a session of an account, in a transaction of the login. Problem 401 where it is disabled."""
        token = secrets.token_urlsafe(32)
        account = await accounts.get(connection, name, for_update=True)
        if account is None or account.disabled_at is not None:
            raise _wrong()
        await accounts.change(connection, name, logged_in=True)
        await sessions.add(
            connection,
            digest_of(token),
            name,
            seconds=self._settings.session_for,
            address=client.address,
            agent=client.agent,
        )
        await record(connection, account.belongs_to, _entry(name, "login", client.address))
        return token

    def _limits(self, name: str, client: Client) -> list[Limit]:
        free, longest = self._settings.login_attempts, self._settings.login_delay_max
        limits = []
        if is_name(name):
            limits.append(Limit(f"account/{name}", free, longest, ACCOUNT_FORGETS_SECONDS))
        if (network := _network(client.address)) is not None:
            many = AN_ADDRESS_IS_MANY
            limits.append(Limit(f"address/{network}", free * many, longest / many, ADDRESS_FORGETS_SECONDS))
        return limits

    async def _count(self, limits: list[Limit]) -> list[int]:
        """Problem 429 `login-delayed`: the password is not looked at."""
        try:
            async with self._database.begin() as connection:
                await login_failures.purge(
                    connection, max((limit.most * limit.forget + limit.longest for limit in limits), default=0)
                )
                return await login_failures.count(connection, limits)
        except Waits as wait:
            seconds = max(1, math.ceil(wait.seconds))
            detail = (
                f"Too many logins have failed. Try again in {_spoken(seconds)}; what is tried before does not count."
            )
            headers = {"Retry-After": str(seconds)}
            raise Problem(429, "login-delayed", detail, headers=headers, seconds=seconds) from None

    async def _account(self, name: str) -> Account | None:
        if not is_name(name):
            return None
        async with self._database.connect() as connection:
            return await accounts.get(connection, name)

    async def _refuse(
        self, name: str, account: Account | None, client: Client, limits: list[Limit], failures: list[int]
    ) -> None:
        """Raises Problem 401. A line in the audit trail only where a wait follows: so nobody can flood it."""
        waits = [limit.wait(count) for limit, count in zip(limits, failures, strict=True)]
        if any(waits):
            # An unknown name is not written down: it may be a password that was typed into the wrong field.
            after = {"failures": max(failures), "wait_seconds": max(waits), "name_known": account is not None}
            tenant = access.NO_TENANT if account is None else account.belongs_to
            subject = None if account is None else f"user/{name}"
            entry = AuditEntry("anonymous", "login-failed", None, None, after, client.address, subject)
            async with self._database.begin() as connection:
                await record(connection, tenant, entry)
        raise _wrong()

    # --- being in -----------------------------------------------------------------------------------------------

    async def find(self, token: str, address: str | None, *, seen: bool = True) -> Visit | None:
        """Whose session it is, as they are now; None where it has ended. `seen`: whether this is a sign of life."""
        if not _TOKEN.fullmatch(token):
            return None
        digest, idle = digest_of(token), self._settings.session_idle
        renew = min(SEEN_SECONDS, idle / 4)
        found = await self._find(digest, idle, renew)
        if found is not None and found.name == ADMIN and not self._admin_is_current:
            await self._compare_admin()
            found = await self._find(digest, idle, renew)
        if found is not None and found.stale and seen:
            async with self._database.begin() as connection:
                await sessions.seen(connection, digest, renew=renew)
        if found is None:
            return None
        return Visit(found.name, access.of_user(found.name, found.role, found.tenant, address), token)

    async def _find(self, digest: bytes, idle: float, renew: float) -> Open | None:
        async with self._database.connect() as connection:
            return await sessions.find(connection, digest, idle=idle, renew=renew)

    async def log_out(self, visit: Visit) -> None:
        async with self._database.begin() as connection:
            if await sessions.end(connection, digest_of(visit.token)):
                await record(connection, visit.caller.tenant, _entry(visit.user, "logout", visit.caller.address))

    async def log_out_everywhere(self, visit: Visit) -> int:
        """How many sessions there were, this one among them."""
        async with self._database.begin() as connection:
            ended = await sessions.end_all(connection, visit.user)
            entry = _entry(visit.user, "logout-everywhere", visit.caller.address, {"sessions": ended})
            await record(connection, visit.caller.tenant, entry)
        return ended

    # --- the admin of the settings ------------------------------------------------------------------------------

    async def _keep_admin(self, connection: AsyncConnection, new_hash: str | None) -> None:
        """The account `admin` as the setting has it: made, put right, and without sessions of an older password."""
        account = await accounts.get(connection, ADMIN, for_update=True)
        if account is None:
            await accounts.add(connection, ADMIN, "admin", None, created_by="setting", password_hash=new_hash)
            return
        if new_hash is not None:
            await accounts.change(connection, ADMIN, password_hash=new_hash)
            await sessions.end_all(connection, ADMIN)
        right: Role = "admin"
        if account.role != right or account.tenant is not None or account.disabled_at is not None:
            await accounts.change(connection, ADMIN, role=right, tenant=None, disabled=False)

    async def _compare_admin(self) -> None:
        """Once in a process: whether the setting is still what the sessions of `admin` began with."""
        async with self._admin_lock:
            if self._admin_is_current:
                return
            account = await self._account(ADMIN)
            with self._hashing.place():
                kept = None if account is None else account.password_hash
                verdict = await self._hashing.verify(kept, self._admin_password)
                new_hash = None if verdict.right else await self._hashing.hash(self._admin_password)
            if new_hash is not None:
                async with self._database.begin() as connection:
                    await self._keep_admin(connection, new_hash)
            self._admin_is_current = True


def _entry(name: str, action: str, address: str | None, after: dict[str, int] | None = None) -> AuditEntry:
    return AuditEntry(f"user:{name}", action, None, None, after, address, f"user/{name}")


def _by_issuer(action: str, client: Client, before: Account | None, after: Account) -> AuditEntry:
    told, name = None if before is None else before.audited, after.name
    return AuditEntry(f"user:{name}", action, "OpenID Connect", told, after.audited, client.address, f"user/{name}")


def _wrong() -> Problem:
    """The same for a name that is not known, an account that is disabled, and a password that is wrong."""
    return Problem(401, "login-failed", "The name or the password is wrong, or the user may not log in.")


def _network(address: str | None) -> str | None:
    """One customer has one IPv4 address, or 2⁶⁴ of IPv6."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))


def _spoken(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{math.ceil(seconds / 60)} minutes"
