"""What an operator sees before any single saga: what needs a person, in groups, and how many there are of what.

Every question is bounded, however many sagas there are: groups are made of the newest `LOOKED_AT` that need attention,
and nobody counts beyond `COUNTED`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Select, and_, func, literal, literal_column, select, text, union_all

from app.saga.state import FORMAT, Micros, SagaState
from app.saga.trouble import UNDOING
from app.store.database import Database
from app.store.definitions import Definitions
from app.store.listing import Filter
from app.store.tables import saga as table

LOOKED_AT: Final = 5000
COUNTED: Final = 1000
ATTENTION: Final = "attention"

_OVERDUE: Final = text("""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min(wake_at)), 0)::float8 FROM saga
    WHERE wake_at < now()""")


@dataclass(frozen=True, slots=True)
class Group:
    """Sagas that need attention for the same cause."""

    saga: str
    step: str | None
    service: str | None
    undoing: bool
    error: str
    """The code and the status, as `Filter.error` takes it."""
    message: str
    """Of the newest of them."""
    count: int
    oldest: Micros
    """Since when the first of them needs attention."""


@dataclass(frozen=True, slots=True)
class Groups:
    found: list[Group]
    looked_at: int
    all: int
    """Sagas that need attention; more than `looked_at` where not all were looked at."""


class Overview:
    def __init__(self, database: Database, definitions: Definitions) -> None:
        self._database, self._definitions = database, definitions

    async def groups(self, tenant: str | None) -> Groups:
        """The largest first."""
        needy = Filter(tenant, attention=True).conditions()
        newest = (
            select(
                table.c.definition,
                table.c.version,
                table.c.blamed_step,
                table.c.state.in_(UNDOING).label("undoing"),
                table.c.trouble,
                table.c.told,
                literal_column("(saga.document #>> '{attention,since}')::bigint").label("since"),
            )
            .where(*needy, table.c.format <= FORMAT)
            .order_by(table.c.created_at.desc(), table.c.id.desc())
            .limit(LOOKED_AT)
            .cte("newest")
        )
        columns = newest.c
        key = (columns.definition, columns.blamed_step, columns.undoing, columns.trouble)
        grouped = select(
            *key,
            func.max(columns.version).label("version"),
            func.count().label("number"),
            func.min(columns.since).label("oldest"),
            literal_column("(array_agg(split_part(told, chr(10), 1) ORDER BY since DESC))[1]").label("message"),
        ).group_by(*key)
        async with self._database.connect() as connection:
            rows = (await connection.execute(grouped)).all()
            looked_at = sum(row.number for row in rows)
            every = looked_at
            if looked_at == LOOKED_AT:
                counted = select(func.count()).select_from(table).where(*needy)
                every = (await connection.execute(counted)).scalar_one()
        found = [
            Group(
                row.definition,
                row.blamed_step,
                await self._service(row.definition, row.version, row.blamed_step),
                row.undoing,
                row.trouble or "unknown",
                row.message or "",
                row.number,
                row.oldest or 0,
            )
            for row in rows
        ]
        return Groups(sorted(found, key=lambda group: (-group.count, group.oldest)), looked_at, every)

    async def _service(self, name: str, version: int, step: str | None) -> str | None:
        definition = await self._definitions.get(name, version)
        position = None if step is None else definition.index.get(step)
        return None if position is None else definition.steps[position].service

    async def counts(self, wanted: Filter) -> dict[str, int]:
        """By state, and of those that need attention, how many match; more than `COUNTED` is `COUNTED` + 1.

        The filter's own states and attention say what is shown, not what is counted. Nothing where the search is for a
        label or for what went wrong and more than `COUNTED` match in all: no index knows those by state.
        """
        wanted = replace(wanted, states=(), attention=None)
        if wanted.narrow:
            return await self._counts_of_few(wanted)
        cases = {str(state): replace(wanted, states=[str(state)]) for state in SagaState}
        cases[ATTENTION] = replace(wanted, attention=True)
        statement = union_all(*(_capped(name, case) for name, case in cases.items()))
        async with self._database.connect() as connection:
            return {row.what: row.number for row in await connection.execute(statement)}

    async def _counts_of_few(self, wanted: Filter) -> dict[str, int]:
        """All that match, read once: state by state PostgreSQL would look for them among all of that state."""
        some = select(table.c.state, table.c.attention).where(*wanted.conditions()).limit(COUNTED + 1).subquery()
        needy = func.count().filter(some.c.attention)
        by_state = select(some.c.state, func.count().label("number"), needy.label("needy")).group_by(some.c.state)
        async with self._database.connect() as connection:
            rows = (await connection.execute(by_state)).all()
        if sum(row.number for row in rows) > COUNTED:
            return {}
        none = dict.fromkeys(map(str, SagaState), 0)
        return {**none, **{row.state: row.number for row in rows}, ATTENTION: sum(row.needy for row in rows)}

    async def overdue_seconds(self) -> float:
        """How late the sweep is."""
        async with self._database.connect() as connection:
            seconds: float = (await connection.execute(_OVERDUE)).scalar_one()
        return max(seconds, 0.0)

    async def seq(self, saga_id: str, tenant: str | None) -> int | None:
        """Number of the last event of a saga; None where the tenant has no such saga."""
        statement = select(table.c.seq).where(*Filter(tenant, ids=[saga_id]).conditions(), table.c.format <= FORMAT)
        async with self._database.connect() as connection:
            found: int | None = (await connection.execute(statement)).scalar_one_or_none()
            return found

    async def stamp(self, wanted: Filter, limit: int) -> str:
        """Changes when a list of the newest changes: one moves, one comes, one goes."""
        newest = (
            select(table.c.id, table.c.seq)
            .where(*wanted.conditions(), table.c.format <= FORMAT)
            .order_by(table.c.created_at.desc(), table.c.id.desc())
            .limit(limit)
        )
        async with self._database.connect() as connection:
            rows: Sequence[Any] = (await connection.execute(newest)).all()
        return stamp_of((str(row.id), row.seq) for row in rows)


def stamp_of(shown: Iterable[tuple[str, int]]) -> str:
    """Of a list of the newest, by (id, seq)."""
    told = " ".join(f"{saga_id}/{seq}" for saga_id, seq in shown)
    return hashlib.blake2s(told.encode(), digest_size=8).hexdigest()


def _capped(name: str, wanted: Filter) -> Select[str, int]:
    some = select(literal(1)).select_from(table).where(and_(*wanted.conditions())).limit(COUNTED + 1).subquery()
    return select(literal(name).label("what"), func.count().label("number")).select_from(some)


def told_count(number: int | None) -> str:
    """As people read it: `1,000+` where nobody counted on."""
    if number is None:
        return ""
    return f"{COUNTED:,}+" if number > COUNTED else f"{number:,}"
