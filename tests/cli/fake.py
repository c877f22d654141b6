"""An API that says what a test tells it to, and remembers what it was asked."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

ID = "0199c4b2-7d1e-7c3a-9f00-1c2d3e4f5a6b"
OTHER = "0199c4b2-0000-7000-8000-000000000002"
NOW = "Sat, 21 Nov 2026 23:00:00 GMT"


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Says:
    """`body` is JSON, or text as it is sent. `cuts` breaks the connection instead."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cuts: bool = False


def a_saga(**more: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "saga": "order",
        "version": 3,
        "idempotency_key": "order-1042",
        "state": "EXECUTING",
        "input": {},
        "labels": {},
        "current_step": "charge",
        "completed_steps": [],
        "steps": [],
        "error": None,
        "attention": None,
        "paused": False,
        "restarted_from": None,
        "created_at": "2026-11-21T22:00:00.000000Z",
        "updated_at": "2026-11-21T22:00:00.000000Z",
        "deadline_at": "2026-11-21T23:30:00.000000Z",
        "finished_at": None,
        **more,
    }


def page(*items: Any, cursor: str | None = None) -> Says:
    return Says(body={"items": list(items), "next_cursor": cursor})


def problem(status: int, code: str, detail: str, *errors: tuple[str, str]) -> Says:
    body = {"type": f"urn:saga:problem:{code}", "title": "-", "status": status, "detail": detail, "code": code}
    if errors:
        body["errors"] = [{"path": path, "message": message} for path, message in errors]
    return Says(status, body, {"Content-Type": "application/problem+json"})


Answers = Says | Callable[[Asked], Says]


class FakeApi:
    """On loopback, in a thread of its own. `answers["GET /sagas"]` is one answer, a list of them, or a function."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[str, Answers | list[Says]] = {}
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def forget(self) -> None:
        self.asked, self.answers = [], {}

    async def _start(self) -> str:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _answer(self, request: web.Request) -> web.Response:
        content = await request.text()
        asked = Asked(
            request.method,
            request.path,
            list(request.query.items()),
            {name.lower(): value for name, value in request.headers.items()},
            json.loads(content) if content else None,
        )
        self.asked.append(asked)
        says = self.answers.get(f"{request.method} {request.path}")
        if isinstance(says, list):
            says = says.pop(0) if len(says) > 1 else says[0]
        if callable(says):
            says = says(asked)
        if says is None:
            says = problem(404, "not-found", f"There is nothing at {request.path}.")
        if says.cuts:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        text = says.body if isinstance(says.body, str) else json.dumps(says.body)
        headers = {"Content-Type": "application/json", "Date": NOW} | says.headers
        return web.Response(status=says.status, text=text, headers=headers)
