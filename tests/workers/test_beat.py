"""Beat, in this process: what it lays into the queue, and when it does not."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import redis
from celery.beat import ScheduleEntry

from app.broker import SWEEP, SYSTEM, make_celery
from app.settings import get_settings
from workers.beat import SWEEPS_AT_MOST, SweepScheduler


@pytest.fixture
def scheduler(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepScheduler]:
    monkeypatch.setenv("SAGA_REDIS_URL", redis_url)
    get_settings.cache_clear()
    celery = make_celery(redis_url)
    scheduler = SweepScheduler(app=celery)
    yield scheduler
    scheduler.connection.close()
    scheduler._redis.close()
    celery.close()
    get_settings.cache_clear()


def entry(scheduler: SweepScheduler) -> Any:
    return ScheduleEntry(
        name="sweep", task=SWEEP, schedule=1, options={"queue": SYSTEM, "expires": 3}, app=scheduler.app
    )


def test_without_a_worker_sweeps_do_not_pile_up(scheduler: SweepScheduler, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(SWEEPS_AT_MOST + 10):
            scheduler.apply_entry(entry(scheduler), producer=scheduler.producer)
        assert client.llen(SYSTEM) == SWEEPS_AT_MOST
        client.rpop(SYSTEM, 5)
        for _ in range(10):
            scheduler.apply_entry(entry(scheduler), producer=scheduler.producer)
        assert client.llen(SYSTEM) == SWEEPS_AT_MOST
        headers = orjson.loads(client.rpop(SYSTEM))["headers"]
        assert headers["task"] == SWEEP
        assert headers["expires"], "a sweep that nobody took in time is of no use"
