"""Logins by OpenID Connect: an issuer says who somebody is, and the settings say what that lets them do.

The authorization code flow with PKCE (S256). What one login needs to remember stands in a signed cookie of ten
minutes: a random text, from which `state`, `nonce` and the PKCE verifier are derived under SAGA_SECRET_KEY. So an
answer counts in the browser that asked, and the verifier never leaves this house until the code is redeemed.

The ID token is believed when its signature is by one of the issuer's published keys (asymmetric algorithms only), and
issuer, audience, times and nonce are right; of it come the subject, a name, the role and, where a claim is set for it,
the tenant. authlib and joserfc do the protocol and the cryptography; httpx the HTTP, without proxies of the
environment and without redirects.
"""

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import authlib.deprecate  # noqa: F401 - it sets a filter of its own, before ours
import httpx
import orjson
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from app.access import ROLES, Role
from app.errors import Problem
from app.observability import log
from app.people.logins import Identity, is_name
from app.saga.jsonable import text_fault
from app.settings import Settings, oidc_roles

with warnings.catch_warnings():
    # authlib asks for httpx2, a successor that nothing else here needs; httpx it serves as well until its next major.
    warnings.simplefilter("ignore")
    from authlib.integrations.base_client import OAuthError
    from authlib.integrations.httpx_client import AsyncOAuth2Client
    from authlib.oidc.core import CodeIDToken

PATIENCE_SECONDS: Final = 10.0
LOGIN_SECONDS: Final = 600
FRESH_SECONDS: Final = 3600.0
"""So long what the issuer publishes is kept; a key that is not known is looked for at once."""
AGAIN_SECONDS: Final = 5.0
LEEWAY_SECONDS: Final = 60
ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
EVERY_TENANT: Final = "*"
ANYBODY: Final = "*"


@dataclass(frozen=True, slots=True)
class Begun:
    url: str
    cookie: str
    cookie_seconds: int = LOGIN_SECONDS


@dataclass(frozen=True, slots=True)
class _Issuer:
    """What it publishes of itself."""

    document: Mapping[str, Any]
    keys: KeySet
    read_at: float


class Oidc:
    def __init__(self, settings: Settings) -> None:
        """For settings with an issuer; they are complete (`Settings`)."""
        assert settings.oidc_issuer is not None
        assert settings.oidc_client_id is not None
        assert settings.secret_key is not None
        self.issuer, self._settings = settings.oidc_issuer, settings
        self.client_id: Final = settings.oidc_client_id
        self._secret = settings.secret_key.get_secret_value().encode()
        self._roles = oidc_roles(settings.oidc_roles)
        self._issuer: _Issuer | None = None
        self._failed_at = float("-inf")
        self._lock = asyncio.Lock()

    @property
    def host(self) -> str:
        """For people."""
        return urlsplit(self.issuer).hostname or self.issuer

    # --- there --------------------------------------------------------------------------------------------------

    async def begin(self, redirect_uri: str, wanted: str) -> Begun:
        """Where to send the browser, with which cookie. Problem 503 `oidc-unreachable`."""
        issuer = await self._published()
        seed = secrets.token_urlsafe(32)
        async with self._client(issuer, redirect_uri) as client:
            url, _ = client.create_authorization_url(
                issuer.document["authorization_endpoint"],
                state=self._derived("state", seed),
                nonce=self._derived("nonce", seed),
                code_verifier=self._derived("verifier", seed),
            )
        return Begun(url, self._sealed([seed, int(time.time()) + LOGIN_SECONDS, wanted]))

    # --- and back -----------------------------------------------------------------------------------------------

    async def finish(self, cookie: str, answer: Mapping[str, str], redirect_uri: str) -> tuple[Identity, str]:
        """Who has come, and which page was wanted. Problem 403, 503."""
        opened = self._opened(cookie)
        if opened is None or not _same(answer.get("state", ""), self._derived("state", opened[0])):
            detail = (
                "This login was not begun in this browser, or more than ten minutes ago. Begin again, at"
                f" {redirect_uri.partition('/admin/')[0]}/admin/login."
            )
            raise Problem(403, "oidc-state-invalid", detail)
        seed, _, wanted = opened
        if answer.get("iss", self.issuer) != self.issuer:  # RFC 9207
            raise _refused("the answer names another issuer")
        if error := answer.get("error"):
            raise _refused(f"it says {error[:50] if re.fullmatch(r'[a-z_]{1,50}', error) else 'no'}")
        issuer = await self._published()
        token = await self._redeem(issuer, answer.get("code", ""), seed, redirect_uri)
        claims = await self._verified(issuer, token, self._derived("nonce", seed))
        return self._identity(claims), wanted

    async def _redeem(self, issuer: _Issuer, code: str, seed: str, redirect_uri: str) -> Mapping[str, Any]:
        if not code:
            raise _refused("the answer has no code")
        try:
            async with self._client(issuer, redirect_uri) as client:
                found: Mapping[str, Any] = await client.fetch_token(
                    issuer.document["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=self._derived("verifier", seed),
                )
        except OAuthError as error:
            raise _refused(f"the code was not taken ({str(error.error)[:50]})") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._unreachable(error) from None
        return found

    async def _verified(self, issuer: _Issuer, token: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """The claims of the ID token; Problem 403 where any check fails."""
        text = token.get("id_token")
        if not isinstance(text, str):
            raise _refused("the answer has no ID token")
        try:
            try:
                found = _decoded(text, issuer.keys)
            except InvalidKeyIdError:
                found = _decoded(text, (await self._published(renew=True)).keys)
            claims = CodeIDToken(
                found.claims,
                found.header,
                {
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self.client_id},
                },
                {"nonce": nonce, "client_id": self.client_id, "access_token": token.get("access_token")},
            )
            claims.validate(leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _refused(f"its ID token is not valid ({type(error).__name__}: {error})") from None
        return dict(claims)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject or len(subject) > 255 or text_fault(subject):
            raise _refused("its ID token names no subject")
        role = self._role(_claim(claims, self._settings.oidc_role_claim))
        if role is None:
            detail = (
                f"{self.host} knows you, but nothing in your `{self._settings.oidc_role_claim}` is given a role here."
                " Ask who runs this house (SAGA_OIDC_ROLES)."
            )
            raise Problem(403, "oidc-no-role", detail)
        return Identity(f"{self.issuer} {subject}", _name(claims), role, self._tenant(claims))

    def _role(self, given: Any) -> Role | None:
        """The highest that is given to anything in the claim."""
        has = {text for text in (given if isinstance(given, list) else [given]) if isinstance(text, str)}
        found = [role for role, value in self._roles if value == ANYBODY or value in has]
        return max(found, key=ROLES.index, default=None)

    def _tenant(self, claims: Mapping[str, Any]) -> str | None:
        name = self._settings.oidc_tenant_claim
        if name is None:
            return None
        given = _claim(claims, name)
        if given == EVERY_TENANT:
            return None
        if not isinstance(given, str) or not TENANT.fullmatch(given):
            raise Problem(403, "oidc-no-tenant", f"{self.host} knows you, but your `{name}` names no tenant.")
        return given

    # --- the issuer ---------------------------------------------------------------------------------------------

    async def _published(self, *, renew: bool = False) -> _Issuer:
        """Problem 503 `oidc-unreachable`. Who asks at the same time shares the answer, also that there is none."""
        asked_at = time.monotonic()
        async with self._lock:
            known = self._issuer
            fresh_from = asked_at if renew else time.monotonic() - FRESH_SECONDS
            if known is not None and known.read_at >= fresh_from:
                return known
            if time.monotonic() - self._failed_at < AGAIN_SECONDS:
                raise self._unreachable(None)
            try:
                self._issuer = await self._read()
            except (httpx.HTTPError, httpx.InvalidURL, JoseError, ValueError, TypeError, KeyError) as error:
                self._failed_at = time.monotonic()
                raise self._unreachable(error) from None
            return self._issuer

    async def _read(self) -> _Issuer:
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as client:
            document = await _json(client, self.issuer.rstrip("/") + "/.well-known/openid-configuration")
            if document.get("issuer") != self.issuer:
                raise ValueError(f"it calls itself {str(document.get('issuer'))[:200]!r}")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not re.match(r"https?://", document[name]):
                    raise ValueError(f"its {name} is no address")
            keys = KeySet.import_key_set(await _json(client, document["jwks_uri"]))  # type: ignore[arg-type]
        return _Issuer(document, keys, time.monotonic())

    def _client(self, issuer: _Issuer, redirect_uri: str) -> Any:
        secret = self._settings.oidc_client_secret
        methods = issuer.document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        return AsyncOAuth2Client(
            self.client_id,
            None if secret is None else secret.get_secret_value(),
            token_endpoint_auth_method="none" if secret is None else method,
            scope=self._settings.oidc_scopes,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            timeout=PATIENCE_SECONDS,
            trust_env=False,
        )

    def _unreachable(self, error: Exception | None) -> Problem:
        if error is not None:
            log.warning("the OpenID Connect issuer %s cannot be used: %s", self.issuer, error or type(error).__name__)
        detail = (
            f"{self.host} does not answer as it should, so nobody can log in with it at this moment. Try again later."
        )
        return Problem(503, "oidc-unreachable", detail, headers={"Retry-After": "10"})

    # --- what the browser keeps ---------------------------------------------------------------------------------

    def _derived(self, what: str, seed: str) -> str:
        return _encoded(hmac.digest(self._secret, f"saga oidc {what}\0{seed}".encode(), hashlib.sha256))

    def _sealed(self, value: list[Any]) -> str:
        text = _encoded(orjson.dumps(value))
        return f"{text}.{self._derived('cookie', text)}"

    def _opened(self, cookie: str) -> tuple[str, int, str] | None:
        text, _, mac = cookie.partition(".")
        if not _same(mac, self._derived("cookie", text)):
            return None
        seed, until, wanted = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return None if until < time.time() else (seed, until, wanted)


def _decoded(text: str, keys: KeySet) -> jwt.Token:
    # An unknown parameter of the header that is not `crit` is to be ignored (RFC 7515, section 4).
    return jwt.decode(text, keys, registry=JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False))


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """By its name, or by its path, as in `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _name(claims: Mapping[str, Any]) -> str:
    """What the person is called here, if nobody is called so yet."""
    for claim in ("preferred_username", "email", "sub"):
        given = claims.get(claim)
        if isinstance(given, str):
            name = re.sub(r"[^a-z0-9._@+-]+", "-", given.lower()).lstrip("._@+-")[:80]
            if is_name(name):
                return name
    return "somebody"


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    response = await client.get(url, headers={"Accept": "application/json"})
    if response.status_code != 200:
        raise ValueError(f"{url} answers {response.status_code}")
    found = response.json()
    if not isinstance(found, dict):
        raise ValueError(f"{url} is no JSON object")  # noqa: TRY004 - one kind of error: it does not answer as it should
    return found


def _refused(why: str) -> Problem:
    log.warning("a login by OpenID Connect was refused: %s", why)
    return Problem(403, "oidc-refused", f"The login was refused: {why}. Begin again.")


def _same(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), known.encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
