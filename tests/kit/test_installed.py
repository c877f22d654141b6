"""The kit as a distribution: what it brings, what it needs, and its command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine, inspect, select

from saga_participant.events import FIELD, STREAM, Event
from saga_participant.tables import inbox, metadata
from tests.waiting import until

ROOT = Path(__file__).parents[2]
SERVICE = """
from sqlalchemy import create_engine
from saga_participant.participant import Participant

engine = create_engine("sqlite:///service.sqlite")
shop = Participant("shop", engine, redis_url={redis_url!r}, correlation="data.order_id")

@shop.on("OrderNoted")
def note(event, session):
    if event.data["order_id"] == "bad":
        raise ValueError("bad")
"""
BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name + " is not installed")

sys.meta_path.insert(0, Block())
"""


def test_the_wheel_holds_the_package_and_needs_three_others(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT / "saga_participant", source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    ran = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / ran.stdout.splitlines()[-1]) as wheel:
        names = wheel.namelist()
        information = wheel.read(next(name for name in names if name.endswith("METADATA"))).decode()
    files = {path.name for path in (ROOT / "saga_participant").glob("*.py")} | {"py.typed"}
    assert {name.removeprefix("saga_participant/") for name in names if ".dist-info" not in name} == files
    needed = [line for line in information.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert len(needed) == 3


def test_both_distributions_are_of_one_version():
    versions = [
        tomllib.loads((ROOT / where / "pyproject.toml").read_text())["project"]["version"]
        for where in (".", "saga_participant")
    ]
    assert versions[0] == versions[1]


def test_it_works_where_the_orchestrator_is_not_installed():
    blocked = {
        "app",
        "workers",
        "celery",
        "kombu",
        "alembic",
        "asyncpg",
        "pydantic_settings",
        "orjson",
        "jmespath",
        "prometheus_client",
    }
    modules = [path.stem for path in (ROOT / "saga_participant").glob("*.py") if not path.stem.startswith("__")]
    code = BLOCK.format(blocked=blocked) + "".join(f"import saga_participant.{name}\n" for name in modules)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_the_workers_import_stays_cheap():
    code = (
        BLOCK.format(blocked={"sqlalchemy", "redis", "aiohttp", "fastapi"})
        + "import saga_participant, saga_participant.events"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_alembic_revision_makes_and_removes_the_tables():
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    from saga_participant import tables

    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        tables.upgrade(operations)
        assert set(inspect(connection).get_table_names()) == set(metadata.tables)
        made = {index["name"] for table in metadata.tables for index in inspect(connection).get_indexes(table)}
        assert {"saga_outbox_state_kind_id", "saga_inbox_state_lane_id"} <= made
        tables.downgrade(operations)
        assert inspect(connection).get_table_names() == []
    engine.dispose()


@pytest.fixture
def service_directory(tmp_path, redis_url):
    (tmp_path / "shop.py").write_text(SERVICE.format(redis_url=redis_url))
    engine = create_engine(f"sqlite:///{tmp_path / 'service.sqlite'}")
    metadata.create_all(engine)
    yield tmp_path
    engine.dispose()


def command(directory, *words):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "saga_participant", *words]
    return subprocess.run(line, cwd=directory, env=environment, capture_output=True, text=True, check=False)


async def test_the_command_runs_until_it_is_told_to_end(service_directory, redis_url):
    with redis.Redis.from_url(redis_url) as client:
        client.xadd(STREAM, {FIELD: Event("OrderNoted", "s", {"order_id": "1"}).to_json()})
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "saga_participant", "run", "shop:shop"]
    process = subprocess.Popen(line, cwd=service_directory, env=environment)  # noqa: ASYNC220
    engine = create_engine(f"sqlite:///{service_directory / 'service.sqlite'}")
    try:

        def is_done():
            with engine.connect() as connection:
                return connection.execute(select(inbox.c.state)).scalars().all() == ["done"]

        await until(is_done, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        engine.dispose()
        process.kill()
        process.wait()


def test_dead_letters_are_shown_and_retried(service_directory):
    from saga_participant.inbox import entry, keep

    engine = create_engine(f"sqlite:///{service_directory / 'service.sqlite'}")
    event = Event("OrderNoted", "s", {"order_id": "1"})
    with engine.begin() as connection:
        keep(connection, [entry("s", event.id, "note", None, event.to_json(), error="bad")])
    engine.dispose()
    shown = command(service_directory, "dead-letters", "shop:shop")
    letter = json.loads(shown.stdout)
    assert (letter["event_id"], letter["error"]) == (event.id, "bad")
    assert command(service_directory, "retry", "shop:shop", str(letter["id"])).returncode == 0
    assert command(service_directory, "dead-letters", "shop:shop").stdout == ""
    again = command(service_directory, "retry", "shop:shop", str(letter["id"]))
    assert again.returncode == 1
    assert "There is no dead letter" in again.stderr


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("shop", "is not MODULE:OBJECT"),
        ("none:x", "cannot be imported"),
        ("shop:none", "has no none"),
        ("shop:engine", "is not a Participant"),
    ],
    ids=["form", "module", "object", "kind"],
)
def test_a_wrong_name_is_told_in_a_sentence(service_directory, where, sentence):
    ran = command(service_directory, "run", where)
    assert ran.returncode == 1
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr
