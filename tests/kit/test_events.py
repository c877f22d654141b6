"""Events in choreography: handled once, published in order, undone when asked, given up where they are poison."""

import asyncio
import contextlib
import json
import random
from itertools import count

import pytest
import redis
from prometheus_client import REGISTRY
from sqlalchemy import insert, select, update

from saga_participant import Refused, Retry
from saga_participant.events import COMPENSATION_REQUESTED, FIELD, STREAM, Event
from saga_participant.participant import Participant
from saga_participant.tables import barrier, inbox, outbox
from tests.kit.conftest import effects
from tests.waiting import until

_numbers = count(1)


@pytest.fixture(scope="module", params=["postgres async", "sqlite"])
def kind(request):
    return request.param


class Shop:
    """An inventory service, and the stream it listens to."""

    def __init__(self, service, redis_url):
        self.service, self.redis_url = service, redis_url
        self.redis = redis.Redis.from_url(redis_url)
        self.behaviour = {}
        self.inventory = self.participant("inventory")
        reserve = self.inventory.step(
            "ReserveInventory",
            trigger="OrderPlaced",
            succeeded="InventoryReserved",
            failed="InventoryReservationFailed",
            compensated="InventoryReleased",
            undone_by=["PaymentFailed"],
        )(self.handler("reserve"))
        reserve.compensation(self.handler("release"))
        self.inventory.on("OrderNoted")(self.handler("note"))

    def participant(self, name, **more):
        more = {"correlation": "data.order_id", "attempts": 3} | more
        return Participant(name, self.service.engine, redis_url=self.redis_url, **more)

    def handler(self, what):
        """Writes down that it was here; `behaviour[what]` says what it does besides."""

        def plainly(session, event, done):
            session.execute(insert(effects).values(saga_id=self.inventory.correlation_of(event), what=what))
            behaviour = self.behaviour.get(what)
            if behaviour is not None:
                behaviour(event)
            return {"number": next(_numbers), "done": done and done["number"]}

        if self.service.is_async:

            async def handle(event, session, done=None):
                return await session.run_sync(plainly, event, done)
        else:

            def handle(event, session, done=None):
                return plainly(session, event, done)

        handle.__name__ = what
        return handle

    def send(self, event_type, order="4711", *, source="shop", **more):
        """Puts an event on the stream, as any other service would."""
        data = more.pop("data", {"order_id": order})
        event = Event(event_type, source, data, **more)
        self.redis.xadd(STREAM, {FIELD: event.to_json()})
        return event

    def ask(self, order="4711", step="ReserveInventory"):
        data = {"saga": "order-events", "step": step, "correlation": order, "reason": "silent"}
        return self.send(COMPENSATION_REQUESTED, data=data, source="saga-orchestrator")

    def published(self, order="4711"):
        """The types and data of what the inventory has put on the stream for an order, in the order of the stream."""
        entries = [Event.from_json(fields[FIELD.encode()]) for _, fields in self.redis.xrange(STREAM)]
        return [event for event in entries if event.source == "inventory" and event.subject == order]

    def types(self, order="4711"):
        return [event.type for event in self.published(order)]

    async def done(self, order="4711"):
        return await self.service.effects(order)

    async def rows(self, statement):
        return await self.service.store.run(lambda session: session.execute(statement).all())

    async def hurry(self):
        """What waits for its next attempt is due now."""
        now = update(inbox).where(inbox.c.state == "waiting").values(due_at=0)
        await self.service.store.run(lambda session: session.execute(now))
        await self.inventory.settle()


@pytest.fixture
def shop(service, redis_url):
    shop = Shop(service, redis_url)
    yield shop
    shop.redis.close()


async def test_a_step_answers_its_trigger_with_its_event(shop):
    shop.send("OrderPlaced")
    await shop.inventory.settle()
    (reserved,) = shop.published()
    assert (reserved.type, reserved.subject, reserved.source) == ("InventoryReserved", "4711", "inventory")
    assert reserved.data["order_id"] == "4711"
    assert reserved.data["number"] > 0
    assert await shop.done() == ["reserve"]


async def test_a_doubled_event_is_handled_once(shop):
    event = shop.send("OrderPlaced")
    for _ in range(3):
        shop.redis.xadd(STREAM, {FIELD: event.to_json()})
    await shop.inventory.settle()
    shop.redis.xadd(STREAM, {FIELD: event.to_json()})
    await shop.inventory.settle()
    assert shop.types() == ["InventoryReserved"]
    assert await shop.done() == ["reserve"]


async def test_a_trigger_told_again_as_another_event_is_answered_again_with_no_second_effect(shop):
    shop.send("OrderPlaced")
    await shop.inventory.settle()
    shop.send("OrderPlaced")
    await shop.inventory.settle()
    first, second = shop.published()
    assert (first.type, first.data) == (second.type, second.data)
    assert await shop.done() == ["reserve"]


async def test_a_refusal_is_the_failed_event_and_leaves_no_trace(shop):
    def refuse(_event):
        raise Refused("sold out")

    shop.behaviour["reserve"] = refuse
    shop.send("OrderPlaced")
    await shop.inventory.settle()
    (failed,) = shop.published()
    assert failed.type == "InventoryReservationFailed"
    assert failed.data == {"order_id": "4711", "step": "ReserveInventory", "reason": "sold out"}
    assert await shop.done() == []
    assert await shop.rows(select(barrier)) == []


async def test_a_failure_event_undoes_the_step_and_a_request_for_the_same_is_answered_without_a_second_effect(shop):
    shop.send("OrderPlaced")
    await shop.inventory.settle()
    shop.send("PaymentFailed")
    await shop.inventory.settle()
    shop.ask()
    await shop.inventory.settle()
    assert shop.types() == ["InventoryReserved", "InventoryReleased", "InventoryReleased"]
    reserved, released, again = shop.published()
    assert released.data["done"] == reserved.data["number"]
    assert again.data == released.data
    assert await shop.done() == ["reserve", "release"]


async def test_a_compensation_before_its_trigger_is_remembered_and_the_trigger_does_nothing(shop):
    shop.ask()
    await shop.inventory.settle()
    shop.send("OrderPlaced")
    await shop.inventory.settle()
    assert shop.types() == ["InventoryReleased", "InventoryReleased"]
    assert await shop.done() == []


async def test_a_request_for_somebody_elses_step_is_not_ours(shop):
    shop.ask(step="ProcessPayment")
    await shop.inventory.settle()
    assert shop.types() == []
    assert await shop.rows(select(inbox)) == []


async def test_who_comes_back_to_a_full_inbox_does_not_do_what_it_is_asked_to_undo(shop):
    shop.send("OrderPlaced")
    shop.ask()
    async with contextlib.AsyncExitStack() as stack:
        handle, _, _, read, _ = await shop.inventory._loops(stack, None)
        while await read():
            pass
        while await handle():
            pass
    await shop.inventory.settle()
    assert await shop.service.effects("4711") == []


async def test_a_compensation_overtakes_a_trigger_that_goes_on_failing(shop):
    def fail(_event):
        raise RuntimeError("no warehouse")

    shop.behaviour["reserve"] = fail
    shop.send("OrderPlaced")
    await shop.inventory.settle()
    shop.ask()
    await shop.inventory.settle()
    assert shop.types() == ["InventoryReleased"]
    shop.behaviour.clear()
    await shop.hurry()
    assert shop.types() == ["InventoryReleased", "InventoryReleased"]
    assert await shop.done() == []


async def test_replayed_from_its_beginning_the_whole_stream_changes_nothing(shop):
    for number in range(30):
        order = str(number)
        shop.send("OrderPlaced", order)
        shop.send("OrderNoted", order)
        if number % 3 == 0:
            shop.send("PaymentFailed", order)
        if number % 5 == 0:
            shop.ask(order)
    await shop.inventory.settle()
    entries = shop.redis.xrange(STREAM)
    before = [await shop.rows(select(effects)), await shop.rows(select(barrier)), await shop.rows(select(inbox))]
    shop.redis.delete(STREAM)
    for _, fields in entries:
        shop.redis.xadd(STREAM, fields)
    await shop.service.store.run(lambda session: session.execute(update(outbox).values(sent_at=0)))
    await shop.inventory.settle()
    after = [await shop.rows(select(effects)), await shop.rows(select(barrier)), await shop.rows(select(inbox))]
    assert after == before
    assert len(shop.redis.xrange(STREAM)) == len(entries)


async def test_a_poison_event_is_a_dead_letter_and_holds_up_only_its_own_correlation(shop, caplog):
    def poison(event):
        if event.id == bad.id:
            raise RuntimeError("poison\0")

    shop.behaviour["note"] = poison
    bad = shop.send("OrderNoted", "bad")
    shop.send("OrderNoted", "bad")
    shop.send("OrderNoted", "good")
    await shop.inventory.settle()
    assert await shop.done("good") == ["note"]
    assert await shop.done("bad") == []
    await shop.hurry()
    assert await shop.done("bad") == []
    await shop.hurry()
    (letter,) = await shop.inventory.dead_letters()
    assert (letter["event_id"], letter["handler"], letter["attempts"]) == (bad.id, "note", 3)
    assert letter["error"] == "RuntimeError: poison"
    assert "a dead letter now" in caplog.text
    labels = {"service": "inventory", "handler": "note", "result": "dead"}
    assert REGISTRY.get_sample_value("saga_participant_events_total", labels) > 0
    assert await shop.done("bad") == ["note"]
    shop.behaviour.clear()
    assert await shop.inventory.retry_dead_letter(letter["id"])
    assert not await shop.inventory.retry_dead_letter(letter["id"])
    await shop.inventory.settle()
    assert await shop.done("bad") == ["note", "note"]
    assert await shop.inventory.dead_letters() == []


async def test_an_event_that_ends_the_process_each_time_is_given_up_too(shop):
    def end(_event):
        raise asyncio.CancelledError  # as near to a kill as a test in one process comes: nothing is written

    shop.behaviour["note"] = end
    shop.send("OrderNoted")
    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            await shop.hurry()
    await shop.hurry()
    (letter,) = await shop.inventory.dead_letters()
    assert letter["error"] == "the process ended in each of its attempts"


async def test_a_handler_may_say_when_it_wants_to_be_asked_again(shop):
    def later(_event):
        raise Retry("closed", after_seconds=1000)

    shop.behaviour["note"] = later
    shop.send("OrderNoted")
    await shop.inventory.settle()
    ((due_at, at),) = await shop.rows(select(inbox.c.due_at, inbox.c.at))
    assert due_at - at >= 1000


@pytest.mark.parametrize(
    "entry",
    [
        {"other": "field"},
        {FIELD: b"\xff\x00"},
        {FIELD: "[" * 50_000},
        {FIELD: "{}"},
        {FIELD: json.dumps({"specversion": "1.0", "id": "a\0", "source": "s", "type": "OrderNoted"})},
        {FIELD: json.dumps({"specversion": "1.0", "id": "\ud800", "source": "s", "type": "OrderNoted"})},
        {FIELD: json.dumps({"specversion": "1.0", "id": "x" * 5000, "source": "s", "type": "OrderNoted"})},
        {FIELD: json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "OrderNoted"})},
        {FIELD: '{"specversion": "1.0", "id": "1", "source": "s", "type": "OrderNoted", "data": NaN}'},
        {FIELD: Event("OrderNoted", "s", {"order_id": "a\0"}).to_json()},
        {FIELD: Event("OrderNoted", "s", {"order_id": {"a": 1}}).to_json()},
    ],
    ids=["field", "bytes", "deep", "empty", "nul", "surrogate", "long", "no data", "nan", "bad correlation", "no text"],
)
async def test_what_cannot_be_handled_is_a_dead_letter_and_holds_up_nothing(shop, entry):
    shop.redis.xadd(STREAM, entry)
    shop.send("OrderNoted", "good")
    await shop.inventory.settle()
    assert await shop.done("good") == ["note"]
    assert len(await shop.inventory.dead_letters()) == 1


async def test_events_of_a_correlation_are_handled_in_the_order_of_the_stream(shop):
    seen = []
    shop.behaviour["note"] = lambda event: seen.append((event.data["order_id"], event.data["n"]))
    for n in range(20):
        for order in ("a", "b", "c"):
            shop.send("OrderNoted", data={"order_id": order, "n": n})
    await shop.inventory.settle()
    assert [n for order, n in seen if order == "a"] == list(range(20))
    assert len(seen) == 60


async def test_events_of_a_correlation_keep_their_order_across_types(shop):
    def fail(_event):
        raise RuntimeError("no warehouse")

    shop.behaviour["reserve"] = fail
    shop.send("OrderPlaced")
    shop.send("OrderNoted")
    await shop.inventory.settle()
    assert await shop.done() == []
    shop.behaviour.clear()
    await shop.hurry()
    assert await shop.done() == ["reserve", "note"]


async def test_what_is_written_in_a_transaction_that_fails_is_never_published(shop):
    def fails(session):
        shop.inventory.publish(session, "OrderNoted", {"order_id": "1"})
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await shop.service.store.run(fails)
    await shop.inventory.settle()
    assert shop.redis.xlen(STREAM) == 0


async def test_a_lost_stream_is_published_again_in_order_and_changes_nothing(shop):
    for order in ("1", "2", "3"):
        shop.send("OrderPlaced", order)
    await shop.inventory.settle()
    before = [(event.type, event.id) for order in "123" for event in shop.published(order)]
    shop.redis.flushall()
    await shop.inventory.settle()
    assert [(event.type, event.id) for order in "123" for event in shop.published(order)] == before
    assert await shop.rows(select(effects.c.what)) == [("reserve",)] * 3


async def test_what_was_published_is_kept_for_a_day(shop):
    hours = {"kept": 23, "forgotten": 25}
    for order in hours:
        shop.send("OrderPlaced", order)
    await shop.inventory.settle()
    for order, age in hours.items():
        (event,) = shop.published(order)
        aged = update(outbox).where(outbox.c.target == event.id).values(sent_at=outbox.c.sent_at - age * 3600)
        await shop.service.store.run(lambda session, aged=aged: session.execute(aged))
    shop.redis.flushall()
    await shop.inventory.settle()
    assert (shop.types("kept"), shop.types("forgotten")) == (["InventoryReserved"], [])
    await shop.participant("inventory").settle()  # cleans at its start
    assert len(await shop.rows(select(outbox.c.id))) == 1


async def test_the_stream_knows_how_far_a_service_has_read(shop):
    def mark():
        (group,) = [group for group in shop.redis.xinfo_groups(STREAM) if group["name"] == b"reader:inventory"]
        return group["last-delivered-id"]

    shop.send("OrderNoted")
    await shop.inventory.settle()
    last = shop.redis.xrevrange(STREAM, count=1)[0][0]
    assert mark() == last
    shop.redis.delete(STREAM)
    shop.send("OrderNoted", "4712")
    await shop.inventory.settle()
    assert mark() == shop.redis.xrevrange(STREAM, count=1)[0][0]


async def test_a_lost_tail_of_the_stream_is_published_again(shop):
    """As after a power cut, or a fail-over to a replica that was behind."""
    for order in ("1", "2"):
        shop.send("OrderPlaced", order)
        await shop.inventory.settle()
    entries = shop.redis.xrange(STREAM)
    shop.redis.xdel(STREAM, entries[-1][0])
    await shop.inventory.settle()
    assert shop.types("1") == shop.types("2") == ["InventoryReserved"]


async def test_a_stream_that_begins_anew_with_lower_ids_is_read_from_its_beginning(shop):
    shop.send("OrderNoted", "1")
    await shop.inventory.settle()
    ((stream_id, fields),) = shop.redis.xrange(STREAM)
    shop.redis.delete(STREAM)
    lower = f"{int(stream_id.partition(b'-')[0]) - 60_000}-0"
    shop.redis.xadd(STREAM, fields, id=lower)
    shop.redis.xadd(STREAM, {FIELD: Event("OrderNoted", "shop", {"order_id": "2"}).to_json()}, id=lower[:-1] + "1")
    await shop.inventory.settle()
    assert await shop.done("1") == await shop.done("2") == ["note"]


async def test_what_is_older_than_the_memory_is_not_looked_at(shop):
    event = Event("OrderNoted", "shop", {"order_id": "1"}).to_json()
    shop.redis.xadd(STREAM, {FIELD: event}, id="1000-0")
    await shop.inventory.settle()
    assert await shop.done("1") == []


async def test_two_runners_and_a_restart_handle_everything_once_and_publish_in_order(shop):
    """Both run for real; one is stopped in the middle."""
    orders = [str(n) for n in range(40)]
    first, second = shop.inventory, Shop(shop.service, shop.redis_url).inventory
    one, two = asyncio.create_task(first.run()), asyncio.create_task(second.run())
    for order in orders[:20]:
        shop.send("OrderPlaced", order)
    await until(lambda: all(shop.types(order) for order in orders[:5]))
    one.cancel()
    for order in orders[20:]:
        shop.send("OrderPlaced", order)
    for order in orders:
        shop.send("PaymentFailed", order)
    await until(lambda: all(len(shop.types(order)) >= 2 for order in orders), 60)
    two.cancel()
    await asyncio.gather(one, two, return_exceptions=True)
    for order in orders:
        assert await shop.done(order) in (["reserve", "release"], [])


async def test_a_busy_runner_ends_whenever_it_is_told_to(shop):
    """A driver that cleans up may swallow the cancel; once in six times it did."""
    dice = random.Random(1)
    for round_number in range(20):
        task = asyncio.create_task(shop.inventory.run())
        for number in range(5):
            shop.send("OrderPlaced", f"{round_number}-{number}")
            await asyncio.sleep(dice.random() * 0.03)
        task.cancel()
        ended, _ = await asyncio.wait([task], timeout=30)
        assert ended


async def test_a_handler_of_the_wrong_colour_is_refused_where_it_is_written(shop):
    def plain(_event, _session): ...

    async def coloured(_event, _session): ...

    with pytest.raises(TypeError, match="has to be"):
        shop.inventory.on("X")(plain if shop.service.is_async else coloured)


async def test_what_is_older_than_the_retention_is_forgotten_but_not_what_waits(shop):
    def fail(_event):
        raise RuntimeError("not yet")

    shop.behaviour["note"] = fail
    shop.send("OrderPlaced", "1")
    shop.send("OrderNoted", "2")
    await shop.inventory.settle()
    forgetful = shop.participant("inventory", retention_seconds=-60)
    await forgetful.settle()
    assert await shop.rows(select(barrier)) == []
    assert await shop.rows(select(inbox.c.handler, inbox.c.state)) == [("note", "waiting")]


async def test_without_redis_a_participant_only_posts(shop):
    alone = Participant("alone", shop.service.engine)
    await alone.settle()
    with pytest.raises(ValueError, match="no event reaches note"):
        alone.on("X")(shop.handler("note"))
    with pytest.raises(ValueError, match="no redis_url to publish to"):
        alone.publish(None, "X", {}, correlation="1")


async def test_two_handlers_of_one_name_are_refused(shop):
    with pytest.raises(ValueError, match="two handlers of inventory are called note"):
        shop.inventory.on("X")(shop.handler("note"))


async def test_an_event_without_its_correlation_is_not_published(shop):
    with pytest.raises(ValueError, match=r"no correlation at data\.order_id"):
        shop.inventory.publish(None, "OrderNoted", {"order": "1"})
