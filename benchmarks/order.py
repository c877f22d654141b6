"""The order saga, end to end: `make bench`, or `python -m benchmarks.order --help`. Prints JSON lines.

`saga up` is started on fresh data; a client submits sagas over HTTP and waits for each with `Prefer: wait`. The three
steps are POSTs to a participant that answers at once. CPU and memory are of `saga up` and everything that it has
started (API, workers, beat, PostgreSQL, Valkey), read from /proc; the client and the participant are not counted.
Figures are of the machine that they were run on: compare within one run.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil
import uvloop

INPUT = {
    "customer": "cust-000042",
    "items": [{"sku": "SKU-12345", "qty": 2}, {"sku": "SKU-67890", "qty": 1}],
    "amount": {"value": "149.90", "currency": "EUR"},
}
ENDS = {"order": "COMPLETED", "order-refused": "FAILED"}


def definition(name: str) -> str:
    confirm = "refuse" if name == "order-refused" else "confirm"
    return json.dumps(
        {
            "name": name,
            "steps": [
                {"name": "reserve-inventory", "service": "shop", "action": "reserve", "compensation": "release"},
                {"name": "charge-payment", "service": "shop", "action": "charge", "compensation": "refund"},
                {"name": "confirm-order", "service": "shop", "action": confirm, "compensation": "cancel"},
            ],
        }
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def house(workers: int) -> Iterator[tuple[str, str, int, str]]:
    """A fresh house: its address, key, process id, and the address of its database."""
    data = Path(tempfile.mkdtemp(prefix="saga-bench-"))
    sagas, port, shop = data / "sagas", free_port(), free_port()
    sagas.mkdir()
    for name in ENDS:
        (sagas / f"{name}.yaml").write_text(definition(name))
    (sagas / "services.yaml").write_text(f"shop: {{url: 'http://127.0.0.1:{shop}', max_in_flight: 100}}\n")
    participant = subprocess.Popen([sys.executable, "-m", "benchmarks.participant", str(shop)], stdout=subprocess.PIPE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SAGA_")}
    command = [sys.executable, "-m", "app.cli", "up", "--port", str(port), "--data", str(data / "data")]
    up = subprocess.Popen(
        [*command, "--sagas", str(sagas), "--workers", str(workers)],
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, up)
        key = json.loads((data / "data/credentials.json").read_text())["api_key"]
        yield url, key, up.pid, json.loads((data / "data/house.json").read_text())["database_url"]
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)
        participant.terminate()
        participant.wait()
        shutil.rmtree(data, ignore_errors=True)


def wait_until_ready(url: str, up: "subprocess.Popen[bytes]") -> None:
    import urllib.request  # noqa: PLC0415

    give_up = time.monotonic() + 60
    while True:
        if up.poll() is not None:
            sys.exit(f"saga up has ended with {up.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=1):
            return
        if time.monotonic() > give_up:
            sys.exit("the house was not ready within 60 s")
        time.sleep(0.1)


class Meter:
    """CPU seconds and memory of a process and all that descend from it."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def _family(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times, words = process.cpu_times(), process.cmdline()
                part = next((p for p in ("api", "worker", "beat", "up") if p in words), None)
                part = part or ("postgres" if "postgres" in (words or [""])[0] else "valkey")
                found[part] = found.get(part, 0) + times.user + times.system
        return found

    def memory_mib(self) -> dict[str, int]:
        """Resident, and with shared pages counted once (PSS)."""
        rss = pss = 0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                rss += process.memory_info().rss
                pss += process.memory_full_info().pss
        return {"rss_mib": rss >> 20, "pss_mib": pss >> 20}


class Client:
    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session, self._url = session, url
        self._headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=60"}

    async def run(self, name: str) -> float:
        """Seconds from submit to rest."""
        started = time.perf_counter()
        headers = {**self._headers, "Idempotency-Key": str(uuid.uuid4())}
        async with self._session.post(f"{self._url}/sagas", json={"saga": name, "input": INPUT}, headers=headers) as r:
            saga = await r.json()
        if r.status != 200 or saga["state"] != ENDS[name]:
            raise RuntimeError(f"{r.status}: {saga}")
        return time.perf_counter() - started

    async def many(self, name: str, count: int, in_flight: int) -> list[float]:
        left = iter(range(count))

        async def lane() -> list[float]:
            return [await self.run(name) for _ in left]

        lanes = await asyncio.gather(*(lane() for _ in range(in_flight)))
        return [seconds for lane_seconds in lanes for seconds in lane_seconds]


def quantile(values: list[float], q: float) -> float:
    return round(statistics.quantiles(values, n=1000)[round(q * 1000) - 1] * 1000, 2)


async def measure(client: Client, meter: Meter, name: str, args: argparse.Namespace) -> dict[str, Any]:
    await client.many(name, args.sagas // 4, args.in_flight)  # warm
    before, started = meter.cpu(), time.perf_counter()
    loaded = await client.many(name, args.sagas, args.in_flight)
    seconds = time.perf_counter() - started
    cpu = {part: round((s - before.get(part, 0)) * 1000 / args.sagas, 3) for part, s in meter.cpu().items()}
    memory = meter.memory_mib()
    alone = await client.many(name, args.alone, 1)
    return {
        "benchmark": "order",
        "saga": name,
        "sagas_per_s": round(args.sagas / seconds, 1),
        "in_flight": args.in_flight,
        "load_p50_ms": quantile(loaded, 0.5),
        "load_p99_ms": quantile(loaded, 0.99),
        "alone_p50_ms": quantile(alone, 0.5),
        "alone_p95_ms": quantile(alone, 0.95),
        "alone_p99_ms": quantile(alone, 0.99),
        "cpu_ms_per_saga": round(sum(cpu.values()), 2),
        "cpu_ms_by_part": cpu,
        **memory,
        "sagas": args.sagas,
        "workers": args.workers,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


async def transactions(url: str) -> int:
    """Committed and rolled back so far; every query of an idle house is a transaction of its own."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        )
    finally:
        await connection.close()


async def idle(meter: Meter, database_url: str, seconds: float) -> dict[str, Any]:
    await asyncio.sleep(12)  # the servers tell their statistics with a delay of up to ten seconds
    before, transactions_before = meter.cpu(), await transactions(database_url)
    await asyncio.sleep(seconds)
    queries = await transactions(database_url) - transactions_before
    used = {part: round((s - before.get(part, 0)) / seconds * 100, 2) for part, s in meter.cpu().items()}
    return {
        "benchmark": "idle",
        "percent_of_a_core": round(sum(used.values()), 2),
        "by_part": used,
        "transactions_per_s": round(queries / seconds, 2),
        "seconds": seconds,
    }


async def run(args: argparse.Namespace) -> None:
    with house(args.workers) as (url, key, pid, database_url):
        meter = Meter(pid)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            client = Client(session, url, key)
            for _ in range(args.rounds):
                for name in ENDS:
                    print(json.dumps(await measure(client, meter, name, args)), flush=True)
        print(json.dumps(await idle(meter, database_url, args.idle_seconds)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sagas", type=int, default=3000, help="in each measured load")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--alone", type=int, default=200, help="one after another, for the latency")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--idle-seconds", type=float, default=20)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
