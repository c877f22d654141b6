"""What /metrics counts in the database: a few statements, one round trip each, all of them on indexes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import func, select, text

from app.store.database import Database
from app.store.notices import STATUS
from app.store.services import WAITS
from app.store.tables import notice

_COUNTS: Final = text("""
    SELECT 'active' AS what, definition AS saga, state, count(*) AS number FROM saga
        WHERE state IN ('CREATED', 'EXECUTING', 'COMPENSATING') GROUP BY definition, state
    UNION ALL SELECT 'attention', definition, '', count(*) FROM saga WHERE attention GROUP BY definition
    UNION ALL SELECT 'letter', saga, '', count(*) FROM dead_letter WHERE status = 'open' GROUP BY saga
    UNION ALL SELECT 'definition', name, '', count(*) FROM definition GROUP BY name
    UNION ALL SELECT 'paused', name, '', (paused_at IS NOT NULL)::int FROM service""")
_NOTICES: Final = select(STATUS, func.count().label("number")).where(notice.c.service.is_(None)).group_by(STATUS)
_DELIVERIES: Final = text("""
    SELECT s.name, count(n.id) AS number FROM service AS s LEFT JOIN notice AS n ON n.service = s.name
    WHERE s.subscribes <> '[]' GROUP BY s.name""")
_OVERDUE: Final = text("""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min(wake_at)), 0)::float8 FROM saga
    WHERE wake_at < now()""")
# Only what has long been silent is looked into: a hold is `paused`, a delayed start is CREATED, and what waits for a
# callback, for a retry or for a paused service says so in its document.
_STUCK: Final = text(f"""
    SELECT count(*) FROM saga
    WHERE state IN ('EXECUTING', 'COMPENSATING') AND NOT paused
    AND updated_at < now() - make_interval(secs => :seconds)
    AND NOT jsonb_path_exists(
        document,
        '$.steps[*][1 to 2] ? (@.state == "WAITING" || (@.state == "RETRYING" && @.due_at > $now))',
        jsonb_build_object('now', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))
    AND NOT {WAITS.format(which="service.paused_at IS NOT NULL")}""")


@dataclass(slots=True)
class Gauges:
    active: dict[tuple[str, str], int] = field(default_factory=dict)
    """By definition and state."""
    attention: dict[str, int] = field(default_factory=dict)
    open_letters: dict[str, int] = field(default_factory=dict)
    notices: dict[str, int] = field(default_factory=dict)
    """By status."""
    deliveries: dict[str, int] = field(default_factory=dict)
    """By service: events that it has not taken yet."""
    paused: dict[str, int] = field(default_factory=dict)
    """By service: 1 while nothing new is sent to it, else 0."""
    definitions: Sequence[str] = ()
    stuck: int = 0
    oldest_overdue_seconds: float = 0


async def read_gauges(database: Database, stuck_after_seconds: float) -> Gauges:
    gauges, names = Gauges(), []
    async with database.connect() as connection:
        for row in await connection.execute(_COUNTS):
            if row.what == "active":
                gauges.active[row.saga, row.state] = row.number
            elif row.what == "attention":
                gauges.attention[row.saga] = row.number
            elif row.what == "letter":
                gauges.open_letters[row.saga] = row.number
            elif row.what == "paused":
                gauges.paused[row.saga] = row.number
            else:
                names.append(row.saga)
        gauges.notices = {row.status: row.number for row in await connection.execute(_NOTICES)}
        gauges.deliveries = {row.name: row.number for row in await connection.execute(_DELIVERIES)}
        gauges.oldest_overdue_seconds = (await connection.execute(_OVERDUE)).scalar_one()
        gauges.stuck = (await connection.execute(_STUCK, {"seconds": stuck_after_seconds})).scalar_one()
    gauges.definitions = sorted(names)
    return gauges
