"""POST /sagas: what starts a saga, what answers for one that stands, and what is refused."""

import asyncio
from typing import Any

import pytest

from app.api.waiting import preferred_wait
from app.settings import Settings
from tests.api.conftest import Client, World, serve
from tests.waiting import until

INPUT = {"sku": "tea", "quantity": 2}


@pytest.fixture
async def orders(world: World) -> World:
    schema = {"type": "object", "required": ["sku"], "properties": {"quantity": {"type": "integer"}}}
    await world.define({"name": "reserve"}, {"name": "charge"}, input_schema=schema)
    return world


async def test_a_new_saga_is_accepted_with_its_place(orders: World) -> None:
    body = {"saga": "order", "input": INPUT, "labels": {"customer": "4711"}}
    answer = await orders.api.post("/sagas", body, Idempotency_Key="first")
    saga = answer.json
    assert answer.status == 202
    assert answer.headers["Location"] == f"/sagas/{saga['id']}"
    assert answer.headers["ETag"]
    assert "Idempotency-Replayed" not in answer.headers
    assert saga["state"] == "EXECUTING"
    assert saga["idempotency_key"] == "first"
    assert saga["input"] == INPUT
    assert saga["labels"] == {"customer": "4711"}
    assert (saga["current_step"], saga["completed_steps"]) == ("reserve", [])
    assert [step["name"] for step in saga["steps"]] == ["reserve", "charge"]
    assert (await orders.api.get(answer.headers["Location"])).json == saga


async def test_the_same_request_again_is_the_same_saga(orders: World) -> None:
    first = await orders.api.post("/sagas", {"saga": "order", "input": INPUT}, Idempotency_Key="k")
    spelt_otherwise = b'{ "labels": {}, "input": {"quantity": 2.0, "sku": "\\u0074ea"}, "saga": "order" }'
    again = await orders.api.post("/sagas", data=spelt_otherwise, Idempotency_Key="k")
    assert again.status == 202
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json["id"] == first.json["id"]
    await orders.run(first.json["id"])
    at_rest = await orders.api.post("/sagas", {"saga": "order", "input": INPUT}, Idempotency_Key="k")
    assert (at_rest.status, at_rest.json["state"]) == (200, "COMPLETED")
    assert len(orders.participant.asked) == 2


async def test_a_key_stands_for_one_request(orders: World) -> None:
    await orders.api.post("/sagas", {"saga": "order", "input": INPUT}, Idempotency_Key="k")
    for other in (
        {"input": {"sku": "coffee"}},
        {"labels": {"a": "b"}},
        {"timeout": "10m"},
        {"version": 1},
        {"notify_url": "http://127.0.0.1/told"},
        {"start_at": "2099-01-01T00:00:00Z"},
    ):
        answer = await orders.api.post("/sagas", {"saga": "order", "input": INPUT, **other}, Idempotency_Key="k")
        assert (answer.status, answer.code) == (422, "idempotency-key-reused"), other


async def test_a_replay_works_although_a_new_saga_would_be_refused(orders: World) -> None:
    body = {"saga": "order", "input": INPUT}
    first = await orders.api.post("/sagas", body, Idempotency_Key="k")
    await orders.define({"name": "reserve"}, input_schema={"type": "object", "required": ["address"]})
    refused = await orders.api.post("/sagas", body, Idempotency_Key="another")
    assert (refused.status, refused.code) == (422, "input-invalid")
    again = await orders.api.post("/sagas", body, Idempotency_Key="k")
    assert (again.status, again.json["id"], again.json["version"]) == (202, first.json["id"], 1)
    other = await orders.api.post("/sagas", {**body, "input": {"no": "sku"}}, Idempotency_Key="k")
    assert (other.status, other.code) == (422, "idempotency-key-reused")


async def test_twenty_submits_of_one_key_at_once_make_one_saga(orders: World) -> None:
    body = {"saga": "order", "input": INPUT}
    answers = await asyncio.gather(*(orders.api.post("/sagas", body, Idempotency_Key="k") for _ in range(20)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 19
    await orders.run(answers[0].json["id"])
    assert [asked.step for asked in orders.participant.asked] == ["reserve", "charge"]
    assert len((await orders.api.get("/sagas")).json["items"]) == 1


async def test_the_key_may_stand_in_the_body(orders: World) -> None:
    body = {"saga": "order", "input": INPUT, "idempotency_key": "k"}
    first = await orders.api.post("/sagas", body)
    assert first.json["idempotency_key"] == "k"
    both = await orders.api.post("/sagas", body, Idempotency_Key="k")
    assert both.json["id"] == first.json["id"]
    differing = await orders.api.post("/sagas", body, Idempotency_Key="other")
    assert (differing.status, differing.code) == (400, "idempotency-key-invalid")


async def test_two_headers_with_keys_that_differ_are_refused(orders: World) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Authorization", "Bearer test.key")]
    data = b'{"saga": "order", "input": {"sku": "tea"}}'
    async with orders.api.session.post(orders.api.base + "/sagas", data=data, headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (400, "idempotency-key-invalid")


async def test_no_key_is_refused(orders: World) -> None:
    for body in ({"saga": "order", "input": INPUT}, {"saga": "order", "input": INPUT, "idempotency_key": None}):
        answer = await orders.api.post("/sagas", body)
        assert (answer.status, answer.code) == (400, "idempotency-key-missing")


async def test_a_bad_key_is_refused(orders: World) -> None:
    for key in ("", "a b", "x" * 201, "tab\tbed", "k\xe9y", 5, ["k"]):
        answer = await orders.api.post("/sagas", {"saga": "order", "input": INPUT, "idempotency_key": key})
        assert (answer.status, answer.code) == (400, "idempotency-key-invalid"), key


async def test_a_key_of_200_characters_is_taken(orders: World) -> None:
    answer = await orders.api.post("/sagas", {"saga": "order", "input": INPUT}, Idempotency_Key="~" * 200)
    assert answer.status == 202


async def test_an_unknown_definition_or_version_is_not_found(orders: World) -> None:
    for named in ({"saga": "none"}, {"saga": "order", "version": 2}, {"saga": "order", "version": 10**12}):
        answer = await orders.api.post("/sagas", {"input": INPUT, **named}, Idempotency_Key="k")
        assert (answer.status, answer.code) == (404, "definition-not-found")


async def test_a_saga_keeps_the_version_that_it_asked_for(orders: World) -> None:
    await orders.define({"name": "only"})
    old = await orders.submit(version=1, input=INPUT)
    new = await orders.submit(input=INPUT)
    assert (old["version"], len(old["steps"])) == (1, 2)
    assert (new["version"], len(new["steps"])) == (2, 1)


async def test_a_saga_goes_on_with_the_version_that_it_was_started_with(orders: World) -> None:
    saga = await orders.submit(input=INPUT)
    await orders.define({"name": "only"})
    ended = await orders.run(saga["id"])
    assert (ended["state"], ended["version"]) == ("COMPLETED", 1)
    assert [asked.step for asked in orders.participant.asked] == ["reserve", "charge"]


async def test_input_is_held_against_the_schema(orders: World) -> None:
    answer = await orders.api.post("/sagas", {"saga": "order", "input": {"quantity": "two"}}, Idempotency_Key="k")
    assert (answer.status, answer.code) == (422, "input-invalid")
    assert sorted(answer.paths) == ["input", "input.quantity"]
    assert (await orders.api.get("/sagas")).json["items"] == []


FAULTY = [
    ([], [""]),
    ("text", [""]),
    ({}, ["saga", "input"]),
    ({"saga": 5, "input": None}, ["saga"]),
    ({"saga": "order"}, ["input"]),
    ({"saga": "order", "input": 1, "more": 1, "state": "x"}, ["more", "state"]),
    ({"saga": "order", "input": 1, "version": "1"}, ["version"]),
    ({"saga": "order", "input": 1, "version": 0}, ["version"]),
    ({"saga": "order", "input": 1, "version": True}, ["version"]),
    ({"saga": "order", "input": 1, "labels": []}, ["labels"]),
    ({"saga": "order", "input": 1, "labels": {"a b": "c"}}, ["labels"]),
    ({"saga": "order", "input": 1, "labels": {"a": 1}}, ["labels"]),
    ({"saga": "order", "input": 1, "labels": {"a": "x" * 257}}, ["labels"]),
    ({"saga": "order", "input": 1, "labels": {"x" * 65: "a"}}, ["labels"]),
    ({"saga": "order", "input": 1, "labels": {f"k{n}": "a" for n in range(33)}}, ["labels"]),
    ({"saga": "order", "input": 1, "timeout": "soon"}, ["timeout"]),
    ({"saga": "order", "input": 1, "timeout": -1}, ["timeout"]),
    ({"saga": "order", "input": 1, "timeout": 0}, ["timeout"]),
    ({"saga": "order", "input": 1, "timeout": "9999d"}, ["timeout"]),
    ({"saga": "order", "input": 1, "start_at": "tomorrow"}, ["start_at"]),
    ({"saga": "order", "input": 1, "start_at": "2099-01-01"}, ["start_at"]),
    ({"saga": "order", "input": 1, "start_at": "2099-01-01T00:00:00"}, ["start_at"]),
    ({"saga": "order", "input": 1, "start_at": "2099-13-01T00:00:00Z"}, ["start_at"]),
    ({"saga": "order", "input": 1, "start_at": 5}, ["start_at"]),
    ({"saga": "order", "input": 1, "notify_url": 5}, ["notify_url"]),
    ({"saga": 1, "input": 1, "timeout": "soon"}, ["saga", "timeout"]),
]


async def test_every_fault_of_a_body_is_told_with_its_path(orders: World) -> None:
    for body, paths in FAULTY:
        answer = await orders.api.post("/sagas", body, Idempotency_Key="k")
        assert (answer.status, answer.code) == (422, "body-invalid"), body
        assert sorted(answer.paths) == sorted(paths), body
    assert (await orders.api.get("/sagas")).json["items"] == []


REFUSED_LATER = [
    ({"start_at": "1999-01-01T00:00:00Z"}, "start_at"),
    ({"start_at": "9998-01-01T00:00:00Z"}, "start_at"),
    ({"notify_url": "ftp://127.0.0.1/x"}, "notify_url"),
    ({"notify_url": "nonsense"}, "notify_url"),
    ({"notify_url": "http://"}, "notify_url"),
    ({"notify_url": "http://169.254.169.254/latest"}, "notify_url"),
    ({"notify_url": "http://127.0.0.1@example.org/"}, "notify_url"),
    ({"notify_url": "http://example.org\\@127.0.0.1/"}, "notify_url"),
]


async def test_times_and_addresses_that_cannot_be_meant_are_refused(orders: World) -> None:
    for more, path in REFUSED_LATER:
        answer = await orders.api.post("/sagas", {"saga": "order", "input": INPUT, **more}, Idempotency_Key="k")
        assert (answer.status, answer.code, answer.paths) == (422, "body-invalid", [path]), more


async def test_a_delayed_saga_waits_and_its_timeout_counts_from_its_start(orders: World) -> None:
    saga = await orders.submit(input=INPUT, start_at="2030-01-01T10:00:00+02:00", timeout="10m")
    assert (saga["state"], saga["current_step"]) == ("CREATED", "reserve")
    assert saga["deadline_at"] == "2030-01-01T08:10:00.000000Z"


async def test_a_start_that_has_just_passed_is_now(orders: World) -> None:
    first = await orders.submit(input=INPUT)
    saga = await orders.submit(input=INPUT, start_at=first["created_at"])
    assert saga["state"] == "EXECUTING"
    assert saga["deadline_at"] > first["deadline_at"]


async def test_an_allowed_notify_url_is_kept(orders: World) -> None:
    saga = await orders.submit(input=INPUT, notify_url="http://localhost:9999/told")
    loaded = await orders.worker.sagas.load(saga["id"])
    assert loaded is not None
    assert loaded.notify_url == "http://localhost:9999/told"


async def test_a_valid_traceparent_is_handed_on(orders: World) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for key, given, kept in (("a", parent, parent), ("b", "nonsense", None)):
        body = {"saga": "order", "input": INPUT}
        answer = await orders.api.post("/sagas", body, Idempotency_Key=key, traceparent=given)
        loaded = await orders.worker.sagas.load(answer.json["id"])
        assert loaded is not None
        assert loaded.traceparent == kept


async def test_participants_get_none_of_the_submitters_headers(orders: World) -> None:
    """But for the trace, which is theirs to go on with."""
    body = {"saga": "order", "input": INPUT}
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Session": "mine", "Cookie": "mine=1", "User-Agent": "mine", "traceparent": parent}
    answer = await orders.api.post("/sagas", body, Idempotency_Key="mine", **headers)
    await orders.run(answer.json["id"])
    assert len(orders.participant.asked) == 2
    for asked in orders.participant.asked:
        assert not {"X-Session", "Cookie", "Authorization"} & set(asked.headers)
        assert [value for value in asked.headers.values() if "mine" in value] == []
        assert asked.headers["traceparent"].split("-")[1] == parent.split("-")[1]


async def test_numbers_are_kept_as_they_were_sent(orders: World) -> None:
    sent = b'{"sku":"tea","big":123456789012345678901234567890,"small":0.1,"text":"\xf0\x9f\x8d\xb5"}'
    body = b'{"saga":"order","input":' + sent + b"}"
    answer = await orders.api.post("/sagas", data=body, Idempotency_Key="k")
    assert answer.status == 202
    assert sent in answer.content
    assert sent in (await orders.api.get(answer.headers["Location"])).content
    again = await orders.api.post("/sagas", data=body, Idempotency_Key="k")
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_json_is_read_whatever_its_content_type(orders: World) -> None:
    for number, kind in enumerate(["application/x-www-form-urlencoded", "text/plain", "application/json"]):
        data = b'{"saga": "order", "input": {"sku": "tea"}}'
        answer = await orders.api.post("/sagas", data=data, Idempotency_Key=f"k{number}", Content_Type=kind)
        assert answer.status == 202


class TestWaiting:
    async def test_the_answer_comes_when_the_saga_is_at_rest(self, orders: World) -> None:
        hold = orders.participant.hold("charge")
        body = {"saga": "order", "input": INPUT}
        asked = asyncio.create_task(
            orders.api.post("/sagas", body, Idempotency_Key="k", Prefer="respond-async, wait=30")
        )
        items = []
        while not items:
            items = (await orders.api.get("/sagas")).json["items"]
        running = asyncio.create_task(orders.run(items[0]["id"]))
        await hold.reached.wait()
        assert not asked.done()
        hold.release()
        answer = await asked
        assert (answer.status, answer.json["state"]) == (200, "COMPLETED")
        await running

    async def test_after_n_seconds_it_answers_as_things_are(self, orders: World) -> None:
        body = {"saga": "order", "input": INPUT}
        answer = await orders.api.post("/sagas", body, Idempotency_Key="k", Prefer="wait=1")
        assert (answer.status, answer.json["state"]) == (202, "EXECUTING")

    def test_the_header_is_read_with_patience(self) -> None:
        for prefer in ("wait=soon", "wait=-1", "wait", "wait=0", "nonsense;;", "wait=1.5", "await=3", ""):
            assert preferred_wait([prefer]) == 0, prefer
        for prefer in ("wait=7", "Wait = 7", 'a=b, wait="7"; x', "wait=7,wait=9"):
            assert preferred_wait([prefer]) == 7, prefer
        assert preferred_wait(["respond-async", "wait=61"]) == 60
        assert preferred_wait(["wait=" + "9" * 4000]) == 60

    async def test_without_redis_polling_keeps_the_promise(self, orders: World, settings: Settings) -> None:
        deaf = settings.model_dump() | {"redis_url": "redis://127.0.0.1:1/0"}
        async with serve(Settings(**deaf)) as (api, _):
            saga = await orders.submit(input=INPUT, key="k")
            asked = asyncio.create_task(api.get(f"/sagas/{saga['id']}", Prefer="wait=30"))
            await orders.run(saga["id"])
            assert (await asked).json["state"] == "COMPLETED"

    async def test_a_process_that_ends_answers_those_who_wait(self, orders: World, app_state: Any) -> None:
        saga = await orders.submit(input=INPUT)
        asked = asyncio.create_task(orders.api.get(f"/sagas/{saga['id']}", Prefer="wait=60"))
        await until(lambda: app_state.waiting.number == 1)
        app_state.waiting.leave()
        assert (await asked).json["state"] == "EXECUTING"

    async def test_a_get_may_wait_as_well(self, orders: World) -> None:
        saga = await orders.submit(input=INPUT)
        asked = asyncio.create_task(orders.api.get(f"/sagas/{saga['id']}", Prefer="wait=30"))
        await orders.run(saga["id"])
        assert (await asked).json["state"] == "COMPLETED"


async def test_a_key_is_needed(api: Client) -> None:
    answer = await api.post("/sagas", {"saga": "order", "input": {}}, key=None)
    assert (answer.status, answer.code) == (401, "unauthorized")
