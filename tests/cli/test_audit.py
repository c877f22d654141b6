"""`saga audit`: who changed what, as the API tells it."""

import json

import pytest

from tests.cli.conftest import Run
from tests.cli.fake import ID, FakeApi, page

AUDIT = "GET /admin/api/audit"
RETRIED = {
    "at": "2026-11-21T22:58:00.000001Z",
    "actor": "user:ada",
    "action": "retry",
    "saga_id": ID,
    "subject": None,
    "reason": "stock was\x1b[31m recounted",
    "before": {"state": "COMPENSATION_FAILED"},
    "after": {"state": "COMPENSATING"},
    "address": "127.0.0.1",
}
REGISTERED = {
    "at": "2026-11-21T20:00:00.000000Z",
    "actor": "house:files",
    "action": "put-definition",
    "saga_id": None,
    "subject": "definition/order",
    "reason": None,
    "before": None,
    "after": {"version": 1},
    "address": None,
}


def test_each_line_says_who_did_what_to_what_and_why(api: FakeApi, run: Run) -> None:
    api.answers[AUDIT] = page(RETRIED, REGISTERED)
    assert run("audit").stdout == (
        "AT                       WHO          FROM       DID             TO\n"
        f"2026-11-21 22:58:00 UTC  user:ada     127.0.0.1  retry           {ID}\n"
        "  stock was\\x1b[31m recounted\n"
        "2026-11-21 20:00:00 UTC  house:files             put-definition  definition/order\n"
    )
    assert api.asked[0].query == [("limit", "50")]


def test_filters_are_handed_on(api: FakeApi, run: Run) -> None:
    api.answers[AUDIT] = page()
    given = {
        "actor": "key:1",
        "action": "retry",
        "saga_id": ID,
        "subject": "key/2",
        "created_after": "2026-11-21T00:00:00Z",
        "created_before": "2026-11-22T00:00:00Z",
    }
    options = [f"--{name.removesuffix('_id').replace('_', '-')}={value}" for name, value in given.items()]
    assert run("audit", *options, "--limit", "7").stdout == "Nobody has changed anything that matches.\n"
    assert dict(api.asked[0].query) == given | {"limit": "7"}


@pytest.mark.parametrize("option", ["--json", "--jsonl"])
def test_programs_get_json(api: FakeApi, run: Run, option: str) -> None:
    api.answers[AUDIT] = page(RETRIED, REGISTERED)
    shown = run("audit", option).stdout
    found = [json.loads(line) for line in shown.splitlines()]
    assert found == (
        [{"items": [RETRIED, REGISTERED], "next_cursor": None}] if option == "--json" else [RETRIED, REGISTERED]
    )


def test_an_export_goes_on_to_the_last_page(api: FakeApi, run: Run) -> None:
    api.answers[AUDIT] = [page(RETRIED, cursor="9"), page(REGISTERED)]
    lines = run("audit", "--jsonl", "--action", "retry").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [RETRIED, REGISTERED]
    assert [dict(asked.query).get("cursor") for asked in api.asked] == [None, "9"]
    assert all(("action", "retry") in asked.query for asked in api.asked)
