"""`saga validate`: what is wrong with a file, and what a sound one would do."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Run

SOUND = """
name: trip
steps:
  - {name: flight, service: flights, action: book, compensation: cancel, depends_on: []}
  - {name: hotel, service: hotels, action: book, compensation: cancel, depends_on: []}
  - {name: mail, service: mail, action: send, compensation: none, depends_on: [flight, hotel]}
"""
SERVICES = "{flights: {url: 'http://127.0.0.1:1'}, hotels: {url: 'http://127.0.0.1:2'}, mail: {python: ./mail.py}}"

pytestmark = pytest.mark.usefixtures("alone")


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


def test_a_sound_definition_shows_its_plan(run: Run) -> None:
    write("trip.yaml", SOUND)
    result = run("validate", "trip.yaml")
    assert result.exit_code == 0
    assert result.stdout == (
        "trip.yaml: sound, trip of 3 steps\n"
        "  What runs, in this order:\n"
        "    1. flight + hotel\n"
        "    2. mail\n"
        "  What is undone, in this order, where a step is refused:\n"
        "    flight: hotel\n"
        "    hotel: flight\n"
        "    mail: flight + hotel\n"
    )


def test_every_fault_is_told_with_its_file_and_place(run: Run) -> None:
    write("bad.yaml", "name: 1x\nsteps:\n - {name: a, service: s, action: do, retry: {max_attempts: none}}\n")
    write("worse.yaml", "name: [\n")
    result = run("validate", "bad.yaml", "worse.yaml", "none.yaml")
    assert result.exit_code == 1
    assert result.stdout.startswith("bad.yaml: wrong, 3 faults\n  name: must be a letter")
    for said in (
        "  steps[0].compensation: is missing",
        "  steps[0].retry.max_attempts: must be a whole number",
        "worse.yaml: wrong, 1 fault\n  line 2, column 1:",
        "none.yaml: wrong, 1 fault\n  cannot be read: No such file or directory",
    ):
        assert said in result.stdout


def test_a_directory_is_checked_as_a_whole(run: Run) -> None:
    write("sagas/trip.yaml", SOUND)
    write("sagas/again.yml", SOUND.replace("mail", "post"))
    write("sagas/services.yaml", SERVICES)
    result = run("validate", "sagas", "--json")
    assert result.exit_code == 1
    found = {Path(each["file"]).name: each for each in json.loads(result.stdout)}
    assert found["services.yaml"]["services"] == ["flights", "hotels", "mail"]
    assert [fault["path"] for fault in found["again.yml"]["errors"]] == ["steps[2].service"]
    assert [fault["path"] for fault in found["trip.yaml"]["errors"]] == []
    assert found["trip.yaml"]["plan"]["forward"] == [["flight", "hotel"], ["mail"]]


def test_services_are_looked_up_in_the_file_beside(run: Run) -> None:
    write("sagas/trip.yaml", SOUND)
    write("sagas/services.yaml", "flights: {url: 'http://127.0.0.1:1'}\nhotels: {}\n")
    result = run("validate", "sagas/trip.yaml")
    assert result.exit_code == 1
    assert "steps[2].service: there is no service 'mail'" in result.stdout


def test_an_input_schema_that_is_none_is_a_fault(run: Run) -> None:
    write("trip.yaml", SOUND + "input_schema: {type: nonsense}\n")
    assert "input_schema" in run("validate", "trip.yaml").stdout


def test_an_empty_directory_is_no_success(run: Run) -> None:
    Path("empty").mkdir()
    result = run("validate", "empty")
    assert (result.exit_code, result.stderr) == (1, "Error: There is no definition there.\n")


ODD = {
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "NUL": b"\x00",
    "deep": b"[" * 5000,
    "endless": b"&a [*a, *a]",
    "a list": b"- " * 9999,
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_no_file_breaks_it(run: Run, content: bytes) -> None:
    Path("odd.yaml").write_bytes(content)
    result = run("validate", "odd.yaml", ".")
    assert result.exit_code == 1
    assert "odd.yaml: wrong" in result.stdout


def test_the_examples_are_sound(run: Run) -> None:
    for example in ("order", "payment"):
        assert run("validate", str(ROOT / "examples" / example / "sagas")).exit_code == 0
