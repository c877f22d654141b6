"""`saga doctor`: for each thing that may be wrong, the line that says so and what to do."""

import base64
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli import doctor
from app.local.directory import RunningHouse
from app.local.locks import lock_file
from app.reach import AnsweringDatabase
from app.store.sealing import Sealer
from tests.cli.conftest import Run
from tests.cli.fake import FakeApi, Says, problem
from tests.cli.test_keys import put

DEAD = 2**22 + 1  # above the largest process id
READY = Says(body={"status": "ready", "database": "ok", "redis": "ok"})


@pytest.fixture
def looks(
    run: Run, api: FakeApi, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, dict[str, str]]]:
    """What the doctor finds, by what it looked at. Everything is well but for what a test changes."""
    Path("sagas").mkdir()
    Path("sagas/order.yaml").write_text("name: o\nsteps: [{name: a, service: shop, action: do, compensation: none}]\n")
    Path("sagas/services.yaml").write_text("shop: {url: 'http://127.0.0.1:1'}\n")
    api.answers |= {
        "GET /readyz": READY,
        "GET /definitions": Says(body={"items": []}),
        "GET /services": Says(body={"items": [{"name": "shop", "url": api.url}, {"name": "f", "url": None}]}),
        "GET /metrics": Says(body="saga_stuck 0\nsaga_oldest_overdue_seconds 0.5\n"),
    }
    monkeypatch.setattr(doctor, "waiting_at_redis", lambda _: 2)

    def look(*arguments: str, exit_code: int = 0, **environment: str) -> dict[str, dict[str, str]]:
        settings = {"SAGA_DATABASE_URL": database_url, "SAGA_REDIS_URL": redis_url, "SAGA_SAGAS_DIR": "sagas"}
        for name, value in (settings | environment).items():
            monkeypatch.setenv(name, value)
        result = run("doctor", "--json", *arguments)
        assert result.exit_code == exit_code, result.output
        return {finding["what"]: finding for finding in json.loads(result.stdout)}

    return look


Looks = Callable[..., dict[str, dict[str, str]]]


def test_a_house_that_is_well(looks: Looks, run: Run) -> None:
    found = looks()
    assert {finding["result"] for finding in found.values()} == {"ok"}
    assert list(found) == [
        *("python", "settings", "data", "database", "schema", "clock", "redis", "sagas", "api", "workers", "service"),
    ]
    lines = run("doctor").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("ok ")] == list(found)
    assert max(map(len, lines)) <= 80


CASES: dict[str, tuple[dict[str, str], str, str, str]] = {
    "settings": ({"SAGA_STUCK_AFTER": "-1"}, "settings", "fail", "SAGA_STUCK_AFTER=-1"),
    "no database": ({"SAGA_DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c"}, "database", "fail", "does not answer"),
    "no Redis": ({"SAGA_REDIS_URL": "redis://127.0.0.1:1"}, "redis", "fail", "does not answer"),
    "no sagas": ({"SAGA_SAGAS_DIR": "none"}, "sagas", "fail", "there is no directory none"),
    "no API": ({"SAGA_URL": "http://127.0.0.1:1"}, "api", "fail", "cannot reach http://127.0.0.1:1"),
    "no address": ({"SAGA_URL": "here"}, "api", "fail", "is not an address"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_environment_may_have_wrong(looks: Looks, name: str) -> None:
    environment, what, result, says = CASES[name]
    found = looks(exit_code=1, **environment)[what]
    assert found["result"] == result
    assert says in found["says"]


def test_a_database_without_our_tables(looks: Looks, servers: Any) -> None:
    with servers.database(template=None) as url:
        found = looks(exit_code=1, SAGA_DATABASE_URL=url)["schema"]
    assert (found["result"], found["advice"]) == ("fail", "run `saga migrate`")


def a_database(**more: Any) -> Callable[[str], AnsweringDatabase]:
    facts = {"version": "15.4", "ahead_seconds": 0.0, "round_trip_seconds": 0.001, "revision": "2", "known": ("1", "2")}
    return lambda _: AnsweringDatabase(**facts | more)


@pytest.mark.parametrize(
    ("facts", "what", "result", "says"),
    [
        ({"version": "14.9"}, "database", "fail", "PostgreSQL 14.9 is too old"),
        ({"revision": "1"}, "schema", "fail", "The database is at revision 1, and 2 is needed"),
        ({"revision": "3"}, "schema", "warn", "revision 3 is of a newer version"),
        ({"ahead_seconds": 61.0}, "clock", "warn", "the database's clock is 1m 01s ahead of this machine's"),
        ({"ahead_seconds": -2.5}, "clock", "warn", "the database's clock is 2.50 s behind this machine's"),
        ({"ahead_seconds": 2.5, "round_trip_seconds": 3.0}, "clock", "ok", "differs"),
    ],
)
def test_what_a_database_may_have_wrong(
    looks: Looks, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], what: str, result: str, says: str
) -> None:
    monkeypatch.setattr(doctor, "ask_database", a_database(**facts))
    found = looks(exit_code=1 if result == "fail" else 0)[what]
    assert found["result"] == result
    assert says in found["says"]


def test_keys_that_payloads_need_are_asked_for(looks: Looks, database_url: str) -> None:
    key = base64.b64encode(bytes(32)).decode()
    assert "keys" not in looks()
    assert looks(SAGA_PAYLOAD_KEYS=f"k1:{key}")["keys"]["result"] == "ok"
    put(database_url, "input", sealer=Sealer("k1", {"k1": bytes(32)}))
    assert looks(SAGA_PAYLOAD_KEYS=f"k2:{key} k1:{key}")["keys"]["result"] == "ok"
    found = looks(SAGA_PAYLOAD_KEYS=f"k2:{key}")["keys"]
    assert (found["result"], "k1" in found["says"], key in str(found)) == ("warn", True, False)


@pytest.mark.parametrize(
    ("call", "answer", "what", "result", "says"),
    [
        ("GET /readyz", problem(503, "not-ready", "The database is gone."), "api", "fail", "it is not ready: The"),
        ("GET /readyz", Says(body={"status": "degraded", "redis": "gone"}), "api", "warn", "degraded: redis gone"),
        ("GET /definitions", problem(401, "no", "An API key is needed."), "api", "fail", "refuses us: An API key"),
        ("GET /readyz", Says(body="<html>"), "api", "fail", "does not answer as a saga API would"),
        ("GET /metrics", Says(body="saga_oldest_overdue_seconds 99\n"), "workers", "fail", "work has waited for 1m"),
        ("GET /services", Says(body={"items": []}), "services", "ok", "none is called over HTTP"),
        (
            "GET /services",
            Says(body={"items": [{"name": "x", "url": "http://127.0.0.1:1"}, {"name": "y", "url": "nonsense"}]}),
            "service",
            "warn",
            "cannot be reached",
        ),
    ],
)
def test_what_the_api_may_tell(
    looks: Looks, api: FakeApi, call: str, answer: Says, what: str, result: str, says: str
) -> None:
    api.answers[call] = answer
    found = looks(exit_code=1 if result == "fail" else 0)[what]
    assert found["result"] == result
    assert says in found["says"]


def test_definitions_that_are_wrong(looks: Looks) -> None:
    Path("sagas/worse.yaml").write_text("name: 1\n")
    found = looks(exit_code=1)["sagas"]
    assert (found["says"], found["advice"]) == ("worse.yaml in sagas: wrong", "see `saga validate sagas`")


def test_no_worker_listens(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "waiting_at_redis", lambda _: 0)
    assert looks()["workers"]["result"] == "warn"


def test_services_of_the_files_are_tried_where_no_api_answers(looks: Looks) -> None:
    found = looks(exit_code=1, SAGA_URL="http://127.0.0.1:1")["service"]
    assert (found["result"], found["says"][:30]) == ("warn", "shop at http://127.0.0.1:1 can")


def test_without_anything_it_says_what_to_begin_with(run: Run) -> None:
    found = {each["what"]: each for each in json.loads(run("doctor", "--json").stdout)}
    assert found["database"]["result"] == found["redis"]["result"] == "warn"
    assert found["api"]["result"] == "fail"
    assert "start one with `saga up`" in found["api"]["advice"]


@pytest.fixture
def house(alone: None, server: FakeApi) -> Iterator[Callable[..., None]]:
    locks = []

    def stands(**parts: int) -> None:
        Path(".saga").mkdir()
        locks.append(lock_file(Path(".saga/lock")))
        RunningHouse(server.url, 1, "-", True, "postgresql://127.0.0.1:1/x", "redis://127.0.0.1:1", parts).tell(
            Path(".saga")
        )

    yield stands
    for lock in locks:
        os.close(lock)


def test_the_workers_of_a_house_are_counted(house: Callable[..., None], server: FakeApi, run: Run) -> None:
    server.forget()
    house(**{"worker-1": os.getpid(), "worker-2": DEAD, "beat": os.getpid()})
    found = {each["what"]: each for each in json.loads(run("doctor", "--json").stdout)}
    assert found["workers"]["says"] == "1 alive, nothing is overdue"
    assert "127.0.0.1:1/x" in found["database"]["says"], "the house says where its database is"


def test_a_house_whose_workers_are_all_gone(house: Callable[..., None], server: FakeApi, run: Run) -> None:
    server.forget()
    house(**{"worker-1": DEAD})
    found = {each["what"]: each for each in json.loads(run("doctor", "--json").stdout)}
    assert found["workers"]["result"] == "fail"


def test_a_silent_service_is_a_service_that_listens(looks: Looks, api: FakeApi) -> None:
    """It is sent nothing, so it need not answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        api.answers["GET /services"] = Says(body={"items": [{"name": "x", "url": url}]})
        assert looks()["service"]["result"] == "ok"
        listener.settimeout(5)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1) == b""
