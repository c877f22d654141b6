"""Sagas in any number and state, written by the store as they would stand after their lives, with whole histories."""

import asyncio
import random
from collections import deque
from collections.abc import Mapping
from typing import Final

from app.house import House
from app.saga import machine
from app.saga.definition import Definition
from app.saga.machine import Timing
from app.saga.messages import Answered, Claim, Outcome, OutcomeKind, RecordType
from app.saga.state import ACTION, COMPENSATION, SECOND, Micros, Operation
from app.store.sagas import INPUT, NewSaga, new_id, output_of

RUNNING: Final = None
"""In place of an outcome: the attempt is still under way."""

Fate = Mapping[tuple[int, Operation], OutcomeKind | None]
"""How the attempts of an operation end, where not with success."""

FATES: Final[tuple[tuple[float, Fate], ...]] = (
    (0.900, {}),
    (0.050, {(2, ACTION): OutcomeKind.REFUSED}),
    (0.030, {(1, ACTION): RUNNING}),
    (0.005, {(2, ACTION): OutcomeKind.REFUSED, (0, COMPENSATION): RUNNING}),
    (0.015, {(2, ACTION): OutcomeKind.REFUSED, (1, COMPENSATION): OutcomeKind.REFUSED}),
)
"""Of a chain of three steps: completed, undone, running, being undone, in need of a person; with their shares."""

CUSTOMERS: Final = 2000
EVERY_SECONDS: Final = 3
BATCH: Final = 500
TIMING: Final = Timing()
GIVEN: Final = b'{"customer":"cust-000042","items":[{"sku":"SKU-12345","qty":2}],"amount":{"value":"149.90"}}'
OUTPUT: Final = b'{"ok":true,"ref":"0123456789abcdef0123456789abcdef"}'


async def insert(house: House, definition: Definition, version: int, count: int, *, seed: int = 1) -> None:
    """One saga every few seconds up to now. The same ones for the same seed, but for their ids and times."""
    chance, now = random.Random(seed), await house.database.now()
    fates = chance.choices([fate for _, fate in FATES], [share for share, _ in FATES], k=count)
    sagas = [
        make(definition, version, f"order-{n:06}", now - (count - n) * EVERY_SECONDS * SECOND, fate, labels(n, chance))
        for n, fate in enumerate(fates)
    ]
    for start in range(0, count, BATCH):
        if not all(await asyncio.gather(*map(house.sagas.insert, sagas[start : start + BATCH]))):
            raise RuntimeError("some of the keys are taken: the database is not fresh")


def labels(n: int, chance: random.Random) -> dict[str, str]:
    """One that few sagas share, one that many do, one that nearly all do, and one of its own."""
    return {
        "customer": f"c-{chance.randrange(CUSTOMERS)}",
        "region": chance.choice(("eu", "us", "asia", "africa")),
        "channel": "phone" if chance.random() < 0.02 else "web",
        "order": str(n),
    }


def make(
    definition: Definition, version: int, key: str, at: Micros, fate: Fate, labels: Mapping[str, str] | None = None
) -> NewSaga:
    """Every attempt is made at `at`, and has ended at once."""
    saga_id = new_id(at)
    told = machine.create(definition, at, saga_id=saga_id, timing=TIMING)
    records, waiting = [*told.records], deque(told.dispatches)
    while waiting:
        due = waiting.popleft()
        kind = fate.get((due.step, due.operation), OutcomeKind.SUCCEEDED)
        claim = Claim(at, due.step, due.operation)
        told = machine.step(definition, told.state, claim, saga_id=saga_id, timing=TIMING)
        records += told.records
        if kind is RUNNING:
            continue
        answer = Answered(at, due.step, due.operation, 1, Outcome(kind, "as it was made", 200, OUTPUT))
        told = machine.step(definition, told.state, answer, saga_id=saga_id, timing=TIMING)
        records += told.records
        waiting += told.dispatches
    done = [
        definition.steps[r.step].name for r in records if r.type is RecordType.STEP_SUCCEEDED and r.step is not None
    ]
    return NewSaga(
        id=saga_id,
        tenant="",
        key=key,
        request_digest=b"made",
        definition=definition,
        version=version,
        state=told.state,
        records=records,
        payloads={INPUT: GIVEN, **{output_of(step): OUTPUT for step in done}},
        labels=labels or {},
    )
