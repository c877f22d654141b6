"""Follows the stream `saga:events`, as one more consumer of it: each event is told to the sagas that it belongs to, and
handed to the services that subscribe to it.

An entry is acknowledged when everything that follows from it is committed; until then it is read again, by this process
or by another. So every entry is dealt with at least once, and what is dealt with twice changes nothing. Entries of one
correlation are told in the order in which they were read; correlations do not wait for each other.

Nothing blocks the stream. What cannot be processed (no CloudEvent, no correlation, a mistake of ours that persists)
becomes a dead letter and is acknowledged. Without PostgreSQL nothing is acknowledged, without Redis nothing is read,
and both are asked again at growing distances. A stream without events costs the database nothing.
"""

import asyncio
import json
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from app import broker, observability, probes
from app.bus import Bus, Entry
from app.engine import Engine, Observed
from app.errors import DatabaseUnavailable, Problem
from app.observability import log
from app.participants.contract import readable
from app.saga.expressions import ExpressionFailed, evaluate
from app.saga.jsonable import json_fault
from app.settings import Settings
from app.store.definitions import Definitions, Follower
from app.store.events import FORGOTTEN_AT_ONCE, Delivery, EventLetter, Events
from app.store.services import Services
from saga_participant.events import LONGEST_NAME_BYTES, Event

TRIES: Final = 3
"""Of an event that we fail at, before it becomes a dead letter."""

LONGEST_PAUSE_SECONDS: Final = 5.0
TAKE_OVER_SECONDS: Final = 10.0
CHORES_SECONDS: Final = 60.0
FORGET_ROUNDS: Final = 10
SUBSCRIPTIONS_SECONDS: Final = 1.0
LETTER_CHARACTERS: Final = 65_536
"""Of what is no event, so much is kept."""

UNKNOWN: Final = "unknown"
DEAD: Final = "dead"
"""Results in the metrics, beside those of `Engine.observe`."""


class Poison(ValueError):  # noqa: N818 - what the event is
    """An event that cannot be processed, however often it is tried: a sentence."""


@dataclass(slots=True)
class _Batch:
    """What follows from some entries of the stream."""

    tellings: dict[tuple[str, str], list[tuple[str, Follower, Event]]] = field(default_factory=dict)
    """By definition and correlation: (entry, follower, event), in their order."""
    deliveries: list[Delivery] = field(default_factory=list)
    undone: set[str] = field(default_factory=set)
    """Entries that have to be read again."""


class Tracker:
    """Of one process and event loop."""

    def __init__(
        self,
        bus: Bus,
        engine: Engine,
        definitions: Definitions,
        services: Services,
        events: Events,
        settings: Settings,
    ) -> None:
        self._bus, self._engine, self._definitions = bus, engine, definitions
        self._services, self._events, self._settings = services, events, settings
        self._reader = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._subscribers: dict[str, list[str]] = {}
        self._subscribers_at = float("-inf")
        self._holds = False
        """Whether entries that we were given may still have to be dealt with."""
        self._take_over_at = self._chores_at = time.monotonic()

    # --- following ---

    async def run(self) -> None:
        """Follows the stream until it is cancelled."""
        pause, told = 0.0, False
        ours = asyncio.current_task()
        # Python 3.11 loses a cancellation that comes while redis-py waits in `wait_for`; the task remembers it.
        while ours is None or not ours.cancelling():
            try:
                await self.turn()
                if told:
                    log.info("the tracker follows the stream again")
                pause, told = 0.0, False
                continue
            except (*broker.GONE, DatabaseUnavailable) as error:
                if not told:
                    log.warning("the tracker waits: %s", error or type(error).__name__)
            except Exception:  # noqa: BLE001 - whatever it is, the stream is followed
                if not told:
                    log.exception("the tracker goes on after an error")
            told = True
            pause = min(pause * 2 or 0.1, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def turn(self) -> int:
        """Deals with the next batch, waiting for it a while; how many entries it had."""
        now = time.monotonic()
        if now >= self._chores_at:
            self._chores_at = now + CHORES_SECONDS
            await self._chores()
        entries: list[Entry] | None
        held = self._holds
        if held:
            entries = await self._bus.held(self._reader)
        elif now >= self._take_over_at:
            self._take_over_at = now + TAKE_OVER_SECONDS
            entries = await self._bus.take_over(self._reader)
        else:
            entries = await self._bus.read(self._reader)
        if entries is None:
            self._holds = False
            await self._begin()
            return 0
        self._holds = True
        await self._deal_with(entries)
        self._holds = held and bool(entries)
        return len(entries)

    async def _begin(self) -> None:
        # Before the group is there: what came by the door must not be missing from a stream that is new, even where
        # this process dies now. Several processes that find it lost publish it several times, which is harmless.
        await self._events.publish_again()
        if await self._bus.begin():
            log.info("the stream is followed from its beginning")

    async def _deal_with(self, entries: Sequence[Entry]) -> None:
        """Raises what kept an entry from being dealt with; those that were are acknowledged all the same."""
        batch = _Batch()
        for entry in entries:
            await self._sort(batch, entry)
        ended = await asyncio.gather(
            *(self._tell(batch, correlation, told) for (_, correlation), told in batch.tellings.items()),
            return_exceptions=True,
        )
        failures = [error for error in ended if error is not None]
        if batch.deliveries:
            await self._events.deliver(batch.deliveries)
        await probes.passed(probes.EVENTS_DEALT_WITH)
        await self._bus.acknowledge([entry.id for entry in entries if entry.id not in batch.undone])
        if failures:
            raise failures[0]

    async def _sort(self, batch: _Batch, entry: Entry) -> None:
        """Finds out what follows from one entry."""
        if entry.text is None:
            return
        try:
            event = read_event(entry.text)
        except Poison as error:
            await self._give_up(entry.id, "", "", str(error), readable_text(entry.text))
            return
        followers = await self._definitions.followers(event.type)
        for follower in followers:
            try:
                correlation = correlation_of(follower, event)
            except Poison as error:
                await self._give_up_event(event, follower, "correlation-missing", str(error))
                continue
            told = batch.tellings.setdefault((follower.definition.name, correlation), [])
            told.append((entry.id, follower, event))
        subscribers = (await self._subscriptions()).get(event.type, ())
        body = event.to_json().encode() if subscribers else b""
        batch.deliveries += [Delivery(name, event.source, event.id, event.type, body) for name in subscribers]
        if not followers:
            observability.event("", UNKNOWN)

    async def _tell(self, batch: _Batch, correlation: str, told: Sequence[tuple[str, Follower, Event]]) -> None:
        """In their order; what comes after one that could not be told now waits with it."""
        for position, (_, follower, event) in enumerate(told):
            try:
                await self._tell_one(correlation, follower, event)
            except BaseException:
                batch.undone |= {entry_id for entry_id, _, _ in told[position:]}
                raise

    async def _tell_one(self, correlation: str, follower: Follower, event: Event) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                await self.observe(follower, correlation, event)
            except DatabaseUnavailable:
                raise
            except Problem as problem:
                await self._give_up_event(event, follower, problem.code, problem.detail)
            except Exception as error:  # noqa: BLE001 - told by the letter
                if attempt < TRIES:
                    continue
                log.exception("event %s of %s cannot be told to %s", event.id, event.source, follower.definition.name)
                why = f"{type(error).__name__}: see the log of the worker"  # its words may quote a payload
                await self._give_up_event(event, follower, "internal-error", why, attempt)
            return

    async def observe(self, follower: Follower, correlation: str, event: Event) -> None:
        observed = await self._engine.observe(follower, correlation, event, self._kept(event.data))
        observability.event(event.type, observed)
        if observed is Observed.STANDS:
            # A final state never changes, so a letter tells the person who has to look at what stands.
            why = f"The saga {follower.definition.name}:{correlation} had FAILED before it was heard that this was done"
            await self._give_up_event(event, follower, "effect-stands", f"{why}: have it undone by hand")

    def _kept(self, data: Any) -> bytes:
        """As a saga keeps it: null where it is larger than payloads may be."""
        content = _dumps(data)
        return content if len(content) <= self._settings.max_payload_bytes else b"null"

    # --- what cannot be processed ---

    async def again(self, letter: Mapping[str, Any]) -> None:
        """Tells the event of a dead letter once more. Problem 409 where it still cannot be processed."""
        kept = letter["event"]
        try:
            event = read_event(kept.encode() if isinstance(kept, str) else _dumps(kept))
            for follower in await self._definitions.followers(event.type):
                if letter["saga"] in ("", follower.definition.name):
                    await self.observe(follower, correlation_of(follower, event), event)
        except Poison as error:
            raise Problem(409, "event-refused", f"The event still cannot be processed: {error}.") from None

    async def _give_up_event(self, event: Event, follower: Follower, code: str, why: str, attempts: int = 1) -> None:
        name = f"{event.source} {event.id}"
        await self._give_up(
            name, follower.definition.name, event.type, why, json.loads(event.to_json()), code, attempts
        )

    async def _give_up(
        self, name: str, saga: str, event_type: str, why: str, event: Any, code: str = "not-an-event", attempts: int = 1
    ) -> None:
        log.error("an event %s is a dead letter: %s", event_type or "that cannot be read", code)
        observability.event(event_type if saga else "", DEAD)
        error = {"code": code, "message": readable(why)}
        await self._events.give_up(EventLetter(name, saga, event_type, attempts, error, event))

    # --- the rest ---

    async def _subscriptions(self) -> Mapping[str, Sequence[str]]:
        """Services by the type that they subscribe to, at most a second old."""
        if time.monotonic() - self._subscribers_at > SUBSCRIPTIONS_SECONDS:
            asked_at = time.monotonic()
            found: dict[str, list[str]] = {}
            for service in (await self._services.read()).values():
                for event_type in service.subscribes:
                    found.setdefault(event_type, []).append(service.name)
            self._subscribers, self._subscribers_at = found, asked_at
        return self._subscribers

    async def _chores(self) -> None:
        await self._bus.trim(self._settings.events_kept)
        await self._bus.forget_readers()
        for _ in range(FORGET_ROUNDS):
            if await self._events.forget() < FORGOTTEN_AT_ONCE:
                break


def read_event(text: bytes) -> Event:
    """The CloudEvent of an entry. Poison where it is none, or cannot be kept as JSON."""
    try:
        event = Event.from_json(text)
        json.dumps([event.data, event.more], allow_nan=False)
    except ValueError as error:  # what is not UTF-8 included
        raise Poison(f"it is not a CloudEvent in JSON: {error}") from None
    if fault := json_fault([event.data, event.more], any_number=True):
        raise Poison(f"the event {fault}")
    return event


def correlation_of(follower: Follower, event: Event) -> str:
    """The text that names the saga. Poison where the event has none."""
    expression = follower.definition.correlation or ""
    try:
        found = evaluate(expression, json.loads(event.to_json()))
    except ExpressionFailed as error:
        raise Poison(f"the event has no correlation at {expression}: {error.message}") from None
    # A text or a whole number: of anything else, services in other languages would not make the same text.
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise Poison(f"the event has no correlation at {expression}: a text that is not empty, or a whole number")
    if len(str(found).encode()) > LONGEST_NAME_BYTES:
        raise Poison(f"the correlation at {expression} is longer than {LONGEST_NAME_BYTES} bytes")
    return str(found)


def readable_text(text: bytes) -> str:
    return readable(text[: LETTER_CHARACTERS * 4].decode("utf-8", "replace"), LETTER_CHARACTERS)


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
