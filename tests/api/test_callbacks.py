"""POST /callbacks/{token}: the answer to an attempt that said 202."""

import asyncio
from typing import Any

import pytest

from app.callbacks import AttemptName, make_token, maker
from app.settings import Settings
from tests.api.conftest import ONCE, World
from tests.participant import ACCEPTED, answers


@pytest.fixture
async def orders(world: World) -> World:
    await world.define({"name": "reserve", "retry": ONCE}, {"name": "charge"})
    return world


def token(saga_id: str, step: str = "reserve", attempt: int = 1, operation: str = "action") -> str:
    return make_token("a secret for tests", AttemptName(saga_id, step, operation, attempt))


async def waiting(world: World) -> tuple[str, str]:
    """(saga id, path of the callback) of a saga whose first step waits."""
    world.participant.on("reserve", ACCEPTED)
    saga = await world.ran()
    assert saga["steps"][0]["state"] == "WAITING"
    url = world.participant.requests("reserve", saga_id=saga["id"])[0].headers["Saga-Callback-Url"]
    path = "/callbacks/" + url.rpartition("/")[2]
    assert path == f"/callbacks/{token(saga['id'])}"
    return saga["id"], path


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "::1", "port": 81, "public_url": "https://sagas.example/in/"}, "https://sagas.example/in"),
    ],
    ids=["as it listens", "as others see it"],
)
def test_the_base_of_its_address_is_a_setting(given: dict[str, Any], base: str) -> None:
    make = maker(Settings(secret_key="a secret for tests", **given))
    assert make is not None
    assert make("an id", "reserve", "action", 1) == f"{base}/callbacks/{token('an id')}"


async def test_a_success_is_taken_once(orders: World) -> None:
    saga_id, path = await waiting(orders)
    answer = await orders.api.post(path, {"status": "succeeded", "output": {"id": 7}}, key=None)
    assert (answer.status, answer.json) == (200, {"accepted": True, "repeated": False})
    again = await orders.api.post(path, {"status": "succeeded", "output": {"id": 8}}, key=None)
    assert (again.status, again.json) == (200, {"accepted": True, "repeated": True})
    saga = await orders.run(saga_id)
    assert (saga["state"], saga["steps"][0]["output"]) == ("COMPLETED", {"id": 7})
    at_rest = await orders.api.post(path, {"status": "succeeded"}, key=None)
    assert (at_rest.status, at_rest.json["repeated"]) == (200, True)
    contrary = await orders.api.post(path, {"status": "refused"}, key=None)
    assert (contrary.status, contrary.code) == (409, "saga-moved-on")


@pytest.mark.parametrize(
    ("error", "message"),
    [("no stock", "no stock"), ({"message": "no stock"}, "no stock"), (None, "refused by callback")],
)
async def test_a_refusal_turns_the_saga(orders: World, error: object, message: str) -> None:
    saga_id, path = await waiting(orders)
    assert (await orders.api.post(path, {"status": "refused", "error": error}, key=None)).status == 200
    assert (await orders.api.post(path, {"status": "refused"}, key=None)).json["repeated"] is True
    saga = await orders.run(saga_id)
    assert (saga["state"], saga["error"]["code"], saga["error"]["message"]) == ("FAILED", "refused", message)


async def test_it_may_come_before_the_202(orders: World) -> None:
    hold = orders.participant.hold("reserve", ACCEPTED)
    saga = await orders.submit()
    running = asyncio.create_task(orders.run(saga["id"]))
    await hold.reached.wait()
    answer = await orders.api.post(f"/callbacks/{token(saga['id'])}", {"status": "succeeded"}, key=None)
    assert (answer.status, answer.json["repeated"]) == (200, False)
    hold.release()
    await running
    assert (await orders.run(saga["id"]))["state"] == "COMPLETED"


async def test_a_saga_that_has_moved_on_takes_no_answer(orders: World) -> None:
    saga_id, path = await waiting(orders)
    await orders.api.post(f"/sagas/{saga_id}/cancel")
    answer = await orders.api.post(path, {"status": "succeeded"}, key=None)
    assert (answer.status, answer.code) == (409, "saga-moved-on")
    assert (await orders.run(saga_id))["steps"][0]["compensation"]["state"] == "COMPENSATED"


async def test_an_answer_of_an_attempt_that_was_not_made_is_refused(orders: World) -> None:
    saga_id, _ = await waiting(orders)
    answer = await orders.api.post(f"/callbacks/{token(saga_id, attempt=2)}", {"status": "succeeded"}, key=None)
    assert (answer.status, answer.code) == (409, "saga-moved-on")


async def test_a_compensation_may_be_answered_later_too(orders: World) -> None:
    orders.participant.on("charge", answers(422))
    orders.participant.on("reserve", ACCEPTED, operation="compensation")
    saga = await orders.ran()
    assert saga["steps"][0]["compensation"]["state"] == "WAITING"
    path = f"/callbacks/{token(saga['id'], operation='compensation')}"
    assert (await orders.api.post(path, {"status": "succeeded"}, key=None)).json["repeated"] is False
    assert (await orders.api.post(path, {"status": "succeeded"}, key=None)).json["repeated"] is True
    assert (await orders.run(saga["id"]))["state"] == "FAILED"


async def test_a_token_that_is_not_ours_is_not_found(orders: World) -> None:
    saga_id, path = await waiting(orders)
    unknown = token("01a20088-707d-7471-80b7-140b7fdea249")
    forged = make_token("another secret", AttemptName(saga_id, "reserve", "action", 1))
    for name in ("x", "x.y", path[11:-2], forged, unknown, token(saga_id, "nothing"), "%00", "a" * 4000):
        answer = await orders.api.post(f"/callbacks/{name}", {"status": "succeeded"}, key=None)
        assert (answer.status, answer.code) == (404, "token-unknown"), name


async def test_a_wrong_body_changes_nothing(orders: World) -> None:
    saga_id, path = await waiting(orders)
    for body in ({}, {"status": "done"}, {"status": 1}, {"status": "succeeded", "more": 1}, []):
        answer = await orders.api.post(path, body, key=None)
        assert (answer.status, answer.code) == (422, "body-invalid")
    assert (await orders.api.post(path, data=b"{", key=None)).code == "body-not-json"
    large = {"status": "succeeded", "output": "x" * 262_145}
    assert (await orders.api.post(path, large, key=None)).status == 413
    assert (await orders.run(saga_id))["steps"][0]["state"] == "WAITING"
