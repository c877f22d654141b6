"""Takes orders, and confirms what is reserved and paid: where each order begins and ends.

    SAGA_REDIS_URL=redis://... ORDER_DATABASE=sqlite:///order.sqlite uvicorn order:app --port 9003

An order is `placed`, and then `confirmed` or `cancelled`. The runner of inbox and outbox lives in the web server.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import Column, MetaData, Table, Text, create_engine, insert, select, update
from sqlalchemy.orm import Session, sessionmaker

from saga_participant import Refused, tables
from saga_participant.events import Event
from saga_participant.participant import Participant

own = MetaData()
orders = Table("orders", own, Column("id", Text, primary_key=True), Column("state", Text, nullable=False))

engine = create_engine(os.environ["ORDER_DATABASE"])
tables.immediate(engine)  # SQLite only: transactions begin with the write lock
own.create_all(engine)
tables.metadata.create_all(engine)
sessions = sessionmaker(engine)

order = Participant("order", engine, redis_url=os.environ["SAGA_REDIS_URL"], correlation="data.order_id")


# --- what customers ask


class Order(BaseModel):
    order_id: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9-]+$")]
    """The customer's, so that asking again places no second order."""
    sku: str
    quantity: Annotated[int, Field(gt=0)]
    cents: Annotated[int, Field(gt=0)]
    card: str


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with order.running():
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=202)
def place(wanted: Order) -> dict[str, str]:
    with sessions.begin() as session:
        if state_of(session, wanted.order_id) is None:
            session.execute(insert(orders).values(id=wanted.order_id, state="placed"))
            order.publish(session, "OrderPlaced", wanted.model_dump())  # after the commit, or never
    return show(wanted.order_id)


@app.get("/orders/{order_id}")
def show(order_id: str) -> dict[str, str]:
    with sessions.begin() as session:
        state = state_of(session, order_id)
    if state is None:
        raise HTTPException(404, f"there is no order {order_id}")
    return {"order_id": order_id, "state": state}


# --- what other services tell


@order.step(
    "ConfirmOrder",
    trigger="PaymentProcessed",
    succeeded="OrderConfirmed",
    failed="OrderConfirmationFailed",
    compensated="OrderCancelled",
)
def confirm(event: Event, session: Session) -> dict[str, str]:
    if not move(session, event.data["order_id"], "placed", "confirmed"):
        raise Refused("the order was cancelled")  # and so payment and inventory undo what they did
    return {"order_id": event.data["order_id"]}


@confirm.compensation
def cancel(_event: Event, session: Session, done: dict[str, str]) -> None:
    move(session, done["order_id"], "confirmed", "cancelled")


@order.on("InventoryReservationFailed", "PaymentFailed", "InventoryReleased")
def give_up(event: Event, session: Session) -> None:
    """Before it is confirmed there is nothing to compensate, but the customer is told how it ended."""
    move(session, event.data["order_id"], "placed", "cancelled")


def state_of(session: Session, order_id: str) -> str | None:
    return session.execute(select(orders.c.state).where(orders.c.id == order_id)).scalar_one_or_none()


def move(session: Session, order_id: str, before: str, after: str) -> bool:
    """Whether it was in the state `before`."""
    found = update(orders).where(orders.c.id == order_id, orders.c.state == before)
    return session.execute(found.values(state=after)).rowcount == 1
