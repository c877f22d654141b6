"""What administrators do to users, and users to themselves. Each change and its line in the audit trail are one
transaction; nothing of a password stands in it.

Nobody shuts himself out: the account that one is logged in with cannot be disabled, lowered or removed by its own hand.
Where all else fails, SAGA_ADMIN_PASSWORD opens the account `admin`; while it is set, that account is not changed here.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.access import Caller, Role
from app.errors import Problem
from app.people import logins
from app.people.logins import ADMIN, Logins, Visit, is_name, plain_name
from app.people.passwords import Passwords
from app.saga.fields import shown
from app.store import accounts, login_failures, sessions
from app.store.accounts import Account
from app.store.audit import AuditEntry, record
from app.store.database import Database

CHANGES: Final = ("role", "tenant", "disabled", "password")
NAME_RULE: Final = "must be 1 to 100 letters, digits and . _ @ + -, and begin with a letter or digit"


USERS: Final = "Users are managed by the house"
"""An administrator of one tenant could make himself one of every tenant."""


def known_name(text: str) -> str:
    """Problem 404 `user-not-found` where nobody can be called so."""
    name = plain_name(text)
    if not is_name(name):
        raise Problem(404, "user-not-found", f"There is no user {shown(text)}.")
    return name


class Users:
    def __init__(self, database: Database, hashing: Passwords, who: Logins) -> None:
        self._database, self._hashing, self._logins = database, hashing, who

    async def page(self, *, limit: int, after: str | None) -> tuple[list[Account], str | None]:
        """By name, and the name to go on after."""
        async with self._database.connect() as connection:
            found = await accounts.page(connection, limit=limit, after=after)
        return found[:limit], found[limit - 1].name if len(found) > limit else None

    async def get(self, name: str) -> Account:
        """Problem 404 `user-not-found`."""
        async with self._database.connect() as connection:
            return _found(name, await accounts.get(connection, name))

    async def create(
        self, caller: Caller, name: str, role: Role, tenant: str | None, password: str, reason: str | None
    ) -> Account:
        """Problem 409 `user-exists`."""
        self._leave_admin_alone(name)
        password_hash = await self._hash(password)
        async with self._database.begin() as connection:
            account = await accounts.add(
                connection, name, role, tenant, created_by=caller.name, password_hash=password_hash
            )
            if account is None:
                raise Problem(409, "user-exists", f"There is a user {name} already.")
            await record(connection, account.belongs_to, _entry(caller, "create-user", reason, None, account))
        return account

    async def change(self, caller: Caller, name: str, wanted: Mapping[str, Any], reason: str | None) -> Account:
        """`wanted`: some of CHANGES. A new password, and to be disabled, end all sessions of the user."""
        self._leave_admin_alone(name)
        if logins.user_of(caller) == name and (wanted.keys() - {"password"}):
            raise _own(name)
        values = dict(wanted)
        if (password := values.pop("password", None)) is not None:
            values["password_hash"] = await self._hash(password)
        async with self._database.begin() as connection:
            before = _found(name, await accounts.get(connection, name, for_update=True))
            after = await accounts.change(connection, name, **values) if values else before
            if password is not None or after.disabled_at is not None:
                await sessions.end_all(connection, name)
            if password is not None:
                await login_failures.clear(connection, f"account/{name}")
            entry = _entry(caller, "change-user", reason, before, after, new_password=password is not None)
            await record(connection, after.belongs_to, entry)
        return after

    async def remove(self, caller: Caller, name: str, reason: str | None) -> None:
        self._leave_admin_alone(name)
        if logins.user_of(caller) == name:
            raise _own(name)
        async with self._database.begin() as connection:
            before = _found(name, await accounts.get(connection, name, for_update=True))
            await accounts.remove(connection, name)
            await record(connection, before.belongs_to, _entry(caller, "remove-user", reason, before, None))

    async def log_out(self, caller: Caller, name: str, reason: str | None) -> int:
        """Ends every session of the user: how many there were."""
        async with self._database.begin() as connection:
            account = _found(name, await accounts.get(connection, name, for_update=True))
            ended = await sessions.end_all(connection, name)
            after = {"sessions": ended}
            entry = AuditEntry(caller.name, "logout-everywhere", reason, None, after, caller.address, f"user/{name}")
            await record(connection, account.belongs_to, entry)
        return ended

    async def set_own_password(self, visit: Visit, old: str, new: str) -> None:
        """The other sessions of the user end. A wrong old one counts as a failed login: 401, 429."""
        name, caller = visit.user, visit.caller
        self._leave_admin_alone(name)
        await self._logins.prove(name, old, logins.Client(caller.address))
        password_hash = await self._hash(new)
        async with self._database.begin() as connection:
            account = _found(name, await accounts.get(connection, name, for_update=True))
            await accounts.change(connection, name, password_hash=password_hash)
            await sessions.end_all(connection, name, but=logins.digest_of(visit.token))
            entry = _entry(caller, "change-user", None, account, account, new_password=True)
            await record(connection, account.belongs_to, entry)

    async def _hash(self, password: str) -> str:
        with self._hashing.place():
            return await self._hashing.hash(password)

    def _leave_admin_alone(self, name: str) -> None:
        if name == ADMIN and self._logins.admin_is_set:
            detail = (
                "The user `admin` is as SAGA_ADMIN_PASSWORD has it: change that setting and start the API again,"
                " or take it away and then change the user."
            )
            raise Problem(409, "user-of-a-setting", detail)


def _found(name: str, account: Account | None) -> Account:
    if account is None:
        raise Problem(404, "user-not-found", f"There is no user {name[:100]!r}.")
    return account


def _own(name: str) -> Problem:
    detail = f"You are logged in as {name}. Let another administrator do this, or a key: so nobody shuts himself out."
    return Problem(409, "own-account", detail)


def _entry(
    caller: Caller,
    action: str,
    reason: str | None,
    before: Account | None,
    after: Account | None,
    *,
    new_password: bool = False,
) -> AuditEntry:
    account = after or before
    assert account is not None
    told = None if after is None else after.audited | ({"new_password": True} if new_password else {})
    return AuditEntry(
        caller.name,
        action,
        reason,
        None if before is None else before.audited,
        told,
        caller.address,
        f"user/{account.name}",
    )
