"""Keys, users and one's own password, as administrators and everybody else find them."""

from typing import Any

import pytest

from tests.api.conftest import Client
from tests.dashboard.conftest import PASSWORD, Browser, Element, Shown

SCRIPT = "<script>alert('x')</script>"
OTHER = "quite another password"


async def user(api: Client, name: str, role: str, tenant: str | None = None) -> Browser:
    answer = await api.post("/admin/api/users", {"name": name, "role": role, "tenant": tenant, "password": PASSWORD})
    assert answer.status == 201
    return await Browser.logged_in(api, name, PASSWORD)


async def form_of(browser: Browser, path: str) -> Element:
    """That makes a new one."""
    return (await browser.get(path)).page.one("form", id="make")


def secret(made: Shown) -> str:
    assert made.status == 201, made.text
    return made.main.one("pre").text


def rows(page: Element, name: str) -> dict[str, Element]:
    return {row[name]: row for row in page.all("tr") if row[name]}


def button(row: Element, action: str) -> str:
    """Where the button leads."""
    return next(each["formaction"] for each in row.all("button") if each["formaction"].endswith(f"/{action}"))


async def trail(api: Client, action: str) -> list[Any]:
    items = (await api.get(f"/admin/api/audit?action={action}")).json["items"]
    return [(line["actor"], line["subject"], line["reason"]) for line in items]


# --- keys -------------------------------------------------------------------------------------------------------


async def test_a_key_is_made_shown_once_and_opens_what_was_ticked(api: Client, browser: Browser):
    sent = {"scopes": ["read"], "tenant": "acme", "expires_in": "90d", "note": "the shop"}
    key = secret(await browser.send(await form_of(browser, "/admin/keys"), **sent))
    key_id = key.partition(".")[0]
    assert (await api.get("/sagas", key=key)).status == 200
    assert (await api.get("/admin/api/keys", key=key)).status == 403
    shown = await browser.get("/admin/keys")
    ((listed, row),) = rows(shown.page, "data-key-id").items()
    assert (listed, row["data-standing"]) == (key_id, "holds")
    for told in ("read", "acme", "the shop", "by user:admin", "in 90 d", "never"):
        assert told in row.text, told
    assert key.partition(".")[2] not in shown.html + (await browser.get("/admin/audit")).html
    assert (await api.get(f"/admin/api/keys/{key_id}")).json["tenant"] == "acme"
    assert await trail(api, "create-key") == [("user:admin", f"key/{key_id}", None)]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"scopes": []}, "Tick one scope or more"),
        ({"scopes": ["read", "all"]}, "Tick one scope or more"),
        ({"tenant": "a b"}, "A tenant has"),
        ({"expires_in": "soon"}, "The end must be a duration"),
        ({"expires_in": "0"}, "longer than 0"),
        ({"note": "a\0b"}, "The note contains a NUL character"),
    ],
)
async def test_a_form_that_is_wrong_makes_no_key_and_keeps_what_was_typed(
    fields: dict[str, Any], told: str, browser: Browser
):
    sent = {"note": 'a "note"', "tenant": "acme"} | fields
    refused = await browser.send(await form_of(browser, "/admin/keys"), **sent)
    assert (refused.status, told in refused.text) == (422, True), refused.text
    assert rows(refused.page, "data-key-id") == {}
    again = refused.page.one("form", id="make")
    assert again.one("input", name="tenant")["value"] == sent["tenant"]
    if "note" not in fields:
        assert again.one("input", name="note")["value"] == sent["note"]


async def test_a_key_is_rotated_and_the_old_one_ends_after_the_overlap(api: Client, browser: Browser):
    old = secret(await browser.send(await form_of(browser, "/admin/keys"), scopes=["read"]))
    (row,) = rows((await browser.get("/admin/keys")).page, "data-key-id").values()
    form = row.one("form", method="post")
    assert (await api.get("/sagas", key=old)).status == 200
    for wrong in ({"reason": " "}, {"reason": "x", "overlap": "long"}):
        refused = await browser.send(form, **wrong)
        assert (refused.status, "Nothing was done." in refused.text) == (422, True)
    new = secret(await browser.send(form, reason="it leaked", overlap="0"))
    assert (await api.get("/sagas", key=new)).status == 200
    assert (await api.get("/sagas", key=old)).status == 401
    found = rows((await browser.get("/admin/keys")).page, "data-key-id")
    old_id, new_id = old.partition(".")[0], new.partition(".")[0]
    assert {key: each["data-standing"] for key, each in found.items()} == {new_id: "holds", old_id: "ended"}
    assert old_id in found[new_id].text
    assert await trail(api, "rotate-key") == [("user:admin", f"key/{old_id}", "it leaked")]
    gone = await browser.send(form, reason="again")
    assert (gone.status, "that still holds" in gone.text) == (404, True)


async def test_a_key_is_revoked_and_opens_nothing_at_once(api: Client, browser: Browser):
    key = secret(await browser.send(await form_of(browser, "/admin/keys"), scopes=["read"]))
    assert (await api.get("/sagas", key=key)).status == 200
    (row,) = rows((await browser.get("/admin/keys")).page, "data-key-id").values()
    revoke = button(row, "revoke")
    assert (await browser.post(revoke, reason="")).status == 422
    done = await browser.post(revoke, reason="nobody uses it")
    assert (done.status, done.headers["Location"]) == (303, "/admin/keys?done=revoke")
    assert (await api.get("/sagas", key=key)).status == 401
    shown = await browser.get(done.headers["Location"])
    (row,) = rows(shown.page, "data-key-id").values()
    assert ("The key is revoked." in shown.text, row["data-standing"], list(row.all("form"))) == (True, "revoked", [])
    for path in ("/admin/keys/none/revoke", f"/admin/keys/{'0' * 32}/revoke", revoke.replace("revoke", "eat")):
        assert (await browser.post(path, reason="x")).status == 404


async def test_an_admin_of_a_tenant_has_its_keys_and_no_others(api: Client, browser: Browser):
    theirs = secret(await browser.send(await form_of(browser, "/admin/keys"), tenant="other")).partition(".")[0]
    acme = await user(api, "ada", "admin", "acme")
    form = await form_of(acme, "/admin/keys")
    own = secret(await acme.send(form)).partition(".")[0]
    assert (await api.get(f"/admin/api/keys/{own}")).json["tenant"] == "acme"
    assert list(rows((await acme.get("/admin/keys")).page, "data-key-id")) == [own]
    refused = await acme.send(form, tenant="other")
    assert (refused.status, "belongs to the tenant" in refused.text) == (403, True)
    for action in ("rotate", "revoke"):
        assert (await acme.post(f"/admin/keys/{theirs}/{action}", reason="x", overlap="0")).status == 404
    assert (await api.get(f"/admin/api/keys/{theirs}")).json["revoked_at"] is None
    users = await acme.get("/admin/users")
    assert (users.status, "Users are managed by the house" in users.text) == (403, True)
    assert (await acme.post("/admin/users/admin/logout", reason="x")).status == 403


async def test_keys_page_by_page(browser: Browser):
    form = await form_of(browser, "/admin/keys")
    made = [secret(await browser.send(form)).partition(".")[0] for _ in range(3)]
    seen, address = [], "/admin/keys?limit=2"
    while address:
        page = (await browser.get(address)).page
        seen.append(list(rows(page, "data-key-id")))
        address = next((link["href"] for link in page.all("a", rel="next")), "")
    assert seen == [made[:0:-1], made[:1]]
    assert (await browser.get("/admin/keys?cursor=none")).status == 422


# --- users ------------------------------------------------------------------------------------------------------


async def test_a_user_is_made_and_logs_in_with_the_password_that_is_shown_once(api: Client, browser: Browser):
    form = await form_of(browser, "/admin/users")
    password = secret(await browser.send(form, name="Ada@shop", role="operator", tenant="acme", reason="new here"))
    ada = await Browser.logged_in(api, "ada@shop", password)
    assert (await ada.get("/admin/sagas")).status == 200
    shown = await browser.get("/admin/users")
    assert password not in shown.html + (await browser.get("/admin/audit")).html
    row = rows(shown.page, "data-user")["ada@shop"]
    for told in ("operator", "acme", "by user:admin", "may log in"):
        assert told in row.text, told
    assert await trail(api, "create-user") == [("user:admin", "user/ada@shop", "new here")]
    taken = await browser.send(form, name="ada@shop")
    assert (taken.status, "There is a user ada@shop already." in taken.text) == (409, True)
    for wrong in ({"name": "-"}, {"name": "bob", "role": "king"}, {"name": "bob", "tenant": "a b"}):
        refused = await browser.send(form, **wrong)
        assert (refused.status, "Nothing was done." in refused.text) == (422, True)
        assert refused.page.one("form", id="make").one("input", name="name")["value"] == wrong["name"]


async def test_a_user_is_changed_and_it_counts_from_the_next_request_on(api: Client, browser: Browser):
    ada = await user(api, "ada", "viewer")
    assert (await ada.get("/admin/keys")).status == 403
    row = rows((await browser.get("/admin/users")).page, "data-user")["ada"]
    form = row.one("form", method="post")
    assert (await browser.send(form, role="admin")).status == 422, "without a reason"
    done = await browser.send(form, role="admin", reason="she runs it now")
    assert (done.status, done.headers["Location"]) == (303, "/admin/users?done=role")
    assert (await ada.get("/admin/keys")).status == 200
    assert await trail(api, "change-user") == [("user:admin", "user/ada", "she runs it now")]
    assert (await browser.post(button(row, "logout"), reason="a lost laptop")).status == 303
    assert (await ada.get("/admin/keys")).status == 303, "to the login"
    ada = await Browser.logged_in(api, "ada", PASSWORD)
    assert (await browser.post(button(row, "disable"), reason="she left")).status == 303
    assert (await ada.get("/admin/keys")).status == 303
    row = rows((await browser.get("/admin/users")).page, "data-user")["ada"]
    assert "disabled" in row.text
    assert (await browser.post(button(row, "enable"), reason="she is back")).status == 303
    assert (await (await Browser.logged_in(api, "ada", PASSWORD)).get("/admin/keys")).status == 200


async def test_nobody_shuts_himself_out(api: Client):
    ada = await user(api, "ada", "admin")
    assert list(rows((await ada.get("/admin/users")).page, "data-user")["ada"].all("form")) == []
    refused = await ada.post("/admin/users/ada/disable", reason="x")
    assert (refused.status, "nobody shuts himself out" in refused.text) == (409, True)
    for path in ("/admin/users/nobody/disable", "/admin/users/-/disable", "/admin/users/ada/eat"):
        assert (await ada.post(path, reason="x")).status == 404


# --- oneself ----------------------------------------------------------------------------------------------------


async def test_one_changes_ones_own_password_and_the_other_sessions_end(api: Client):
    ada, elsewhere = await user(api, "ada", "viewer"), await Browser.logged_in(api, "ada", PASSWORD)
    form = (await ada.get("/admin/me")).page.one("form", id="password")
    for wrong, status in (
        ({"old": PASSWORD, "new": OTHER, "again": "not the same"}, 422),
        ({"old": PASSWORD, "new": "short", "again": "short"}, 422),
        ({"old": "wrong", "new": OTHER, "again": OTHER}, 401),
    ):
        refused = await ada.send(form, **wrong)
        assert (refused.status, "Nothing was done." in refused.text) == (status, True)
        assert OTHER not in refused.html
    done = await ada.send(form, old=PASSWORD, new=OTHER, again=OTHER)
    assert (done.status, done.headers["Location"]) == (303, "/admin/me?done=password")
    assert "Your password is changed" in (await ada.get(done.headers["Location"])).text
    assert (await elsewhere.get("/admin/me")).status == 303, "to the login"
    await Browser.logged_in(api, "ada", OTHER)


async def test_the_password_of_a_setting_is_not_changed_here(browser: Browser):
    form = (await browser.get("/admin/me")).page.one("form", id="password")
    refused = await browser.send(form, old=PASSWORD, new=OTHER, again=OTHER)
    assert (refused.status, "SAGA_ADMIN_PASSWORD" in refused.text) == (409, True)


# --- all of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_who_may_not_administer_is_told_so_and_changes_nothing(role: str, api: Client):
    made = (await api.post("/admin/api/keys", {"scopes": ["read"]})).json
    ada = await user(api, "ada", role)
    places = [link["href"] for link in (await ada.get("/admin/me")).page.one("nav", aria_label="Pages").all("a")]
    assert places[-2:] == ["/admin/keys", "/admin/users"]
    for path in ("/admin/keys", "/admin/users"):
        shown = await ada.get(path)
        assert (shown.status, "This needs a user with the role `admin`" in shown.text) == (403, True)
        assert made["id"] not in shown.html
    for path in (
        "/admin/keys",
        f"/admin/keys/{made['id']}/rotate",
        f"/admin/keys/{made['id']}/revoke",
        "/admin/users",
        "/admin/users/ada/role",
        "/admin/users/ada/logout",
    ):
        fields = {"scopes": "admin", "name": "eve", "role": "admin", "reason": "x", "overlap": "0"}
        assert (await ada.post(path, **fields)).status == 403, path
    assert [key["id"] for key in (await api.get("/admin/api/keys")).json["items"]] == [made["id"]]
    assert (await api.get("/sagas", key=made["key"])).status == 200
    named = {each["name"]: each["role"] for each in (await api.get("/admin/api/users")).json["items"]}
    assert (named["ada"], "eve" in named) == (role, False)


async def test_a_form_without_its_token_does_nothing(api: Client, browser: Browser):
    for path in ("/admin/keys", "/admin/users", "/admin/me"):
        sent = {"scopes": "admin", "name": "eve", "role": "admin", "csrf_token": "wrong"}
        assert (await browser.post(path, **sent)).status == 403, path
    assert (await api.get("/admin/api/keys")).json["items"] == []
    assert "eve" not in [each["name"] for each in (await api.get("/admin/api/users")).json["items"]]


async def test_what_others_wrote_is_escaped_and_the_pages_are_whole(api: Client, browser: Browser):
    await api.post("/admin/api/keys", {"scopes": ["read"], "note": SCRIPT})
    await user(api, "ada+1@shop", "viewer")
    pages = [await browser.get(path) for path in ("/admin/keys", "/admin/users", "/admin/me")]
    assert SCRIPT in pages[0].text
    pages.append(await browser.send(pages[0].page.one("form", id="make"), tenant=SCRIPT))
    pages.append(await browser.send(pages[1].page.one("form", id="make"), name=SCRIPT))
    pages.append(await browser.send(pages[0].page.one("form", id="make")))
    for shown in pages:
        assert "<script>alert" not in shown.html
        page = shown.page
        assert page.one("h1").text
        ids = [element["id"] for element in page.all() if element["id"]]
        assert len(ids) == len(set(ids))
        inside = {id(field) for label in page.all("label") for field in label.all()}
        for element in page.all():
            assert element.tag != "style"
            assert "style" not in element.attributes
            assert element.tag != "script" or element["src"].startswith("/admin/static/")
            if element.tag in {"input", "select"}:
                assert element["type"] == "hidden" or id(element) in inside
