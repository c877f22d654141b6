"""10,000 sagas in the list: what a page costs does not grow with them, and a reader misses none while more arrive.

Costs are counted in rows that PostgreSQL reads, not in milliseconds (`python -m benchmarks.listing` has those).
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from app.house import House, open_house
from app.saga.definition import parse_definition
from app.settings import Settings
from app.store import sagas as statements
from app.store.database import PINNED_TO_INDEXES
from app.store.listing import Filter
from benchmarks import many
from tests.api.conftest import Client
from tests.conftest import Servers

pytestmark = pytest.mark.slow

SAGAS = 10_000
ARRIVALS = 1_000
STEPS = [{"name": name, "service": "shop", "action": name, "compensation": "undo"} for name in ("a", "b", "c")]
DEFINITIONS = [parse_definition({"name": name, "steps": STEPS}, None) for name in ("order", "refund")]


@pytest.fixture(scope="module")
def filled(servers: Servers) -> Iterator[str]:
    """Name of a database with the sagas: a template, so that nobody may stay connected to it."""

    async def fill(url: str) -> None:
        async with open_house(Settings(database_url=url, redis_url=servers.valkey.url)) as house:
            for definition in DEFINITIONS:
                version, _ = await house.definitions.register(definition)
            await many.insert(house, DEFINITIONS[0], version, SAGAS)
        connection = await asyncpg.connect(url)
        await connection.execute("ANALYZE")
        await connection.close()

    with servers.database() as url:
        asyncio.run(fill(url))
        yield url.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def database_url(servers: Servers, filled: str) -> Iterator[str]:
    with servers.database(template=filled) as url:
        yield url


# --- what a page costs ------------------------------------------------------------------------------------------

Plan = dict[str, Any]
PAGE = 51
"""Rows: one more than are shown, to know whether there are more."""


async def plans_of(house: House, ask: Callable[[], Awaitable[Any]]) -> list[Plan]:
    """How PostgreSQL carries out each statement that is sent meanwhile, with what is given to it."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    engine = house.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        await ask()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    plans = []
    async with house.database.connect() as connection:
        for statement, parameters in sent:
            told = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            plans.append(told.scalar_one()[0]["Plan"])
    return plans


def scans(plan: Plan) -> Iterator[Plan]:
    if "Scan" in plan["Node Type"]:
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans(part)


def rows_read(plan: Plan) -> float:
    """The most that any scan looked at."""
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    return max(s["Actual Loops"] * (s["Actual Rows"] + sum(s.get(name, 0) for name in removed)) for s in scans(plan))


QUESTIONS: dict[str, tuple[dict[str, Any], int]] = {
    "the first page": ({}, PAGE),
    "one state": ({"states": ["COMPENSATION_FAILED"]}, PAGE),
    "a state in which nearly all are": ({"states": ["COMPLETED"]}, 2 * PAGE),
    "a definition": ({"saga": "order"}, PAGE),
    "a definition of which there are none": ({"saga": "refund"}, 0),
    "a key": ({"key": "order-005000"}, 1),
    "a key that nobody has": ({"key": "nobody's"}, 0),
    "attention": ({"attention": True}, PAGE),
    "no attention": ({"attention": False}, 2 * PAGE),
    "a label that few share": ({"labels": {"customer": "c-7"}}, PAGE),
    "a label that one has": ({"labels": {"order": "77"}}, 1),
    "a label that a quarter have": ({"labels": {"region": "eu"}}, 4 * 3 * PAGE),
    "a label that nobody has": ({"labels": {"colour": "red"}}, 0),
    "two labels": ({"labels": {"region": "eu", "channel": "phone"}}, SAGAS // 100),
}
"""With the rows that it may take to answer them."""


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("deep", [False, True], ids=["first", "deep"])
async def test_a_page_costs_no_more_than_it_shows(house: House, question: str, deep: bool) -> None:
    conditions, bound = QUESTIONS[question]
    wanted, place = Filter(tenant="", **conditions), None
    if deep:
        _, place = await house.listing.sagas(Filter(tenant=""), limit=SAGAS // 10)
        assert place is not None
    plan, *_ = await plans_of(house, lambda: house.listing.sagas(wanted, limit=PAGE - 1, after=place))
    kinds = {scan["Node Type"] for scan in scans(plan)}
    assert "Seq Scan" not in kinds, plan
    assert rows_read(plan) <= bound, plan


async def test_one_saga_and_its_history_cost_no_more_than_themselves(house: House, database_url: str) -> None:
    (saga,), _ = await house.listing.sagas(Filter(tenant="", key="order-005000"), limit=1)
    for plan in await plans_of(house, lambda: house.listing.history(saga.id, "")):
        assert "Seq Scan" not in {scan["Node Type"] for scan in scans(plan)}
        assert rows_read(plan) <= saga.state.seq
    connection = await asyncpg.connect(database_url, server_settings=PINNED_TO_INDEXES)
    told = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statements._LOAD}", [saga.id])
    await connection.close()
    assert rows_read(json.loads(told)[0]["Plan"]) <= len(STEPS) + 1


async def test_a_page_holds_fifty_and_two_hundred_at_most(api: Client) -> None:
    for query, length in (("", 50), ("?limit=7", 7), ("?limit=200", 200), ("?limit=201", 200), ("?limit=9999", 200)):
        assert len((await api.get(f"/sagas{query}")).json["items"]) == length, query


# --- a reader who pages through all -----------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "&label=channel:web", "&saga=order"], ids=["all", "by label", "by definition"])
async def test_paging_through_all_while_more_arrive_misses_none_and_repeats_none(api: Client, query: str) -> None:
    async def pages(limit: int, arriving: int = 0) -> Counter[str]:
        """Who was seen, nobody twice; with every page, as many more arrive."""
        seen: Counter[str] = Counter()
        cursor = ""
        while cursor is not None:
            page, *answers = await asyncio.gather(
                api.get(f"/sagas?limit={limit}&cursor={cursor}{query}"), *(submit() for _ in range(arriving))
            )
            assert {answer.status for answer in answers} <= {202}
            seen.update(saga["id"] for saga in page.json["items"])
            assert max(seen.values()) == 1
            cursor = page.json["next_cursor"]
        return seen

    async def submit() -> Any:
        nonlocal arrived
        arrived += 1
        body = {"saga": "order", "input": {}, "labels": {"channel": "web"}}
        return await api.post("/sagas", body, Idempotency_Key=f"arrival-{arrived}")

    arrived = 0
    before = set(await pages(200))
    assert len(before) > SAGAS * 0.9
    seen = await pages(200, arriving=ARRIVALS * 200 // len(before) + 1)
    assert arrived >= ARRIVALS
    assert set(seen) >= before
    assert len(await pages(200)) == len(before) + arrived
