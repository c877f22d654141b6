"""What leaves the service once its transaction has been committed: events, new sagas, answers that come later.

'Commit the order and start the saga' is one decision, so it is one transaction. These functions write a row into it;
the runner (`Participant.run`) sends it afterwards, at least once, and goes on until it is answered::

    async with sessions.begin() as session:
        session.add(order)
        await start_saga(session, "order", key=order.id, input={"order_id": order.id})

On an async session await what they return; on a plain one the row is written when they return.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from redis.asyncio import Redis
from sqlalchemy import case, delete, insert, select, update
from sqlalchemy.orm import Session

from saga_participant import Call, Refused
from saga_participant.events import FIELD, STREAM, Event
from saga_participant.store import Store, take_lease
from saga_participant.tables import DAY, AnySession, now, outbox

KEEP_PUBLISHED_SECONDS: Final = DAY
BATCH: Final = 200
POSTS_AT_ONCE: Final = 10
PUBLISH_LEASE_SECONDS: Final = 10.0
POST_LEASE_SECONDS: Final = 30.0
POST_SECONDS: Final = 10.0
LONGEST_DELAY_SECONDS: Final = 300.0
NEVER: Final = {"saga": {400, 409, 413, 422}, "callback": {400, 404, 413, 422}}
"""Answers that repeating will not change. A missing definition or a wrong key can be mended: these are repeated."""
ANSWERED: Final = {"saga": {200, 202}, "callback": {200, 202, 204, 409}}
"""409 to a callback: the saga has moved on without it."""

log = logging.getLogger(__name__)


def publish(session: AnySession, event: Event) -> Any:
    """Publishes an event on the stream after the commit.

    In the order in which they were written, for events of which one was written after the other's commit.
    """
    return _write(session, "event", event.id, event.to_json())


def start_saga(
    session: AnySession,
    saga: str,
    *,
    key: str,
    input: Any = None,  # noqa: A002 - the API's word
    version: int | None = None,
    labels: Mapping[str, str] | None = None,
    timeout: str | None = None,
    start_at: str | None = None,
    notify_url: str | None = None,
) -> Any:
    """Starts a saga after the commit: `POST /sagas`, whose fields these are, with `key` as its idempotency key."""
    if not (1 <= len(key) <= 200 and key.isascii() and all("!" <= character <= "~" for character in key)):
        raise ValueError("an idempotency key is 1 to 200 visible ASCII characters")
    body = {"saga": saga, "input": {} if input is None else input}
    more = {"version": version, "labels": labels, "timeout": timeout, "start_at": start_at, "notify_url": notify_url}
    body |= {name: value for name, value in more.items() if value is not None}
    return _write(session, "saga", key, json.dumps(body, allow_nan=False))


def call_back(session: AnySession, call: Call, answer: Any) -> Any:
    """Answers after the commit a call that was answered with 202. `answer`: the output, or a `Refused`.

    Write it in the transaction of the effect, behind the barrier. ValueError where the call has no callback address.
    """
    if call.callback_url is None:
        raise ValueError("the call has no callback address: the orchestrator has no SAGA_SECRET_KEY")
    refused = isinstance(answer, Refused)
    body = {"status": "refused", "error": str(answer)} if refused else {"status": "succeeded", "output": answer}
    return _write(session, "callback", call.callback_url, json.dumps(body, allow_nan=False))


def _write(session: Any, kind: str, target: str, body: str) -> Any:
    row = {"kind": kind, "target": target, "body": body, "state": "waiting", "attempts": 0, "due_at": now()}
    return session.execute(insert(outbox).values(row))


class Sender:
    """Sends what waits in the outbox. One process of a service at a time does, so that events keep their order."""

    def __init__(self, store: Store, owner: str) -> None:
        self._store, self._owner = store, owner

    async def publish_waiting(self, redis: "Redis") -> int:
        """Publishes one batch of events; how many. Publishes again first what the stream has lost."""
        began = time.monotonic()
        held, newest = await self._store.run(self._newest)
        if not held:
            return 0
        # A stream only ever loses its newest entries or all; the oldest go when somebody trims it on purpose.
        if newest is not None and not await redis.xrange(STREAM, newest, newest):
            await self._publish_again(redis)
        rows = await self._store.run(_waiting_events)
        if not rows or time.monotonic() - began > PUBLISH_LEASE_SECONDS / 2:
            return 0
        async with redis.pipeline(transaction=True) as pipeline:  # all or none: a gap would change the order
            for row in rows:
                pipeline.xadd(STREAM, {FIELD: row.body})
            ids = [stream_id.decode() for stream_id in await pipeline.execute()]
        await self._store.run(lambda session: _published(session, [row.id for row in rows], ids))
        return len(rows)

    def _newest(self, session: Session) -> tuple[bool, str | None]:
        if not take_lease(session, "publish", self._owner, PUBLISH_LEASE_SECONDS):
            return False, None
        recent = (
            select(outbox.c.stream_id)
            .where(*_published_lately())
            .order_by(outbox.c.sent_at.desc(), outbox.c.id.desc())
            .limit(1)
        )
        return True, session.execute(recent).scalar_one_or_none()

    async def _publish_again(self, redis: "Redis") -> None:
        kept = await self._store.run(_kept)
        lost = []
        for start in range(0, len(kept), BATCH):
            batch = kept[start : start + BATCH]
            async with redis.pipeline(transaction=False) as pipeline:
                for row in batch:
                    pipeline.xrange(STREAM, row.stream_id, row.stream_id)
                lost += [row.id for row, found in zip(batch, await pipeline.execute(), strict=True) if not found]
        log.error("the stream %s has lost %d of our events; they are published again", STREAM, len(lost))
        await self._store.run(lambda session: _wait_again(session, lost))

    async def post_waiting(self, http: aiohttp.ClientSession, orchestrator_url: str | None, api_key: str | None) -> int:
        """Posts one batch of new sagas and later answers, side by side; how many were answered."""
        kinds = ["callback"] if orchestrator_url is None else ["callback", "saga"]
        rows = await self._store.run(lambda session: self._waiting_posts(session, kinds))
        return sum(await asyncio.gather(*(self._post(http, row, orchestrator_url, api_key) for row in rows)))

    def _waiting_posts(self, session: Session, kinds: list[str]) -> Any:
        if not take_lease(session, "post", self._owner, POST_LEASE_SECONDS):
            return []
        due = select(outbox).where(outbox.c.state == "waiting", outbox.c.kind.in_(kinds), outbox.c.due_at <= now())
        return session.execute(due.order_by(outbox.c.id).limit(POSTS_AT_ONCE)).all()

    async def _post(
        self, http: aiohttp.ClientSession, row: Any, orchestrator_url: str | None, api_key: str | None
    ) -> bool:
        url, headers = row.target, {"Content-Type": "application/json"}
        if row.kind == "saga":
            url = f"{(orchestrator_url or '').rstrip('/')}/sagas"
            headers |= {"Idempotency-Key": row.target, "Authorization": f"Bearer {api_key}"}
        try:
            async with http.post(
                url,
                data=row.body.encode(),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=POST_SECONDS),
            ) as response:
                body = (await response.content.read(500)).decode(errors="replace")
                status, said = response.status, f"{response.status}: {body}".replace("\0", "")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            status, said = 0, f"{type(error).__name__}: {error}"
        what = f"the saga with the key {row.target}" if row.kind == "saga" else "an answer to a callback"
        if status in ANSWERED[row.kind]:
            new = {"state": "sent", "sent_at": now(), "error": None}
        elif status in NEVER[row.kind]:
            log.error("%s was refused and is not sent again: %s", what, said)
            new = {"state": "dead", "error": said}
        else:
            delay = min(2.0**row.attempts, LONGEST_DELAY_SECONDS)
            log.warning("%s could not be sent, again in %g s: %s", what, delay, said)
            new = {"due_at": now() + delay, "error": said}
        mine = update(outbox).where(outbox.c.id == row.id, outbox.c.state == "waiting")
        await self._store.run(lambda session: session.execute(mine.values(attempts=row.attempts + 1, **new)))
        return new.get("state") == "sent"


def forget_sent(session: Session, retention_seconds: float) -> None:
    """Forgets what was sent a day ago, and what was refused so long ago that nobody will look at it any more."""
    session.execute(delete(outbox).where(outbox.c.state == "sent", outbox.c.sent_at < now() - KEEP_PUBLISHED_SECONDS))
    dead = outbox.c.state == "dead", outbox.c.due_at < now() - retention_seconds
    session.execute(delete(outbox).where(*dead))


def _published_lately() -> tuple[Any, ...]:
    columns = outbox.c
    return columns.state == "sent", columns.kind == "event", columns.sent_at > now() - KEEP_PUBLISHED_SECONDS


def _kept(session: Session) -> Any:
    return session.execute(select(outbox.c.id, outbox.c.stream_id).where(*_published_lately())).all()


def _wait_again(session: Session, ids: list[int]) -> None:
    for start in range(0, len(ids), BATCH):
        mine = update(outbox).where(outbox.c.id.in_(ids[start : start + BATCH]), outbox.c.state == "sent")
        session.execute(mine.values(state="waiting", stream_id=None, sent_at=None))


def _waiting_events(session: Session) -> Any:
    waiting = select(outbox.c.id, outbox.c.body).where(outbox.c.state == "waiting", outbox.c.kind == "event")
    return session.execute(waiting.order_by(outbox.c.id).limit(BATCH)).all()


def _published(session: Session, rows: list[int], stream_ids: list[str]) -> None:
    which = case(dict(zip(rows, stream_ids, strict=True)), value=outbox.c.id)
    mine = update(outbox).where(outbox.c.id.in_(rows), outbox.c.state == "waiting")
    session.execute(mine.values(state="sent", sent_at=now(), stream_id=which))
