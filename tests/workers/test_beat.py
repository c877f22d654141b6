"""Beat, in this process: what it lays into the queue, and when it does not."""

import os
import subprocess
import sys
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


TELL = "import json; from workers.celery_app import app; print(json.dumps(app.conf.beat_schedule))"


@pytest.mark.parametrize(("environment", "seconds"), [({}, 1), ({"SAGA_SWEEP_INTERVAL": "0.25"}, 0.25)])
def test_a_sweep_begins_every_interval(environment: dict[str, str], seconds: float) -> None:
    """In a process of its own: the Celery object of the workers is made when it is imported."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SAGA_", "CELERY_"))}
    told = subprocess.run(
        [sys.executable, "-c", TELL], env=outside | environment, check=True, capture_output=True, timeout=60
    )
    (entry,) = orjson.loads(told.stdout).values()
    assert (entry["task"], entry["schedule"], entry["options"]["queue"]) == (SWEEP, seconds, "saga.system")


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
