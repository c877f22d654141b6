"""Who is told: an HTTP server of a test that keeps every notice and answers as it is told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web


@dataclass(frozen=True)
class Told:
    path: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def body(self) -> dict[str, Any]:
        return orjson.loads(self.content)

    @property
    def type(self) -> str:
        return self.body["type"]


class Receiver:
    def __init__(self) -> None:
        self.told: list[Told] = []
        self.answers: list[int | asyncio.Event] = []
        """Of the next notices, one each: a status, or an event to wait for. What comes after is taken with 204."""
        self.url = ""
        self._came = asyncio.Condition()

    @classmethod
    @contextlib.asynccontextmanager
    async def serve(cls) -> "AsyncIterator[Receiver]":
        receiver = cls()
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", receiver._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/told"
        try:
            yield receiver
        finally:
            for answer in receiver.answers:
                if isinstance(answer, asyncio.Event):
                    answer.set()
            await runner.cleanup()

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds), self._came:
            await self._came.wait_for(condition)

    async def until_told(self, times: int = 1) -> Told:
        """The last of so many."""
        await self.until(lambda: len(self.told) >= times)
        return self.told[times - 1]

    async def _handle(self, request: web.Request) -> web.Response:
        content = await request.read()
        answer = self.answers.pop(0) if self.answers else 204
        self.told.append(Told(request.path, dict(request.headers), content))
        async with self._came:
            self._came.notify_all()
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            return web.Response(status=204)
        headers = {"Location": "/elsewhere"} if 300 <= answer < 400 else {}
        return web.Response(status=answer, headers=headers)
