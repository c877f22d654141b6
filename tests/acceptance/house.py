"""A whole house as processes, as a user starts it: `saga up` on fresh data."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson

from app.saga.definition import parse_definition
from app.saga.history import fold
from app.saga.messages import Record, RecordType
from app.saga.state import unpack
from app.store.database import to_micros


class RunningHouse:
    def __init__(self, data: Path, process: "subprocess.Popen[bytes]", key: str | None = None) -> None:
        self._data, self.process = data, process
        self.key: str = key or json.loads((data / "credentials.json").read_text())["api_key"]

    @property
    def notice(self) -> dict[str, Any]:
        return json.loads((self._data / "house.json").read_text())

    @property
    def url(self) -> str:
        return self.notice["url"]

    def pid(self, part: str) -> int:
        return self.notice["parts"][part]

    def kill(self, part: str, how: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid(part), how)

    async def until_replaced(self, part: str, pid: int, seconds: float = 30) -> None:
        """Waits until the part runs again under another process id."""
        give_up = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, ValueError, KeyError):
                if self.pid(part) not in {pid, None}:
                    return
            if time.monotonic() > give_up:
                raise TimeoutError(f"{part} was not started again")
            await asyncio.sleep(0.05)

    # --- what a submitter does ---

    @contextlib.asynccontextmanager
    async def client(self):
        headers = {"Authorization": f"Bearer {self.key}"}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=15)) as session:
            yield Client(session, self.url)

    # --- what only a test looks at ---

    async def check_histories(self) -> int:
        return await check_histories(self.notice["database_url"])


async def check_histories(database_url: str) -> int:
    """The fold of the history is the row, for every saga of the database; returns how many there are."""
    connection = await asyncpg.connect(database_url)
    try:
        definitions = {}
        for row in await connection.fetch("SELECT name, version, document FROM definition"):
            definitions[row["name"], row["version"]] = parse_definition(orjson.loads(row["document"]), None)
        sagas = await connection.fetch("SELECT id, definition, version, document FROM saga")
        for saga in sagas:
            definition = definitions[saga["definition"], saga["version"]]
            rows = await connection.fetch("SELECT * FROM saga_event WHERE saga_id = $1 ORDER BY seq", saga["id"])
            records = [_record(definition, row) for row in rows]
            assert fold(definition, records) == unpack(orjson.loads(saga["document"]), len(definition.steps))
        return len(sagas)
    finally:
        await connection.close()


def _record(definition, row) -> Record:
    step = None if row["step"] is None else definition.index[row["step"]]
    at, data = to_micros(row["at"]), orjson.loads(row["data"])
    return Record(row["seq"], RecordType(row["type"]), at, step, row["operation"], row["attempt"], data)


class Client:
    """As stubborn as the contract lets a client be: it repeats a submit with its key until it is answered."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def submit(self, key: str, saga: str, saga_input: Any, seconds: float = 60) -> dict[str, Any]:
        give_up = time.monotonic() + seconds
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.post(
                    f"{self.url}/sagas", json={"saga": saga, "input": saga_input}, headers={"Idempotency-Key": key}
                ) as response:
                    if response.status in {200, 202}:
                        return await response.json()
                    if response.status < 500:
                        raise AssertionError(f"{response.status}: {await response.text()}")
            if time.monotonic() > give_up:
                raise TimeoutError(f"{key} was not accepted")
            await asyncio.sleep(0.1)

    async def get(self, path: str) -> dict[str, Any]:
        async with self.session.get(f"{self.url}{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def until_at_rest(self, ids: list[str], seconds: float = 30) -> dict[str, dict[str, Any]]:
        """The sagas, once all are at rest."""
        found: dict[str, dict[str, Any]] = {}
        give_up = time.monotonic() + seconds
        while True:
            for saga_id in ids:
                if saga_id not in found:
                    with contextlib.suppress(aiohttp.ClientError, AssertionError, TimeoutError):
                        saga = await self.get(f"/sagas/{saga_id}")
                        if saga["state"] in {"COMPLETED", "FAILED", "COMPENSATION_FAILED", "ABANDONED"}:
                            found[saga_id] = saga
            if len(found) == len(ids):
                return found
            if time.monotonic() > give_up:
                left = [await self.get(f"/sagas/{i}") for i in ids if i not in found]
                raise AssertionError(
                    f"{len(left)} of {len(ids)} sagas are not at rest: {json.dumps(left[:3], indent=1)}"
                )
            await asyncio.sleep(0.2)


@contextlib.contextmanager
def house(directory: Path, sagas: Path, workers: int = 2, **settings: str) -> Iterator[RunningHouse]:
    data = directory / "data"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SAGA_")} | settings
    with (directory / "up.log").open("wb") as log:
        command = [sys.executable, "-m", "app.cli", "up", "--port", "0", "--data", str(data), "--sagas", str(sagas)]
        process = subprocess.Popen(
            [*command, "--workers", str(workers)], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    try:
        _wait_until_ready(data, process, directory / "up.log")
        yield RunningHouse(data, process, settings.get("SAGA_BOOTSTRAP_API_KEY"))
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_ready(data: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + 90
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads((data / "house.json").read_text())["ready"]:
                return
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"saga up did not become ready:\n{log.read_text()}")
        time.sleep(0.05)
