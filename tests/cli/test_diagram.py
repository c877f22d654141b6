"""`saga diagram`: whom it asks, and what it draws by itself."""

from pathlib import Path

import pytest

from app.saga.definition import parse_definition
from app.saga.diagram import mermaid, svg
from app.saga.yaml12 import load_yaml
from tests.cli.conftest import Run
from tests.cli.fake import ID, FakeApi, Says, page, problem

TRIP = """
name: trip
steps:
  - {name: flight, service: flights, action: book, compensation: cancel}
  - {name: mail, service: mail, action: send, compensation: none}
"""
MERMAID = Says(body="flowchart LR\n", headers={"Content-Type": "text/vnd.mermaid; charset=utf-8"})
DRAWN = Says(body="<svg/>\n", headers={"Content-Type": "image/svg+xml"})
NO_DEFINITION = problem(404, "definition-not-found", "There is no definition order-1042.")
NO_SAGA = problem(404, "saga-not-found", f"There is no saga {ID}.")


def test_a_definition_is_drawn_by_the_server(api: FakeApi, run: Run) -> None:
    api.answers["GET /definitions/trip/diagram"] = MERMAID
    result = run("diagram", "trip")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "flowchart LR\n", "")
    assert api.asked[0].headers["accept"].startswith("text/vnd.mermaid")


def test_a_saga_is_drawn_by_its_id(api: FakeApi, run: Run) -> None:
    api.answers[f"GET /sagas/{ID}/diagram"] = DRAWN
    assert run("diagram", ID, "--svg").stdout == "<svg/>\n"
    assert [asked.headers["accept"].partition(",")[0] for asked in api.asked] == ["image/svg+xml"]


@pytest.mark.parametrize("key", ["order-1042", "order/1042"])
def test_a_saga_is_drawn_by_its_key(api: FakeApi, run: Run, key: str) -> None:
    api.answers["GET /definitions/order-1042/diagram"] = NO_DEFINITION
    api.answers["GET /sagas"] = page({"id": ID})
    api.answers[f"GET /sagas/{ID}/diagram"] = MERMAID
    assert run("diagram", key).stdout == "flowchart LR\n"
    assert ("key", key) in api.asked[-2].query


def test_what_is_neither_is_told(api: FakeApi, run: Run) -> None:
    api.answers["GET /definitions/trip/diagram"] = NO_DEFINITION
    api.answers["GET /sagas"] = page()
    result = run("diagram", "trip")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: There is no definition trip, and no saga with this key.\n"


def test_a_saga_that_does_not_exist_is_told(api: FakeApi, run: Run) -> None:
    api.answers[f"GET /sagas/{ID}/diagram"] = NO_SAGA
    api.answers["GET /sagas"] = page()
    result = run("diagram", ID)
    assert (result.exit_code, result.stderr) == (1, f"Error: There is no saga {ID}. (saga-not-found)\n")


def test_another_server_is_not_taken_for_the_api(api: FakeApi, run: Run) -> None:
    api.answers["GET /definitions/trip/diagram"] = Says(body="<html>", headers={"Content-Type": "text/html"})
    result = run("diagram", "trip", "-o", "trip.mmd")
    assert result.exit_code == 1
    assert "does not answer as a saga API would" in result.stderr
    assert not Path("trip.mmd").exists()


def test_a_file_is_drawn_without_a_server(run: Run) -> None:
    Path("trip.yaml").write_text(TRIP)
    definition = parse_definition(load_yaml(TRIP.encode()), None)
    assert run("diagram", "trip.yaml").stdout == mermaid(definition)
    assert run("diagram", "trip.yaml", "--svg").stdout == svg(definition)


def test_the_name_of_the_output_tells_its_form(run: Run) -> None:
    Path("trip.yaml").write_text(TRIP)
    for name, begin in (("trip.svg", "<svg "), ("trip.mmd", "flowchart LR\n")):
        result = run("diagram", "trip.yaml", "-o", name)
        assert (result.exit_code, result.stdout) == (0, "")
        assert Path(name).read_text(encoding="utf-8").startswith(begin)


def test_a_file_that_cannot_be_drawn_is_told(run: Run) -> None:
    Path("trip.yaml").write_text(TRIP.replace("compensation: none", "pivot: 3"))
    Path("services.yaml").write_text("{flights: {url: 'http://127.0.0.1:1'}, mail: {url: 'http://127.0.0.1:1'}}")
    for arguments, said in {
        ("none.yaml",): "none.yaml: cannot be read",
        ("trip.yaml",): "trip.yaml: steps[1].pivot: ",
        ("services.yaml",): "holds services",
        ("services.yaml", "-o", "none/trip.svg"): "holds services",
    }.items():
        result = run("diagram", *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert said in result.stderr
    Path("trip.yaml").write_text(TRIP)
    result = run("diagram", "trip.yaml", "-o", "none/trip.svg")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: none/trip.svg cannot be written: No such file or directory.\n",
    )
