"""API keys as they are stored: of the secret only its SHA-256. Who made, rotated or revoked one stands in the audit."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, insert, or_, select, text, tuple_, update

from app.access import Caller, Scope
from app.store.audit import AuditEntry, record
from app.store.database import Database, to_micros, to_moment
from app.store.paging import Place
from app.store.tables import api_key as table
from app.store.tables import of_tenant

_TOUCH: Final = text("UPDATE api_key SET last_used_at = now() WHERE id = ANY(:ids)")
_SHOWN: Final = (
    table.c.id,
    table.c.scopes,
    table.c.tenant,
    table.c.note,
    table.c.created_at,
    table.c.created_by,
    table.c.expires_at,
    table.c.revoked_at,
    table.c.last_used_at,
    table.c.replaces,
)
_TIMES: Final = ("created_at", "expires_at", "revoked_at", "last_used_at")
_SECONDS_LEFT: Final = func.extract("epoch", table.c.expires_at - func.now()).label("seconds_left")


class ApiKeys:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- for the door ---

    async def read(self, key_id: str) -> Mapping[str, Any] | None:
        """{digest, scopes, tenant, seconds_left, revoked}; `seconds_left` is None where it does not expire."""
        statement = select(
            table.c.digest,
            table.c.scopes,
            table.c.tenant,
            _SECONDS_LEFT,
            table.c.revoked_at.is_not(None).label("revoked"),
        ).where(table.c.id == key_id)
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return None if row is None else {str(name): value for name, value in row.items()}

    async def touch(self, ids: Collection[str]) -> None:
        """They were used."""
        async with self._database.begin() as connection:
            await connection.execute(_TOUCH, {"ids": sorted(ids)})

    # --- for people ---

    async def page(
        self, tenant: str | None, *, limit: int, after: Place | None = None
    ) -> tuple[list[dict[str, Any]], Place | None]:
        """Newest first, without secrets; times in microseconds."""
        statement = select(*_SHOWN).where(of_tenant(table, tenant))
        if after is not None:
            statement = statement.where(tuple_(table.c.created_at, table.c.id) < (to_moment(after.at), after.id.hex))
        statement = statement.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit + 1)
        async with self._database.connect() as connection:
            rows = [_plain(row) for row in (await connection.execute(statement)).mappings()]
        found = rows[:limit]
        more = len(rows) > limit
        return found, Place(found[-1]["created_at"], UUID(found[-1]["id"])) if more else None

    async def get(self, key_id: str, tenant: str | None) -> dict[str, Any] | None:
        statement = select(*_SHOWN).where(table.c.id == key_id, of_tenant(table, tenant))
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return None if row is None else _plain(row)

    async def create(
        self,
        key_id: str,
        digest: bytes,
        caller: Caller,
        *,
        scopes: Sequence[Scope],
        tenant: str,
        expires_in: float | None,
        note: str | None,
        reason: str | None,
    ) -> dict[str, Any]:
        statement = (
            insert(table)
            .values(
                id=key_id,
                digest=digest,
                scopes=list(scopes),
                tenant=tenant,
                note=note,
                created_by=caller.name,
                expires_at=None if expires_in is None else _from_now(expires_in),
            )
            .returning(*_SHOWN)
        )
        async with self._database.begin() as connection:
            made = _plain((await connection.execute(statement)).mappings().one())
            await record(connection, tenant, _entry(caller, "create-key", key_id, reason, None, made))
        return made

    async def rotate(
        self, key_id: str, new_id: str, digest: bytes, caller: Caller, *, overlap_seconds: float, reason: str | None
    ) -> dict[str, Any] | None:
        """A new key with the rights, the tenant and the length of life of the old one, which ends after the overlap.

        None where there is none that holds.
        """
        holds = (
            table.c.id == key_id,
            of_tenant(table, caller.sees),
            table.c.revoked_at.is_(None),
            or_(table.c.expires_at.is_(None), table.c.expires_at > func.now()),
        )
        end = func.least(func.coalesce(table.c.expires_at, _from_now(overlap_seconds)), _from_now(overlap_seconds))
        async with self._database.begin() as connection:
            row = (await connection.execute(select(table).where(*holds).with_for_update())).mappings().one_or_none()
            if row is None:
                return None
            life = None if row["expires_at"] is None else row["expires_at"] - row["created_at"]
            made_statement = (
                insert(table)
                .values(
                    id=new_id,
                    digest=digest,
                    scopes=row["scopes"],
                    tenant=row["tenant"],
                    note=row["note"],
                    created_by=caller.name,
                    expires_at=None if life is None else func.now() + life,
                    replaces=key_id,
                )
                .returning(*_SHOWN)
            )
            made = _plain((await connection.execute(made_statement)).mappings().one())
            ending = update(table).where(table.c.id == key_id).values(expires_at=end).returning(*_SHOWN)
            old = _plain((await connection.execute(ending)).mappings().one())
            entry = _entry(caller, "rotate-key", key_id, reason, _plain({name: row[name] for name in old}), old)
            await record(connection, row["tenant"], entry)
            await record(connection, row["tenant"], _entry(caller, "create-key", new_id, reason, None, made))
        return made

    async def revoke(self, key_id: str, caller: Caller, reason: str | None) -> dict[str, Any] | None:
        """The key as it is then; revoked again it stays as it was. None where there is none."""
        this = (table.c.id == key_id, of_tenant(table, caller.sees))
        async with self._database.begin() as connection:
            row = (await connection.execute(select(*_SHOWN).where(*this).with_for_update())).mappings().one_or_none()
            if row is None or row["revoked_at"] is not None:
                return None if row is None else _plain(row)
            statement = update(table).where(*this).values(revoked_at=func.now()).returning(*_SHOWN)
            gone = _plain((await connection.execute(statement)).mappings().one())
            await record(connection, row["tenant"], _entry(caller, "revoke-key", key_id, reason, _plain(row), gone))
        return gone


def _from_now(seconds: float) -> Any:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _entry(
    caller: Caller, action: str, key_id: str, reason: str | None, before: Any, after: Mapping[str, Any]
) -> AuditEntry:
    return AuditEntry(caller.name, action, reason, before, after, caller.address, f"key/{key_id}")


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Times in microseconds."""
    plain = {str(name): value for name, value in row.items()}
    return plain | {name: None if plain[name] is None else to_micros(plain[name]) for name in _TIMES}
