"""What every page has: its frame, its headers, how times and states look, and a page of its own for what goes wrong.

    router = APIRouter(route_class=Page, include_in_schema=False)

    @router.get("/admin/things")
    async def things(request: Request, visitor: Visiting) -> Response:
        return page(request, visitor, "things.html", here="things", things=...)

Values reach a page escaped, always; a name that a template does not know is an error. Pages work without JavaScript,
and none has a script or a style of its own: the policy in `HEADERS` would not let it run.
"""

import hashlib
import json
import shlex
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from app.access import Right, role_for
from app.dashboard.access import Visitor
from app.errors import DatabaseUnavailable, Problem
from app.instants import about, duration, rfc3339
from app.saga.diagram.drawing import STYLE
from app.saga.diagram.signs import CALLS, SAGAS
from app.saga.state import SECOND, CallState, Micros, SagaState

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    # With `no-referrer` a browser would post forms with `Origin: null`.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Place(NamedTuple):
    name: str
    path: str
    title: str


PLACES: Final = (
    Place("attention", "/admin/", "Needs attention"),
    Place("sagas", "/admin/sagas", "Sagas"),
    Place("bulk", "/admin/bulk", "Bulk jobs"),
    Place("letters", "/admin/dead-letters", "Dead letters"),
    Place("definitions", "/admin/definitions", "Definitions"),
    Place("services", "/admin/services", "Services"),
    Place("house", "/admin/house", "House"),
    Place("audit", "/admin/audit", "Audit"),
    Place("keys", "/admin/keys", "Keys"),
    Place("users", "/admin/users", "Users"),
)
"""What the navigation leads to."""

router = APIRouter(include_in_schema=False)


# --- files that every page loads --------------------------------------------------------------------------------

_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def _read_files() -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES}
    # The style of a diagram stands in its SVG; inline in a page it may not.
    return {**files, "diagram.css": STYLE.encode()}


FILES: Final = _read_files()
_DIGESTS: Final = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in FILES.items()}


def asset(name: str) -> str:
    """The address of a file. It changes with the content, so browsers may keep what they have."""
    return f"/admin/static/{_DIGESTS[name]}/{name}"


@router.get("/admin/static/{digest}/{name}")
async def static(digest: str, name: str) -> Response:
    content = FILES.get(name)
    if content is None:
        raise Problem(404, "not-found", f"There is no file {name[:80]}.")
    current = digest == _DIGESTS[name]
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if current else "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, headers=headers, media_type=_TYPES[Path(name).suffix])


# --- how things look --------------------------------------------------------------------------------------------


def clock(at: Micros) -> str:
    """2026-11-21 23:19:00 UTC."""
    return f"{rfc3339(at)[:19].replace('T', ' ')} UTC"


def now() -> Micros:
    return time.time_ns() // 1000


def ago(at: Micros | None) -> Markup | str:
    """A time as people read it, with the exact one at hand."""
    if at is None:
        return ""
    seconds = (now() - at) / SECOND
    text = f"{about(seconds)} ago" if seconds >= 0 else f"in {about(-seconds)}"
    return Markup(f'<time datetime="{rfc3339(at)}" title="{clock(at)}" data-ago>{text}</time>')  # noqa: S704 - digits


def seconds_ago(seconds: float) -> Markup | str:
    return ago(now() - int(seconds * SECOND))


def timed(at: Micros, words: str) -> Markup:
    """Words that stand for a time, such as how long after the beginning it was."""
    return Markup('<time datetime="{}" title="{}">{}</time>').format(rfc3339(at), clock(at), words)


@lru_cache
def state_badge(state: str) -> Markup:
    """Of a saga or of a call: a word, a sign and a tone."""
    sign = SAGAS[SagaState(state)] if state in SagaState.__members__ else CALLS[CallState(state)]
    return Markup('<span class="state {}"><span aria-hidden="true">{}</span> {}</span>').format(
        sign.tone, sign.character, state
    )


def pretty(value: Any) -> str:
    """JSON to be read."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def curl(method: str, path: str, body: Any = None, **headers: str) -> str:
    """What to type to ask the API for the same. The key is the reader's own."""
    parts = [f"curl -X {method}", f'"$SAGA_URL"{shlex.quote(path)}', '-H "Authorization: Bearer $SAGA_API_KEY"']
    parts += ["-H " + shlex.quote(f"{name.replace('_', '-')}: {value}") for name, value in headers.items()]
    if body is not None:
        parts += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}"]
    return " \\\n  ".join(parts)


def role_needed(right: Right) -> str:
    """To somebody who lacks it."""
    return f"This needs the role {role_for(right)}."


environment: Final = Environment(
    loader=PackageLoader("app.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters |= {
    "ago": ago,
    "seconds_ago": seconds_ago,
    "timed": timed,
    "clock": clock,
    "state": state_badge,
    "pretty": pretty,
    "duration": duration,
    "about": about,
}
environment.globals |= {"asset": asset, "places": PLACES, "Right": Right, "curl": curl, "role_needed": role_needed}


def page(
    request: Request,
    visitor: Visitor | None,
    template: str,
    *,
    here: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> Response:
    """`here`: the place in the navigation to which the page belongs."""
    content = environment.get_template(template).render(
        here=here,
        visitor=visitor,
        csrf_token=None if visitor is None else visitor.csrf_token,
        may=(lambda _: False) if visitor is None else visitor.caller.may,
        path=request.url.path,
        rendered_at=rfc3339(now()),
        **context,
    )
    return HTMLResponse(content, status, {**HEADERS, **(headers or {})})


# --- what goes wrong --------------------------------------------------------------------------------------------


class Page(APIRoute):
    """A route whose errors are pages. What happens before a visitor is known is left to whoever knows it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(request)
            except Problem as problem:
                return problem_page(request, problem)
            except DatabaseUnavailable:
                detail = "The database does not answer. Sagas go on when it does; try again in a few seconds."
                return problem_page(request, Problem(503, "database-unavailable", detail, headers={"Retry-After": "1"}))
            except RequestValidationError:
                return problem_page(request, Problem(422, "request-invalid", "The request is not as it should be."))

        return handle


def problem_page(request: Request, problem: Problem) -> Response:
    title = HTTPStatus(problem.status).phrase
    return page(
        request,
        None,
        "problem.html",
        here="",
        status=problem.status,
        headers=problem.headers,
        problem=problem,
        title=title,
    )
