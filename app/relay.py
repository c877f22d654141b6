"""From the database to the world outside, at least once. Safe in any number.

Dead letters go to Redis with each sweep. Notices go to receivers that may be slow, dead or many, so they are delivered
beside everything else: the sweep only wakes the courier. Not promised: that receivers do not feel each other. They
share the courier's places; half of those are for notices that were not tried yet, so that what fails holds up what
fails.
"""

import asyncio
from datetime import UTC, datetime
from typing import Final

import aiohttp
from standardwebhooks import Webhook

from app import broker, notices, probes
from app.errors import DatabaseUnavailable
from app.observability import log
from app.participants.contract import readable
from app.participants.http import KEEPALIVE_SECONDS, unconnected
from app.saga.backoff import delay_seconds
from app.saga.definition import RetryPolicy
from app.settings import Settings
from app.store.notices import Notice, Notices
from app.store.outbox import Outbox

BATCH: Final = 100
DEAD_LETTER: Final = "dead-letter"

AT_ONCE: Final = 32
"""Notices that one worker delivers at a time for the first time, and as many again."""

TIMEOUT_SECONDS: Final = 10
"""Of one delivery; well within `app.store.notices.LEASE`."""

BACKOFF: Final = RetryPolicy(initial_delay_seconds=1, multiplier=2, max_delay_seconds=3600, jitter=0.2)
"""Without limit of attempts: `SAGA_NOTIFY_FOR` ends it."""


class Relay:
    def __init__(self, outbox: Outbox, publisher: broker.Publisher) -> None:
        self._outbox, self._publisher = outbox, publisher

    async def drain(self) -> int:
        """Sends what is due; returns how much."""
        sent = 0
        while rows := await self._outbox.lease(BATCH, (DEAD_LETTER,)):
            letters = [(row.payload,) for row in rows]
            if not await self._publisher.deliver(broker.DEAD_LETTERS, broker.DEAD_LETTER, letters):
                break  # Redis is away: the leases end, and then it is tried again
            await self._outbox.sent(rows)
            sent += len(rows)
            if len(rows) < BATCH:
                break
        return sent


class Courier:
    """Delivers notices, of one process and event loop. 2xx is delivered; redirects are not followed."""

    def __init__(self, store: Notices, settings: Settings) -> None:
        self._store, self._settings = store, settings
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
        error = notices.refused(notice.url, self._settings)  # what may be told can have changed since it was taken
        error = await self._post(notice) if error is None else f"its address {error}"
        await probes.passed(probes.NOTICE_SENT, notice_id=notice.id)
        if error is None:
            await self._store.told(notice)
            return
        delay = delay_seconds(BACKOFF, notice.attempt, notice.id)
        if await self._store.failed(notice, readable(error), delay, self._settings.notify_for):
            log.error("notice %s (%s of saga %s) is given up: %s", notice.id, notice.type, notice.saga_id, error)

    async def _post(self, notice: Notice) -> str | None:
        """Why it was not delivered, or None."""
        if self._session is None:
            # Neither proxies nor .netrc of the environment: a notice goes to its address or nowhere.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                trust_env=False,
                headers={"User-Agent": "saga-orchestrator", "Content-Type": "application/json"},
            )
        try:
            async with self._session.post(
                notice.url, data=notice.body, headers=self._headers(notice), allow_redirects=False
            ) as response:
                return None if 200 <= response.status < 300 else f"the receiver answered {response.status}"
        except TimeoutError:
            return f"the receiver did not answer within {TIMEOUT_SECONDS} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"no answer came: {unconnected(error)}"

    def _headers(self, notice: Notice) -> dict[str, str]:
        now = datetime.now(UTC)  # of this attempt: the receiver refuses what is old by its own clock
        headers = {"webhook-id": notice.id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._signers:
            signed = [signer.sign(notice.id, now, notice.body.decode()) for signer in self._signers]
            headers["webhook-signature"] = " ".join(signed)
        return headers

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
