"""What leaves the house goes where it may, and nowhere else: attempts that must fail."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from app.participants.addresses import Connector, forbidden, literal_fault, refusal
from app.participants.http import HttpParticipant, open_session
from app.relay import Courier
from app.saga.messages import OutcomeKind
from app.saga.service import Service
from tests.api.conftest import World, api, app_state, served, world  # noqa: F401 - fixtures
from tests.participant import Behaviour, Participant
from tests.participants.attempts import ATTEMPT, LIMIT
from tests.receiver import Receiver
from tests.waiting import until

METADATA = "169.254.169.254"
NEVER = [
    METADATA,
    "169.254.0.1",
    "0.0.0.0",
    "0.1.2.3",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "febf::1",
    "ff02::1",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:100::100:200",
    "fd00:a9fe:a9fe::1",
    "fd00:42::42",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "::ffff:0:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",  # Teredo through that server
    "2001:0:808:808::5601:5601",  # Teredo to that client
    "fd12::5efe:169.254.169.254",  # ISATAP
    "2001:db8::200:5efe:169.254.169.254",
]
FINE = [
    *("127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "8.8.8.8"),
    *("::1", "fd12::1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1"),
]


class Names(AbstractResolver):
    """Answers in place of DNS; the last answer stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
        return [
            {"hostname": host, "host": address, "port": port, "family": kind, "proto": 0, "flags": 0}
            for address, kind in zip(found, kinds, strict=True)
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with Participant.serve() as participant:
        yield participant


async def call(url: str, resolver: AbstractResolver | None = None) -> tuple[OutcomeKind, str]:
    async with open_session(resolver) as session:
        service = Service("payment", url=url)
        outcome = await HttpParticipant(session, service, LIMIT)(replace(ATTEMPT, timeout_seconds=3))
    return outcome.kind, outcome.message


class TestAddresses:
    @pytest.mark.parametrize("address", NEVER)
    def test_one_that_is_never_called(self, address: str) -> None:
        assert forbidden(ipaddress.ip_address(address)) is not None
        assert "never called" in (literal_fault(address) or "")

    @pytest.mark.parametrize("address", FINE)
    def test_one_that_services_have(self, address: str) -> None:
        assert forbidden(ipaddress.ip_address(address)) is None
        assert literal_fault(address) is None

    @given(st.ip_addresses(v=4))
    def test_an_ipv4_address_is_judged_alike_however_ipv6_writes_it(self, address: ipaddress.IPv4Address) -> None:
        number, judged = int(address), forbidden(address)
        for prefix in (0xFFFF << 32, 0x64FF9B << 96):
            assert forbidden(ipaddress.IPv6Address(prefix | number)) == judged
        assert forbidden(ipaddress.IPv6Address(0x2002 << 112 | number << 80)) == judged

    @pytest.mark.parametrize(
        "host", ["2852039166", "0xA9FEA9FE", "169.254.43518", "0251.0376.0251.0376", "0", "169.254.169.254."]
    )
    def test_one_that_is_written_as_browsers_once_took_it(self, host: str) -> None:
        assert "never called" in (literal_fault(host) or "")

    def test_an_unusual_spelling_of_a_good_one_is_refused_too(self) -> None:
        assert literal_fault("127.1") == "must write its address as 127.0.0.1"
        assert literal_fault("localhost") is None


class TestCalls:
    @pytest.mark.parametrize("address", NEVER)
    async def test_an_address_that_is_never_called_is_not_sent_anything(self, address: str) -> None:
        host = f"[{address}]" if ":" in address else address
        kind, message = await call(f"http://{host}:9/pay")
        assert kind is OutcomeKind.NOT_SENT
        assert "never called" in message

    @pytest.mark.parametrize("host", ["2852039166", "0xA9FEA9FE", "169.254.43518"])
    async def test_nor_in_another_spelling(self, host: str) -> None:
        kind, _ = await call(f"http://{host}:9")
        assert kind is OutcomeKind.NOT_SENT

    @pytest.mark.parametrize("address", NEVER)
    async def test_a_name_that_leads_there_is_not_called(self, address: str) -> None:
        kind, message = await call("http://payment.test:9", Names([address]))
        assert kind is OutcomeKind.NOT_SENT
        assert "'payment.test' is the address" in message
        assert "never called" in message

    async def test_one_forbidden_address_among_several_refuses_the_name(self, participant: Participant) -> None:
        port = participant.url.rpartition(":")[2]
        for found in (["127.0.0.1", METADATA], [METADATA, "127.0.0.1"]):
            kind, _ = await call(f"http://payment.test:{port}", Names(found))
            assert kind is OutcomeKind.NOT_SENT
        assert participant.asked == []

    async def test_a_name_that_leads_to_loopback_is_called(self, participant: Participant) -> None:
        port = participant.url.rpartition(":")[2]
        kind, message = await call(f"http://payment.test:{port}", Names(["127.0.0.1"]))
        assert kind is OutcomeKind.SUCCEEDED, message

    async def test_rebinding_between_check_and_call_changes_nothing(self, participant: Participant) -> None:
        """The address that was checked is the one that is connected to; the name is not asked for a second time."""
        port, names = participant.url.rpartition(":")[2], Names(["127.0.0.1"], [METADATA])
        kind, message = await call(f"http://payment.test:{port}", names)
        assert (kind, names.asked) == (OutcomeKind.SUCCEEDED, 1), message

    async def test_a_name_that_is_rebound_later_is_checked_again(self, participant: Participant) -> None:
        port, names = participant.url.rpartition(":")[2], Names(["127.0.0.1"], [METADATA])
        connector = Connector(resolver=names, use_dns_cache=False, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get(f"http://payment.test:{port}/ledger") as response:
                assert response.status < 500
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await session.get(f"http://payment.test:{port}/ledger")
        assert refusal(refused.value) is not None

    async def test_the_socket_itself_is_held_against_the_list(self) -> None:
        """Also where a resolver's answer came past the check."""

        class Unchecked(Connector):
            async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[ResolveResult]:
                return await Names([METADATA]).resolve(host, port)

        async with aiohttp.ClientSession(connector=Unchecked()) as session:
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await session.get("http://payment.test:9")
        assert refusal(refused.value) == f"the address {METADATA} (link-local), which is never called"

    @pytest.mark.parametrize("found", [["0.0.0.0"], ["::ffff:0.0.0.0"], ["127.0.0.1", "0.0.0.0"]])
    async def test_what_would_be_reached_is_not(self, participant: Participant, found: list[str]) -> None:
        """Here an unspecified address is another way to loopback: whoever does not look gets an answer."""
        port = participant.url.rpartition(":")[2]
        kind, message = await call(f"http://payment.test:{port}", Names(found))
        assert (kind, participant.asked) == (OutcomeKind.NOT_SENT, [])
        assert "(unspecified), which is never called" in message
        kind, message = await call(f"http://0.0.0.0:{port}")
        assert (kind, participant.asked) == (OutcomeKind.NOT_SENT, [])
        assert message == (
            "no connection to payment could be made: the address 0.0.0.0 (unspecified), which is never called"
        )

    async def test_a_resolver_that_answers_with_a_name_is_not_believed(self, participant: Participant) -> None:
        """It would be looked up once more, by somebody who checks nothing."""
        port = participant.url.rpartition(":")[2]
        kind, _ = await call(f"http://payment.test:{port}", Names(["localhost"]))
        assert (kind, participant.asked) == (OutcomeKind.NOT_SENT, [])

    async def test_nor_is_it_polled_where_its_name_leads_later(self, participant: Participant) -> None:
        port = participant.url.rpartition(":")[2]
        for found, comes in ((["127.0.0.1"], True), (["0.0.0.0"], False)):
            async with open_session(Names(found)) as session:
                service = HttpParticipant(session, Service("payment", url="http://payment.test:1"), LIMIT)
                outcome = await service.poll(ATTEMPT, f"http://payment.test:{port}/ledger")
            assert (outcome is not None) is comes

    async def test_a_redirect_is_not_followed(self, participant: Participant) -> None:
        elsewhere = f"http://{METADATA}/latest/meta-data"
        for status in (301, 302, 307, 308):
            participant.on("charge", Behaviour(status, headers={"Location": elsewhere}, does=False))
        for _ in range(4):
            kind, message = await call(participant.url)
            assert kind is OutcomeKind.UNKNOWN
            assert "answered 30" in message
        assert len(participant.asked) == 4

    async def test_proxies_of_the_environment_are_not_used(
        self, participant: Participant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        came: list[bytes] = []

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came.append(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.upper(), url)
        async with server:
            kind, message = await call(participant.url)
        assert (kind, came) == (OutcomeKind.SUCCEEDED, []), message


class TestRegistration:
    @pytest.mark.parametrize("address", NEVER)
    async def test_a_service_there_is_refused(self, api: Any, address: str) -> None:  # noqa: F811
        host = f"[{address}]" if ":" in address else address
        answer = await api.put("/services/payment", {"url": f"http://{host}/pay"})
        assert (answer.status, answer.code, answer.paths) == (422, "service-invalid", ["url"])
        assert "never called" in answer.json["errors"][0]["message"]

    @pytest.mark.parametrize(
        "url", ["http://user:hunter2@127.0.0.1/", "http://hunter2@127.0.0.1/", "http://:hunter2@127.0.0.1/pay"]
    )
    async def test_a_password_in_a_url_is_refused_and_not_quoted(self, api: Any, url: str) -> None:  # noqa: F811
        """The url is shown to whoever may read."""
        answer = await api.put("/services/payment", {"url": url})
        assert (answer.status, answer.code, answer.paths) == (422, "service-invalid", ["url"])
        assert b"hunter2" not in answer.content

    async def test_a_schema_fetches_nothing(self, world: World, tmp_path: Any) -> None:  # noqa: F811
        secret = tmp_path / "secret.json"
        secret.write_text('{"type": "object"}')
        came: list[Any] = []
        server = await asyncio.start_server(lambda *connection: came.append(connection), "127.0.0.1", 0)
        here = f"//127.0.0.1:{server.sockets[0].getsockname()[1]}"
        places = [f"http:{here}/schema", f"https:{here}/schema", f"http://{METADATA}/schema", secret.as_uri(), here]
        steps = [{"name": "a", "service": "shop", "action": "a", "compensation": "none"}]
        async with server:
            for place in places:
                for schema in (
                    {"$ref": place},
                    {"properties": {"x": {"$ref": f"{place}#/a"}}},
                    {"$dynamicRef": place},
                    {"$schema": place},
                    {"$id": f"{place}/", "properties": {"x": {"$ref": "other.json"}}},
                ):
                    body = {"name": "order", "steps": steps, "input_schema": schema}
                    for answer in (
                        await world.api.put("/definitions/order", body),
                        await world.api.post("/definitions/validate", body),
                    ):
                        assert (answer.status, answer.code) == (422, "definition-invalid"), (schema, answer.content)
        assert came == []


class TestNotices:
    @pytest.fixture
    async def receiver(self) -> AsyncIterator[Receiver]:
        async with Receiver.serve() as receiver:
            yield receiver

    @pytest.fixture
    async def courier(self, world: World) -> AsyncIterator[Callable[[AbstractResolver], Courier]]:  # noqa: F811
        """A worker's, with names of its own."""
        house, made = world.worker, []

        def make(names: AbstractResolver) -> Courier:
            made.append(Courier(house.notices, house.services, house.settings, names))
            return made[-1]

        yield make
        for courier in made:
            await courier.close()

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"notify_hosts": f"127.0.0.1,localhost,{METADATA},told.test"}

    async def test_an_allowed_host_is_still_no_forbidden_address(self, world: World) -> None:  # noqa: F811
        await world.define({"name": "reserve"})
        body = {"saga": "order", "input": {}, "notify_url": f"http://{METADATA}/"}
        answer = await world.api.post("/sagas", body, Idempotency_Key="a")
        assert (answer.status, answer.paths) == (422, ["notify_url"])

    async def test_a_host_that_may_not_be_told_is_refused(self, world: World) -> None:  # noqa: F811
        await world.define({"name": "reserve"})
        for url in (
            "http://evil.test/",
            "http://127.0.0.1.evil.test/",
            "http://127.0.0.1@evil.test/",
            "ftp://127.0.0.1/",
        ):
            body = {"saga": "order", "input": {}, "notify_url": url}
            answer = await world.api.post("/sagas", body, Idempotency_Key="a")
            assert (answer.status, answer.paths) == (422, ["notify_url"]), url

    @pytest.mark.parametrize("found", [[METADATA], ["0.0.0.0"], ["127.0.0.1", METADATA]])
    async def test_a_notice_to_a_name_that_leads_astray_says_why_it_was_not_told(
        self,
        world: World,  # noqa: F811
        receiver: Receiver,
        courier: Callable[[AbstractResolver], Courier],
        found: list[str],
    ) -> None:
        await world.define({"name": "reserve"})
        await world.ran(notify_url=receiver.url.replace("127.0.0.1", "told.test"))
        courier(Names(found)).wake()

        async def tried() -> bool:
            (notice,) = (await world.api.get("/admin/api/notices")).json["items"]
            return notice["last_error"] is not None

        await until(tried)
        (notice,) = (await world.api.get("/admin/api/notices")).json["items"]
        assert notice["last_error"].startswith("no connection was made: 'told.test' is the address ")
        assert "never called" in notice["last_error"]
        assert receiver.told == []

    async def test_a_name_that_leads_to_loopback_is_told_without_proxies_or_netrc(
        self,
        world: World,  # noqa: F811
        receiver: Receiver,
        courier: Callable[[AbstractResolver], Courier],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        (tmp_path / "netrc").write_text("default login me password hunter2\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            for spelling in (name, name.upper()):
                monkeypatch.setenv(spelling, "http://127.0.0.1:9")
        await world.define({"name": "reserve"})
        await world.ran(notify_url=receiver.url.replace("127.0.0.1", "told.test"))
        courier(Names(["127.0.0.1"])).wake()
        told = await receiver.until_told()
        assert "Authorization" not in told.headers

    async def test_a_redirect_of_the_receiver_is_not_followed(
        self,
        world: World,  # noqa: F811
        receiver: Receiver,
        courier: Callable[[AbstractResolver], Courier],
    ) -> None:
        receiver.answers = [307]
        await world.define({"name": "reserve"})
        await world.ran(notify_url=receiver.url)
        courier(Names()).wake()

        async def tried() -> bool:
            (notice,) = (await world.api.get("/admin/api/notices")).json["items"]
            return notice["last_error"] is not None

        await until(tried)
        (notice,) = (await world.api.get("/admin/api/notices")).json["items"]
        assert notice["last_error"] == "the receiver answered 307"
        assert [told.path for told in receiver.told] == ["/told"]
