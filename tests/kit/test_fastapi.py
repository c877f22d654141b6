"""The barrier as a dependency: what the caller is told is what has been committed."""

import asyncio
import json
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import sessionmaker

from saga_participant import Call, Refused, Retry
from saga_participant.barrier import Barrier
from saga_participant.fastapi import calls, steps
from tests.kit.conftest import effects

SAGA = "0199-1"


class Client:
    """Speaks ASGI to the application: no server, no thread."""

    def __init__(self, app):
        self.app = app

    async def call(self, path, operation="action", *, saga_id=SAGA, say=""):
        key = f"{saga_id}/s" + ("/compensation" if operation == "compensation" else "")
        body = {"saga_id": saga_id, "saga": "order", "step": "s", "operation": operation, "attempt": 1, "input": say}
        sent = [{"type": "http.request", "body": json.dumps(body).encode()}]
        self.started = started = {}
        content = b""

        async def receive():
            return sent.pop() if sent else await asyncio.Event().wait()

        async def send(message):
            nonlocal content
            if message["type"] == "http.response.start":
                started.update(message)
            else:
                content += message.get("body", b"")

        headers = [(b"content-type", b"application/json"), (b"idempotency-key", key.encode())]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        scope |= {"http_version": "1.1", "scheme": "http", "root_path": "", "raw_path": path.encode()}
        await self.app(scope, receive, send)
        self.headers = {name.decode(): value.decode() for name, value in started["headers"]}
        return started["status"], json.loads(content)


def effect(session, step):
    if step.due:
        session.execute(insert(effects).values(saga_id=step.call.saga_id, what=step.call.operation))
        step.answer = {"done": step.done}
    match step.call.input:
        case "refuse":
            raise Refused("sold out", status=409)
        case "retry":
            raise Retry("closed", after_seconds=1.5)
        case "break":
            raise RuntimeError("a bug")


@pytest.fixture(scope="module", params=["postgres async", "sqlite"])
def kind(request):
    return request.param


@pytest.fixture
def client(service):
    app = FastAPI()
    if service.is_async:
        step_here = steps(async_sessionmaker(service.engine))

        @app.post("/do")
        async def _(step: Annotated[Barrier, step_here]) -> Any:
            await step.session.run_sync(effect, step)
            return step.answer

    else:

        @app.post("/do")
        def _(step: Annotated[Barrier, steps(sessionmaker(service.engine))]) -> Any:
            effect(step.session, step)
            return step.answer

    @app.post("/later", status_code=202)
    async def _(call: Annotated[Call, calls()]) -> None:
        if call.input == "refuse":
            raise Refused("no")

    @app.post("/signed")
    async def _(call: Annotated[Call, calls(["whsec_c2VjcmV0"])]) -> None: ...

    return Client(app)


async def test_an_action_and_its_compensation_are_answered_alike_each_time(client, service):
    for _ in range(2):
        assert await client.call("/do") == (200, {"done": None})
    for _ in range(2):
        assert await client.call("/do", "compensation") == (200, {"done": {"done": None}})
    assert (await client.call("/do"))[0] == 410
    assert await service.effects(SAGA) == ["action", "compensation"]


async def test_nothing_to_undo_is_a_success(client):
    assert await client.call("/do", "compensation") == (200, None)


async def test_five_at_once_are_one_effect_and_five_equal_answers(client, service):
    answers = await asyncio.gather(*(client.call("/do") for _ in range(5)))
    assert answers == [(200, {"done": None})] * 5
    assert await service.effects(SAGA) == ["action"]


async def test_a_refusal_leaves_no_trace(client, service):
    assert await client.call("/do", say="refuse") == (409, {"detail": "sold out"})
    assert await service.effects(SAGA) == []
    assert (await client.call("/do"))[0] == 200


async def test_retry_is_503_with_the_time_to_wait(client, service):
    assert (await client.call("/do", say="retry"))[0] == 503
    assert client.headers["retry-after"] == "2"
    assert await service.effects(SAGA) == []


async def test_a_bug_leaves_no_trace(client, service):
    with pytest.raises(RuntimeError, match="a bug"):
        await client.call("/do", say="break")
    assert await service.effects(SAGA) == []


async def test_success_is_answered_only_when_it_is_committed(client, service, monkeypatch):
    """FastAPI ends dependencies after the answer unless told otherwise: the caller would have been told 200."""

    def fail(_engine, *_):
        raise SQLAlchemyError("the server is gone")

    dialect = getattr(service.engine, "sync_engine", service.engine).dialect
    monkeypatch.setattr(type(dialect), "do_commit", fail)
    with pytest.raises(SQLAlchemyError):
        await client.call("/do")
    assert client.started["status"] == 500


async def test_work_for_later_is_accepted_without_a_transaction(client):
    assert await client.call("/later") == (202, None)
    assert (await client.call("/later", say="refuse"))[0] == 422


async def test_an_unsigned_call_is_not_let_in(client):
    assert (await client.call("/signed"))[0] == 401
