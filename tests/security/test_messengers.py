"""Notices, events, polls and callbacks keep what calls keep: nothing goes astray, nothing is taken from who forged it.

Names are looked up by the system's resolver, as in earnest; the test answers in the place of it.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp.abc import ResolveResult

from app import bus, relay
from app.callbacks import AttemptName, make_token
from app.participants.addresses import literal_fault
from app.participants.http import HttpParticipant, open_session
from app.relay import Courier
from app.saga.definition import RetryPolicy
from app.saga.messages import OutcomeKind
from app.saga.service import Service
from app.settings import Settings
from saga_participant import Refused
from saga_participant.calls import verify
from tests.api.conftest import World, api, app_state, served, world  # noqa: F401 - fixtures
from tests.api.test_events import ORDER_PLACED, follow
from tests.participant import ACCEPTED, Participant
from tests.participants.attempts import ATTEMPT, LIMIT
from tests.receiver import Receiver
from tests.waiting import until

METADATA = "169.254.169.254"
OLD, NEW, OTHER = "whsec_b2xkIW9sZCFvbGQhb2xkIQ==", "whsec_bmV3IW5ldyFuZXchbmV3IQ==", "whsec_ZWxzZWVsc2VlbHNlZWxzZQ=="
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@pytest.fixture
def options() -> dict[str, Any]:
    return {"notify_hosts": "127.0.0.1,told.test", "webhook_secret": f"{OLD} {NEW}"}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver.serve() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is due again at once."""
    monkeypatch.setattr(relay, "BACKOFF", RetryPolicy(initial_delay_seconds=0))
    monkeypatch.setattr(bus, "BLOCK_SECONDS", 0.05)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what names lead to from now on."""

    def lead_to(*addresses: str) -> None:
        async def resolve(_: Any, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
            return [
                {"hostname": host, "host": address, "port": port, "family": kind, "proto": 0, "flags": 0}
                for address, kind in zip(addresses, kinds, strict=True)
            ]

        monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)

    return lead_to


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, list[bytes]]]:
    """(address of somebody who should hear nothing, what it heard)"""
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


def elsewhere(url: str, name: str) -> str:
    return url.replace("127.0.0.1", name)


async def notice_that_failed(world: World, courier: Courier | None = None) -> dict[str, Any]:  # noqa: F811
    courier = courier or world.worker.courier
    assert courier is not None

    async def failed() -> bool:
        courier.wake()
        return (await notices(world))[0]["last_error"] is not None

    await until(failed)
    return (await notices(world))[0]


async def notices(world: World) -> list[dict[str, Any]]:  # noqa: F811
    return (await world.api.get("/admin/api/notices")).json["items"]


class TestNotices:
    @pytest.fixture
    async def orders(self, world: World) -> World:  # noqa: F811
        await world.define({"name": "reserve"})
        return world

    @pytest.mark.parametrize("addresses", [["127.0.0.1", METADATA], [METADATA, "127.0.0.1"], ["::ffff:a9fe:a9fe"]])
    async def test_one_bad_address_of_an_allowed_name_keeps_it_untold(
        self, orders: World, receiver: Receiver, names: Callable[..., None], addresses: list[str]
    ) -> None:
        names(*addresses)
        await orders.ran(notify_url=elsewhere(receiver.url, "told.test"))
        notice = await notice_that_failed(orders)
        assert "link-local" in notice["last_error"]
        assert "told.test" in notice["last_error"]
        assert receiver.told == []

    async def test_a_name_that_leads_home_again_is_told(
        self, orders: World, receiver: Receiver, names: Callable[..., None]
    ) -> None:
        names(METADATA)
        await orders.ran(notify_url=elsewhere(receiver.url, "told.test"))
        await notice_that_failed(orders)
        names("127.0.0.1")
        assert orders.worker.courier is not None

        async def told() -> bool:
            orders.worker.courier.wake()
            return bool(receiver.told)

        await until(told)

    async def test_proxies_of_the_environment_are_not_used(
        self, orders: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with listening() as (proxy, heard):
            for name in PROXIES:
                monkeypatch.setenv(name, proxy)
                monkeypatch.setenv(name.upper(), proxy)
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            await orders.ran(notify_url=receiver.url)
            assert orders.worker.courier is not None
            orders.worker.courier.wake()
            await receiver.until_told()
            assert heard == []

    async def test_a_host_that_was_taken_off_the_list_is_told_again_once_it_is_back(
        self, orders: World, receiver: Receiver, settings: Settings
    ) -> None:
        await orders.ran(notify_url=receiver.url)
        house = orders.worker
        strict = Courier(house.notices, house.services, settings.model_copy(update={"notify_hosts": "told.test"}))
        notice = await notice_that_failed(orders, strict)
        await strict.close()
        assert (notice["status"], receiver.told) == ("failing", [])
        assert "SAGA_NOTIFY_HOSTS" in notice["last_error"]
        assert house.courier is not None

        async def told() -> bool:
            house.courier.wake()
            return bool(receiver.told)

        await until(told)
        assert receiver.told[0].id == notice["id"]

    async def test_a_host_that_stays_off_the_list_is_given_up_and_its_notice_kept(
        self, orders: World, receiver: Receiver, settings: Settings
    ) -> None:
        await orders.ran(notify_url=receiver.url)
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute("UPDATE notice SET since = now() - interval '4 days'")
        await connection.close()
        house = orders.worker
        strict = Courier(house.notices, house.services, settings.model_copy(update={"notify_hosts": "told.test"}))
        notice = await notice_that_failed(orders, strict)
        await strict.close()
        assert (notice["status"], receiver.told) == ("given-up", [])

    async def test_a_replay_is_refused_by_the_kit_after_five_minutes(self, orders: World, receiver: Receiver) -> None:
        await orders.ran(notify_url=receiver.url)
        assert orders.worker.courier is not None
        orders.worker.courier.wake()
        told = await receiver.until_told()
        headers, now = {name.lower(): value for name, value in told.headers.items()}, time.time()
        for secret in (OLD, NEW):
            verify(headers, told.content, [secret], at=now)
        later = {**headers, "webhook-timestamp": str(int(now) + 400)}
        for forged, content, secret, at in (
            (headers, told.content, OLD, now + 400),
            (headers, told.content, OLD, now - 400),
            (later, told.content, OLD, now + 400),
            ({**headers, "webhook-id": "another"}, told.content, OLD, now),
            (headers, told.content.replace(b"completed", b"abandoned"), OLD, now),
            (headers, told.content, OTHER, now),
        ):
            with pytest.raises(Refused) as refused:
                verify(forged, content, [secret], at=at)
            assert refused.value.status == 401


class TestEvents:
    async def test_one_for_a_service_whose_name_leads_astray_is_kept_and_says_why(
        self,
        world: World,  # noqa: F811
        receiver: Receiver,
        names: Callable[..., None],
        settings: Settings,
    ) -> None:
        names("127.0.0.1", METADATA)
        body = {"url": elsewhere(receiver.url, "mail.test"), "subscribes": [ORDER_PLACED["type"]]}
        assert (await world.api.put("/services/mail", body)).status == 201
        assert (await world.api.post("/events", ORDER_PLACED)).status == 202
        await follow(world)
        connection = await asyncpg.connect(settings.database_url)
        assert world.worker.courier is not None

        async def failed() -> bool:
            world.worker.courier.wake()
            return (await connection.fetchval("SELECT last_error FROM notice")) is not None

        try:
            await until(failed)
            why = await connection.fetchval("SELECT last_error FROM notice WHERE service = 'mail'")
        finally:
            await connection.close()
        assert "link-local" in why
        assert receiver.told == []


class TestCalls:
    async def test_a_poll_does_not_follow_a_name_that_was_rebound(self, names: Callable[..., None]) -> None:
        async with Participant.serve() as participant, open_session() as session:
            url = elsewhere(participant.url, "payment.test")
            called = HttpParticipant(session, Service("payment", url=url), LIMIT)
            names("127.0.0.1")
            assert (await called(ATTEMPT)).kind is OutcomeKind.SUCCEEDED
            assert await called.poll(ATTEMPT, f"{url}/jobs/1") is not None, "it is answered, with 405"
        async with Participant.serve() as participant, open_session() as session:
            url = elsewhere(participant.url, "payment.test")
            called = HttpParticipant(session, Service("payment", url=url), LIMIT)
            names("127.0.0.1", METADATA)
            assert await called.poll(ATTEMPT, f"{url}/jobs/1") is None

    @pytest.mark.parametrize("addresses", [[], ["localhost"], ["payment.test"]])
    async def test_a_name_without_an_address_is_an_outcome_and_no_fault_of_ours(
        self, names: Callable[..., None], addresses: list[str]
    ) -> None:
        """Never raised, or the attempt would wait for its lease to end."""
        names(*addresses)
        async with open_session() as session:
            outcome = await HttpParticipant(session, Service("payment", url="http://payment.test:9"), LIMIT)(ATTEMPT)
        assert outcome.kind is OutcomeKind.NOT_SENT

    @pytest.mark.parametrize(
        "address",
        [
            "fd00:ec2::23",  # Amazon: credentials of a pod
            "fd00:c1::a9fe:a9fe",  # Oracle
            "fd00:42::42",  # Scaleway
            "64:ff9b:1:a9fe:a9:fe00:7f00:1",  # RFC 6052, section 2.2: /48, with a suffix that is ignored
            "64:ff9b:1:0:64:6464:c800:0",  # 100.100.100.200 in the form of /64
            "::ffff:0:a9fe:a9fe",  # RFC 2765
        ],
    )
    async def test_metadata_of_ipv6_and_behind_translators_is_not_called(
        self, names: Callable[..., None], address: str
    ) -> None:
        assert literal_fault(address) is not None
        names(address)
        async with open_session() as session:
            outcome = await HttpParticipant(session, Service("payment", url="http://payment.test:9"), LIMIT)(ATTEMPT)
        assert outcome.kind is OutcomeKind.NOT_SENT
        assert address in outcome.message

    @pytest.mark.parametrize("host", [f"{METADATA}.", "2852039166.", "0xa9fea9fe."])
    def test_a_dot_behind_an_address_does_not_make_it_a_name(self, host: str) -> None:
        assert literal_fault(host) is not None


class TestSchemas:
    async def test_no_way_of_naming_another_schema_connects_anywhere(self, world: World) -> None:  # noqa: F811
        steps = [{"name": "a", "service": "shop", "action": "a", "compensation": "none"}]
        async with listening() as (url, heard):
            for schema in (
                {"$schema": f"{url}/dialect"},
                {"$id": f"{url}/base", "$ref": "other"},
                {"$id": f"{url}/base", "properties": {"a": {"$ref": "other#/x"}}},
                {"$recursiveRef": f"{url}/x", "$ref": f"{url}/x"},
                {"$ref": f"{url.replace('http', 'https')}/x"},
                {"$ref": "file:///etc/passwd"},
            ):
                body = {"name": "order", "steps": steps, "input_schema": schema}
                answer = await world.api.put("/definitions/order", body)
                assert (answer.status, answer.code) == (422, "definition-invalid"), (schema, answer.content)
                assert b"root:" not in answer.content
            assert heard == []


class TestCallbacks:
    async def test_a_forged_token_moves_nothing_and_ours_is_taken_afterwards(self, world: World) -> None:  # noqa: F811
        await world.define({"name": "reserve"}, {"name": "charge"})
        world.participant.on("reserve", ACCEPTED)
        saga, other = await world.ran(), await world.ran()
        url = world.participant.requests("reserve", saga_id=saga["id"])[0].headers["Saga-Callback-Url"]
        ours = url.rpartition("/")[2]
        name, mac = ours.split(".")

        def named(saga_id: str = saga["id"], step: str = "reserve", operation: str = "action", attempt: int = 1) -> str:
            return make_token("another secret", AttemptName(saga_id, step, operation, attempt))

        changed = [named(), named(attempt=2), named(step="charge"), named(operation="compensation")]
        changed += [named(saga_id=other["id"])]
        forged = [*changed, *(f"{each.split('.')[0]}.{mac}" for each in changed[1:])]
        forged += [name, f"{name}.", f"{name}.{mac[::-1]}", f".{mac}", f"{name}.{mac}.{mac}"]
        for token in forged:
            answer = await world.api.post(f"/callbacks/{token}", {"status": "refused"}, key=None)
            assert (answer.status, answer.code) == (404, "token-unknown"), token
        assert (await world.run(saga["id"]))["steps"][0]["state"] == "WAITING"
        answer = await world.api.post(f"/callbacks/{ours}", {"status": "succeeded"}, key=None)
        assert (answer.status, answer.json["repeated"]) == (200, False)
        assert (await world.run(saga["id"]))["state"] == "COMPLETED"
