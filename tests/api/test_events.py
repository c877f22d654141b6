"""POST /events, subscriptions, and the dead letters of events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from sqlalchemy import text

from app import bus
from app.house import open_house
from app.settings import Settings
from saga_participant.events import FIELD, STREAM
from tests.api.conftest import Client, World, serve
from tests.receiver import Receiver
from tests.waiting import until

ORDER_PLACED: dict[str, Any] = {
    "specversion": "1.0",
    "id": "one",
    "source": "shop",
    "type": "OrderPlaced",
    "data": {"order_id": "4711"},
}
DEFINITION: dict[str, Any] = {
    "name": "order-events",
    "type": "choreography",
    "started_by": "OrderPlaced",
    "correlation": "data.order_id",
    "steps": [
        {
            "name": "Reserve",
            "service": "shop",
            "trigger": "OrderPlaced",
            "succeeded": "Reserved",
            "failed": "ReservationFailed",
            "compensated": "Released",
        }
    ],
}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "BLOCK_SECONDS", 0.05)


@pytest.fixture
async def valkey(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_url) as valkey:
        yield valkey


async def entries(valkey: redis.asyncio.Redis, number: int) -> list[bytes]:
    """The texts on the stream, once there are so many."""

    async def there() -> bool:
        return await valkey.xlen(STREAM) >= number

    await until(there)
    return [fields[FIELD.encode()] for _, fields in await valkey.xrange(STREAM)]


async def published(world: World) -> None:
    """Everything that was posted is on the stream."""

    async def none_waits() -> bool:
        async with world.worker.database.connect() as connection:
            return (await connection.execute(text("SELECT count(*) FROM outbox WHERE topic = 'event'"))).scalar() == 0

    await until(none_waits)


async def follow(world: World) -> None:
    """Everything that was posted is dealt with."""
    await published(world)
    while await world.worker.bus.lag() != 0:
        await world.worker.tracker.turn()


class TestPublishing:
    async def test_an_event_goes_to_the_stream_as_it_was_written(
        self, api: Client, valkey: redis.asyncio.Redis
    ) -> None:
        content = (
            b'{"specversion":"1.0","id":"one","source":"shop","type":"T","x":"y","data":{"n":12345678901234567890123}}'
        )
        answer = await api.post("/events", data=content, Content_Type="application/cloudevents+json")
        assert (answer.status, answer.json) == (202, {"id": "one", "source": "shop"})
        assert await entries(valkey, 1) == [content]

    async def test_the_same_source_and_id_again_is_published_once(
        self, api: Client, valkey: redis.asyncio.Redis
    ) -> None:
        answers = await asyncio.gather(*(api.post("/events", ORDER_PLACED) for _ in range(5)))
        assert sorted(answer.status for answer in answers) == [200, 200, 200, 200, 202]
        other = await api.post("/events", {**ORDER_PLACED, "source": "another"})
        assert other.status == 202
        assert len(await entries(valkey, 2)) == 2

    async def test_without_redis_it_is_taken_and_published_when_redis_is_back(
        self, settings: Settings, valkey: redis.asyncio.Redis
    ) -> None:
        async with serve(settings.model_copy(update={"redis_url": "unix:///nowhere/at/all.sock"})) as (api, _):
            assert (await api.post("/events", ORDER_PLACED)).status == 202
            assert (await api.post("/events", ORDER_PLACED)).status == 200
        async with open_house(settings) as house:

            async def drained() -> bool:
                return await house.relay.drain() > 0

            await until(drained, 30)
        assert len(await entries(valkey, 1)) == 1

    @pytest.mark.parametrize(
        ("change", "paths"),
        [
            ({"specversion": None}, ["specversion"]),
            ({"specversion": "0.3"}, ["specversion"]),
            ({"id": ""}, ["id"]),
            ({"id": 7}, ["id"]),
            ({"source": "x" * 501, "type": ""}, ["source", "type"]),
            ({"source": "/saga-orchestrator"}, ["source"]),
            ({"type": "CompensationRequested"}, ["type"]),
            ({"time": "yesterday"}, ["time"]),
            ({"datacontenttype": "text/xml"}, ["datacontenttype"]),
            ({"data_base64": "AA=="}, ["data_base64"]),
            ({"TraceId": "x"}, ["TraceId"]),
            ({"extension": {"a": 1}}, ["extension"]),
        ],
    )
    async def test_what_is_no_cloudevent_is_refused_with_its_paths(
        self, api: Client, change: dict[str, Any], paths: list[str]
    ) -> None:
        answer = await api.post("/events", ORDER_PLACED | change)
        assert (answer.status, answer.code, answer.paths) == (422, "body-invalid", paths)

    async def test_a_missing_field_a_list_and_what_is_no_json(self, api: Client) -> None:
        answer = await api.post("/events", {"specversion": "1.0"})
        assert answer.paths == ["id", "source", "type"]
        assert (await api.post("/events", [ORDER_PLACED])).status == 422
        for data in (b"", b"{", b'{"data": NaN}', b'{"id": "\\u0000"}'):
            answer = await api.post("/events", data=data)
            assert (answer.status, answer.code) == (400, "body-not-json")

    async def test_data_that_is_too_large(self, api: Client) -> None:
        for size in (262_144, 400_000):
            answer = await api.post("/events", {**ORDER_PLACED, "data": "x" * size})
            assert (answer.status, answer.code) == (413, "body-too-large")

    async def test_a_key_is_needed(self, api: Client) -> None:
        assert (await api.post("/events", ORDER_PLACED, key=None)).status == 401


class TestTrackedSagas:
    @pytest.fixture
    async def orders(self, world: World) -> World:
        answer = await world.api.put("/definitions/order-events", DEFINITION)
        assert answer.status == 201, answer.content
        return world

    async def test_one_is_found_and_shown_as_any_other(self, orders: World) -> None:
        assert (await orders.api.post("/events", ORDER_PLACED)).status == 202
        await follow(orders)
        (saga,) = (await orders.api.get("/sagas?saga=order-events&key=order-events:4711")).json["items"]
        shown = (await orders.api.get(f"/sagas/{saga['id']}")).json
        assert (shown["state"], shown["current_step"], shown["input"]) == ("EXECUTING", "Reserve", {"order_id": "4711"})
        done = {**ORDER_PLACED, "id": "two", "type": "Reserved", "data": {"order_id": "4711", "shelf": 3}}
        assert (await orders.api.post("/events", done)).status == 202
        await follow(orders)
        shown = (await orders.api.get(f"/sagas/{saga['id']}")).json
        assert (shown["state"], shown["completed_steps"]) == ("COMPLETED", ["Reserve"])
        assert shown["steps"][0]["output"] == {"order_id": "4711", "shelf": 3}
        events = (await orders.api.get(f"/sagas/{saga['id']}/events")).json["items"]
        assert [event["type"] for event in events][-1] == "SagaCompleted"

    async def test_one_is_not_started_or_restarted_by_a_request(self, orders: World) -> None:
        body = {"saga": "order-events", "input": {}}
        answer = await orders.api.post("/sagas", body, Idempotency_Key="k")
        assert (answer.status, answer.code) == (422, "saga-is-choreographed")
        await orders.api.post("/events", ORDER_PLACED)
        await follow(orders)
        (saga,) = (await orders.api.get("/sagas?saga=order-events")).json["items"]
        await orders.act(saga["id"], "abandon")
        answer = await orders.act(saga["id"], "restart")
        assert (answer.status, answer.code) == (409, "saga-is-choreographed")

    async def test_lag_and_counts_are_metrics(self, orders: World) -> None:
        await orders.api.post("/events", ORDER_PLACED)
        await published(orders)
        told = (await orders.api.get("/metrics", key=None)).content.decode()
        assert "saga_events_lag 1.0" in told
        await follow(orders)
        told = (await orders.api.get("/metrics", key=None)).content.decode()
        assert 'saga_events_total{event="OrderPlaced",result="opened"}' in told


class TestDeadLetters:
    @pytest.fixture
    async def poisoned(self, world: World) -> dict[str, Any]:
        assert (await world.api.put("/definitions/order-events", DEFINITION)).status == 201
        assert (await world.api.post("/events", {**ORDER_PLACED, "data": {}})).status == 202
        await follow(world)
        (letter,) = (await world.api.get("/admin/api/dead-letters?status=open")).json["items"]
        return letter

    async def test_the_letter_shows_the_event(self, poisoned: dict[str, Any]) -> None:
        assert poisoned["saga_id"] is None
        assert (poisoned["saga"], poisoned["step"], poisoned["operation"]) == ("order-events", "OrderPlaced", "event")
        assert poisoned["error"]["code"] == "correlation-missing"
        assert poisoned["event"]["id"] == "one"

    async def test_a_retry_that_fails_leaves_it_open_and_one_that_works_closes_it(
        self, world: World, poisoned: dict[str, Any]
    ) -> None:
        path = f"/admin/api/dead-letters/{poisoned['id']}"
        answer = await world.api.post(f"{path}/retry", {"reason": "a test"})
        assert (answer.status, answer.code) == (409, "event-refused")
        assert (await world.api.put("/definitions/order-events", {**DEFINITION, "correlation": "id"})).status == 201
        answer = await world.api.post(f"{path}/retry", {"reason": "mended"})
        assert (answer.status, answer.json["status"]) == (200, "retried")
        assert (await world.api.get("/sagas?key=order-events:one")).json["items"][0]["state"] == "EXECUTING"
        answer = await world.api.post(f"{path}/retry", {"reason": "again"})
        assert (answer.status, answer.code) == (409, "letter-closed")

    async def test_it_can_be_discarded(self, world: World, poisoned: dict[str, Any]) -> None:
        answer = await world.api.post(f"/admin/api/dead-letters/{poisoned['id']}/discard", {"reason": "a test"})
        assert (answer.status, answer.json["status"]) == (200, "discarded")
        assert (await world.api.get("/admin/api/dead-letters?status=open")).json["items"] == []
        line, *_ = (await world.api.get("/admin/api/audit")).json["items"]
        assert (line["action"], line["saga_id"], line["reason"]) == ("discard", None, "a test")


class TestSubscriptions:
    async def test_they_are_registered_and_shown(self, api: Client) -> None:
        body = {"url": "http://127.0.0.1:1", "subscribes": ["OrderPlaced", "Reserved", "OrderPlaced"]}
        answer = await api.put("/services/mail", body)
        assert (answer.status, answer.json["subscribes"]) == (201, ["OrderPlaced", "Reserved"])
        assert (await api.get("/services/mail")).json["subscribes"] == ["OrderPlaced", "Reserved"]
        assert (await api.put("/services/mail", {"url": "http://127.0.0.1:1"})).json["subscribes"] == []

    @pytest.mark.parametrize("wrong", ["OrderPlaced", [""], [7], ["x" * 501], ["T"] * 101])
    async def test_wrong_ones_are_refused(self, api: Client, wrong: Any) -> None:
        answer = await api.put("/services/mail", {"url": "http://127.0.0.1:1", "subscribes": wrong})
        assert (answer.status, answer.code, answer.paths) == (422, "service-invalid", ["subscribes"])

    async def test_a_delivery_that_is_given_up_can_be_retried(self, world: World) -> None:
        courier = world.worker.courier
        assert courier is not None
        async with Receiver.serve() as receiver:
            receiver.answers = [422]
            body = {"url": receiver.url, "subscribes": ["OrderPlaced"]}
            assert (await world.api.put("/services/mail", body)).status == 201
            assert (await world.api.post("/events", ORDER_PLACED)).status == 202
            await follow(world)

            async def letters() -> list[dict[str, Any]]:
                courier.wake()
                return (await world.api.get("/admin/api/dead-letters?status=open")).json["items"]

            async def given_up() -> bool:
                return bool(await letters())

            await until(given_up)
            (letter,) = await letters()
            assert (letter["operation"], letter["service"], letter["saga"]) == ("delivery", "mail", "")
            told = (await world.api.get("/metrics", key=None)).content.decode()
            assert 'saga_event_deliveries{service="mail"} 0.0' in told
            answer = await world.api.post(f"/admin/api/dead-letters/{letter['id']}/retry", {"reason": "mended"})
            assert (answer.status, answer.json["status"]) == (200, "retried")

            async def delivered() -> bool:
                courier.wake()
                return len(receiver.told) == 2

            await until(delivered)
        assert receiver.told[1].path == "/told/events"
        assert receiver.told[1].body == ORDER_PLACED | {"datacontenttype": "application/json"}
