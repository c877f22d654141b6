"""What the check of a key costs a submit: `make bench`, or `python -m benchmarks.access --help`. Prints a JSON line.

A client posts sagas to `saga api`, in turns with a stored key and with the bootstrap key, whose check is one comparison
with what the process has at hand; the medians of the pairs are compared. Beside that the whole check of a stored key
(`Keys.find`) is timed by itself, in this process, against the same database: what it adds to a submit that would not
check at all.
"""

import argparse
import asyncio
import json
import statistics
import time

import aiohttp

from app.house import open_house
from app.keys import Keys
from app.saga.definition import parse_definition
from app.settings import Settings
from benchmarks.listing import KEY, api
from benchmarks.order import INPUT, definition

BLOCK = 100


async def post(session: aiohttp.ClientSession, key: str, name: str) -> float:
    """Milliseconds."""
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": name}
    started = time.perf_counter()
    async with session.post("/sagas", json={"saga": "order", "input": INPUT}, headers=headers) as response:
        await response.read()
        response.raise_for_status()
    return (time.perf_counter() - started) * 1000


async def run(url: str, settings: Settings, pairs: int) -> None:
    async with open_house(settings) as house, aiohttp.ClientSession(url) as session:
        await house.definitions.register(parse_definition(json.loads(definition("order")), None))
        asked = {"scopes": ["start"]}
        async with session.post("/admin/api/keys", json=asked, headers={"Authorization": f"Bearer {KEY}"}) as made:
            stored = (await made.json())["key"]
        taken: dict[str, list[float]] = {"stored": [], "bootstrap": []}
        for pair in range(-1, pairs):
            order = ("stored", "bootstrap") if pair % 2 else ("bootstrap", "stored")
            for name in order:
                key = stored if name == "stored" else KEY
                block = [await post(session, key, f"{name}-{pair}-{n}") for n in range(BLOCK)]
                if pair >= 0:  # the first pair warms up
                    taken[name].append(statistics.median(block))
        keys = Keys(settings, house.api_keys)
        await keys.find(stored, None)
        started, times = time.perf_counter(), 20_000
        for _ in range(times):
            await keys.find(stored, None)
        check_ms = (time.perf_counter() - started) * 1000 / times
        await keys.close()
    ratios = [a / b for a, b in zip(taken["stored"], taken["bootstrap"], strict=True)]
    submit_ms = statistics.median(taken["bootstrap"])
    line = {
        "benchmark": "access",
        "submits": 2 * pairs * BLOCK,
        "submit_stored_key_ms": round(statistics.median(taken["stored"]), 3),
        "submit_bootstrap_key_ms": round(submit_ms, 3),
        "ratio_of_pairs": round(statistics.median(ratios), 3),
        "check_us": round(check_ms * 1000, 2),
        "check_of_submit": round(check_ms / submit_ms, 4),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    args = parser.parse_args()
    with api() as (url, settings):
        asyncio.run(run(url, settings, args.pairs))


if __name__ == "__main__":
    main()
