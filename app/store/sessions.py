"""Who is logged in. Of a session's token only the SHA-256 is kept. All time is the database's."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.access import Role
from app.store.tables import session as table

LONGEST_AGENT: Final = 300

_FIND: Final = text("""
    SELECT account.name, account.role, account.tenant,
           session.seen_at < now() - make_interval(secs => :renew) AS stale
    FROM session JOIN account ON account.name = session.account
    WHERE session.digest = :digest
      AND session.expires_at > now() AND session.seen_at > now() - make_interval(secs => :idle)
      AND account.disabled_at IS NULL""")
_SEEN: Final = text("""
    UPDATE session SET seen_at = now()
    WHERE digest = :digest AND seen_at < now() - make_interval(secs => :renew)""")
_PURGE: Final = text("""
    DELETE FROM session WHERE digest IN (SELECT digest FROM session WHERE expires_at < now() LIMIT 100)""")


@dataclass(frozen=True, slots=True)
class Open:
    """A session that holds, and its account as it is now."""

    name: str
    role: Role
    tenant: str | None
    stale: bool
    """Whether it is time to write down that it was seen."""


async def find(connection: AsyncConnection, digest: bytes, *, idle: float, renew: float) -> Open | None:
    row = (await connection.execute(_FIND, {"digest": digest, "idle": idle, "renew": renew})).one_or_none()
    return None if row is None else Open(row.name, row.role, row.tenant, row.stale)


async def seen(connection: AsyncConnection, digest: bytes, *, renew: float) -> None:
    await connection.execute(_SEEN, {"digest": digest, "renew": renew})


async def add(
    connection: AsyncConnection, digest: bytes, account: str, *, seconds: float, address: str | None, agent: str | None
) -> None:
    """Those long over are taken away on the way."""
    await connection.execute(_PURGE)
    await connection.execute(
        insert(table).values(
            digest=digest,
            account=account,
            expires_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds),
            address=address,
            user_agent=None if agent is None else agent[:LONGEST_AGENT].replace("\0", ""),
        )
    )


async def end(connection: AsyncConnection, digest: bytes) -> bool:
    """Whether there was one."""
    return (await connection.execute(delete(table).where(table.c.digest == digest))).rowcount > 0


async def end_all(connection: AsyncConnection, account: str, *, but: bytes | None = None) -> int:
    """Those of one account; how many there were."""
    statement = delete(table).where(table.c.account == account)
    if but is not None:
        statement = statement.where(table.c.digest != but)
    return (await connection.execute(statement)).rowcount
