"""What a `notify_url` is told: by which transitions, with what, how often, and in whose way it never is."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from app import broker, relay
from app.access import SCOPES, of_key
from app.house import House
from app.relay import Courier
from app.saga.backoff import delay_seconds
from app.saga.definition import RetryPolicy
from app.saga.state import SagaState
from app.settings import Settings
from app.views import saga_json
from tests.participant import REFUSED, answers, closed_port
from tests.receiver import Receiver
from tests.running import running
from tests.waiting import until
from workers import tasks

from .workshop import OPERATOR, Abandon, Pause, Retry, Workshop

OLD, NEW = "whsec_b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQ=", "whsec_bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXc="


@pytest.fixture
def options() -> dict[str, Any]:
    return {"lease_grace": 4, "redispatch_after": 2, "webhook_secret": f"{OLD} {NEW}"}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver.serve() as receiver:
        yield receiver


@pytest.fixture
def courier(house: House) -> Courier:
    assert house.courier is not None
    return house.courier


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is due again at once."""
    monkeypatch.setattr(relay, "BACKOFF", RetryPolicy(initial_delay_seconds=0))


async def untold(workshop: Workshop) -> list[asyncpg.Record]:
    """The oldest first."""
    return await workshop.rows("SELECT * FROM notice ORDER BY created_at")


async def types(workshop: Workshop) -> list[str]:
    return [row["type"] for row in await untold(workshop)]


async def until_none_is_left(workshop: Workshop) -> None:
    async def none_is_left() -> bool:
        return not await untold(workshop)

    await until(none_is_left, what="the delivery of every notice")


async def wake_until(courier: Courier, condition: Any) -> None:
    """As sweeps do, one after the other."""

    async def woken() -> bool:
        courier.wake()
        return await condition()

    await until(woken)


class TestWhatIsTold:
    async def test_a_completed_saga_as_it_stands(
        self, workshop: Workshop, receiver: Receiver, courier: Courier
    ) -> None:
        await workshop.define("reserve", "charge")
        saga = await workshop.run(saga_input={"sku": 1.50}, notify_url=receiver.url)
        courier.wake()
        told = await receiver.until_told()
        assert (told.path, told.headers["Content-Type"]) == ("/told", "application/json")
        assert list(told.body) == ["type", "timestamp", "data"]
        assert told.type == "saga.completed"
        assert told.body["data"] == orjson.loads(saga_json(saga))
        assert told.body["timestamp"] == told.body["data"]["updated_at"]
        await until_none_is_left(workshop)
        assert len(receiver.told) == 1

    async def test_each_secret_signs(self, workshop: Workshop, receiver: Receiver, courier: Courier) -> None:
        await workshop.define("reserve")
        await workshop.run(notify_url=receiver.url)
        courier.wake()
        told = await receiver.until_told()
        for secret in (OLD, NEW):
            Webhook(secret).verify(told.content, dict(told.headers))
        with pytest.raises(WebhookVerificationError):
            Webhook("whsec_b3RoZXIgb3RoZXIgb3RoZXIgb3RoZXI=").verify(told.content, dict(told.headers))

    async def test_a_saga_that_failed(self, workshop: Workshop, receiver: Receiver) -> None:
        await workshop.define("reserve", "charge")
        workshop.participant.on("charge", REFUSED)
        await workshop.run(notify_url=receiver.url)
        assert await types(workshop) == ["saga.failed"]

    async def test_a_failed_compensation_once_and_what_comes_of_it(
        self, workshop: Workshop, receiver: Receiver
    ) -> None:
        await workshop.define("reserve", "charge")
        workshop.participant.on("charge", REFUSED)
        workshop.participant.on("reserve", REFUSED, REFUSED, operation="compensation")
        saga = await workshop.run(notify_url=receiver.url)
        assert "AttentionRaised" in await workshop.history(saga.id)
        assert await types(workshop) == ["saga.compensation_failed"]
        await workshop.ask(saga.id, Retry)
        await workshop.finish(saga.id)
        await workshop.ask(saga.id, Abandon)
        assert await types(workshop) == ["saga.compensation_failed", "saga.compensation_failed", "saga.abandoned"]

    async def test_a_hold_is_attention(self, workshop: Workshop, receiver: Receiver) -> None:
        await workshop.define({"name": "reserve", "on_exhausted": "pause"})
        workshop.participant.on("reserve", answers(500), answers(500))
        saga = await workshop.run(notify_url=receiver.url)
        assert await types(workshop) == ["saga.attention"]
        body = orjson.loads((await untold(workshop))[0]["body"])
        assert (body["data"]["paused"], body["data"]["attention"]["steps"]) == (True, ["reserve"])
        await workshop.ask(saga.id, Pause)
        assert len(await untold(workshop)) == 1

    async def test_nothing_of_a_saga_that_names_nobody(self, workshop: Workshop) -> None:
        await workshop.define("reserve")
        await workshop.run()
        assert await untold(workshop) == []

    async def test_nothing_by_who_lost_the_race(self, workshop: Workshop, receiver: Receiver) -> None:
        await workshop.define("reserve")
        before = await workshop.load(await workshop.start(notify_url=receiver.url))
        await workshop.ask(before.id, Abandon)
        lost = workshop.engine.step(before, Abandon(before.read_at, OPERATOR))
        assert await workshop.engine.write(before, lost, {}) is None
        assert await types(workshop) == ["saga.abandoned"]

    async def test_the_saga_as_it_stood_however_late_it_is_told(
        self, workshop: Workshop, receiver: Receiver, courier: Courier
    ) -> None:
        await workshop.define("reserve", "charge")
        workshop.participant.on("charge", REFUSED)
        workshop.participant.on("reserve", REFUSED, operation="compensation")
        saga = await workshop.run(notify_url=receiver.url)
        await workshop.ask(saga.id, Retry)
        assert (await workshop.finish(saga.id)).state.state is SagaState.FAILED
        courier.wake()
        await receiver.until_told(2)
        told = {each.type: each.body["data"] for each in receiver.told}
        assert told["saga.compensation_failed"]["state"] == "COMPENSATION_FAILED"
        assert told["saga.failed"]["state"] == "FAILED"
        assert told["saga.compensation_failed"]["updated_at"] < told["saga.failed"]["updated_at"]


@pytest.mark.usefixtures("hasty")
class TestRepetition:
    @pytest.mark.parametrize("status", [302, 400, 410, 429, 500])
    async def test_until_it_is_taken_with_the_same_id(
        self, workshop: Workshop, receiver: Receiver, courier: Courier, status: int
    ) -> None:
        receiver.answers = [status, status]
        await workshop.define("reserve")
        await workshop.run(notify_url=receiver.url)

        async def taken() -> bool:
            return len(receiver.told) == 3

        await wake_until(courier, taken)
        await until_none_is_left(workshop)
        assert len({(told.id, told.content) for told in receiver.told}) == 1
        assert {told.path for told in receiver.told} == {"/told"}, "a redirect is not followed"
        for told in receiver.told:
            Webhook(NEW).verify(told.content, dict(told.headers))

    async def test_what_failed_says_why(self, workshop: Workshop, courier: Courier) -> None:
        await workshop.define("reserve")
        await workshop.run(notify_url=f"http://127.0.0.1:{closed_port()}/")
        courier.wake()

        async def failed() -> bool:
            return (await untold(workshop))[0]["last_error"] is not None

        await until(failed)
        assert "Connection refused" in (await untold(workshop))[0]["last_error"]

    async def test_a_host_that_is_no_longer_allowed_is_not_told(
        self, workshop: Workshop, receiver: Receiver, house: House, settings: Settings
    ) -> None:
        await workshop.define("reserve")
        await workshop.run(notify_url=receiver.url)
        strict = Courier(house.notices, house.services, settings.model_copy(update={"notify_hosts": "example.org"}))
        strict.wake()

        async def failed() -> bool:
            return (await untold(workshop))[0]["last_error"] is not None

        await until(failed)
        assert "SAGA_NOTIFY_HOSTS" in (await untold(workshop))[0]["last_error"]
        assert receiver.told == []
        await strict.close()

    async def test_after_days_it_is_given_up_and_said_so(
        self, workshop: Workshop, receiver: Receiver, courier: Courier, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver.answers = [503]
        await workshop.define("reserve")
        saga = await workshop.run(notify_url=receiver.url)
        await workshop.rows("UPDATE notice SET since = now() - interval '4 days'")
        courier.wake()

        async def given_up() -> bool:
            return (await untold(workshop))[0]["due_at"] is None

        await until(given_up)
        assert f"(saga.completed of saga {saga.id}) is given up: the receiver answered 503" in caplog.text
        courier.wake()
        (notice,) = await untold(workshop)
        assert (
            await workshop.house.notices.send_again(str(notice["id"]), of_key("operator", SCOPES, ""), "it is back")
            is not None
        )
        await wake_until(courier, lambda: _told(receiver, 2))
        await until_none_is_left(workshop)


async def _told(receiver: Receiver, times: int) -> bool:
    return len(receiver.told) >= times


def test_the_distances_double_up_to_an_hour() -> None:
    delays = [delay_seconds(relay.BACKOFF, failures, "a notice") for failures in range(1, 30)]
    for failures, delay in enumerate(delays):
        longest = min(2**failures, 3600)
        assert 0.8 * longest <= delay <= longest


class TestNobodysWay:
    async def test_a_sweep_does_not_wait_for_a_receiver(
        self, workshop: Workshop, receiver: Receiver, house: House
    ) -> None:
        hanging = asyncio.Event()
        receiver.answers = [hanging]
        await workshop.define("reserve")
        await workshop.run(notify_url=receiver.url)
        await tasks.sweep(house, nullcontext)
        await receiver.until_told()
        await tasks.sweep(house, nullcontext)
        assert len(await untold(workshop)) == 1, "it is still under way"
        assert len(receiver.told) == 1, "what is under way is not sent beside itself"
        hanging.set()
        await until_none_is_left(workshop)

    async def test_what_failed_before_does_not_hold_up_what_is_new(
        self, workshop: Workshop, receiver: Receiver, courier: Courier, hasty: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay, "AT_ONCE", 1)
        monkeypatch.setattr(relay, "TIMEOUT_SECONDS", 600)
        await workshop.define("reserve")
        hanging = asyncio.Event()
        receiver.answers = [500, hanging]
        await workshop.run(notify_url=receiver.url)
        await wake_until(courier, lambda: _told(receiver, 2))
        await workshop.run(notify_url=receiver.url)
        courier.wake()
        await receiver.until_told(3)
        assert receiver.told[2].id != receiver.told[1].id
        hanging.set()
        await until_none_is_left(workshop)

    async def test_more_than_there_are_places_go_one_after_the_other(
        self, workshop: Workshop, receiver: Receiver, courier: Courier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay, "AT_ONCE", 2)
        await workshop.define("reserve")
        for _ in range(7):
            await workshop.run(notify_url=receiver.url)
        courier.wake()
        await until_none_is_left(workshop)
        assert len({told.id for told in receiver.told}) == len(receiver.told) == 7

    async def test_two_couriers_do_not_send_the_same(
        self, workshop: Workshop, receiver: Receiver, courier: Courier, house: House, settings: Settings
    ) -> None:
        await workshop.define("reserve")
        for _ in range(10):
            await workshop.run(notify_url=receiver.url)
        other = Courier(house.notices, house.services, settings)
        for each in (courier, other):
            each.wake()
        await until_none_is_left(workshop)
        assert len({told.id for told in receiver.told}) == len(receiver.told) == 10
        await other.close()


async def test_the_receiver_of_the_documentation_takes_ours_and_nothing_else(
    workshop: Workshop, courier: Courier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGA_WEBHOOK_SECRET", NEW)
    text = (Path(__file__).parents[2] / "docs" / "notices.md").read_text()
    written: dict[str, Any] = {"__name__": "receiver"}
    exec(text.partition("```python\n")[2].partition("```")[0], written)
    runner = web.AppRunner(written["app"], access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/told"
    await workshop.define("reserve")
    saga = await workshop.run(notify_url=url)
    courier.wake()
    await until_none_is_left(workshop)
    assert capsys.readouterr().out == f"saga.completed {saga.id} COMPLETED\n"
    async with aiohttp.ClientSession() as session, session.post(url, data=b"{}") as answer:
        assert answer.status == 400
    await runner.cleanup()


@pytest.mark.slow
async def test_a_worker_that_dies_in_the_middle_of_it_has_another_tell_the_same(
    workshop: Workshop, receiver: Receiver, house: House, settings: Settings, tmp_path: Path
) -> None:
    """It dies between the receiver's answer and its own note of it, so the receiver hears twice, under one id."""
    await workshop.define("reserve")
    await workshop.run(notify_url=receiver.url)

    async def sweeps() -> None:
        while True:
            await house.publisher.deliver(broker.SYSTEM, broker.SWEEP, [()])
            await asyncio.sleep(0.2)

    sweeping = asyncio.create_task(sweeps())
    with running("worker", settings, tmp_path, SAGA_CRASH_AT="notice.sent") as worker:
        assert await worker.ended() == -signal.SIGKILL, worker.log
    assert len(receiver.told) == 1
    (row,) = await untold(workshop)
    assert row["attempts"] == 1
    await workshop.rows("UPDATE notice SET due_at = now()")  # its lease is over
    with running("worker", settings, tmp_path):
        await receiver.until_told(2)
        await until_none_is_left(workshop)
    sweeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sweeping
    first, second = receiver.told
    assert (first.id, first.content) == (second.id, second.content)
