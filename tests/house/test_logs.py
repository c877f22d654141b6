"""What the house writes to its logs, by every part: no payload, no secret, whatever goes wrong.

Each secret is a word that stands nowhere else. A story makes them turn up where they might be quoted: in answers, in
exceptions, in rows that PostgreSQL refuses, in what a door refuses. Then every log is read.
"""

import asyncio
import base64
import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from app.errors import DatabaseUnavailable
from app.observability import Discreet
from app.participants.http import HttpParticipant, open_session
from app.saga.service import Service
from tests.acceptance.house import RunningHouse, house
from tests.participant import Participant, answers, closed_port
from tests.participants.attempts import ATTEMPT
from tests.receiver import Receiver
from tests.waiting import until


def word(name: str) -> str:
    return f"secret-{name}-4711"


def key(name: str) -> str:
    return base64.b64encode(word(name).ljust(32, ".").encode()).decode()


SECRETS = {
    **{
        name: word(name) for name in ("input", "output", "header", "api-key", "password", "signing", "wrong-key", "url")
    },
    **{name: key(name) for name in ("service", "webhook", "payload")},
}
SETTINGS = {
    "SAGA_BOOTSTRAP_API_KEY": f"key.{word('api-key')}",
    "SAGA_ADMIN_PASSWORD": word("password"),
    "SAGA_SECRET_KEY": word("signing"),
    "SAGA_WEBHOOK_SECRET": f"whsec_{key('webhook')}",
    "SAGA_PAYLOAD_KEYS": f"k1:{key('payload')}",
    "SAGA_REDISPATCH_AFTER": "1",
}
HANDLERS = """
import saga_participant

@saga_participant.handler("crash")
def crash(call):
    raise KeyError(f"no such account: {call.input}")

@saga_participant.handler("strange")
async def strange(call):
    return {call.input["card"]: object()}
"""
ONCE = {"max_attempts": 1}


def step(name: str, service: str = "shop", action: str | None = None) -> dict[str, Any]:
    return {"name": name, "service": service, "action": action or name, "compensation": "none", "retry": ONCE}


DEFINITIONS: dict[str, dict[str, Any]] = {
    "order": {"steps": [step("charge"), step("ship")]},
    "hiding": {"steps": [step("charge"), step("ship")], "redact": ["input.card", "steps.charge.output.token"]},
    "crash": {"steps": [step("crash", "ledger")]},
    "strange": {"steps": [step("strange", "ledger")]},
    "mapped": {"steps": [{**step("charge"), "input": {"x": "abs(input.card)"}}]},
    "checked": {"steps": [step("charge")], "input_schema": {"properties": {"card": {"type": "integer"}}}},
    "watched": {
        "type": "choreography",
        "started_by": "Placed",
        "correlation": "data.order.id",
        "steps": [
            {
                "name": "a",
                "service": "shop",
                "trigger": "Placed",
                "succeeded": "Y",
                "failed": "N",
                "compensated": "none",
            }
        ],
    },
}


@pytest.fixture
def sagas(tmp_path: Path) -> Path:
    folder = tmp_path / "sagas"
    folder.mkdir()
    for name, definition in DEFINITIONS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name, **definition}))
    (folder / "ledger.py").write_text(HANDLERS)
    return folder


class Story:
    def __init__(self, running: RunningHouse, session: aiohttp.ClientSession) -> None:
        self.running, self.session, self.number = running, session, 0

    async def ask(self, method: str, path: str, body: Any = None, *, status: int, **headers: str) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {SETTINGS['SAGA_BOOTSTRAP_API_KEY']}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.running.url + path, data=data, headers=sent) as response:
            text = await response.text()
            assert response.status == status, text
            return json.loads(text)

    async def submit(self, saga: str, **more: Any) -> str:
        self.number += 1
        body = {"saga": saga, "input": {"card": word("input")}, **more}
        answer = await self.ask("POST", "/sagas", body, status=202, Idempotency_Key=f"key-{self.number}")
        return answer["id"]

    async def run(self, saga: str, state: str, **more: Any) -> None:
        saga_id = await self.submit(saga, **more)

        async def at_rest() -> bool:
            found = await self.ask("GET", f"/sagas/{saga_id}", status=200)
            return found["state"] in {"COMPLETED", "FAILED"}

        await until(at_rest, 60)
        assert (await self.ask("GET", f"/sagas/{saga_id}", status=200))["state"] == state


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_no_log_holds_a_payload_or_a_secret(tmp_path: Path, sagas: Path) -> None:
    async with Participant.serve() as shop, Receiver.serve() as receiver, aiohttp.ClientSession() as session:
        services = {
            "shop": {"url": shop.url, "headers": {"X-Token": word("header")}, "secret": f"whsec_{key('service')}"},
            "ledger": {"python": "./ledger.py"},
        }
        (sagas / "services.yaml").write_text(json.dumps(services))
        with ExitStack() as stack:
            running = await asyncio.to_thread(stack.enter_context, house(tmp_path, sagas, 1, **SETTINGS))
            try:
                await tell(Story(running, session), shop, receiver)
            finally:
                await asyncio.to_thread(stack.close)
    logs = {path.name: path.read_text(errors="replace") for path in (tmp_path / "data" / "logs").iterdir()}
    logs["up.log"] = (tmp_path / "up.log").read_text()
    everything = "\n".join(logs.values())
    for told in (
        "failed",
        "cannot be looked at",
        "CheckViolationError: 23514",
        "violates check constraint",
        "ValueError",
    ):
        assert told in everything, "this test is about a story in which that happens"
    assert [
        (name, secret, next(line for line in text.splitlines() if value in line))
        for name, text in logs.items()
        for secret, value in SECRETS.items()
        if value in text
    ] == []


async def tell(story: Story, shop: Participant, receiver: Receiver) -> None:
    echo = answers(422, {"detail": f"{word('input')} is blocked"}, Content_Type="application/problem+json")
    token = answers(200, {"token": word("output"), "card": word("input")})
    shop.on("charge", token, token, echo, echo, answers(503, word("output").encode()))
    told = f"{receiver.url}/{word('url')}"
    await story.run("order", "COMPLETED", notify_url=told)
    await story.run("hiding", "COMPLETED", notify_url=told)
    receiver.answers += [500]
    await story.run("order", "FAILED", notify_url=told)
    await story.run("hiding", "FAILED")
    await story.run("order", "FAILED")
    for saga in ("crash", "strange", "mapped"):
        await story.run(saga, "FAILED")
    await receiver.until_told(4)
    shop.on("charge", answers(202, None, Location=f"/{word('output')}"))
    await story.submit("order")
    await doors(story)
    await mistakes(story)


async def doors(story: Story) -> None:
    """What is refused."""
    card = {"card": word("input")}
    submit = {"saga": "checked", "input": card}
    await story.ask("POST", "/sagas", submit, status=422, Idempotency_Key="refused")
    await story.ask("POST", "/sagas", {**submit, "labels": word("input")}, status=422, Idempotency_Key="refused")
    await story.ask("POST", "/sagas", json.dumps(card).encode()[:-1], status=400, Idempotency_Key="refused")
    await story.ask("GET", "/sagas", status=401, Authorization=f"Bearer {word('wrong-key')}")
    service = {"url": "http://127.0.0.1:1", "secrets": f"whsec_{key('service')}", "headers": word("header")}
    answer = await story.ask("PUT", "/services/other", service, status=422)
    assert not any(secret in json.dumps(answer) for secret in (key("service"), word("header")))
    address = {"url": f"http://user:{word('password')}@127.0.0.1:1"}
    assert word("password") not in json.dumps(await story.ask("PUT", "/services/other", address, status=422))
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "Placed", "data": {"order": word("input")}}
    await story.ask("POST", "/events", event, status=202)

    async def given_up() -> bool:
        return bool((await story.ask("GET", "/admin/api/dead-letters?status=open", status=200))["items"])

    await until(given_up, 60)


async def mistakes(story: Story) -> None:
    """What should not happen: a row that nobody can read, and one that PostgreSQL refuses."""
    saga_id = await story.submit("order", start_at="2099-01-01T00:00:00Z")
    connection = await asyncpg.connect(story.running.notice["database_url"])
    try:
        spoilt = json.dumps({"state": word("input")})
        statement = "UPDATE saga SET document = document || $2, wake_at = now() WHERE id = $1"
        await connection.execute(statement, saga_id, spoilt)
        await story.ask("GET", f"/sagas/{saga_id}", status=500)
        await connection.execute("""ALTER TABLE saga ADD CHECK (labels -> 'no' IS NULL) NOT VALID""")
        body = {"saga": "order", "input": {}, "labels": {"no": word("input")}}
        await story.ask("POST", "/sagas", body, status=500, Idempotency_Key="a mistake".replace(" ", "-"))
    finally:
        await connection.close()
    log = Path(story.running._data) / "logs" / "worker-1.log"
    await until(lambda: "cannot be looked at" in log.read_text(), 60)


# --- errors -----------------------------------------------------------------------------------------------------


def raised() -> BaseException:
    try:
        try:
            {}[word("input")]
        except KeyError as error:
            raise ValueError(f"bad {word('output')}") from error
    except ValueError as error:
        return error


@pytest.fixture
def formatter() -> Discreet:
    return Discreet("%(message)s")


def formatted(formatter: Discreet, error: BaseException) -> str:
    record = logging.LogRecord("saga", logging.ERROR, "", 0, "it failed", (), (type(error), error, error.__traceback__))
    return formatter.format(record)


def test_an_error_is_told_by_its_way_and_kind(formatter: Discreet) -> None:
    told = formatted(formatter, raised())
    assert told.startswith("it failed\n")
    assert told.count("in raised") == 2
    assert told.index("builtins.KeyError") < told.index("which led to:") < told.index("builtins.ValueError")
    assert not any(secret in told for secret in (SECRETS["input"], SECRETS["output"]))


def test_what_is_harmless_is_told(formatter: Discreet) -> None:
    assert "ConnectionRefusedError: 111, no" in formatted(formatter, ConnectionRefusedError(111, "no"))
    group = ExceptionGroup(word("input"), [raised(), OSError(2, "gone")])
    told = formatted(formatter, group)
    assert told.count("which is part of:") == 2
    assert word("input") not in told


async def test_an_address_to_be_polled_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    base = f"http://127.0.0.1:{closed_port()}"
    caplog.set_level(logging.INFO)
    async with open_session() as session:
        shop = HttpParticipant(session, Service("shop", url=base), 1000)
        assert await shop.poll(ATTEMPT, f"{base}/{word('output')}") is None
    assert "shop cannot be asked about charge" in caplog.text
    assert word("output") not in caplog.text


def test_a_database_that_refuses_an_argument_does_not_have_it_quoted() -> None:
    quoted = ValueError(f"invalid input for query argument $1: {word('input')}")
    assert word("input") not in str(DatabaseUnavailable(quoted))
    assert "gone" in str(DatabaseUnavailable(OSError("gone")))
