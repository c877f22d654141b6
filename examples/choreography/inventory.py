"""Keeps the stock: reserves what an order wants, and puts it back where the order fails.

SAGA_REDIS_URL=redis://... INVENTORY_DATABASE=sqlite:///inventory.sqlite saga-participant run inventory:inventory
"""

import os
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine, delete, insert, select, update
from sqlalchemy.orm import Session

from saga_participant import Refused, tables
from saga_participant.events import Event
from saga_participant.participant import Participant

OPENING = {"book": 100, "lamp": 3}

own = MetaData()
stock = Table("stock", own, Column("sku", Text, primary_key=True), Column("quantity", Integer, nullable=False))
reservations = Table(
    "reservations",
    own,
    Column("order_id", Text, primary_key=True),
    Column("sku", Text, nullable=False),
    Column("quantity", Integer, nullable=False),
)

engine = create_engine(os.environ["INVENTORY_DATABASE"])
tables.immediate(engine)  # SQLite only: transactions begin with the write lock
own.create_all(engine)
tables.metadata.create_all(engine)
with engine.begin() as connection:
    if connection.execute(select(stock)).first() is None:
        connection.execute(insert(stock), [{"sku": sku, "quantity": quantity} for sku, quantity in OPENING.items()])

inventory = Participant("inventory", engine, redis_url=os.environ["SAGA_REDIS_URL"], correlation="data.order_id")


@inventory.step(
    "ReserveInventory",
    trigger="OrderPlaced",
    succeeded="InventoryReserved",
    failed="InventoryReservationFailed",
    compensated="InventoryReleased",
    undone_by=["PaymentFailed", "OrderConfirmationFailed"],
)
def reserve(event: Event, session: Session) -> dict[str, Any]:
    order_id, sku, quantity = (event.data[name] for name in ("order_id", "sku", "quantity"))
    enough = update(stock).where(stock.c.sku == sku, stock.c.quantity >= quantity)
    if session.execute(enough.values(quantity=stock.c.quantity - quantity)).rowcount != 1:
        raise Refused(f"fewer than {quantity} of {sku} are in stock")
    session.execute(insert(reservations).values(order_id=order_id, sku=sku, quantity=quantity))
    return event.data  # the whole order: payment hears of it from us only


@reserve.compensation
def release(_event: Event, session: Session, done: dict[str, Any]) -> None:
    session.execute(delete(reservations).where(reservations.c.order_id == done["order_id"]))
    back = update(stock).where(stock.c.sku == done["sku"])
    session.execute(back.values(quantity=stock.c.quantity + done["quantity"]))
