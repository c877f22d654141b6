"""Definitions by name and version. A version never changes, so it is read once per process."""

import time
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import distinct_on, insert

from app.access import NO_TENANT
from app.saga.definition import Definition, digest, parse_definition, to_document
from app.store.audit import AuditEntry, record
from app.store.database import Database
from app.store.tables import definition as table

LATEST_SECONDS: Final = 1
"""For so long a process may start sagas of a version that another process has just replaced."""

UNKNOWN_SECONDS: Final = 0.1
"""An event that nobody is known to name is looked for again, but not more often than this."""

_CHOREOGRAPHIES: Final = text("""
    SELECT name, max(version) AS newest, array_agg(version ORDER BY version) FILTER (
        WHERE document ->> 'type' = 'choreography') AS versions
    FROM definition GROUP BY name HAVING bool_or(document ->> 'type' = 'choreography')""")


@dataclass(frozen=True, slots=True)
class Follower:
    """A choreography that names an event, in some version."""

    definition: Definition
    """Its newest choreographed version: that says what saga an event belongs to."""
    version: int
    opens: bool
    """Whether the event may open a saga: the newest version is a choreography and names it."""


class Definitions:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._versions: dict[tuple[str, int], Definition] = {}
        self._latest: dict[str, tuple[int, float]] = {}
        self._followers: dict[str, list[Follower]] = {}
        self._followers_at = float("-inf")

    async def get(self, name: str, version: int) -> Definition:
        """LookupError where there is none."""
        found = self._versions.get((name, version))
        if found is None:
            statement = select(table.c.document).where(table.c.name == name, table.c.version == version)
            async with self._database.connect() as connection:
                document = (await connection.execute(statement)).scalar_one_or_none()
            if document is None:
                raise LookupError(f"no version {version} of definition {name!r}")
            found = self._versions[name, version] = parse_definition(document, None)
        return found

    async def latest(self, name: str) -> int | None:
        """The newest version, at most a second old."""
        known = self._latest.get(name)
        if known is not None:
            if time.monotonic() - known[1] < LATEST_SECONDS:
                return known[0]
            self._latest[name] = (known[0], time.monotonic())  # one caller asks; the others go on with what is known
        statement = select(func.max(table.c.version)).where(table.c.name == name)
        async with self._database.connect() as connection:
            version: int | None = (await connection.execute(statement)).scalar_one()
        if version is not None:
            self._latest[name] = (version, time.monotonic())
        return version

    async def followers(self, event_type: str) -> list[Follower]:
        """The choreographies that name this event in any version, at most a second old."""
        found = self._followers.get(event_type, [])
        if time.monotonic() - self._followers_at > (LATEST_SECONDS if found else UNKNOWN_SECONDS):
            asked_at = time.monotonic()
            self._followers = await self._read_followers()
            self._followers_at = asked_at
            found = self._followers.get(event_type, [])
        return found

    async def _read_followers(self) -> dict[str, list[Follower]]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(_CHOREOGRAPHIES)).all()
        found: dict[str, list[Follower]] = {}
        for name, newest, versions in rows:
            definition = await self.get(name, versions[-1])
            current = _named(definition) if versions[-1] == newest else frozenset()
            every = frozenset[str]().union(*[_named(await self.get(name, version)) for version in versions])
            for event_type in every:
                follower = Follower(definition, versions[-1], event_type in current)
                found.setdefault(event_type, []).append(follower)
        return found

    async def register(
        self, definition: Definition, audit: AuditEntry | None = None, tenant: str = NO_TENANT
    ) -> tuple[int, bool]:
        """(version, whether it is new). Content equal to the newest version's changes nothing.

        `audit`: who does it, of that tenant; what it was before and is then is filled in here.
        """
        name, content = definition.name, digest(definition)
        newest = (
            select(table.c.version, table.c.digest)
            .where(table.c.name == name)
            .order_by(table.c.version.desc())
            .limit(1)
        )
        while True:
            async with self._database.begin() as connection:
                row = (await connection.execute(newest)).one_or_none()
                if row is not None and row.digest == content:
                    return row.version, False
                version: int = 1 if row is None else row.version + 1
                # Two that register at once: one gets the number, the other looks again.
                statement = (
                    insert(table)
                    .values(name=name, version=version, digest=content, document=to_document(definition))
                    .on_conflict_do_nothing()
                )
                if (await connection.execute(statement)).rowcount:
                    if audit is not None:
                        before = None if row is None else {"version": row.version}
                        await record(connection, tenant, replace(audit, before=before, after={"version": version}))
                    self._latest.pop(name, None)
                    self._followers_at = float("-inf")
                    return version, True

    async def names(self) -> list[dict[str, Any]]:
        """Newest version of each, by name: {name, version, created_at}."""
        statement = (
            select(table.c.name, table.c.version, table.c.created_at)
            .ext(distinct_on(table.c.name))
            .order_by(table.c.name, table.c.version.desc())
        )
        async with self._database.connect() as connection:
            return [dict(row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001 - its public name

    async def versions(self, name: str) -> list[dict[str, Any]]:
        """{version, created_at} of each, newest first."""
        statement = (
            select(table.c.version, table.c.created_at).where(table.c.name == name).order_by(table.c.version.desc())
        )
        async with self._database.connect() as connection:
            return [dict(row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001


def _named(definition: Definition) -> frozenset[str]:
    """Every event that the choreography names."""
    named: set[str | None] = {definition.started_by}
    for step in definition.steps:
        if (events := step.events) is not None:
            named |= {events.trigger, events.succeeded, events.failed, events.compensated}
    return frozenset(event for event in named if event is not None)
