"""Whom the servers run as: ourselves, and for root somebody else where PostgreSQL insists."""

import os
import pwd
import re
import shutil
import site
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.local.postgres import EmbeddedPostgres
from app.local.valkey import EmbeddedValkey

from .asking import query

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has somebody to become")


def kernel_status_of(pid: int | None) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


@as_root
async def test_root_gives_postgres_to_nobody_and_leaves_all_directories_alone(reachable: Path) -> None:
    private = reachable / "home"
    private.mkdir(mode=0o700)
    for directory, capabilities in ((reachable / "open", 0), (private / "closed", 1)):
        with EmbeddedPostgres(directory, durable=False) as postgres:
            assert await query(postgres.url, "SELECT 1") == 1
            status = kernel_status_of(postgres.pid)
            assert status["Uid"].split() == [str(pwd.getpwnam("nobody").pw_uid)] * 4
            assert status["Groups"].split() == []
            assert int(status["CapPrm"], 16).bit_count() == capabilities
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert private.stat().st_uid == 0


ORDINARY = """
import os, sys, pathlib
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
sys.path.insert(0, sys.argv[3])
sys.path.extend(sys.argv[4:])
from app.local.postgres import EmbeddedPostgres
from app.local.valkey import EmbeddedValkey
for server in EmbeddedPostgres(pathlib.Path(sys.argv[1]) / "p"), EmbeddedValkey(pathlib.Path(sys.argv[1]) / "v"):
    with server:
        server.kill()
        server.start()
    print(server.title, "as", os.stat(server.directory / "data").st_uid)
"""


@as_root
def test_an_ordinary_user_starts_both_as_itself_and_root_goes_on_with_them(reachable: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(reachable, nobody, nobody)
    for interpreter in (sys.executable, "/usr/bin/python3"):
        done = subprocess.run(
            [interpreter, "-c", ORDINARY, reachable, str(nobody), ROOT, *site.getsitepackages()],
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if not re.search("ModuleNotFoundError|PermissionError|SyntaxError|ImportError", done.stderr):
            break
    else:
        pytest.skip("no other user can read an interpreter's library")
    assert done.stdout.splitlines() == [f"PostgreSQL as {nobody}", f"Valkey as {nobody}"], done.stderr
    with EmbeddedPostgres(reachable / "p") as postgres, EmbeddedValkey(reachable / "v") as valkey:
        assert psutil.Process(postgres.pid).uids().real == nobody
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(valkey.socket))


@as_root
def test_root_without_any_power_over_files_is_told_what_to_do(reachable: Path) -> None:
    """Nobody cannot enter the directory, and there is no capability to hand on."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    private = reachable / "home"
    private.mkdir(mode=0o700)
    script = "import sys; from app.local.postgres import *; EmbeddedPostgres(Path(sys.argv[1])).start()"
    done = subprocess.run(
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-c", script, private / "data"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "user nobody cannot enter" in done.stderr.splitlines()[-1]
    assert "start as an ordinary user, or choose another directory." in done.stderr
