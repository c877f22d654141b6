"""POST /sagas/{id}/cancel."""

import asyncio

import pytest

from tests.api.conftest import World
from tests.participant import OK, REFUSED, Behaviour, answers


@pytest.fixture
async def orders(world: World) -> World:
    await world.define({"name": "reserve"}, {"name": "charge"})
    return world


async def test_what_was_done_is_undone(orders: World) -> None:
    orders.participant.on("charge", answers(503))
    saga = await orders.ran()
    answer = await orders.api.post(f"/sagas/{saga['id']}/cancel", {"reason": "changed my mind"})
    assert (answer.status, answer.json["state"]) == (202, "COMPENSATING")
    again = await orders.api.post(f"/sagas/{saga['id']}/cancel")
    assert (again.status, again.json["state"]) == (202, "COMPENSATING")
    ended = await orders.run(saga["id"])
    assert ended["state"] == "FAILED"
    assert ended["error"]["code"] == "cancelled"
    assert "changed my mind" in ended["error"]["message"]
    assert (ended["error"]["step"], ended["error"]["attempts"]) == (None, 0)
    late = await orders.api.post(f"/sagas/{saga['id']}/cancel")
    assert (late.status, late.code) == (409, "saga-at-rest")


async def test_past_the_pivot_there_is_no_way_back(world: World) -> None:
    await world.define({"name": "reserve", "pivot": True}, {"name": "mail", "compensation": "none"})
    hold = world.participant.hold("mail")
    saga = await world.submit()
    running = asyncio.create_task(world.run(saga["id"]))
    await hold.reached.wait()
    answer = await world.api.post(f"/sagas/{saga['id']}/cancel")
    assert (answer.status, answer.code) == (409, "past-pivot")
    hold.release()
    assert (await running)["state"] == "COMPLETED"


@pytest.mark.parametrize(
    ("answer", "state", "undone"), [(OK, "COMPLETED", []), (REFUSED, "FAILED", ["reserve"])], ids=["done", "refused"]
)
async def test_while_the_pivot_is_under_way_it_decides(
    world: World, answer: Behaviour, state: str, undone: list[str]
) -> None:
    await world.define({"name": "reserve"}, {"name": "pay", "pivot": True}, {"name": "mail", "compensation": "none"})
    hold = world.participant.hold("pay", answer)
    saga = await world.submit()
    running = asyncio.create_task(world.run(saga["id"]))
    await hold.reached.wait()
    for _ in range(2):
        kept = await world.api.post(f"/sagas/{saga['id']}/cancel")
        assert (kept.status, kept.json["state"]) == (202, "EXECUTING")
    hold.release()
    await running
    assert (await world.run(saga["id"]))["state"] == state
    assert world.participant.undone(saga["id"]) == undone


async def test_a_body_is_not_needed_but_has_to_be_right(orders: World) -> None:
    saga = await orders.submit()
    path = f"/sagas/{saga['id']}/cancel"
    for body, paths in (
        ({"why": "x"}, ["why"]),
        ({"reason": 5}, ["reason"]),
        ([], [""]),
        ({"reason": "x" * 2001}, ["reason"]),
    ):
        answer = await orders.api.post(path, body)
        assert (answer.status, answer.code, answer.paths) == (422, "body-invalid", paths)
    assert (await orders.api.post(path, data=b"")).status == 202


async def test_if_match_guards_against_what_has_moved(orders: World) -> None:
    saga = await orders.submit()
    path = f"/sagas/{saga['id']}"
    tag = (await orders.api.get(path)).headers["ETag"]
    old = await orders.api.post(path + "/cancel", {}, If_Match='"1"')
    assert (old.status, old.code) == (412, "saga-has-moved")
    assert (await orders.api.get(path)).headers["ETag"] == tag
    assert (await orders.api.post(path + "/cancel", {}, If_Match=f'"0", {tag}')).status == 202


async def test_an_unknown_saga_is_not_found(orders: World) -> None:
    for name in ("nothing", "01a20088-707d-7471-80b7-140b7fdea249"):
        answer = await orders.api.post(f"/sagas/{name}/cancel", {})
        assert (answer.status, answer.code) == (404, "saga-not-found")
