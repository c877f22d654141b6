"""Every error as application/problem+json (RFC 9457), whoever raised it: us, FastAPI, the database, a mistake.

`type` is a URN made of `code`; programs go by `code`, people read `detail`.
"""

from http import HTTPStatus
from typing import Any, Final

import asyncpg
import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import observability
from app.errors import DatabaseUnavailable, Problem
from app.observability import log
from app.store.database import caused_by

MEDIA_TYPE: Final = "application/problem+json"
DATABASE_RETRY_SECONDS: Final = 1
ANSWER_HEADERS: Final = "saga.answer_headers"
"""Key of a request's scope: headers that its answer gets, whatever it is."""


def respond(problem: Problem) -> Response:
    body: dict[str, Any] = {
        "type": f"urn:saga:problem:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        **problem.extra,
    }
    if problem.errors:
        body["errors"] = [{"path": path, "message": message} for path, message in problem.errors]
    return Response(orjson.dumps(body), problem.status, problem.headers, MEDIA_TYPE)


def database_unavailable(error: DatabaseUnavailable) -> Problem:
    return Problem(
        503,
        "database-unavailable",
        f"{error}. Try again; a request with an idempotency key may be repeated without harm.",
        headers={"Retry-After": str(DATABASE_RETRY_SECONDS)},
    )


def not_migrated() -> Problem:
    return Problem(
        503,
        "database-not-migrated",
        "The database lacks tables that this version needs: run `saga migrate`.",
        headers={"Retry-After": "5"},
    )


def internal_error() -> Problem:
    return Problem(500, "internal-error", "Something that should not happen has happened. It is in the service's log.")


def install(app: FastAPI) -> None:
    app.exception_handler(Problem)(_problem)
    app.exception_handler(DatabaseUnavailable)(_database_unavailable)
    app.exception_handler(HTTPException)(_http_exception)
    app.exception_handler(RequestValidationError)(_validation_error)
    app.exception_handler(ClientDisconnect)(_disconnected)
    app.add_middleware(UnexpectedErrors)


class UnexpectedErrors:
    """The last resort. Beneath Starlette's own, which answers in plain text and raises the error once more.

    What has been put under `ANSWER_HEADERS` is added here: a second pass would cost each request as much again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                _count(scope, message["status"])
                if more := scope.get(ANSWER_HEADERS):
                    message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if started:
                raise
            if caused_by(error, asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
                problem = not_migrated()
            else:
                log.exception("%s %s failed", scope["method"], scope["path"])
                problem = internal_error()
            await respond(problem)(scope, receive, send)


def _count(scope: Scope, status: int) -> None:
    caller, route = scope.get("state", {}).get("caller"), scope.get("route")
    if caller is not None and route is not None:
        observability.request(caller.tenant, route.path, scope["method"], status)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return respond(error)


async def _database_unavailable(_: Request, error: Exception) -> Response:
    assert isinstance(error, DatabaseUnavailable)
    return respond(database_unavailable(error))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        problem = Problem(404, "not-found", f"There is nothing at {request.url.path[:200]}.", headers=headers)
    elif error.status_code == 405:
        allowed = headers.get("Allow", "other methods")
        detail = f"{request.url.path[:200]} knows {allowed}, not {request.method[:20]}."
        problem = Problem(405, "method-not-allowed", detail, headers=headers)
    else:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        problem = Problem(error.status_code, code, str(error.detail), headers=headers)
    return respond(problem)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [(".".join(map(str, fault["loc"][1:])), str(fault["msg"])) for fault in error.errors()]
    return respond(Problem(422, "request-invalid", "The request is not as it should be: see `errors`.", errors=faults))


async def _disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it
