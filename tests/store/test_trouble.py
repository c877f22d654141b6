"""What went wrong, in columns of its own: as the documents say, after every transition of random sagas."""

import importlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg
import pytest

from app.house import House
from app.saga import machine
from app.saga.definition import Definition
from app.saga.messages import Message, Transition
from app.saga.state import State
from app.store.listing import Filter
from app.store.sagas import INPUT, NewSaga, Write, early_enough, new_id
from tests.law.build import ID, T0, TIMING
from tests.law.life import Asked
from tests.law.test_random_runs import live

SEED: Final = os.environ.get("SAGA_SEED") or str(random.SystemRandom().randrange(10**9))
SAGAS: Final = 40
FILL: Final = importlib.import_module("migrations.versions.20261126_trouble").FILL
"""Reads the columns from the documents, in SQL."""
COLUMNS: Final = "SELECT id, state, blamed_step, trouble, told FROM saga ORDER BY id"


@pytest.fixture
async def sql(database_url: str) -> Any:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@contextmanager
def overheard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[State, Transition]]]:
    """Every transition that a life makes meanwhile, with the state before it."""
    told: list[tuple[State, Transition]] = []
    step = Asked.step

    def listen(asked: Asked, state: State, message: Message) -> Transition:
        transition = step(asked, state, message)
        if transition.records:
            told.append((state, transition))
        return transition

    with monkeypatch.context() as patched:
        patched.setattr(Asked, "step", listen)
        yield told


async def from_documents(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    """The columns as the migration fills them."""
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("UPDATE saga SET blamed_step = NULL, trouble = NULL, told = NULL")
    await sql.execute(FILL)
    rows: list[asyncpg.Record] = await sql.fetch(COLUMNS)
    await transaction.rollback()
    return rows


def story(number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Definition, list[tuple[State, Transition]]]:
    """A random life's transitions, each from the state that the one before has left."""
    with overheard(monkeypatch) as told:
        life, _ = live(f"{SEED}-{number}")
    state, chain = told[0][0], []
    for before, transition in told:
        if before is state:
            chain.append((before, transition))
            state = transition.state
    return life.definition, chain


@pytest.mark.timeout(120)
async def test_columns_say_what_the_document_says_after_every_transition(
    house: House, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th transitions of all are written, and then compared."""
    chains = {}
    for number in range(SAGAS):
        definition, chain = story(number, monkeypatch)
        version, _ = await house.definitions.register(definition)
        saga_id, first = new_id(await house.database.now()), chain[0][0]
        created = machine.create(definition, T0, saga_id=ID, timing=TIMING).records
        records = [record for record in created if record.seq <= first.seq]  # of one that starts later, fewer
        new = NewSaga(saga_id, "", str(number), b"", definition, version, first, records, {INPUT: b"1"})
        assert await house.sagas.insert(new)
        chains[saga_id] = chain
    met: Counter[str] = Counter()
    for moment in range(max(map(len, chains.values()))):
        for saga_id, chain in chains.items():
            if moment < len(chain):
                saga, (_, transition) = await house.sagas.load(saga_id), chain[moment]
                assert saga is not None
                wake_at = early_enough(saga, transition.state)
                assert await house.sagas.write(Write(saga, transition.state, wake_at, transition.records))
        columns = await sql.fetch(COLUMNS)
        assert columns == await from_documents(sql), f"SAGA_SEED={SEED} repeats it"
        met.update(row["state"] for row in columns if row["told"] is not None)
    assert {"EXECUTING", "COMPENSATING", "FAILED"} <= set(met)
    assert "COMPLETED" not in met

    # Few are counted at once, many state by state: with the same result.
    filters = [Filter(None, text="R"), Filter(None, text="none says this"), Filter(None, key="3")]
    filters += [Filter(None, step=row["blamed_step"], error=row["trouble"]) for row in columns if row["trouble"]]
    at_once = [await house.overview.counts(each) for each in filters]
    monkeypatch.setattr(Filter, "narrow", False)
    assert [await house.overview.counts(each) for each in filters] == at_once
    assert sum(at_once[0].values()) > 0
