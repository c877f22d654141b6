"""The bell: Celery on Redis, and the publisher that rings it.

PostgreSQL holds the truth. A message says "look at this operation now" and carries ids only; one that is lost, late or
doubled delays work or is dropped by the claim, and the sweep rings again for what nobody claimed. So publishing never
holds up a request and is never retried for long.
"""

import asyncio
import base64
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import orjson
import redis.asyncio
from celery import Celery
from kombu import Queue
from redis.exceptions import RedisError

from app.observability import log

STEPS: Final = "saga.steps"
COMPENSATIONS: Final = "saga.compensations"
SYSTEM: Final = "saga.system"
DEAD_LETTERS: Final = "saga.dlq"

RUN_STEP: Final = "saga.run_step"
RUN_COMPENSATION: Final = "saga.run_compensation"
SWEEP: Final = "saga.sweep"
DEAD_LETTER: Final = "saga.dead_letter"

CAME_TO_REST: Final = "saga:rest"
"""Channel that tells waiting requests which sagas have come to rest. A convenience: they also poll."""

DEAD_LETTERS_KEPT: Final = 10_000
"""Notices in `saga.dlq`; the rows are the truth."""

PATIENCE_SECONDS: Final = 0.002
"""Added to a batch of messages while several go together."""

REDIS_SECONDS: Final = 2.0
"""A Redis that is silent for longer counts as gone."""

GONE: Final = (RedisError, OSError, TimeoutError)


def broker_url(redis_url: str) -> str:
    """The URL as kombu reads it: a unix socket is spelled redis+socket:// there."""
    if not redis_url.startswith("unix://"):
        return redis_url
    parts = urlsplit(redis_url)
    database = parse_qs(parts.query).get("db", ["0"])[0]
    user = f"{parts.netloc}" if parts.netloc else ""
    return f"redis+socket://{user}{parts.path}?virtual_host={database}"


def make_celery(redis_url: str) -> Celery:
    """The Celery object; each setting that is not the default says why."""
    app = Celery("saga", broker=broker_url(redis_url), set_as_current=True)
    app.conf.update(
        # Results are rows of ours.
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        # A message is acknowledged when its attempt is over: that is how prefetch counts slots. What a dead worker
        # held is not redelivered by Redis but found by its lease.
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # a poison message would be repeated for ever
        worker_prefetch_multiplier=1,
        task_create_missing_queues=False,
        task_queues=[Queue(name, routing_key=name) for name in (STEPS, COMPENSATIONS, SYSTEM)],
        task_default_queue=SYSTEM,
        task_default_routing_key=SYSTEM,
        task_routes={
            RUN_STEP: {"queue": STEPS},
            RUN_COMPENSATION: {"queue": COMPENSATIONS},
            SWEEP: {"queue": SYSTEM},
        },
        # Nobody listens to these, and each costs Redis commands per message.
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_enable_remote_control=False,
        event_queue_prefix="saga.events",
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # Redis may be away for a night
        # A lost connection does not cancel attempts: their participants are at work.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            "priority_steps": [0],  # one list per queue
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 30,
            "visibility_timeout": 24 * 3600,
        },
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        beat_max_loop_interval=1,
    )
    return app


# --- publishing -------------------------------------------------------------------------------------------------

_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def task_message(task: str, queue: str, args: Sequence[Any]) -> bytes:
    """One message of Celery's task protocol 2, as kombu lays it into a Redis list."""
    task_id = str(uuid.uuid4())
    return orjson.dumps(
        {
            "body": base64.b64encode(orjson.dumps([args, {}, _EMBED])).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": task,
                "id": task_id,
                "root_id": task_id,
                "parent_id": None,
                "group": None,
                "eta": None,
                "expires": None,
                "retries": 0,
                "timelimit": [None, None],
                "argsrepr": "",
                "kwargsrepr": "",
                "origin": "saga",
                "ignore_result": True,
            },
            "properties": {
                "correlation_id": task_id,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": task_id,
            },
        }
    )


def open_redis(redis_url: str, **options: Any) -> redis.asyncio.Redis:
    """A client that gives up soon: Redis is the bell, never the truth."""
    timeouts = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
    return redis.asyncio.Redis.from_url(redis_url, **{**timeouts, **options})


class Publisher:
    """Rings in batches, in the background: what gathers while one batch is on its way goes with the next."""

    LIMIT: Final = 50_000
    """Messages kept while Redis is away; what is dropped beyond is found by the sweep."""

    def __init__(self, redis_url: str) -> None:
        self._redis = open_redis(redis_url, max_connections=4)
        self._queues: dict[str, list[bytes]] = {}
        self._rested: list[str] = []
        self._pending = 0
        self._crowded = False
        self._task: asyncio.Task[None] | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self.last_failure: float | None = None
        """By the monotonic clock; None while the last batch went well."""

    def ring(self, queue: str, task: str, *args: Any, delay_seconds: float = 0) -> None:
        """Sends the task now or in a while; returns at once."""
        if delay_seconds > 0:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(delay_seconds, self._ring_late, queue, task, args)
            self._timers.add(timer)
            if len(self._timers) > 1000:
                self._timers = {timer for timer in self._timers if timer.when() > loop.time()}
            return
        if self._pending < self.LIMIT:
            self._queues.setdefault(queue, []).append(task_message(task, queue, args))
            self._pending += 1
            self._start()

    def _ring_late(self, queue: str, task: str, args: tuple[Any, ...]) -> None:
        self.ring(queue, task, *args)

    def came_to_rest(self, saga_id: str) -> None:
        if self._pending < self.LIMIT:
            self._rested.append(saga_id)
            self._pending += 1
            self._start()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._pending:
                # What is being written in this turn of the loop goes along, and under load what comes just after.
                await asyncio.sleep(PATIENCE_SECONDS if self._crowded else 0)
                self._crowded = self._pending > 1
                queues, rested = self._queues, self._rested
                self._queues, self._rested, self._pending = {}, [], 0
                await self._send(queues, rested)
        finally:
            self._task = None

    async def deliver(self, queue: str, task: str, args_of_each: Sequence[Sequence[Any]]) -> bool:
        """Sends messages now, apart from what gathers; whether Redis has taken them."""
        return await self._send({queue: [task_message(task, queue, args) for args in args_of_each]}, [])

    async def _send(self, queues: dict[str, list[bytes]], rested: list[str]) -> bool:
        pipeline = self._redis.pipeline(transaction=False)
        for queue, messages in queues.items():
            pipeline.lpush(queue, *messages)
            if queue == DEAD_LETTERS:
                pipeline.ltrim(queue, 0, DEAD_LETTERS_KEPT - 1)
        if rested:
            pipeline.publish(CAME_TO_REST, ",".join(rested))
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                await pipeline.execute()
        except GONE as error:
            if self.last_failure is None:
                lost = sum(map(len, queues.values()))
                log.warning(
                    "redis is away (%s): %d messages are left to the sweep", error or type(error).__name__, lost
                )
            self.last_failure = time.monotonic()
            return False
        self.last_failure = None
        return True

    async def depths(self) -> dict[str, int] | None:
        """Messages in each queue; None where Redis does not answer."""
        names = (STEPS, COMPENSATIONS, SYSTEM, DEAD_LETTERS)
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                pipeline = self._redis.pipeline(transaction=False)
                for name in names:
                    pipeline.llen(name)
                return dict(zip(names, await pipeline.execute(), strict=True))
        except GONE:
            return None

    async def flush(self) -> None:
        """Waits until everything that was rung has been sent or given up."""
        while self._task is not None:
            await asyncio.wait([self._task])  # who gives up waiting does not end the sending

    async def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                await self.flush()
        except TimeoutError:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
        await self._redis.aclose()
