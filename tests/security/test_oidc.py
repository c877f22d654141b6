"""Logins by OpenID Connect: with a provider as it should be, and with all that may be forged on the way."""

import asyncio
import base64
import hashlib
import re
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from joserfc.jwk import RSAKey
from pydantic import ValidationError

from app.settings import Settings
from tests.api.conftest import Answer, Client
from tests.security.conftest import ADMIN_PASSWORD, PASSWORD, Browser
from tests.security.issuer import Issuer
from tests.security.test_sessions import sql

with warnings.catch_warnings():
    import authlib.deprecate  # noqa: F401 - it sets a filter of its own, before ours

    warnings.simplefilter("ignore")
    import oidc_provider_mock

ROLES = "admin=saga-admins, operator=saga-ops, viewer=everybody"
OIDC = {"oidc_client_id": "saga", "oidc_client_secret": "the client's secret", "oidc_roles": ROLES}


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def said(page: Answer) -> str:
    found = re.search(r'role="alert"[^>]*>([^<]*)<', page.content.decode())
    return found[1] if found else ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestAgainstAProvider:
    """`oidc-provider-mock`: a provider of its own making, as a server on loopback."""

    @pytest.fixture
    def provider(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
        users = [
            oidc_provider_mock.User(
                sub="ada", claims={"preferred_username": "ada", "groups": ["saga-ops", "x"], "tenant": "acme"}
            ),
            oidc_provider_mock.User(sub="eve", claims={"preferred_username": "eve", "groups": []}),
        ]
        with oidc_provider_mock.run_server_in_thread(require_nonce=True, user_claims=users) as server:
            yield f"http://localhost:{server.server_port}"

    @pytest.fixture
    def options(self, provider: str) -> dict[str, Any]:
        return {**OIDC, "oidc_issuer": provider, "admin_password": ADMIN_PASSWORD}

    async def through(self, browser: Browser, sub: str, after: str = "") -> str:
        """The address of ours that the provider sends the browser to."""
        page = await browser.get("/admin/login" + (f"?{urlencode({'next': after})}" if after else ""))
        link = re.search(r'<a [^>]*href="(/admin/login/oidc[^"]*)">Log in with localhost</a>', page.content.decode())
        there = await browser.get(link[1].replace("&amp;", "&"))
        assert there.status == 303
        async with browser.session.post(
            there.headers["Location"], data={"sub": sub}, allow_redirects=False
        ) as response:
            assert response.status == 302, await response.text()
            return response.headers["Location"].removeprefix(browser.base)

    async def test_a_login_from_the_button_to_the_page_that_was_wanted(
        self, browser: Browser, settings: Settings
    ) -> None:
        answer = await browser.get(await self.through(browser, "ada", after="/admin/sagas?state=FAILED"))
        assert (answer.status, answer.headers["Location"]) == (303, "/admin/sagas?state=FAILED")
        me = (await browser.me()).json
        assert (me["name"], me["role"], me["every_tenant"]) == ("user:ada", "operator", True)
        assert "saga_oidc" not in browser.cookies
        [account] = await sql(settings, "SELECT * FROM account")
        assert account["oidc_subject"] == f"{settings.oidc_issuer} ada"
        assert account["password_hash"] is None
        rows = await sql(settings, "SELECT actor, action, subject FROM audit ORDER BY id")
        assert [tuple(row) for row in rows] == [
            ("user:ada", "create-user", "user/ada"),
            ("user:ada", "login", "user/ada"),
        ]

    async def test_who_is_given_no_role_does_not_come_in(self, browser: Browser, settings: Settings) -> None:
        page = await browser.get(await self.through(browser, "eve"))
        assert (page.status, said(page).split(",")[0]) == (403, "localhost knows you")
        assert "saga_session" not in browser.cookies
        assert await sql(settings, "SELECT * FROM account") == []

    async def test_a_code_counts_once(self, browser: Browser) -> None:
        back = await self.through(browser, "ada")
        cookies = dict(browser.cookies)
        assert (await browser.get(back)).status == 303
        thief = Browser(browser.session, browser.base, cookies)  # as if even the cookie had been copied
        page = await thief.get(back)
        assert page.status == 403
        assert "invalid_grant" in said(page)
        assert "saga_session" not in thief.cookies

    async def test_an_answer_counts_in_the_browser_that_asked(
        self, browser: Browser, another: Callable[[], Browser]
    ) -> None:
        back = await self.through(browser, "ada")
        victim = another()
        page = await victim.get(back)
        assert (page.status, said(page).split(",")[0]) == (403, "This login was not begun in this browser")
        await self.through(victim, "eve")  # with a cookie of its own: another state
        assert (await victim.get(back)).status == 403
        assert "saga_session" not in victim.cookies


class TestForged:
    @pytest.fixture
    async def issuer(self) -> AsyncIterator[Issuer]:
        async with Issuer.serve() as issuer:
            yield issuer

    @pytest.fixture
    def options(self, issuer: Issuer) -> dict[str, Any]:
        return {**OIDC, "oidc_issuer": issuer.url, "admin_password": ADMIN_PASSWORD}

    async def begin(self, browser: Browser, after: str = "/admin/") -> str:
        there = await browser.get(f"/admin/login/oidc?{urlencode({'next': after})}")
        assert there.status == 303, there.content
        return there.headers["Location"]

    async def come_back(self, browser: Browser, issuer: Issuer, url: str, **more: str) -> Answer:
        answer = {"code": issuer.code_for(url), "state": query(url)["state"], **more}
        return await browser.get(f"/admin/login/oidc/callback?{urlencode(answer)}")

    async def log_in(self, browser: Browser, issuer: Issuer, **claims: Any) -> Answer:
        issuer.claims = claims
        return await self.come_back(browser, issuer, await self.begin(browser))

    async def test_what_is_asked_for_and_redeemed(self, browser: Browser, issuer: Issuer, settings: Settings) -> None:
        url = await self.begin(browser)
        asked = query(url)
        assert (asked["response_type"], asked["client_id"], asked["scope"]) == ("code", "saga", "openid profile email")
        assert asked["redirect_uri"] == f"{browser.base}/admin/login/oidc/callback"
        assert asked["code_challenge_method"] == "S256"
        cookie = browser.set["saga_oidc"]
        assert (cookie["httponly"], cookie["samesite"], cookie["max-age"]) == (True, "lax", "600")
        assert (await self.come_back(browser, issuer, url)).status == 303
        [redeemed] = issuer.asked
        digest = hashlib.sha256(redeemed["code_verifier"].encode()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == asked["code_challenge"]
        assert redeemed["code_verifier"] not in url + cookie.value
        assert redeemed["redirect_uri"] == asked["redirect_uri"]
        assert redeemed["authorization"].startswith("Basic ")
        assert (await browser.me()).json["name"] == "user:ada"

    @pytest.mark.parametrize(
        "claims",
        [
            {"iss": "https://evil.example"},
            {"iss": None},
            {"aud": "another client"},
            {"aud": None},
            {"aud": ["saga", "another"], "azp": "another"},
            {"aud": ["saga", "another"]},
            {"aud": "another client", "azp": "saga"},
            {"azp": "another"},
            {"exp": 1},
            {"exp": None},
            {"exp": "soon"},
            {"iat": None},
            {"nbf": 99_999_999_999},
            {"nonce": "forged"},
            {"nonce": None},
            {"sub": None},
            {"sub": ""},
            {"sub": 4711},
            {"sub": "x" * 256},
            {"sub": "a\0b"},
            {"at_hash": "forged"},
        ],
        ids=str,
    )
    async def test_an_id_token_with_wrong_claims_lets_nobody_in(
        self, browser: Browser, issuer: Issuer, settings: Settings, claims: dict[str, Any]
    ) -> None:
        page = await self.log_in(browser, issuer, **claims)
        assert page.status == 403, page.content
        assert said(page)
        assert "saga_session" not in browser.cookies
        assert await sql(settings, "SELECT * FROM account") == []

    @pytest.mark.parametrize("forgery", ["another key", "unknown kid", "none", "HS256 with the public key"])
    async def test_an_id_token_that_the_issuer_did_not_sign_lets_nobody_in(
        self, browser: Browser, issuer: Issuer, forgery: str
    ) -> None:
        another = RSAKey.generate_key(2048, {"kid": "one"})
        if forgery == "none":
            issuer.header = {"alg": "none"}
        elif forgery == "HS256 with the public key":
            issuer.header = {"alg": "HS256"}
            issuer.signed_with = issuer.key.as_bytes(private=False)
        else:
            issuer.signed_with = another
            issuer.header = {"kid": "two"} if forgery == "unknown kid" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joserfc warns of what we do here
            page = await self.log_in(browser, issuer)
        assert page.status == 403
        assert "ID token" in said(page)
        assert "saga_session" not in browser.cookies

    async def test_a_key_that_the_issuer_has_changed_is_looked_for(self, browser: Browser, issuer: Issuer) -> None:
        assert (await self.log_in(browser, issuer)).status == 303
        reads = issuer.reads
        issuer.key = RSAKey.generate_key(2048, {"kid": "two", "use": "sig", "alg": "RS256"})
        issuer.header = {"kid": "two"}
        assert (await self.log_in(browser, issuer)).status == 303
        assert issuer.reads == reads + 1

    @pytest.mark.parametrize("token", [None, "", "x", "x.y.z", "a" * 200_000, 1, {"a": 1}])
    async def test_what_is_no_id_token_lets_nobody_in(self, browser: Browser, issuer: Issuer, token: Any) -> None:
        issuer.answer = {"access_token": "x", "token_type": "Bearer"} | ({} if token is None else {"id_token": token})
        assert (await self.log_in(browser, issuer)).status == 403

    @pytest.mark.parametrize("answer", [{}, {"error": "<script>"}, {"error": ["x"]}, {"access_token": 1}])
    async def test_strange_answers_of_the_token_endpoint(
        self, browser: Browser, issuer: Issuer, answer: dict[str, Any]
    ) -> None:
        issuer.answer = answer
        page = await self.log_in(browser, issuer)
        assert page.status in {403, 503}
        assert b"<script>" not in page.content

    async def test_a_forged_state_is_refused_before_the_code_is_redeemed(
        self, browser: Browser, issuer: Issuer
    ) -> None:
        for more in ({"state": "forged"}, {"state": ""}, {"state": "é"}):
            page = await self.come_back(browser, issuer, await self.begin(browser), **more)
            assert (page.status, said(page).split(",")[0]) == (403, "This login was not begun in this browser")
        assert issuer.asked == []

    @pytest.mark.parametrize(
        "spoil",
        [lambda _: "", lambda c: c[:-1] + "A", lambda c: "x" + c, lambda _: ".", lambda _: "é", lambda c: c * 2],
    )
    async def test_a_forged_cookie_is_refused(
        self, browser: Browser, issuer: Issuer, spoil: Callable[[str], str]
    ) -> None:
        url = await self.begin(browser)
        browser.cookies["saga_oidc"] = spoil(browser.cookies["saga_oidc"])
        assert (await self.come_back(browser, issuer, url)).status == 403
        assert issuer.asked == []

    async def test_a_login_takes_ten_minutes_at_most(
        self, browser: Browser, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.people.oidc.LOGIN_SECONDS", -1)
        assert (await self.come_back(browser, issuer, await self.begin(browser))).status == 403
        assert issuer.asked == []

    async def test_another_issuer_is_not_mixed_up_with_ours(self, browser: Browser, issuer: Issuer) -> None:
        page = await self.come_back(browser, issuer, await self.begin(browser), iss="https://evil.example")
        assert (page.status, issuer.asked) == (403, [])
        assert (await self.come_back(browser, issuer, await self.begin(browser), iss=issuer.url)).status == 303

    @pytest.mark.parametrize("page", ["//evil.example", "https://evil.example", "/admin/\\evil.example", "/sagas"])
    async def test_no_other_place_is_gone_to(self, browser: Browser, issuer: Issuer, page: str) -> None:
        answer = await self.come_back(browser, issuer, await self.begin(browser, page))
        assert (answer.status, answer.headers["Location"]) == (303, "/admin/")

    async def test_what_the_issuer_says_against_it_is_told(self, browser: Browser, issuer: Issuer) -> None:
        for error, told in (("access_denied", "access_denied"), ("<b>", "it says no")):
            state = query(await self.begin(browser))["state"]
            answer = urlencode({"error": error, "state": state})
            page = await browser.get(f"/admin/login/oidc/callback?{answer}")
            assert page.status == 403
            assert told in said(page)

    async def test_the_session_that_the_browser_had_ends(self, browser: Browser, issuer: Issuer) -> None:
        await browser.log_in()
        before = browser.token
        assert (await self.log_in(browser, issuer)).status == 303
        assert (await Browser(browser.session, browser.base, {"saga_session": before}).me()).status == 401

    # --- accounts -----------------------------------------------------------------------------------------------

    async def test_a_name_that_is_taken_is_not_taken_over(
        self, browser: Browser, issuer: Issuer, user: Callable[..., Any], settings: Settings
    ) -> None:
        await user("ada", "admin")
        await self.log_in(browser, issuer)
        me = (await browser.me()).json
        assert re.fullmatch(r"user:ada\.[0-9a-f]{12}", me["name"])
        assert me["role"] == "operator"
        await self.log_in(browser, issuer)
        assert (await browser.me()).json["name"] == me["name"]
        assert len(await sql(settings, "SELECT * FROM account")) == 2

    async def test_nobody_becomes_admin_by_name(self, browser: Browser, issuer: Issuer) -> None:
        await self.log_in(browser, issuer, preferred_username="admin")
        assert (await browser.me()).json["name"].startswith("user:admin.")

    async def test_an_account_of_the_issuer_has_no_password(
        self, browser: Browser, issuer: Issuer, another: Callable[[], Browser]
    ) -> None:
        await self.log_in(browser, issuer)
        for password in ("", "None", PASSWORD):
            assert (await another().log_in("ada", password)).status == 401

    async def test_the_role_is_what_was_told_at_the_last_login(
        self, browser: Browser, issuer: Issuer, settings: Settings
    ) -> None:
        for groups, role in (
            (["saga-ops", "saga-admins"], "admin"),
            ("everybody", "viewer"),
            (["everybody", 1, None, {}], "viewer"),
        ):
            assert (await self.log_in(browser, issuer, groups=groups)).status == 303
            assert (await browser.me()).json["role"] == role
        rows = await sql(settings, "SELECT reason FROM audit WHERE action = 'change-user'")
        assert [row["reason"] for row in rows] == ["OpenID Connect"]
        for groups in (None, [], {}, "SAGA-OPS", ["saga-ops "]):
            assert (await self.log_in(browser, issuer, groups=groups)).status == 403

    async def test_a_disabled_user_stays_out(self, browser: Browser, issuer: Issuer, api: Client) -> None:
        await self.log_in(browser, issuer)
        await api("PATCH", "/admin/api/users/ada", {"disabled": True})
        page = await self.log_in(browser, issuer)
        assert (page.status, said(page).split(".")[0]) == (403, "The user ada is disabled")

    async def test_two_first_logins_at_once_make_one_account(self, app_state: Any, settings: Settings) -> None:
        from app.people.logins import Client as From
        from app.people.logins import Identity

        identity = Identity("https://issuer 4711", "ada", "viewer", None)
        logins = app_state.house.logins
        tokens = await asyncio.gather(*(logins.admit(identity, From()) for _ in range(5)))
        assert len(set(tokens)) == 5
        assert [row["name"] for row in await sql(settings, "SELECT name FROM account")] == ["ada"]

    @pytest.mark.parametrize(
        ("claims", "name"),
        [
            ({"preferred_username": "Ada.Lovelace"}, "ada.lovelace"),
            ({"preferred_username": "a b\u202e<c>"}, "a-b-c-"),
            ({"preferred_username": "-._"}, "4711"),
            ({"preferred_username": None, "email": "Ada@Example.org"}, "ada@example.org"),
            ({"preferred_username": 1, "email": ["x"]}, "4711"),
            ({"preferred_username": None, "sub": "日本"}, "somebody"),
        ],
        ids=str,
    )
    async def test_names(self, browser: Browser, issuer: Issuer, claims: dict[str, Any], name: str) -> None:
        await self.log_in(browser, issuer, **claims)
        assert (await browser.me()).json["name"] == f"user:{name}"

    # --- the issuer is away -------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "fault",
        [
            {"status": 500},
            {"document": {"issuer": "https://evil.example"}},
            {"document": {"token_endpoint": None}},
            {"document": {"authorization_endpoint": "javascript:alert(1)"}},
            {"document": {"jwks_uri": "http://127.0.0.1:1/keys"}},
            {"document": {"jwks_uri": 1}},
        ],
        ids=str,
    )
    async def test_an_issuer_that_does_not_answer_as_it_should_is_a_page_with_a_sentence(
        self, browser: Browser, issuer: Issuer, fault: dict[str, Any]
    ) -> None:
        for name, value in fault.items():
            setattr(issuer, name, value)
        page = await browser.get("/admin/login/oidc")
        assert page.status == 503
        assert page.headers["Retry-After"]
        assert said(page).startswith("127.0.0.1 does not answer as it should")
        assert (await browser.log_in()).status == 303, "who has a password comes in"

    async def test_it_is_asked_once_for_all(self, browser: Browser, issuer: Issuer) -> None:
        await asyncio.gather(*(browser.get("/admin/login/oidc") for _ in range(10)))
        assert issuer.reads == 1

    async def test_that_it_is_away_is_asked_once_for_all(self, browser: Browser, issuer: Issuer) -> None:
        issuer.status = 500
        pages = await asyncio.gather(*(browser.get("/admin/login/oidc") for _ in range(10)))
        assert {page.status for page in pages} == {503}
        assert issuer.reads == 1

    async def test_away_between_there_and_back(self, browser: Browser, issuer: Issuer) -> None:
        url = await self.begin(browser)
        issuer.answer = None
        del issuer.begun
        page = await browser.get(f"/admin/login/oidc/callback?code=x&state={query(url)['state']}")
        assert page.status == 503


class TestTenants:
    @pytest.fixture
    async def issuer(self) -> AsyncIterator[Issuer]:
        async with Issuer.serve() as issuer:
            yield issuer

    @pytest.fixture
    def options(self, issuer: Issuer) -> dict[str, Any]:
        return {
            **OIDC,
            "oidc_issuer": issuer.url,
            "oidc_roles": "viewer=*",
            "oidc_tenant_claim": "app.tenant",
            "oidc_role_claim": "realm_access.roles",
        }

    @pytest.mark.parametrize(
        ("told", "tenant", "every"),
        [("acme", "acme", False), ("*", "", True)],
    )
    async def test_the_tenant_is_a_claim(
        self, browser: Browser, issuer: Issuer, told: str, tenant: str, every: bool
    ) -> None:
        await TestForged().log_in(browser, issuer, app={"tenant": told})
        me = (await browser.me()).json
        assert (me["tenant"], me["every_tenant"]) == (tenant, every)

    @pytest.mark.parametrize("told", [None, "", "a b", ["acme"], 1, {}])
    async def test_without_a_tenant_nobody_becomes_one_of_the_house(
        self, browser: Browser, issuer: Issuer, told: Any
    ) -> None:
        page = await TestForged().log_in(browser, issuer, app={"tenant": told})
        assert page.status == 403
        assert "saga_session" not in browser.cookies


class TestSettings:
    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"oidc_issuer": "http://issuer.example"}, "must be an address with https"),
            ({"oidc_issuer": "issuer.example"}, "must be an address with https"),
            ({"oidc_client_id": None}, "needs SAGA_OIDC_CLIENT_ID too"),
            ({"oidc_roles": "", "secret_key": None}, "needs SAGA_OIDC_ROLES and SAGA_SECRET_KEY too"),
            ({"oidc_roles": "root=x"}, "must be like admin=GROUP"),
            ({"oidc_roles": "admin"}, "must be like admin=GROUP"),
            ({"oidc_roles": "admin="}, "must be like admin=GROUP"),
        ],
    )
    def test_half_of_it_is_refused_at_the_start(self, given: dict[str, Any], told: str) -> None:
        whole = {**OIDC, "secret_key": "s", "oidc_issuer": "https://issuer.example"}
        assert Settings(**whole).oidc_issuer
        with pytest.raises(ValidationError, match=told):
            Settings(**{**whole, **given})


async def test_without_an_issuer_there_is_no_such_login(browser: Browser) -> None:
    assert b"Log in with" not in (await browser.get("/admin/login")).content
    assert (await browser.get("/admin/login/oidc")).status == 404
    assert (await browser.get("/admin/login/oidc/callback?code=x&state=y")).status == 404
