"""The dashboard over 100,000 sagas: `make bench`, or `python -m benchmarks.pages --help`. Prints JSON lines.

The sagas are written by the store into a fresh embedded PostgreSQL (`benchmarks.many`); a client asks `saga api` for
pages, one request after another, so what is measured is the server's own time and the way to it on loopback.
"""

import argparse
import asyncio
import json
import re
import statistics
import time
from typing import Any

import aiohttp
import asyncpg

from app.house import open_house
from app.saga.definition import parse_definition
from app.settings import Settings
from benchmarks import many
from benchmarks.listing import PASSWORD, api
from benchmarks.order import definition

MOST_MS = 100


async def fill(settings: Settings, sagas: int) -> None:
    made = parse_definition(json.loads(definition("order")), None)
    async with open_house(settings) as house:
        version, _ = await house.definitions.register(made)
        await many.insert(house, made, version, sagas)
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def pages(middle: dict[str, Any], needy: dict[str, Any], deep: str) -> dict[str, str]:
    """By name, the path of each; `deep` is the cursor of a second page."""
    customer = middle["labels"]["customer"]
    return {
        "landing": "/admin/",
        "list": "/admin/sagas",
        "list_second_page": f"/admin/sagas?cursor={deep}",
        "list_of_state": "/admin/sagas?state=COMPENSATING",
        "list_of_label": f"/admin/sagas?label=customer:{customer}",
        "list_of_own_label": f"/admin/sagas?label=order:{middle['labels']['order']}",
        "list_of_label_of_a_quarter": "/admin/sagas?label=region:eu",
        "list_of_label_of_nearly_all": "/admin/sagas?label=channel:web",
        "list_of_key": f"/admin/sagas?key={middle['idempotency_key']}",
        "list_needing_attention": "/admin/sagas?attention=true",
        "list_of_cause": f"/admin/sagas?attention=true&saga={needy['saga']}&step={needy['attention']['steps'][0]}",
        "list_of_error_text": "/admin/sagas?text=made",
        "list_of_text_of_none": "/admin/sagas?text=nothing+says+this",
        "saga": f"/admin/sagas/{middle['id']}",
        "saga_in_need": f"/admin/sagas/{needy['id']}",
        "dead_letters": "/admin/dead-letters",
        "audit": "/admin/audit",
        "definitions": "/admin/definitions",
        "definition": "/admin/definitions/order",
        "services": "/admin/services",
        "house": "/admin/house",
        "keys": "/admin/keys",
        "users": "/admin/users",
        "me": "/admin/me",
        "bulk": "/admin/sagas/bulk?action=retry&of=all&attention=true",
        "bulk_of_error_text": "/admin/sagas/bulk?action=retry&of=all&text=made",
    }


async def measure(url: str, requests: int) -> dict[str, list[float]]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:

        async def ask(path: str) -> bytes:
            async with session.get(url + path, allow_redirects=False) as response:
                content = await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{path} answered {response.status}: {content[:300]!r}")
                return content

        form = (await ask("/admin/login")).decode()
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
        sent = {**hidden, "name": "admin", "password": PASSWORD}
        async with session.post(f"{url}/admin/login", data=sent, allow_redirects=False) as response:
            if response.status != 303:
                raise RuntimeError(f"nobody is let in: {response.status}")
        middle = json.loads(await ask("/sagas?state=COMPLETED&limit=200"))["items"][-1]
        needy = json.loads(await ask("/sagas?attention=true"))["items"][-1]
        deep = json.loads(await ask("/sagas?limit=50"))["next_cursor"]
        taken: dict[str, list[float]] = {}
        for name, path in pages(middle, needy, deep).items():
            for _ in range(3):
                await ask(path)
            taken[name] = []
            for _ in range(requests):
                begun = time.perf_counter()
                await ask(path)
                taken[name].append((time.perf_counter() - begun) * 1000)
        return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sagas", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=40, help="of each page")
    options = parser.parse_args()
    with api() as (url, settings):
        asyncio.run(fill(settings, options.sagas))
        for name, taken in asyncio.run(measure(url, options.requests)).items():
            p95 = statistics.quantiles(taken, n=20)[-1]
            line = {"page": name, "sagas": options.sagas, "p50_ms": round(statistics.median(taken), 1)}
            print(json.dumps({**line, "p95_ms": round(p95, 1), "within_100_ms": p95 < MOST_MS}), flush=True)


if __name__ == "__main__":
    main()
