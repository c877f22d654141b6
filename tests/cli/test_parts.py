"""The parts of the house: what each says when something that it needs is missing."""

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from app.settings import Settings
from tests.cli.conftest import Run, command, environ, no_traceback
from tests.conftest import Servers

PARTS = ["api", "worker", "beat", "migrate"]
UNAVAILABLE = 69


@pytest.fixture
def set_environment(alone: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_it(**environment: str) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return set_it


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*arguments), env=environ(**environment), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [*PARTS, "up"])
def test_wrong_settings_are_told_one_by_one(run: Run, set_environment: Callable[..., None], part: str) -> None:
    set_environment(SAGA_SWEEP_INTERVAL="0", SAGA_LEASE_GRACE="soon", SAGA_WORKER_SLOTS="1")
    result = run(part)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: Settings are wrong:\n"
        "  SAGA_SWEEP_INTERVAL=0: input should be greater than 0\n"
        "  SAGA_LEASE_GRACE=soon: input should be a valid number, unable to parse string as a number\n"
        "  SAGA_WORKER_SLOTS=1: input should be greater than or equal to 4\n"
    )


DEFAULTS = {
    "host": "127.0.0.1",
    "port": 8000,
    "sweep_interval": 1,
    "redispatch_after": 10,
    "lease_grace": 5,
    "stuck_after": 300,
    "max_payload_bytes": 262_144,
    "max_call_bytes": 4_194_304,
    "max_list": 200,
    "worker_metrics_port": 9101,
    "notify_hosts": "127.0.0.1,localhost,::1",
}


@pytest.mark.usefixtures("alone")
def test_what_is_not_set_has_the_defaults_that_are_promised() -> None:
    assert Settings().model_dump(include=set(DEFAULTS)) == DEFAULTS


def test_a_secret_that_cannot_sign_is_refused_and_not_shown(run: Run, set_environment: Callable[..., None]) -> None:
    set_environment(SAGA_WEBHOOK_SECRET="whsec_bmV3 hunter2!")
    result = run("worker")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: Settings are wrong:\n"
        "  SAGA_WEBHOOK_SECRET: value error, must be whsec_ and 16 to 64 bytes in base64, as Standard Webhooks has it\n"
    )


def test_a_call_holds_at_least_a_payload(run: Run, set_environment: Callable[..., None]) -> None:
    set_environment(SAGA_MAX_PAYLOAD_BYTES="5000000")
    result = run("worker")
    assert result.exit_code == 1
    assert "SAGA_MAX_CALL_BYTES=4194304: value error, must be at least SAGA_MAX_PAYLOAD_BYTES" in result.stderr


def test_an_empty_setting_is_none(run: Run, set_environment: Callable[..., None]) -> None:
    """As an .env file has it."""
    set_environment(SAGA_SWEEP_INTERVAL="", SAGA_DATABASE_URL="postgresql://127.0.0.1:1/saga")
    assert "does not answer" in run("migrate").stderr


# --- the database -----------------------------------------------------------------------------------------------

UNREACHABLE = {
    "nobody listens": ("postgresql://me:hunter2@127.0.0.1:1/saga", "PostgreSQL at 127.0.0.1:1/saga"),
    "another driver": ("postgresql+asyncpg://me:hunter2@127.0.0.1:1/saga", "PostgreSQL at 127.0.0.1:1/saga"),
    "no such host": ("postgresql://me:hunter2@no-such-host.invalid/saga", "PostgreSQL at no-such-host.invalid/saga"),
    "no such socket": ("postgresql://me:hunter2@/saga?host=/no/where", "PostgreSQL at /no/where/saga"),
    "another scheme": ("mysql://me:hunter2@127.0.0.1/saga", "is not an address of PostgreSQL"),
    "no address": ("hunter2", "is not an address of PostgreSQL"),
    "a password that is not escaped": ("postgresql://me:hunter2/x@127.0.0.1/saga", "is not an address of PostgreSQL"),
    "another such": ("postgresql://me:hunter2@3:x@127.0.0.1:hunter2/saga", "is not an address of PostgreSQL"),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_a_database_that_does_not_answer_is_told_without_its_password(
    run: Run, set_environment: Callable[..., None], name: str
) -> None:
    url, said = UNREACHABLE[name]
    set_environment(SAGA_DATABASE_URL=url)
    result = run("migrate")
    assert (result.exit_code, result.stdout) == (UNAVAILABLE, "")
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr
    assert "SAGA_DATABASE_URL" in result.stderr
    assert "hunter2" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("part", PARTS)
def test_every_part_looks_at_the_database_first(
    process: Callable[..., subprocess.CompletedProcess[str]], part: str
) -> None:
    done = process(part, SAGA_DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/saga")
    assert done.returncode == UNAVAILABLE
    assert "does not answer" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_database_that_refuses_is_told(run: Run, servers: Servers, set_environment: Callable[..., None]) -> None:
    set_environment(SAGA_DATABASE_URL=servers.postgres.url_of("none"))
    result = run("migrate")
    assert result.exit_code == UNAVAILABLE
    assert 'database "none" does not exist' in result.stderr
    assert result.stderr.count("\n") == 1


def test_parts_ask_for_a_migration_until_there_was_one(
    run: Run, servers: Servers, set_environment: Callable[..., None], taken: int
) -> None:
    with servers.database(template=None) as url:
        set_environment(SAGA_DATABASE_URL=url, SAGA_PORT=str(taken))
        for part in ("api", "worker", "beat"):
            result = run(part)
            assert result.exit_code == UNAVAILABLE
            assert result.stderr == "Error: The database has not been migrated. Run `saga migrate`.\n"
        for _ in range(2):
            result = run("migrate")
            assert (result.exit_code, result.stderr) == (0, "")
            assert result.stdout.startswith("The database is at revision ")
        assert "is taken" in run("api").stderr


async def sql(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


def test_a_database_that_refuses_the_migration_is_told(
    run: Run, servers: Servers, set_environment: Callable[..., None]
) -> None:
    with servers.database(template=None) as url:
        asyncio.run(sql(url, "CREATE ROLE guest LOGIN"))
        set_environment(SAGA_DATABASE_URL=url.replace("saga@", "guest@"))
        result = run("migrate")
        asyncio.run(sql(url, "DROP OWNED BY guest", "DROP ROLE guest"))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The database does not let itself be migrated: ")
    assert "permission denied" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_database_of_a_newer_version_is_left_as_it_is(
    run: Run, database_url: str, set_environment: Callable[..., None], taken: int
) -> None:
    asyncio.run(sql(database_url, "UPDATE alembic_version SET version_num = '9999'"))
    set_environment(SAGA_DATABASE_URL=database_url, SAGA_PORT=str(taken))
    newer = "The database is at revision 9999, which belongs to a newer version of this program"
    assert run("migrate").stderr == f"Error: {newer}: it can only be migrated by that one.\n"
    assert f"Warning: {newer}.\nError: Port {taken}" in run("api").stderr


# --- what else the API needs ------------------------------------------------------------------------------------


def test_a_port_that_cannot_be_had_is_told(
    run: Run, database_url: str, set_environment: Callable[..., None], taken: int
) -> None:
    set_environment(SAGA_DATABASE_URL=database_url)
    result = run("api", "--port", str(taken))
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: Port {taken} of 127.0.0.1 is taken: choose another with --port or SAGA_PORT.\n",
    )
    assert run("api", "--host", "no-such-host.invalid").stderr == (
        "Error: Nothing is known of a host no-such-host.invalid: choose another with --host or SAGA_HOST.\n"
    )
    assert "of 192.0.2.1 cannot be used: Cannot assign requested address" in run("api", "--host", "192.0.2.1").stderr


def test_definitions_that_are_wrong_keep_the_api_from_starting(
    run: Run, database_url: str, set_environment: Callable[..., None], tmp_path: Path
) -> None:
    set_environment(SAGA_DATABASE_URL=database_url, SAGA_SAGAS_DIR="sagas")
    assert run("api").stderr == "Error: The definitions in sagas are refused:\n  sagas: is not a directory\n"
    Path("sagas").mkdir()
    Path("sagas/order.yaml").write_text("name: order\nsteps:\n- {name: a, service: nowhere, action: do}\n")
    result = run("api")
    assert result.exit_code == 1
    assert "sagas/order.yaml: steps[0].compensation: is missing" in result.stderr
    assert "sagas/order.yaml: steps[0].service: there is no service 'nowhere'" in result.stderr


# --- Redis ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["worker", "beat"])
def test_a_part_waits_for_redis_and_says_so(database_url: str, part: str) -> None:
    redis_url = "redis://me:hunter2@127.0.0.1:1/0"
    with running(part, SAGA_DATABASE_URL=database_url, SAGA_REDIS_URL=redis_url) as waiting:
        assert waiting.stderr is not None
        line = waiting.stderr.readline()
        assert "Redis at 127.0.0.1:1/0 (SAGA_REDIS_URL) does not answer" in line
        assert "Waiting for it." in line
        assert "hunter2" not in line
        assert waiting.poll() is None
        waiting.terminate()
        assert waiting.wait(10) != 0


@pytest.mark.parametrize("part", ["worker", "beat"])
def test_an_address_that_no_redis_can_have_is_not_waited_for(
    run: Run, database_url: str, set_environment: Callable[..., None], part: str
) -> None:
    for url in ("hunter2", "http://hunter2:6379", "redis://me:hunter2/x@127.0.0.1"):
        set_environment(SAGA_DATABASE_URL=database_url, SAGA_REDIS_URL=url)
        result = run(part)
        assert result.exit_code == UNAVAILABLE
        assert "SAGA_REDIS_URL is not an address of Redis" in result.stderr
        assert "hunter2" not in result.stderr


# --- saga up ----------------------------------------------------------------------------------------------------


def test_what_can_be_known_of_a_house_is_told_before_anything_starts(run: Run, taken: int) -> None:
    result = run("up", "--port", str(taken), "--data", "house")
    assert result.exit_code == 1
    assert f"Port {taken} of 127.0.0.1 is taken" in result.stderr
    result = run("up", "--sagas", "none", "--data", "house", "--port", "0")
    assert result.exit_code == 1
    assert "There is no directory of definitions" in result.stderr
    Path("sagas").mkdir()
    Path("sagas/order.yaml").write_text("name: 7\n")
    result = run("up", "--sagas", "sagas", "--data", "house", "--port", "0")
    assert result.exit_code == 1
    assert "Error: The definitions in sagas are refused:\n  sagas/order.yaml: name: " in result.stderr
    assert run("up", "--workers", "0").exit_code == 2
    assert list(Path("house").glob("postgres/*")) == []


def test_the_house_takes_its_address_from_the_environment_too(
    run: Run, set_environment: Callable[..., None], taken: int
) -> None:
    set_environment(SAGA_PORT=str(taken))
    assert f"Port {taken} of 127.0.0.1 is taken" in run("up", "--data", "house").stderr
    set_environment(SAGA_PORT="http")
    result = run("up", "--data", "house")
    assert result.exit_code == 2
    assert "SAGA_PORT" in result.stderr
    assert no_traceback(result.stderr)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_not_writable_is_told(run: Run) -> None:
    result = run("up", "--data", "/proc/house")
    assert result.exit_code == 1
    assert "cannot be used" in result.stderr
