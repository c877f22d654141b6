"""The people who may log in. Whoever changes them brings the transaction, with a line of the audit trail in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.access import NO_TENANT, Role
from app.store.tables import account as table

_COLUMNS: Final = tuple(table.columns)


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    role: Role
    tenant: str | None
    """None: the house's own, who look at every tenant."""
    created_by: str
    created_at: datetime
    password_hash: str | None = field(default=None, repr=False)
    oidc_subject: str | None = None
    disabled_at: datetime | None = None
    last_login_at: datetime | None = None

    @property
    def audited(self) -> dict[str, Any]:
        """As the audit trail tells it; nothing of the password."""
        return {"role": self.role, "tenant": self.tenant, "disabled": self.disabled_at is not None}

    @property
    def belongs_to(self) -> str:
        """The tenant that its lines of the audit trail belong to."""
        return self.tenant or NO_TENANT


async def get(connection: AsyncConnection, name: str, *, for_update: bool = False) -> Account | None:
    statement = select(*_COLUMNS).where(table.c.name == name)
    if for_update:
        statement = statement.with_for_update()
    row = (await connection.execute(statement)).mappings().first()
    return None if row is None else _account(row)


async def of_subject(connection: AsyncConnection, oidc_subject: str) -> Account | None:
    statement = select(*_COLUMNS).where(table.c.oidc_subject == oidc_subject).with_for_update()
    row = (await connection.execute(statement)).mappings().first()
    return None if row is None else _account(row)


async def page(connection: AsyncConnection, *, limit: int, after: str | None = None) -> list[Account]:
    """By name; one more than `limit` where there are more."""
    statement = select(*_COLUMNS).order_by(table.c.name).limit(limit + 1)
    if after is not None:
        statement = statement.where(table.c.name > after)
    return [_account(row) for row in (await connection.execute(statement)).mappings()]


async def add(
    connection: AsyncConnection,
    name: str,
    role: Role,
    tenant: str | None,
    *,
    created_by: str,
    password_hash: str | None = None,
    oidc_subject: str | None = None,
) -> Account | None:
    """None where the name or the subject is taken."""
    statement = (
        insert(table)
        .values(
            name=name,
            role=role,
            tenant=tenant,
            created_by=created_by,
            password_hash=password_hash,
            oidc_subject=oidc_subject,
        )
        .on_conflict_do_nothing()
        .returning(*_COLUMNS)
    )
    row = (await connection.execute(statement)).mappings().first()
    return None if row is None else _account(row)


async def change(connection: AsyncConnection, name: str, **values: Any) -> Account:
    """Columns of the table; `disabled` and `logged_in` in place of their moments."""
    if (disabled := values.pop("disabled", None)) is not None:
        values["disabled_at"] = func.coalesce(table.c.disabled_at, func.now()) if disabled else None
    if values.pop("logged_in", False):
        values["last_login_at"] = func.now()
    statement = update(table).where(table.c.name == name).values(**values).returning(*_COLUMNS)
    return _account((await connection.execute(statement)).mappings().one())


async def remove(connection: AsyncConnection, name: str) -> None:
    """With all its sessions."""
    await connection.execute(delete(table).where(table.c.name == name))


def _account(row: Mapping[Any, Any]) -> Account:
    return Account(**{column.name: row[column.name] for column in _COLUMNS})
