"""The service's database, for what the kit does in transactions of its own. Async and sync engines alike."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Engine, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from saga_participant.tables import changed, immediate, insert_once, lease, now

T = TypeVar("T")


class Store:
    def __init__(self, engine: Engine | AsyncEngine) -> None:
        immediate(engine)
        self._engine = engine

    @property
    def is_async(self) -> bool:
        return isinstance(self._engine, AsyncEngine)

    @property
    def has_one_writer(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    async def run(self, work: Callable[[Session], T]) -> T:
        """What `work` returns, its transaction committed; with a sync engine it runs in a thread."""
        if isinstance(self._engine, AsyncEngine):
            async with AsyncSession(self._engine) as session, session.begin():
                return await session.run_sync(work)
        return await asyncio.to_thread(self._run_plainly, work)

    def _run_plainly(self, work: Callable[[Session], T]) -> T:
        assert isinstance(self._engine, Engine)
        with Session(self._engine) as session, session.begin():
            return work(session)


def take_lease(session: Session, name: str, owner: str, seconds: float) -> bool:
    """Whether `owner` alone does `name` for the next seconds, among all processes of the service.

    The holder has to be done by then: nobody looks after it. Taking it again prolongs it.
    """
    until = now() + seconds
    if insert_once(session, lease, {"name": name, "owner": owner, "until": until, "position": ""}):
        return True
    free = update(lease).where(lease.c.name == name, or_(lease.c.owner == owner, lease.c.until < now()))
    return changed(session, free.values(owner=owner, until=until)) == 1


def drop_leases(session: Session, owner: str) -> None:
    """Lets another process begin at once."""
    session.execute(update(lease).where(lease.c.owner == owner).values(until=0.0))


def position(session: Session, name: str) -> str:
    return session.execute(select(lease.c.position).where(lease.c.name == name)).scalar_one_or_none() or ""


def move(session: Session, name: str, owner: str, to: str) -> bool:
    """False where `owner` does not hold the lease any more; then nothing has moved."""
    mine = update(lease).where(lease.c.name == name, lease.c.owner == owner)
    return changed(session, mine.values(position=to)) == 1
