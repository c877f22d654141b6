"""The whole house: it stands, mends itself, and leaves nothing behind. The parts of our own are dummies here."""

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.local.directory import RunningHouse

from .conftest import copy_cluster
from .house_process import Up, answers
from .watching import is_alive, processes_of, wait_until

StartUp = Callable[..., Up]


def test_from_nothing_to_a_house_and_back(start_up: StartUp, tmp_path: Path) -> None:
    sagas = tmp_path / "sagas"
    sagas.mkdir()
    (sagas / "order.yaml").write_text("name: order\n")
    first = start_up(sagas=str(sagas), workers=2)
    house = first.stands()
    assert house.ready
    assert answers(house.url)
    assert house.pid == first.process.pid
    assert set(house.parts) == {"postgres", "valkey", "api", "worker-1", "worker-2", "beat"}
    assert all(psutil.pid_exists(pid) for pid in house.parts.values())
    assert f"API          {house.url}\n" in first.said
    assert f"Dashboard    {house.url}/admin/login (user admin, password in credentials.json)\n" in first.said
    assert str(first.data / "credentials.json") in first.said
    assert "saga start order --input '{}'" in first.said

    told = first.told("worker")
    kept = json.loads((first.data / "credentials.json").read_text())
    assert told["SAGA_DATABASE_URL"] == house.database_url
    assert told["SAGA_REDIS_URL"] == house.redis_url
    assert told["SAGA_PUBLIC_URL"] == house.url
    assert told["SAGA_SAGAS_DIR"] == str(sagas)
    assert told["SAGA_METRICS_DIR"] == str(first.data / "metrics")
    assert told["SAGA_BOOTSTRAP_API_KEY"] == kept["api_key"]
    assert told["SAGA_ADMIN_PASSWORD"] == kept["admin_password"]
    assert told["SAGA_SECRET_KEY"] == kept["secret_key"]
    assert told["SAGA_WEBHOOK_SECRET"] == kept["webhook_secret"]
    assert kept["webhook_secret"].startswith("whsec_")
    assert len(kept["api_key"].split(".")) == 2
    for private in ("credentials.json", "house.json", "logs/api.log", "logs/postgres.log"):
        assert stat.S_IMODE((first.data / private).stat().st_mode) == 0o600

    assert first.end() == 0
    assert "Traceback" not in first.said
    assert processes_of(tmp_path) == []
    assert RunningHouse.of(first.data) is None
    assert not (first.data / "house.json").exists()

    (first.data / "metrics" / "counter_1.db").touch()
    second = start_up(sagas=str(sagas))
    second.stands()
    assert json.loads((first.data / "credentials.json").read_text()) == kept
    assert not (first.data / "metrics" / "counter_1.db").exists()
    assert "dummy api" in (first.data / "logs" / "api.log.1").read_text()
    assert second.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_parts_end_in_the_order_in_which_they_need_each_other(
    number: signal.Signals, start_up: StartUp, addresses: dict[str, str], tmp_path: Path
) -> None:
    house = start_up(addresses)
    house.stands()
    assert house.end(number) == 0
    assert house.noted() == ["beat ends", "worker ends", "api ends"]
    assert processes_of(tmp_path) == []


def test_ctrl_c_reaches_only_the_supervisor(start_up: StartUp, addresses: dict[str, str]) -> None:
    house = start_up(addresses)
    house.stands()
    os.killpg(house.process.pid, signal.SIGINT)
    assert house.ends() == 0
    assert house.noted() == ["beat ends", "worker ends", "api ends"]


def test_a_second_ctrl_c_does_not_wait_for_a_worker_that_is_busy(
    start_up: StartUp, addresses: dict[str, str], tmp_path: Path
) -> None:
    house = start_up(addresses | {"DUMMY_DEAF": "worker"})
    house.stands()
    house.process.send_signal(signal.SIGINT)
    house.wait_for("Ending")
    began = time.monotonic()
    assert house.end(signal.SIGINT) == 0
    assert time.monotonic() - began < 5
    assert "worker-1 does not end and is killed" in house.said
    assert processes_of(tmp_path) == []


def test_the_end_may_come_before_the_house_stands(start_up: StartUp, addresses: dict[str, str], tmp_path: Path) -> None:
    house = start_up(addresses | {"DUMMY_UNREADY": "1"})
    house.wait_for("worker-1 is up")
    assert house.end() == 0
    assert "Ended." in house.said
    assert processes_of(tmp_path) == []


def test_every_part_that_is_killed_comes_back(start_up: StartUp, cluster: Path, tmp_path: Path) -> None:
    copy_cluster(cluster, tmp_path / "data" / "postgres")
    up = start_up()
    before = up.stands()
    live_gauge = up.data / "metrics" / f"gauge_liveall_{before.parts['worker-1']}.db"
    live_gauge.touch()
    for pid in before.parts.values():
        os.kill(pid, signal.SIGKILL)
    for title in ("PostgreSQL", "Valkey", "api", "worker-1", "beat"):
        up.wait_for(f"{title} was ended by SIGKILL; it is started again in 0.2 s")
        up.wait_for(f"{title} is up again")
    after = RunningHouse.of(up.data)
    assert after is not None
    assert after.parts.keys() == before.parts.keys()
    assert not set(after.parts.values()) & set(before.parts.values())
    assert answers(after.url)
    assert not live_gauge.exists()
    assert up.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a parent's death is told on Linux only")
def test_nothing_outlives_a_house_that_is_killed_and_the_next_one_takes_its_place(
    start_up: StartUp, cluster: Path, tmp_path: Path
) -> None:
    copy_cluster(cluster, tmp_path / "data" / "postgres")
    first = start_up()
    house = first.stands()
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert RunningHouse.of(first.data) is None
    second = start_up(port=int(house.url.rpartition(":")[2]))
    assert second.stands().url == house.url
    assert not any(is_alive(pid) for pid in house.parts.values())
    assert second.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: processes_of(tmp_path) == [])


def test_a_terminal_that_is_gone_ends_no_house(start_up: StartUp, addresses: dict[str, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    up = start_up(addresses, stdout=write)
    os.close(write)
    wait_until(lambda: (house := RunningHouse.of(up.data)) is not None and house.ready)
    assert up.end() == 0
    assert up.said == ""


def test_servers_that_already_run_are_used(start_up: StartUp, addresses: dict[str, str]) -> None:
    up = start_up(addresses)
    house = up.stands()
    assert set(house.parts) == {"api", "worker-1", "beat"}
    assert house.database_url == addresses["SAGA_DATABASE_URL"]
    assert not (up.data / "postgres").exists()
    assert up.end() == 0


def test_credentials_of_the_environment_win_and_are_not_written_down(
    start_up: StartUp, addresses: dict[str, str], tmp_path: Path
) -> None:
    given = {"SAGA_BOOTSTRAP_API_KEY": "given.key", "SAGA_ADMIN_PASSWORD": "given password"}
    up = start_up(addresses | given)
    up.stands()
    told = up.told("api")
    assert told["SAGA_BOOTSTRAP_API_KEY"] == "given.key"
    assert told["SAGA_ADMIN_PASSWORD"] == "given password"
    assert "given" not in (up.data / "credentials.json").read_text()
    assert up.end() == 0
