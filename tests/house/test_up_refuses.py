"""A house that cannot stand says why in a sentence, with exit code 1, and leaves nothing behind."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.local import up
from app.local.directory import RunningHouse

from .house_process import DUMMY, Up, answers
from .watching import processes_of

Refuse = Callable[..., str]


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """`refuse(environment, **arguments of run)`: what it says."""
    for name in os.environ:
        if name.startswith("SAGA_"):
            monkeypatch.delenv(name)
    (tmp_path / "dummy.py").write_text(DUMMY)
    monkeypatch.setattr(up, "PROGRAM", [sys.executable, "-S", str(tmp_path / "dummy.py")])
    monkeypatch.setenv("DUMMY_NOTES", str(tmp_path / "notes"))

    def run(environment: dict[str, str] | None = None, **arguments: Any) -> str:
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        assert up.run(**({"port": 0, "data": tmp_path / "data", "workers": 1} | arguments)) == 1
        said = capsys.readouterr()
        assert said.err.startswith("Error: ")
        return said.out + said.err

    return run


def test_a_second_house_on_the_same_directory_is_refused(
    start_up: Callable[..., Up], refuse: Refuse, addresses: dict[str, str]
) -> None:
    first = start_up(addresses)
    house = first.stands()
    assert RunningHouse.of(first.data) == house
    said = refuse(addresses, data=first.data)
    assert said == f"Error: `saga up` already runs on {first.data}, as process {first.process.pid}.\n"
    assert answers(house.url)
    assert RunningHouse.of(first.data) == house


def test_a_port_that_is_taken_is_told_before_anything_is_started(refuse: Refuse, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert refuse(port=port) == f"Error: Port {port} of 127.0.0.1 is taken: choose another with --port.\n"
    assert not (tmp_path / "data" / "postgres").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"port": 70_000}, "There is no port 70000: choose one up to 65535"),
        ({"host": "203.0.113.1"}, "cannot be used: Cannot assign requested address."),
        ({"host": "no such host"}, "Nothing is known of a host no such host: choose another with --host."),
        ({"host": "x" * 70}, "Nothing is known of a host xxx"),
        ({"sagas": Path("/nowhere")}, "There is no directory of definitions /nowhere: choose another with --sagas."),
    ],
)
def test_a_wrong_argument_is_told(refuse: Refuse, arguments: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    assert sentence in refuse(**arguments)
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_data_directory_that_cannot_be_made_is_told(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for data in (tmp_path / "file", tmp_path / "file" / "data"):
        assert refuse(data=data) == f"Error: The data directory {data} cannot be used: Not a directory.\n"


AT_DATABASE = "PostgreSQL at 127.0.0.1:1/x (SAGA_DATABASE_URL) does not answer: "
NO_DATABASE_ADDRESS = "SAGA_DATABASE_URL is not an address of PostgreSQL"


@pytest.mark.parametrize(
    ("variable", "url", "sentence"),
    [
        ("SAGA_DATABASE_URL", "postgresql://me:hush@127.0.0.1:1/x", AT_DATABASE),
        ("SAGA_DATABASE_URL", "postgresql://me:hush?hush@127.0.0.1:1/x", NO_DATABASE_ADDRESS),
        ("SAGA_DATABASE_URL", "postgresql://me:hush/hush@127.0.0.1:1/x", NO_DATABASE_ADDRESS),
        ("SAGA_DATABASE_URL", "mysql://127.0.0.1/x", NO_DATABASE_ADDRESS),
        ("SAGA_REDIS_URL", "redis://:hush@127.0.0.1:1/0", "Redis at 127.0.0.1:1/0 (SAGA_REDIS_URL) does not answer: "),
        ("SAGA_REDIS_URL", "redis://:hush/hush@127.0.0.1:1/0", "SAGA_REDIS_URL is not an address of Redis"),
        ("SAGA_REDIS_URL", "unix:///nowhere/valkey.sock", "Redis at /nowhere/valkey.sock (SAGA_REDIS_URL) does not"),
    ],
)
def test_a_server_that_does_not_answer_is_told_without_its_password(
    refuse: Refuse, variable: str, url: str, sentence: str
) -> None:
    said = refuse({variable: url})
    assert sentence in said
    assert "hush" not in said


def test_migrations_that_fail_are_quoted(refuse: Refuse, addresses: dict[str, str], tmp_path: Path) -> None:
    said = refuse(addresses | {"DUMMY_WRONG": "migrate"})
    assert "The database was not migrated." in said
    assert "a mistake in the settings" in said
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("role", ["api", "worker", "beat"])
def test_a_part_that_never_comes_to_stand_is_given_up_and_quoted(
    role: str, refuse: Refuse, addresses: dict[str, str], tmp_path: Path
) -> None:
    said = refuse(addresses | {"DUMMY_WRONG": role})
    assert "started again in 0.2 s" in said
    assert "started again in 0.4 s" in said
    assert "does not come to stand: 3 times in a row it ended with exit code 1." in said
    assert "a mistake in the settings" in said
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"api_key": 1}'])
def test_damaged_credentials_are_told_and_kept(refuse: Refuse, content: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "credentials.json").write_text(content)
    assert "credentials.json is damaged: mend it, or remove it" in refuse()
    assert (tmp_path / "data" / "credentials.json").read_text() == content


def test_no_house_is_found_where_none_runs(tmp_path: Path) -> None:
    assert RunningHouse.of(tmp_path / "nowhere") is None
    (tmp_path / "lock").touch()
    (tmp_path / "house.json").write_text("{}")
    assert RunningHouse.of(tmp_path) is None
