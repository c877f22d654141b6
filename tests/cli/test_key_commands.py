"""`saga keys list` over pages, with notes and without keys; and how long a rotated key goes on."""

import pytest

from tests.cli.conftest import Run
from tests.cli.fake import FakeApi, Says, page

KEYS = "/admin/api/keys"
KEY = {
    "id": "01a2",
    "scopes": ["start", "read"],
    "tenant": "shop",
    "note": "the shop's\x1b[2J",
    "created_at": "2026-11-21T22:00:00Z",
    "created_by": "key:bootstrap",
    "expires_at": "2027-02-19T23:00:00Z",
    "revoked_at": None,
    "last_used_at": None,
    "replaces": None,
}


def test_keys_of_every_page_stand_in_one_table_with_what_they_are_for(api: FakeApi, run: Run) -> None:
    used = KEY | {"id": "01a1", "tenant": "", "note": None, "last_used_at": "2026-11-21T22:58:00Z", "expires_at": None}
    expired, revoked = {"expires_at": "2026-11-21T22:59:00Z"}, {"revoked_at": "2026-11-21T22:59:00Z", "note": None}
    api.answers[f"GET {KEYS}"] = [page(KEY, used, cursor="c"), page(KEY | expired, KEY | revoked)]
    assert run("keys", "list").stdout == (
        "ID    SCOPES      TENANT  LAST USED\n"
        "01a2  start,read  shop    never      ends in 90d\n"
        "  the shop's\\x1b[2J\n"
        "01a1  start,read          2m ago\n"
        "01a2  start,read  shop    never      expired\n"
        "  the shop's\\x1b[2J\n"
        "01a2  start,read  shop    never      revoked\n"
    )
    assert [dict(asked.query).get("cursor") for asked in api.asked] == [None, "c"]


def test_where_no_key_was_made_that_is_said(api: FakeApi, run: Run) -> None:
    api.answers[f"GET {KEYS}"] = page()
    assert run("keys", "list").stdout == "No key was made yet.\n"


@pytest.mark.parametrize(("options", "overlap"), [([], "1d"), (["--overlap", "0"], "0")])
def test_the_old_one_goes_on_for_a_day_or_as_it_is_said(
    api: FakeApi, run: Run, options: list[str], overlap: str
) -> None:
    api.answers[f"POST {KEYS}/01a1/rotate"] = Says(201, KEY | {"key": "01a2.secret"})
    assert "  01a2.secret\n" in run("keys", "rotate", "01a1", *options).stdout
    assert api.asked[0].body == {"overlap": overlap, "reason": None}


def test_programs_get_what_the_api_says(api: FakeApi, run: Run) -> None:
    api.answers[f"POST {KEYS}"] = Says(201, '{"key":"01a2.secret"}')
    assert run("keys", "create", "--scopes", "read", "--json").stdout == '{"key":"01a2.secret"}\n'
    api.answers[f"GET {KEYS}"] = Says(200, '{"items":[],"next_cursor":null}')
    assert run("keys", "list", "--json").stdout == '{"items":[],"next_cursor":null}\n'
