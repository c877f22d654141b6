"""What a person does to sagas, dead letters and notices: which call each command is."""

import json
from typing import Any

import pytest

from app.cli.repair import ACTIONS
from tests.cli.conftest import Run
from tests.cli.fake import ID, OTHER, FakeApi, Says, a_saga, page, problem

WHY = ["--reason", "the bank was asked"]
BECAUSE = {"reason": "the bank was asked"}
ADMIN = f"POST /admin/api/sagas/{ID}"

CALLS: list[tuple[list[str], str, dict[str, Any]]] = [
    (["cancel", ID], f"POST /sagas/{ID}/cancel", {}),
    (["cancel", ID, *WHY], f"POST /sagas/{ID}/cancel", BECAUSE),
    (["retry", ID, *WHY], f"{ADMIN}/retry", BECAUSE),
    (["retry", ID, *WHY, "--step", "charge"], f"{ADMIN}/retry", BECAUSE | {"step": "charge"}),
    (["retry", ID, *WHY, "--input", '{"a": 1}'], f"{ADMIN}/retry", BECAUSE | {"input": {"a": 1}}),
    (["retry", ID, *WHY, "--input", "null"], f"{ADMIN}/retry", BECAUSE | {"input": None}),
    (["retry", ID, *WHY, "--confirm-not-done"], f"{ADMIN}/retry", BECAUSE | {"confirm_not_done": True}),
    (["restart", ID, *WHY], f"{ADMIN}/restart", BECAUSE),
    (["restart", ID, *WHY, "--input", "[]"], f"{ADMIN}/restart", BECAUSE | {"input": []}),
    (["skip", ID, *WHY, "--step", "charge"], f"{ADMIN}/skip", BECAUSE | {"step": "charge"}),
    (
        ["skip", ID, *WHY, "--step", "charge", "--output", "0", "--confirm-not-done"],
        f"{ADMIN}/skip",
        BECAUSE | {"step": "charge", "output": 0, "confirm_not_done": True},
    ),
    (["resolve", ID, *WHY, "--step", "charge"], f"{ADMIN}/resolve", BECAUSE | {"step": "charge"}),
    (["compensate", ID, *WHY], f"{ADMIN}/compensate", BECAUSE),
    (["abandon", ID, *WHY], f"{ADMIN}/abandon", BECAUSE),
    (["pause", ID, *WHY], f"{ADMIN}/pause", BECAUSE),
    (["resume", ID, *WHY], f"{ADMIN}/resume", BECAUSE),
    (["extend", ID, *WHY, "--timeout", "2h"], f"{ADMIN}/extend", BECAUSE | {"timeout": "2h"}),
]


@pytest.mark.parametrize(("arguments", "call", "body"), CALLS, ids=[" ".join(call[0]) for call in CALLS])
def test_each_command_is_one_call(
    api: FakeApi, run: Run, arguments: list[str], call: str, body: dict[str, Any]
) -> None:
    api.answers[call] = Says(200, a_saga(paused=True))
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"order {ID} is EXECUTING, paused\n")
    (asked,) = api.asked
    assert f"{asked.method} {asked.path}" == call
    assert asked.body == body


def test_every_action_is_tried_above() -> None:
    assert {arguments[0] for arguments, _, _ in CALLS} == set(ACTIONS)


@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "cancel"])
def test_an_operators_action_asks_for_a_reason(api: FakeApi, run: Run, name: str) -> None:
    result = run(name, ID, "--step", "s") if name in {"skip", "resolve"} else run(name, ID)
    assert result.exit_code == 2
    assert "Missing option" in result.stderr
    assert api.asked == []


def test_a_saga_may_be_named_by_its_key(api: FakeApi, run: Run) -> None:
    api.answers |= {"GET /sagas": page(a_saga()), f"{ADMIN}/pause": Says(200, a_saga())}
    assert run("pause", "order-1042", *WHY).exit_code == 0
    assert [asked.path for asked in api.asked] == ["/sagas", f"/admin/api/sagas/{ID}/pause"]


def test_a_key_that_looks_like_an_id_is_acted_on_too(api: FakeApi, run: Run) -> None:
    api.answers[f"POST /sagas/{OTHER}/cancel"] = problem(404, "saga-not-found", "There is no such saga.")
    api.answers |= {"GET /sagas": page(a_saga()), f"POST /sagas/{ID}/cancel": Says(202, a_saga(state="COMPENSATING"))}
    assert "is COMPENSATING" in run("cancel", OTHER).stdout


def test_who_may_only_start_can_cancel_by_id(api: FakeApi, run: Run) -> None:
    """Such a key may not read; the answer is that of the cancel."""
    api.answers[f"POST /sagas/{ID}/cancel"] = problem(404, "saga-not-found", "There is no such saga.")
    api.answers["GET /sagas"] = problem(403, "scope-missing", "This key may not read.")
    assert run("cancel", ID).stderr == "Error: There is no such saga. (saga-not-found)\n"


def test_a_restart_tells_of_the_new_saga(api: FakeApi, run: Run) -> None:
    new = a_saga(id=OTHER, restarted_from=ID, idempotency_key="order-1042~1")
    api.answers[f"{ADMIN}/restart"] = Says(201, new)
    assert run("restart", ID, *WHY).stdout == (
        f"order {OTHER} is EXECUTING\n  it is a new saga, with the key order-1042~1\n  saga show {OTHER}\n"
    )
    assert json.loads(run("restart", ID, *WHY, "--json").stdout) == new


def test_what_the_state_does_not_allow_is_said_as_the_api_says_it(api: FakeApi, run: Run) -> None:
    detail = "The saga is COMPLETED and changes no more; restart makes a new one."
    api.answers[f"{ADMIN}/pause"] = problem(409, "saga-at-rest", detail)
    result = run("pause", ID, *WHY)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {detail} (saga-at-rest)\n"


# --- notices ----------------------------------------------------------------------------------------------------

NOTICE = {
    "id": "n-1",
    "saga_id": ID,
    "type": "saga.completed",
    "url": "http://127.0.0.1:9/told",
    "attempts": 3,
    "last_error": "the receiver answered 503",
    "next_attempt_at": "2026-11-21T23:00:08Z",
    "created_at": "2026-11-21T22:58:00Z",
    "status": "failing",
}


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_notices_that_nobody_has_taken_are_listed(api: FakeApi, run: Run, arguments: list[str]) -> None:
    waiting = {"id": "n-22", "type": "saga.failed", "attempts": 0, "last_error": None, "status": "waiting"}
    api.answers["GET /admin/api/notices"] = page(NOTICE, NOTICE | waiting)
    assert run("notices", *arguments).stdout == (
        "ID    TYPE            STATUS   TRIES  AGE\n"
        "n-1   saga.completed  failing  3      2m\n"
        "  http://127.0.0.1:9/told: the receiver answered 503\n"
        f"  saga show {ID}\n"
        "n-22  saga.failed     waiting  0      2m\n"
        "  http://127.0.0.1:9/told: not tried yet\n"
        f"  saga show {ID}\n"
    )
    assert api.asked[0].query == [("limit", "50")]


def test_notices_of_one_kind(api: FakeApi, run: Run) -> None:
    api.answers["GET /admin/api/notices"] = page()
    assert run("notices", "--status", "given-up").stdout == "No notice is given-up.\n"
    assert ("status", "given-up") in api.asked[0].query
    assert run("notices").stdout == "Every notice was taken.\n"


def test_a_notice_is_sent_again_and_discarded(api: FakeApi, run: Run) -> None:
    api.answers["POST /admin/api/notices/n-1/retry"] = Says(200, NOTICE)
    assert run("notices", "retry", "n-1").stdout == "Notice n-1 is sent again.\n"
    assert run("notices", "retry", "n-1", *WHY).exit_code == 0
    api.answers["POST /admin/api/notices/n-1/discard"] = Says(200, NOTICE)
    assert run("notices", "discard", "n-1").exit_code == 2
    assert run("notices", "discard", "n-1", *WHY).stdout == "Notice n-1 is discarded.\n"
    assert [asked.body for asked in api.asked] == [{}, BECAUSE, BECAUSE]


# --- dead letters -----------------------------------------------------------------------------------------------

LETTER = {
    "id": "dl-1",
    "saga_id": ID,
    "saga": "order",
    "step": "charge",
    "operation": "compensation",
    "attempts": 10,
    "error": {"code": "exhausted", "message": "payment answered 500"},
    "status": "open",
    "created_at": "2026-11-19T22:00:00Z",
}


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_what_is_open_is_listed(api: FakeApi, run: Run, arguments: list[str]) -> None:
    api.answers["GET /admin/api/dead-letters"] = page(LETTER, LETTER | {"id": "dl-22", "operation": "action"})
    assert run("dead-letters", *arguments).stdout == (
        "ID     SAGA   WHAT         TRIES  AGE\n"
        "dl-1   order  undo charge  10     2d\n"
        "  payment answered 500\n"
        f"  saga show {ID}\n"
        "dl-22  order  charge       10     2d\n"
        "  payment answered 500\n"
        f"  saga show {ID}\n"
    )
    assert ("status", "open") in api.asked[0].query


def test_dead_letters_take_their_options_without_the_word_list(api: FakeApi, run: Run) -> None:
    api.answers["GET /admin/api/dead-letters"] = page()
    assert run("dead-letters", "--status", "noted", "--limit", "5").stdout == "No dead letter is noted.\n"
    assert sorted(api.asked[0].query) == [("limit", "5"), ("status", "noted")]


@pytest.mark.parametrize(("name", "told"), [("retry", "tried again"), ("discard", "discarded")])
def test_a_letter_is_closed(api: FakeApi, run: Run, name: str, told: str) -> None:
    api.answers[f"POST /admin/api/dead-letters/dl-1/{name}"] = Says(200, a_saga())
    assert run("dead-letters", name, "dl-1", *WHY).stdout == f"Dead letter dl-1 is {told}.\n"
    assert api.asked[0].body == BECAUSE


# --- many -------------------------------------------------------------------------------------------------------

BULK = "POST /admin/api/bulk"


def test_bulk_says_what_was_done_and_what_was_not(api: FakeApi, run: Run) -> None:
    failed = [{"id": ID, "code": "nothing-to-retry"}]
    api.answers[BULK] = Says(200, {"matched": 9, "done": 4, "remaining": 5, "failed": failed})
    given = [
        "--state",
        "compensation_failed",
        "--saga",
        "order",
        "--label",
        "customer=7",
        "--attention",
        "--limit",
        "5",
    ]
    result = run("bulk", "retry", *given, *WHY)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "retry: done to 4 of 9; 5 remain." in result.stdout
    assert f"saga show {ID}" in result.stdout
    assert "nothing-to-retry" in result.stdout
    (asked,) = api.asked
    states = {"state": "COMPENSATION_FAILED", "saga": "order", "attention": True, "label": {"customer": "7"}}
    assert asked.body == {"action": "retry", "filter": states, "limit": 5, "dry_run": False, **BECAUSE}


def test_bulk_counts_first_where_it_is_asked_to(api: FakeApi, run: Run) -> None:
    api.answers[BULK] = Says(200, {"matched": 900, "done": 0, "remaining": 900, "failed": []})
    result = run("bulk", "pause", "--saga", "order", "--dry-run", *WHY)
    assert result.stdout == "900 match; pause would be done to 100 of them.\n"
    assert api.asked[0].body["dry_run"] is True


def test_bulk_is_never_for_every_saga_by_an_oversight(api: FakeApi, run: Run) -> None:
    result = run("bulk", "compensate", *WHY)
    assert result.exit_code == 2
    assert "No filter is given" in result.stderr
    assert api.asked == []
