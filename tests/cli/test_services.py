"""The services: which call each command is, and what is said of them."""

import pytest

from tests.cli.conftest import Run
from tests.cli.fake import FakeApi, Says, problem

SHOP = {"name": "shop", "url": "http://127.0.0.1:9001", "python": None, "max_in_flight": None, "paused": None}
PAUSE = {"since": "2026-11-21T22:00:00.000000Z", "by": "user:ada", "reason": "it is being moved"}


def test_those_that_are_paused_say_since_when_and_why(api: FakeApi, run: Run) -> None:
    api.answers["GET /services"] = Says(body={"items": [SHOP, {**SHOP, "name": "till", "paused": PAUSE}]})
    said = run("services").stdout.splitlines()
    assert [line.split()[0] for line in said[:3]] == ["NAME", "shop", "till"]
    assert "paused" not in said[1]
    assert said[2].rstrip().endswith("paused")
    assert "by user:ada: it is being moved" in said[3]
    assert run("services", "list").stdout.splitlines() == said


def test_there_is_none(api: FakeApi, run: Run) -> None:
    api.answers["GET /services"] = Says(body={"items": []})
    assert run("services").stdout == "There is no service yet.\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("pause", "shop is paused: nothing new is sent to it.\n"),
        ("resume", "shop goes on: what waits for it is sent now.\n"),
    ],
)
def test_each_command_is_one_call(api: FakeApi, run: Run, command: str, said: str) -> None:
    call = f"POST /admin/api/services/shop/{command}"
    api.answers[call] = Says(body=SHOP)
    result = run("services", command, "shop", "--reason", "because")
    assert (result.exit_code, result.stderr, result.stdout) == (0, "", said)
    (asked,) = api.asked
    assert (f"{asked.method} {asked.path}", asked.body) == (call, {"reason": "because"})
    api.answers[call] = problem(409, "not-paused", "shop is not paused.")
    refused = run("services", command, "shop", "--reason", "because")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "shop is not paused." in refused.stderr
    assert run("services", command, "shop").exit_code == 2
