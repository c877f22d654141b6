"""`saga keys create`, `list`, `rotate`, `revoke`: which call each command is, and that a secret is printed once."""

from tests.cli.conftest import Run
from tests.cli.fake import FakeApi, Says, page, problem

KEY = {
    "id": "01a217ba00007000800000000000abcd",
    "scopes": ["read", "start"],
    "tenant": "shop",
    "note": None,
    "created_at": "2026-11-21T22:00:00.000000Z",
    "created_by": "key:bootstrap",
    "expires_at": "2027-02-19T22:00:00.000000Z",
    "revoked_at": None,
    "last_used_at": "2026-11-21T22:50:00.000000Z",
    "replaces": None,
}
ONE = f"/admin/api/keys/{KEY['id']}"


def test_a_key_is_made_and_printed_once(api: FakeApi, run: Run) -> None:
    api.answers["POST /admin/api/keys"] = Says(201, KEY | {"key": f"{KEY['id']}.hush"})
    result = run("keys", "create", "--scopes", "read, start", "--tenant", "shop", "--expires", "90d", "--note", "x")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(f"\n  {KEY['id']}.hush\n")
    assert "read, start, of the tenant shop, until 2027-02-19" in result.stdout
    (asked,) = api.asked
    wanted = {"scopes": ["read", "start"], "tenant": "shop", "expires_in": "90d", "note": "x", "reason": None}
    assert asked.body == wanted


def test_a_scope_that_is_none_is_told_in_a_sentence(api: FakeApi, run: Run) -> None:
    api.answers["POST /admin/api/keys"] = problem(422, "body-invalid", "The body is not as it should be: see `errors`.")
    result = run("keys", "create", "--scopes", "write")
    assert result.exit_code == 1
    assert "body-invalid" in result.stderr


def test_the_list_says_what_each_may_and_how_long(api: FakeApi, run: Run) -> None:
    gone = KEY | {"id": "0" * 32, "revoked_at": KEY["created_at"], "tenant": "", "last_used_at": None}
    api.answers["GET /admin/api/keys"] = page(KEY, gone)
    result = run("keys", "list")
    first, one, other = result.stdout.splitlines()
    assert first.split() == ["ID", "SCOPES", "TENANT", "LAST", "USED"]
    assert one.startswith(f"{KEY['id']}  read,start  shop")
    assert ("never" in other, other.endswith("revoked")) == (True, True)


def test_a_key_is_rotated_with_an_overlap(api: FakeApi, run: Run) -> None:
    api.answers[f"POST {ONE}/rotate"] = Says(201, KEY | {"key": "new.hush"})
    result = run("keys", "rotate", KEY["id"], "--overlap", "2h", "--reason", "every quarter")
    assert result.stdout.endswith("\n  new.hush\n")
    assert api.asked[0].body == {"overlap": "2h", "reason": "every quarter"}


def test_a_key_is_revoked(api: FakeApi, run: Run) -> None:
    api.answers[f"DELETE {ONE}"] = Says(200, KEY)
    result = run("keys", "revoke", KEY["id"], "--reason", "lost")
    assert result.stdout == f"Key {KEY['id']} is revoked.\n"
    assert api.asked[0].body == {"reason": "lost"}
