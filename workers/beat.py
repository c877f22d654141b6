"""Beat, with a schedule in memory (it is one entry, and nothing depends on its past) that does not pile up."""

from typing import Any, Final

import redis
from celery.beat import Scheduler
from redis.exceptions import RedisError

from app.alive import leave_sign
from app.broker import REDIS_SECONDS, SYSTEM
from app.observability import our_version
from app.settings import get_settings

SWEEPS_AT_MOST: Final = 30
"""Waiting in the queue: without a worker for a night there would be thousands, and one is as good as all."""


class SweepScheduler(Scheduler):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._redis = redis.Redis.from_url(
            get_settings().redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        )

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        try:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.llen(SYSTEM)
            leave_sign(pipeline, "beat", {"version": our_version()})
            waiting = pipeline.execute()[0]
        except (RedisError, OSError):
            waiting = 0  # sending will say so
        if int(waiting) < SWEEPS_AT_MOST:
            super().apply_entry(entry, producer=producer)
