"""What people ask of 10,000 sagas: `make bench`, or `python -m benchmarks.listing --help`. Prints JSON lines.

The sagas are written by the store into a fresh embedded PostgreSQL (`benchmarks.many`); a client asks `saga api` over
HTTP, one request after another. The first line is of a table that PostgreSQL has no statistics of yet, as just after a
first burst of work; the second of one that has been analysed, as autovacuum does within ten seconds under `saga up`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from app.house import open_house
from app.local.postgres import EmbeddedPostgres
from app.local.valkey import EmbeddedValkey
from app.parts import migrate
from app.saga.definition import parse_definition
from app.settings import Settings
from benchmarks import many
from benchmarks.order import definition, free_port, wait_until_ready

KEY = "bench.key"
PASSWORD = "of a benchmark"


@contextlib.contextmanager
def api() -> Iterator[tuple[str, Settings]]:
    """`saga api` on fresh servers, and no worker: what is under way stays so."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="saga-bench-") as data,
        EmbeddedPostgres(Path(data).resolve() / "postgres") as postgres,
        EmbeddedValkey(Path(data).resolve() / "valkey") as valkey,
    ):
        settings = Settings(database_url=postgres.url, redis_url=valkey.url)
        migrate(settings)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SAGA_")} | {
            "SAGA_DATABASE_URL": postgres.url,
            "SAGA_REDIS_URL": valkey.url,
            "SAGA_BOOTSTRAP_API_KEY": KEY,
            "SAGA_SECRET_KEY": "of a benchmark",
            "SAGA_ADMIN_PASSWORD": PASSWORD,
        }
        process = subprocess.Popen([sys.executable, "-m", "app.cli", "api", "--port", str(port)], env=environment)
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}", settings
        finally:
            process.terminate()
            process.wait(30)


def questions(middle: dict[str, Any], deep: str) -> dict[str, str]:
    """By name, the path of each."""
    return {
        "first_page": "/sagas",
        "deep_page": f"/sagas?cursor={deep}",
        "label_of_few": f"/sagas?label=customer:{middle['labels']['customer']}",
        "label_of_many": "/sagas?label=region:eu",
        "two_labels": "/sagas?label=region:eu&label=channel:phone",
        "state": "/sagas?state=COMPENSATING",
        "states": "/sagas?state=CREATED,EXECUTING,COMPENSATING",
        "definition": "/sagas?saga=order",
        "key": f"/sagas?key={middle['idempotency_key']}",
        "attention": "/sagas?attention=true",
        "payloads": "/sagas?payloads=true",
        "detail": f"/sagas/{middle['id']}",
        "events": f"/sagas/{middle['id']}/events",
    }


async def measure(session: aiohttp.ClientSession, path: str, times: int) -> dict[str, float]:
    taken = []
    for _ in range(times + 10):
        started = time.perf_counter()
        async with session.get(path) as response:
            await response.read()
            response.raise_for_status()
        taken.append((time.perf_counter() - started) * 1000)
    cuts = statistics.quantiles(taken[10:], n=100)
    return {"p50_ms": round(cuts[49], 2), "p95_ms": round(cuts[94], 2)}


async def page_to(session: aiohttp.ClientSession, count: int) -> tuple[dict[str, Any], str]:
    """The saga at that place of the list, and a cursor beside it."""
    cursor = ""
    for _ in range(0, count, 200):
        async with session.get(f"/sagas?limit=200&cursor={cursor}") as response:
            page = await response.json()
        cursor = page["next_cursor"]
    return page["items"][-1], cursor


async def execute(settings: Settings, statement: str) -> None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def run(url: str, settings: Settings, args: argparse.Namespace) -> None:
    await execute(settings, "ALTER TABLE saga SET (autovacuum_enabled = off)")
    async with open_house(settings) as house:
        made = parse_definition(json.loads(definition("order")), None)
        version, _ = await house.definitions.register(made)
        await many.insert(house, made, version, args.sagas)
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {KEY}"}) as session:
        middle, deep = await page_to(session, args.sagas // 2)
        for analysed in (False, True):
            if analysed:
                await execute(settings, "ANALYZE")
            asked = questions(middle, deep)
            found = {name: await measure(session, path, args.times) for name, path in asked.items()}
            line = {"benchmark": "listing", "sagas": args.sagas, "analysed": analysed, **found}
            print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sagas", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=100, help="each question")
    args = parser.parse_args()
    with api() as (url, settings):
        asyncio.run(run(url, settings, args))


if __name__ == "__main__":
    main()
