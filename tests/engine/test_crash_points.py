"""A worker dies at each probe of a saga's life. Whoever comes after brings it to the same end, with the same effects.

One database, as in production, and one Redis for each worker that is to die, so that it meets one saga and passes the
probes in the order of that saga. Nobody sweeps meanwhile. Then beat and another worker start where all those died; and
that worker dies as well, in the middle of a sweep.
"""

import asyncio
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from app import broker, probes
from app.house import House, open_house
from app.saga.service import Service
from app.saga.state import ACTION, COMPENSATION, Operation, SagaState
from app.settings import Settings
from app.store.sagas import Saga
from tests.acceptance.house import check_histories
from tests.participant import OK, REFUSED, Asked, Behaviour, Participant
from tests.running import define, running, submit, until_at_rest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STEPS = ["reserve", "charge", "confirm"]
PATIENCE = {"timeout": "1s", "compensation_timeout": "1s"}
CHAIN = {
    "name": "order",
    "steps": [{"name": step, "service": "shop", "action": step, "compensation": "undo", **PATIENCE} for step in STEPS],
}
AT_ONCE = 4


@dataclass(frozen=True)
class Attempt:
    """Of a saga that one worker runs: the probes that it passes, by which pass of theirs."""

    nth: int
    """Of all attempts of the saga."""
    operation: Operation
    step: int

    @property
    def probes(self) -> list[tuple[str, int, bool]]:
        """(probe, pass, whether the attempt is under way then: claimed, and its answer not written)."""
        first, second = 2 * self.nth - 1, 2 * self.nth
        return [
            (probes.PERFORM_LOADED, self.nth, False),
            (probes.APPLY_WRITTEN, first, True),
            (probes.PERFORM_RUNG, first, True),
            (probes.PERFORM_CLAIMED, self.nth, True),
            (probes.PERFORM_CALLED, self.nth, True),
            (probes.APPLY_WRITTEN, second, False),
            (probes.PERFORM_RUNG, second, False),
            (probes.PERFORM_WRITTEN, self.nth, False),
        ]


@dataclass(frozen=True)
class Point:
    refused: bool
    """At the last step, so that the others are undone."""
    attempt: Attempt
    probe: str
    nth: int
    lost: bool

    def __str__(self) -> str:
        end = "refused" if self.refused else "completed"
        return f"{end}: {self.attempt.operation} {STEPS[self.attempt.step]}, {self.probe}#{self.nth}"


ATTEMPTS = [
    (False, Attempt(1, ACTION, 0)),
    (False, Attempt(3, ACTION, 2)),
    (True, Attempt(3, ACTION, 2)),
    (True, Attempt(4, COMPENSATION, 1)),
    (True, Attempt(5, COMPENSATION, 0)),
]
POINTS = [Point(refused, attempt, *probe) for refused, attempt in ATTEMPTS for probe in attempt.probes]


def test_every_probe_that_a_worker_passes_is_a_crash_point() -> None:
    for operation in (ACTION, COMPENSATION):
        crashed_at = {point.probe for point in POINTS if point.attempt.operation == operation}
        others = {probes.NOTICE_SENT, probes.PLACES_COUNTED, probes.EVENTS_DEALT_WITH, probes.EVENTS_PUBLISHED}
        elsewhere = others | {probes.CREATE_WRITTEN}
        assert crashed_at == set(probes.ALL) - elsewhere


@pytest.fixture
def options() -> dict[str, Any]:
    return {"lease_grace": 1, "redispatch_after": 1, "sweep_interval": 0.2, "database_pool": 4}


def on_redis(settings: Settings, number: int) -> Settings:
    url = settings.redis_url.replace("db=0", f"db={number}")
    return Settings(**settings.model_dump(include=settings.model_fields_set) | {"redis_url": url})


async def test_whoever_dies_and_wherever_the_end_is_the_same(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(asked: Asked) -> Behaviour:
        refuses = asked.operation == "action" and asked.step == STEPS[-1] and asked.body["input"]["refused"]
        return REFUSED if refuses else OK

    async with Participant.serve() as shop, open_house(settings) as house:
        shop.default = behave
        await house.services.put(Service("shop", url=shop.url))
        defined = await define(house, CHAIN)
        left, sagas = list(POINTS), {}

        async def crash_one_after_the_other(number: int) -> None:
            alone = on_redis(settings, number)
            async with open_house(alone) as door:
                while left:
                    point = left.pop()
                    saga = await submit(door, defined, str(point), {"refused": point.refused})
                    await door.publisher.flush()
                    sagas[saga.id] = point
                    with running("worker", alone, tmp_path, SAGA_CRASH_AT=f"{point.probe}#{point.nth}") as worker:
                        assert await worker.ended() == -signal.SIGKILL, f"{point}\n{worker.log}"
                    await hand_over(alone, settings)

        await asyncio.gather(*(crash_one_after_the_other(number + 1) for number in range(AT_ONCE)))

        with running("beat", settings, tmp_path):
            with running("worker", settings, tmp_path, SAGA_CRASH_AT=f"{probes.APPLY_WRITTEN}#20") as unlucky:
                assert await unlucky.ended() == -signal.SIGKILL, unlucky.log
            with running("worker", settings, tmp_path):
                ended = await until_at_rest(house, list(sagas))

        for saga_id, saga in ended.items():
            check(sagas[saga_id], saga, shop)
        assert shop.faults == []
        assert await nothing_is_left(house)
        assert await check_histories(settings.database_url) == len(POINTS)
    with capsys.disabled():
        sys.stdout.write(f" [{len(POINTS)} crash points] ")


async def hand_over(dead: Settings, heir: Settings) -> None:
    """What waited in the queues of one Redis goes to the queues of another."""
    async with (
        redis.asyncio.Redis.from_url(dead.redis_url) as theirs,
        redis.asyncio.Redis.from_url(heir.redis_url) as ours,
    ):
        for queue in (broker.STEPS, broker.COMPENSATIONS):
            while (message := await theirs.rpop(queue)) is not None:
                await ours.lpush(queue, message)
        await theirs.flushdb()


def check(point: Point, saga: Saga, shop: Participant) -> None:
    lost = saga.state.call(point.attempt.step, point.attempt.operation).attempts > 1
    assert lost or not point.lost, f"{point}: it did not die where it should have"
    effects = shop.effects(saga.id)
    if not point.refused:
        assert saga.state.state is SagaState.COMPLETED, point
        assert effects == [("action", step) for step in STEPS], point
    else:
        assert saga.state.state is SagaState.FAILED, point
        # The refused step is undone as well where an attempt of it was lost: nobody knows what became of that.
        unknown = saga.state.steps[2].action.unknown
        undone = STEPS[::-1] if unknown else STEPS[1::-1]
        assert effects == [("action", step) for step in STEPS[:2]] + [("compensation", step) for step in undone], point
    assert not saga.state.attention, point
    asked = Counter((asked.operation, asked.step) for asked in shop.asked if asked.saga_id == saga.id)
    assert max(asked.values()) <= 3, f"{point}: two workers died, so nothing is asked more than three times: {asked}"


async def nothing_is_left(house: House) -> bool:
    return await house.sagas.due(1) == []
