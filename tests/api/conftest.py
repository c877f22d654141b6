"""The API as its clients see it: a real uvicorn on a loopback port, and a worker that runs what is due, on command."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest
import uvicorn
from fastapi import FastAPI

from app.api.server import protocol
from app.house import House, open_house
from app.main import make_app
from app.saga import rules
from app.saga.state import CallState
from app.settings import Settings
from tests.conftest import KEY
from tests.participant import Participant

PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.content)

    @property
    def code(self) -> str:
        """Of a problem, or of the page that tells it; fails where this is none."""
        if self.headers["Content-Type"].startswith("text/html"):
            told = re.search(rf'<p class="muted">{self.status} <code>([a-z-]+)</code>', self.content.decode())
            assert told is not None, self.content
            return told[1]
        assert self.headers["Content-Type"] == PROBLEM, self.content
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"]
        assert problem["title"]
        assert problem["detail"]
        return problem["code"]

    @property
    def paths(self) -> list[str]:
        return [fault["path"] for fault in self.json["errors"]]


class Client:
    """Speaks HTTP with a key, unless told otherwise."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session, self.base = session, base

    async def __call__(
        self, method: str, path: str, json: Any = None, *, data: Any = None, key: str | None = KEY, **headers: str
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named.setdefault("Authorization", f"Bearer {key}")
        body = data if json is None else orjson.dumps(json)
        async with self.session.request(method, self.base + path, data=body, headers=named) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: Any) -> Answer:
        return await self("GET", path, **headers)

    async def post(self, path: str, json: Any = None, **headers: Any) -> Answer:
        return await self("POST", path, json, **headers)

    async def put(self, path: str, json: Any = None, **headers: Any) -> Answer:
        return await self("PUT", path, json, **headers)


@contextlib.asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[tuple[Client, FastAPI]]:
    """A server of its own in this loop; without the signal handlers that `uvicorn.run` would install."""
    app = make_app(settings)
    config = uvicorn.Config(app, http=protocol(settings), ws="none", lifespan="on", log_config=None, access_log=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # With its protocol named: asyncio sets TCP_NODELAY only then, and without it an answer takes 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        await server.startup([listening])
        if server.should_exit:
            raise RuntimeError("the API did not start")
        async with aiohttp.ClientSession() as session:
            yield Client(session, f"http://127.0.0.1:{listening.getsockname()[1]}"), app
        await server.shutdown([listening])


@pytest.fixture
async def served(settings: Settings) -> AsyncIterator[tuple[Client, FastAPI]]:
    async with serve(settings) as served:
        yield served


@pytest.fixture
def api(served: tuple[Client, FastAPI]) -> Client:
    return served[0]


@pytest.fixture
def app_state(served: tuple[Client, FastAPI]) -> Any:
    return served[1].state


@dataclass
class World:
    """An API, a worker, and a participant that plays every service."""

    api: Client
    worker: House
    participant: Participant
    keys: int = field(default=0)

    async def define(self, *steps: Mapping[str, Any], name: str = "order", **more: Any) -> None:
        """Steps need a name only; what they leave out is filled in."""
        filled = [{"service": "shop", "action": step["name"], "compensation": "undo", **step} for step in steps]
        answer = await self.api.put(f"/definitions/{name}", {"name": name, "steps": filled, **more})
        assert answer.status in {200, 201}, answer.content

    async def submit(self, saga: str = "order", input: Any = None, **more: Any) -> dict[str, Any]:  # noqa: A002
        self.keys += 1
        key = more.pop("key", f"key-{self.keys}")
        body = {"saga": saga, "input": {} if input is None else input, **more}
        answer = await self.api.post("/sagas", body, Idempotency_Key=key)
        assert answer.status == 202, answer.content
        return answer.json

    async def run(self, saga_id: str) -> dict[str, Any]:
        """Runs what is due until nothing is; retries that are due later are left alone."""
        while True:
            saga = await self.worker.engine.load(saga_id)
            due = [
                (saga.definition.steps[step].name, operation)
                for step, operation, call in saga.state.calls()
                if call.state is CallState.SCHEDULED and rules.may_be_sent(saga.definition, saga.state, step, operation)
            ]
            if not due:
                return (await self.api.get(f"/sagas/{saga_id}")).json
            await asyncio.gather(*(self.worker.attempts.perform(saga_id, *each) for each in due))

    async def ran(self, saga: str = "order", **more: Any) -> dict[str, Any]:
        return await self.run((await self.submit(saga, **more))["id"])

    async def act(self, saga_id: str, action: str, **body: Any) -> Answer:
        return await self.api.post(f"/admin/api/sagas/{saga_id}/{action}", {"reason": "a test", **body})


@pytest.fixture
async def world(settings: Settings, api: Client) -> AsyncIterator[World]:
    async with Participant.serve() as participant, open_house(settings, worker=True) as worker:
        answer = await api.put("/services/shop", {"url": participant.url})
        assert answer.status == 201
        yield World(api, worker, participant)


ONCE: Mapping[str, Any] = {"max_attempts": 1}
"""A retry policy that gives up at once."""
