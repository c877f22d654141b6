"""The books: what is owed to each merchant, in a PostgreSQL table.

A transfer names the account that it takes from and the account that it gives to, so the books balance by
construction. Nothing is ever deleted: undoing books a reversal. `async` functions, run in the worker's loop.

The idempotency key is the transfer's primary key. An advisory lock on it has equal calls, and a compensation
that meets its own action, wait for each other, so that whoever comes second sees what the first has done.

`python ledger.py` makes the database, if it does not exist, and its tables.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from saga_participant import Call, Refused, handler

LEDGER_URL = os.environ.get("PAYMENT_LEDGER_URL", "postgresql://127.0.0.1:5432/ledger")

SCHEMA = """
CREATE TABLE IF NOT EXISTS account (
    name text PRIMARY KEY,
    open boolean NOT NULL DEFAULT true
);
CREATE TABLE IF NOT EXISTS transfer (
    key         text PRIMARY KEY,
    saga_id     text NOT NULL,
    taken_from  text NOT NULL REFERENCES account,
    given_to    text NOT NULL REFERENCES account CHECK (given_to <> taken_from),
    amount      bigint NOT NULL CHECK (amount > 0),
    currency    text NOT NULL,
    reverses    text UNIQUE REFERENCES transfer,
    booked_at   timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS called_off (
    key         text PRIMARY KEY                 -- undone before it was ever booked
);
INSERT INTO account VALUES ('card-payments', true), ('bookshop', true), ('closed-shop', false)
ON CONFLICT DO NOTHING;
"""


@handler("book")
async def book(call: Call) -> dict[str, Any]:
    key, merchant = call.idempotency_key, call.input["merchant"]
    async with books(call, key) as db:
        if await db.fetchval(
            "SELECT EXISTS (SELECT FROM called_off WHERE key = $1)"
            " OR EXISTS (SELECT FROM transfer WHERE reverses = $1)",
            key,
        ):
            raise Refused("this booking was called off already")
        if not await db.fetchval("SELECT EXISTS (SELECT FROM transfer WHERE key = $1)", key):
            if not await db.fetchval("SELECT open FROM account WHERE name = $1", merchant):
                raise Refused(f"the account of {merchant} is closed")
            await db.execute(
                "INSERT INTO transfer (key, saga_id, taken_from, given_to, amount, currency)"
                " VALUES ($1, $2, 'card-payments', $3, $4, $5)",
                key,
                call.saga_id,
                merchant,
                call.input["amount"],
                call.input["currency"],
            )
    return {"transfer": key}


@handler("reverse")
async def reverse(call: Call) -> dict[str, Any]:
    booking = call.idempotency_key.removesuffix("/compensation")
    async with books(call, booking) as db:
        booked = await db.fetchval("SELECT EXISTS (SELECT FROM transfer WHERE key = $1)", booking)
        if booked:
            await db.execute(
                "INSERT INTO transfer (key, saga_id, taken_from, given_to, amount, currency, reverses)"
                " SELECT $1, saga_id, given_to, taken_from, amount, currency, key FROM transfer WHERE key = $2"
                " ON CONFLICT DO NOTHING",
                call.idempotency_key,
                booking,
            )
        else:
            await db.execute("INSERT INTO called_off VALUES ($1) ON CONFLICT DO NOTHING", booking)
    return {"reversed": booking if booked else None}


@asynccontextmanager
async def books(call: Call, key: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that has the key for itself, and commits only before the call's deadline.

    Each call connects anew, which costs milliseconds and keeps the example short. A service would keep a pool.
    """
    db = await asyncpg.connect(LEDGER_URL, timeout=left_seconds(call), command_timeout=left_seconds(call))
    try:
        async with db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", key)
            yield db
            left_seconds(call)
    finally:
        await db.close()


def left_seconds(call: Call) -> float:
    left = (call.deadline - datetime.now(UTC)).total_seconds()
    if left <= 0:
        raise TimeoutError("the deadline has passed; nothing was booked")
    return left


async def prepare(url: str) -> None:
    """Makes the database and its tables where they are missing."""
    name = urlsplit(url).path.lstrip("/")
    server = await asyncpg.connect(urlunsplit(urlsplit(url)._replace(path="/postgres")))
    try:
        if not await server.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            await server.execute(f'CREATE DATABASE "{name}"')
    finally:
        await server.close()
    db = await asyncpg.connect(url)
    try:
        await db.execute(SCHEMA)
    finally:
        await db.close()


if __name__ == "__main__":
    asyncio.run(prepare(LEDGER_URL))
