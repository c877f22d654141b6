"""`redact`: what a definition hides is told to its participants and to nobody else, whoever repeats it.

The net is wide on purpose: after a story, every page of the API that says anything of the saga is read, and every
table but the one that keeps payloads.
"""

from typing import Any

import asyncpg
import orjson
import pytest

from app import bus
from app.settings import Settings
from app.store.tables import metadata
from tests.api.conftest import ONCE, Client, World
from tests.participant import ACCEPTED, Behaviour, answers
from tests.receiver import Receiver

from .test_events import DEFINITION, ORDER_PLACED, follow

NUMBER, PIN, TOKEN, REPLACED = "4111222233334444", 987654, "tok-of-the-card", "5555666677778888"
INPUT: dict[str, Any] = {"card": {"number": NUMBER, "name": "Ann"}, "pins": [{"pin": PIN}], "sku": "chair"}
REDACTED = "[redacted]"
REDACT = ["input.card.number", "input.pins[*].pin", "steps.tokenize.output.token", "steps.charge.output.token"]
PROBLEM = {"Content_Type": "application/problem+json"}


@pytest.fixture
async def orders(world: World) -> World:
    await world.define(
        {"name": "tokenize"},
        {
            "name": "charge",
            "retry": ONCE,
            "on_exhausted": "pause",
            "compensation_retry": ONCE,
            "input": {"card": "input.card", "of": "join('/', [input.card.number, input.sku])", "sku": "input.sku"},
        },
        {"name": "ship", "retry": ONCE},
        redact=REDACT,
    )
    world.participant.on("tokenize", answers(200, {"token": TOKEN, "brand": "visa"}))
    return world


async def shown(world: World, saga_id: str) -> str:
    """Everything that the API says of the saga."""
    pages = [
        f"/sagas/{saga_id}",
        "/sagas?payloads=true",
        "/admin/api/sagas?payloads=true&state=COMPLETED,FAILED,EXECUTING,COMPENSATING,COMPENSATION_FAILED",
        f"/sagas/{saga_id}/events",
        f"/sagas/{saga_id}/diagram",
        f"/admin/api/sagas/{saga_id}/actions",
        "/admin/api/dead-letters",
        "/admin/api/notices",
        "/admin/api/audit",
    ]
    answered = [await world.api.get(page) for page in pages]
    assert [answer.status for answer in answered] == [200] * len(pages)
    return "\n".join(answer.content.decode() for answer in answered)


async def kept(settings: Settings, *but: str) -> str:
    """Every row of every table but those that keep payloads as they are."""
    connection = await asyncpg.connect(settings.database_url)
    rows: list[str] = []
    for table in metadata.tables.values():
        if table.name not in {"saga_payload", *but}:
            for row in await connection.fetch(f'SELECT * FROM "{table.name}"'):
                rows += [
                    each.decode() if isinstance(each, bytes) and table.name == "notice" else str(each) for each in row
                ]
    await connection.close()
    return "\n".join(rows)


def leaks(text: str) -> list[str]:
    return [secret for secret in (NUMBER, str(PIN), TOKEN, REPLACED) if secret in text]


async def test_people_are_shown_what_is_not_hidden_and_participants_all(orders: World) -> None:
    saga = await orders.ran(input=INPUT)
    assert saga["state"] == "COMPLETED"
    assert saga["input"] == {"card": {"number": REDACTED, "name": "Ann"}, "pins": [{"pin": REDACTED}], "sku": "chair"}
    assert saga["steps"][0]["output"] == {"token": REDACTED, "brand": "visa"}
    assert saga["steps"][2]["output"]["step"] == "ship"
    asked = orders.participant.requests("tokenize")[0].body
    assert asked["input"] == INPUT
    assert orders.participant.requests("ship")[0].body["outputs"]["tokenize"] == {"token": TOKEN, "brand": "visa"}
    mapped = orders.participant.requests("charge")[0].body["input"]
    assert mapped == {"card": INPUT["card"], "of": f"{NUMBER}/chair", "sku": "chair"}


async def test_the_submitter_is_not_told_either(orders: World) -> None:
    submitted = await orders.submit(input=INPUT, key="the-key")
    assert submitted["input"]["card"]["number"] == REDACTED
    body = {"saga": "order", "input": INPUT}
    again = await orders.api.post("/sagas", body, Idempotency_Key="the-key")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert leaks(again.content.decode()) == []


ECHOES: dict[str, Behaviour] = {
    "in a problem": answers(422, {"detail": f"{NUMBER} with {PIN} is blocked ({TOKEN})"}, **PROBLEM),
    "in a body": answers(422, {"card": {"number": NUMBER}, "pin": PIN, "token": TOKEN}),
    "in a text": answers(400, f"no: {NUMBER}, pin {PIN}, {TOKEN}".encode()),
    "in a body that is cut": answers(400, f"{'x' * 190}{NUMBER}{PIN}".encode()),
    "in an exhausted one": answers(503, {"detail": f"{NUMBER} {PIN}"}, **PROBLEM),
    "in what is no address of its own": answers(202, None, Location=f"http://elsewhere.example/{NUMBER}?pin={PIN}"),
    "in an address to be polled": answers(202, None, Location=f"/orders/{NUMBER}?pin={PIN}"),
}


@pytest.mark.parametrize("echo", ECHOES)
async def test_a_participant_that_repeats_it_is_not_quoted(orders: World, settings: Settings, echo: str) -> None:
    orders.participant.on("charge", ECHOES[echo])
    orders.participant.on("tokenize", ECHOES["in a problem"], operation="compensation")
    saga = await orders.ran(input=INPUT)
    assert saga["steps"][1]["attempts"] == 1
    assert leaks(await shown(orders, saga["id"])) == []
    if echo != "in an address to be polled":  # which has to be known, and is shown without it
        assert leaks(await kept(settings)) == []
    assert REDACTED in await shown(orders, saga["id"])


async def test_what_a_refusal_itself_tells_of_an_output_is_hidden(orders: World, settings: Settings) -> None:
    fresh = {"detail": f"{REPLACED} was not taken", "token": REPLACED}
    orders.participant.on("charge", answers(422, fresh, **PROBLEM))
    saga = await orders.ran(input=INPUT)
    assert saga["error"]["message"] == f"shop answered 422: {REDACTED} was not taken"
    assert leaks(await shown(orders, saga["id"]) + await kept(settings)) == []


async def test_where_the_whole_output_is_hidden_the_head_of_an_answer_is_but_not_its_message(world: World) -> None:
    await world.define({"name": "charge", "retry": ONCE}, redact=["steps.charge.output"])
    world.participant.on("charge", answers(422, {"detail": "no cover", "more": "of it"}, **PROBLEM))
    saga = await world.ran()
    assert saga["error"]["message"] == "shop answered 422: no cover"
    events = (await world.api.get(f"/sagas/{saga['id']}/events")).json["items"]
    assert [event["data"]["head"] for event in events if "head" in event["data"]] == [REDACTED]
    saga = await world.ran()
    assert saga["steps"][0]["output"] == REDACTED


@pytest.mark.parametrize(
    "error", [f"{NUMBER} is blocked", {"message": f"not with {PIN}"}, {"card": NUMBER, "token": REPLACED}]
)
async def test_a_callback_that_repeats_it_is_not_quoted(orders: World, settings: Settings, error: Any) -> None:
    orders.participant.on("charge", ACCEPTED)
    saga = await orders.ran(input=INPUT)
    address = orders.participant.requests("charge")[0].headers["Saga-Callback-Url"]
    path = "/callbacks/" + address.rpartition("/")[2]
    answer = await orders.api.post(path, {"status": "refused", "error": error}, key=None)
    assert answer.status == 200
    saga = await orders.run(saga["id"])
    assert saga["steps"][1]["error"]["code"] == "refused"
    assert leaks(await shown(orders, saga["id"]) + await kept(settings)) == []


async def test_a_notice_is_told_what_people_are_shown(orders: World, settings: Settings) -> None:
    orders.participant.on("ship", ECHOES["in a problem"])
    async with Receiver.serve() as receiver:
        saga = await orders.ran(input=INPUT, notify_url=receiver.url)
        assert leaks(await kept(settings)) == []
        assert orders.worker.courier is not None
        orders.worker.courier.wake()
        told = await receiver.until_told()
    assert told.body["data"] == saga
    assert leaks(told.content.decode()) == []


async def test_what_an_operator_writes_is_searched_too(orders: World, settings: Settings) -> None:
    saga = await orders.submit(input=INPUT)
    answer = await orders.act(saga["id"], "compensate", reason=f"{NUMBER} called")
    assert answer.status == 202
    assert (await orders.act(saga["id"], "restart", reason=f"{NUMBER} called again")).status == 201
    restarted, cancelled, *_ = (await orders.api.get("/admin/api/audit")).json["items"]
    assert (cancelled["reason"], restarted["reason"]) == (f"{REDACTED} called", f"{REDACTED} called again")
    assert leaks(await shown(orders, saga["id"]) + await kept(settings)) == []


# --- what comes back --------------------------------------------------------------------------------------------


async def test_a_restart_takes_what_is_hidden_from_the_old_saga(orders: World) -> None:
    saga = await orders.ran(input=INPUT)
    copied = (await orders.act(saga["id"], "restart")).json
    changed = {**saga["input"], "sku": "table"}
    edited = (await orders.act(saga["id"], "restart", input=changed)).json
    for each, given in ((copied, INPUT), (edited, {**INPUT, "sku": "table"})):
        await orders.run(each["id"])
        assert orders.participant.requests("tokenize", saga_id=each["id"])[0].body["input"] == given


async def test_what_nothing_is_kept_for_is_refused(orders: World) -> None:
    saga = await orders.ran(input=INPUT)
    answer = await orders.act(saga["id"], "restart", input={**saga["input"], "pins": [{"pin": REDACTED}, {"pin": 1}]})
    assert (answer.status, answer.code, answer.paths) == (422, "nothing-redacted-here", ["input.pins[0].pin"])


async def test_a_new_input_of_a_step_takes_what_is_hidden_from_what_it_was_given(
    orders: World, settings: Settings
) -> None:
    orders.participant.on("charge", answers(503))
    saga = await orders.ran(input=INPUT)
    assert saga["paused"]
    first = {"card": {"number": REDACTED, "name": "Bea"}, "of": REDACTED, "sku": "table"}
    orders.participant.on("charge", answers(422, {"detail": f"{NUMBER} again"}, **PROBLEM))
    answer = await orders.act(saga["id"], "retry", step="charge", input=first, confirm_not_done=True)
    assert answer.status == 200, answer.content
    await orders.run(saga["id"])
    given = orders.participant.requests("charge")[-1].body["input"]
    assert given == {"card": {"number": NUMBER, "name": "Bea"}, "of": f"{NUMBER}/chair", "sku": "table"}
    assert leaks(await shown(orders, saga["id"]) + await kept(settings)) == []


async def test_a_new_input_of_a_step_is_hidden_where_the_old_one_was(orders: World, settings: Settings) -> None:
    orders.participant.on("charge", answers(503), answers(422, {"detail": f"{REPLACED} too"}, **PROBLEM))
    saga = await orders.ran(input=INPUT)
    given = {"card": {"number": REPLACED, "name": "Ann"}, "of": "x", "sku": "chair"}
    assert (await orders.act(saga["id"], "retry", step="charge", input=given, confirm_not_done=True)).status == 200
    saga = await orders.run(saga["id"])
    assert orders.participant.requests("charge")[-1].body["input"] == given
    assert saga["steps"][1]["error"]["message"] == f"shop answered 422: {REDACTED} too"
    assert leaks(await shown(orders, saga["id"]) + await kept(settings)) == []


# --- what is refused --------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "card": {
            "type": "object",
            "properties": {"number": {"type": "string", "maxLength": 4}, "name": {"type": "string"}},
            "additionalProperties": False,
        },
        "secrets": {"type": "object", "additionalProperties": False},
    },
}


async def test_an_invalid_input_is_not_quoted(world: World) -> None:
    await world.define({"name": "charge"}, input_schema=SCHEMA, redact=["input.card.number", "input.secrets"])
    given = {"card": {"number": NUMBER, "name": 1, "more": REPLACED}, "secrets": {TOKEN: PIN}}
    answer = await world.api.post("/sagas", {"saga": "order", "input": given}, Idempotency_Key="k")
    assert (answer.status, answer.code) == (422, "input-invalid")
    assert set(answer.paths) == {"input.card", "input.card.number", "input.card.name", "input.secrets"}
    assert leaks(answer.content.decode()) == []
    whole = await world.api.post("/sagas", {"saga": "order", "input": {"card": [NUMBER]}}, Idempotency_Key="k")
    assert (whole.paths, leaks(whole.content.decode())) == (["input.card"], [])


async def test_an_expression_that_fails_quotes_nothing(world: World, settings: Settings) -> None:
    mapping = {"x": "abs(input.card.number)", "y": "to_number(input.card.number)"}
    await world.define({"name": "charge", "input": mapping}, redact=["input.card.number"])
    saga = await world.ran(input=INPUT)
    assert saga["error"]["code"] == "expression-failed"
    assert leaks(await shown(world, saga["id"])) == [str(PIN)]
    assert leaks(await kept(settings)) == []


# --- choreographies ---------------------------------------------------------------------------------------------


@pytest.fixture
async def events(world: World, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(bus, "BLOCK_SECONDS", 0.05)
    redact = ["input.card.number", "steps.Reserve.output.token"]
    answer = await world.api.put("/definitions/order-events", {**DEFINITION, "redact": redact})
    assert answer.status == 201, answer.content
    return world.api


async def test_events_of_a_choreography_are_hidden_as_what_they_become(
    world: World, events: Client, settings: Settings
) -> None:
    placed = {**ORDER_PLACED, "data": {"order_id": "4711", "card": {"number": NUMBER}}}
    done = {**ORDER_PLACED, "id": "2", "type": "Reserved", "data": {"order_id": "4712", "token": TOKEN}}
    reason = f"{NUMBER} and {TOKEN} and {REPLACED}"
    failed = {
        **ORDER_PLACED,
        "id": "3",
        "type": "ReservationFailed",
        "data": {"order_id": "4711", "reason": reason, "token": TOKEN, "card": {"number": REPLACED}},
    }
    for event in (placed, done, failed):
        assert (await events.post("/events", event)).status == 202
    await follow(world)
    first = (await events.get("/sagas?key=order-events:4711&payloads=true")).json["items"][0]
    assert first["input"] == {"order_id": "4711", "card": {"number": REDACTED}}
    assert first["steps"][0]["error"]["message"] == f"{REDACTED} and {REDACTED} and {REDACTED}"
    other = (await events.get("/sagas?key=order-events:4712&payloads=true")).json["items"][0]
    assert other["steps"][0]["output"] == {"order_id": "4712", "token": REDACTED}
    assert leaks(await shown(world, first["id"])) == []
    # These keep events as they came, until they are published and for a week.
    assert leaks(await kept(settings, "event_seen", "outbox")) == []


async def test_a_dead_letter_shows_its_event_without_it(world: World, events: Client) -> None:
    assert (await events.post("/events", {**ORDER_PLACED, "data": {"card": {"number": NUMBER}}})).status == 202
    await follow(world)
    (letter,) = (await events.get("/admin/api/dead-letters")).json["items"]
    assert letter["event"]["data"] == {"card": {"number": REDACTED}}
    answer = await events.post(f"/admin/api/dead-letters/{letter['id']}/discard", {"reason": "a test"})
    assert orjson.loads(answer.content)["event"]["data"] == {"card": {"number": REDACTED}}
