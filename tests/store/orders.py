"""Sagas of one small definition, and the transitions that move them."""

from collections.abc import Mapping
from typing import Any

from app.house import House
from app.saga import machine
from app.saga.definition import Definition, parse_definition
from app.saga.machine import Timing
from app.saga.messages import Answered, Claim, Message, Outcome, OutcomeKind, Transition
from app.saga.state import ACTION
from app.store.sagas import INPUT, NewSaga, Saga, Write, early_enough, new_id

TIMING = Timing(lease_grace_seconds=5, redispatch_after_seconds=10)


def definition(name: str = "order", parallel: bool = False, **more: Any) -> Definition:
    depends: Mapping[str, Any] = {"depends_on": []} if parallel else {}
    steps = [
        {"name": step, "service": "shop", "action": step, "compensation": f"undo-{step}", **depends, **more}
        for step in ("reserve", "charge")
    ]
    return parse_definition({"name": name, "steps": steps}, None)


class Orders:
    def __init__(self, house: House, definition: Definition, version: int) -> None:
        self.house, self.definition, self.version = house, definition, version

    @classmethod
    async def of(cls, house: House, **definition_options: Any) -> "Orders":
        made = definition(**definition_options)
        version, _ = await house.definitions.register(made)
        return cls(house, made, version)

    async def new(self, key: str, **more: Any) -> NewSaga:
        at = await self.house.database.now()
        saga_id = new_id(at)
        created = machine.create(self.definition, at, saga_id=saga_id, timing=TIMING)
        values: dict[str, Any] = {
            "id": saga_id,
            "tenant": "",
            "key": key,
            "request_digest": b"digest",
            "definition": self.definition,
            "version": self.version,
            "state": created.state,
            "records": created.records,
            "payloads": {INPUT: b'{"sku": 1}'},
        }
        return NewSaga(**{**values, **more})

    async def insert(self, key: str, **more: Any) -> Saga:
        new = await self.new(key, **more)
        assert await self.house.sagas.insert(new)
        return await self.load(new.id)

    async def load(self, saga_id: str) -> Saga:
        saga = await self.house.sagas.load(saga_id)
        assert saga is not None
        return saga


def step(saga: Saga, message: Message) -> Transition:
    return machine.step(saga.definition, saga.state, message, saga_id=saga.id, timing=TIMING)


def write(saga: Saga, transition: Transition, payloads: Mapping[str, bytes] | None = None) -> Write:
    return Write(
        saga,
        transition.state,
        early_enough(saga, transition.state),
        transition.records,
        payloads or {},
        transition.dead_letters,
        transition.closed_letters,
    )


def claim(saga: Saga, position: int = 0) -> Write:
    return write(saga, step(saga, Claim(saga.read_at, position, ACTION)))


def answer(saga: Saga, position: int = 0, kind: OutcomeKind = OutcomeKind.SUCCEEDED) -> Write:
    number = saga.state.steps[position].action.attempts
    outcome = Outcome(kind, "told by a test", 200, b'{"done": true}')
    transition = step(saga, Answered(saga.read_at, position, ACTION, number, outcome))
    name = saga.definition.steps[position].name
    return write(saga, transition, {f"output/{name}": outcome.output} if kind is OutcomeKind.SUCCEEDED else {})
