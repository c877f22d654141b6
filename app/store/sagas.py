"""Reading and writing sagas: the statements of the step path.

Every write is compare-and-set on `seq`: state, history and payloads move in one statement or not at all, and the
loser is told. No lock is held over anything that waits.

`wake_at` in the row may be earlier than the state needs, never later: moving an indexed column on every transition
would double the price of a step, and waking early only costs a look (`Sagas.postpone`).
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from app import probes
from app.errors import PayloadUnreadable
from app.observability import log
from app.saga import rules
from app.saga.definition import Definition
from app.saga.messages import ClosedLetter, DeadLetter, Record
from app.saga.state import FORMAT, Micros, State, pack, unpack
from app.saga.trouble import trouble_of
from app.store.audit import AuditEntry, record_at
from app.store.coalesce import Coalescer
from app.store.database import Connection, Database, to_micros, to_moment
from app.store.definitions import Definitions
from app.store.sealing import NOTICE, Sealer

INPUT: Final = "input"
NO_INPUT: Final = b"null"

WAITED_FOR: Final = "waited for"
TAKEN: Final = "taken"
"""Of `saga.place`: a place of a definition with `max_concurrent`."""

ADMITTED_AT_ONCE: Final = 100
PASSED_OVER: Final = 5
"""So often it is looked further down the line for sagas that can be read."""


def output_of(step: str) -> str:
    return f"output/{step}"


def input_of(step: str) -> str:
    """An input that an operator gave to one step."""
    return f"input/{step}"


@dataclass(frozen=True, slots=True)
class Saga:
    """One saga as read, at a time of the database."""

    id: str
    tenant: str
    key: str
    definition: Definition
    version: int
    state: State
    payloads: Mapping[str, bytes]
    labels: Mapping[str, str]
    traceparent: str | None
    notify_url: str | None
    restarted_from: str | None
    wake_at: Micros | None
    read_at: Micros
    asked_at: float
    """Our monotonic clock before the reading was asked for: never later than `read_at`."""

    def payload(self, name: str) -> Any:
        data = self.payloads.get(name)
        return None if data is None else orjson.loads(data)

    @property
    def payload_bytes(self) -> int:
        return sum(map(len, self.payloads.values()))


@dataclass(frozen=True, slots=True)
class NewSaga:
    id: str
    tenant: str
    key: str
    request_digest: bytes
    definition: Definition
    version: int
    state: State
    records: Sequence[Record]
    payloads: Mapping[str, bytes]
    labels: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = None
    notify_url: str | None = None
    restarted_from: str | None = None
    audit: AuditEntry | None = None
    """Of an operator's restart; it stands with the saga that was restarted."""

    @property
    def wake_at(self) -> Micros | None:
        return rules.wake_at(self.definition, self.state, self.state.updated_at)

    def as_read(self, at: Micros) -> Saga:
        """The saga as it would be read now that it is inserted."""
        return Saga(
            id=self.id,
            tenant=self.tenant,
            key=self.key,
            definition=self.definition,
            version=self.version,
            state=self.state,
            payloads=self.payloads,
            labels=self.labels,
            traceparent=self.traceparent,
            notify_url=self.notify_url,
            restarted_from=self.restarted_from,
            wake_at=self.wake_at,
            read_at=at,
            asked_at=time.monotonic(),
        )


@dataclass(frozen=True, slots=True)
class NewNotice:
    """For the saga's `notify_url`; see `app.notices`."""

    type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """What one transition changes, guarded by the state that it was decided on."""

    saga: Saga
    state: State
    wake_at: Micros | None
    """See `early_enough`."""
    records: Sequence[Record]
    payloads: Mapping[str, bytes] = field(default_factory=dict)
    dead_letters: Sequence[DeadLetter] = ()
    closed_letters: Sequence[ClosedLetter] = ()
    audit: AuditEntry | None = None
    notice: NewNotice | None = None
    events: Sequence[str] = ()
    """CloudEvents to be published, in their order."""

    @property
    def plain(self) -> bool:
        return not (self.dead_letters or self.closed_letters or self.audit or self.notice or self.events)

    def after(self) -> Saga:
        """The saga as it stands once this is written."""
        payloads = {**self.saga.payloads, **self.payloads}
        return replace(self.saga, state=self.state, wake_at=self.wake_at, payloads=payloads)


def early_enough(saga: Saga, state: State) -> Micros | None:
    """When to look again: as stored, where that is soon enough and not past, so that the index need not change.

    A past one stands where somebody is to be polled: the sweep would take a poll that was due for one that was made.
    """
    now, stored = state.updated_at, saga.wake_at
    needed = rules.wake_at(saga.definition, state, now)
    if needed is None or stored is None or stored > needed:
        return needed
    return stored if now < stored or any(call.poll is not None for _, _, call in state.calls()) else needed


_COLUMNS: Final = """
    s.id, s.tenant, s.idempotency_key, s.definition, s.version, s.labels, s.notify_url, s.traceparent, s.restarted_from,
    s.document, s.wake_at, clock_timestamp() AS now, p.names, p.codecs, p.datas"""
_PAYLOADS: Final = """
    LEFT JOIN LATERAL (
        SELECT array_agg(name) AS names, array_agg(codec) AS codecs, array_agg(data) AS datas
        FROM saga_payload WHERE saga_id = s.id
    ) AS p ON true"""
_LOAD: Final = f"""
    SELECT {_COLUMNS} FROM unnest($1::uuid[]) AS wanted(id) JOIN saga AS s ON s.id = wanted.id {_PAYLOADS}
    WHERE s.format <= {FORMAT}"""
_LOAD_KEY: Final = f"""
    SELECT {_COLUMNS}, s.request_digest FROM saga AS s {_PAYLOADS}
    WHERE s.tenant = $1 AND s.idempotency_key = $2 AND s.format <= {FORMAT}"""

_EVENTS: Final = """
    events AS (
        INSERT INTO saga_event (saga_id, seq, type, at, step, operation, attempt, data)
        SELECT e.* FROM unnest($1::uuid[], $2::int[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::int[],
            $8::jsonb[]) AS e(saga_id, seq, type, at, step, operation, attempt, data)
        JOIN moved ON moved.id = e.saga_id
    ), payloads AS (
        INSERT INTO saga_payload (saga_id, name, codec, data)
        SELECT p.* FROM unnest($9::uuid[], $10::text[], $11::smallint[], $12::bytea[]) AS p(saga_id, name, codec, data)
        JOIN moved ON moved.id = p.saga_id
        ON CONFLICT (saga_id, name) DO UPDATE SET codec = excluded.codec, data = excluded.data
    )
    SELECT id FROM moved"""
_WRITE: Final = f"""
    WITH moved AS (
        UPDATE saga AS s SET format = {FORMAT}, seq = w.seq, state = w.state, paused = w.paused,
            attention = w.attention, document = w.document, wake_at = w.wake_at, updated_at = w.updated_at,
            finished_at = w.finished_at, place = w.place, waits_since = w.waits_since, blamed_step = w.blamed_step,
            trouble = w.trouble, told = w.told
        FROM unnest($13::uuid[], $14::int[], $15::int[], $16::text[], $17::bool[], $18::bool[], $19::jsonb[],
            $20::timestamptz[], $21::timestamptz[], $22::timestamptz[], $23::text[], $24::timestamptz[], $25::text[],
            $26::text[], $27::text[])
            AS w(id, expected, seq, state, paused, attention, document, wake_at, updated_at, finished_at, place,
                waits_since, blamed_step, trouble, told)
        WHERE s.id = w.id AND s.seq = w.expected
        RETURNING s.id
    ), {_EVENTS}"""
_INSERT: Final = f"""
    WITH moved AS (
        INSERT INTO saga (format, id, seq, state, paused, attention, document, wake_at, updated_at, finished_at, place,
            waits_since, blamed_step, trouble, told, tenant, idempotency_key, request_digest, definition, version,
            labels, notify_url, traceparent, restarted_from, created_at)
        SELECT {FORMAT}, w.* FROM unnest($13::uuid[], $14::int[], $15::text[], $16::bool[], $17::bool[], $18::jsonb[],
            $19::timestamptz[], $20::timestamptz[], $21::timestamptz[], $22::text[], $23::timestamptz[], $24::text[],
            $25::text[], $26::text[], $27::text[], $28::text[], $29::bytea[], $30::text[], $31::int[], $32::jsonb[],
            $33::text[], $34::text[], $35::uuid[], $36::timestamptz[]) AS w
        ON CONFLICT (tenant, idempotency_key) DO NOTHING
        RETURNING id
    ), {_EVENTS}"""
# now(), not clock_timestamp(): a volatile function keeps PostgreSQL from looking the time up in an index, and a sweep
# would read every saga that sleeps.
_DUE: Final = f"""
    SELECT id FROM saga WHERE wake_at <= now() AND format <= {FORMAT} ORDER BY wake_at LIMIT $1"""
_PUT_OFF: Final = """
    UPDATE saga SET wake_at = clock_timestamp() + $2 WHERE id = ANY($1::uuid[]) AND wake_at <= now()"""
_AT_REST: Final = """
    SELECT id FROM saga WHERE id = ANY($1::uuid[])
    AND state IN ('COMPLETED', 'FAILED', 'COMPENSATION_FAILED', 'ABANDONED')"""
_WAITED_FOR: Final = f"""
    SELECT name FROM (SELECT DISTINCT name FROM definition) AS d WHERE EXISTS (
        SELECT FROM saga WHERE definition = d.name AND place = '{WAITED_FOR}' AND waits_since <= now())"""
_ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtextextended('saga/place/' || $1, 0))"
_PLACES_TAKEN: Final = f"SELECT count(*) FROM saga WHERE definition = $1 AND place = '{TAKEN}'"
_FIRST_IN_LINE: Final = f"""
    SELECT {_COLUMNS} FROM saga AS s {_PAYLOADS}
    WHERE s.definition = $1 AND s.place = '{WAITED_FOR}' AND s.waits_since <= now() AND s.format <= {FORMAT}
        AND s.id <> ALL($3::uuid[])
    ORDER BY s.waits_since, s.id LIMIT $2"""
_PUT_INPUT: Final = f"""
    INSERT INTO saga_payload (saga_id, name, codec, data) VALUES ($1, '{INPUT}', $2, $3)
    ON CONFLICT (saga_id, name) DO UPDATE SET codec = excluded.codec, data = excluded.data"""
_POSTPONE: Final = """
    UPDATE saga AS s SET wake_at = w.wake_at
    FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::timestamptz[]) AS w(id, seq, was, wake_at)
    WHERE s.id = w.id AND s.seq = w.seq AND s.wake_at = w.was"""
_LETTER: Final = """
    INSERT INTO dead_letter (tenant, saga_id, saga, step, operation, attempts, error, status, created_at, closed_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL)
    ON CONFLICT (saga_id, step, operation) WHERE status = 'open'
    DO UPDATE SET attempts = excluded.attempts, error = excluded.error
    RETURNING id"""
_CLOSE_LETTER: Final = """
    UPDATE dead_letter SET status = $4, closed_at = $5
    WHERE saga_id = $1 AND step = $2 AND operation = $3 AND status = 'open'"""
_NOTICE: Final = "INSERT INTO outbox (topic, payload) VALUES ('dead-letter', $1)"
_TELL: Final = """
    INSERT INTO notice (id, tenant, saga_id, type, url, codec, body, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""
_PUBLISH: Final = """
    INSERT INTO outbox (topic, payload)
    SELECT 'event', to_jsonb(e.event) FROM unnest($1::text[]) WITH ORDINALITY AS e(event, number) ORDER BY number"""


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


class Sagas:
    def __init__(self, database: Database, definitions: Definitions, sealer: Sealer) -> None:
        self._database, self._definitions, self._sealer = database, definitions, sealer
        reading, writing, inserting = database.lane(), database.lane(), database.lane()
        self._admitting = database.lane()
        self._load = Coalescer[str, Saga | PayloadUnreadable | None](
            lambda ids: reading.run(lambda c: self._load_batch(c, ids))
        )
        # A saga stands in a batch once: the second write of a saga has lost to the first by then.
        self._write = Coalescer[Write, bool](
            lambda writes: writing.run(lambda c: self._write_batch(c, writes)), unique=lambda write: write.saga.id
        )
        self._insert = Coalescer[NewSaga, bool](
            lambda sagas: inserting.run(lambda c: self._insert_batch(c, sagas)),
            unique=lambda saga: (saga.tenant, saga.key),
        )
        self._reading, self._writing = reading, writing

    # --- reading ---

    async def load(self, saga_id: str) -> Saga | None:
        """Raises PayloadUnreadable."""
        found = await self._load(saga_id)
        if isinstance(found, PayloadUnreadable):
            raise found
        return found

    async def _load_batch(self, connection: Connection, ids: Sequence[str]) -> list[Saga | PayloadUnreadable | None]:
        asked_at = time.monotonic()
        rows = await connection.fetch(_LOAD, list(set(ids)))
        self._observe(asked_at, rows)
        found: dict[str, Saga | PayloadUnreadable] = {}
        for row in rows:
            try:
                found[str(row["id"])] = await self.from_row(row, asked_at)
            except PayloadUnreadable as error:
                found[str(row["id"])] = error  # the others of the batch have nothing to do with it
        return [found.get(saga_id) for saga_id in ids]

    async def by_key(self, tenant: str, key: str) -> tuple[Saga, bytes] | None:
        """The saga under that key, with the digest of the request that made it."""

        async def fetch(connection: Connection) -> tuple[Saga, bytes] | None:
            asked_at = time.monotonic()
            row = await connection.fetchrow(_LOAD_KEY, tenant, key)
            return None if row is None else (await self.from_row(row, asked_at), row["request_digest"])

        found: tuple[Saga, bytes] | None = await self._reading.run(fetch)
        return found

    def _observe(self, asked_at: float, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            self._database.clock.observe(asked_at, to_micros(rows[0]["now"]), time.monotonic())

    async def from_row(self, row: Mapping[str, Any], asked_at: float) -> Saga:
        """The saga of a row with `_COLUMNS`, whose JSON is text. Raises PayloadUnreadable."""
        saga_id = str(row["id"])
        sealed = zip(row["names"] or (), row["codecs"] or (), row["datas"] or (), strict=True)
        definition = await self._definitions.get(row["definition"], row["version"])
        wake_at, restarted_from = row["wake_at"], row["restarted_from"]
        return Saga(
            id=saga_id,
            tenant=row["tenant"],
            key=row["idempotency_key"],
            definition=definition,
            version=row["version"],
            state=unpack(orjson.loads(row["document"]), len(definition.steps)),
            payloads={name: self._sealer.open(saga_id, name, codec, data) for name, codec, data in sealed},
            labels=orjson.loads(row["labels"]),
            traceparent=row["traceparent"],
            notify_url=row["notify_url"],
            restarted_from=None if restarted_from is None else str(restarted_from),
            wake_at=None if wake_at is None else to_micros(wake_at),
            read_at=to_micros(row["now"]),
            asked_at=asked_at,
        )

    async def due(self, limit: int) -> list[str]:
        """Sagas whose time has come, the longest waiting first."""
        rows = await self._reading.run(lambda connection: connection.fetch(_DUE, limit))
        return [str(row["id"]) for row in rows]

    async def at_rest(self, ids: Sequence[str]) -> list[str]:
        """Which of these sagas have come to rest."""
        rows = await self._reading.run(lambda connection: connection.fetch(_AT_REST, ids))
        return [str(row["id"]) for row in rows]

    # --- writing ---

    async def write(self, write: Write) -> bool:
        """False: the saga has moved meanwhile and nothing was written."""
        return await self._write(write)

    async def insert(self, saga: NewSaga) -> bool:
        """False: the key is taken and nothing was written."""
        return await self._insert(saga)

    async def postpone(self, sagas: Sequence[tuple[Saga, Micros]]) -> None:
        """Moves the time to look again, of sagas that were looked at too early; not of one that was woken meanwhile."""
        rows = [
            (saga.id, saga.state.seq, None if saga.wake_at is None else to_moment(saga.wake_at), to_moment(at))
            for saga, at in sorted(sagas, key=lambda one: one[0].id)
        ]
        await self._writing.run(lambda connection: connection.execute(_POSTPONE, *_columns(rows)))

    async def put_off(self, ids: Sequence[str], seconds: float) -> None:
        """As `postpone`, of sagas that could not even be read."""
        pause = timedelta(seconds=seconds)
        await self._writing.run(lambda connection: connection.execute(_PUT_OFF, sorted(ids), pause))

    async def put_input(self, saga_id: str, data: bytes) -> None:
        """Of a saga that was opened without one."""
        sealed = self._sealer.seal(saga_id, INPUT, data)
        await self._writing.run(lambda connection: connection.execute(_PUT_INPUT, saga_id, *sealed))

    # --- places ---

    async def places_waited_for(self) -> list[str]:
        """Definitions of which a saga waits for a place."""
        rows = await self._reading.run(lambda connection: connection.fetch(_WAITED_FOR))
        return [row["name"] for row in rows]

    async def admit(self, definition: str, limit: int | None, write: Callable[[Saga], Write]) -> list[Write]:
        """Gives free places to those who have waited longest; what was written. None: there is no limit any more.

        One process at a time counts and gives, or two would give the last place twice. The lock lasts for these
        statements, and nothing that takes a place comes past it.
        """

        async def give(connection: Connection) -> list[Write]:
            async with connection.transaction():
                await connection.execute(_ONE_AT_A_TIME, definition)
                free = ADMITTED_AT_ONCE
                if limit is not None:
                    free = min(free, limit - await connection.fetchval(_PLACES_TAKEN, definition))
                await probes.passed(probes.PLACES_COUNTED, definition=definition)
                writes = [write(saga) for saga in await self._first_in_line(connection, definition, max(free, 0))]
                if not writes:
                    return []
                moved = await self._write_batch(connection, writes)
                return [write for write, done in zip(writes, moved, strict=True) if done]

        given: list[Write] = await self._admitting.run(give)
        return given

    async def _first_in_line(self, connection: Connection, definition: str, number: int) -> list[Saga]:
        """Those that cannot be read keep their place in the line, and do not hold up the ones behind them."""
        found: list[Saga] = []
        unreadable: list[str] = []
        for _ in range(PASSED_OVER):
            asked_at, before = time.monotonic(), len(unreadable)
            met = [*unreadable, *(saga.id for saga in found)]
            rows = await connection.fetch(_FIRST_IN_LINE, definition, number - len(found), met)
            for row in rows:
                try:
                    found.append(await self.from_row(row, asked_at))
                except PayloadUnreadable as error:
                    unreadable.append(str(row["id"]))
                    log.error("saga %s is not started: %s", row["id"], error)
            if len(unreadable) == before:
                break
        return found

    # Rows are taken in one order everywhere: batches of two processes over the same rows must not wait for each other.

    async def _insert_batch(self, connection: Connection, asked: Sequence[NewSaga]) -> list[bool]:
        sagas = sorted(asked, key=lambda saga: (saga.tenant, saga.key))
        rows = [
            (
                saga.id,
                *_state_columns(saga.definition, saga.state, saga.wake_at),
                saga.tenant,
                saga.key,
                saga.request_digest,
                saga.definition.name,
                saga.version,
                _json(saga.labels),
                saga.notify_url,
                saga.traceparent,
                saga.restarted_from,
                to_moment(saga.state.created_at),
            )
            for saga in sagas
        ]
        details = _details([(s.id, s.definition, s.records, s.payloads) for s in sagas], self._sealer)
        arguments = (*details, *_columns(rows))
        audited = [saga for saga in sagas if saga.audit is not None]
        if not audited:
            moved = {str(row["id"]) for row in await connection.fetch(_INSERT, *arguments)}
        else:
            async with connection.transaction():
                moved = {str(row["id"]) for row in await connection.fetch(_INSERT, *arguments)}
                for saga in audited:
                    if saga.id in moved and saga.audit is not None:
                        at = to_moment(saga.state.created_at)
                        await record_at(connection, at, saga.tenant, saga.restarted_from, saga.audit)
        return [saga.id in moved for saga in asked]

    async def _write_batch(self, connection: Connection, asked: Sequence[Write]) -> list[bool]:
        writes = sorted(asked, key=lambda write: write.saga.id)
        rows = [(w.saga.id, w.saga.state.seq, *_state_columns(w.saga.definition, w.state, w.wake_at)) for w in writes]
        details = _details([(w.saga.id, w.saga.definition, w.records, w.payloads) for w in writes], self._sealer)
        arguments = (*details, *_columns(rows))
        if all(write.plain for write in writes):
            moved = {str(row["id"]) for row in await connection.fetch(_WRITE, *arguments)}
        else:
            async with connection.transaction():
                moved = {str(row["id"]) for row in await connection.fetch(_WRITE, *arguments)}
                for write in writes:
                    if write.saga.id in moved and not write.plain:
                        await _write_extras(connection, write, self._sealer)
        return [write.saga.id in moved for write in asked]


def _state_columns(definition: Definition, state: State, wake_at: Micros | None) -> tuple[Any, ...]:
    """seq, state, paused, attention, document, wake_at, updated_at, finished_at, place, waits_since, blamed_step,
    trouble, told.
    """
    waits_since = rules.waits_since(definition, state)
    place = WAITED_FOR if waits_since is not None else TAKEN if rules.takes_place(definition, state) else None
    return (
        state.seq,
        str(state.state),
        rules.paused(definition, state),
        state.attention is not None,
        _json(pack(state)),
        _moment(wake_at),
        to_moment(state.updated_at),
        _moment(state.finished_at),
        place,
        _moment(waits_since),
        *_trouble_columns(state),
    )


def _trouble_columns(state: State) -> tuple[str | None, str | None, str | None]:
    trouble = trouble_of(state)
    return (None, None, None) if trouble is None else (trouble.step, trouble.error, trouble.told)


def _moment(at: Micros | None) -> datetime | None:
    return None if at is None else to_moment(at)


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*rows, strict=True)))


def _details(
    sagas: Sequence[tuple[str, Definition, Sequence[Record], Mapping[str, bytes]]], sealer: Sealer
) -> tuple[list[Any], ...]:
    """The arrays of `_EVENTS`."""
    events = [
        (
            saga_id,
            record.seq,
            str(record.type),
            to_moment(record.at),
            None if record.step is None else definition.steps[record.step].name,
            record.operation,
            record.attempt,
            _json(record.data),
        )
        for saga_id, definition, records, _ in sagas
        for record in records
    ]
    payloads = [
        (saga_id, name, *sealer.seal(saga_id, name, data))
        for saga_id, _, _, named in sagas
        for name, data in named.items()
    ]
    return (*_columns(events), *(_columns(payloads) if payloads else ([], [], [], [])))


async def _write_extras(connection: Connection, write: Write, sealer: Sealer) -> None:
    saga, at = write.saga, to_moment(write.state.updated_at)
    steps = saga.definition.steps
    for closed in write.closed_letters:
        await connection.execute(_CLOSE_LETTER, saga.id, steps[closed.step].name, closed.operation, closed.status, at)
    for letter in write.dead_letters:
        step, error = steps[letter.step].name, _json(letter.error)
        letter_id = await connection.fetchval(
            _LETTER,
            saga.tenant,
            saga.id,
            saga.definition.name,
            step,
            letter.operation,
            letter.attempts,
            error,
            letter.status,
            at,
        )
        notice = {"id": str(letter_id), "saga_id": saga.id, "step": step, "operation": letter.operation}
        await connection.execute(_NOTICE, _json(notice))
    if (told := write.notice) is not None:
        notice_id = str(uuid.uuid4())
        sealed = sealer.seal(notice_id, NOTICE, told.body)
        await connection.execute(_TELL, notice_id, saga.tenant, saga.id, told.type, saga.notify_url, *sealed, at)
    if write.events:
        await connection.execute(_PUBLISH, write.events)
    if write.audit is not None:
        await record_at(connection, at, saga.tenant, saga.id, write.audit)


def new_id(at: Micros) -> str:
    """A UUID of version 7 (RFC 9562): ids sort by the time at which they were made."""
    random = uuid.uuid4().int
    value = (at // 1000 & 0xFFFFFFFFFFFF) << 80 | 0x7 << 76 | (random >> 64 & 0xFFF) << 64
    value |= 0b10 << 62 | random & 0x3FFFFFFFFFFFFFFF
    return str(uuid.UUID(int=value))
