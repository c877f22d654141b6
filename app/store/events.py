"""Events on their way in and out: what came by `POST /events`, what subscribed services are to be posted, and the dead
letters of events.

A reader (the door, or a subscribed service) has an event once, named by its `source` and `id`: what comes again within
`REMEMBERED` finds its row in `event_seen`, and nothing is published or posted twice, also where the stream is read
again from its beginning.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from app.access import NO_TENANT
from app.store.database import Connection, Database

TOPIC: Final = "event"
"""Of the outbox. Its payload is the text of a CloudEvent, as it goes to the stream."""

REMEMBERED: Final = timedelta(days=7)
PUBLISHED_AGAIN: Final = timedelta(days=1)
"""As old as what a lost stream is filled with again: the kit's outboxes keep as much."""
FORGOTTEN_AT_ONCE: Final = 1000

TRACKED: Final = "event"
DELIVERED: Final = "delivery"
"""Operations of dead letters without a saga."""

_ACCEPT: Final = f"""
    WITH new AS (
        INSERT INTO event_seen (reader, source, id, event) VALUES ('', $1, $2, $3)
        ON CONFLICT DO NOTHING RETURNING event
    )
    INSERT INTO outbox (topic, payload) SELECT '{TOPIC}', to_jsonb(event) FROM new RETURNING id"""
_PUBLISH_AGAIN: Final = f"""
    INSERT INTO outbox (topic, payload) SELECT '{TOPIC}', to_jsonb(event) FROM event_seen
    WHERE reader = '' AND at > now() - $1::interval ORDER BY at"""
_DELIVER: Final = """
    WITH asked AS (
        SELECT DISTINCT ON (service, source, id) *
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[]) AS a(service, source, id, type, body)
    ), new AS (
        INSERT INTO event_seen (reader, source, id) SELECT service, source, id FROM asked ORDER BY service, source, id
        ON CONFLICT DO NOTHING RETURNING reader, source, id
    )
    INSERT INTO notice (service, type, body, created_at)
    SELECT a.service, a.type, a.body, now() FROM asked AS a
    JOIN new ON (new.reader, new.source, new.id) = (a.service, a.source, a.id)
    RETURNING id"""
_FORGET: Final = """
    DELETE FROM event_seen WHERE (reader, source, id) IN (
        SELECT reader, source, id FROM event_seen WHERE at < now() - $1::interval ORDER BY at LIMIT $2
    )"""
_LETTER: Final = f"""
    WITH letter AS (
        INSERT INTO dead_letter (id, tenant, saga, step, operation, attempts, error, status, created_at, event)
        VALUES ($1, '{NO_TENANT}', $2, $3, '{TRACKED}', $4, $5, 'open', clock_timestamp(), $6)
        ON CONFLICT (id) DO NOTHING RETURNING id
    )
    INSERT INTO outbox (topic, payload)
    SELECT 'dead-letter', jsonb_build_object('id', id, 'saga_id', NULL, 'step', $3::text, 'operation', '{TRACKED}')
    FROM letter"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one subscribed service."""

    service: str
    source: str
    id: str
    type: str
    body: bytes
    """The CloudEvent in JSON."""


@dataclass(frozen=True, slots=True)
class EventLetter:
    """An event that could not be processed. `name` says the same for the same event, so that it becomes one letter."""

    name: str
    saga: str
    """Name of the definition that could not follow it; "" where no definition did."""
    type: str
    """"" where that could not even be read."""
    attempts: int
    error: Mapping[str, Any]
    event: Any
    """The CloudEvent, or what stands in its place as a text."""


class Events:
    def __init__(self, database: Database) -> None:
        self._lane = database.lane()

    async def accept(self, source: str, event_id: str, text: str) -> bool:
        """Has the event published; False where it is known."""
        return bool(await self._lane.run(lambda c: c.fetchval(_ACCEPT, source, event_id, text)))

    async def publish_again(self) -> None:
        """What came by the door within a day, into a stream that has lost it."""
        await self._lane.run(lambda c: c.execute(_PUBLISH_AGAIN, PUBLISHED_AGAIN))

    async def deliver(self, deliveries: Sequence[Delivery]) -> int:
        """Has these posted; returns how many were not known."""
        columns = [[getattr(each, name) for each in deliveries] for name in ("service", "source", "id", "type", "body")]
        return len(await self._lane.run(lambda c: c.fetch(_DELIVER, *columns)))

    async def give_up(self, letter: EventLetter) -> None:
        """A letter that is there already stays as it is."""
        letter_id = uuid5(NAMESPACE_URL, f"{TRACKED}/{letter.saga}/{letter.name}")
        error, event = json.dumps(letter.error), json.dumps(letter.event)

        async def write(connection: Connection) -> None:
            await connection.execute(_LETTER, letter_id, letter.saga, letter.type, letter.attempts, error, event)

        await self._lane.run(write)

    async def forget(self) -> int:
        """Of what was seen longer ago than `REMEMBERED`: how many rows went, at most `FORGOTTEN_AT_ONCE`."""
        status: str = await self._lane.run(lambda c: c.execute(_FORGET, REMEMBERED, FORGOTTEN_AT_ONCE))
        return int(status.rpartition(" ")[2])
