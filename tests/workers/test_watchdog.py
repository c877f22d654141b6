"""When a worker is deaf, and when it only looks so. With real Valkey; what would end the process is written down."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from app.broker import COMPENSATIONS, STEPS
from app.settings import Settings
from workers import watchdog
from workers.slots import QueueSlots
from workers.watchdog import LOOKS, Watchdog


class Watched:
    """A worker's watchdog that looks all the time."""

    def __init__(self, redis_url: str) -> None:
        self.slots = QueueSlots({STEPS: 1, COMPENSATIONS: 1})
        self.beat_at: Callable[[], float] = time.monotonic
        self.ended_because: list[str] = []
        self.ended = threading.Event()
        self._looks = threading.Semaphore(0)
        watched = self

        class Told(Watchdog):
            def _waiting(self) -> bool:
                found = super()._waiting()
                watched._looks.release()
                return found

            def _end(self, why: str) -> None:
                watched.ended_because.append(why)
                watched.ended.set()
                self.stop()

        self.dog = Told(Settings(redis_url=redis_url), self.slots, self._beat_at)

    def _beat_at(self) -> float:
        return self.beat_at()

    def looked(self, times: int) -> None:
        for _ in range(times):
            assert self._looks.acquire(timeout=10)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def watched(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.005)
    watched = Watched(redis_url)
    yield watched
    watched.dog.stop()
    watched.dog._redis.close()


def test_a_queue_that_nobody_reads_ends_it(watched: Watched, client: redis.Redis) -> None:
    client.lpush(STEPS, b"a message")
    watched.dog.start()
    assert watched.ended.wait(10)
    assert "queues hold messages" in watched.ended_because[0]


def test_with_nothing_to_hear_it_is_not_deaf(watched: Watched) -> None:
    watched.dog.start()
    watched.looked(3 * LOOKS)
    assert not watched.ended_because


def test_a_queue_for_which_it_has_no_room_is_not_judged(watched: Watched, client: redis.Redis) -> None:
    client.lpush(STEPS, b"a message")
    watched.slots.take(STEPS)
    watched.dog.start()
    watched.looked(3 * LOOKS)
    assert not watched.ended_because
    client.lpush(COMPENSATIONS, b"another")
    assert watched.ended.wait(10)


def test_who_is_handed_anything_meanwhile_is_not_deaf(watched: Watched, client: redis.Redis) -> None:
    client.lpush(STEPS, b"a message behind a long backlog")
    heard = watched.dog.heard
    waiting = watched.dog._waiting

    def handed_one_before_it_is_too_late() -> bool:
        found = waiting()
        handed_one_before_it_is_too_late.looks += 1  # type: ignore[attr-defined]
        if handed_one_before_it_is_too_late.looks % (LOOKS - 1) == 0:  # type: ignore[attr-defined]
            heard()
        return found

    handed_one_before_it_is_too_late.looks = 0  # type: ignore[attr-defined]
    watched.dog._waiting = handed_one_before_it_is_too_late  # type: ignore[method-assign]
    watched.dog.start()
    watched.looked(4 * LOOKS)
    assert not watched.ended_because


def test_a_loop_that_has_not_come_round_for_a_minute_ends_it(watched: Watched) -> None:
    watched.beat_at = lambda: time.monotonic() - watchdog.LOOP_SECONDS - 1
    watched.dog.start()
    assert watched.ended.wait(10)
    assert "stuck" in watched.ended_because[0]


def test_where_redis_does_not_answer_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.005)
    watched = Watched("unix:///nowhere/valkey.sock?db=0")
    watched.dog.start()
    watched.looked(3 * LOOKS)
    watched.dog.stop()
    assert not watched.ended_because
