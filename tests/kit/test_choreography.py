"""Three services and a stream, no orchestrator: whatever is doubled, late or lost, an order is done or undone.

The services are those of the contract, section 9. Each has a database of its own; a dice throws what happens next.
"""

import random

import pytest
import redis
from sqlalchemy import create_engine, insert, select, update
from sqlalchemy.pool import NullPool

from saga_participant import Refused
from saga_participant.events import COMPENSATION_REQUESTED, FIELD, STREAM, Event
from saga_participant.participant import Participant
from saga_participant.store import Store
from saga_participant.tables import inbox
from tests.kit.conftest import effects, make_tables

STEPS = [
    ("inventory", "ReserveInventory", "OrderPlaced", "InventoryReserved", "InventoryReservationFailed",
     "InventoryReleased", ["PaymentFailed", "OrderConfirmationFailed"]),
    ("payment", "ProcessPayment", "InventoryReserved", "PaymentProcessed", "PaymentFailed", "PaymentRefunded",
     ["OrderConfirmationFailed"]),
    ("order", "ConfirmOrder", "PaymentProcessed", "OrderConfirmed", "OrderConfirmationFailed", "OrderCancelled", []),
]  # fmt: skip
ORDERS = [f"order-{number}" for number in range(4)]


class Service:
    def __init__(self, line, directory, redis_url, dice):
        name, step, trigger, succeeded, failed, compensated, undone_by = line
        self.dice, self.step, self.refuses, self.breaks = dice, step, set(), True
        self.engine = create_engine(f"sqlite:///{directory}/{name}.sqlite", poolclass=NullPool)
        self.store = Store(self.engine)
        self.participant = Participant(
            name, self.engine, redis_url=redis_url, correlation="data.order_id", attempts=1000
        )
        declared = {"trigger": trigger, "succeeded": succeeded, "failed": failed}
        self.participant.step(step, **declared, compensated=compensated, undone_by=undone_by)(self.act).compensation(
            self.undo
        )

    def act(self, event, session):
        session.execute(insert(effects).values(saga_id=event.data["order_id"], what="action"))
        if event.data["order_id"] in self.refuses:
            raise Refused("no")
        if self.breaks and self.dice.random() < 0.2:
            raise RuntimeError("the dice")

    def undo(self, event, session, _done):
        session.execute(insert(effects).values(saga_id=self.participant.correlation_of(event), what="compensation"))
        if self.breaks and self.dice.random() < 0.2:
            raise RuntimeError("the dice")

    async def turn(self):
        now = update(inbox).where(inbox.c.state == "waiting").values(due_at=0)
        await self.store.run(lambda session: session.execute(now))
        await self.participant.settle()

    async def effects(self, order):
        found = select(effects.c.what).where(effects.c.saga_id == order).order_by(effects.c.id)
        return await self.store.run(lambda session: session.execute(found).scalars().all())


@pytest.mark.parametrize("seed", range(4))
async def test_every_order_is_done_or_undone_in_every_service(tmp_path, redis_url, seed):
    dice = random.Random(seed)
    services = [Service(line, tmp_path, redis_url, dice) for line in STEPS]
    for service in services:
        await service.store.run(make_tables)
    fails = {order: dice.choice([None, *services]) for order in ORDERS}
    for order, service in fails.items():
        if service is not None:
            service.refuses.add(order)
    placed = [Event("OrderPlaced", "shop", {"order_id": order}).to_json() for order in ORDERS]
    with redis.Redis.from_url(redis_url) as stream:

        def place():
            for event in placed:
                stream.xadd(STREAM, {FIELD: event})

        def double():
            for _, fields in dice.sample(stream.xrange(STREAM), stream.xlen(STREAM) // 2):
                stream.xadd(STREAM, fields)

        def lose():
            stream.flushall()
            place()

        place()
        for _ in range(25):
            await dice.choice(services).turn()
            dice.choice([double, lose, *[lambda: None] * 6])()
        for service in services:
            service.breaks = False
        for _ in range(6):
            for service in services:
                await service.turn()
        for order in ORDERS:
            await held_to(order, services, services.index(fails[order]) if fails[order] else None)

        # The orchestrator asks for everything to be undone, twice and in any order: it is, once.
        asked = [(order, service.step) for order in ORDERS for service in services] * 2
        dice.shuffle(asked)
        for order, step in asked:
            data = {"saga": "order-events", "step": step, "correlation": order, "reason": "a test"}
            stream.xadd(STREAM, {FIELD: Event(COMPENSATION_REQUESTED, "saga-orchestrator", data).to_json()})
        for service in services:
            await service.turn()
            for order in ORDERS:
                assert await service.effects(order) in ([], ["action", "compensation"])
    for service in services:
        assert await service.participant.dead_letters() == []
        service.engine.dispose()


async def held_to(order, services, failed):
    """Done everywhere; or undone before the service that refused, and never begun from there on."""
    for number, service in enumerate(services):
        wanted = ["action"] if failed is None else ["action", "compensation"] if number < failed else []
        assert await service.effects(order) == wanted, (order, service.step)
