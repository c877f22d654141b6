"""/metrics of processes: each worker's own, and the API's of the whole house."""

import re
import socket
from pathlib import Path

import aiohttp
import pytest

from tests.waiting import until
from tests.workers.conftest import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

COUNTED = re.compile(r'saga_step_attempts_total\{operation="action",outcome="succeeded",saga="a",step="a"\} (\S+)')


async def attempts(port: int) -> float:
    url = f"http://127.0.0.1:{port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        found = COUNTED.search(await answer.text())
        return float(found[1]) if found else 0


async def test_each_worker_tells_its_own_and_the_api_the_whole_house(
    world: World, tmp_path: Path, unused_tcp_port: int
) -> None:
    house = {"SAGA_METRICS_DIR": str(tmp_path / "metrics")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        ports = []
        for number in (1, 2):
            with world.start(**house, SAGA_WORKER_METRICS_PORT=str(first)) as worker:
                await world.at_rest(*[await world.submit("a") for _ in range(number)])
                found = re.search(r"metrics of this worker: http://127.0.0.1:(\d+)/metrics", worker.log)
                assert found, worker.log
                ports.append(int(found[1]))
                assert first < ports[-1] < first + 100, "the next free one"
                assert await attempts(ports[-1]) == number
        with world.start("api", **house, SAGA_PORT=str(unused_tcp_port)) as api:

            async def listens() -> bool:
                with socket.socket() as client:
                    return client.connect_ex(("127.0.0.1", unused_tcp_port)) == 0

            await until(listens, what="the API")
            assert await attempts(unused_tcp_port) == 3, api.log
