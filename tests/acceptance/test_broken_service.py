"""A service that breaks every connection, repeated without end: what it costs is bounded by its back-off, and the good
sagas beside it are done as ever. By how much they are slowed is measured by `python -m benchmarks.beside`.
"""

import asyncio
import json
import statistics
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from benchmarks.participant import Breaks
from tests.acceptance.house import Client, house
from tests.participant import Participant
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

GOOD = BAD = 100
PAIRS = 3
DELAY_SECONDS = 1.0
JITTER = 0.2
STEPS = ["reserve", "charge", "confirm"]
ENDLESS = {"max_attempts": 1_000_000, "initial_delay": DELAY_SECONDS, "multiplier": 1, "jitter": JITTER}
DEFINITIONS = [
    {
        "name": "good",
        "steps": [{"name": step, "service": "shop", "action": step, "compensation": "undo"} for step in STEPS],
    },
    {
        "name": "bad",
        "steps": [{"name": "call", "service": "breaks", "action": "call", "compensation": "undo", "retry": ENDLESS}],
    },
]


async def many(client: Client, saga: str, keys: list[str]) -> list[str]:
    return [answer["id"] for answer in await asyncio.gather(*(client.submit(key, saga, {}) for key in keys))]


def seconds(saga: dict) -> float:
    ended, began = (datetime.fromisoformat(saga[name]) for name in ("finished_at", "created_at"))
    return (ended - began).total_seconds()


async def run_good(client: Client, shop: Participant, name: str) -> float:
    """Median of what each took, from submit to end. Every step of every saga is asked for once."""
    ids = await many(client, "good", [f"{name}-{n}" for n in range(GOOD)])
    found = await client.until_at_rest(ids, seconds=60)
    assert Counter(saga["state"] for saga in found.values()) == {"COMPLETED": GOOD}
    assert Counter((a.saga_id, a.step) for a in shop.asked) == dict.fromkeys(((i, s) for i in ids for s in STEPS), 1)
    shop.asked.clear()
    return statistics.median(map(seconds, found.values()))


async def abandon(client: Client, ids: list[str]) -> None:
    for saga_id in ids:
        path = f"{client.url}/admin/api/sagas/{saga_id}/abandon"
        async with client.session.post(path, json={"reason": "enough seen"}) as response:
            assert response.status == 200, await response.text()


async def test_good_sagas_are_done_beside_a_service_that_breaks_every_connection(
    tmp_path: Path, unused_tcp_port_factory
) -> None:
    sagas, shop_port, bad_port = tmp_path / "sagas", unused_tcp_port_factory(), unused_tcp_port_factory()
    sagas.mkdir()
    for definition in DEFINITIONS:
        (sagas / f"{definition['name']}.yaml").write_text(json.dumps(definition))
    services = {name: {"url": f"http://127.0.0.1:{port}"} for name, port in (("shop", shop_port), ("breaks", bad_port))}
    (sagas / "services.yaml").write_text(json.dumps(services))
    calls: list[bytes] = []
    server = await asyncio.get_running_loop().create_server(lambda: Breaks(calls), "127.0.0.1", bad_port)
    with house(tmp_path, sagas, workers=1) as running:
        async with Participant.serve(shop_port) as shop, running.client() as client:
            await run_good(client, shop, "warm")
            ratios = []
            for pair in range(PAIRS):
                alone = await run_good(client, shop, f"alone-{pair}")
                began, calls_before = time.monotonic(), len(calls)
                bad = await many(client, "bad", [f"bad-{pair}-{n}" for n in range(BAD)])
                beside = await run_good(client, shop, f"beside-{pair}")
                ratios.append(beside / alone)
                await until(lambda before=calls_before: len(calls) > before + 2 * BAD, 30, "repetition")
                stories = [await client.get(f"/sagas/{saga_id}") for saga_id in bad]
                elapsed = time.monotonic() - began
                # However long the machine takes, no more attempts fit into that time than the back-off allows.
                most = 1 + elapsed / (DELAY_SECONDS * (1 - JITTER))
                for saga in stories:
                    (step,) = saga["steps"]
                    assert saga["state"] == "EXECUTING"
                    assert step["attempts"] <= most, (step, elapsed)
                    assert step["error"]["code"] == "unknown" if step["error"] else step["attempts"] <= 1
                await abandon(client, bad)
            # Generous, since the machine may be busy with other things in one half of a pair and not in the other.
            assert statistics.median(ratios) < 2, ratios
        assert await running.check_histories() == (1 + 2 * PAIRS) * GOOD + PAIRS * BAD
    server.close()
    await server.wait_closed()
