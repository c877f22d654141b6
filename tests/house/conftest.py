import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.local.postgres import EmbeddedPostgres
from app.local.valkey import EmbeddedValkey

from .house_process import Up
from .watching import processes_of, wait_until

MEMORY = Path("/dev/shm")
ROOM_BYTES = 1_000_000_000


def copy_cluster(cluster: Path, directory: Path) -> None:
    """Into the directory of a server, with its owner."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", cluster, directory / "data"], check=True)


@contextlib.contextmanager
def a_directory() -> Iterator[Path]:
    """In memory where there is room: what is proven here needs no disk, and a new cluster is a thousand files."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    directory = Path(tempfile.mkdtemp(prefix="saga-test-", dir=MEMORY if roomy else None)).resolve()
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with a_directory() as directory:
        yield directory


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that any user can enter; `tmp_path` is closed to all but us."""
    with a_directory() as directory:
        directory.chmod(0o755)
        yield directory


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The files of PostgreSQL as a first start makes them, to be copied (`copy_cluster`)."""
    with a_directory() as directory:
        with EmbeddedPostgres(directory, durable=False):
            pass
        yield directory / "data"


@pytest.fixture
def copied(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that a cluster has to be there for, however it was made: a copy is there ten times as soon."""
    monkeypatch.setattr(EmbeddedPostgres, "_make_cluster", lambda server, _: copy_cluster(cluster, server.directory))


@pytest.fixture(scope="session")
def addresses() -> Iterator[dict[str, str]]:
    """Of a PostgreSQL and a Valkey that already run, so that a house stands quickly: the variables and values."""
    with (
        a_directory() as directory,
        EmbeddedPostgres(directory / "postgres", durable=False) as postgres,
        EmbeddedValkey(directory / "valkey", durable=False) as valkey,
    ):
        yield {"SAGA_DATABASE_URL": postgres.url, "SAGA_REDIS_URL": valkey.url}


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """`start_up(environment, **arguments of run)`; whatever happens, nothing of it is left afterwards."""
    started: list[Up] = []

    def start(environment: dict[str, str] | None = None, **arguments: Any) -> Up:
        started.append(Up(tmp_path, environment or {}, **arguments))
        return started[-1]

    yield start
    for house in started:
        house.process.kill()
        house.ends()
    wait_until(lambda: processes_of(tmp_path) == [])
