"""What every test may use: real servers, one pair for each test process, and a database of its own for each test.

async def test_something(settings): ...                 # a migrated, empty database and an empty Valkey
async def test_something(house): ...                    # the house opened on them, in this test's loop
"""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis

from app.house import House, open_house
from app.local.postgres import EmbeddedPostgres
from app.local.valkey import EmbeddedValkey
from app.parts import migrate
from app.settings import Settings

MEMORY = Path("/dev/shm")
ROOM_BYTES = 1_000_000_000
TEMPLATE = "saga_template"
KEY = "test.key"

_numbers = count(1)


class Servers:
    """PostgreSQL with a migrated template, and Valkey."""

    def __init__(self, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
        self.postgres, self.valkey = postgres, valkey

    @contextlib.contextmanager
    def database(self, template: str | None = TEMPLATE) -> Iterator[str]:
        """The URL of a new database, dropped afterwards. `template=None`: not migrated."""
        name = f"test_{next(_numbers)}"
        url = self.postgres.create_database(name, template)
        try:
            yield url
        finally:
            self.postgres.drop_database(name)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Started by the first test that wants them."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    directory = Path(tempfile.mkdtemp(prefix="saga-servers-", dir=MEMORY if roomy else None)).resolve()
    try:
        with (
            EmbeddedPostgres(directory / "postgres", durable=False) as postgres,
            EmbeddedValkey(directory / "valkey", durable=False) as valkey,
        ):
            migrate(Settings(database_url=postgres.create_database(TEMPLATE)))
            yield Servers(postgres, valkey)
    finally:
        shutil.rmtree(directory)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What a test has recorded as `told`: how much was enumerated, which seed repeats a run."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    for report in reports:
        if getattr(report, "when", None) == "call":
            for name, said in report.user_properties:
                if name == "told":
                    terminalreporter.write_line(f"{report.nodeid}: {said}")


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    with servers.database() as url:
        yield url


@pytest.fixture
def redis_url(servers: Servers) -> str:
    with redis.Redis.from_url(servers.valkey.url) as client:
        client.flushall()
    return servers.valkey.url


@pytest.fixture
def options() -> dict[str, Any]:
    """Settings that differ from the defaults: override it in a module, or fill it before `settings` is used."""
    return {}


@pytest.fixture
def settings(database_url: str, redis_url: str, options: dict[str, Any]) -> Settings:
    given: dict[str, Any] = {
        "database_url": database_url,
        "redis_url": redis_url,
        "bootstrap_api_key": KEY,
        "secret_key": "a secret for tests",
        **options,
    }
    return Settings(**given)


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    async with open_house(settings) as house:
        yield house
