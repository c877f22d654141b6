"""An issuer of OpenID Connect that does what a test tells it, on a real port: also what no honest one would."""

import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from joserfc.jws import JWSRegistry


@dataclass
class Issuer:
    url: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    """Of the next ID token, beside or in place of the right ones; None leaves one out."""
    header: dict[str, Any] = field(default_factory=dict)
    signed_with: Any = None
    """In place of the published key."""
    document: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    answer: dict[str, Any] | None = None
    """In place of the answer of the token endpoint."""
    asked: list[dict[str, str]] = field(default_factory=list)
    """What the token endpoint was asked."""
    begun: dict[str, dict[str, str]] = field(default_factory=dict)
    """What was asked for, by its code."""
    key: Any = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"}))
    reads: int = 0

    def code_for(self, url: str) -> str:
        """As if somebody had logged in at this address of ours."""
        code = secrets.token_urlsafe(16)
        self.begun[code] = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        return code

    async def discovery(self, _: web.Request) -> web.Response:
        self.reads += 1
        document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            **self.document,
        }
        return web.json_response(document, status=self.status)

    async def keys(self, _: web.Request) -> web.Response:
        return web.json_response(KeySet([self.key]).as_dict(private=False))

    async def token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append({**form, "authorization": request.headers.get("Authorization", "")})
        if self.answer is not None:
            return web.json_response(self.answer)
        asked = self.begun.pop(form["code"], None)
        if asked is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "4711",
            "aud": asked["client_id"],
            "exp": now + 300,
            "iat": now,
            "nonce": asked["nonce"],
            "preferred_username": "Ada",
            "groups": ["saga-ops"],
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": "RS256", "kid": "one", **self.header}
        key = self.signed_with or self.key
        if isinstance(key, bytes):
            text = _hs256(header, claims, key)
        else:
            text = jwt.encode(header, claims, key, registry=JWSRegistry(algorithms=[header["alg"]]))
        return web.json_response({"access_token": "x", "token_type": "Bearer", "expires_in": 60, "id_token": text})

    @classmethod
    @contextlib.asynccontextmanager
    async def serve(cls) -> AsyncIterator["Issuer"]:
        issuer = cls()
        application = web.Application()
        application.router.add_get("/.well-known/openid-configuration", issuer.discovery)
        application.router.add_get("/keys", issuer.keys)
        application.router.add_post("/token", issuer.token)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield issuer
        finally:
            await runner.cleanup()


def _hs256(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    """By hand: no library signs with a public key."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{encoded(hmac.digest(key, text.encode(), hashlib.sha256))}"
