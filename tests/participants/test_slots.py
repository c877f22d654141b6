"""How many calls one worker makes at a time to one service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.participants import registry
from app.participants.registry import Busy, Participants, Slots
from app.saga.service import Service
from app.saga.state import ACTION, COMPENSATION, Operation
from app.settings import Settings


class Shop:
    """Two services; what is under way stays so until it is let go."""

    def __init__(self) -> None:
        self.services = {name: Service(name, url="http://127.0.0.1:9") for name in ("payment", "mail")}
        settings = Settings(worker_slots=8, worker_compensation_slots=4)
        self.participants = Participants(self._service, settings)
        self.inside: list[str] = []
        self.parked: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._gates: dict[str, asyncio.Event] = {}

    async def _service(self, name: str) -> Service | None:
        return self.services.get(name)

    async def begin(self, name: str, operation: Operation = ACTION, service: str = "payment") -> None:
        gate = self._gates[name] = asyncio.Event()

        @contextlib.contextmanager
        def parked() -> Iterator[None]:
            self.parked.append(name)
            try:
                yield
            finally:
                self.parked.remove(name)

        async def hold() -> None:
            async with self.participants.slot(service, operation, parked):
                self.inside.append(name)
                await gate.wait()
                self.inside.remove(name)

        self.tasks[name] = asyncio.create_task(hold())
        await self.settle()

    async def end(self, name: str) -> None:
        self._gates[name].set()
        await self.tasks.pop(name)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    yield shop
    for task in shop.tasks.values():
        task.cancel()
    await asyncio.gather(*shop.tasks.values(), return_exceptions=True)
    await shop.participants.close()


async def test_one_service_may_hold_three_quarters_of_the_slots(shop: Shop) -> None:
    for n in range(8):
        await shop.begin(f"a{n}")
    assert len(shop.inside) == 6
    assert shop.parked == ["a6", "a7"]
    await shop.begin("other", service="mail")
    assert "other" in shop.inside


async def test_what_hangs_does_not_hold_up_what_undoes(shop: Shop) -> None:
    for n in range(8):
        await shop.begin(f"a{n}")
    await shop.begin("undo", COMPENSATION)
    assert "undo" in shop.inside


async def test_compensations_of_one_service_may_hold_three_quarters_of_theirs(shop: Shop) -> None:
    for n in range(4):
        await shop.begin(f"c{n}", COMPENSATION)
    assert shop.inside == ["c0", "c1", "c2"]
    await shop.begin("other", COMPENSATION, service="mail")
    assert "other" in shop.inside


async def test_max_in_flight_is_of_both_and_what_undoes_goes_first(shop: Shop) -> None:
    shop.services["payment"] = Service("payment", url="http://127.0.0.1:9", max_in_flight=1)
    await shop.begin("a0")
    for name, operation in (("a1", ACTION), ("a2", ACTION), ("c1", COMPENSATION), ("c2", COMPENSATION)):
        await shop.begin(name, operation)
    order = ["a0"]
    while shop.inside != ["a2"]:
        await shop.end(shop.inside[0])
        order += shop.inside
        assert len(shop.inside) == 1
    assert order == ["a0", "c1", "c2", "a1", "a2"]


async def test_nobody_overtakes_those_who_wait(shop: Shop) -> None:
    shop.services["payment"] = Service("payment", url="http://127.0.0.1:9", max_in_flight=2)
    for n in range(4):
        await shop.begin(f"a{n}")
    shop._gates["a0"].set()
    shop._gates["a1"].set()
    await shop.begin("late")
    assert shop.inside == ["a2", "a3"]
    assert shop.parked == ["late"]


async def test_a_limit_that_has_been_raised_lets_more_in(shop: Shop) -> None:
    shop.services["payment"] = Service("payment", url="http://127.0.0.1:9", max_in_flight=1)
    await shop.begin("a0")
    await shop.begin("a1")
    assert shop.inside == ["a0"]
    shop.services["payment"] = Service("payment", url="http://127.0.0.1:9", max_in_flight=3)
    await shop.begin("a2")
    assert sorted(shop.inside) == ["a0", "a1", "a2"]


async def test_who_gives_up_waiting_leaves_its_place_to_the_next(shop: Shop) -> None:
    shop.services["payment"] = Service("payment", url="http://127.0.0.1:9", max_in_flight=1)
    for n in range(3):
        await shop.begin(f"a{n}")
    shop.tasks.pop("a1").cancel()
    await shop.settle()
    await shop.end("a0")
    assert shop.inside == ["a2"]
    await shop.end("a2")
    await shop.begin("a3")
    assert shop.inside == ["a3"]


async def test_who_is_cancelled_while_it_is_let_in_gives_the_slot_back(shop: Shop) -> None:
    shop.services["payment"] = Service("payment", url="http://127.0.0.1:9", max_in_flight=1)
    await shop.begin("a0")
    await shop.begin("a1")
    slots = await shop.participants._slots_of("payment", ACTION)
    slots.give_back()  # as if a0 had ended: a1 has the slot, and has not woken up yet
    shop.tasks.pop("a1").cancel()
    await shop.settle()
    assert slots.take()


async def test_more_than_so_many_do_not_wait(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PARKED_AT_MOST", 2)
    for n in range(8):
        await shop.begin(f"a{n}")
    assert len(shop.parked) == 2
    with pytest.raises(Busy):
        async with shop.participants.slot("payment", ACTION):
            pass
    # But those who undo are counted apart, and so is nobody who need not wait.
    await shop.begin("undo", COMPENSATION)
    await shop.begin("other", service="mail")
    assert {"undo", "other"} <= set(shop.inside)


@settings(deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.sampled_from(["come", "come first", "go", "cancel", "more", "less"]), max_size=60),
)
def test_slots_are_never_overdrawn_and_never_lost(limit: int, story: list[str]) -> None:
    async def play() -> None:
        slots = Slots(limit)
        inside: list[asyncio.Event] = []
        tasks: list[asyncio.Task[None]] = []
        most = limit

        async def come(first: bool) -> None:
            if not slots.take():
                await slots.wait(first=first)
            gate = asyncio.Event()
            inside.append(gate)
            try:
                assert len(inside) <= most
                await gate.wait()
            finally:
                inside.remove(gate)
                slots.give_back()

        for word in story:
            match word:
                case "come" | "come first":
                    tasks.append(asyncio.create_task(come(word == "come first")))
                case "go" if inside:
                    inside[0].set()
                case "cancel" if tasks:
                    tasks.pop(len(tasks) // 2).cancel()
                case "more":
                    slots.limit += 1
                    most = max(most, slots.limit)
                case "less":
                    slots.limit = max(slots.limit - 1, 1)
            await asyncio.sleep(0)
        while any(not task.done() for task in tasks):
            for gate in inside:
                gate.set()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        assert slots._taken == 0
        assert not slots._waiting
        assert not slots._first

    asyncio.run(asyncio.wait_for(play(), 10))
