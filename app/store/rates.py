"""How definitions, steps and services fare: rates and percentiles of what is stored, made when a page asks for them.

Every question is bounded, however many sagas there are. What is running is counted up to `COUNTED`, and rates are made
of a sample: the newest sagas of a definition, found by an index. Who sees one tenant only has a sample of that
tenant's newest sagas, `LOOKED_AT` of them at most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text

from app.saga.state import FORMAT, Micros
from app.store.database import Database, to_micros

COUNTED: Final = 10_000
LOOKED_AT: Final = 5000
FEW: Final = 200
"""Sagas of each definition in a list of all."""
MANY: Final = 500
"""Sagas of one definition."""
RECENT_SAGAS: Final = 150
RECENT_CALLS: Final = 500

_RUNNING: Final = "state IN ('CREATED', 'EXECUTING', 'COMPENSATING')"
_OF_TENANT: Final = "(CAST(:tenant AS text) IS NULL OR tenant = :tenant)"
_WANTED: Final = "id, definition, version, state, document"
# Two ways to a sample, each by an index of its own: by definition, and by tenant.
_NEWEST: Final = f"""newest AS (
    SELECT s.* FROM (SELECT DISTINCT name FROM definition WHERE :name = '' OR name = :name) AS d
    CROSS JOIN LATERAL (
        SELECT {_WANTED} FROM saga WHERE definition = d.name AND format <= {FORMAT}
        ORDER BY created_at DESC, id DESC LIMIT :most
    ) AS s)"""
_NEWEST_OF_TENANT: Final = f"""newest AS (
    SELECT * FROM (
        SELECT s.*, row_number() OVER (PARTITION BY definition ORDER BY created_at DESC, id DESC) AS place FROM (
            SELECT {_WANTED}, created_at FROM saga WHERE tenant = :tenant AND format <= {FORMAT}
            ORDER BY created_at DESC, id DESC LIMIT {LOOKED_AT}
        ) AS s WHERE :name = '' OR definition = :name
    ) AS placed WHERE place <= :most)"""
_UNDONE: Final = """jsonb_path_exists(document,
    '$.steps[*][2].state ? (@ == "COMPENSATED" || @ == "FAILED" || @ == "RESOLVED")')"""
_RATES: Final = f"""
    SELECT definition, count(*) AS sagas,
        count(*) FILTER (WHERE NOT {_RUNNING}) AS ended,
        count(*) FILTER (WHERE state = 'COMPLETED') AS completed,
        count(*) FILTER (WHERE state IN ('FAILED', 'COMPENSATION_FAILED', 'ABANDONED')) AS failed,
        count(*) FILTER (WHERE NOT {_RUNNING} AND {_UNDONE}) AS undone
    FROM newest GROUP BY definition"""
_ENDED: Final = """e.operation IS NOT NULL AND (e.type IN ('StepSucceeded', 'StepRefused', 'StepAttemptFailed',
    'StepAttemptLost', 'CompensationSucceeded', 'CompensationAttemptFailed')
    OR e.type = 'CompensationFailed' AND e.attempt IS NOT NULL)"""
"""An event with which an attempt ends."""
_WELL: Final = "e.type IN ('StepSucceeded', 'CompensationSucceeded')"
_STEPS: Final = f"""
    SELECT e.step, e.operation, count(*) AS attempts,
        count(*) FILTER (WHERE NOT {_WELL}) AS failed,
        count(DISTINCT e.saga_id) FILTER (WHERE {_WELL}) AS sagas,
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY (e.data ->> 'ms')::float8) AS ms
    FROM newest JOIN saga_event AS e ON e.saga_id = newest.id
    WHERE {_ENDED} GROUP BY e.step, e.operation"""
_ACTIVE: Final = text(f"""
    SELECT definition, version, state, count(*) AS number FROM (
        SELECT definition, version, state FROM saga WHERE {_RUNNING} AND {_OF_TENANT} LIMIT {COUNTED}
    ) AS looked_at WHERE :name = '' OR definition = :name GROUP BY definition, version, state""")
_NEXT: Final = "('RUNNING', 'SCHEDULED', 'RETRYING')"
_IN_FLIGHT: Final = text(f"""
    SELECT definition, version, (step ->> 0)::int AS position,
        count(*) FILTER (WHERE 'RUNNING' IN (step #>> '{{1,state}}', step #>> '{{2,state}}')) AS called,
        count(*) FILTER (WHERE 'RUNNING' IN (step #>> '{{1,state}}', step #>> '{{2,state}}') IS NOT TRUE) AS waiting
    FROM (
        SELECT definition, version, document FROM saga WHERE state IN ('EXECUTING', 'COMPENSATING')
        AND format <= {FORMAT} AND {_OF_TENANT} LIMIT {COUNTED}
    ) AS looked_at
    CROSS JOIN LATERAL jsonb_array_elements(document -> 'steps') AS step
    WHERE step #>> '{{1,state}}' IN {_NEXT} OR step #>> '{{2,state}}' IN {_NEXT}
    GROUP BY definition, version, position""")
_CALLS: Final = f"""
    SELECT e.saga_id, newest.definition, newest.version, e.step, e.operation, e.attempt, e.at, {_WELL} AS well,
        e.type = 'StepRefused' AS refused,
        coalesce(e.data ->> 'status', e.data #>> '{{{{error,status}}}}') AS status, (e.data ->> 'ms')::float8 AS ms
    FROM (
        SELECT id, definition, version FROM saga WHERE {{whose}} AND format <= {FORMAT}
        ORDER BY created_at DESC, id DESC LIMIT {RECENT_SAGAS}
    ) AS newest JOIN saga_event AS e ON e.saga_id = newest.id
    WHERE {_ENDED} AND e.attempt IS NOT NULL ORDER BY e.at DESC LIMIT {RECENT_CALLS}"""


@dataclass(frozen=True, slots=True)
class Rates:
    """Of the newest sagas of a definition."""

    sagas: int = 0
    ended: int = 0
    completed: int = 0
    failed: int = 0
    """Or left as they were: ended, and not completed."""
    undone: int = 0
    """Ended, with something undone."""


@dataclass(frozen=True, slots=True)
class StepRates:
    """Of one operation of a step, over its attempts that have ended."""

    attempts: int
    failed: int
    sagas: int
    """In which it succeeded."""
    p50: float | None
    """Milliseconds; None where nothing was measured."""
    p95: float | None


@dataclass(frozen=True, slots=True)
class Active:
    """Sagas on their way."""

    numbers: Mapping[tuple[str, int, str], int]
    """By definition, version and state."""

    @property
    def all_counted(self) -> bool:
        return sum(self.numbers.values()) < COUNTED

    def of(self, definition: str, version: int | None = None) -> int:
        return sum(
            number
            for (name, other, _), number in self.numbers.items()
            if name == definition and version in {None, other}
        )


@dataclass(frozen=True, slots=True)
class RecentCall:
    """An attempt that has ended."""

    saga_id: str
    definition: str
    version: int
    step: str
    operation: str
    attempt: int
    at: Micros
    well: bool
    refused: bool
    """The service has answered, and its answer was no."""
    status: str | None
    ms: float | None


async def rates(database: Database, tenant: str | None) -> dict[str, Rates]:
    """By definition, of `FEW` sagas each."""
    rows = await _sampled(database, tenant, _RATES, "", FEW)
    return {row.definition: Rates(row.sagas, row.ended, row.completed, row.failed, row.undone) for row in rows}


async def rates_of(database: Database, tenant: str | None, name: str) -> tuple[Rates, dict[tuple[str, str], StepRates]]:
    """Of one definition, and of its steps by name and operation; of `MANY` sagas."""
    found = await _sampled(database, tenant, _RATES, name, MANY)
    steps = {
        (row.step, row.operation): StepRates(row.attempts, row.failed, row.sagas, *(row.ms or (None, None)))
        for row in await _sampled(database, tenant, _STEPS, name, MANY)
    }
    whole = [Rates(row.sagas, row.ended, row.completed, row.failed, row.undone) for row in found]
    return (whole[0] if whole else Rates()), steps


async def _sampled(database: Database, tenant: str | None, asked: str, name: str, most: int) -> Sequence[Any]:
    newest = _NEWEST if tenant is None else _NEWEST_OF_TENANT
    given = {"name": name, "most": most} | ({} if tenant is None else {"tenant": tenant})
    async with database.connect() as connection:
        return (await connection.execute(text(f"WITH {newest} {asked}"), given)).all()


async def active(database: Database, tenant: str | None, name: str = "") -> Active:
    """Of one definition, or of all; `COUNTED` are looked at."""
    async with database.connect() as connection:
        rows = (await connection.execute(_ACTIVE, {"tenant": tenant, "name": name})).all()
    return Active({(row.definition, row.version, row.state): row.number for row in rows})


async def in_flight(database: Database, tenant: str | None) -> dict[tuple[str, int, int], tuple[int, int]]:
    """Of each step, by definition, version and position: how often it is called or undone now, and is to be next."""
    async with database.connect() as connection:
        rows = (await connection.execute(_IN_FLIGHT, {"tenant": tenant})).all()
    return {(row.definition, row.version, row.position): (row.called, row.waiting) for row in rows}


async def recent_calls(database: Database, tenant: str | None) -> list[RecentCall]:
    """The newest first, of the newest sagas."""
    statement = text(_CALLS.format(whose="true" if tenant is None else "tenant = :tenant"))
    async with database.connect() as connection:
        rows = (await connection.execute(statement, {} if tenant is None else {"tenant": tenant})).all()
    return [
        RecentCall(
            str(row.saga_id),
            row.definition,
            row.version,
            row.step,
            row.operation,
            row.attempt,
            to_micros(row.at),
            row.well,
            row.refused,
            row.status,
            row.ms,
        )
        for row in rows
    ]
