"""The size of a whole call: what is too large is not sent, says so, and can be tried again under a higher limit."""

import asyncio
from typing import Any

import pytest

from app.house import open_house
from app.settings import Settings
from tests.api.conftest import World
from tests.participant import BUSY, answers

LIMIT = 3_000


@pytest.fixture
def options() -> dict[str, Any]:
    return {"max_payload_bytes": 2_000, "max_call_bytes": LIMIT}


@pytest.fixture
async def orders(world: World) -> World:
    await world.define({"name": "reserve"}, {"name": "charge"}, {"name": "ship"})
    return world


def padded(size: int) -> dict[str, str]:
    """JSON of so many bytes."""
    return {"x": "y" * (size - len('{"x":"') - len('"}'))}


def raw(size: int) -> Any:
    return answers(200, b'{"x":"' + b"y" * (size - 8) + b'"}')


async def test_a_call_of_just_the_limit_is_sent_and_can_be_undone(orders: World) -> None:
    """To undo it a step is told its own output too, and that of the step at which the saga turned."""
    orders.participant.on("reserve", raw(1_500))
    orders.participant.on("charge", raw(1_999))
    saga = await orders.ran(input=padded(1_500))
    assert saga["error"]["step"] == "ship"  # it would be told the output of charge as well
    assert (saga["state"], orders.participant.undone(saga["id"])) == ("FAILED", ["charge", "reserve"])


async def test_a_larger_one_is_refused_before_it_is_sent(orders: World) -> None:
    orders.participant.on("reserve", raw(1_501))
    saga = await orders.ran(input=padded(1_500))
    assert orders.participant.requests("charge") == []
    assert (saga["state"], orders.participant.standing(saga["id"])) == ("FAILED", [])
    error = saga["error"]
    assert (error["step"], error["code"], error["attempts"]) == ("charge", "expression-failed", 0)
    assert error["message"] == (
        "the call would carry 3,001 bytes (1,500 of input, 1,501 of outputs), and SAGA_MAX_CALL_BYTES is 3,000"
    )


async def test_a_mapped_input_counts_as_it_is_sent(world: World) -> None:
    small = {"name": "charge", "input": {"x": "length(input.x)"}}
    await world.define({"name": "reserve"}, small)
    world.participant.on("reserve", raw(1_900))
    assert (await world.ran(input=padded(1_900)))["state"] == "COMPLETED"


async def test_a_compensation_that_is_too_large_needs_a_person_and_a_higher_limit(
    world: World, settings: Settings
) -> None:
    """As many side by side can make it."""
    names = [f"side-{number}" for number in range(4)]
    steps = [{"name": name, "depends_on": []} for name in names]
    await world.define(*steps, {"name": "last", "depends_on": names})
    holds = [world.participant.hold(name, raw(1_900)) for name in names]
    saga = await world.submit()
    running = asyncio.create_task(world.run(saga["id"]))
    for hold in holds:
        await hold.reached.wait()
    for hold in holds:
        hold.release()
    saga = await running
    assert (saga["state"], saga["error"]["step"]) == ("COMPENSATION_FAILED", "last")
    assert saga["attention"]["steps"] == names
    assert world.participant.undone(saga["id"]) == []
    error = saga["steps"][0]["compensation"]["error"]
    assert error["code"] == "expression-failed"
    assert "SAGA_MAX_CALL_BYTES is 3,000, which makes 7,000 for a compensation" in error["message"]
    letters = (await world.api.get("/admin/api/dead-letters?status=open")).json["items"]
    assert sorted(letter["step"] for letter in letters) == names
    raised = settings.model_copy(update={"max_call_bytes": 100_000})
    async with open_house(raised, worker=True) as worker:
        assert (await world.act(saga["id"], "retry")).status == 200
        world.worker = worker
        saga = await world.run(saga["id"])
    assert (saga["state"], world.participant.standing(saga["id"])) == ("FAILED", [])


async def test_what_may_have_happened_is_asked_again_whatever_it_carries(world: World) -> None:
    """Beside it another step has succeeded since, and its output goes along: refusing now would help nobody."""
    await world.define(
        {"name": "pay", "depends_on": [], "retry": {"max_attempts": 2, "initial_delay": 0}},
        {"name": "quote", "depends_on": []},
    )
    world.participant.on("pay", BUSY)
    world.participant.on("quote", raw(1_900))
    saga = await world.submit(input=padded(1_900))
    await world.run(saga["id"])
    await world.worker.attempts.perform(saga["id"], "pay", "action")
    assert [len(asked.content) > LIMIT for asked in world.participant.requests("pay")] == [False, True]
    assert (await world.run(saga["id"]))["state"] == "COMPLETED"
