"""A command line of its own for each test: no settings of yours, an empty directory, an API that is scripted."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import saga
from app.settings import get_settings
from tests.cli.fake import FakeApi

ROOT = Path(__file__).parents[2]
Run = Callable[..., Result]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("SAGA_") or name == "NO_COLOR":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]  # the options of `saga api` are set there
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def server() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        yield fake


@pytest.fixture
def api(server: FakeApi, alone: None, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    """The API that SAGA_URL points to."""
    server.forget()
    monkeypatch.setenv("SAGA_URL", server.url)
    monkeypatch.setenv("SAGA_API_KEY", "key.secret")
    return server


@pytest.fixture
def run(alone: None) -> Run:
    """`run("list", "--json")`: the command, within this process."""

    def run_it(*arguments: str, stdin: str | None = None, color: bool = False) -> Result:
        result = CliRunner().invoke(saga, list(arguments), input=stdin, color=color, prog_name="saga")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run_it


@pytest.fixture
def process(alone: None) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`process("api", SAGA_PORT="x")`: the command, as a process."""

    def run_it(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), env=environ(**environment), capture_output=True, text=True, timeout=60, check=False
        )

    return run_it


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "app.cli", *arguments]


def environ(**more: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}
    return ours | {"PYTHONPATH": str(ROOT)} | more


def no_traceback(text: str) -> bool:
    return not re.search(r"Traceback|File \"", text)
