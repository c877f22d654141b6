"""`saga keys create`, `list`, `rotate`, `revoke`: which call each is, and what is said of the answer."""

from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.fake import FakeApi, Says, page, problem

KEYS = "/admin/api/keys"
KEY = {
    "id": "01a2",
    "scopes": ["start", "read"],
    "tenant": "shop",
    "note": "the shop",
    "created_at": "2026-11-21T22:00:00Z",
    "created_by": "key:bootstrap",
    "expires_at": "2027-02-19T23:00:00Z",
    "revoked_at": None,
    "last_used_at": None,
    "replaces": None,
}
MADE = KEY | {"key": "01a2.secret"}
UNSAID: dict[str, Any] = dict.fromkeys(("tenant", "expires_in", "note", "reason"))


def test_a_key_is_made_and_shown_once(api: FakeApi, run: Run) -> None:
    api.answers[f"POST {KEYS}"] = Says(201, MADE)
    options = ["--tenant", "shop", "--expires", "90d", "--note", "the shop", "--reason", "a shop"]
    assert run("keys", "create", "--scopes", "start, read", *options).stdout == (
        "A key for start, read, of the tenant shop, until 2027-02-19T23:00:00Z. It is not shown again:\n  01a2.secret\n"
    )
    more = {"tenant": "shop", "expires_in": "90d", "note": "the shop", "reason": "a shop"}
    assert api.asked[0].body == {"scopes": ["start", "read"], **more}


def test_what_is_not_said_is_left_to_the_api(api: FakeApi, run: Run) -> None:
    api.answers[f"POST {KEYS}"] = Says(201, MADE | {"tenant": "", "expires_at": None})
    assert run("keys", "create", "--scopes", "read").stdout.startswith("A key for start, read. It is not shown")
    assert api.asked[0].body == {"scopes": ["read"], **UNSAID}
    assert run("keys", "create").exit_code == 2


def test_a_scope_that_is_none_is_told_as_the_api_tells_it(api: FakeApi, run: Run) -> None:
    api.answers[f"POST {KEYS}"] = problem(422, "body-invalid", "See `errors`.", ("scopes[0]", "must be one of start"))
    result = run("keys", "create", "--scopes", "write")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "scopes[0]: must be one of start" in result.stderr


def test_keys_of_every_page_stand_in_one_table(api: FakeApi, run: Run) -> None:
    used = KEY | {"id": "01a1", "tenant": "", "note": None, "last_used_at": "2026-11-21T22:58:00Z", "expires_at": None}
    expired, revoked = {"expires_at": "2026-11-21T22:59:00Z"}, {"revoked_at": "2026-11-21T22:59:00Z"}
    api.answers[f"GET {KEYS}"] = [page(KEY, used, cursor="c"), page(KEY | expired, KEY | revoked)]
    assert run("keys", "list").stdout == (
        "ID    SCOPES      TENANT  LAST USED               NOTE\n"
        "01a2  start,read  shop    never      ends in 90d  the shop\n"
        "01a1  start,read          2m ago\n"
        "01a2  start,read  shop    never      expired      the shop\n"
        "01a2  start,read  shop    never      revoked      the shop\n"
    )
    assert [dict(asked.query).get("cursor") for asked in api.asked] == [None, "c"]


def test_where_no_key_was_made_that_is_said(api: FakeApi, run: Run) -> None:
    api.answers[f"GET {KEYS}"] = page()
    assert run("keys", "list").stdout == "No key was made yet.\n"


@pytest.mark.parametrize(("options", "overlap"), [([], "1d"), (["--overlap", "0"], "0"), (["--overlap", "2h"], "2h")])
def test_a_key_is_made_in_place_of_another(api: FakeApi, run: Run, options: list[str], overlap: str) -> None:
    api.answers[f"POST {KEYS}/01a1/rotate"] = Says(201, MADE | {"replaces": "01a1"})
    assert "  01a2.secret\n" in run("keys", "rotate", "01a1", *options).stdout
    assert api.asked[0].body == {"overlap": overlap, "reason": None}


def test_a_key_is_revoked(api: FakeApi, run: Run) -> None:
    api.answers[f"DELETE {KEYS}/01a2"] = Says(200, KEY | {"revoked_at": "2026-11-21T22:59:00Z"})
    assert run("keys", "revoke", "01a2", "--reason", "lost").stdout == "Key 01a2 is revoked.\n"
    assert api.asked[0].body == {"reason": "lost"}


def test_programs_get_what_the_api_says(api: FakeApi, run: Run) -> None:
    api.answers[f"POST {KEYS}"] = Says(201, '{"key":"01a2.secret"}')
    assert run("keys", "create", "--scopes", "read", "--json").stdout == '{"key":"01a2.secret"}\n'
