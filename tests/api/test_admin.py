"""What operators do to sagas and dead letters; each with a reason, and a line in the audit trail."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.api.conftest import ONCE, World
from tests.participant import BUSY, answers, hangs

UNKNOWN_ID = "01a20088-707d-7471-80b7-140b7fdea249"


@pytest.fixture
async def orders(world: World) -> World:
    await world.define(
        {"name": "reserve", "compensation_retry": ONCE},
        {"name": "charge", "retry": ONCE, "on_exhausted": "pause"},
        {"name": "mail", "compensation": "none"},
    )
    return world


async def stuck(world: World) -> dict[str, Any]:
    """A saga whose compensation has failed."""
    world.participant.on("charge", answers(422))
    world.participant.on("reserve", answers(400), operation="compensation")
    saga = await world.ran()
    assert saga["state"] == "COMPENSATION_FAILED"
    return saga


async def holding(world: World) -> dict[str, Any]:
    """A saga that holds at `charge`."""
    world.participant.on("charge", BUSY)
    saga = await world.ran()
    assert (saga["steps"][1]["state"], saga["paused"]) == ("EXHAUSTED", True)
    assert saga["current_step"] == "charge"
    return saga


async def letters(world: World, query: str = "") -> list[dict[str, Any]]:
    return (await world.api.get(f"/admin/api/dead-letters?{query}")).json["items"]


async def audit(world: World, query: str = "") -> list[dict[str, Any]]:
    return (await world.api.get(f"/admin/api/audit?{query}")).json["items"]


class TestRetry:
    async def test_a_failed_compensation_is_tried_again(self, orders: World) -> None:
        saga = await stuck(orders)
        answer = await orders.act(saga["id"], "retry")
        assert (answer.status, answer.json["state"], answer.json["attention"]) == (200, "COMPENSATING", None)
        ended = await orders.run(saga["id"])
        assert (ended["state"], ended["steps"][0]["compensation"]["attempts"]) == ("FAILED", 2)
        again = await orders.act(saga["id"], "retry")
        assert (again.status, again.code) == (409, "saga-at-rest")

    async def test_a_step_that_holds_is_tried_again(self, orders: World) -> None:
        saga = await holding(orders)
        assert (await orders.act(saga["id"], "retry")).status == 200
        ended = await orders.run(saga["id"])
        assert (ended["state"], ended["steps"][1]["attempts"]) == ("COMPLETED", 2)

    async def test_a_new_input_has_a_key_of_its_own(self, orders: World) -> None:
        saga = await holding(orders)
        unsure = await orders.act(saga["id"], "retry", input={"amount": 1})
        assert (unsure.status, unsure.code) == (409, "outcome-unknown")
        sure = await orders.act(saga["id"], "retry", input={"amount": 1}, confirm_not_done=True)
        assert sure.status == 200
        await orders.run(saga["id"])
        old, new = orders.participant.requests("charge", saga_id=saga["id"])
        assert (old.key, new.key) == (f"{saga['id']}/charge", f"{saga['id']}/charge~1")
        assert new.body["input"] == {"amount": 1}

    async def test_nothing_to_retry_is_said(self, orders: World) -> None:
        saga = await orders.submit()
        answer = await orders.act(saga["id"], "retry")
        assert (answer.status, answer.code) == (409, "nothing-to-retry")

    async def test_a_step_that_is_none_is_refused(self, orders: World) -> None:
        saga = await holding(orders)
        answer = await orders.act(saga["id"], "retry", step="nothing")
        assert (answer.status, answer.code, answer.paths) == (422, "body-invalid", ["step"])

    async def test_an_input_may_be_too_large(self, orders: World) -> None:
        saga = await holding(orders)
        answer = await orders.act(saga["id"], "retry", input="x" * 262_145)
        assert (answer.status, answer.code) == (413, "body-too-large")


class TestRestart:
    async def test_each_restart_takes_the_next_free_key_of_the_original(self, orders: World) -> None:
        orders.participant.on("reserve", answers(422))
        saga = await orders.ran(key="original", input={"sku": "tea"}, labels={"a": "b"}, timeout="7m")
        first = await orders.act(saga["id"], "restart")
        assert (first.status, first.headers["Location"]) == (201, f"/sagas/{first.json['id']}")
        assert first.json["idempotency_key"] == "original~1"
        assert first.json["restarted_from"] == saga["id"]
        assert (first.json["input"], first.json["labels"]) == ({"sku": "tea"}, {"a": "b"})
        assert timeout_of(first.json) == timeout_of(saga) == timedelta(minutes=7)
        second = await orders.act(saga["id"], "restart", input={"sku": "coffee"})
        assert (second.json["idempotency_key"], second.json["input"]) == ("original~2", {"sku": "coffee"})
        await orders.run(first.json["id"])
        of_restart = await orders.act(first.json["id"], "restart")
        assert of_restart.json["idempotency_key"] == "original~3"
        assert of_restart.json["restarted_from"] == first.json["id"]
        replay = await orders.api.post(
            "/sagas",
            {"saga": "order", "input": {"sku": "tea"}, "labels": {"a": "b"}, "timeout": "7m"},
            Idempotency_Key="original",
        )
        assert (replay.status, replay.json["id"]) == (200, saga["id"])
        assert [line["action"] for line in await audit(orders, f"saga_id={saga['id']}")] == ["restart"] * 2

    async def test_two_at_once_get_two_keys(self, orders: World) -> None:
        saga = await stuck(orders)
        both = await asyncio.gather(orders.act(saga["id"], "restart"), orders.act(saga["id"], "restart"))
        assert {answer.json["idempotency_key"] for answer in both} == {
            f"{saga['idempotency_key']}~1",
            f"{saga['idempotency_key']}~2",
        }

    async def test_a_key_that_a_submitter_took_is_left_alone(self, orders: World) -> None:
        orders.participant.on("reserve", answers(422))
        saga = await orders.ran(key="k")
        await orders.submit(key="k~1")
        assert (await orders.act(saga["id"], "restart")).json["idempotency_key"] == "k~2"

    async def test_only_at_rest(self, orders: World) -> None:
        saga = await orders.submit()
        answer = await orders.act(saga["id"], "restart")
        assert (answer.status, answer.code) == (409, "saga-not-at-rest")
        moved = await orders.api.post(f"/admin/api/sagas/{saga['id']}/restart", {"reason": "x"}, If_Match='"0"')
        assert moved.status == 412

    async def test_the_newest_definition_is_used_and_its_schema_holds(self, orders: World) -> None:
        saga = await orders.ran()
        await orders.define({"name": "only"}, input_schema={"required": ["sku"]})
        refused = await orders.act(saga["id"], "restart")
        assert (refused.status, refused.code) == (422, "input-invalid")
        answer = await orders.act(saga["id"], "restart", input={"sku": "tea"})
        assert (answer.status, answer.json["version"]) == (201, 2)


def timeout_of(saga: dict[str, Any]) -> timedelta:
    return datetime.fromisoformat(saga["deadline_at"]) - datetime.fromisoformat(saga["created_at"])


class TestOthers:
    async def test_skip_goes_on_without_the_step(self, orders: World) -> None:
        saga = await holding(orders)
        unsure = await orders.act(saga["id"], "skip", step="charge")
        assert (unsure.status, unsure.code) == (409, "outcome-unknown")
        answer = await orders.act(saga["id"], "skip", step="charge", confirm_not_done=True, output={"by": "hand"})
        assert answer.status == 200
        ended = await orders.run(saga["id"])
        assert ended["state"] == "COMPLETED"
        assert (ended["steps"][1]["state"], ended["steps"][1]["output"]) == ("SKIPPED", {"by": "hand"})

    async def test_skip_is_for_steps_that_cannot_be_done(self, orders: World) -> None:
        saga = await orders.submit()
        answer = await orders.act(saga["id"], "skip", step="mail")
        assert (answer.status, answer.code) == (409, "step-not-skippable")
        for body in ({}, {"step": "none"}, {"step": 1}):
            wrong = await orders.act(saga["id"], "skip", **body)
            assert (wrong.status, wrong.code, wrong.paths) == (422, "body-invalid", ["step"])

    async def test_resolve_closes_what_was_settled_by_hand(self, orders: World) -> None:
        saga = await stuck(orders)
        wrong = await orders.act(saga["id"], "resolve", step="charge")
        assert (wrong.status, wrong.code) == (409, "nothing-to-resolve")
        answer = await orders.act(saga["id"], "resolve", step="reserve")
        assert (answer.status, answer.json["state"]) == (200, "FAILED")
        assert answer.json["steps"][0]["compensation"]["state"] == "RESOLVED"
        (letter,) = await letters(orders, f"saga_id={saga['id']}")
        assert letter["status"] == "resolved"

    async def test_abandon_undoes_nothing(self, orders: World) -> None:
        saga = await holding(orders)
        answer = await orders.act(saga["id"], "abandon")
        assert (answer.status, answer.json["state"]) == (200, "ABANDONED")
        assert orders.participant.undone(saga["id"]) == []
        compensations = [step["compensation"]["state"] for step in answer.json["steps"]]
        assert compensations == ["PENDING", "PENDING", "NOT_NEEDED"]
        assert (await orders.act(saga["id"], "abandon")).code == "saga-at-rest"

    async def test_compensate_is_a_cancel(self, orders: World) -> None:
        saga = await holding(orders)
        answer = await orders.act(saga["id"], "compensate")
        assert (answer.status, answer.json["state"]) == (202, "COMPENSATING")
        assert (await orders.run(saga["id"]))["state"] == "FAILED"
        assert (await orders.act(saga["id"], "compensate")).code == "saga-at-rest"

    async def test_pause_and_resume(self, orders: World) -> None:
        saga = await orders.submit()
        paused = await orders.act(saga["id"], "pause")
        assert (paused.status, paused.json["paused"]) == (200, True)
        assert (await orders.run(saga["id"]))["steps"][0]["attempts"] == 0
        resumed = await orders.act(saga["id"], "resume")
        assert (resumed.status, resumed.json["paused"]) == (200, False)
        assert (await orders.act(saga["id"], "resume")).code == "not-paused"
        assert (await orders.run(saga["id"]))["state"] == "COMPLETED"

    async def test_extend_moves_the_deadline(self, orders: World) -> None:
        saga = await orders.submit(timeout="10m")
        answer = await orders.act(saga["id"], "extend", timeout="2h")
        assert answer.status == 200
        assert answer.json["deadline_at"] > saga["deadline_at"]
        shorter = await orders.act(saga["id"], "extend", timeout="1m")
        assert (shorter.status, shorter.code) == (409, "deadline-not-later")
        for timeout in ("x", 0, None):
            assert (await orders.act(saga["id"], "extend", timeout=timeout)).code == "body-invalid"


ACTIONS = {
    "retry": {},
    "restart": {},
    "skip": {"step": "reserve"},
    "resolve": {"step": "reserve"},
    "compensate": {},
    "abandon": {},
    "pause": {},
    "resume": {},
    "extend": {"timeout": "1h"},
}


@pytest.mark.parametrize("action", ACTIONS)
async def test_every_action_wants_a_reason_and_a_saga_and_minds_if_match(orders: World, action: str) -> None:
    saga = await orders.submit()
    path, body = f"/admin/api/sagas/{saga['id']}/{action}", ACTIONS[action]
    for missing in ({}, {"reason": None}, {"reason": ""}, {"reason": " "}):
        answer = await orders.api.post(path, {**body, **missing})
        assert (answer.status, answer.code) == (422, "reason-missing")
    assert (await orders.api.post(path, data=b"")).code == "reason-missing"
    for wrong in ({"reason": 5}, {"reason": "x", "more": 1}, {"reason": "x" * 2001}):
        answer = await orders.api.post(path, {**body, **wrong})
        assert (answer.status, answer.code) == (422, "body-invalid")
    for other in ("nothing", UNKNOWN_ID):
        answer = await orders.api.post(f"/admin/api/sagas/{other}/{action}", {**body, "reason": "x"})
        assert (answer.status, answer.code) == (404, "saga-not-found")
    moved = await orders.api.post(path, {**body, "reason": "x"}, If_Match='"1"')
    assert (moved.status, moved.code) == (412, "saga-has-moved")
    assert (await orders.api.get(f"/sagas/{saga['id']}")).json == saga


async def test_an_attempt_that_may_still_run_bars_new_decisions(orders: World) -> None:
    await orders.define({"name": "reserve", "timeout": "30s"}, name="slow")
    orders.participant.on("reserve", hangs())
    saga = await orders.submit("slow")
    running = asyncio.create_task(orders.run(saga["id"]))
    await orders.participant.until(lambda: bool(orders.participant.asked))
    answer = await orders.act(saga["id"], "skip", step="reserve")
    assert (answer.status, answer.code) == (409, "attempt-running")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


class TestLists:
    async def test_the_default_is_what_needs_attention(self, orders: World) -> None:
        saga = await stuck(orders)
        other = await orders.submit()
        found = (await orders.api.get("/admin/api/sagas")).json["items"]
        assert [each["id"] for each in found] == [saga["id"]]
        by_state = (await orders.api.get("/admin/api/sagas?state=EXECUTING")).json["items"]
        assert [each["id"] for each in by_state] == [other["id"]]
        everything = (await orders.api.get("/admin/api/sagas?attention=")).json["items"]
        assert len(everything) == 2

    async def test_the_audit_trail_tells_who_did_what_and_why(self, orders: World) -> None:
        saga = await orders.submit()
        await orders.act(saga["id"], "pause", reason="stock is counted")
        await orders.act(saga["id"], "resume", reason="done")
        await orders.api.post(f"/sagas/{saga['id']}/cancel")
        cancel, resume, pause = await audit(orders, f"saga_id={saga['id']}")
        assert [cancel["action"], resume["action"], pause["action"]] == ["cancel", "resume", "pause"]
        assert (pause["actor"], pause["reason"], cancel["reason"]) == ("key:bootstrap", "stock is counted", None)
        assert (pause["before"]["paused"], pause["after"]["paused"]) == (False, True)
        assert pause["saga_id"] == saga["id"]
        first = (await orders.api.get(f"/admin/api/audit?saga_id={saga['id']}&limit=2")).json
        rest = (
            await orders.api.get(f"/admin/api/audit?saga_id={saga['id']}&limit=2&cursor={first['next_cursor']}")
        ).json
        assert [*first["items"], *rest["items"]] == [cancel, resume, pause]
        assert rest["next_cursor"] is None
        assert await audit(orders, f"saga_id={UNKNOWN_ID}") == []
        for query in ("limit=0", "cursor=x", "saga_id=x", "foo=1"):
            assert (await orders.api.get(f"/admin/api/audit?{query}")).code == "filter-invalid"


class TestDeadLetters:
    async def test_a_failed_compensation_leaves_one_that_can_be_retried(self, orders: World) -> None:
        saga = await stuck(orders)
        (letter,) = await letters(orders, "status=open")
        expected = {
            "id": letter["id"],
            "saga_id": saga["id"],
            "saga": "order",
            "step": "reserve",
            "operation": "compensation",
            "attempts": 1,
            "error": letter["error"],
            "status": "open",
            "created_at": letter["created_at"],
        }
        assert letter == expected
        assert letter["error"]["code"] == "refused"
        answer = await orders.api.post(f"/admin/api/dead-letters/{letter['id']}/retry", {"reason": "mended"})
        assert (answer.status, answer.json["id"], answer.json["state"]) == (200, saga["id"], "COMPENSATING")
        assert [each["status"] for each in await letters(orders)] == ["retried"]
        again = await orders.api.post(f"/admin/api/dead-letters/{letter['id']}/retry", {"reason": "again"})
        assert (again.status, again.code) == (409, "letter-closed")

    async def test_discarding_closes_it_and_leaves_the_saga(self, orders: World) -> None:
        saga = await holding(orders)
        (letter,) = await letters(orders, "status=open")
        answer = await orders.api.post(f"/admin/api/dead-letters/{letter['id']}/discard", {"reason": "known"})
        assert (answer.status, answer.json) == (200, saga)
        assert await letters(orders, "status=open") == []
        assert [each["status"] for each in await letters(orders, "status=discarded,noted")] == ["discarded"]
        for action in ("discard", "retry"):
            again = await orders.api.post(f"/admin/api/dead-letters/{letter['id']}/{action}", {"reason": "x"})
            assert (again.status, again.code) == (409, "letter-closed")
        (line,) = await audit(orders, "action=discard")
        assert (line["reason"], line["saga_id"], line["address"]) == ("known", saga["id"], "127.0.0.1")

    async def test_an_exhausted_step_that_turned_its_saga_is_noted(self, world: World) -> None:
        await world.define({"name": "reserve", "retry": ONCE})
        world.participant.on("reserve", answers(500))
        await world.ran()
        (letter,) = await letters(world)
        assert (letter["status"], letter["step"], letter["operation"]) == ("noted", "reserve", "action")

    async def test_pages_and_wrong_queries(self, orders: World) -> None:
        for _ in range(3):
            await stuck(orders)
        first = await orders.api.get("/admin/api/dead-letters?limit=2")
        assert first.headers["Link"].endswith('; rel="next"')
        rest = (await orders.api.get(f"/admin/api/dead-letters?cursor={first.json['next_cursor']}")).json
        assert len({each["id"] for each in [*first.json["items"], *rest["items"]]}) == 3
        for query in ("status=closed", "limit=x", "cursor=x", "saga_id=x", "saga=order"):
            assert (await orders.api.get(f"/admin/api/dead-letters?{query}")).code == "filter-invalid", query
        for name in ("nothing", UNKNOWN_ID):
            for action in ("retry", "discard"):
                answer = await orders.api.post(f"/admin/api/dead-letters/{name}/{action}", {"reason": "x"})
                assert (answer.status, answer.code) == (404, "letter-not-found")
        (letter, *_) = rest["items"]
        for action in ("retry", "discard"):
            answer = await orders.api.post(f"/admin/api/dead-letters/{letter['id']}/{action}", {})
            assert (answer.status, answer.code) == (422, "reason-missing")


class TestBulk:
    async def test_it_does_the_same_to_all_that_match(self, orders: World) -> None:
        ids = [(await orders.submit(labels={"batch": "7"}))["id"] for _ in range(3)]
        other = await orders.submit()
        paused = ids.pop()
        await orders.act(paused, "pause")
        body = {"action": "pause", "filter": {"state": "EXECUTING", "label": "batch:7"}, "reason": "x"}
        dry = await orders.api.post("/admin/api/bulk", {**body, "dry_run": True})
        assert (dry.status, dry.json) == (200, {"matched": 3, "done": 0, "remaining": 3, "failed": []})
        answer = await orders.api.post("/admin/api/bulk", body)
        failed = [{"id": paused, "code": "already-paused"}]
        assert answer.json == {"matched": 3, "done": 2, "remaining": 1, "failed": failed}
        assert not (await orders.api.get(f"/sagas/{other['id']}")).json["paused"]
        limited = {**body, "action": "compensate", "limit": 1, "filter": {"label": {"batch": "7"}}}
        assert (await orders.api.post("/admin/api/bulk", limited)).json["remaining"] == 2

    async def test_a_job_can_be_read_again(self, orders: World) -> None:
        saga = await orders.submit(labels={"batch": "7"})
        wanted = {"state": ["EXECUTING"], "label": {"batch": "7"}, "created_after": "2026-01-01T00:00:00.000000Z"}
        body = {"action": "pause", "filter": wanted, "reason": "a test", "limit": 9}
        dry = await orders.api.post("/admin/api/bulk", {**body, "dry_run": True})
        assert "Location" not in dry.headers
        assert (await orders.api.get("/admin/api/bulk")).json == {"items": [], "next_cursor": None}
        first = await orders.api.post("/admin/api/bulk", body)
        again = await orders.api.post("/admin/api/bulk", body)
        job = (await orders.api.get(again.headers["Location"])).json
        assert job.pop("begun_at") < job.pop("ended_at")
        assert job == {
            "id": again.headers["Location"].rpartition("/")[2],
            "actor": "key:bootstrap",
            "action": "pause",
            "filter": wanted,
            "limit": 9,
            "reason": "a test",
            "matched": 1,
            "done": 0,
            "failed": [{"id": saga["id"], "code": "already-paused"}],
        }
        newest = (await orders.api.get("/admin/api/bulk?limit=1")).json
        assert [each["id"] for each in newest["items"]] == [job["id"]]
        older = (await orders.api.get(f"/admin/api/bulk?cursor={newest['next_cursor']}")).json
        assert [each["id"] for each in older["items"]] == [first.headers["Location"].rpartition("/")[2]]
        for path in ("nothing", UNKNOWN_ID, "%00"):
            answer = await orders.api.get(f"/admin/api/bulk/{path}")
            assert (answer.status, answer.code) == (404, "job-not-found"), path
        made = await orders.api.post("/admin/api/keys", {"scopes": ["admin"], "tenant": "theirs"})
        theirs = {"key": made.json["key"]}
        assert (await orders.api.get("/admin/api/bulk", **theirs)).json["items"] == []
        assert (await orders.api.get(f"/admin/api/bulk/{job['id']}", **theirs)).status == 404

    async def test_what_is_wrong_is_refused(self, orders: World) -> None:
        right = {"action": "retry", "filter": {}, "reason": "x"}
        for change in (
            {"action": "restart"},
            {"filter": None},
            {"filter": {"stat": "x"}},
            {"filter": {"state": "X"}},
            {"filter": {"label": "x"}},
            {"filter": {"created_after": "x"}},
            {"limit": 0},
            {"limit": 1001},
            {"dry_run": 1},
            {"more": 1},
        ):
            answer = await orders.api.post("/admin/api/bulk", {**right, **change})
            assert (answer.status, answer.code) == (422, "body-invalid"), change
        assert (await orders.api.post("/admin/api/bulk", {**right, "reason": ""})).code == "reason-missing"
