"""What the three databases hold: the witness of the demonstration and of the tests.

It opens the files itself and shares no code with the services that it checks.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def ledgers_say(databases: Path, order_id: str) -> dict[str, Any]:
    """`{reserved, charged, order}` of one order: items, cents, and `placed`, `confirmed`, `cancelled` or None."""
    of_order = {"order_id": order_id}
    return {
        "reserved": _ask(
            databases,
            "inventory",
            "SELECT coalesce(sum(quantity), 0) FROM reservations WHERE order_id = :order_id",
            of_order,
        ),
        "charged": _ask(
            databases, "payment", "SELECT coalesce(sum(cents), 0) FROM bookings WHERE order_id = :order_id", of_order
        ),
        "order": _ask(databases, "order", "SELECT max(state) FROM orders WHERE id = :order_id", of_order),
    }


def sums_say(databases: Path) -> dict[str, Any]:
    """`{books, charged, confirmed, placed}`: books in stock, cents of all bookings, orders in these states."""
    count = "SELECT count(*) FROM orders WHERE state = :state"
    return {
        "books": _ask(databases, "inventory", "SELECT quantity FROM stock WHERE sku = 'book'"),
        "charged": _ask(databases, "payment", "SELECT coalesce(sum(cents), 0) FROM bookings"),
        "confirmed": _ask(databases, "order", count, {"state": "confirmed"}),
        "placed": _ask(databases, "order", count, {"state": "placed"}),
    }


def _ask(databases: Path, service: str, question: str, parameters: dict[str, str] | None = None) -> Any:
    with closing(sqlite3.connect(f"file:{databases / service}.sqlite?mode=ro", uri=True)) as database:
        return database.execute(question, parameters or {}).fetchone()[0]
