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
from uuid import NAMESPACE_URL, uuid4, uuid5

from app.access import NO_TENANT
from app.errors import PayloadUnreadable
from app.observability import log
from app.store.database import Connection, Database
from app.store.sealing import EVENT, LETTER, NOTICE, Sealer

TOPIC: Final = "event"
"""Of the outbox. Its payload is the text of a CloudEvent, as it goes to the stream."""

REMEMBERED: Final = timedelta(days=7)
PUBLISHED_AGAIN: Final = timedelta(days=1)
"""As old as what a lost stream is filled with again: the kit's outboxes keep as much."""
PUBLISHED_AT_ONCE: Final = 500
FORGOTTEN_AT_ONCE: Final = 1000

TRACKED: Final = "event"
DELIVERED: Final = "delivery"
"""Operations of dead letters without a saga."""

_ACCEPT: Final = f"""
    WITH new AS (
        INSERT INTO event_seen (reader, source, id, codec, event) VALUES ('', $1, $2, $3, $4)
        ON CONFLICT DO NOTHING RETURNING id
    )
    INSERT INTO outbox (topic, payload) SELECT '{TOPIC}', to_jsonb($5::text) FROM new RETURNING id"""
_ACCEPTED: Final = """
    SELECT source, id, codec, event FROM event_seen WHERE reader = '' AND at > now() - $1::interval ORDER BY at"""
_PUBLISH: Final = f"""
    INSERT INTO outbox (topic, payload)
    SELECT '{TOPIC}', to_jsonb(e.event) FROM unnest($1::text[]) WITH ORDINALITY AS e(event, number) ORDER BY number"""
_DELIVER: Final = """
    WITH asked AS (
        SELECT DISTINCT ON (service, source, id) *
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::smallint[], $7::bytea[])
            AS a(service, source, id, type, notice, codec, body)
    ), new AS (
        INSERT INTO event_seen (reader, source, id) SELECT service, source, id FROM asked ORDER BY service, source, id
        ON CONFLICT DO NOTHING RETURNING reader, source, id
    )
    INSERT INTO notice (id, service, type, codec, body, created_at)
    SELECT a.notice, a.service, a.type, a.codec, a.body, now() FROM asked AS a
    JOIN new ON (new.reader, new.source, new.id) = (a.service, a.source, a.id)
    RETURNING id"""
_FORGET: Final = """
    DELETE FROM event_seen WHERE (reader, source, id) IN (
        SELECT reader, source, id FROM event_seen WHERE at < now() - $1::interval ORDER BY at LIMIT $2
    )"""
_LETTER: Final = f"""
    WITH letter AS (
        INSERT INTO dead_letter (id, tenant, saga, step, operation, attempts, error, status, created_at, codec, event)
        VALUES ($1, '{NO_TENANT}', $2, $3, '{TRACKED}', $4, $5, 'open', clock_timestamp(), $6, $7)
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


def owner_of_event(source: str, event_id: str) -> str:
    return f"{source}\0{event_id}"


class Events:
    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._sealer, self._lane = sealer, database.lane()

    async def accept(self, source: str, event_id: str, text: str) -> bool:
        """Has the event published; False where it is known."""
        kept = self._sealer.seal_text(owner_of_event(source, event_id), EVENT, text)
        return bool(await self._lane.run(lambda c: c.fetchval(_ACCEPT, source, event_id, *kept, text)))

    async def publish_again(self) -> None:
        """What came by the door within a day, into a stream that has lost it."""
        await self._lane.run(self._publish_again)

    async def _publish_again(self, connection: Connection) -> None:
        async with connection.transaction():
            accepted = await connection.cursor(_ACCEPTED, PUBLISHED_AGAIN)
            while rows := await accepted.fetch(PUBLISHED_AT_ONCE):
                texts = [text for row in rows if (text := self._text(row)) is not None]
                await connection.execute(_PUBLISH, texts)

    def _text(self, row: Mapping[str, Any]) -> str | None:
        owner = owner_of_event(row["source"], row["id"])
        try:
            return self._sealer.open_text(owner, EVENT, row["codec"], row["event"])
        except PayloadUnreadable as error:
            log.error("an event is not published again: %s", error)
            return None

    async def deliver(self, deliveries: Sequence[Delivery]) -> int:
        """Has these posted; returns how many were not known."""
        rows = []
        for each in deliveries:
            notice_id = str(uuid4())
            sealed = self._sealer.seal(notice_id, NOTICE, each.body)
            rows.append((each.service, each.source, each.id, each.type, notice_id, *sealed))
        columns = [list(column) for column in zip(*rows, strict=True)]
        return len(await self._lane.run(lambda c: c.fetch(_DELIVER, *columns))) if rows else 0

    async def give_up(self, letter: EventLetter) -> None:
        """A letter that is there already stays as it is."""
        letter_id = uuid5(NAMESPACE_URL, f"{TRACKED}/{letter.saga}/{letter.name}")
        error, event = (
            json.dumps(letter.error),
            self._sealer.seal_json(str(letter_id), LETTER, json.dumps(letter.event)),
        )

        async def write(connection: Connection) -> None:
            await connection.execute(_LETTER, letter_id, letter.saga, letter.type, letter.attempts, error, *event)

        await self._lane.run(write)

    async def forget(self) -> int:
        """Of what was seen longer ago than `REMEMBERED`: how many rows went, at most `FORGOTTEN_AT_ONCE`."""
        status: str = await self._lane.run(lambda c: c.execute(_FORGET, REMEMBERED, FORGOTTEN_AT_ONCE))
        return int(status.rpartition(" ")[2])
