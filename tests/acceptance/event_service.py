"""One service of the choreographed order, with the kit: `python -m tests.acceptance.event_service NAME DATABASE REDIS`.

What it has done stands in its table `ledger`, written in the transaction of the effect.
"""

import asyncio
import logging
import sys
from dataclasses import dataclass

from sqlalchemy import Column, Integer, MetaData, Table, Text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import create_async_engine

from saga_participant import Refused
from saga_participant.participant import Participant
from saga_participant.tables import metadata as kit

metadata = MetaData()
ledger = Table(
    "ledger",
    metadata,
    Column("order_id", Text, primary_key=True),
    Column("done", Integer, nullable=False, server_default="0"),
    Column("undone", Integer, nullable=False, server_default="0"),
)


@dataclass(frozen=True)
class Line:
    """A line of the definition, and the orders that the service refuses: every so many, the first of them so."""

    step: str
    trigger: str
    succeeded: str
    failed: str
    compensated: str
    undone_by: tuple[str, ...]
    refuses: tuple[int, int]

    def definition(self, service: str) -> dict[str, str]:
        names = ("trigger", "succeeded", "failed", "compensated")
        return {"name": self.step, "service": service, **{name: getattr(self, name) for name in names}}


SERVICES = {
    "inventory": Line(
        "ReserveInventory",
        "OrderPlaced",
        "InventoryReserved",
        "InventoryReservationFailed",
        "InventoryReleased",
        ("PaymentFailed", "OrderConfirmationFailed"),
        (11, 3),
    ),
    "payment": Line(
        "ProcessPayment",
        "InventoryReserved",
        "PaymentProcessed",
        "PaymentFailed",
        "PaymentRefunded",
        ("OrderConfirmationFailed",),
        (7, 2),
    ),
    "order": Line(
        "ConfirmOrder", "PaymentProcessed", "OrderConfirmed", "OrderConfirmationFailed", "OrderCancelled", (), (5, 4)
    ),
}


def refuses(service: str, order: int) -> bool:
    every, first = SERVICES[service].refuses
    return order % every == first


def url_of(database: str) -> str:
    return database.replace("postgresql://", "postgresql+asyncpg://", 1)


async def make_tables(database: str) -> None:
    engine = create_async_engine(url_of(database))
    async with engine.begin() as connection:
        await connection.run_sync(kit.create_all)
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


async def main(name: str, database: str, redis_url: str) -> None:
    line, engine = SERVICES[name], create_async_engine(url_of(database), pool_size=4, max_overflow=0)
    service = Participant(name, engine, redis_url=redis_url, correlation="data.order_id", attempts=1000)

    @service.step(
        line.step,
        trigger=line.trigger,
        succeeded=line.succeeded,
        failed=line.failed,
        compensated=line.compensated,
        undone_by=line.undone_by,
    )
    async def act(event, session):
        order = event.data["order_id"]
        if refuses(name, int(order)):
            raise Refused(f"{name} refuses order {order}")
        done = insert(ledger).values(order_id=order, done=1)
        await session.execute(done.on_conflict_do_update(index_elements=["order_id"], set_={"done": ledger.c.done + 1}))
        return {"by": name}

    @act.compensation
    async def undo(event, session, _done):
        mine = ledger.c.order_id == service.correlation_of(event)
        await session.execute(update(ledger).where(mine).values(undone=ledger.c.undone + 1))

    await service.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(*sys.argv[1:4]))
