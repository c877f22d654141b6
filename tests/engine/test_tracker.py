"""The tracker on a real stream: what the events of services make of sagas, whatever happens on the way."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from app import bus, observability, probes, relay, tracker
from app.access import of_key
from app.errors import DatabaseUnavailable
from app.house import House, open_house
from app.operating import Operator
from app.saga.definition import RetryPolicy
from app.saga.messages import Resolve
from app.saga.service import Service
from app.saga.state import CallState, SagaState
from app.settings import Settings
from app.store.audit import AuditEntry
from app.store.database import Database, Lane
from app.store.letters import OPEN
from app.store.services import WAIT_SECONDS
from saga_participant.events import FIELD, STREAM, Event
from tests.receiver import Receiver
from tests.waiting import until

from .events import CHAIN, Stream, listener
from .workshop import Cancel, Retry, Workshop, do_at, states

HAPPY = ("OrderPlaced", "ReserveDone", "PayDone", "ConfirmDone")
GROUP = bus.GROUP


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what does not come."""
    monkeypatch.setattr(bus, "BLOCK_SECONDS", 0.05)


@pytest.fixture
async def stream(workshop: Workshop) -> Stream:
    return Stream(workshop.house, workshop.valkey)


async def letters(house: House) -> list[dict[str, Any]]:
    found, _ = await house.letters.page("", limit=50)
    return found


def counted(event: str, result: str) -> float:
    return observability.REGISTRY.get_sample_value("saga_events_total", {"event": event, "result": result}) or 0


class TestASagaPerCorrelation:
    async def test_its_events_lead_it_to_its_end(self, stream: Stream) -> None:
        await stream.define()
        await stream.add(*HAPPY, amount=7)
        await stream.follow()
        saga = await stream.saga()
        assert saga.state.state is SagaState.COMPLETED
        assert (saga.key, saga.tenant, saga.version) == ("order:1", "", 1)
        assert saga.payload("input") == saga.payload("output/Pay") == {"order_id": "1", "amount": 7}

    async def test_correlations_stand_apart(self, stream: Stream) -> None:
        await stream.define()
        await stream.add("OrderPlaced", order="a")
        await stream.add(*HAPPY, order="b")
        await stream.add("ReserveFailed", order=42, reason="sold out")
        await stream.follow()
        assert (await stream.saga("a")).state.state is SagaState.EXECUTING
        assert (await stream.saga("b")).state.state is SagaState.COMPLETED
        failed = await stream.saga("42")
        assert failed.state.state is SagaState.FAILED
        assert failed.state.error.code == "event-failed"
        assert "sold out" in failed.state.error.message

    async def test_an_event_of_two_definitions_counts_for_each(self, stream: Stream) -> None:
        await stream.define()
        await stream.define(listener("Audit", "PayDone"), name="audit", started_by="PayDone")
        await stream.add("OrderPlaced", "ReserveDone", "PayDone")
        await stream.follow()
        assert states(await stream.saga())[1] is CallState.SUCCEEDED
        assert states(await stream.saga(name="audit")) == [CallState.RUNNING]

    async def test_whatever_the_order_the_end_is_the_same(self, stream: Stream) -> None:
        await stream.define()
        shuffled = list(HAPPY) * 2
        for order in range(12):
            random.Random(order).shuffle(shuffled)
            await stream.add(*shuffled, order=order)
        await stream.follow()
        for order in range(12):
            assert (await stream.saga(order)).state.state is SagaState.COMPLETED

    async def test_its_input_is_that_of_the_event_that_starts_it_also_where_that_comes_later(
        self, stream: Stream
    ) -> None:
        await stream.define()
        await stream.add("ReserveDone", amount=1)
        await stream.follow()
        assert (await stream.saga()).payload("input") is None
        await stream.add("OrderPlaced", amount=7)
        await stream.follow()
        assert (await stream.saga()).payload("input") == {"order_id": "1", "amount": 7}

    async def test_an_event_after_the_end_changes_nothing(self, stream: Stream, workshop: Workshop) -> None:
        await stream.define()
        await stream.add(*HAPPY)
        await stream.follow()
        before = await workshop.history((await stream.saga()).id)
        await stream.add("OrderPlaced", "PayFailed", "ReserveUndone")
        await stream.follow()
        assert await workshop.history((await stream.saga()).id) == before

    async def test_the_stream_replayed_from_its_beginning_changes_nothing(
        self, stream: Stream, workshop: Workshop
    ) -> None:
        await stream.define()
        await stream.add(*HAPPY, order="a")
        await stream.add("OrderPlaced", "ReserveDone", "PayFailed", "ReserveUndone", order="b")
        await stream.add("OrderPlaced", order="c")
        await stream.add_raw("no event")
        await stream.follow()
        before = await workshop.rows("SELECT * FROM saga ORDER BY id")
        written = await workshop.rows("SELECT * FROM dead_letter")
        await stream.valkey.xgroup_setid(STREAM, GROUP, "0")
        await stream.follow()
        assert await workshop.rows("SELECT * FROM saga ORDER BY id") == before
        assert await workshop.rows("SELECT * FROM dead_letter") == written

    async def test_a_saga_is_told_by_its_own_version(self, stream: Stream) -> None:
        await stream.define()
        await stream.add("OrderPlaced", order="old")
        await stream.follow()
        await stream.define(listener("Reserve", "OrderPlaced"))
        await stream.add("ReserveDone", order="old")
        await stream.add("OrderPlaced", "ReserveDone", order="new")
        await stream.add("PayDone", order="nobody")
        await stream.follow()
        assert states(await stream.saga("old"))[:2] == [CallState.SUCCEEDED, CallState.RUNNING]
        assert (await stream.saga("new")).state.state is SagaState.COMPLETED
        assert await stream.saga("nobody") is None

    async def test_an_event_that_nobody_knows_is_acknowledged_and_counted(self, stream: Stream) -> None:
        before = counted("", "unknown")
        await stream.add("NobodysEvent")
        await stream.follow()
        assert counted("", "unknown") == before + 1
        assert await letters(stream.house) == []

    async def test_data_that_is_too_large_is_not_kept_but_the_saga_goes_on(self, stream: Stream) -> None:
        await stream.define()
        await stream.add("OrderPlaced", note="x" * 300_000)
        await stream.follow()
        saga = await stream.saga()
        assert states(saga)[0] is CallState.RUNNING
        assert saga.payload("input") is None


class TestUndoing:
    async def test_services_that_undo_by_themselves_are_not_asked(self, stream: Stream) -> None:
        await stream.define()
        await stream.add("OrderPlaced", "ReserveDone", "PayFailed", "ReserveUndone")
        await stream.follow()
        assert (await stream.saga()).state.state is SagaState.FAILED
        assert await stream.published() == []

    async def test_a_silent_service_and_those_before_it_are_asked_in_reverse_order(
        self, stream: Stream, workshop: Workshop
    ) -> None:
        await stream.define(CHAIN[0], listener("Pay", "ReserveDone", timeout="50ms"), CHAIN[2])
        await stream.add("OrderPlaced", "ReserveDone")
        await stream.follow()
        await workshop.sweep_until_moved((await stream.saga()).id)
        asked = await stream.published()
        assert [event.data["step"] for event in asked] == ["Pay", "Reserve"]
        assert {event.type for event in asked} == {"CompensationRequested"}
        assert asked[0].data == {
            "saga": "order",
            "step": "Pay",
            "correlation": "1",
            "reason": asked[0].data["reason"],
        }
        assert asked[0].subject == "1"
        saga = await stream.saga()
        assert saga.state.error.code == "exhausted"
        await stream.add("ReserveUndone", "PayUndone")
        await stream.follow()
        assert (await stream.saga()).state.state is SagaState.FAILED

    async def test_nobody_answers_until_a_person_is_needed_and_a_retry_asks_again(
        self, stream: Stream, workshop: Workshop
    ) -> None:
        policy = {"max_attempts": 2, "initial_delay": "10ms", "jitter": 0}
        quick = {"compensation_timeout": "20ms", "compensation_retry": policy}
        await stream.define(listener("Reserve", "OrderPlaced", **quick), listener("Pay", "ReserveDone", **quick))
        await stream.add("OrderPlaced", "ReserveDone", "PayFailed")
        await stream.follow()
        saga_id = (await stream.saga()).id
        saga = await workshop.finish(saga_id)
        assert saga.state.state is SagaState.COMPENSATION_FAILED
        assert saga.state.attention.steps == ("Reserve",)
        assert [letter["status"] for letter in await letters(stream.house)] == [OPEN]
        assert len(await stream.published()) == 2
        await workshop.ask(saga_id, Retry)
        asked = await stream.published()
        assert len(asked) == 3
        assert len({event.id for event in asked}) == 3
        await stream.add("ReserveUndone")
        await stream.follow()
        assert (await stream.saga()).state.state is SagaState.FAILED
        assert [letter["status"] for letter in await letters(stream.house)] == ["retried"]

    async def test_a_cancel_asks_at_once(self, stream: Stream, workshop: Workshop) -> None:
        await stream.define()
        await stream.add("OrderPlaced", "ReserveDone")
        await stream.follow()
        saga_id = (await stream.saga()).id
        await workshop.ask(saga_id, Cancel)
        assert [event.data["step"] for event in await stream.published()] == ["Pay", "Reserve"]

    async def test_a_request_is_a_cloudevent_in_json_on_the_stream_that_is_promised(
        self, stream: Stream, workshop: Workshop
    ) -> None:
        await stream.define()
        await stream.add("OrderPlaced")
        await stream.follow()
        await workshop.ask((await stream.saga()).id, Cancel)
        await stream.house.relay.drain()
        ((_, fields),) = await stream.valkey.xrevrange("saga:events", count=1)
        event = json.loads(fields[b"event"])
        assert (event["specversion"], event["type"]) == ("1.0", "CompensationRequested")
        assert {"id", "source", "datacontenttype"} <= set(event)
        reason = event["data"].pop("reason")
        assert isinstance(reason, str)
        assert event["data"] == {"saga": "order", "step": "Reserve", "correlation": "1"}

    async def test_a_success_of_which_a_failed_saga_knew_nothing_is_a_letter(self, stream: Stream) -> None:
        """As where the stream was lost, and its events come again too late."""
        await stream.define()
        await stream.add("OrderPlaced", "ReserveFailed", "PayDone", "ReserveFailed", "PayDone")
        await stream.follow()
        assert (await stream.saga()).state.state is SagaState.FAILED
        found = await letters(stream.house)
        assert [(letter["step"], letter["error"]["code"]) for letter in found] == [("PayDone", "effect-stands")] * 2

    async def test_what_a_person_settles_is_settled(self, stream: Stream, workshop: Workshop) -> None:
        quick = {"compensation_timeout": "10ms", "compensation_retry": {"max_attempts": 1}}
        await stream.define(listener("Reserve", "OrderPlaced", **quick), CHAIN[1])
        await stream.add("OrderPlaced", "ReserveDone", "PayFailed")
        await stream.follow()
        saga = await workshop.finish((await stream.saga()).id)
        assert saga.state.state is SagaState.COMPENSATION_FAILED
        saga = await workshop.ask(saga.id, Resolve, saga.definition.index["Reserve"])
        assert saga.state.state is SagaState.FAILED


ORDER_PLACED = b'{"specversion":"1.0","id":"1","source":"s","type":"OrderPlaced","data":%s}'
POISON = {
    "no JSON": b"no event",
    "no text": b"\xff\x00",
    "a list": b"[]",
    "NaN": ORDER_PLACED % b'{"order_id": NaN}',
    "NUL": ORDER_PLACED % b'"\\u0000"',
    "no correlation": ORDER_PLACED % b"{}",
    "a list of correlations": ORDER_PLACED % b'{"order_id": [1]}',
    "an endless correlation": ORDER_PLACED % b'{"order_id": "%s"}' % (b"x" * 501),
    "an old version": b'{"specversion":"0.3","id":"1","source":"s","type":"OrderPlaced"}',
}


class TestPoison:
    @pytest.mark.parametrize("text", POISON.values(), ids=POISON.keys())
    async def test_it_becomes_one_letter_and_blocks_nothing(self, stream: Stream, text: bytes) -> None:
        await stream.define()
        await stream.add_raw(text)
        await stream.add(*HAPPY)
        await stream.follow()
        assert (await stream.saga()).state.state is SagaState.COMPLETED
        (letter,) = await letters(stream.house)
        assert (letter["operation"], letter["status"], letter["saga_id"]) == ("event", OPEN, None)
        assert letter["error"]["message"]

    async def test_a_key_that_is_taken_by_another_saga(self, stream: Stream, workshop: Workshop) -> None:
        await workshop.define("reserve", name="called")
        await workshop.start("called", key="order:1")
        await stream.define()
        await stream.add("OrderPlaced")
        await stream.follow()
        (letter,) = await letters(stream.house)
        assert letter["error"]["code"] == "key-taken"

    async def test_a_mistake_of_ours_is_tried_again_and_then_a_letter_and_the_letter_can_be_retried(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await stream.define()
        tried = 0

        async def fail(*_: Any) -> None:
            nonlocal tried
            tried += 1
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(stream.house.engine, "observe", fail)
            await stream.add("OrderPlaced")
            await stream.follow()
        assert tried == tracker.TRIES
        (letter,) = await letters(stream.house)
        assert (letter["error"]["code"], letter["saga"], letter["step"]) == ("internal-error", "order", "OrderPlaced")
        await stream.house.tracker.again(letter)
        assert states(await stream.saga())[0] is CallState.RUNNING


class TestOutages:
    async def test_nothing_is_acknowledged_before_it_is_committed(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await stream.define()
        await stream.add(*HAPPY)

        async def away(*_: Any) -> None:
            raise DatabaseUnavailable(OSError("away"))

        with monkeypatch.context() as patched:
            patched.setattr(stream.house.sagas, "by_key", away)
            await stream.house.tracker.turn()  # makes the group
            with pytest.raises(DatabaseUnavailable):
                await stream.house.tracker.turn()
        assert await stream.house.bus.lag() == len(HAPPY)
        await stream.add("OrderPlaced", order="later")
        await stream.follow()
        assert (await stream.saga()).state.state is SagaState.COMPLETED
        assert await stream.saga("later") is not None

    async def test_what_a_dead_tracker_held_is_taken_over(
        self, stream: Stream, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await stream.define()
        await stream.house.bus.begin()
        await stream.add(*HAPPY)
        assert len(await stream.house.bus.read("one that dies") or ()) == len(HAPPY)
        monkeypatch.setattr(bus, "ABANDONED_SECONDS", 0)
        stream.house.tracker._take_over_at = 0
        await stream.follow()
        assert (await stream.saga()).state.state is SagaState.COMPLETED

    async def test_two_trackers_share_the_stream(self, stream: Stream, settings: Settings) -> None:
        await stream.define()
        for order in range(30):
            await stream.add(*HAPPY, order=order)
        async with open_house(settings, worker=True) as other:
            both = [asyncio.create_task(house.tracker.run()) for house in (stream.house, other)]

            async def done() -> bool:
                return await stream.house.bus.lag() == 0 and await stream.saga(29) is not None

            await until(done)
            for task in both:
                task.cancel()
            await asyncio.wait(both)
        for order in range(30):
            assert (await stream.saga(order)).state.state is SagaState.COMPLETED

    async def test_a_stream_that_is_lost_is_followed_again_from_its_beginning(self, stream: Stream) -> None:
        await stream.define()
        running = asyncio.create_task(stream.house.tracker.run())
        try:
            await stream.add("OrderPlaced", "ReserveDone")

            async def paying() -> bool:
                saga = await stream.saga()
                return saga is not None and states(saga)[1] is CallState.RUNNING

            await until(paying)
            await stream.valkey.flushall()
            await stream.add(*HAPPY)

            async def completed() -> bool:
                return (await stream.saga()).state.state is SagaState.COMPLETED

            await until(completed)
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def test_what_came_by_the_door_is_published_again_into_a_stream_that_is_lost(self, stream: Stream) -> None:
        await stream.define()
        event = Event("OrderPlaced", "shop", {"order_id": "1"}, id="one")
        assert await stream.house.events.accept(event.source, event.id, event.to_json())
        await stream.house.relay.drain()
        await stream.valkey.flushall()
        await stream.house.tracker.turn()
        await stream.house.relay.drain()
        await stream.follow()
        assert await stream.saga() is not None

    async def test_without_redis_it_waits_and_says_so_once(
        self, settings: Settings, workshop: Workshop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tracker, "LONGEST_PAUSE_SECONDS", 0.02)
        nowhere = settings.model_copy(update={"redis_url": "unix:///nowhere/at/all.sock"})
        async with open_house(nowhere) as house:
            tries = 0
            chores = house.tracker.turn

            async def counting() -> int:
                nonlocal tries
                tries += 1
                return await chores()

            monkeypatch.setattr(house.tracker, "turn", counting)
            running = asyncio.create_task(house.tracker.run())
            await until(lambda: tries > 3)
            running.cancel()
            await asyncio.wait([running])
        assert sum("the tracker waits" in record.message for record in caplog.records) == 1

    async def test_a_request_is_published_again_after_a_crash_as_the_same_event(
        self, stream: Stream, workshop: Workshop
    ) -> None:
        await stream.define()
        await stream.add("OrderPlaced")
        await stream.follow()

        async def die() -> None:
            raise ZeroDivisionError

        with do_at(probes.EVENTS_PUBLISHED, die):
            await workshop.ask((await stream.saga()).id, Cancel)
            await until(lambda: stream.house.relay._publishing is None)
        await workshop.rows("UPDATE outbox SET due_at = now()")
        asked = await stream.published()
        assert len(asked) == 2
        assert len({event.id for event in asked}) == 1


class TestTrimming:
    async def ids(self, stream: Stream) -> int:
        return await stream.valkey.xlen(STREAM)

    async def fill(self, stream: Stream, entries: int) -> None:
        """Old entries, in more than one node of the stream."""
        async with stream.valkey.pipeline(transaction=False) as pipeline:
            for number in range(1, entries + 1):
                pipeline.xadd(STREAM, {FIELD: "{}"}, id=f"{number}-1")
            await pipeline.execute()

    async def test_what_every_group_has_acknowledged_and_is_old_goes(self, stream: Stream) -> None:
        await self.fill(stream, 1000)
        await stream.add("New")
        await stream.house.bus.begin()
        await stream.valkey.xgroup_setid(STREAM, GROUP, "1000-1")
        assert await stream.house.bus.trim(60) == 900
        assert await self.ids(stream) == 101  # a node that holds something younger stays whole

    async def test_what_is_new_stays(self, stream: Stream) -> None:
        for _ in range(3):
            await stream.add(*["New"] * 100)
        await stream.follow()
        assert await stream.house.bus.trim(60) == 0

    async def test_nothing_goes_that_a_group_has_not_read(self, stream: Stream) -> None:
        await self.fill(stream, 1000)
        await stream.house.bus.begin()
        await stream.valkey.xgroup_setid(STREAM, GROUP, "1000-1")
        await stream.valkey.xgroup_create(STREAM, "slow", id="300-1")
        await stream.house.bus.trim(60)
        assert await self.ids(stream) >= 700

    async def test_nothing_goes_that_a_group_has_not_acknowledged(self, stream: Stream) -> None:
        await self.fill(stream, 1000)
        await stream.house.bus.begin()
        await stream.valkey.xreadgroup(GROUP, "slow", {STREAM: ">"}, count=350)
        await stream.valkey.xack(STREAM, GROUP, *[f"{n}-1" for n in range(1, 301)])
        await stream.valkey.xgroup_setid(STREAM, GROUP, "1000-1")
        await stream.house.bus.trim(60)
        assert await self.ids(stream) >= 700

    async def test_readers_that_have_gone_are_forgotten_but_not_what_they_held(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await stream.house.bus.begin()
        await stream.add("One")
        await stream.house.bus.read("holds one")
        await stream.house.bus.read("holds none")
        assert await stream.house.bus.forget_readers() == 0
        monkeypatch.setattr(bus, "FORGOTTEN_SECONDS", -1)
        assert await stream.house.bus.forget_readers() == 1
        assert await stream.house.bus.lag() == 1


class TestDelivery:
    @pytest.fixture
    async def receiver(self) -> AsyncIterator[Receiver]:
        async with Receiver.serve() as receiver:
            yield receiver

    async def subscribe(self, stream: Stream, receiver: Receiver, *types: str, **more: Any) -> None:
        url = receiver.url.removesuffix("/told")
        await stream.house.services.put(Service("mail", url=url, subscribes=types, **more))

    async def wake_until(self, house: House, done: Any) -> None:
        assert house.courier is not None

        async def woken() -> bool:
            house.courier.wake()
            found = done()
            return found if isinstance(found, bool) else await found

        await until(woken)

    async def untold(self, workshop: Workshop) -> list[Any]:
        return await workshop.rows("SELECT * FROM notice")

    async def test_a_subscribed_event_is_posted_signed_and_once(
        self, stream: Stream, workshop: Workshop, receiver: Receiver
    ) -> None:
        secret = "whsec_bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXc="
        await self.subscribe(stream, receiver, "OrderPlaced", secrets=(secret,), headers={"X-Env": "test"})
        await stream.add("OrderPlaced", "PayDone", amount=7)
        await stream.follow()
        await stream.valkey.xgroup_setid(STREAM, GROUP, "0")
        await stream.follow()
        await self.wake_until(stream.house, lambda: len(receiver.told) > 0)
        told = await receiver.until_told()
        assert told.path == "/events"
        assert told.headers["Content-Type"] == "application/cloudevents+json"
        assert told.headers["X-Env"] == "test"
        assert told.headers["webhook-signature"].startswith("v1,")
        assert told.body["data"] == {"order_id": "1", "amount": 7}

        async def none_left() -> bool:
            return not await self.untold(workshop)

        await self.wake_until(stream.house, none_left)
        await stream.valkey.xgroup_setid(STREAM, GROUP, "0")
        await stream.follow()
        assert await self.untold(workshop) == []
        assert len(receiver.told) == 1

    async def test_a_refusal_ends_it_at_once_and_the_letter_delivers_it_again(
        self, stream: Stream, workshop: Workshop, receiver: Receiver
    ) -> None:
        await self.subscribe(stream, receiver, "OrderPlaced")
        receiver.answers = [422, 422]
        await stream.add("OrderPlaced")
        await stream.follow()

        async def given_up() -> bool:
            return [letter["status"] for letter in await letters(stream.house)] == [OPEN]

        for times in (1, 2):
            await self.wake_until(stream.house, given_up)
            assert len(receiver.told) == times
            (letter,) = await letters(stream.house)
            assert (letter["operation"], letter["service"], letter["step"]) == ("delivery", "mail", "OrderPlaced")
            assert letter["error"] == {"code": "refused", "message": "the receiver answered 422", "status": 422}
            entry = AuditEntry("operator", "retry", "mended", {}, {})
            assert await stream.house.letters.close(letter["id"], "", "retried", entry)
        await self.wake_until(stream.house, lambda: len(receiver.told) == 3)
        assert len({told.id for told in receiver.told}) == 1
        assert receiver.told[2].body["data"] == {"order_id": "1"}

        async def none_left() -> bool:
            return not await self.untold(workshop)

        await self.wake_until(stream.house, none_left)
        assert [letter["status"] for letter in await letters(stream.house)] == ["retried"]

    async def test_what_fails_is_repeated_until_its_attempts_are_used_up(
        self, stream: Stream, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay, "EVENT_BACKOFF", RetryPolicy(max_attempts=3, initial_delay_seconds=0))
        await self.subscribe(stream, receiver, "OrderPlaced")
        receiver.answers = [500, 429, 503]
        await stream.add("OrderPlaced")
        await stream.follow()

        async def given_up() -> bool:
            return len(await letters(stream.house)) == 1

        await self.wake_until(stream.house, given_up)
        assert len(receiver.told) == 3
        (letter,) = await letters(stream.house)
        assert (letter["error"]["code"], letter["attempts"]) == ("exhausted", 3)

    async def test_events_for_a_service_that_is_paused_wait_until_it_is_resumed(
        self, stream: Stream, workshop: Workshop, receiver: Receiver
    ) -> None:
        await self.subscribe(stream, receiver, "OrderPlaced")
        operator = Operator(stream.house, of_key("test", ["admin"], ""))
        await operator.pause_service("mail", "it is being moved")
        await stream.add("OrderPlaced")
        await stream.follow()

        async def put_off() -> bool:
            (untold,) = await self.untold(workshop)
            return untold["due_at"] - untold["created_at"] > timedelta(seconds=WAIT_SECONDS - 5)

        await self.wake_until(stream.house, put_off)
        (untold,) = await self.untold(workshop)
        assert (untold["attempts"], untold["last_error"]) == (0, None)
        assert receiver.told == []
        await operator.resume_service("mail", "it has moved")
        await self.wake_until(stream.house, lambda: len(receiver.told) == 1)

    async def test_notices_and_deliveries_are_listed_apart(
        self, stream: Stream, workshop: Workshop, receiver: Receiver
    ) -> None:
        await self.subscribe(stream, receiver, "OrderPlaced")
        await stream.add("OrderPlaced")
        await stream.follow()
        assert len(await self.untold(workshop)) == 1
        assert (await stream.house.notices.page("", limit=10))[0] == []


async def test_a_stream_without_events_costs_the_database_nothing(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stream.define()
    await stream.add(*HAPPY)
    await stream.follow()

    async def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(Lane, "run", refuse)
    monkeypatch.setattr(Database, "connect", refuse)
    assert await stream.house.tracker.turn() == 0


async def test_what_was_seen_is_forgotten_in_the_end(stream: Stream, workshop: Workshop) -> None:
    event = Event("OrderPlaced", "shop", {}, id="one")
    assert await stream.house.events.accept(event.source, event.id, event.to_json())
    assert await stream.house.events.forget() == 0
    await workshop.rows("UPDATE event_seen SET at = at - interval '8 days'")
    assert await stream.house.events.forget() == 1
    assert await stream.house.events.accept(event.source, event.id, event.to_json())
