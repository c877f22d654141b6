"""A folder of definitions and services: taken as a whole or not at all, every fault with its file and path."""

from pathlib import Path
from typing import Any

import pytest

from app.house import House
from app.registration import RegistrationFailed, check_file, read_folder, register_folder
from app.settings import Settings
from app.store.audit import AuditEntry
from tests.api.conftest import Client, serve
from tests.conftest import Servers
from tests.waiting import until

SERVICES = """
stock: {url: "http://127.0.0.1:9001", headers: {X-Env: test}, max_in_flight: 5}
ledger: {python: "./ledger.py"}
"""
ORDER = """
name: order
steps:
  - {name: reserve, service: stock, action: reserve, compensation: release}
  - {name: book, service: ledger, action: book, compensation: none}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "services.yaml").write_text(SERVICES)
    (tmp_path / "order.yaml").write_text(ORDER)
    (tmp_path / "ledger.py").write_text("")
    return tmp_path


async def test_it_is_registered_once(folder: Path, house: House) -> None:
    assert await register_folder(folder, house.definitions, house.services) == (["stock", "ledger"], ["order v1"])
    assert await register_folder(folder, house.definitions, house.services) == ([], [])
    (folder / "services.yaml").write_text(SERVICES.replace("9001", "9002"))
    (folder / "order.yaml").write_text(ORDER.replace("release", "give-back"))
    assert await register_folder(folder, house.definitions, house.services) == (["stock"], ["order v2"])
    ledger = (await house.services.read())["ledger"]
    assert (ledger.python, ledger.url) == ("./ledger.py", None)


async def test_a_service_that_is_paused_is_not_changed_by_the_folder(folder: Path, house: House) -> None:
    await register_folder(folder, house.definitions, house.services)
    await house.services.pause("stock", AuditEntry("ada", "pause-service", "it is being moved", None, None), "")
    assert await register_folder(folder, house.definitions, house.services) == ([], [])
    pause = (await house.services.read())["stock"].pause
    assert pause is not None
    assert pause.by == "ada"


async def test_every_fault_of_every_file_is_told_and_nothing_is_registered(folder: Path, house: House) -> None:
    (folder / "broken.yaml").write_text("a: [")
    (folder / "payment.yaml").write_text("name: payment\nsteps: []\ninput_schema: {type: x}\n")
    (folder / "twice.yml").write_text(ORDER.replace("stock", "nowhere"))
    (folder / "zero.yaml").write_text(ORDER)
    (folder / "services.yaml").write_text(SERVICES + "bad: {url: x, python: y}\nworse: 5\n")
    with pytest.raises(RegistrationFailed) as failed:
        await register_folder(folder, house.definitions, house.services)
    told = [(fault.file.name, fault.path) for fault in failed.value.faults]
    assert told == [
        ("broken.yaml", ""),
        ("services.yaml", "bad.url"),
        ("services.yaml", "bad.python"),
        ("services.yaml", "worse"),
        ("payment.yaml", "steps"),
        ("payment.yaml", "input_schema.type"),
        ("twice.yml", "steps[0].service"),
        ("zero.yaml", "name"),
    ]
    assert f"{folder / 'payment.yaml'}: steps: " in str(failed.value)
    assert await house.services.read() == {}
    assert await house.definitions.names() == []


def test_one_file_can_be_checked_alone(folder: Path) -> None:
    assert check_file(folder / "order.yaml") == []
    assert check_file(folder / "services.yaml") == []
    (folder / "order.yaml").write_text(ORDER.replace("stock", "nowhere"))
    assert [fault.path for fault in check_file(folder / "order.yaml")] == ["steps[0].service"]
    (folder / "services.yaml").unlink()
    assert check_file(folder / "order.yaml") == []  # nobody knows the services here
    assert [fault.message for fault in check_file(folder / "none.yaml")] == [
        "cannot be read: No such file or directory"
    ]


def test_a_folder_that_is_none_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(RegistrationFailed, match="is not a directory"):
        read_folder(tmp_path / "none").definitions(None)


class TestAtStart:
    async def test_the_api_registers_its_folder(self, folder: Path, settings: Settings) -> None:
        async with serve(with_folder(settings, folder)) as (api, _):
            assert [each["name"] for each in (await api.get("/definitions")).json["items"]] == ["order"]
            services = (await api.get("/services")).json["items"]
            assert [(each["name"], each["python"]) for each in services] == [("ledger", "./ledger.py"), ("stock", None)]

    async def test_a_wrong_folder_keeps_it_from_starting(self, folder: Path, settings: Settings) -> None:
        (folder / "order.yaml").write_text(ORDER.replace("stock", "nowhere"))
        with pytest.raises(SystemExit):
            async with serve(with_folder(settings, folder)):
                pass

    async def test_it_waits_for_a_database_that_is_not_migrated_yet(
        self, folder: Path, servers: Servers, settings: Settings
    ) -> None:
        with servers.database(template=None) as url:
            given: dict[str, Any] = {"database_url": url}
            async with serve(with_folder(settings, folder, **given)) as (api, _):
                assert (await api.get("/readyz")).status == 503
                await migrate_elsewhere(url)
                await until(lambda: is_ready(api))
                assert [each["name"] for each in (await api.get("/definitions")).json["items"]] == ["order"]


def with_folder(settings: Settings, folder: Path, **more: Any) -> Settings:
    return Settings(**settings.model_dump() | {"sagas_dir": folder, **more})


async def is_ready(api: Client) -> bool:
    return (await api.get("/readyz")).status == 200


async def migrate_elsewhere(url: str) -> None:
    """Migrations run a loop of their own."""
    import asyncio

    from app.parts import migrate

    await asyncio.to_thread(migrate, Settings(database_url=url))
