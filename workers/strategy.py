"""From a message to the pool without Celery's `Request`.

A `Request` keeps what we have elsewhere or not at all: results, revocation, time limits, events; making one is a third
of what a message costs. A task names its strategy (`Task.strategy`), so this is Celery's own way to say so. With any
other pool it is Celery's default.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from celery.worker.strategy import default

from app.observability import log
from workers.pool import AsyncioPool


def direct(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., None]:
    pool = consumer.pool
    if not isinstance(pool, AsyncioPool):
        handler: Callable[..., None] = default(task, app, consumer, **options)
        return handler
    coroutine, errors = task.coroutine, consumer.connection_errors

    def handle(message: Any, _body: Any, ack: Any, _reject: Any, _callbacks: Any, **_: Any) -> None:
        def done() -> None:
            ack(log, errors)

        if _expired(message.headers.get("expires")):
            done()
        else:
            pool.take(task.name, coroutine, message.delivery_info["routing_key"], message.body, done)

    return handle


def _expired(expires: str | None) -> bool:
    if expires is None:
        return False
    moment = datetime.fromisoformat(expires)
    return datetime.now(UTC) > (moment if moment.tzinfo else moment.replace(tzinfo=UTC))
