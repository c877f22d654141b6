"""People as HTTP carries them: the cookie of a session, and what keeps other sites from using it.

A browser sends the cookie with whatever any page makes it send. So a request that changes something needs two things
more. It must not come from another site, where the browser says from where it comes (`Sec-Fetch-Site`, else `Origin`;
who says neither is no browser of the last years). And it must bring a token that only our own pages can know: a MAC
of the session's token, in the form field `csrf_token` or the header `X-CSRF-Token`.

Over https the cookie is `__Host-saga_session`, which no other host of the domain can set; over plain http, on loopback,
it is `saga_session`.
"""

import hashlib
import hmac
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.errors import Problem
from app.people.logins import Logins, Visit
from app.settings import Settings

COOKIE: Final = "saga_session"
CSRF_FIELD: Final = "csrf_token"
CSRF_HEADER: Final = "x-csrf-token"
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def is_https(request: HTTPConnection, settings: Settings) -> bool:
    """As the browser sees it: behind a proxy, SAGA_PUBLIC_URL says so."""
    return request.url.scheme == "https" or (settings.public_url or "").startswith("https://")


def cookie_name(request: HTTPConnection, settings: Settings, name: str = COOKIE) -> str:
    return f"__Host-{name}" if is_https(request, settings) else name


def set_cookie(
    response: Response, request: HTTPConnection, settings: Settings, name: str, value: str, seconds: int | None = None
) -> None:
    """Without `seconds` it goes with the browser."""
    response.set_cookie(
        cookie_name(request, settings, name),
        value,
        max_age=seconds,
        path="/",
        secure=is_https(request, settings),
        httponly=True,
        samesite="lax",
    )


def drop_cookie(response: Response, request: HTTPConnection, settings: Settings, name: str = COOKIE) -> None:
    response.delete_cookie(
        cookie_name(request, settings, name),
        path="/",
        secure=is_https(request, settings),
        httponly=True,
        samesite="lax",
    )


async def visit_of(
    request: HTTPConnection, logins: Logins, settings: Settings, address: str | None, *, seen: bool = True
) -> Visit | None:
    """Who is logged in with the request's cookie."""
    token = request.cookies.get(cookie_name(request, settings))
    return None if not token else await logins.find(token, address, seen=seen)


def csrf_token(token: str) -> str:
    """Of a session, or of another secret that the browser holds in a cookie. It tells nothing of it."""
    return hmac.digest(token.encode(), b"saga csrf", hashlib.sha256).hex()


def check_csrf(token: str, given: str | None) -> None:
    """Problem 403."""
    if not given:
        detail = (
            "With the cookie of a session, a request that changes something needs its CSRF token: the form field"
            " `csrf_token`, or the header `X-CSRF-Token`. Load the page again."
        )
        raise Problem(403, "csrf-token-missing", detail)
    if not hmac.compare_digest(given.encode(), csrf_token(token).encode()):
        detail = "The CSRF token is not the one of this session: load the page again, and repeat what you did."
        raise Problem(403, "csrf-token-invalid", detail)


def refuse_other_sites(request: HTTPConnection, settings: Settings) -> None:
    """Problem 403 `cross-site`. `same-site` is another host of the same domain, and no friend either."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        ours = site in {"same-origin", "none"}
    elif origin is not None:
        ours = _host(origin) in {request.headers.get("host", "").lower(), _host(settings.public_url or "")} - {""}
    else:
        ours = True
    if not ours:
        detail = "The request comes from a page of another site. Open the dashboard itself, and do it there."
        raise Problem(403, "cross-site", detail)


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""
