"""Batches that make themselves."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import DatabaseUnavailable
from app.store.coalesce import Coalescer


@dataclass
class Table:
    """What batches are executed on; it takes a while."""

    batches: list[list[str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    gate: asyncio.Event | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def execute(self, items: Sequence[str]) -> list[str]:
        self.batches.append(list(items))
        self.begun.set()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
            if any("away" in item for item in items):
                raise DatabaseUnavailable(OSError("gone"))
            if any("bad" in item for item in items):
                raise ValueError("a bad item")
            return [item.upper() for item in items]
        finally:
            self.at_once -= 1


async def test_a_lone_caller_waits_for_nobody() -> None:
    table = Table()
    assert await Coalescer(table.execute)("a") == "A"
    assert table.batches == [["a"]]


async def test_what_gathers_while_one_is_under_way_goes_together() -> None:
    table = Table(gate=asyncio.Event())
    call = Coalescer(table.execute)
    first = asyncio.create_task(call("a"))
    await table.begun.wait()
    rest = [asyncio.create_task(call(letter)) for letter in "bcd"]
    await asyncio.sleep(0)
    table.gate.set()
    assert await asyncio.gather(first, *rest) == ["A", "B", "C", "D"]
    assert table.batches == [["a"], ["b", "c", "d"]]


async def test_those_whom_one_batch_woke_go_into_the_next_together() -> None:
    table = Table()
    call = Coalescer(table.execute)

    async def two_in_a_row(name: str) -> None:
        await call(name)
        await call(f"{name} again")

    await asyncio.gather(*map(two_in_a_row, "abc"))
    assert [len(batch) for batch in table.batches] == [3, 3]


async def test_no_batch_is_longer_than_the_limit() -> None:
    table = Table()
    call = Coalescer(table.execute, limit=4)
    assert await asyncio.gather(*map(call, "abcdefghij")) == list("ABCDEFGHIJ")
    assert max(map(len, table.batches)) == 4


async def test_one_bad_item_fails_alone() -> None:
    table = Table()
    call = Coalescer(table.execute)
    results = await asyncio.gather(*map(call, ("a", "bad", "c")), return_exceptions=True)
    assert results[0] == "A"
    assert isinstance(results[1], ValueError)
    assert results[2] == "C"
    assert table.batches == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]


async def test_when_the_database_is_away_nothing_is_tried_again() -> None:
    """Whether it was committed is not known, and each would wait as long as the first."""
    table = Table()
    call = Coalescer(table.execute)
    results = await asyncio.gather(*map(call, ("a", "away", "c")), return_exceptions=True)
    assert all(isinstance(result, DatabaseUnavailable) for result in results)
    assert len(table.batches) == 1
    assert await call("d") == "D"


async def test_two_of_one_kind_are_never_in_one_batch_and_keep_their_order() -> None:
    table = Table()
    call = Coalescer(table.execute, unique=lambda item: item[0])
    await asyncio.gather(*map(call, ("a1", "b1", "a2", "a3", "b2")))
    assert table.batches == [["a1", "b1"], ["a2", "b2"], ["a3"]]


async def test_what_nobody_waits_for_any_more_is_not_executed() -> None:
    table = Table(gate=asyncio.Event())
    call = Coalescer(table.execute)
    tasks = [asyncio.create_task(call("a"))]
    await table.begun.wait()
    tasks += [asyncio.create_task(call(letter)) for letter in "bc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    table.gate.set()
    assert await tasks[2] == "C"
    assert table.batches == [["a"], ["c"]]


async def test_a_caller_that_goes_away_does_not_end_the_batch_of_the_others() -> None:
    table = Table(gate=asyncio.Event())
    call = Coalescer(table.execute)
    gone, stays = asyncio.create_task(call("a")), asyncio.create_task(call("b"))
    await table.begun.wait()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    table.gate.set()
    assert await stays == "B"


WORDS = st.sampled_from(["a", "b", "c", "bad", "away"])


@settings(deadline=None)
@given(
    story=st.lists(st.tuples(WORDS, st.integers(0, 3), st.booleans()), max_size=40),
    limit=st.integers(1, 5),
    unique=st.booleans(),
)
def test_everybody_gets_its_own_result(story: list[tuple[str, int, bool]], limit: int, unique: bool) -> None:
    """Callers come at any time, some go away; one batch at a time; each item is executed as often as it must."""

    async def play() -> None:
        table = Table()
        call = Coalescer(table.execute, limit=limit, unique=(lambda item: item[0]) if unique else None)
        tasks: list[tuple[str, bool, asyncio.Task[str]]] = []
        for number, (word, pauses, goes_away) in enumerate(story):
            name = f"{word}{number}"
            tasks.append((name, goes_away, asyncio.create_task(call(name))))
            for _ in range(pauses):
                await asyncio.sleep(0)
            if goes_away:
                tasks[-1][2].cancel()
        results = await asyncio.gather(*(task for _, _, task in tasks), return_exceptions=True)
        assert table.most_at_once <= 1
        for batch in table.batches:
            assert len(batch) <= limit
            assert not unique or len({item[0] for item in batch}) == len(batch)
        for (name, goes_away, _), result in zip(tasks, results, strict=True):
            times = sum(name in batch for batch in table.batches)
            if isinstance(result, asyncio.CancelledError):
                assert goes_away
                continue
            assert 1 <= times <= 2
            if isinstance(result, DatabaseUnavailable):
                assert any("away" in item for batch in table.batches if name in batch for item in batch)
            elif isinstance(result, ValueError):
                assert "bad" in name
            else:
                assert result == name.upper()
                assert "bad" not in name
                assert "away" not in name

    asyncio.run(asyncio.wait_for(play(), 10))
