"""Who may log in: which call each command is."""

from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.fake import FakeApi, Says, page, problem

ADA = {
    "name": "ada",
    "role": "operator",
    "tenant": None,
    "disabled": False,
    "logs_in_by": ["password"],
    "created_at": "2026-11-21T22:00:00.000000Z",
    "created_by": "key:bootstrap",
    "last_login_at": "2026-11-21T22:50:00.000000Z",
}
WHY = {"reason": None}
ONE = "/admin/api/users/ada"

CALLS: list[tuple[list[str], str, dict[str, Any], str]] = [
    (["set-role", "ada", "admin"], f"PATCH {ONE}", {"role": "admin", **WHY}, "User ada has the role admin."),
    (["set-tenant", "ada", "--tenant", "acme"], f"PATCH {ONE}", {"tenant": "acme", **WHY}, "User ada belongs to acme."),
    (["set-tenant", "ada", "--every-tenant"], f"PATCH {ONE}", {"tenant": None, **WHY}, "User ada sees every tenant."),
    (
        ["disable", "ada", "--reason", "left"],
        f"PATCH {ONE}",
        {"disabled": True, "reason": "left"},
        "User ada is disabled.",
    ),
    (["enable", "ada"], f"PATCH {ONE}", {"disabled": False, **WHY}, "User ada may log in."),
    (["remove", "ada"], f"DELETE {ONE}", WHY, "User ada is removed."),
    (["logout", "ada"], f"POST {ONE}/logout", WHY, "2 sessions of ada have ended."),
]


@pytest.mark.parametrize(("arguments", "call", "body", "said"), CALLS, ids=[" ".join(call[0]) for call in CALLS])
def test_each_command_is_one_call(
    api: FakeApi, run: Run, arguments: list[str], call: str, body: dict[str, Any], said: str
) -> None:
    api.answers[call] = Says(200, ADA | {"sessions": 2})
    result = run("users", *arguments)
    assert (result.exit_code, result.stderr, result.stdout) == (0, "", said + "\n")
    (asked,) = api.asked
    assert (f"{asked.method} {asked.path}", asked.body) == (call, body)


def test_a_password_that_was_made_is_shown_once(api: FakeApi, run: Run) -> None:
    api.answers["POST /admin/api/users"] = Says(201, ADA | {"password": "made-by-the-api"})
    result = run("users", "create", "ada", "--role", "operator", "--tenant", "acme")
    assert result.stdout.splitlines()[1].strip() == "password: made-by-the-api  (it is not shown again)"
    assert api.asked[0].body == {"name": "ada", "role": "operator", "tenant": "acme", "reason": None}


def test_a_password_of_ones_own_comes_from_the_standard_input(api: FakeApi, run: Run) -> None:
    api.answers["POST /admin/api/users"] = Says(201, ADA | {"password": None})
    api.answers[f"PATCH {ONE}"] = Says(200, ADA)
    result = run("users", "create", "ada", "--role", "viewer", "--ask-password", stdin="correct horse battery\n")
    assert (result.exit_code, "password" in result.stdout) == (0, False)
    assert run("users", "set-password", "ada", stdin="another horse battery\n").exit_code == 0
    assert [asked.body["password"] for asked in api.asked] == ["correct horse battery", "another horse battery"]
    result = run("users", "set-password", "ada", stdin="")
    assert (result.exit_code, result.stderr) == (1, "Error: No password stands on the standard input.\n")


def test_the_list(api: FakeApi, run: Run) -> None:
    api.answers["GET /admin/api/users"] = page(
        ADA, {**ADA, "name": "eve", "tenant": "acme", "disabled": True, "last_login_at": None}
    )
    assert run("users", "list").stdout.splitlines() == [
        "NAME  ROLE      TENANT  LAST LOGIN",
        "ada   operator          10m ago",
        "eve   operator  acme    never       disabled",
    ]


def test_what_is_refused_is_a_sentence(api: FakeApi, run: Run) -> None:
    api.answers[f"PATCH {ONE}"] = problem(404, "user-not-found", "There is no user 'ada'.")
    result = run("users", "disable", "ada")
    assert (result.exit_code, result.stderr) == (1, "Error: There is no user 'ada'. (user-not-found)\n")


@pytest.mark.parametrize("options", [[], ["--tenant", "acme", "--every-tenant"]])
def test_a_user_sees_everything_only_when_that_is_said(api: FakeApi, run: Run, options: list[str]) -> None:
    result = run("users", "set-tenant", "ada", *options)
    assert result.exit_code == 2
    assert api.asked == []
