"""So many requests a window for each key: exact in one process, added up between several, none while Redis is away."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import Request

from app import access
from app.access import Caller
from app.api.limiter import RateLimit
from app.api.problems import ANSWER_HEADERS
from app.broker import open_redis
from app.errors import Problem
from app.settings import Settings
from tests.api.conftest import Client, serve
from tests.waiting import until

MINUTE = 29_000_000
"""Number of a window; 15 s of it have passed on the clock of these tests."""
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def options() -> dict[str, Any]:
    return {"rate_limit": 5}


def stop_clock(limit: RateLimit, minute: int = MINUTE) -> None:
    limit._clock = lambda: minute * 60.0 + 15


class TestOneProcess:
    @pytest.fixture(autouse=True)
    def clock(self, app_state: Any) -> None:
        stop_clock(app_state.rate_limit)

    async def test_each_answer_tells_what_is_left(self, api: Client) -> None:
        for left, path in (
            (4, "/sagas"),
            (3, "/sagas/none"),
            (2, "/sagas?limit=x"),
            (1, "/definitions"),
            (0, "/sagas"),
        ):
            answer = await api.get(path)
            assert answer.headers["RateLimit-Policy"] == '"default";q=5;w=60'
            assert answer.headers["RateLimit"] == f'"default";r={left};t=45'

    async def test_one_more_than_the_limit_is_refused_and_told_when_to_come_back(self, api: Client) -> None:
        for _ in range(5):
            assert (await api.get("/sagas")).status == 200
        answer = await api.post("/sagas", {"saga": "order", "input": {}}, Idempotency_Key="k")
        assert (answer.status, answer.code) == (429, "rate-limited")
        assert answer.headers["Retry-After"] == "45"
        assert answer.headers["RateLimit"] == '"default";r=0;t=45'
        assert (answer.json["limit"], answer.json["window"]) == (5, 60)
        assert "45 s" in answer.json["detail"]

    async def test_the_next_window_begins_anew(self, api: Client, app_state: Any) -> None:
        assert [(await api.get("/sagas")).status for _ in range(6)] == [200] * 5 + [429]
        stop_clock(app_state.rate_limit, MINUTE + 1)
        assert (await api.get("/sagas")).headers["RateLimit"] == '"default";r=4;t=45'

    async def test_who_shows_no_key_or_asks_what_needs_none_is_not_counted(self, api: Client) -> None:
        for answer in (await api.get("/livez"), await api.get("/sagas", key=None), await api.get("/sagas", key="x.y")):
            assert "RateLimit" not in answer.headers
        assert (await api.get("/sagas")).headers["RateLimit"] == '"default";r=4;t=45'

    async def test_redis_is_told_in_the_background(self, api: Client, settings: Settings) -> None:
        for _ in range(3):
            await api.get("/sagas")
        async with open_redis(settings.redis_url) as redis:

            async def told() -> bool:
                return await redis.get(f"saga:rate:60:{MINUTE}:key:bootstrap") == b"3"

            await until(told)
            assert 0 < await redis.ttl(f"saga:rate:60:{MINUTE}:key:bootstrap") <= 120


class TestNone:
    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"rate_limit": 0}

    async def test_zero_is_no_limit(self, api: Client) -> None:
        assert "RateLimit" not in (await api.get("/sagas")).headers


async def test_two_processes_share_one_limit(settings: Settings) -> None:
    async with serve(settings) as (one, app), serve(settings) as (other, other_app):
        limits = app.state.rate_limit, other_app.state.rate_limit
        for limit in limits:
            stop_clock(limit)
        for _ in range(2):
            assert (await one.get("/sagas")).status == 200
        for _ in range(3):
            assert (await other.get("/sagas")).status == 200
        await until(lambda: all(count.told for limit in limits for count in limit._counts.values()))
        # Only the second to tell has heard of both; the first hears of it with its next request.
        statuses = [(await client.get("/sagas")).status for client in (one, other)]
        assert 429 in statuses
        await until(lambda: all(limit._task is None for limit in limits))
        for client in (one, other):
            assert (await client.get("/sagas")).status == 429


CALLERS = [access.of_key("a", ["read"], ""), access.of_key("b", ["read"], ""), access.of_user("ann", "viewer", None)]


def take(limit: RateLimit, caller: Caller) -> bool:
    """Whether it is let through."""
    request = Request({"type": "http"})
    try:
        limit.take(request, caller)
    except Problem as problem:
        if problem.code == "rate-limited" and caller.name in problem.detail:
            return False
        raise
    return True


@pytest.fixture
async def limit(settings: Settings) -> AsyncIterator[RateLimit]:
    limit = RateLimit(settings, lambda: MINUTE * 60.0)
    yield limit
    await limit.close()


async def test_each_key_and_each_person_has_a_count_of_its_own(limit: RateLimit) -> None:
    assert [take(limit, CALLERS[0]) for _ in range(6)] == [True] * 5 + [False]
    assert take(limit, CALLERS[1])
    assert take(limit, CALLERS[2])


async def test_redis_gone_is_no_limit_and_said_once(
    limit: RateLimit, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    there, gone = limit._redis, open_redis(NOBODY)
    for _ in range(6):
        take(limit, CALLERS[0])
    assert not take(limit, CALLERS[0])
    limit._redis = gone
    with caplog.at_level(logging.WARNING):
        await until(lambda: limit.away)
        assert all(take(limit, CALLERS[0]) for _ in range(20))
        request = Request({"type": "http"})
        limit.take(request, CALLERS[0])
        assert ANSWER_HEADERS not in request.scope
        await limit._exchange()
        assert caplog.text.count("no rate limit until it is back") == 1
        limit._redis = there
        await until(lambda: not limit.away)
        assert caplog.text.count("redis is back") == 1
    assert [take(limit, CALLERS[0]) for _ in range(6)] == [True] * 5 + [False]
    await gone.aclose()


async def test_what_redis_forgets_is_counted_from_then_on(limit: RateLimit, settings: Settings) -> None:
    assert take(limit, CALLERS[0])
    await until(lambda: limit._task is None)
    async with open_redis(settings.redis_url) as redis:
        await redis.flushall()
    assert take(limit, CALLERS[0])
    await until(lambda: limit._task is None)
    assert [take(limit, CALLERS[0]) for _ in range(4)] == [True] * 3 + [False]


async def test_no_request_waits_for_redis(settings: Settings) -> None:
    limit = RateLimit(settings.model_copy(update={"redis_url": NOBODY, "rate_limit": 1000}), lambda: MINUTE * 60.0)
    assert all(take(limit, CALLERS[0]) for _ in range(1000))  # in one turn of the loop: `take` awaits nothing
    await limit.close()
