"""What time brings: retries, lost messages, lost attempts, deadlines; any number of sweeps, and any backlog."""

import asyncio
import itertools
from typing import Any

import pytest
import redis.asyncio

from app import broker, sweep
from app.house import open_house
from app.saga import draft
from app.saga.messages import Outcome, OutcomeKind
from app.saga.service import Service
from app.saga.state import SECOND, CallState
from app.settings import Settings
from tests.participant import ACCEPTED, BUSY, REFUSED, Participant, closed_port
from tests.waiting import until

from .workshop import SagaState, Workshop, states


@pytest.fixture
def options() -> dict[str, Any]:
    return {"lease_grace": 2, "redispatch_after": 0.3}


LONG = pytest.mark.parametrize("options", [{"redispatch_after": 3600}])


async def test_a_message_that_was_lost_is_sent_again_at_growing_distances(workshop: Workshop) -> None:
    await workshop.define("reserve")
    saga_id = await workshop.start()
    times = []
    for _ in range(3):
        assert len(await workshop.rung()) == 1  # and lost
        saga = await workshop.sweep_until_moved(saga_id)
        times.append(saga.state.updated_at)
    first, second = ((after - before) / SECOND for before, after in itertools.pairwise(times))
    assert first >= 0.45
    assert second >= 0.6
    assert states(saga) == [CallState.SCHEDULED]
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED
    assert len(workshop.participant.asked) == 1


async def test_flushall_costs_only_time(workshop: Workshop) -> None:
    await workshop.define()
    ids = [await workshop.start() for _ in range(10)]
    await workshop.house.publisher.flush()
    await workshop.valkey.flushall()
    await workshop.finish(*ids)
    assert all(len(workshop.participant.standing(saga_id)) == 4 for saga_id in ids)
    assert len(workshop.participant.asked) == 40


async def test_a_retry_that_is_due_later_is_left_to_the_sweep(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever set it is gone; the row is the truth."""
    monkeypatch.setattr(draft, "SELF_RING_SECONDS", 0)
    await workshop.define({"name": "reserve", "retry": {"initial_delay": "100ms", "jitter": 0}})
    workshop.participant.on("reserve", BUSY)
    saga_id = await workshop.start()
    await workshop.drain()
    assert states(await workshop.load(saga_id)) == [CallState.RETRYING]
    assert await workshop.depth() == 0
    assert (await workshop.finish(saga_id)).state.state is SagaState.COMPLETED


async def test_a_callback_that_never_comes_makes_the_attempt_lost(workshop: Workshop) -> None:
    await workshop.define("reserve", {"name": "charge", "callback_timeout": "100ms"})
    workshop.participant.on("charge", ACCEPTED, ACCEPTED)
    saga = await workshop.run()
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga.id) == ["charge", "reserve"]
    assert len(workshop.participant.requests("charge")) == 2


async def test_an_answer_that_comes_by_callback(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge")
    workshop.participant.on("reserve", ACCEPTED)
    saga_id = await workshop.start()
    await workshop.drain()
    saga = await workshop.load(saga_id)
    assert states(saga)[0] is CallState.WAITING
    for _ in range(2):
        await workshop.engine.answer(saga, 0, "action", 1, Outcome(OutcomeKind.SUCCEEDED, output=b'{"by": "callback"}'))
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.COMPLETED
    assert workshop.participant.requests("charge")[0].body["outputs"] == {"reserve": {"by": "callback"}}


async def test_a_delayed_start_starts_when_its_time_has_come(workshop: Workshop) -> None:
    await workshop.define("reserve")
    at = await workshop.house.database.now()
    saga_id = await workshop.start(start_at=at + round(0.2 * SECOND))
    assert await workshop.drain() == 0
    assert (await workshop.load(saga_id)).state.state is SagaState.CREATED
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.COMPLETED
    assert workshop.participant.asked[0].body["saga_id"] == saga_id


# --- any number of sweeps ---------------------------------------------------------------------------------------


async def test_two_sweeps_at_once_do_what_one_would(workshop: Workshop, other: Workshop) -> None:
    await workshop.define("reserve")
    ids = [await workshop.start() for _ in range(20)]
    await workshop.rung()  # and lost
    for saga_id in ids:
        await workshop.until_due(saga_id)
    counts = await asyncio.gather(workshop.sweep(), other.sweep(), workshop.sweep(), other.sweep())
    assert sum(count["woken"] for count in counts) == 20
    await other.house.publisher.flush()
    assert await workshop.depth() == 20
    await workshop.finish(*ids)
    assert len(workshop.participant.asked) == 20


async def test_a_sweep_with_nothing_to_do_does_nothing(workshop: Workshop) -> None:
    assert await workshop.sweep() == {"woken": 0, "postponed": 0, "raced": 0, "admitted": 0}


async def test_who_was_woken_too_early_is_looked_at_again_when_it_is_time(workshop: Workshop) -> None:
    """The row's time is of when the step was sent; its claim has moved the need, and not the row."""
    await workshop.define({"name": "reserve", "timeout": "1h"}, timeout="2h")
    hold = workshop.participant.hold("reserve")
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    await workshop.until_due(saga_id)
    assert await workshop.sweep() == {"woken": 0, "postponed": 1, "raced": 0, "admitted": 0}
    saga = await workshop.load(saga_id)
    assert saga.wake_at == saga.state.steps[0].action.due_at
    assert await workshop.sweep() == {"woken": 0, "postponed": 0, "raced": 0, "admitted": 0}
    hold.release()
    await draining


# --- backlogs ---------------------------------------------------------------------------------------------------


async def test_a_backlog_does_not_multiply_itself(workshop: Workshop) -> None:
    """Sixty messages wait and nobody listens: however often is looked, not many are added, and some are."""
    workshop.put_off = True
    await workshop.define("reserve")
    ids = [await workshop.start() for _ in range(60)]
    assert await workshop.depth() == 60
    for saga_id in ids:
        await workshop.until_due(saga_id)
    assert (await workshop.sweep())["postponed"] == 60 - sweep.RESENDS_AT_LEAST
    for _ in range(5):
        await workshop.sweep()
    assert await workshop.depth() == 60 + sweep.RESENDS_AT_LEAST
    await workshop.finish(*ids)
    assert len(workshop.participant.asked) == 60


async def test_what_is_put_off_for_a_backlog_still_keeps_its_deadline(workshop: Workshop) -> None:
    """A saga's timeout comes sooner than the next look at its message would."""
    workshop.put_off = True
    await workshop.define("reserve", timeout="500ms")
    await workshop.define("reserve", name="patient")
    others = [await workshop.start("patient") for _ in range(60)]
    saga_id = await workshop.start()
    for one in (*others, saga_id):
        await workshop.until_due(one)
    await workshop.sweep()
    saga = await workshop.load(saga_id)
    assert saga.wake_at is not None
    assert saga.wake_at <= saga.state.deadline_at


@pytest.mark.parametrize("options", [{"redispatch_after": 0.3}])
async def test_when_redis_is_away_nothing_is_sent_again_and_the_rest_goes_on(
    options: dict[str, Any], database_url: str, participant: Participant
) -> None:
    settings = Settings(database_url=database_url, redis_url=f"redis://127.0.0.1:{closed_port()}/0", **options)
    async with (
        open_house(settings, worker=True) as house,
        redis.asyncio.Redis.from_url(settings.redis_url) as nothing,
    ):
        workshop = Workshop(house, participant, nothing)
        await house.services.put(Service("shop", url=participant.url))
        await workshop.define({"name": "reserve", "depends_on": []}, timeout="500ms")
        ids = [await workshop.start() for _ in range(30)]
        for saga_id in ids:
            await workshop.until_due(saga_id)
        counts = await workshop.sweep()
        assert counts["postponed"] + counts["woken"] == 30

        async def failed() -> bool:
            await workshop.sweep()
            return {row["state"] for row in await workshop.rows("SELECT state FROM saga")} == {"FAILED"}

        await until(failed)
        await workshop.check_everything()


@LONG
async def test_more_than_one_sweep_can_take_at_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BATCH", 10)
    await workshop.define({"name": "reserve", "when": "input.no"})
    at = await workshop.house.database.now()
    ids = await asyncio.gather(*(workshop.start(start_at=at + SECOND // 10) for _ in range(35)))
    for saga_id in ids:
        await workshop.until_due(saga_id)
    assert (await workshop.sweep())["woken"] == 35


async def test_a_saga_that_cannot_be_looked_at_does_not_keep_the_others_from_it(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    """Its row is not understood. It is told about, and it goes behind the others."""
    await workshop.define("reserve")
    ids = [await workshop.start() for _ in range(5)]
    await workshop.rung()  # and lost
    workshop.broken_on_purpose = {ids[0]}
    spoil = """UPDATE saga SET document = '{"state": "NOWHERE"}', wake_at = now() - interval '1 h' WHERE id = $1"""
    await workshop.rows(spoil, ids[0])
    for saga_id in ids[1:]:
        await workshop.until_due(saga_id)
    assert (await workshop.sweep())["woken"] == 4
    assert f"saga {ids[0]} cannot be looked at" in caplog.text
    assert ids[0] not in await workshop.house.sagas.due(10)
    await workshop.finish(*ids[1:])
    assert len(workshop.participant.asked) == 4


async def test_a_sweep_whose_writes_fail_still_looks_at_the_others(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    await workshop.define("reserve")
    ids = [await workshop.start() for _ in range(4)]
    await workshop.rung()
    for saga_id in ids:
        await workshop.until_due(saga_id)
    write = workshop.house.sagas.write

    async def broken(one: Any) -> bool:
        if one.saga.id == ids[2]:
            raise RuntimeError("this one is not to be written")
        return await write(one)

    workshop.house.sagas.write = broken  # type: ignore[method-assign]
    assert (await workshop.sweep())["woken"] == 3
    workshop.house.sagas.write = write  # type: ignore[method-assign]
    assert "cannot be looked at" in caplog.text
    await workshop.finish(*ids)


# --- participants that are not there ----------------------------------------------------------------------------


async def test_a_service_that_is_gone_is_told_about_and_waited_for(workshop: Workshop) -> None:
    await workshop.define("reserve", {"name": "charge", "service": "later"})
    saga_id = await workshop.start()
    await workshop.drain()
    saga = await workshop.load(saga_id)
    assert saga.state.state is SagaState.EXECUTING
    assert saga.state.attention is not None
    assert saga.state.attention.code == "participant-missing"
    assert saga.state.attention.steps == ("charge",)
    assert states(saga)[1] is CallState.SCHEDULED
    seq = saga.state.seq
    saga = await workshop.sweep_until_moved(saga_id)
    await workshop.drain()
    saga = await workshop.load(saga_id)
    assert saga.state.seq == seq + 1  # sent again, and not told again
    await workshop.house.services.put(Service("later", url=workshop.participant.url))
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.COMPLETED
    assert saga.state.attention is None
    assert [asked.attempt for asked in workshop.participant.requests("charge")] == [1]


async def test_a_service_that_is_gone_while_a_saga_is_undone(workshop: Workshop) -> None:
    await workshop.house.services.put(Service("gone", url=workshop.participant.url))
    await workshop.define({"name": "reserve", "service": "gone"}, "charge")
    hold = workshop.participant.hold("charge", REFUSED)
    saga_id = await workshop.start()
    draining = asyncio.create_task(workshop.drain())
    await hold.reached.wait()
    await workshop.rows("DELETE FROM service WHERE name = 'gone'")
    workshop.house.services._read_at = float("-inf")
    hold.release()
    await draining
    saga = await workshop.load(saga_id)
    assert saga.state.state is SagaState.COMPENSATING
    assert saga.state.attention is not None
    await workshop.house.services.put(Service("gone", url=workshop.participant.url))
    saga = await workshop.finish(saga_id)
    assert saga.state.state is SagaState.FAILED
    assert workshop.participant.undone(saga_id) == ["reserve"]


async def test_queues_are_told_apart(workshop: Workshop) -> None:
    await workshop.define("reserve", "charge")
    workshop.participant.on("charge", REFUSED)
    saga_id = await workshop.start()
    for queue, length in ((broker.STEPS, 1), (broker.STEPS, 1), (broker.COMPENSATIONS, 1)):
        await workshop.house.publisher.flush()
        assert await workshop.valkey.llen(queue) == length
        (ring,) = await workshop.rung()
        await workshop.perform(ring)
    assert (await workshop.load(saga_id)).state.state is SagaState.FAILED


async def test_requests_that_wait_are_told_that_a_saga_has_come_to_rest(workshop: Workshop) -> None:
    heard = []
    async with workshop.valkey.pubsub() as channel:
        await channel.subscribe(broker.CAME_TO_REST)
        await workshop.define("reserve")
        saga_id = (await workshop.run()).id

        async def told() -> bool:
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=0.1)
            heard.append(message)
            return message is not None and message["data"] == saga_id.encode()

        await until(told)
