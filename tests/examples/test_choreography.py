"""The three services of examples/choreography on a real stream, and what the orchestrator makes of their events."""

import importlib.util
from pathlib import Path

import pytest
import redis
from pydantic import ValidationError

from app.saga.definition import parse_definition
from app.saga.yaml12 import load_yaml
from examples.choreography.checks import ledgers_say, sums_say
from examples.demo import fetch
from examples.processes import HERE, event_services
from saga_participant.events import COMPENSATION_REQUESTED, FIELD, STREAM, Event
from tests.waiting import until

EXAMPLE = HERE / "choreography"
NAMES = ("inventory", "payment", "order")
ORDER = {"sku": "book", "quantity": 2, "cents": 4000, "card": "visa"}
DONE = {"reserved": 2, "charged": 4000, "order": "confirmed"}
NOTHING = {"reserved": 0, "charged": 0, "order": "cancelled"}


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"choreography_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Shop:
    """The services in this process: nothing happens but what a test asks for."""

    def __init__(self, databases, stream, modules):
        self.databases, self.stream = databases, stream
        self._order = modules["order"]
        self.participants = {name: getattr(modules[name], name) for name in NAMES}

    def place(self, order_id="1", **changes):
        return self._order.place(self._order.Order(order_id=order_id, **ORDER | changes))

    async def settle(self, *names):
        """Until these services have nothing more to say to each other, by default all."""
        before = None
        while before != (before := self.stream.xlen(STREAM)):
            for name in names or NAMES:
                await self.participants[name].settle()

    def ask_to_undo(self, *steps, order_id="1"):
        """As the orchestrator does."""
        for step in steps:
            data = {"saga": "order-events", "step": step, "correlation": order_id, "reason": "a test"}
            self.add(Event(COMPENSATION_REQUESTED, "test", data).to_json())

    def add(self, event):
        self.stream.xadd(STREAM, {FIELD: event})

    def events(self):
        return [fields[FIELD.encode()] for _, fields in self.stream.xrange(STREAM)]

    def says(self, order_id="1"):
        return ledgers_say(self.databases, order_id)

    def told(self, order_id="1"):
        """The types of the order's events, as they stand on the stream."""
        events = map(Event.from_json, self.events())
        return [event.type for event in events if event.subject == order_id]


@pytest.fixture
def shop(tmp_path, redis_url, monkeypatch):
    monkeypatch.setenv("SAGA_REDIS_URL", redis_url)
    for name in NAMES:
        monkeypatch.setenv(f"{name.upper()}_DATABASE", f"sqlite:///{tmp_path / name}.sqlite")
    modules = {name: load(EXAMPLE / f"{name}.py") for name in NAMES}
    with redis.Redis.from_url(redis_url) as stream:
        yield Shop(tmp_path, stream, modules)
    for module in modules.values():
        module.engine.dispose()


# --- the services by themselves ---


async def test_an_order_is_reserved_charged_and_confirmed(shop):
    assert shop.place() == {"order_id": "1", "state": "placed"}
    await shop.settle()
    assert shop.says() == DONE
    assert shop.told() == ["OrderPlaced", "InventoryReserved", "PaymentProcessed", "OrderConfirmed"]


async def test_a_refused_payment_is_undone_by_the_services_themselves(shop):
    shop.place(card="declined")
    await shop.settle()
    assert shop.says() == NOTHING
    assert shop.told() == ["OrderPlaced", "InventoryReserved", "PaymentFailed", "InventoryReleased"]
    assert sums_say(shop.databases)["books"] == 100


async def test_an_order_of_more_than_is_in_stock_is_cancelled(shop):
    shop.place(sku="lamp", quantity=4)
    await shop.settle()
    assert shop.says() == NOTHING
    assert shop.told() == ["OrderPlaced", "InventoryReservationFailed"]


async def test_an_order_that_is_placed_again_is_the_same_order(shop):
    shop.place()
    await shop.settle()
    assert shop.place() == {"order_id": "1", "state": "confirmed"}
    await shop.settle()
    assert sums_say(shop.databases) == {"books": 98, "charged": 4000, "confirmed": 1, "placed": 0}
    assert shop.told().count("OrderPlaced") == 1


@pytest.mark.parametrize("wrong", [{"quantity": 0}, {"cents": -1}, {"order_id": ""}])
def test_an_order_that_makes_no_sense_is_not_taken(shop, wrong):
    with pytest.raises(ValidationError):
        shop.place(**wrong)


async def test_the_whole_stream_again_changes_nothing(shop):
    shop.place("1")
    shop.place("2", card="declined")
    await shop.settle()
    ledgers, sums, events = shop.says("1"), sums_say(shop.databases), shop.events()
    for event in events:
        shop.add(event)
    await shop.settle()
    assert (shop.says("1"), shop.says("2"), sums_say(shop.databases)) == (ledgers, NOTHING, sums)
    assert shop.events() == events * 2  # nobody answered


async def test_a_silent_service_that_is_asked_to_compensate_does_so_when_it_is_back(shop):
    shop.place()
    await shop.settle("inventory", "order")
    assert shop.says() == {"reserved": 2, "charged": 0, "order": "placed"}
    shop.ask_to_undo("ProcessPayment", "ReserveInventory")
    await shop.settle("inventory", "order")
    assert shop.says() == NOTHING
    await shop.settle()
    assert shop.says() == NOTHING
    assert sums_say(shop.databases)["charged"] == 0
    assert {"InventoryReleased", "PaymentRefunded"} <= set(shop.told())


async def test_a_payment_that_comes_after_its_order_was_cancelled_is_refunded(shop):
    shop.place()
    await shop.settle("inventory", "order")
    shop.ask_to_undo("ReserveInventory")
    await shop.settle("inventory", "order")
    await shop.settle()
    assert shop.says() == NOTHING
    told = [event_type for event_type in shop.told() if event_type != "InventoryReleased"]
    assert told[-3:] == ["PaymentProcessed", "OrderConfirmationFailed", "PaymentRefunded"]


async def test_a_confirmed_order_can_be_undone(shop):
    shop.place()
    await shop.settle()
    shop.ask_to_undo("ConfirmOrder", "ProcessPayment", "ReserveInventory")
    await shop.settle()
    assert shop.says() == NOTHING


async def test_as_processes_they_finish_an_order_though_one_is_down_at_first(tmp_path, redis_url):
    with event_services(tmp_path, redis_url) as services:
        services.payment.stop()
        order = {"order_id": "1", **ORDER}
        assert fetch(f"{services.order.url}/orders", body=order) == {"order_id": "1", "state": "placed"}
        await until(lambda: ledgers_say(tmp_path, "1")["reserved"] == 2)
        services.payment.start()
        await until(lambda: ledgers_say(tmp_path, "1") == DONE)
        assert fetch(f"{services.order.url}/orders/1") == {"order_id": "1", "state": "confirmed"}


# --- with the orchestrator ---


class Tracked:
    """The orchestrator in this process, which follows the same stream."""

    def __init__(self, house):
        self._house = house

    async def define(self, step_timeout="1h"):
        document = load_yaml((EXAMPLE / "sagas/order-events.yaml").read_text())
        for step in document["steps"]:
            step["timeout"] = step_timeout
        await self._house.definitions.register(parse_definition(document, NAMES))

    async def follow(self):
        """Until it knows of every event, and has published what it asks for."""
        while await self._house.bus.lag() != 0:
            await self._house.tracker.turn()
        await self._house.relay.drain()

    async def saga(self, order_id="1"):
        found = await self._house.sagas.by_key("", f"order-events:{order_id}")
        return found[0].state

    async def turned(self):
        """The saga once a sweep has found that somebody is silent, with its requests on the stream."""

        async def has_turned():
            await self._house.sweeper.sweep()
            return (await self.saga()).state == "COMPENSATING"

        await until(has_turned)
        await self._house.relay.drain()
        return await self.saga()


@pytest.fixture
def tracked_by(house):
    return Tracked(house)


def test_the_definition_is_valid_with_the_services_beside_it():
    services = load_yaml((EXAMPLE / "sagas/services.yaml").read_text())
    definition = parse_definition(load_yaml((EXAMPLE / "sagas/order-events.yaml").read_text()), services)
    assert definition.name == "order-events"


async def test_the_orchestrator_sees_an_order_complete(shop, tracked_by):
    await tracked_by.define()
    shop.place()
    await shop.settle()
    await tracked_by.follow()
    assert (await tracked_by.saga()).state == "COMPLETED"
    assert COMPENSATION_REQUESTED not in shop.told()


async def test_the_orchestrator_sees_a_refused_payment_and_asks_for_nothing(shop, tracked_by):
    await tracked_by.define()
    shop.place(card="declined")
    await shop.settle()
    await tracked_by.follow()
    saga = await tracked_by.saga()
    assert (saga.state, saga.error.code) == ("FAILED", "event-failed")
    assert not any(COMPENSATION_REQUESTED.encode() in event for event in shop.events())


async def test_the_orchestrator_has_a_silent_service_compensate(shop, tracked_by):
    await tracked_by.define(step_timeout="100ms")
    shop.place()
    await shop.settle("inventory", "order")
    await tracked_by.follow()
    assert (await tracked_by.turned()).error.code == "exhausted"
    await shop.settle()
    await tracked_by.follow()
    assert (await tracked_by.saga()).state == "FAILED"
    assert shop.says() == NOTHING
