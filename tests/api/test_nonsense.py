"""Whatever a client sends, it is told what is wrong: never 500, and always problem+json."""

import re

import pytest

from app.api.openapi import document
from app.main import ROUTERS
from tests.api.conftest import PROBLEM, Answer, World

OPERATIONS = [(method.upper(), path) for path, methods in document(ROUTERS, "1")["paths"].items() for method in methods]
NAMES = [
    "order",
    "%00",
    "%ff%fe",
    "x" * 3000,
    "..%2f..",
    "%F0%9F%8D%B5",
    "0",
    "null",
    "' OR 1=1 --",
    "%7B%7D",
    "-",
    "~",
]
BODIES = [
    b"",
    b"null",
    b"0",
    b'""',
    b"[]",
    b"{}",
    b"[[]]",
    b'{"reason": "x"}',
    b'{"reason": {"a": 1}, "step": [], "input": null, "timeout": {}, "action": 1, "filter": []}',
    b'{"reason": "x", "step": "\\ud83c\\udf75", "timeout": 1e308, "output": 1, "confirm_not_done": "no"}',
    b'{"saga": "", "input": {}, "labels": {"": ""}, "version": 1e9, "start_at": "", "notify_url": ""}',
    b'{"name": [], "steps": {"a": 1}, "url": {}, "headers": {"": ""}, "secrets": [1], "max_in_flight": 1e400}',
    b'{"status": [], "output": {"a": 1}, "error": [[]]}',
    b"\x00",
    b"\xff" * 100,
    b"steps:\n  - &a [*a]",
    b"!!python/object/apply:os.system ['true']",
]
HEADERS = [
    {"If-Match": "nonsense", "If-None-Match": ",,,", "Prefer": "wait=" + "9" * 500},
    {"Content-Type": "\xff", "Accept": ";;;q=x", "Last-Event-ID": "-1", "traceparent": "00"},
    {"Accept": "text/event-stream", "Last-Event-ID": "9" * 400, "Content-Encoding": "gzip"},
    {"Idempotency-Key": "\xe9"},
]
QUERIES = [
    "?%00=%00",
    "?limit=%00&cursor=%00",
    "?limit=" + "9" * 5000,
    "?after=" + "9" * 30,
    "?a" * 500,
    "?version=9e9",
]


@pytest.fixture
async def orders(world: World) -> World:
    await world.define({"name": "reserve"})
    await world.ran()
    return world


def judge(answer: Answer, *what: object) -> None:
    assert answer.status < 500 or answer.status == 503, (what, answer.content)
    if answer.status >= 400:
        assert answer.headers["Content-Type"] == PROBLEM, what
        assert answer.code, what


async def test_nonsense_is_refused(orders: World) -> None:
    for method, path in OPERATIONS:
        await send_nonsense(orders, method, path)


async def send_nonsense(orders: World, method: str, path: str) -> None:
    saga = (await orders.api.get("/sagas")).json["items"][-1]
    known = {"token": "x.y", "name": "order", "asset": "start.js", "id": saga["id"]}
    real = re.sub(r"\{(\w+)\}", lambda found: known[found[1]], path)
    if "{" in path:
        for name in NAMES:
            named = re.sub(r"\{\w+\}", lambda _: name, path)  # noqa: B023
            judge(await orders.api(method, named, data=b'{"reason": "x"}'), method, named)
    for query in QUERIES:
        judge(await orders.api(method, real + query), method, real, query)
    for headers in HEADERS:
        judge(await orders.api(method, real, data=b'{"reason": "x"}', **headers), method, real, headers)
    if method != "GET":
        for body in BODIES:
            judge(await orders.api(method, real, data=body, Idempotency_Key="k"), method, real, body)
