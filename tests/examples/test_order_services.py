"""The three services of examples/order, as processes, held to what the orchestrator relies on."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count

import aiohttp
import pytest

from examples.processes import order_services

ORDER = {"sku": "book", "quantity": 2, "amount": 4000, "card": "visa"}
CASES = [
    ("inventory", "reserve", "release", {"sku": "book", "reserved": 2}),
    ("payment", "charge", "refund", {"card": "visa", "charged": 4000}),
    ("order", "confirm", "cancel", None),
]
OPERATIONS = pytest.mark.parametrize(("service", "action", "compensation", "answer"), CASES)

_numbers = count(1)


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    with order_services(tmp_path_factory.mktemp("order")) as servers:
        yield servers


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


class Saga:
    """Calls the services as an orchestrator would, for one saga."""

    def __init__(self, http, services):
        self.id = f"saga-{next(_numbers)}"
        self.http = http
        self.services = services

    async def call(self, service, name, *, undo=False, attempt=1, deadline=None, headers=None, **changes):
        """The status and the decoded body."""
        deadline = deadline or datetime.now(UTC) + timedelta(seconds=20)
        key = f"{self.id}/step/compensation" if undo else f"{self.id}/step"
        body = {
            "saga_id": self.id,
            "saga": "order",
            "step": "step",
            "operation": "compensation" if undo else "action",
            "attempt": attempt,
            "input": ORDER | changes,
            "outputs": {},
            "output": None,
        }
        sent = {"Idempotency-Key": key, "Saga-Deadline": deadline.isoformat()} | (headers or {})
        async with self.http.post(f"{self.services[service].url}/{name}", json=body, headers=sent) as response:
            return response.status, await response.json(content_type=None)

    async def ledger(self, service):
        """What became of this saga's keys, and what the service holds altogether."""
        url = f"{self.services[service].url}/ledger"
        async with self.http.get(url, params={"saga_id": self.id}) as response:
            body = await response.json()
        return {entry["operation"]: entry for entry in body["entries"]}, body["holdings"]


@pytest.fixture
def saga(http, services):
    return Saga(http, services)


@OPERATIONS
async def test_an_action_takes_effect_and_is_written_down(saga, service, action, compensation, answer):
    status, body = await saga.call(service, action)
    assert status == 200
    assert body == (answer or {"order": saga.id, "confirmed": 1})
    entries, _ = await saga.ledger(service)
    assert entries["action"]["state"] == "done"
    assert entries["action"]["effect"] == body
    assert entries["action"]["key"] == f"{saga.id}/step"


@OPERATIONS
async def test_a_repeated_key_is_answered_as_before_and_does_nothing(saga, service, action, compensation, answer):
    first = await saga.call(service, action)
    _, held = await saga.ledger(service)
    assert await saga.call(service, action, attempt=2) == first
    entries, held_after = await saga.ledger(service)
    assert held_after == held
    assert entries["action"]["attempts"] == [1, 2]


@OPERATIONS
async def test_a_compensation_undoes_the_action_once(saga, service, action, compensation, answer):
    _, held = await saga.ledger(service)
    await saga.call(service, action)
    first = await saga.call(service, compensation, undo=True)
    assert await saga.call(service, compensation, undo=True, attempt=2) == first
    assert first[0] == 200
    entries, held_after = await saga.ledger(service)
    assert entries["compensation"]["state"] == "done"
    assert {name: amount for name, amount in held_after.items() if amount} == {
        name: amount for name, amount in held.items() if amount
    }


@OPERATIONS
async def test_a_compensation_without_its_action_does_nothing(saga, service, action, compensation, answer):
    _, held = await saga.ledger(service)
    status, _ = await saga.call(service, compensation, undo=True)
    assert 200 <= status < 300
    entries, held_after = await saga.ledger(service)
    assert entries["compensation"]["state"] == "nothing to undo"
    assert held_after == held


@OPERATIONS
async def test_an_action_that_arrives_after_its_compensation_is_refused(saga, service, action, compensation, answer):
    _, held = await saga.ledger(service)
    await saga.call(service, compensation, undo=True)
    status, problem = await saga.call(service, action)
    assert (status, problem["detail"]) == (410, "this was called off already")
    entries, held_after = await saga.ledger(service)
    assert entries["action"]["state"] == "not done"
    assert held_after == held


@OPERATIONS
async def test_an_action_repeated_after_it_was_undone_stays_undone(saga, service, action, compensation, answer):
    await saga.call(service, action)
    await saga.call(service, compensation, undo=True)
    _, held = await saga.ledger(service)
    status, _ = await saga.call(service, action, attempt=2)
    assert status == 410
    assert (await saga.ledger(service))[1] == held


@OPERATIONS
async def test_equal_calls_at_once_take_effect_once(saga, service, action, compensation, answer):
    _, before = await saga.ledger(service)
    answers = await asyncio.gather(*(saga.call(service, action, attempt=n) for n in range(1, 11)))
    assert all(each == answers[0] for each in answers)
    assert answers[0][0] == 200
    entries, held = await saga.ledger(service)
    assert sorted(entries["action"]["attempts"]) == list(range(1, 11))
    changed = {name for name in held if held[name] != before.get(name)}
    assert len(changed) == 1
    await saga.call(service, compensation, undo=True)
    _, held = await saga.ledger(service)
    assert {name for name in held if held[name] != before.get(name, 0)} == set()


@OPERATIONS
async def test_nothing_takes_effect_after_the_deadline(saga, service, action, compensation, answer):
    _, held = await saga.ledger(service)
    late = datetime.now(UTC) - timedelta(seconds=1)
    status, _ = await saga.call(service, action, deadline=late)
    assert status == 503
    entries, held_after = await saga.ledger(service)
    assert entries["action"]["state"] == "not done"
    assert held_after == held
    assert (await saga.call(service, action, attempt=2))[0] == 200


@pytest.mark.parametrize(
    ("service", "action", "changes", "status"),
    [
        ("inventory", "reserve", {"sku": "lamp", "quantity": 4}, 422),
        ("inventory", "reserve", {"sku": "unheard of"}, 422),
        ("inventory", "reserve", {"quantity": 0}, 422),
        ("inventory", "reserve", {"quantity": True}, 422),
        ("inventory", "reserve", {"quantity": 10**30}, 422),
        ("payment", "charge", {"card": "declined"}, 402),
        ("payment", "charge", {"amount": "40"}, 422),
        ("order", "confirm", {"confirm": "refuse"}, 422),
    ],
)
async def test_a_refusal_has_no_effect_and_is_not_stored(saga, service, action, changes, status):
    _, held = await saga.ledger(service)
    refused, problem = await saga.call(service, action, **changes)
    assert refused == status
    assert problem["status"] == status
    entries, held_after = await saga.ledger(service)
    assert entries["action"]["state"] == "not done"
    assert held_after == held
    assert (await saga.call(service, action, attempt=2))[0] == 200


async def test_what_was_answered_is_known_after_a_kill(saga, services):
    first = await saga.call("payment", "charge")
    services["payment"].kill()
    with pytest.raises(aiohttp.ClientConnectionError):
        await saga.call("payment", "charge", attempt=2)
    services["payment"].start()
    assert await saga.call("payment", "charge", attempt=3) == first
    entries, _ = await saga.ledger("payment")
    assert entries["action"]["attempts"] == [1, 3]


async def test_a_delayed_answer_belongs_to_an_effect_that_is_there(saga, services):
    answer = asyncio.create_task(saga.call("payment", "charge", delay={"charge": 30}))
    async with asyncio.timeout(20):
        while "action" not in (entries := (await saga.ledger("payment"))[0]):
            pass
    assert entries["action"]["state"] == "done"
    assert not answer.done()
    answer.cancel()
    assert (await saga.call("payment", "charge", attempt=2, delay={"charge": 30}))[0] == 200


@pytest.mark.parametrize("delay", ["soon", {"charge": "soon"}, {"charge": -1}, {"charge": None}, 5])
async def test_a_delay_that_makes_no_sense_is_none(saga, delay):
    assert (await saga.call("payment", "charge", delay=delay))[0] == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"saga_id": "x"}'])
async def test_what_is_not_a_call_is_refused(http, services, body):
    headers = {"Idempotency-Key": "x/step"}
    async with http.post(f"{services['order'].url}/confirm", data=body, headers=headers) as response:
        assert response.status == 400
        assert response.content_type == "application/problem+json"


async def test_a_call_without_its_key_is_refused(http, services):
    async with http.post(f"{services['order'].url}/confirm", json={"saga_id": "x"}) as response:
        assert response.status == 400


async def test_an_unknown_operation_is_not_found(saga):
    assert (await saga.call("order", "charge"))[0] == 404
