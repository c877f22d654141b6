"""PostgreSQL and Valkey as our children: one server's life."""

import signal
import stat
from pathlib import Path

import asyncpg
import kombu
import psutil
import pytest
import redis

from app.local.errors import EmbeddedError
from app.local.postgres import EmbeddedPostgres
from app.local.server import EmbeddedServer
from app.local.valkey import EmbeddedValkey

from .asking import query
from .watching import processes_of, wait_until

both = pytest.mark.parametrize("server_type", [EmbeddedPostgres, EmbeddedValkey])


async def test_postgres_answers_in_utf8_and_keeps_its_promises_about_durability(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres:
        assert await query(postgres.url, "SELECT current_user || '@' || current_database()") == "saga@saga"
        assert await query(postgres.url, "SHOW server_encoding") == "UTF8"
        assert await query(postgres.url, "SELECT upper('é') || lower('Ä')") == "Éä"
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await query(postgres.url, f"SHOW {setting}") == "on"
        assert await query(postgres.url, "SHOW listen_addresses") == ""


@pytest.mark.usefixtures("copied")
async def test_a_postgres_for_tests_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, durable=False) as postgres:
        assert await query(postgres.url, "SHOW fsync") == "off"


@pytest.mark.usefixtures("copied")
async def test_postgres_keeps_its_data_over_a_restart_a_kill_and_a_new_start(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path)
    with postgres:
        await query(postgres.url, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1) RETURNING n")
        postgres.restart()
        await query(postgres.url, "INSERT INTO t VALUES (2) RETURNING n")
        postgres.kill()
        assert postgres.poll() == -signal.SIGKILL
        postgres.start()
        assert await query(postgres.url, "SELECT count(*) FROM t") == 2
    with EmbeddedPostgres(tmp_path) as again:
        assert await query(again.url, "SELECT count(*) FROM t") == 2


def test_valkey_keeps_its_data_over_a_restart_a_kill_and_a_new_start(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path)
    with valkey, redis.from_url(valkey.url) as client:
        client.set("a", "1")
        valkey.restart()
        client.set("b", "2")
        valkey.kill()
        valkey.start()
        assert client.mget("a", "b") == [b"1", b"2"]
    with EmbeddedValkey(tmp_path) as again, redis.from_url(again.url) as client:
        assert client.mget("a", "b") == [b"1", b"2"]


def test_a_valkey_for_tests_keeps_nothing(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path, durable=False)
    with valkey, redis.from_url(valkey.url) as client:
        client.set("a", "1")
        valkey.restart()
        assert client.get("a") is None


def test_celery_reaches_valkey_by_its_socket(tmp_path: Path) -> None:
    with (
        EmbeddedValkey(tmp_path, durable=False) as valkey,
        kombu.Connection(f"redis+socket://{valkey.socket}?virtual_host=0") as broker,
        redis.from_url(valkey.url) as client,
    ):
        queue = broker.SimpleQueue("bell")
        queue.put("x")
        assert client.llen("bell") == 1
        assert queue.get(timeout=5).payload == "x"
        queue.close()


@pytest.mark.usefixtures("copied")
async def test_a_database_is_cloned_from_a_template_and_dropped_under_its_users(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, durable=False) as postgres:
        template = postgres.create_database("template-of-tests")
        await query(template, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7) RETURNING n")
        clone = postgres.create_database('clone "1"', template="template-of-tests")
        connection = await asyncpg.connect(clone)
        assert await connection.fetchval("SELECT n FROM t") == 7
        postgres.drop_database('clone "1"')
        postgres.drop_database('clone "1"')
        with pytest.raises(asyncpg.PostgresError):
            await connection.fetchval("SELECT 1")
        connection.terminate()
        with pytest.raises(EmbeddedError, match="already exists"):
            postgres.create_database("saga")


@both
@pytest.mark.usefixtures("copied")
def test_the_life_of_a_server_in_calls(server_type: type[EmbeddedServer], tmp_path: Path) -> None:
    server = server_type(tmp_path, durable=False)
    assert server.pid is None
    server.stop()
    server.start()
    first = server.pid
    server.start()
    assert first is not None
    assert server.pid == first
    assert server.poll() is None
    server.interrupt()
    wait_until(lambda: server.poll() == 0)
    server.launch()
    wait_until(server.is_ready)
    assert server.pid not in {None, first}
    server.stop()
    server.stop()
    assert server.pid is None
    assert processes_of(tmp_path) == []


@both
def test_what_it_writes_is_closed_to_others_and_it_knows_none_of_our_secrets(
    server_type: type[EmbeddedServer], reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_SECRET_KEY", "told to nobody")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGOPTIONS", "--nonsense")
    with server_type(reachable, durable=False) as server:
        for path in reachable.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        environment = psutil.Process(server.pid).environ()
        assert not [name for name in environment if name.startswith(("PG", "SAGA_"))]
        listening = [c for c in psutil.Process(server.pid).net_connections("inet") if c.status == "LISTEN"]
        assert listening == []
