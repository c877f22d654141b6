"""Good sagas beside a service that breaks every connection: `make bench`, or `python -m benchmarks.beside --help`.

In pairs: the good sagas alone, then beside as many sagas whose step is repeated without end, in its back-off. What is
compared are the medians of a saga's time from submit to rest, pair by pair, so that what else the machine does meets
both. Prints a JSON line.
"""

import argparse
import asyncio
import json
import statistics
import uuid
from typing import Any

import aiohttp
import uvloop

from benchmarks.order import Client, house
from benchmarks.participant import Breaks

BAD = {
    "name": "broken",
    "timeout": "1d",
    "steps": [
        {
            "name": "call",
            "service": "breaks",
            "action": "call",
            "compensation": "none",
            "retry": {"max_attempts": 1_000_000},
        }
    ],
}


class Beside:
    """Sagas at the bad service, while the block lasts; every one of them has been refused its connection before."""

    def __init__(self, session: aiohttp.ClientSession, asked: list[bytes], count: int) -> None:
        self._session, self._asked, self._count = session, asked, count
        self._ids: list[str] = []

    async def __aenter__(self) -> None:
        before = len(self._asked)
        for _ in range(self._count):
            body, headers = {"saga": BAD["name"], "input": {}}, {"Idempotency-Key": str(uuid.uuid4())}
            async with self._session.post("/sagas", json=body, headers=headers) as response:
                self._ids.append((await response.json())["id"])
        while len(self._asked) < before + self._count:  # noqa: ASYNC110 - nothing is measured yet
            await asyncio.sleep(0.01)

    async def __aexit__(self, *_: object) -> None:
        for saga_id in self._ids:
            async with self._session.post(f"/admin/api/sagas/{saga_id}/abandon", json={"reason": "measured"}) as r:
                r.raise_for_status()


async def pairs(session: aiohttp.ClientSession, client: Client, asked: list[bytes], args: Any) -> list[tuple]:
    """(median alone, median beside) in seconds."""
    found = []
    for _ in range(args.pairs):
        alone = await client.many("order", args.good, args.in_flight)
        async with Beside(session, asked, args.bad):
            beside = await client.many("order", args.good, args.in_flight)
        found.append((statistics.median(alone), statistics.median(beside)))
    return found


async def run(args: argparse.Namespace) -> None:
    asked: list[bytes] = []
    server = await asyncio.get_running_loop().create_server(lambda: Breaks(asked), "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with house(args.workers) as (url, key, _, _):
        async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as session:
            for path, body in (("/services/breaks", {"url": address}), (f"/definitions/{BAD['name']}", BAD)):
                async with session.put(path, json=body) as response:
                    response.raise_for_status()
            client = Client(session, url, key)
            await client.many("order", 1000, args.in_flight)  # warm
            found = await pairs(session, client, asked, args)
    ratios = [beside / alone for alone, beside in found]
    line = {
        "benchmark": "beside",
        "good": args.good,
        "bad": args.bad,
        "in_flight": args.in_flight,
        "slowed_by": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "alone_p50_ms": round(statistics.median(alone for alone, _ in found) * 1000, 2),
        "beside_p50_ms": round(statistics.median(beside for _, beside in found) * 1000, 2),
        "calls_to_the_bad_service": len(asked),
    }
    print(json.dumps(line), flush=True)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--good", type=int, default=100)
    parser.add_argument("--bad", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--in-flight", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
