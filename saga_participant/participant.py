"""A service that listens to events, does its local transaction, publishes the result, and undoes on a failure event.

::

    inventory = Participant("inventory", engine, redis_url="redis://...", correlation="data.order_id")

    @inventory.step(
        "ReserveInventory", trigger="OrderPlaced", succeeded="InventoryReserved", failed="InventoryReservationFailed",
        compensated="InventoryReleased", undone_by=["PaymentFailed", "OrderConfirmationFailed"],
    )
    async def reserve(event: Event, session: AsyncSession) -> dict:
        ...                                             # the effect; returns the data of InventoryReserved
        raise Refused("sold out")                       # publishes InventoryReservationFailed

    @reserve.compensation
    async def release(event: Event, session: AsyncSession, done: dict) -> None:
        ...                                             # `done` is what reserve returned

A step is a line of the definition (contract, section 9): the same names, and the same promises as a step that is
called. It stands behind the barrier (see `barrier`), named by its correlation: it is compensated once, whether it was
asked by `CompensationRequested` or saw a failure event or both; a compensation without or before its trigger undoes
nothing and is remembered; a trigger that comes after it does nothing. Each of them is answered by its event, again
each time, so a lost answer is found by asking again.

A handler runs in the transaction that also remembers the event (see `inbox`) and keeps what it publishes (see
`outbox`): all of it happens, or nothing. What it raises: `Refused` is final (the step's `failed` event, or else a
dead letter); anything else is repeated with back-off, and becomes a dead letter after `attempts`. With an async
engine handlers are `async`, with a sync one plain functions that run in threads.

Order: what was published for one correlation by one service is handled in that order, but for compensations, which
wait for nothing. Doubled events are dropped. Events of one correlation that were published out of order, or come from
several services at once, are handled as they stand on the stream; a step does not mind (see above), and an `on`
handler that minds has to look at what it finds in its tables.
"""

import asyncio
import contextlib
import inspect
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, async_session
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from saga_participant import Call, Refused, Retry, inbox, outbox
from saga_participant.barrier import Barrier, CalledOff, forget
from saga_participant.events import COMPENSATION_REQUESTED, FIELD, READER, STREAM, Event, correlate
from saga_participant.store import Store, drop_leases, move, position, take_lease
from saga_participant.tables import DAY, now

READ_AT_ONCE: Final = 100
READ_LEASE_SECONDS: Final = 5.0
"""So long nobody of the service reads after its reader was killed: well below what a step may be silent."""
READ_BLOCK_MILLISECONDS: Final = 1000
HANDLERS_AT_ONCE: Final = 4
CLEAN_EVERY_SECONDS: Final = 3600.0
FOREVER: Final = datetime.max.replace(tzinfo=UTC)

log = logging.getLogger(__name__)

try:
    from prometheus_client import Counter
except ImportError:  # a service may do without
    _handled = None
else:
    _handled = Counter(
        "saga_participant_events_total",
        "Attempts to handle an event: done, refused, retried, dead (a dead letter was written)",
        ["service", "handler", "result"],
    )


@dataclass(frozen=True, slots=True)
class _Handler:
    name: str
    work: Callable[[Session, Event], None]
    refuse: Callable[[Session, Event, Refused], None] | None = None
    """What a refusal does instead of becoming a dead letter."""
    wants: Callable[[Event], bool] = lambda _event: True
    is_ordered: bool = True


class Participant:
    """One service's part in choreographed sagas, and the runner of its inbox and outbox.

    `name` is the `source` of what it publishes. `correlation` is a path over an event, such as `data.order_id`, as in
    the definition; what is published without it gets it. `attempts` counts handlings of one event before it becomes
    a dead letter; `retention_seconds` is how long steps, handled events and dead letters are remembered, and events
    that are older on the stream are not looked at. `orchestrator_url` and `api_key` are for `start_saga`; without a
    `redis_url` only that and `call_back` are done. The tables have to be there (see `tables`).
    """

    def __init__(
        self,
        name: str,
        engine: AsyncEngine | Engine,
        *,
        redis_url: str | None = None,
        correlation: str = "subject",
        orchestrator_url: str | None = None,
        api_key: str | None = None,
        attempts: int = 10,
        handler_timeout_seconds: float = 60,
        retention_seconds: float = 30 * DAY,
        poll_seconds: float = 0.5,
    ) -> None:
        self.name = name
        self._marked: str | None = None
        self._store = Store(engine)
        self._redis_url, self._orchestrator_url, self._api_key = redis_url, orchestrator_url, api_key
        self._correlation, self._find = correlation, correlate(correlation)
        self._attempts, self._timeout_seconds = attempts, handler_timeout_seconds
        self._retention_seconds, self._poll_seconds = retention_seconds, poll_seconds
        self._handlers: dict[str, _Handler] = {}
        self._by_type: dict[str, list[_Handler]] = {}
        self._owner, self._clean_at = str(uuid.uuid4()), 0.0
        self._sender = outbox.Sender(self._store, self._owner)

    def on(self, *types: str, name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Handles events of these types: `handler(event, session)`.

        `name` is how the inbox knows it, by default the function's own: renamed, it is another handler.
        """

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self._check(function)
            self._add(types, _Handler(name or function.__name__, lambda db, event: self._call(function, db, event)))
            return function

        return register

    def step(
        self,
        name: str,
        *,
        trigger: str,
        succeeded: str,
        failed: str | None = None,
        compensated: str | None = None,
        undone_by: Iterable[str] = (),
    ) -> Callable[[Callable[..., Any]], "Step"]:
        """Declares a step as its definition does. `undone_by`: the failure events of later steps, which it undoes
        without being asked.
        """

        def register(function: Callable[..., Any]) -> Step:
            self._check(function)
            return Step(self, name, function, trigger, succeeded, failed, compensated, tuple(undone_by))

        return register

    def publish(self, session: Any, event_type: str, data: Any, *, correlation: str | None = None) -> Any:
        """Publishes after the commit of `session`. Await it on an async session.

        `correlation` may be left out where `data` holds it. ValueError where there is none.
        """
        if self._redis_url is None:
            raise ValueError(f"{self.name} has no redis_url to publish to")
        found = correlation or self._find(Event(event_type, self.name, data))
        return outbox.publish(session, self._event(event_type, data, found))

    async def run(self) -> None:
        """Reads, handles, publishes and posts until it is cancelled. Any number of processes may run it.

        Redis, the orchestrator or the database may be away at any time: it goes on when they are back.
        """
        self._bell = asyncio.Event()  # of this event loop
        try:
            async with contextlib.AsyncExitStack() as stack:
                loops = await self._loops(stack, READ_BLOCK_MILLISECONDS)
                if not self._store.has_one_writer:
                    loops += [self._handle_next] * (HANDLERS_AT_ONCE - 1)
                group = await stack.enter_async_context(asyncio.TaskGroup())
                for doing in loops:
                    group.create_task(self._again_and_again(doing))
        finally:
            with contextlib.suppress(Exception):  # else they end by themselves
                await self._store.run(lambda session: drop_leases(session, self._owner))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """`run` beside the service, in its own event loop: for the lifespan of a FastAPI application."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def settle(self) -> None:
        """Reads, handles, publishes and posts until nothing is due any more; for a service's own tests."""
        async with contextlib.AsyncExitStack() as stack:
            loops = await self._loops(stack, None)
            while any([await doing() for doing in loops]):  # a list: each has its turn
                pass

    async def dead_letters(self) -> list[dict[str, Any]]:
        """`{id, source, event_id, handler, lane, event, attempts, error, ...}`, the oldest first."""
        return await self._store.run(inbox.dead_letters)

    async def retry_dead_letter(self, letter_id: int) -> bool:
        """Tries it again, with a fresh budget; False where there is none of that id."""
        return await self._store.run(lambda session: inbox.revive(session, letter_id))

    async def _loops(
        self, stack: contextlib.AsyncExitStack, block_milliseconds: int | None
    ) -> list[Callable[[], Awaitable[int]]]:
        """What a runner does in turns or side by side; each returns how much it found."""
        http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        loops: list[Callable[[], Awaitable[int]]] = [
            self._handle_next,
            self._clean,
            lambda: self._sender.post_waiting(http, self._orchestrator_url, self._api_key),
        ]
        if self._redis_url is not None:
            made = Redis.from_url(self._redis_url, protocol=2, socket_timeout=5, socket_connect_timeout=5)
            redis = await stack.enter_async_context(made)
            loops += [lambda: self._read(redis, block_milliseconds), lambda: self._sender.publish_waiting(redis)]
        return loops

    async def _again_and_again(self, doing: Callable[[], Awaitable[int]]) -> None:
        task = asyncio.current_task()
        # A cancel can be swallowed on its way through a driver that cleans up: it is asked for, too.
        while task is None or not task.cancelling():
            try:
                found = await doing()
            except (RedisError, SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("%s waits for a server: %s", self.name, error)
                found = 0
            except Exception:  # whatever it is, the other loops have to go on
                log.exception("%s goes on after an error", self.name)
                found = 0
            if found:
                self._bell.set()  # what one loop has done is often work for another, and polling finds what it misses
                self._bell.clear()
            else:
                # Not wait_for: Python 3.11's swallows a cancel that comes together with the bell.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await self._bell.wait()

    async def _read(self, redis: "Redis", block_milliseconds: int | None) -> int:
        """Writes down one batch from the stream; how many entries it had."""
        cursor = await self._store.run(self._cursor)
        if cursor is None:  # another process reads
            return 0
        # The stream does not know the entry that we read last: it was lost, or trimmed. What is read twice is dropped.
        if cursor and not await redis.xrange(STREAM, cursor, cursor):
            log.warning("%s reads %s from its beginning", self.name, STREAM)
            cursor = ""
            await self._store.run(lambda session: move(session, "read", self._owner, ""))
        if self._marked != cursor:
            await self._mark(redis, cursor)
        found: Any = await redis.xread({STREAM: cursor or "0-0"}, READ_AT_ONCE, block_milliseconds)
        entries = found[0][1] if found else []
        rows = [row for stream_id, fields in entries for row in self._rows(stream_id.decode(), fields)]
        if entries:
            last = entries[-1][0].decode()
            await self._store.run(lambda session: self._keep(session, rows, last))
            await self._mark(redis, last)
        return len(entries)

    async def _mark(self, redis: "Redis", cursor: str) -> None:
        """Says in the stream how far we have read, as a group that reads nothing: nobody trims what it still needs."""
        group, at = f"{READER}{self.name}", cursor or "0-0"
        try:
            await redis.xgroup_setid(STREAM, group, at)
        except ResponseError:  # there is no such group, or no stream
            with contextlib.suppress(ResponseError):  # another process has just made it
                await redis.xgroup_create(STREAM, group, at, mkstream=True)
        self._marked = cursor

    def _cursor(self, session: Session) -> str | None:
        if not take_lease(session, "read", self._owner, READ_LEASE_SECONDS):
            return None
        return position(session, "read")

    def _keep(self, session: Session, rows: list[dict[str, Any]], cursor: str) -> None:
        if move(session, "read", self._owner, cursor):
            inbox.keep(session, rows)

    def _rows(self, stream_id: str, fields: dict[bytes, bytes]) -> list[dict[str, Any]]:
        """The inbox's rows for one entry of the stream: one for each handler that wants it."""
        if int(stream_id.partition("-")[0]) / 1000 < now() - self._retention_seconds:
            return []  # we may have handled it and forgotten that
        text = fields.get(FIELD.encode(), b"")
        try:
            event = Event.from_json(text)
        except ValueError as error:
            log.error("the entry %s of %s is not an event: %s", stream_id, STREAM, error)  # noqa: TRY400 - no fault of ours
            self._count("", "dead")
            head = ascii(text[:10_000])
            return [inbox.entry(STREAM, stream_id, inbox.UNREADABLE, None, head, error=str(error))]
        wanting = [handler for handler in self._by_type.get(event.type, []) if handler.wants(event)]
        return [self._row(handler, event) for handler in wanting]

    def _row(self, handler: _Handler, event: Event) -> dict[str, Any]:
        correlation = self.correlation_of(event)
        lane = correlation if handler.is_ordered else None
        error = None
        if correlation is None:
            error = f"no correlation at {self._correlation}"
            log.error("%s %s of %s has %s", event.type, event.id, event.source, error)
            self._count(handler.name, "dead")
        return inbox.entry(event.source, event.id, handler.name, lane, event.to_json(), error=error)

    async def _handle_next(self) -> int:
        """Makes one attempt; 0 where nothing was due."""
        row = await self._store.run(inbox.claim)
        if row is None:
            return 0
        handler = self._handlers.get(row.handler)
        if handler is None:
            await self._end(row, "dead", f"nothing here is called {row.handler} any more")
        elif row.attempts > self._attempts:
            await self._end(row, "dead", "the process ended in each of its attempts")
        else:
            await self._attempt(row, handler, Event.from_json(row.event))
        return 1

    async def _attempt(self, row: Any, handler: _Handler, event: Event) -> None:
        def work(session: Session) -> None:
            if inbox.still_ours(session, row):
                handler.work(session, event)
                inbox.finish(session, row, "done")

        try:
            await self._store.run(work)
        except Refused as refused:
            await self._refused(row, handler, event, refused)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, the others go on
            state = "dead" if row.attempts >= self._attempts else "waiting"
            await self._end(row, state, f"{type(error).__name__}: {error}", error)
        else:
            self._count(handler.name, "done")

    async def _refused(self, row: Any, handler: _Handler, event: Event, refused: Refused) -> None:
        refuse = handler.refuse
        if refuse is None:
            await self._end(row, "dead", f"refused: {refused}")
            return

        def work(session: Session) -> None:
            if inbox.still_ours(session, row):
                refuse(session, event, refused)
                inbox.finish(session, row, "done")

        await self._store.run(work)
        self._count(handler.name, "refused")

    async def _end(self, row: Any, state: str, why: str, error: Exception | None = None) -> None:
        """An attempt failed: it waits for the next one, or is a dead letter."""
        after_seconds = error.after_seconds if isinstance(error, Retry) else None

        def work(session: Session) -> None:
            if inbox.still_ours(session, row):
                inbox.finish(
                    session,
                    row,
                    state,
                    why.replace("\0", "").encode(errors="replace").decode()[:10_000],
                    after_seconds=after_seconds,
                )

        await self._store.run(work)
        self._count(row.handler, "dead" if state == "dead" else "retried")
        text = "%s: %s gives up the event %s of %s, a dead letter now: %s"
        if state != "dead":
            text = "%s: %s failed with the event %s of %s and tries again: %s"
        level = logging.ERROR if state == "dead" else logging.WARNING
        log.log(level, text, self.name, row.handler, row.event_id, row.source, why, exc_info=error)

    async def _clean(self) -> int:
        """Forgets, once an hour, what is older than the retention."""
        if time.monotonic() < self._clean_at:
            return 0
        self._clean_at, seconds = time.monotonic() + CLEAN_EVERY_SECONDS, self._retention_seconds
        await self._store.run(lambda session: forget(session, older_than_seconds=seconds))
        await self._store.run(lambda session: inbox.forget_handled(session, seconds))
        await self._store.run(lambda session: outbox.forget_sent(session, seconds))
        return 0

    def correlation_of(self, event: Event) -> str | None:
        if event.type == COMPENSATION_REQUESTED:
            return correlate("data.correlation")(event)
        return self._find(event)

    def _event(self, event_type: str, data: Any, correlation: str | None) -> Event:
        path = self._correlation.split(".")
        if path[0] == "data" and len(path) == 2 and isinstance(data, dict | None):
            data = {path[1]: correlation, **(data or {})}
        event = Event(event_type, self.name, data, subject=correlation)
        if correlation is None or self._find(event) != correlation:
            raise ValueError(f"{event_type} has no correlation at {self._correlation}, or not that of its cause")
        return event

    def _check(self, function: Callable[..., Any]) -> None:
        if inspect.iscoroutinefunction(function) != self._store.is_async:
            wanted = "async, as its engine is" if self._store.is_async else "a plain function, as its engine is sync"
            raise TypeError(f"{function.__name__} has to be {wanted}")

    def _add(self, types: Iterable[str], handler: _Handler) -> None:
        if self._redis_url is None:
            raise ValueError(f"{self.name} has no redis_url, so no event reaches {handler.name}")
        if self._handlers.setdefault(handler.name, handler) is not handler:
            raise ValueError(f"two handlers of {self.name} are called {handler.name}")
        for event_type in types:
            self._by_type.setdefault(event_type, []).append(handler)

    def _call(self, function: Callable[..., Any], session: Session, *arguments: Any) -> Any:
        """Calls a handler from within the transaction; `arguments` begin with the event."""
        event, *more = arguments
        if not self._store.is_async:
            return function(event, session, *more)

        async def call() -> Any:
            async with asyncio.timeout(self._timeout_seconds):
                return await function(event, async_session(session), *more)

        return await_only(call())

    def _count(self, handler: str, result: str) -> None:
        if _handled is not None:
            _handled.labels(self.name, handler, result).inc()


class Step:
    """A step as `Participant.step` declares it."""

    def __init__(
        self,
        participant: Participant,
        name: str,
        function: Callable[..., Any],
        trigger: str,
        succeeded: str,
        failed: str | None,
        compensated: str | None,
        undone_by: tuple[str, ...],
    ) -> None:
        self._participant, self._name, self._act = participant, name, function
        self._succeeded, self._failed, self._compensated = succeeded, failed, compensated
        self._undone_by = undone_by
        refuse = None if failed is None else self._refuse
        participant._add([trigger], _Handler(name, self._do, refuse))

    def compensation(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Registers `release(event, session, done)`: what it returns is the data of the `compensated` event."""
        self._participant._check(function)
        self._undo_function = function
        handler = _Handler(f"{self._name}/compensation", self._undo, wants=self._is_asked, is_ordered=False)
        self._participant._add([*self._undone_by, COMPENSATION_REQUESTED], handler)
        return function

    def _do(self, session: Session, event: Event) -> None:
        try:
            with Barrier(session, self._call(event, "action")) as barrier:
                if barrier.due:
                    barrier.answer = self._participant._call(self._act, session, event)
        except CalledOff:
            self._publish(session, event, self._compensated, None)
        else:
            self._publish(session, event, self._succeeded, barrier.answer)

    def _refuse(self, session: Session, event: Event, refused: Refused) -> None:
        self._publish(session, event, self._failed, {"step": self._name, "reason": str(refused)})

    def _undo(self, session: Session, event: Event) -> None:
        with Barrier(session, self._call(event, "compensation")) as barrier:
            if barrier.due:
                barrier.answer = self._participant._call(self._undo_function, session, event, barrier.done)
        self._publish(session, event, self._compensated, barrier.answer)

    def _is_asked(self, event: Event) -> bool:
        if event.type != COMPENSATION_REQUESTED:
            return True
        return isinstance(event.data, dict) and event.data.get("step") == self._name

    def _call(self, event: Event, operation: str) -> Call:
        """The step of this correlation as the barrier knows it; apart from every saga of the orchestrator."""
        saga_id = f"event/{self._participant.correlation_of(event)}"
        key = f"{saga_id}/{self._name}" + ("/compensation" if operation == "compensation" else "")
        return Call(saga_id, "", self._name, operation, 1, event.data, {}, None, key, FOREVER)

    def _publish(self, session: Session, event: Event, event_type: str | None, data: Any) -> None:
        correlation = self._participant.correlation_of(event)
        if event_type is not None and correlation is not None:
            outbox.publish(session, self._participant._event(event_type, data, correlation))
