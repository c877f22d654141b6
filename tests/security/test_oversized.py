"""Oversized and deeply nested everything: each route says 4xx as problem+json, and the API goes on answering.

What is sent is chosen to be dear where something is not bounded: seconds of CPU, memory, the stack. `LONGEST_SECONDS`
stands far above what an answer takes on a busy machine and far below what an unbounded one would.
"""

import asyncio
import gzip
import io
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest

from app.api.openapi import document
from app.main import ROUTERS
from tests.api.conftest import PROBLEM, Answer, Client, World
from tests.conftest import KEY

LONGEST_SECONDS = 30
DOCUMENT = document(ROUTERS, "1")
OPERATIONS = [
    (method.upper(), path, told) for path, methods in DOCUMENT["paths"].items() for method, told in methods.items()
]
WITH_BODY = [(method, path) for method, path, told in OPERATIONS if "requestBody" in told]
KNOWN = {"token": "x.y", "name": "order", "asset": "start.js"}

DEEP = 50_000
BODIES: dict[str, bytes] = {
    "as large as no body may be": b'{"reason": "' + b"x" * 2_000_000 + b'"}',
    "lists within lists": b"[" * DEEP + b"]" * DEEP,
    "lists that do not end": b"[" * DEEP,
    "objects within objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a hundred and one levels": b'{"input":' + b"[" * 100 + b"]" * 100 + b"}",
    "100,000 values in a list": orjson.dumps({"reason": "x", "input": list(range(100_000))}),
    "a list of 100,000": b"[" + b"0," * 99_999 + b"0]",
    "20,000 keys": orjson.dumps({f"key{n}": n for n in range(20_000)}),
    "a key of 200,000 characters": orjson.dumps({"x" * 200_000: 1}),
    "a reason of 200,000 characters": orjson.dumps({"reason": "x" * 200_000}),
    "a number of 200,000 digits": b'{"reason": "x", "input": ' + b"9" * 200_000 + b"}",
    "a number of 200,000 digits behind the point": b'{"reason": "x", "input": 0.' + b"9" * 200_000 + b"}",
    "a huge exponent": b'{"reason": "x", "input": 1e999999999}',
    "the same key 20,000 times": b'{"a":1,' * 1 + b'"a":1,' * 20_000 + b'"a":1}',
    "50,000 escapes": b'{"reason": "' + b"\\u0041" * 50_000 + b'"}',
    "50,000 commas": b"[" + b"," * 50_000 + b"]",
    "an alias that doubles": b"".join(
        [b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n"]
        + [b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 30)]
    ),
    "merges that double": b"".join(
        [b"a0: &a0 {k0: x, l0: x}\n"]
        + [b"a%d: &a%d {<<: [*a%d, *a%d], k%d: x}\n" % (n, n, n - 1, n - 1, n) for n in range(1, 60)]
    ),
    "dashes": b"- " * 100_000,
    "brackets of YAML": b"a: " + b"[" * 100_000,
    "question marks of YAML": b"? " * 100_000,
    "a quote that does not end": b'"' + b"a\n" * 100_000,
}


def real(path: str, saga_id: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: KNOWN.get(found[1], saga_id), path)


def judge(answer: Answer, *what: object) -> None:
    assert 400 <= answer.status < 500, (what, answer.status, answer.content[:300])
    assert answer.headers["Content-Type"] == PROBLEM, what
    assert answer.code, what
    assert len(answer.content) < 200_000, what


@pytest.fixture
async def orders(world: World) -> World:
    await world.define({"name": "reserve"})
    await world.submit()
    return world


async def the_only(orders: World) -> str:
    return (await orders.api.get("/sagas")).json["items"][-1]["id"]


@pytest.mark.parametrize(("method", "path"), WITH_BODY, ids=lambda part: part)
async def test_a_body(orders: World, method: str, path: str) -> None:
    at = real(path, await the_only(orders))
    for what, body in BODIES.items():
        async with asyncio.timeout(LONGEST_SECONDS):
            judge(await orders.api(method, at, data=io.BytesIO(body), Idempotency_Key="k"), method, path, what)
    async with asyncio.timeout(LONGEST_SECONDS):
        judge(await orders.api(method, at, data=gzip.compress(b"[" * 10_000_000), Content_Encoding="gzip"), "gzip")
        judge(await orders.api(method, at, data=pieces(b'{"a":', 400_000), Idempotency_Key="k"), "pieces")
    assert (await orders.api.get("/livez")).status == 200


async def pieces(piece: bytes, times: int) -> AsyncIterator[bytes]:
    """A body without a length, in many small chunks."""
    for _ in range(times // 1000):
        yield piece * 1000


async def test_a_query_and_headers(orders: World) -> None:
    saga_id = await the_only(orders)
    for method, path, told in OPERATIONS:
        at = real(path, saga_id)
        named = [each["name"] for each in told.get("parameters", ()) if each["in"] == "query"]
        for name in named:
            for value in ("9" * 20_000, "%5B" * 9000, "a," * 9000, ":" * 20_000):
                answer = await orders.api(method, f"{at}?{name}={value}")
                assert answer.status < 500, (method, path, name, answer.content[:300])
                assert len(answer.content) < 200_000
            if name != "limit":
                judge(await orders.api(method, f"{at}?{'&'.join([f'{name}=%ff'] * 5000)}"), method, path, name)
        if named:
            judge(await orders.api(method, f"{at}?{'&'.join(f'n{n}=1' for n in range(6000))}"), method, path)
        for name in (
            "If-Match",
            "If-None-Match",
            "Accept",
            "Prefer",
            "Idempotency-Key",
            "traceparent",
            "Last-Event-ID",
        ):
            if not (method == "GET" and path.endswith("/events")):
                answer = await orders.api(method, at, data=b"{", **{name: ",;=" * 6000})
                assert answer.status < 500, (method, path, name)


@pytest.mark.parametrize(
    "given",
    [
        {"headers": {"X-Large": "x" * 70_000}},
        {"headers": {f"X-{n}": "x" * 100 for n in range(800)}},
        {"query": "?label=" + "x" * 70_000},
        {"headers": {"Authorization": "Bearer " + "x" * 70_000}},
    ],
)
async def test_a_head(api: Client, given: dict[str, Any]) -> None:
    async with api.session.get(f"{api.base}/sagas{given.get('query', '')}", headers=given.get("headers")) as response:
        answer = Answer(response.status, response.headers, await response.read())
    assert (answer.status, answer.code) == (431, "head-too-large")
    assert answer.json["limit"] == 65_536


# --- definitions ------------------------------------------------------------------------------------------------


def definition(**step: Any) -> dict[str, Any]:
    return {"name": "order", "steps": [step_of(0, **step)]}


def step_of(number: int, **more: Any) -> dict[str, Any]:
    return {"name": f"s{number}", "service": "shop", "action": "do", "compensation": "none", **more}


def expressions() -> Iterator[tuple[str, str]]:
    yield "brackets", "[" * 1000 + "@" + "]" * 1000
    yield "parentheses", "(" * 999 + "input" + ")" * 999
    yield "nots", "!" * 1999 + "a"
    yield "pipes that double", " | ".join(["input", *["[@, @]"] * 40])
    yield "too long", "input." + "a" * 3000
    yield "functions", "length(" * 200 + "input" + ")" * 200
    yield "a literal", "`" + "[" * 900 + "]" * 900 + "`"


DEFINITIONS: dict[str, dict[str, Any]] = {
    **{f"when: {what}": definition(when=text) for what, text in expressions()},
    **{f"input: {what}": definition(input={"a": text}) for what, text in expressions()},
    "too many steps": {"name": "order", "steps": [step_of(n) for n in range(1001)]},
    "20,000 steps that are none": {"name": "order", "steps": [0] * 20_000},
    "everybody waits for everybody": {
        "name": "order",
        "steps": [step_of(n, depends_on=[f"s{m}" for m in range(300)]) for n in range(300)],
    },
    "a circle of 1,000": {
        "name": "order",
        "steps": [step_of(n, depends_on=[f"s{(n + 1) % 1000}"]) for n in range(1000)],
    },
    "20,000 statuses": definition(statuses={"refused": list(range(20_000))}),
    "retries without end": definition(retry={"max_attempts": 10**15}),
    "a timeout of ages": definition(timeout="9" * 20 + "d"),
}


@pytest.mark.parametrize("what", DEFINITIONS)
async def test_a_definition(world: World, what: str) -> None:
    for method, path in (("POST", "/definitions/validate"), ("PUT", "/definitions/order")):
        async with asyncio.timeout(LONGEST_SECONDS):
            answer = await world.api(method, path, DEFINITIONS[what])
        assert (answer.status, answer.code) == (422, "definition-invalid"), answer.content[:300]


async def test_a_definition_as_large_as_it_may_be_is_taken(world: World) -> None:
    steps = [step_of(n, depends_on=[f"s{m}" for m in range(max(0, n - 100), n)]) for n in range(1000)]
    body = {"name": "order", "steps": steps}
    assert len(orjson.dumps(body)) > 700_000
    async with asyncio.timeout(LONGEST_SECONDS):
        assert (await world.api.put("/definitions/order", body)).status == 201
        for kind in ("image/svg+xml", "text/vnd.mermaid"):
            assert (await world.api.get("/definitions/order/diagram", Accept=kind)).status == 200
        assert (await world.api.get("/definitions/order")).status == 200


async def test_others_are_answered_while_long_definitions_are_read(world: World) -> None:
    slow = b"a: [" + b"a," * 20_000 + b"a]"  # a second or more of the YAML reader
    reading = [asyncio.create_task(world.api.post("/definitions/validate", data=slow)) for _ in range(2)]
    await asyncio.sleep(0)
    for _ in range(20):
        async with asyncio.timeout(LONGEST_SECONDS):
            assert (await world.api.get("/livez")).status == 200
    assert not all(task.done() for task in reading)
    for task in reading:
        task.cancel()


async def test_definitions_are_read_one_at_a_time(world: World, app_state: Any) -> None:
    async with app_state.reading:  # as if a long one were being read
        waiting = asyncio.create_task(world.api.post("/definitions/validate", definition()))
        for _ in range(20):
            assert (await world.api.get("/livez")).status == 200
        assert not waiting.done()
    assert (await waiting).status == 200


# --- input schemas ----------------------------------------------------------------------------------------------


def doubling(levels: int) -> dict[str, Any]:
    """Every part asks the next one twice."""
    parts = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**parts, f"a{levels}": {"type": "integer"}}, "$ref": "#/$defs/a0"}


def climbing(levels: int) -> dict[str, Any]:
    """Parts within parts, and then the same again within the input: what ends the stack."""
    parts = {f"a{n}": {"allOf": [{"not": {"not": {"$ref": f"#/$defs/a{n + 1}"}}}]} for n in range(levels)}
    return {"$defs": {**parts, f"a{levels}": {"items": {"$ref": "#"}}}, "$ref": "#/$defs/a0"}


SCHEMAS: dict[str, Any] = {
    "a pattern that looks ahead": {"pattern": "(?=(a+)+b)(a+)+c"},
    "a pattern that refers back": {"pattern": r"^(a+)+\1$"},
    "a pattern that unfolds": {"pattern": "((a{0,100}){0,100}){0,100}"},
    "thousands of patterns": {"allOf": [{"pattern": f"a{{{n}}}"} for n in range(1000)]},
    "references that double": doubling(21),
    "references without end": doubling(60),
    "a part within itself": {"$ref": "#"},
    "two parts within each other": {
        "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"not": {"$ref": "#/$defs/a"}}},
        "$ref": "#/$defs/a",
    },
    "parts that climb": climbing(1000),
    "a reference elsewhere": {"$ref": "http://127.0.0.1:1/schema.json"},
    "a reference to a file": {"$ref": "file:///etc/passwd"},
    "a reference to nowhere": {"$ref": "#/$defs/none"},
    "thousands of parts": {"anyOf": [{"const": n} for n in range(6000)]},
}


@pytest.mark.parametrize("what", SCHEMAS)
async def test_a_schema(world: World, what: str) -> None:
    body = {**definition(), "input_schema": SCHEMAS[what]}
    async with asyncio.timeout(LONGEST_SECONDS):
        answer = await world.api.put("/definitions/order", body)
    assert (answer.status, answer.code) == (422, "definition-invalid"), answer.content[:300]
    assert answer.paths[0].startswith("input_schema")


def nested(levels: int) -> Any:
    value: Any = {"b": 1}
    for _ in range(levels):
        value = {"a": value}
    return value


AGAIN = {"type": "object", "properties": {"a": {"$ref": "#"}}}
INPUTS: dict[str, tuple[dict[str, Any], Any]] = {
    "alternatives that are all tried": (
        {"anyOf": [{**AGAIN, "required": ["x"]}, {**AGAIN, "required": ["y"]}]},
        nested(60),
    ),
    "one of alternatives": ({"oneOf": [AGAIN, AGAIN, {"type": "integer"}]}, nested(60)),
    "what was not looked at": ({"anyOf": [AGAIN, AGAIN], "unevaluatedProperties": False}, nested(60)),
    "a pattern that backtracks": ({"pattern": "^(a+)+$"}, "a" * 200_000 + "!"),
    "many patterns, many keys": (
        {"patternProperties": {f".*a{{1,{n}}}x": {"type": "string"} for n in range(1, 200)}},
        {f"{n}{'a' * 20}x": 1 for n in range(5000)},
    ),
    "everything is wrong": ({"items": {"type": "string"}}, [0] * 100_000),
    "a long list of words": ({"items": {"enum": list(range(5000))}}, [-1] * 80_000),
    "unlike each other": ({"uniqueItems": True}, [{"a": n} for n in range(20_000)] + [{"a": 1}]),
    "doubled within bounds": (doubling(12), "a"),
    "climbing within bounds": (climbing(10) | {"maxItems": 0}, orjson.loads(b"[" * 98 + b"]" * 98)),
}


@pytest.mark.parametrize("what", INPUTS)
async def test_an_input_against_its_schema(world: World, what: str) -> None:
    schema, value = INPUTS[what]
    answer = await world.api.put("/definitions/order", {**definition(), "input_schema": schema})
    assert answer.status == 201, answer.content
    async with asyncio.timeout(LONGEST_SECONDS):
        answer = await world.api.post("/sagas", {"saga": "order", "input": value}, Idempotency_Key="k")
    assert (answer.status, answer.code) == (422, "input-invalid"), answer.content[:300]


async def test_trees_of_alternatives_are_taken_as_deep_as_people_write_them(world: World) -> None:
    branch = {"of": {"type": "array", "items": {"$ref": "#"}}}
    tree = {
        "oneOf": [
            {"type": "object", "properties": {"type": {"const": "and"}, **branch}, "required": ["type", "of"]},
            {"type": "object", "properties": {"type": {"const": "or"}, **branch}, "required": ["type", "of"]},
            {"type": "string"},
        ]
    }
    value: Any = "leaf"
    for level in range(6):
        value = {"type": ("and", "or")[level % 2], "of": [value, "leaf"]}
    await world.api.put("/definitions/order", {**definition(), "input_schema": tree})
    answer = await world.api.post("/sagas", {"saga": "order", "input": value}, Idempotency_Key="k")
    assert answer.status == 202, answer.content


# --- slowly -----------------------------------------------------------------------------------------------------


class TestSlowly:
    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"body_timeout": 0.3}

    async def exchange(self, api: Client, *pieces: str) -> bytes:
        """What comes back until the other side closes; each piece is sent when the one before has gone."""
        host, port = api.base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            for piece in pieces:
                writer.write(piece.encode())
                await writer.drain()
            async with asyncio.timeout(LONGEST_SECONDS):
                return await reader.read()
        finally:
            writer.close()

    HEAD = f"POST /sagas HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nIdempotency-Key: k\r\n"

    @pytest.mark.parametrize(
        "body", ['Content-Length: 100\r\n\r\n{"saga": ', 'Transfer-Encoding: chunked\r\n\r\n9\r\n{"saga": \r\n']
    )
    async def test_a_body_that_stops_halfway(self, api: Client, body: str) -> None:
        answer = await self.exchange(api, self.HEAD + body)
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 Request Timeout")
        assert b"content-type: application/problem+json" in head.lower()
        assert orjson.loads(content)["code"] == "body-too-slow"

    @pytest.mark.parametrize("head", ["", "POST", "POST /sagas HTTP/1.1\r\nHost: x\r\nX-Slow: a"])
    async def test_a_head_that_stops_halfway(self, api: Client, head: str) -> None:
        answer = await self.exchange(api, head)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"head-too-slow"' in answer

    async def test_a_body_that_goes_on_after_its_answer(self, api: Client) -> None:
        answer = await self.exchange(api, self.HEAD + "Content-Length: 9000000\r\n\r\n[", "[")
        assert answer.startswith(b"HTTP/1.1 413 ")  # and then the connection was closed

    async def test_a_head_that_does_not_end(self, api: Client) -> None:
        answer = await self.exchange(api, "GET /livez HTTP/1.1\r\nX-Long: ", *["x" * 10_000] * 10)
        assert answer.startswith(b"HTTP/1.1 431 ")

    async def test_what_is_not_http(self, api: Client) -> None:
        answer = await self.exchange(api, "\x16\x03\x01\x02\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"code":"request-malformed"' in answer

    async def test_who_waits_for_an_answer_is_not_slow(self, world: World) -> None:
        await world.define({"name": "reserve"})
        body = {"saga": "order", "input": {}}
        answer = await world.api.post("/sagas", body, Idempotency_Key="k", Prefer="wait=1")
        assert answer.status == 202


class TestOtherLimits:
    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {
            "max_definition_bytes": 2000,
            "max_steps": 2,
            "max_depth": 10,
            "max_labels": 1,
            "max_label_length": 3,
            "max_list": 2,
            "max_head_bytes": 1024,
        }

    async def test_they_are_settings(self, world: World) -> None:
        api = world.api
        await world.define({"name": "a"}, {"name": "b"})
        for n in range(3):
            await world.submit(input={"n": n}, labels={"a": "bcd"})
        assert len((await api.get("/sagas?limit=100")).json["items"]) == 2
        assert len((await api.get("/sagas")).json["items"]) == 2
        too_many = {"name": "order", "steps": [step_of(n) for n in range(3)]}
        assert (await api.put("/definitions/order", too_many)).json["errors"] == [
            {"path": "steps", "message": "must be a list of 1 to 2 steps, not of 3"}
        ]
        assert (await api.put("/definitions/order", data=b"#" * 2001)).json["limit"] == 2000
        for labels, said in (({"a": "b", "c": "d"}, "SAGA_MAX_LABELS"), ({"a": "bcde"}, "SAGA_MAX_LABEL_LENGTH")):
            answer = await api.post("/sagas", {"saga": "order", "input": 1, "labels": labels}, Idempotency_Key="x")
            assert (answer.status, answer.paths) == (422, ["labels"])
            assert said in answer.json["errors"][0]["message"]
        deep = b'{"saga": "order", "input": ' + b"[" * 10 + b"]" * 10 + b"}"
        assert (await api.post("/sagas", data=deep, Idempotency_Key="x")).code == "body-not-json"
        assert "10 levels" in (await api.put("/definitions/order", data=b"[" * 11 + b"]" * 11)).json["detail"]
        assert (await api.get("/sagas?key=" + "x" * 1100)).status == 431
