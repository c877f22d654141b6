"""Repair by people: what a saga's state allows is told as it is, two who act at once both hear the truth, and a new
input is a new request to the participant.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest

from app.house import House
from app.saga import machine
from app.saga.machine import Timing
from app.saga.messages import (
    Abandon,
    Actor,
    Cancel,
    Extend,
    FromOperator,
    Pause,
    Resolve,
    Resume,
    Retry,
    Skip,
)
from app.saga.state import State
from app.store.sagas import Saga
from tests.api.conftest import ONCE, World
from tests.participant import BUSY, REFUSED, Behaviour, answers, hangs

LATER = {"max_attempts": 2, "initial_delay": "1h", "max_delay": "1h"}
BY = Actor("a test", "a test")


@pytest.fixture
async def orders(world: World) -> World:
    await world.define(
        {"name": "reserve", "compensation_retry": ONCE},
        {"name": "charge", "retry": ONCE, "on_exhausted": "pause"},
        {"name": "mail", "compensation": "none", "retry": LATER},
    )
    await world.define({"name": "pay", "pivot": True}, {"name": "ship", "compensation": "none"}, name="pivotal")
    return world


# --- situations -------------------------------------------------------------------------------------------------


async def begun(world: World) -> str:
    return (await world.submit())["id"]


async def operator_paused(world: World) -> str:
    saga_id = await begun(world)
    assert (await world.act(saga_id, "pause")).status == 200
    return saga_id


async def holding(world: World) -> str:
    saga_id = (await world.submit())["id"]
    world.participant.on("charge", BUSY, saga_id=saga_id)
    assert (await world.run(saga_id))["paused"]
    return saga_id


async def to_be_repeated(world: World) -> str:
    saga_id = (await world.submit())["id"]
    world.participant.on("mail", BUSY, saga_id=saga_id)
    assert (await world.run(saga_id))["steps"][2]["state"] == "RETRYING"
    return saga_id


async def holding_after_a_pivot(world: World) -> str:
    saga_id = (await world.submit("pivotal"))["id"]
    world.participant.on("ship", REFUSED, saga_id=saga_id)
    assert (await world.run(saga_id))["paused"]
    return saga_id


async def compensating(world: World) -> str:
    saga_id = await holding(world)
    assert (await world.act(saga_id, "compensate")).status == 202
    return saga_id


async def stuck(world: World) -> str:
    saga_id = (await world.submit())["id"]
    world.participant.on("charge", REFUSED, saga_id=saga_id)
    world.participant.on("reserve", answers(400), operation="compensation", saga_id=saga_id)
    assert (await world.run(saga_id))["state"] == "COMPENSATION_FAILED"
    return saga_id


async def completed(world: World) -> str:
    saga_id = (await world.submit())["id"]
    assert (await world.run(saga_id))["state"] == "COMPLETED"
    return saga_id


Situation = Callable[[World], Awaitable[str]]
ALLOWED: dict[Situation, str] = {
    begun: "compensate abandon pause extend",
    operator_paused: "compensate abandon resume extend",
    holding: "retry skip compensate abandon pause extend",
    to_be_repeated: "retry skip compensate abandon pause extend",
    holding_after_a_pivot: "retry skip abandon pause extend",
    compensating: "compensate abandon pause",
    stuck: "retry restart resolve abandon",
    completed: "restart",
}
named = pytest.mark.parametrize("situation", ALLOWED, ids=lambda situation: situation.__name__)

BODY: dict[str, dict[str, Any]] = {"skip": {"confirm_not_done": True}, "extend": {"timeout": "7d"}}


# --- what is allowed --------------------------------------------------------------------------------------------


@pytest.mark.slow
@named
async def test_what_is_allowed_is_told_and_is_so(orders: World, situation: Situation) -> None:
    saga_id = await situation(orders)
    told = (await orders.api.get(f"/admin/api/sagas/{saga_id}/actions")).json
    allowed = [action for action, verdict in told.items() if verdict["allowed"]]
    assert allowed == ALLOWED[situation].split()
    for action, verdict in told.items():
        target = await situation(orders) if verdict["allowed"] else saga_id
        more = dict(BODY.get(action, {}))
        if action in {"skip", "resolve"}:
            more["step"] = (verdict["steps"] or ["reserve" if situation is not holding_after_a_pivot else "pay"])[0]
        answer = await orders.act(target, action, **more)
        if verdict["allowed"]:
            assert answer.status in {200, 201, 202}, (action, answer.content)
        else:
            assert (answer.status, answer.code) == (409, verdict["code"]), action
            assert answer.json["allowed"] == allowed, action
            assert verdict["why"]


@named
async def test_a_refused_cancel_says_what_is_allowed(orders: World, situation: Situation) -> None:
    saga_id = await situation(orders)
    answer = await orders.api.post(f"/sagas/{saga_id}/cancel")
    if "compensate" in ALLOWED[situation].split():
        assert answer.status == 202
    else:
        assert (answer.status, answer.json["allowed"]) == (409, ALLOWED[situation].split())


async def test_what_is_allowed_of_nothing_is_404(orders: World) -> None:
    answer = await orders.api.get("/admin/api/sagas/01a20088-707d-7471-80b7-140b7fdea249/actions")
    assert (answer.status, answer.code) == (404, "saga-not-found")


# --- two at once ------------------------------------------------------------------------------------------------


@contextmanager
def both_look_before_either_acts(house: House) -> Iterator[None]:
    """The first two readings of a saga wait for each other, so that both decide on the same state."""
    meeting, left, load = asyncio.Barrier(2), iter(range(2)), house.engine.load

    async def met(saga_id: str, tenant: str | None = None) -> Saga:
        saga = await load(saga_id, tenant)
        if next(left, None) is not None:
            await meeting.wait()
        return saga

    house.engine.load = met
    try:
        yield
    finally:
        house.engine.load = load


def message(action: str, at: int, step: int) -> FromOperator:
    return {
        "retry": lambda: Retry(at, BY),
        "skip": lambda: Skip(at, BY, step, confirm_not_done=True),
        "resolve": lambda: Resolve(at, BY, step),
        "compensate": lambda: Cancel(at, BY),
        "abandon": lambda: Abandon(at, BY),
        "pause": lambda: Pause(at, BY),
        "resume": lambda: Resume(at, BY),
        "extend": lambda: Extend(at, BY, 7 * 86_400),
    }[action]()


def look(state: State) -> Any:
    return state.state, state.pause, [(s.action.state, s.compensation.state) for s in state.steps]


def one_after_the_other(saga: Saga, first: str, second: str, step: int) -> tuple[dict[str, str | None], Any]:
    """By action, the code of its refusal; and the state in which the saga is left."""
    state, codes = saga.state, {}
    for place, action in enumerate((first, second)):
        told = machine.step(
            saga.definition, state, message(action, saga.read_at + place, step), saga_id=saga.id, timing=Timing()
        )
        codes[f"{action} {place if first == second else ''}"] = None if told.refusal is None else told.refusal.code
        state = told.state
    return codes, look(state)


ACTIONS = ("retry", "skip", "resolve", "compensate", "abandon", "pause", "resume", "extend")


@pytest.mark.slow
@pytest.mark.parametrize("situation", [holding, stuck, operator_paused], ids=lambda situation: situation.__name__)
@pytest.mark.parametrize("first", ACTIONS)
async def test_of_two_operators_at_once_one_wins_and_the_other_hears_the_truth(
    orders: World, app_state: Any, situation: Situation, first: str
) -> None:
    """With every other action, and with itself: the answers and the state are those of one order or of the other."""
    step = 1 if situation is holding else 0
    for second in ACTIONS[ACTIONS.index(first) :]:
        saga_id = await situation(orders)
        before = await orders.worker.engine.load(saga_id)
        audited = await audit_lines(orders, saga_id)

        def act(action: str, target: str = saga_id) -> Awaitable[Any]:
            more = dict(BODY.get(action, {}))
            if action in {"skip", "resolve"}:
                more["step"] = before.definition.steps[step].name  # noqa: B023 - used in this turn of the loop
            return orders.act(target, action, **more)

        with both_look_before_either_acts(app_state.house):
            both = await asyncio.gather(act(first), act(second))
        codes = [None if answer.status < 300 else answer.code for answer in both]
        after = look((await orders.worker.engine.load(saga_id)).state)
        there, there_after = one_after_the_other(before, first, second, step)
        back, back_after = one_after_the_other(before, second, first, step)
        orders_of_events = [(list(there.values()), there_after), (list(back.values())[::-1], back_after)]
        assert (codes, after) in orders_of_events, (first, second)
        assert all(answer.status in {200, 202, 409} for answer in both)
        done = codes.count(None)
        assert await audit_lines(orders, saga_id) - audited <= done


@pytest.mark.parametrize("action", ["retry", "discard"])
@pytest.mark.parametrize("situation", [holding, stuck], ids=lambda situation: situation.__name__)
async def test_of_two_who_close_a_letter_at_once_one_hears_that_it_is_closed(
    orders: World, app_state: Any, monkeypatch: pytest.MonkeyPatch, situation: Situation, action: str
) -> None:
    saga_id = await situation(orders)
    (letter,) = (await orders.api.get(f"/admin/api/dead-letters?saga_id={saga_id}&status=open")).json["items"]
    meeting, find = asyncio.Barrier(2), type(app_state.house.letters).get

    async def met(*of: Any) -> Any:
        found = await find(*of)
        await meeting.wait()
        return found

    monkeypatch.setattr(type(app_state.house.letters), "get", met)
    path = f"/admin/api/dead-letters/{letter['id']}/{action}"
    both = await asyncio.gather(*(orders.api.post(path, {"reason": "x"}) for _ in range(2)))
    won, lost = sorted(both, key=lambda answer: answer.status)
    assert (won.status, lost.status) == (200, 409)
    assert lost.code == ("nothing-to-retry" if action == "retry" else "letter-closed")
    assert await audit_lines(orders, saga_id) == 1
    closed = (await orders.api.get(f"/admin/api/dead-letters?saga_id={saga_id}")).json["items"]
    assert [each["status"] for each in closed] == ["retried" if action == "retry" else "discarded"]


async def audit_lines(world: World, saga_id: str) -> int:
    return len((await world.api.get(f"/admin/api/audit?saga_id={saga_id}&limit=200")).json["items"])


# --- with the audit trail or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("action", [*ACTIONS, "restart", "discard", "cancel"])
async def test_what_cannot_be_audited_is_not_done(orders: World, database_url: str, action: str) -> None:
    situations: dict[str, Situation] = {"resume": operator_paused, "restart": stuck, "resolve": stuck}
    saga_id = await situations.get(action, holding)(orders)
    before = await everything(database_url)
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE audit ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
    try:
        if action == "discard":
            (letter,) = (await orders.api.get(f"/admin/api/dead-letters?saga_id={saga_id}")).json["items"]
            answer = await orders.api.post(f"/admin/api/dead-letters/{letter['id']}/discard", {"reason": "x"})
        elif action == "cancel":
            answer = await orders.api.post(f"/sagas/{saga_id}/cancel")
        else:
            step = {"skip": "charge", "resolve": "reserve"}.get(action)
            more = {**BODY.get(action, {}), **({"step": step} if step else {})}
            answer = await orders.act(saga_id, action, **more)
        assert answer.status >= 500
        assert await everything(database_url) == before
    finally:
        await connection.execute("ALTER TABLE audit DROP CONSTRAINT full_disk")
        await connection.close()


async def everything(database_url: str) -> list[Any]:
    connection = await asyncpg.connect(database_url)
    try:
        tables = ("saga", "saga_event", "saga_payload", "dead_letter", "outbox", "audit")
        return [await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
    finally:
        await connection.close()


# --- a new input ------------------------------------------------------------------------------------------------


async def test_a_new_input_and_its_key_reach_the_participant_and_so_does_its_compensation(orders: World) -> None:
    saga_id = await holding(orders)
    world, shop = orders, orders.participant
    shop.on("charge", BUSY, saga_id=saga_id)
    assert (await world.act(saga_id, "retry", input={"amount": 1}, confirm_not_done=True)).status == 200
    assert (await world.run(saga_id))["paused"]
    shop.on("charge", answers(200, {"charge": "the third"}), saga_id=saga_id)
    shop.on("mail", REFUSED, saga_id=saga_id)
    assert (await world.act(saga_id, "retry", input={"amount": 2}, confirm_not_done=True)).status == 200
    saga = await world.run(saga_id)
    assert (saga["state"], saga["steps"][1]["output"]) == ("FAILED", {"charge": "the third"})
    assert [(asked.key, asked.attempt, asked.body["input"]) for asked in shop.requests("charge")] == [
        (f"{saga_id}/charge", 1, {}),
        (f"{saga_id}/charge~1", 2, {"amount": 1}),
        (f"{saga_id}/charge~2", 3, {"amount": 2}),
    ]
    (undo,) = shop.requests("charge", "compensation")
    assert undo.key == f"{saga_id}/charge~2/compensation"
    assert (undo.body["input"], undo.body["output"]) == ({"amount": 2}, {"charge": "the third"})
    (other,) = shop.requests("reserve", "compensation")
    assert other.key == f"{saga_id}/reserve/compensation"


async def test_a_repetition_of_a_new_input_keeps_its_key(orders: World) -> None:
    saga_id = await to_be_repeated(orders)
    orders.participant.on("mail", BUSY, saga_id=saga_id)
    assert (await orders.act(saga_id, "retry", input=None, confirm_not_done=True)).status == 200
    assert (await orders.run(saga_id))["steps"][2]["state"] == "RETRYING"
    assert (await orders.act(saga_id, "retry")).status == 200
    assert (await orders.run(saga_id))["state"] == "COMPLETED"
    sent = [(asked.key.rpartition("/")[2], asked.body["input"]) for asked in orders.participant.requests("mail")]
    assert sent == [("mail", {}), ("mail~1", None), ("mail~1", None)]


async def test_a_certain_refusal_after_a_pivot_takes_a_new_input_without_more_ado(orders: World) -> None:
    saga_id = await holding_after_a_pivot(orders)
    assert (await orders.act(saga_id, "retry", input={"to": "elsewhere"})).status == 200
    assert (await orders.run(saga_id))["state"] == "COMPLETED"
    *_, asked = orders.participant.requests("ship", saga_id=saga_id)
    assert (asked.key, asked.body["input"]) == (f"{saga_id}/ship~1", {"to": "elsewhere"})


async def test_a_retry_gives_a_fresh_budget(orders: World) -> None:
    saga_id = await to_be_repeated(orders)
    for _ in range(3):
        orders.participant.on("mail", BUSY, saga_id=saga_id)
        assert (await orders.act(saga_id, "retry")).status == 200
        saga = await orders.run(saga_id)
        assert saga["steps"][2]["state"] == "RETRYING"
    assert saga["steps"][2]["attempts"] == 4


@pytest.mark.parametrize("action", ["retry", "skip"])
async def test_while_an_attempt_may_still_run_nobody_decides_that_it_has_not(orders: World, action: str) -> None:
    """First it runs; then its connection breaks, and the participant may be at work until its timeout."""
    await orders.define({"name": "charge", "timeout": "1h", "retry": LATER}, name="slow")
    more: dict[str, Any] = {"input": {}} if action == "retry" else {"step": "charge"}
    orders.participant.on("charge", Behaviour(cut=True), hangs())
    for saga_id in [(await orders.ran("slow"))["id"], (await orders.submit("slow"))["id"]]:
        running = asyncio.create_task(orders.run(saga_id))
        await orders.participant.until(lambda saga=saga_id: bool(orders.participant.requests("charge", saga_id=saga)))
        before = (await orders.api.get(f"/sagas/{saga_id}")).json
        answer = await orders.act(saga_id, action, confirm_not_done=True, **more)
        assert (answer.status, answer.code) == (409, "attempt-running")
        told = (await orders.api.get(f"/admin/api/sagas/{saga_id}/actions")).json
        assert told["skip"]["code"] == "attempt-running"
        assert (await orders.api.get(f"/sagas/{saga_id}")).json == before
        running.cancel()
        await asyncio.wait([running])


async def test_a_saga_that_has_moved_on_is_left_alone_by_every_action(orders: World) -> None:
    for situation, action in itertools.product((holding, stuck), (*ACTIONS, "restart")):
        saga_id = await situation(orders)
        before = (await orders.api.get(f"/sagas/{saga_id}")).json
        more = {**BODY.get(action, {}), **({"step": "charge"} if action in {"skip", "resolve"} else {})}
        answer = await orders.api.post(f"/admin/api/sagas/{saga_id}/{action}", {"reason": "x", **more}, If_Match='"1"')
        assert (answer.status, answer.code) == (412, "saga-has-moved")
        assert (await orders.api.get(f"/sagas/{saga_id}")).json == before


async def test_bulk_retries_what_can_be_and_names_what_cannot(orders: World) -> None:
    first, second, begun_id = await holding(orders), await stuck(orders), await begun(orders)
    answer = await orders.api.post("/admin/api/bulk", {"action": "retry", "filter": {}, "reason": "x", "limit": 10})
    failed = [{"id": begun_id, "code": "nothing-to-retry"}]
    assert answer.json == {"matched": 3, "done": 2, "remaining": 1, "failed": failed}
    assert (await orders.run(first))["state"] == "COMPLETED"
    assert (await orders.run(second))["state"] == "FAILED"
