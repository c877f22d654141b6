"""Lists of sagas and their histories: what people ask, apart from the step path."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, and_, cast, func, select, tuple_, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from app.saga.state import FORMAT, Micros
from app.store.database import Database, to_micros, to_moment
from app.store.paging import Place
from app.store.sagas import Saga, Sagas
from app.store.tables import of_tenant, saga_event, saga_payload
from app.store.tables import saga as table


@dataclass(frozen=True, slots=True)
class Filter:
    """Every condition that is set has to hold."""

    tenant: str | None
    """None: every tenant."""
    states: Sequence[str] = ()
    saga: str | None = None
    labels: Mapping[str, str] | None = None
    key: str | None = None
    created_after: Micros | None = None
    created_before: Micros | None = None
    attention: bool | None = None
    step: str | None = None
    """The step to blame (`app.saga.trouble`)."""
    error: str | None = None
    """What went wrong there: `exhausted-503`."""
    text: str | None = None
    """A part of what an error or the attention says, in any case."""
    ids: Sequence[str] | None = None

    @property
    def narrow(self) -> bool:
        """Whether few may match, wherever they stand."""
        of_trouble = self.step is not None or self.error is not None or self.text is not None
        return of_trouble or bool(self.labels) or self.key is not None or self.ids is not None

    def conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [of_tenant(table, self.tenant)]
        if self.states:
            found.append(table.c.state.in_(self.states))
        if self.saga is not None:
            found.append(table.c.definition == self.saga)
        if self.labels:
            found.append(table.c.labels.contains(type_coerce(dict(self.labels), JSONB)))
        if self.key is not None:
            found.append(table.c.idempotency_key == self.key)
        if self.created_after is not None:
            found.append(table.c.created_at > to_moment(self.created_after))
        if self.created_before is not None:
            found.append(table.c.created_at < to_moment(self.created_before))
        if self.attention is not None:
            # Written so that the partial index on `attention` serves it.
            found.append(table.c.attention if self.attention else ~table.c.attention)
        if self.step is not None:
            found += [_IN_TROUBLE, table.c.blamed_step == self.step]
        if self.error is not None:
            found += [_IN_TROUBLE, table.c.trouble == self.error]
        if self.text is not None:
            found += [_IN_TROUBLE, table.c.told.icontains(self.text, autoescape=True)]
        if self.ids is not None:
            found.append(table.c.id.in_([UUID(each) for each in self.ids]))
        return found


# Written so that the partial index on those with which something went wrong serves it: the others are most.
_IN_TROUBLE: Final = table.c.told.is_not(None)


_COLUMNS: Final = (
    table.c.id,
    table.c.tenant,
    table.c.idempotency_key,
    table.c.definition,
    table.c.version,
    cast(table.c.labels, Text).label("labels"),
    table.c.notify_url,
    table.c.traceparent,
    table.c.restarted_from,
    cast(table.c.document, Text).label("document"),
    table.c.wake_at,
    func.clock_timestamp().label("now"),
)


_NEWEST: Final = (table.c.created_at.desc(), table.c.id.desc())


class Listing:
    def __init__(self, database: Database, sagas: Sagas) -> None:
        self._database, self._sagas = database, sagas

    async def sagas(
        self, wanted: Filter, *, limit: int, after: Place | None = None, payloads: bool = False
    ) -> tuple[list[Saga], Place | None]:
        """Newest first, and the place to go on from where there is more."""
        # Found by their ids first: what has to be sorted would be sorted with its whole document.
        newest = _newest(select(table.c.id.label("found")), wanted, limit + 1, after).subquery()
        statement = select(*_COLUMNS).join(newest, newest.c.found == table.c.id).order_by(*_NEWEST)
        asked_at = time.monotonic()
        async with self._database.connect() as connection:
            rows = [dict(row) for row in (await connection.execute(statement)).mappings()]
            named: dict[UUID, list[tuple[Any, ...]]] = {}  # (name, codec, data)
            if payloads and rows:
                ids = [row["id"] for row in rows[:limit]]
                kept = await connection.execute(select(saga_payload).where(saga_payload.c.saga_id.in_(ids)))
                for saga_id, *sealed in kept:
                    named.setdefault(saga_id, []).append(tuple(sealed))
        found = []
        for each in rows[:limit]:
            columns = list(zip(*named.get(each["id"], ()), strict=True)) or [(), (), ()]
            sealed_payloads = dict(zip(("names", "codecs", "datas"), columns, strict=True))
            found.append(await self._sagas.from_row({**each, **sealed_payloads}, asked_at))
        more = len(rows) > limit
        return found, Place(found[-1].state.created_at, UUID(found[-1].id)) if more else None

    async def ids(self, wanted: Filter, limit: int) -> tuple[list[str], int]:
        """(the newest ids, how many there are in all)."""
        count = select(func.count()).select_from(table).where(*wanted.conditions())
        async with self._database.connect() as connection:
            rows = await connection.execute(_newest(select(table.c.id), wanted, limit, None))
            ids = [str(row.id) for row in rows]
            return ids, (await connection.execute(count)).scalar_one()

    async def taken(self, tenant: str, keys: Sequence[str]) -> set[str]:
        """Which of these idempotency keys are in use."""
        statement = select(table.c.idempotency_key).where(table.c.tenant == tenant, table.c.idempotency_key.in_(keys))
        async with self._database.connect() as connection:
            return set((await connection.execute(statement)).scalars())

    async def history(
        self, saga_id: str, tenant: str | None, *, after: int = 0, limit: int = 1000
    ) -> list[dict[str, Any]] | None:
        """Lines {seq, type, at, step, operation, attempt, data} with their times in microseconds, oldest first.

        None where the tenant has no such saga.
        """
        exists = select(table.c.id).where(table.c.id == saga_id, of_tenant(table, tenant))
        statement = (
            select(saga_event)
            .where(saga_event.c.saga_id == saga_id, saga_event.c.seq > after)
            .order_by(saga_event.c.seq)
            .limit(limit)
        )
        async with self._database.connect() as connection:
            rows = [dict(row) for row in (await connection.execute(statement)).mappings()]
            if (await connection.execute(exists)).first() is None:
                return None
        for row in rows:
            del row["saga_id"]
            row["at"] = to_micros(row["at"])
        return rows


def _newest(statement: Select[Any], wanted: Filter, limit: int, after: Place | None) -> Select[Any]:
    conditions = [*wanted.conditions(), table.c.format <= FORMAT]
    if after is not None:
        place = tuple_(table.c.created_at, table.c.id)
        conditions.append(place < tuple_(to_moment(after.at), after.id))
    return statement.where(and_(*conditions)).order_by(*_NEWEST).limit(limit)
