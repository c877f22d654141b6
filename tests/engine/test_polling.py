"""202 with a `Location`: the answer is asked for until it is there, or its time is over."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from app.saga.service import Service
from app.saga.state import CallState
from tests.participant import REFUSED

from .workshop import SagaState, Workshop, states

Answer = Callable[[web.Request], web.StreamResponse]


class Jobs:
    """A service that accepts everything and answers at `/jobs/1` what the test has laid there."""

    def __init__(self) -> None:
        self.location = "/jobs/1"
        self.retry_after: str | None = None
        self.answers: list[Answer] = []
        self.posts: list[str] = []
        self.polls: list[web.Request] = []
        self.url = ""

    async def accept(self, request: web.Request) -> web.Response:
        self.posts.append(request.path)
        headers = {"Location": self.location}
        if self.retry_after is not None:
            headers["Retry-After"] = self.retry_after
        return web.Response(status=202, headers=headers)

    async def poll(self, request: web.Request) -> web.StreamResponse:
        self.polls.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(request)


def says(status: int, body: Any = None, **headers: str) -> Answer:
    return lambda _: web.json_response(
        body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def hangs_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.fixture
async def jobs(workshop: Workshop) -> AsyncIterator[Jobs]:
    jobs = Jobs()
    app = web.Application()
    app.router.add_get("/jobs/{id}", jobs.poll)
    app.router.add_post("/{action}", jobs.accept)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    jobs.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    await workshop.house.services.put(Service("jobs", url=jobs.url, headers={"X-Env": "test"}))
    workshop.put_off = True  # a poll that brings nothing moves only the time to look again
    yield jobs
    await runner.cleanup()


async def accepted(workshop: Workshop, **more: Any) -> str:
    await workshop.define({"name": "ship", "service": "jobs", **more})
    saga_id = await workshop.start()
    await workshop.drain()
    assert states(await workshop.load(saga_id)) == [CallState.WAITING]
    return saga_id


async def polls(workshop: Workshop, jobs: Jobs, saga_id: str, count: int = 1) -> None:
    """Time passes until it has been asked so often."""
    while len(jobs.polls) < count:
        await workshop.until_due(saga_id)
        await workshop.sweep()
        await workshop.drain()


async def test_it_is_asked_until_it_has_an_answer(workshop: Workshop, jobs: Jobs) -> None:
    jobs.answers = [says(202), hangs_up, says(504), says(200, {"parcel": 7})]
    saga_id = await accepted(workshop)
    await polls(workshop, jobs, saga_id, 4)
    saga = await workshop.load(saga_id)
    assert (saga.state.state, saga.payload("output/ship")) == (SagaState.COMPLETED, {"parcel": 7})
    assert jobs.posts == ["/ship"]
    first = jobs.polls[0].headers
    assert (first["Saga-Id"], first["Saga-Step"], first["Saga-Attempt"], first["X-Env"]) == (
        saga_id,
        "ship",
        "1",
        "test",
    )
    history = await workshop.history(saga_id)
    assert history.count("StepWaiting ship 1") == 1, "a poll that brings nothing is no event"


async def test_it_is_asked_no_sooner_than_it_wants(workshop: Workshop, jobs: Jobs) -> None:
    jobs.retry_after, jobs.answers = "3600", [says(200)]
    saga_id = await accepted(workshop)
    await workshop.until_due(saga_id)  # it may be looked at early
    await workshop.sweep()
    await workshop.drain()
    assert jobs.polls == []
    saga = await workshop.load(saga_id)
    assert saga.wake_at is not None
    assert saga.wake_at > saga.read_at + 3000 * 1_000_000


async def test_an_answer_that_refuses_turns_the_saga_and_one_that_fails_is_asked_for_with_a_new_attempt(
    workshop: Workshop, jobs: Jobs
) -> None:
    jobs.answers = [says(503), says(422, {"title": "too heavy"})]
    saga_id = await accepted(workshop)
    await polls(workshop, jobs, saga_id)
    assert jobs.posts == ["/ship", "/ship"]
    await polls(workshop, jobs, saga_id, 2)
    await workshop.drain()
    saga = await workshop.load(saga_id)
    assert saga.state.error is not None
    assert saga.state.error.code == "refused"
    # The first attempt's 503 left it open whether it happened: it is undone.
    assert jobs.posts == ["/ship", "/ship", "/undo-ship"]


async def test_a_compensation_is_asked_for_too(workshop: Workshop, jobs: Jobs) -> None:
    jobs.answers = [says(200), says(202), says(410)]
    await workshop.define({"name": "ship", "service": "jobs"}, "charge")
    workshop.participant.on("charge", REFUSED)
    saga_id = await workshop.start()
    await workshop.drain()
    await polls(workshop, jobs, saga_id, 3)
    assert (await workshop.load(saga_id)).state.state is SagaState.FAILED
    assert jobs.posts == ["/ship", "/undo-ship"]


async def test_a_location_elsewhere_is_not_followed(workshop: Workshop, jobs: Jobs) -> None:
    jobs.answers = [says(200)]
    jobs.location = "http://127.0.0.1:1/jobs/1"
    saga_id = await accepted(workshop)
    saga = await workshop.load(saga_id)
    assert saga.state.steps[0].action.poll is None
    (waiting,) = await workshop.rows("SELECT data FROM saga_event WHERE type = 'StepWaiting'")
    assert "127.0.0.1:1" in waiting["data"]


async def test_its_time_is_over_however_often_it_was_asked(workshop: Workshop, jobs: Jobs) -> None:
    jobs.answers = [says(202)]
    saga_id = await accepted(workshop, callback_timeout="2s", retry={"max_attempts": 1})
    await polls(workshop, jobs, saga_id)
    saga = await workshop.sweep_until_moved(saga_id)
    await workshop.drain()
    assert saga.state.steps[0].action.unknown
    assert jobs.polls
    assert jobs.posts == ["/ship", "/undo-ship"]


async def test_what_is_asked_of_a_saga_that_has_moved_on_changes_nothing(workshop: Workshop, jobs: Jobs) -> None:
    jobs.answers = [says(200)]
    saga_id = await accepted(workshop)
    await workshop.until_due(saga_id)
    await workshop.sweep()
    (ring,) = await workshop.rung()
    await workshop.cancel(saga_id)
    await workshop.perform(ring)
    assert jobs.polls == []
    assert states(await workshop.load(saga_id)) == [CallState.CANCELLED]
    await workshop.drain()
    assert jobs.posts == ["/ship", "/undo-ship"]
