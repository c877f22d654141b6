"""What the barrier costs a participant: `make bench`, or `python -m benchmarks.barrier --help`. Prints JSON lines.

A FastAPI endpoint inserts one row in a transaction and answers, once with the barrier and once without, on PostgreSQL
and on SQLite, in turns within one run. It is called in the process, without a socket, one request after another: so
the figure is all that the barrier adds, its two statements and their JSON. `durable: false` (the default) leaves out
what the disk takes, which is the same for both: one commit.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from sqlalchemy import Column, MetaData, Table, Text, create_engine, insert
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from app.local.postgres import EmbeddedPostgres
from saga_participant.barrier import Barrier
from saga_participant.fastapi import steps
from saga_participant.store import Store
from saga_participant.tables import immediate, metadata

own = MetaData()
reservations = Table("reservation", own, Column("id", Text, primary_key=True), Column("sku", Text))
ANSWER = {"sku": "book", "reserved": 2}


def with_async(app: FastAPI, engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine)

    @app.post("/with")
    async def _(step: Annotated[Barrier, steps(sessions)]) -> Any:
        if step.due:
            await step.session.execute(insert(reservations).values(id=step.call.saga_id, sku="book"))
            step.answer = ANSWER
        return step.answer

    @app.post("/without")
    async def _(request: Request) -> Any:
        called = json.loads(await request.body())
        async with sessions.begin() as session:
            await session.execute(insert(reservations).values(id=called["saga_id"], sku="book"))
        return ANSWER


def with_threads(app: FastAPI, engine: Any) -> None:
    sessions = sessionmaker(engine)

    @app.post("/with")
    def _(step: Annotated[Barrier, steps(sessions)]) -> Any:
        if step.due:
            step.session.execute(insert(reservations).values(id=step.call.saga_id, sku="book"))
            step.answer = ANSWER
        return step.answer

    @app.post("/without")
    def _(called: dict[str, Any]) -> Any:
        with sessions.begin() as session:
            session.execute(insert(reservations).values(id=called["saga_id"], sku="book"))
        return ANSWER


async def call(app: FastAPI, path: str, saga_id: str) -> float:
    """Seconds."""
    body = {"saga_id": saga_id, "saga": "order", "step": "reserve", "operation": "action", "attempt": 1, "input": {}}
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"idempotency-key", f"{saga_id}/reserve".encode())]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "root_path": ""}
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    began = time.perf_counter()
    await app(scope, receive, send)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    if said[0]["status"] != 200:
        raise RuntimeError(said)
    return seconds


async def measure(database: str, app: FastAPI, requests: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"with": [], "without": [], "repeated": []}
    for number in range(requests + requests // 10):
        saga_id = str(uuid.uuid4())
        turn = {
            "without": await call(app, "/without", f"{saga_id}-"),
            "with": await call(app, "/with", saga_id),
            "repeated": await call(app, "/with", saga_id),
        }
        if number >= requests // 10:  # the first are to warm up
            for name, took in turn.items():
                seconds[name].append(took)
    medians = {name: statistics.median(found) * 1000 for name, found in seconds.items()}
    return {
        "benchmark": "barrier",
        "database": database,
        "without_p50_ms": round(medians["without"], 3),
        "with_p50_ms": round(medians["with"], 3),
        "repeated_p50_ms": round(medians["repeated"], 3),
        "overhead_ms": round(medians["with"] - medians["without"], 3),
        "overhead_percent": round((medians["with"] / medians["without"] - 1) * 100, 1),
        "requests": requests,
        "durable": False,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


async def one(database: str, engine: Any, add: Callable[[FastAPI, Any], None], requests: int) -> None:
    def make(session: Any) -> None:
        own.create_all(session.connection())
        metadata.create_all(session.connection())

    immediate(engine)
    await Store(engine).run(make)
    app = FastAPI()
    add(app, engine)
    print(json.dumps(await measure(database, app, requests)), flush=True)
    ended: Awaitable[None] | None = engine.dispose()
    if ended is not None:
        await ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, help="of each kind, on each database")
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory(prefix="saga-bench-") as directory:
        with EmbeddedPostgres(Path(directory) / "postgres", durable=False) as postgres:
            url = postgres.create_database("service", None).replace("postgresql://", "postgresql+asyncpg://")
            asyncio.run(one("postgresql", create_async_engine(url), with_async, requests))
        engine = create_engine(f"sqlite:///{directory}/service.sqlite")
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        asyncio.run(one("sqlite", engine, with_threads, requests))


if __name__ == "__main__":
    main()
