"""Looking at sagas: one, many, and their histories."""

import asyncio
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import orjson
import pytest

from app.settings import Settings
from tests.api.conftest import ONCE, World
from tests.participant import answers

STEPS = ({"name": "reserve"}, {"name": "charge"}, {"name": "mail", "compensation": "none"})


@pytest.fixture
async def orders(world: World) -> World:
    await world.define(*STEPS)
    return world


FIELDS = """
    id saga version idempotency_key state input labels current_step completed_steps steps error attention paused
    restarted_from created_at updated_at deadline_at finished_at"""
STEP_FIELDS = "name service state attempts output error next_attempt_at started_at finished_at compensation"


def times_of(part: dict[str, Any]) -> list[str]:
    return [value for name, value in part.items() if value is not None and (name.endswith("_at") or name == "since")]


class TestOne:
    async def test_a_saga_that_has_completed(self, orders: World) -> None:
        saga = await orders.ran(input={"sku": "tea"})
        assert saga["state"] == "COMPLETED"
        assert (saga["current_step"], saga["completed_steps"]) == (None, ["reserve", "charge", "mail"])
        assert (saga["error"], saga["attention"], saga["paused"]) == (None, None, False)
        assert saga["finished_at"] == saga["updated_at"] > saga["created_at"]
        charge = saga["steps"][1]
        assert (charge["state"], charge["attempts"], charge["error"]) == ("SUCCEEDED", 1, None)
        assert charge["output"] == {"step": "charge", "operation": "action", "n": 2}
        assert charge["started_at"] < charge["finished_at"]
        assert {step["compensation"]["state"] for step in saga["steps"]} == {"NOT_NEEDED"}

    async def test_a_saga_that_was_refused_and_undone(self, orders: World) -> None:
        orders.participant.on("charge", answers(422, {"why": "no money"}))
        saga = await orders.ran()
        assert saga["state"] == "FAILED"
        error = saga["error"]
        assert (error["step"], error["operation"], error["code"], error["status"], error["attempts"]) == (
            "charge",
            "action",
            "refused",
            422,
            1,
        )
        assert saga["completed_steps"] == ["reserve"]
        assert [step["state"] for step in saga["steps"]] == ["SUCCEEDED", "REFUSED", "CANCELLED"]
        undone = [step["compensation"]["state"] for step in saga["steps"]]
        assert undone == ["COMPENSATED", "NOT_NEEDED", "NOT_NEEDED"]
        assert saga["steps"][1]["error"] == error

    async def test_a_step_that_waits_for_its_next_attempt(self, orders: World) -> None:
        orders.participant.on("reserve", answers(503))
        saga = await orders.ran()
        reserve = saga["steps"][0]
        assert (reserve["state"], reserve["attempts"]) == ("RETRYING", 1)
        assert reserve["next_attempt_at"] > saga["updated_at"]
        assert (reserve["error"]["code"], reserve["error"]["status"]) == ("unknown", 503)
        assert saga["current_step"] == "reserve"
        assert saga["steps"][2]["compensation"]["state"] == "NOT_NEEDED"
        assert saga["steps"][1]["compensation"]["state"] == "PENDING"

    async def test_a_saga_that_needs_a_person(self, world: World) -> None:
        await world.define({"name": "reserve", "compensation_retry": ONCE}, {"name": "charge"})
        world.participant.on("charge", answers(422))
        world.participant.on("reserve", answers(500), operation="compensation")
        saga = await world.ran()
        assert (saga["state"], saga["finished_at"], saga["current_step"]) == ("COMPENSATION_FAILED", None, None)
        assert saga["attention"]["steps"] == ["reserve"]
        assert set(saga["attention"]) == {"since", "reason", "steps"}
        failed = saga["steps"][0]["compensation"]
        assert (failed["state"], failed["error"]["code"], failed["attempts"]) == ("FAILED", "exhausted", 1)

    async def test_its_fields_and_times_are_those_that_others_rely_on(self, world: World) -> None:
        await world.define({"name": "reserve", "compensation_retry": ONCE}, {"name": "charge"})
        world.participant.on("charge", answers(422))
        world.participant.on("reserve", answers(500), operation="compensation")
        saga = await world.ran()
        assert list(saga) == FIELDS.split()
        for step in saga["steps"]:
            assert list(step) == STEP_FIELDS.split()
            assert list(step["compensation"]) == ["state", "attempts", "error", "next_attempt_at"]
        assert set(saga["error"]) == {"step", "operation", "code", "message", "status", "attempts"}
        times = [value for part in (saga, *saga["steps"], saga["attention"]) for value in times_of(part)]
        assert len(times) > 6
        for written in times:
            assert datetime.fromisoformat(written).utcoffset() == timedelta(0)
            assert written.endswith("Z")

    async def test_what_is_no_saga_is_not_found(self, orders: World) -> None:
        for name in ("nothing", "01a20088-707d-7471-80b7-140b7fdea249", "%00", "...", "a" * 5000, "{}"):
            for path in (f"/sagas/{name}", f"/sagas/{name}/events"):
                answer = await orders.api.get(path)
                assert answer.status == 404, path
                assert answer.code in {"saga-not-found", "not-found"}

    async def test_an_etag_tells_whether_it_has_moved(self, orders: World) -> None:
        saga = await orders.submit()
        path = f"/sagas/{saga['id']}"
        tag = (await orders.api.get(path)).headers["ETag"]
        known = await orders.api.get(path, If_None_Match=f'"x", W/{tag}')
        assert (known.status, known.content, known.headers["ETag"]) == (304, b"", tag)
        await orders.run(saga["id"])
        moved = await orders.api.get(path, If_None_Match=tag)
        assert (moved.status, moved.headers["ETag"] != tag) == (200, True)

    async def test_ids_are_read_in_either_case(self, orders: World) -> None:
        saga = await orders.submit()
        assert (await orders.api.get(f"/sagas/{saga['id'].upper()}")).json["id"] == saga["id"]


class TestMany:
    async def page(self, world: World, query: str = "", path: str = "/sagas") -> list[str]:
        answer = await world.api.get(f"{path}?{query}")
        assert answer.status == 200, answer.content
        return [saga["idempotency_key"] for saga in answer.json["items"]]

    async def test_pages_are_newest_first_and_neither_skip_nor_repeat(self, orders: World) -> None:
        for n in range(7):
            await orders.submit(key=f"k{n}")
        seen: list[str] = []
        path = "/sagas?limit=3&saga=order"
        while path:
            answer = await orders.api.get(path)
            seen += [saga["idempotency_key"] for saga in answer.json["items"]]
            link = answer.headers.get("Link", "")
            assert bool(link) == (answer.json["next_cursor"] is not None)
            path = link.removeprefix("<").partition(">")[0]
            if len(seen) == 3:
                await orders.submit(key="newer")
        assert seen == [f"k{n}" for n in reversed(range(7))]

    async def test_filters_hold_together(self, orders: World) -> None:
        await orders.define(*STEPS, name="other")
        done = await orders.ran(key="done", labels={"customer": "1", "kind": "a:b"})
        orders.participant.on("reserve", answers(422))
        await orders.ran(key="failed", labels={"customer": "2"})
        await orders.submit("other", key="open", labels={"customer": "1"})
        expected = {
            "": ["open", "failed", "done"],
            "state=COMPLETED": ["done"],
            "state=COMPLETED,FAILED": ["failed", "done"],
            "state=EXECUTING&state=FAILED": ["open", "failed"],
            "saga=other": ["open"],
            "saga=nothing": [],
            "label=customer:1": ["open", "done"],
            "label=customer:1&label=kind:a:b": ["done"],
            "label=customer:1&saga=other&state=EXECUTING": ["open"],
            "label=customer:": [],
            "key=failed": ["failed"],
            "key=fail": [],
            "attention=true": [],
            "attention=false": ["open", "failed", "done"],
            f"created_after={done['created_at']}": ["open", "failed"],
            f"created_before={done['created_at']}": [],
            "created_after=2020-01-01T00:00:00+01:00": ["open", "failed", "done"],
            "created_before=2020-01-01T00:00:00%2B01:00": [],
            "limit=1": ["open"],
            "limit=100000": ["open", "failed", "done"],
            "state=&saga=&limit=&cursor=": ["open", "failed", "done"],
        }
        for query, keys in expected.items():
            assert await self.page(orders, query) == keys, query

    async def test_payloads_are_left_out_unless_asked_for(self, orders: World) -> None:
        await orders.ran(input={"sku": "tea"})
        (short,) = (await orders.api.get("/sagas")).json["items"]
        assert "input" not in short
        assert all("output" not in step for step in short["steps"])
        (full,) = (await orders.api.get("/sagas?payloads=true")).json["items"]
        assert full == (await orders.api.get(f"/sagas/{full['id']}")).json

    async def test_a_wrong_filter_is_refused(self, orders: World) -> None:
        saga = await orders.submit()
        await orders.submit()
        cursor = (await orders.api.get("/sagas?limit=1")).json["next_cursor"]
        tampered = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
        wrong = {
            "state=RUNNING": ["state"],
            "state=completed": ["state"],
            "stat=COMPLETED": ["stat"],
            "label=nothing": ["label"],
            "label=:x": ["label"],
            "label=a:1&label=a:2": ["label"],
            "attention=1": ["attention"],
            "payloads=yes": ["payloads"],
            "limit=0": ["limit"],
            "limit=-1": ["limit"],
            "limit=ten": ["limit"],
            "limit=1&limit=2": ["limit"],
            "created_after=yesterday": ["created_after"],
            "created_before=2026-01-01": ["created_before"],
            "cursor=nonsense": ["cursor"],
            f"cursor={tampered}": ["cursor"],
            f"cursor={saga['id']}": ["cursor"],
            "cursor=%C3%A4": ["cursor"],
            "saga=%00": ["saga"],
            "key=a%00b": ["key"],
            "label=a:%00": ["label"],
            "state=X&limit=0&foo=1": ["state", "limit", "foo"],
        }
        for path in ("/sagas", "/admin/api/sagas"):
            for query, paths in wrong.items():
                answer = await orders.api.get(f"{path}?{query}")
                assert (answer.status, answer.code) == (422, "filter-invalid"), query
                assert sorted(answer.paths) == sorted(paths), query


class TestHistory:
    async def test_it_tells_the_whole_story(self, orders: World) -> None:
        saga = await orders.ran()
        answer = await orders.api.get(f"/sagas/{saga['id']}/events")
        events = answer.json["items"]
        assert answer.json["next_cursor"] is None
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert all(one["at"] <= other["at"] for one, other in pairwise(events))
        assert [event["type"] for event in events][:4] == [
            "SagaCreated",
            "SagaStarted",
            "StepScheduled",
            "StepStarted",
        ]
        assert events[-1]["type"] == "SagaCompleted"
        created, _, scheduled, started = events[:4]
        assert created["data"]["deadline_at"] == saga["deadline_at"]
        assert "step" not in created
        assert (scheduled["step"], scheduled["operation"], "attempt" in scheduled) == ("reserve", "action", False)
        assert started["attempt"] == 1
        assert started["data"]["lease_until"].endswith("Z")
        assert started["data"]["key"] == f"{saga['id']}/reserve"

    async def test_it_comes_in_pages(self, orders: World) -> None:
        saga = await orders.ran()
        path = f"/sagas/{saga['id']}/events"
        whole = (await orders.api.get(path)).json["items"]
        first = await orders.api.get(path + "?limit=4")
        assert first.json == {"items": whole[:4], "next_cursor": 4}
        assert first.headers["Link"] == f'<{path}?limit=4&after=4>; rel="next"'
        rest = await orders.api.get(path + "?after=4")
        assert rest.json == {"items": whole[4:], "next_cursor": None}
        assert (await orders.api.get(path + "?after=999")).json == {"items": [], "next_cursor": None}

    async def test_a_page_holds_a_thousand_unless_less_is_asked_for(self, orders: World, settings: Settings) -> None:
        saga = await orders.submit()
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute(
            """INSERT INTO saga_event (saga_id, seq, type, at, data)
            SELECT $1, n, 'OperatorActed', now(), '{}' FROM generate_series(100, 1200) AS n""",
            saga["id"],
        )
        await connection.close()
        for query in ("", "?limit=5000"):
            page = (await orders.api.get(f"/sagas/{saga['id']}/events{query}")).json
            assert len(page["items"]) == 1000
            assert page["next_cursor"] == page["items"][-1]["seq"]

    @pytest.mark.parametrize("query", ["after=x", "after=-1", "limit=0", "since=1"])
    async def test_a_wrong_query_is_refused(self, orders: World, query: str) -> None:
        saga = await orders.submit()
        answer = await orders.api.get(f"/sagas/{saga['id']}/events?{query}")
        assert (answer.status, answer.code) == (422, "filter-invalid")

    async def _stream(self, world: World, saga: dict[str, Any], **headers: str) -> tuple[int, list[dict[str, Any]]]:
        named = {"Accept": "text/event-stream", "Authorization": "Bearer test.key"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with world.api.session.get(f"{world.api.base}/sagas/{saga['id']}/events", headers=named) as response:
            found = [orjson.loads(line[6:]) async for line in response.content if line.startswith(b"data: ")]
            return response.status, found

    async def test_a_stream_follows_the_saga_to_its_end(self, orders: World) -> None:
        saga = await orders.submit()
        following = asyncio.create_task(self._stream(orders, saga))
        await orders.run(saga["id"])
        status, events = await following
        assert status == 200
        assert events == (await orders.api.get(f"/sagas/{saga['id']}/events")).json["items"]
        _, rest = await self._stream(orders, saga, Last_Event_ID="5")
        assert rest == events[5:]
        assert await self._stream(orders, saga, Last_Event_ID=str(events[-1]["seq"])) == (204, [])
