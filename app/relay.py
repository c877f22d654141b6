"""From the database to the world outside, at least once. Safe in any number.

Dead letters and events go to Redis with each sweep, and events also as soon as they are written. Events keep the order
of their rows within what one process takes at a time, and no other. Notices, and events for services that listen at an
address, go to receivers that may be slow, dead or many, so they are delivered beside everything else: the sweep only
wakes the courier. Not promised: that receivers do not feel each other. They share the courier's places; half of those
are for what was not tried yet, so that what fails holds up what fails.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from standardwebhooks import Webhook

from app import broker, notices, probes
from app.bus import Bus
from app.errors import DatabaseUnavailable
from app.observability import log
from app.participants.addresses import Connector
from app.participants.contract import readable
from app.participants.http import RETRY, open_session, unconnected, webhook_headers
from app.saga.backoff import delay_seconds
from app.saga.definition import RetryPolicy
from app.settings import Settings
from app.store.events import TOPIC
from app.store.notices import Notice, Notices
from app.store.outbox import Outbox, OutboxRow
from app.store.services import WAIT_SECONDS, Services

BATCH: Final = 100
DEAD_LETTER: Final = "dead-letter"

AT_ONCE: Final = 32
"""Notices that one worker delivers at a time for the first time, and as many again."""

TIMEOUT_SECONDS: Final = 10
"""Of one delivery; well within `app.store.notices.LEASE`."""

BACKOFF: Final = RetryPolicy(initial_delay_seconds=1, multiplier=2, max_delay_seconds=3600, jitter=0.2)
"""Of notices, without limit of attempts: `SAGA_NOTIFY_FOR` ends it."""

EVENT_BACKOFF: Final = RetryPolicy(
    max_attempts=20, initial_delay_seconds=1, multiplier=2, max_delay_seconds=300, jitter=0.2
)
"""Of events for a subscribed service; then a dead letter takes its place."""


class Relay:
    def __init__(self, outbox: Outbox, publisher: broker.Publisher, bus: Bus) -> None:
        self._outbox, self._publisher, self._bus = outbox, publisher, bus
        self._publishing: asyncio.Task[None] | None = None
        self._again = False

    async def drain(self) -> int:
        """Sends what is due; returns how much."""
        return await self._drain(DEAD_LETTER, self._ring) + await self._drain(TOPIC, self._publish)

    def wake(self) -> None:
        """Publishes what was just written, in the background; returns at once. The sweep finds what is missed."""
        self._again = True
        if self._publishing is None:
            self._publishing = asyncio.create_task(self._publish_written())

    async def _publish_written(self) -> None:
        try:
            while self._again:
                self._again = False
                await self._drain(TOPIC, self._publish)
        except DatabaseUnavailable as error:
            log.warning("events are published by the sweep: %s", error)
        except Exception:  # noqa: BLE001 - the sweep tries again
            log.exception("events are published by the sweep")
        finally:
            self._publishing = None

    async def _drain(self, topic: str, send: Callable[[Sequence[OutboxRow]], Awaitable[bool]]) -> int:
        sent = 0
        while rows := await self._outbox.lease(BATCH, (topic,)):
            if not await send(rows):
                break  # Redis is away: the leases end, and then it is tried again
            await self._outbox.sent(rows)
            sent += len(rows)
            if len(rows) < BATCH:
                break
        return sent

    async def _ring(self, rows: Sequence[OutboxRow]) -> bool:
        letters = [(row.payload,) for row in rows]
        return await self._publisher.deliver(broker.DEAD_LETTERS, broker.DEAD_LETTER, letters)

    async def _publish(self, rows: Sequence[OutboxRow]) -> bool:
        try:
            await self._bus.publish([row.payload for row in rows])
        except broker.GONE as error:
            log.warning("%d events wait for redis: %s", len(rows), error or type(error).__name__)
            return False
        await probes.passed(probes.EVENTS_PUBLISHED)
        return True

    async def close(self) -> None:
        self._again = False
        if self._publishing is not None:
            await asyncio.wait([self._publishing])


@dataclass(frozen=True, slots=True)
class _Failure:
    why: str
    status: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether the receiver has said that it will never take it."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in RETRY


class Courier:
    """Delivers notices and events, of one process and event loop. 2xx is delivered; redirects are not followed."""

    def __init__(
        self, store: Notices, services: Services, settings: Settings, resolver: AbstractResolver | None = None
    ) -> None:
        self._store, self._services, self._settings, self._resolver = store, services, settings, resolver
        # Several secrets are for rotation: each signs, and the receiver accepts any that it knows.
        secrets = settings.webhook_secret.get_secret_value().split() if settings.webhook_secret is not None else []
        self._signers = [Webhook(secret) for secret in secrets]
        self._session: aiohttp.ClientSession | None = None
        self._looking: asyncio.Task[None] | None = None
        self._under_way: dict[asyncio.Task[None], Notice] = {}
        self._more_due = False
        """Whether the last look may have left something for lack of room."""

    def wake(self) -> None:
        """Delivers what is due, in the background; returns at once."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        again = sum(notice.attempt > 1 for notice in self._under_way.values())
        room = (AT_ONCE - (len(self._under_way) - again), AT_ONCE - again)
        try:
            due = await self._store.lease(*room)
        except DatabaseUnavailable as error:
            log.warning("notices wait: %s", error)
            return
        except Exception:  # noqa: BLE001 - the next sweep looks again
            log.exception("notices cannot be looked for")
            return
        finally:
            self._looking = None
        tried = sum(notice.attempt > 1 for notice in due)
        self._more_due = len(due) - tried >= room[0] or tried >= room[1]
        for notice in due:
            task = asyncio.create_task(self._deliver(notice))
            self._under_way[task] = notice
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        notice = self._under_way.pop(task)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            # Its lease ends, and then it is delivered again.
            log.error("what became of notice %s was not written", notice.id, exc_info=error)
        if self._more_due:
            self.wake()

    async def _deliver(self, notice: Notice) -> None:
        if notice.unreadable is not None:
            # Not the receiver's fault: it is tried for as long as a receiver would be, and never becomes a letter.
            await self._put_off(notice, notice.unreadable)
            return
        service = None if notice.service is None else await self._services.get(notice.service)
        if service is not None and service.pause is not None:
            await self._store.wait(notice, WAIT_SECONDS)
            return
        failure = await (self._tell(notice) if notice.service is None else self._hand_over(notice, notice.service))
        await probes.passed(probes.NOTICE_SENT, notice_id=notice.id)
        if failure is None:
            await self._store.told(notice)
            return
        why = readable(failure.why)
        if notice.service is None:
            await self._put_off(notice, why)
        elif failure.is_final or notice.attempt >= EVENT_BACKOFF.max_attempts:
            log.error("an event %s for %s is given up: %s", notice.type, notice.service, why)
            code = "refused" if failure.is_final else "exhausted"
            status = {} if failure.status is None else {"status": failure.status}
            await self._store.dead(notice, {"code": code, "message": why, **status})
        else:
            await self._store.failed(notice, why, delay_seconds(EVENT_BACKOFF, notice.attempt, notice.id), None)

    async def _put_off(self, notice: Notice, why: str) -> None:
        """An event that is put off here is never given up: nobody would look for it among notices."""
        delay = delay_seconds(BACKOFF, notice.attempt, notice.id)
        keep = self._settings.notify_for if notice.service is None else None
        if await self._store.failed(notice, why, delay, keep):
            log.error("notice %s (%s of saga %s) is given up: %s", notice.id, notice.type, notice.saga_id, why)

    async def _tell(self, notice: Notice) -> _Failure | None:
        url = notice.url or ""
        fault = notices.refused(url, self._settings)  # what may be told can have changed since it was taken
        if fault is not None:
            return _Failure(f"its address {fault}")
        return await self._post(notice, url, {"Content-Type": "application/json"}, self._signers)

    async def _hand_over(self, notice: Notice, name: str) -> _Failure | None:
        service = await self._services.get(name)
        if service is None or service.url is None:
            return _Failure(f"the service {name} has no address any more")
        headers = {**service.headers, "Content-Type": "application/cloudevents+json"}
        signers = [Webhook(secret) for secret in service.secrets]
        return await self._post(notice, f"{service.url.rstrip('/')}/events", headers, signers)

    async def _post(
        self, notice: Notice, url: str, headers: Mapping[str, str], signers: Sequence[Webhook]
    ) -> _Failure | None:
        """Why it was not delivered, or None."""
        if self._session is None:
            self._session = open_session(self._resolver, connector=Connector, timeout_seconds=TIMEOUT_SECONDS)
        try:
            async with self._session.post(
                url,
                data=notice.body,
                headers={**headers, **webhook_headers(notice.id, notice.body, signers)},
                allow_redirects=False,
            ) as response:
                if 200 <= response.status < 300:
                    return None
                return _Failure(f"the receiver answered {response.status}", response.status)
        except TimeoutError:
            return _Failure(f"the receiver did not answer within {TIMEOUT_SECONDS} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            came = "no connection was made" if isinstance(error, aiohttp.ClientConnectorError) else "no answer came"
            return _Failure(f"{came}: {unconnected(error)}")

    async def close(self) -> None:
        """Cuts off what is under way; it is delivered again once its lease is over."""
        self._more_due = False
        tasks = [*self._under_way, *([self._looking] if self._looking is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._session is not None:
            await self._session.close()
