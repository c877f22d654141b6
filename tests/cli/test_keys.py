"""`saga keys rotate-payloads`: what it says and how it ends; what it does to rows is told in tests/store."""

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.store.sealing import Sealer
from tests.cli.conftest import Run, no_traceback

K1, K2 = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
SAGA = "01991d6e-0000-7000-8000-000000000001"


def put(url: str, *names: str, sealer: Sealer | None = None) -> None:
    async def insert() -> None:
        connection = await asyncpg.connect(url)
        for name in names:
            row = (sealer or Sealer()).seal(SAGA, name, b"{}")
            await connection.execute("INSERT INTO saga_payload VALUES ($1, $2, $3, $4)", SAGA, name, *row)
        await connection.close()

    asyncio.run(insert())


@pytest.fixture
def rotate(run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("SAGA_DATABASE_URL", database_url)

    def rotate_with(keys: str, *arguments: str) -> Any:
        monkeypatch.setenv("SAGA_PAYLOAD_KEYS", keys)
        return run("keys", "rotate-payloads", *arguments)

    return rotate_with


def test_it_says_what_was_done_and_which_keys_may_go(rotate: Callable[..., Any], database_url: str) -> None:
    put(database_url, "a", "b")
    put(database_url, "c", sealer=Sealer("k1", {"k1": bytes([1]) * 32}))
    result = rotate(f"k2:{K2} k1:{K1}", "--batch", "1")
    assert result.exit_code == 0, result.output
    assert "3 rows were written anew; what is written is under the key k2." in result.output
    assert "SAGA_PAYLOAD_KEYS may do without: k1." in result.output
    again = rotate(f"k2:{K2} k1:{K1}")
    assert again.output.startswith("0 rows were written anew")
    off = rotate(f"plain k2:{K2}")
    assert "3 rows were written anew; what is written is plain." in off.output
    assert "may do without: k2" in off.output


def test_what_is_left_is_told_and_its_exit_code_says_so(rotate: Callable[..., Any], database_url: str) -> None:
    put(database_url, "a")
    put(database_url, "b", "c", sealer=Sealer("k1", {"k1": bytes([1]) * 32}))
    result = rotate(f"k2:{K2}")
    assert result.exit_code == 1
    assert "1 rows were written anew" in result.output
    assert "2 rows are still under the key k1." in result.output
    assert "SAGA_PAYLOAD_KEYS does not name: add it again" in result.output
    assert K2 not in result.output


def test_without_keys_there_is_nothing_to_do(rotate: Callable[..., Any], database_url: str) -> None:
    put(database_url, "a")
    assert rotate("").output == "0 rows were written anew; what is written is plain.\n"


def test_a_wrong_key_is_refused_unquoted(rotate: Callable[..., Any]) -> None:
    result = rotate("k1:secret-that-is-none")
    assert result.exit_code == 1
    assert "SAGA_PAYLOAD_KEYS: value error, the key of entry 1 must be 32 bytes in base64" in result.output
    assert "secret-that-is-none" not in result.output


def test_a_database_that_is_not_there_or_not_ready_is_said_so(
    run: Run, servers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAGA_DATABASE_URL", "postgresql://a:hidden@127.0.0.1:1/c")
    result = run("keys", "rotate-payloads")
    assert result.exit_code == 69
    assert "does not answer" in result.output
    assert "hidden" not in result.output
    with servers.database(template=None) as url:
        monkeypatch.setenv("SAGA_DATABASE_URL", url)
        result = run("keys", "rotate-payloads")
    assert (result.exit_code, "Run `saga migrate`" in result.output) == (69, True)
    result = run("keys", "rotate-payloads", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "its database is there only while it runs" in result.output
    assert no_traceback(result.output)
