"""The servers die with us, however we die, and come back whatever is left of them."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from app.local.locks import lock_file
from app.local.postgres import EmbeddedPostgres
from app.local.processes import end, spawn
from app.local.server import EmbeddedServer
from app.local.valkey import EmbeddedValkey

from .asking import query
from .conftest import copy_cluster
from .watching import is_alive, processes_of, wait_until

ROOT = Path(__file__).parents[2]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="a parent's death is told on Linux only")
both = pytest.mark.parametrize("server_type", [EmbeddedPostgres, EmbeddedValkey])

LIFE = """
import sys, pathlib, signal
from app.local.postgres import EmbeddedPostgres
from app.local.valkey import EmbeddedValkey
servers = [EmbeddedPostgres(pathlib.Path(sys.argv[1]) / "p"), EmbeddedValkey(pathlib.Path(sys.argv[1]) / "v")]
for server in servers:
    server.start()
print(*(server.pid for server in servers), flush=True)
{then}
"""


def start_elsewhere(
    cluster: Path, directory: Path, then: str = "signal.pause()"
) -> tuple[subprocess.Popen[str], list[int]]:
    """Another process that starts both servers: it, and their ids."""
    copy_cluster(cluster, directory / "p")
    starter = subprocess.Popen(
        [sys.executable, "-c", LIFE.format(then=then), str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    return starter, [int(pid) for pid in starter.stdout.readline().split()]


@on_linux
@pytest.mark.parametrize("where", ["tmp_path", "reachable"])
async def test_nothing_outlives_a_starter_that_is_killed_and_the_next_one_starts(
    where: str, request: pytest.FixtureRequest, cluster: Path
) -> None:
    directory: Path = request.getfixturevalue(where)
    starter, pids = start_elsewhere(cluster, directory)
    assert len(pids) == 2
    with starter:
        assert {process.pid for process in processes_of(directory)} >= set(pids)
        starter.kill()
    with EmbeddedPostgres(directory / "p") as postgres, EmbeddedValkey(directory / "v") as valkey:
        assert await query(postgres.url, "SELECT 1") == 1
        assert set(pids).isdisjoint({postgres.pid, valkey.pid})
        assert not [pid for pid in pids if is_alive(pid)]
    assert processes_of(directory) == []


@on_linux
@pytest.mark.parametrize("then", ["sys.exit(0)", "raise SystemError('a mistake of ours')"])
def test_nothing_outlives_a_starter_that_forgets_its_servers(then: str, tmp_path: Path, cluster: Path) -> None:
    starter, pids = start_elsewhere(cluster, tmp_path, then)
    with starter:
        starter.wait(10)
    assert len(pids) == 2
    wait_until(lambda: processes_of(tmp_path) == [])


@both
@pytest.mark.usefixtures("copied")
def test_a_server_outlives_the_thread_that_started_it(server_type: type[EmbeddedServer], tmp_path: Path) -> None:
    """The kernel counts a thread as the parent whose death it tells."""
    server = server_type(tmp_path, durable=False)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with server:
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(server.pid).wait(0.3)
        assert server.is_ready()


@both
@pytest.mark.usefixtures("copied")
def test_a_start_waits_until_the_last_process_of_an_earlier_server_is_gone(
    server_type: type[EmbeddedServer], tmp_path: Path
) -> None:
    """After a kill of PostgreSQL its backends go on for a moment, and would fight with the next one."""
    left = lock_file(tmp_path / "server.lock")
    assert left is not None
    server = server_type(tmp_path, durable=False)
    thread = threading.Thread(target=server.start)
    thread.start()
    wait_until((tmp_path / "owner.lock").exists)
    thread.join(0.2)
    assert thread.is_alive()
    assert server.pid is None
    os.close(left)
    thread.join()
    with server:
        assert server.is_ready()


@on_linux
@pytest.mark.usefixtures("copied")
async def test_a_pid_file_that_names_a_stranger_does_not_hinder_a_start(tmp_path: Path) -> None:
    """In a container the number of yesterday's server is often some other process of the same user."""
    postgres = EmbeddedPostgres(tmp_path)
    with postgres:
        postgres.kill()
        program = [sys.executable, "-c", "import signal; signal.pause()"]
        if postgres._identity is not None:
            program = ["/bin/sleep", "60"]
        stranger = spawn(program, log=Path(os.devnull), identity=postgres._identity)
        try:
            lines = (tmp_path / "data" / "postmaster.pid").read_text().splitlines(keepends=True)
            (tmp_path / "data" / "postmaster.pid").write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
            (tmp_path / "server.lock").write_text(f"{stranger.pid}\n")
            postgres.start()
            assert stranger.poll() is None
        finally:
            end(stranger)
        assert await query(postgres.url, "SELECT 1") == 1


async def test_half_a_cluster_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path, durable=False) as postgres:
        assert await query(postgres.url, "SELECT 1") == 1
