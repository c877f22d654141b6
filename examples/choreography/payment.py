"""Charges cards, and refunds what belongs to an order that fails.

    SAGA_REDIS_URL=redis://... PAYMENT_DATABASE=sqlite:///payment.sqlite saga-participant run payment:payment

The card is an account in the service's own books, so that the charge and its event are one transaction. A provider's
API is nothing that a transaction can take back: see "The barrier" in docs/kit.md, and examples/payment.
"""

import os
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine, insert
from sqlalchemy.orm import Session

from saga_participant import Refused, tables
from saga_participant.events import Event
from saga_participant.participant import Participant

own = MetaData()
bookings = Table(  # a refund is a booking of its own, below zero
    "bookings",
    own,
    Column("id", Integer, primary_key=True),
    Column("order_id", Text, nullable=False),
    Column("card", Text, nullable=False),
    Column("cents", Integer, nullable=False),
)

engine = create_engine(os.environ["PAYMENT_DATABASE"])
tables.immediate(engine)  # SQLite only: transactions begin with the write lock
own.create_all(engine)
tables.metadata.create_all(engine)

payment = Participant("payment", engine, redis_url=os.environ["SAGA_REDIS_URL"], correlation="data.order_id")


@payment.step(
    "ProcessPayment",
    trigger="InventoryReserved",
    succeeded="PaymentProcessed",
    failed="PaymentFailed",
    compensated="PaymentRefunded",
    undone_by=["OrderConfirmationFailed"],
)
def charge(event: Event, session: Session) -> dict[str, Any]:
    booking = {"order_id": event.data["order_id"], "card": event.data["card"], "cents": event.data["cents"]}
    if booking["card"] == "declined":
        raise Refused("the card was declined")
    session.execute(insert(bookings).values(booking))
    return booking


@charge.compensation
def refund(_event: Event, session: Session, done: dict[str, Any]) -> None:
    session.execute(insert(bookings).values(done | {"cents": -done["cents"]}))
