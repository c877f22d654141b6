"""PostgreSQL or Redis is away for a while, in the middle of things. Time is lost, and nothing else."""

import asyncio
import os
import signal
from datetime import timedelta
from typing import Any

import pytest

from app import broker
from app.errors import DatabaseUnavailable
from app.saga.state import CallState
from app.store import outbox
from tests.conftest import Servers
from tests.participant import BUSY, REFUSED
from tests.waiting import until

from .workshop import STEPS, SagaState, Workshop, states


@pytest.fixture
def options() -> dict[str, Any]:
    return {"lease_grace": 10, "redispatch_after": 0.5}


async def test_an_answer_that_comes_while_postgresql_is_away_is_written_later(
    workshop: Workshop, servers: Servers
) -> None:
    await workshop.define({"name": "reserve", "timeout": "30s"}, "charge")
    hold = workshop.participant.hold("reserve")
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    performing = asyncio.create_task(workshop.perform(ring))
    await hold.reached.wait()
    await asyncio.to_thread(servers.postgres.stop)
    try:
        hold.release()
        await workshop.participant.until(lambda: len(workshop.participant.done) == 1)
        with pytest.raises(DatabaseUnavailable):
            await workshop.load(saga_id)
        assert not performing.done()
    finally:
        await asyncio.to_thread(servers.postgres.start)
    await performing
    saga = await workshop.load(saga_id)
    assert states(saga)[0] is CallState.SUCCEEDED
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED
    assert [asked.attempt for asked in workshop.participant.asked] == [1, 1]


async def test_a_restart_of_postgresql_under_load(workshop: Workshop, servers: Servers) -> None:
    """Messages that were taken meanwhile are lost, claims are in doubt: each saga goes on by itself."""
    await workshop.define(*({"name": step, "timeout": "1s"} for step in STEPS))
    ids = [await workshop.start() for _ in range(30)]
    workshop.participant.delay_seconds = 0.01
    tasks: list[asyncio.Task[None]] = []

    stopping = asyncio.Event()  # not by cancel: asyncio.wait_for of Python 3.11, which redis-py uses, can swallow it

    async def work() -> None:
        while not stopping.is_set():
            tasks.extend(asyncio.create_task(workshop.perform(ring)) for ring in await workshop.rung())
            await asyncio.sleep(0.001)

    worker = asyncio.create_task(work())
    await workshop.participant.until(lambda: len(workshop.participant.done) > 20)
    await asyncio.to_thread(servers.postgres.restart)
    stopping.set()
    await worker
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, DatabaseUnavailable) for result in results), results
    await workshop.finish(*ids)
    for saga_id in ids:
        assert workshop.participant.standing(saga_id) == list(STEPS)
        assert len(workshop.participant.effects(saga_id)) == 4


async def test_a_claim_whose_commit_is_in_doubt_is_not_ours(workshop: Workshop) -> None:
    """It was committed, and the answer to it was lost: nobody sends it, and its lease tells."""
    await workshop.define({"name": "reserve", "timeout": "100ms"})
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    lane = workshop.house.sagas._writing
    run = lane.run

    async def committed_but_not_heard(work: Any) -> Any:
        await run(work)
        lane.run = run  # type: ignore[method-assign]
        raise DatabaseUnavailable(ConnectionResetError("the server closed the connection"))

    lane.run = committed_but_not_heard  # type: ignore[method-assign]
    with pytest.raises(DatabaseUnavailable):
        await workshop.perform(ring)
    assert states(await workshop.load(saga_id)) == [CallState.RUNNING]
    await workshop.perform(ring)
    assert workshop.participant.asked == []


async def test_an_answer_whose_commit_is_in_doubt_is_written_once(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge")
    hold = workshop.participant.hold("reserve")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    lane = workshop.house.sagas._writing
    run = lane.run

    async def committed_but_not_heard(work: Any) -> Any:
        await run(work)
        lane.run = run  # type: ignore[method-assign]
        raise DatabaseUnavailable(ConnectionResetError("the server closed the connection"))

    lane.run = committed_but_not_heard  # type: ignore[method-assign]
    hold.release()
    await draining
    assert (await workshop.history(saga_id)).count("StepSucceeded reserve 1") == 1
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED
    assert [asked.attempt for asked in workshop.participant.asked] == [1, 1]


async def test_a_submit_whose_commit_is_in_doubt_is_one_saga_when_it_is_repeated(workshop: Workshop) -> None:
    await workshop.define("reserve")
    insert = workshop.house.sagas.insert

    async def committed_but_not_heard(new: Any) -> bool:
        await insert(new)
        raise DatabaseUnavailable(ConnectionResetError("the server closed the connection"))

    workshop.house.sagas.insert = committed_but_not_heard  # type: ignore[method-assign]
    with pytest.raises(DatabaseUnavailable):
        await workshop.start(key="k")
    workshop.house.sagas.insert = insert  # type: ignore[method-assign]
    saga_id = await workshop.start(key="k")
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED
    assert len(await workshop.rows("SELECT 1 FROM saga")) == 1
    assert len(workshop.participant.asked) == 1


# --- Redis ------------------------------------------------------------------------------------------------------


async def test_a_dead_letter_s_notice_waits_for_redis(
    workshop: Workshop, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is the truth; the message is sent when there is somebody to take it."""
    monkeypatch.setattr(outbox, "LEASE", timedelta(milliseconds=300))
    await workshop.define({"name": "reserve", "on_exhausted": "pause"})
    workshop.participant.on("reserve", BUSY, BUSY)
    saga = await workshop.run()
    assert saga.state.attention is not None
    await asyncio.to_thread(servers.valkey.stop)
    try:
        assert await workshop.house.relay.drain() == 0
        assert [row["status"] for row in await workshop.rows("SELECT status FROM dead_letter")] == ["open"]
    finally:
        await asyncio.to_thread(servers.valkey.start)

    async def relayed() -> bool:
        return await workshop.house.relay.drain() == 1

    await until(relayed)
    assert await workshop.valkey.llen(broker.DEAD_LETTERS) == 1
    assert await workshop.rows("SELECT 1 FROM outbox") == []
    assert await workshop.house.relay.drain() == 0


async def test_a_notice_is_not_taken_for_sent_because_another_message_was(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch with the notice fails; what the same publisher sends right after it arrives."""
    await workshop.define("reserve", {"name": "charge", "on_exhausted": "pause"})
    workshop.participant.on("charge", BUSY, BUSY)
    await workshop.run()
    publisher = workshop.house.publisher
    send, lost = publisher._send, []

    async def the_first_is_lost(queues: Any, rested: Any) -> bool:
        if broker.DEAD_LETTERS not in queues or lost:
            return await send(queues, rested)
        lost.append(queues)
        publisher.last_failure = 1.0
        publisher.ring(broker.STEPS, broker.RUN_STEP, "01991d6e-0000-7000-8000-000000000001", "reserve")
        return False

    monkeypatch.setattr(publisher, "_send", the_first_is_lost)
    await workshop.house.relay.drain()
    await publisher.flush()
    assert lost
    sent = await workshop.valkey.llen(broker.DEAD_LETTERS)
    kept = len(await workshop.rows("SELECT 1 FROM outbox"))
    assert (sent, kept) == (0, 1)


async def test_what_another_release_has_to_send_is_left_to_it(workshop: Workshop) -> None:
    await workshop.rows("INSERT INTO outbox (topic, payload) VALUES ('news', '1'), ('dead-letter', '2')")
    assert await workshop.house.relay.drain() == 1
    assert [row["topic"] for row in await workshop.rows("SELECT topic FROM outbox")] == ["news"]


async def test_a_redis_that_is_silent_holds_nobody_up(workshop: Workshop, servers: Servers) -> None:
    """It accepts connections and does not answer."""
    await workshop.define("reserve", "charge")
    saga_id = await workshop.start()
    (ring,) = await workshop.rung()
    pid = servers.valkey.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(1):
            await workshop.perform(ring)
            others = [await workshop.start() for _ in range(5)]
        assert states(await workshop.load(saga_id))[0] is CallState.SUCCEEDED
        assert (await workshop.sweep())["raced"] == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    await workshop.finish(saga_id, *others)
    assert len(workshop.participant.done) == 12


async def test_compensations_go_on_after_redis_has_forgotten_everything(workshop: Workshop) -> None:
    await workshop.define()
    workshop.participant.on("confirm", REFUSED)
    hold = workshop.participant.hold("ship", operation="compensation")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    await workshop.valkey.flushall()
    hold.release()
    await draining
    assert (await workshop.finish(saga_id)).state.state is SagaState.FAILED
    assert workshop.participant.undone(saga_id) == ["ship", "charge", "reserve"]
