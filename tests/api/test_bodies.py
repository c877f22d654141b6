"""What is not JSON, or too large, is refused at the door: 400 or 413, never 500, and nothing is stored."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app import strict_json
from app.errors import Problem
from tests.api.conftest import World

LIMIT = 262_144

NOT_JSON = {
    "nothing": b"",
    "spaces": b"  \n",
    "cut off": b'{"saga": "order", "input": {',
    "single quotes": b"{'saga': 'order'}",
    "trailing comma": b'{"saga": "order",}',
    "more after it": b'{"saga": "order"} {}',
    "NaN": b'{"saga": "order", "input": NaN}',
    "Infinity": b'{"saga": "order", "input": [-Infinity]}',
    "a number that no double holds": b'{"saga": "order", "input": 1e400}',
    "a number of 5,000 digits": b'{"saga": "order", "input": ' + b"1" * 5000 + b"}",
    "a doubled key": b'{"saga": "order", "input": {"a": {"b": 1, "b": 2}}}',
    "a doubled key above": b'{"saga": "order", "saga": "other", "input": 1}',
    "a NUL": b'{"saga": "order", "input": "a\\u0000b"}',
    "a NUL in a key": b'{"saga": "order", "input": {"a\\u0000b": 1}}',
    "a raw NUL": b'{"saga": "order", "input": "a\x00b"}',
    "a raw control character": b'{"saga": "order", "input": "a\nb"}',
    "half a surrogate pair": b'{"saga": "order", "input": "\\ud800"}',
    "halves in the wrong order": b'{"saga": "order", "input": "\\ude00\\ud83d"}',
    "not UTF-8": b'{"saga": "order", "input": "\xff"}',
    "UTF-16": '{"saga": "order"}'.encode("utf-16"),
    "a surrogate in UTF-8": b'{"saga": "order", "input": "\xed\xa0\x80"}',
    "a byte order mark": b'\xef\xbb\xbf{"saga": "order"}',
    "101 levels": b'{"saga": "order", "input": ' + b"[" * 100 + b"]" * 100 + b"}",
    "1,000 levels of lists": b"[" * 1000 + b"]" * 1000,
    "1,000 levels of objects": b'{"a":' * 1000 + b"1" + b"}" * 1000,
    "100,000 levels": b"[" * 100_000,
    "a form": b"saga=order&input=1",
    "words": b"order, please",
}


@pytest.fixture
async def orders(world: World) -> World:
    await world.define({"name": "reserve"})
    return world


async def test_what_is_not_json_is_refused_with_its_place(orders: World) -> None:
    for what, data in NOT_JSON.items():
        answer = await orders.api.post("/sagas", data=data, Idempotency_Key="k")
        assert (answer.status, answer.code) == (400, "body-not-json"), what
        assert len(answer.paths) == 1, what
    assert (await orders.api.get("/sagas")).json["items"] == []


async def test_every_route_that_takes_json_refuses_what_is_none(orders: World) -> None:
    saga = await orders.submit()
    routes = [
        ("POST", f"/sagas/{saga['id']}/cancel"),
        ("PUT", "/services/shop"),
        ("POST", f"/admin/api/sagas/{saga['id']}/retry"),
        ("POST", f"/admin/api/sagas/{saga['id']}/restart"),
        ("POST", "/admin/api/bulk"),
    ]
    for method, path in routes:
        for data in (b'{"a": NaN}', b'{"a": 1, "a": 2}', b"[" * 5000, b"{", b'{"a": "\\u0000"}'):
            answer = await orders.api(method, path, data=data)
            assert (answer.status, answer.code) == (400, "body-not-json"), path


async def test_a_hundred_levels_are_kept(orders: World) -> None:
    body = b'{"saga": "order", "input": ' + b"[" * 99 + b"]" * 99 + b"}"
    assert (await orders.api.post("/sagas", data=body, Idempotency_Key="k")).status == 202


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b'{"a": [1, {"b": NaN}]}', "a[1].b"),
        (b'{"a": {"b": 1, "b": 2}}', "a.b"),
        (b'[0, "\\u0000"]', "[1]"),
        (b"[[1e999]]", "[0][0]"),
    ],
)
def test_the_path_of_a_fault_is_told(data: bytes, path: str) -> None:
    with pytest.raises(Problem) as refused:
        strict_json.parse(data)
    assert [each for each, _ in refused.value.errors] == [path]


@pytest.mark.parametrize(
    "data", [b'"\\\\u0000"', b'"\\ud83d\\ude00"', b"18446744073709551616", b'"\\\\ud800"', b"-0.0"]
)
def test_what_only_looks_suspicious_is_taken(data: bytes) -> None:
    assert strict_json.parse(strict_json.dumps(strict_json.parse(data))) == strict_json.parse(data)


def test_one_value_has_one_canonical_form() -> None:
    same = [b'{"a": 1, "b": [1.50, "e1"]}', b'{"b":[15e-1,"e1"],"a":1.0}', b'{ "b": [1.5, "\\u00651"], "a": 1e0 }']
    assert len({strict_json.canonical(strict_json.parse(data)) for data in same}) == 1
    other = [b'{"a": 1}', b'{"a": "1"}', b'{"a": [1]}', b'{"a": true}', b'{"a": null}', b"{}", b'{"a": 1.1}']
    assert len({strict_json.canonical(strict_json.parse(data)) for data in other}) == len(other)


async def test_a_large_body_is_refused(orders: World) -> None:
    for size in (LIMIT + 1, LIMIT * 2, 10_000_000):
        data = b'{"saga": "order", "input": "' + b"x" * size + b'"}'
        answer = await orders.api.post("/sagas", data=io.BytesIO(data), Idempotency_Key="k")
        assert (answer.status, answer.code) == (413, "body-too-large"), size
    assert (await orders.api.get("/sagas")).json["items"] == []


async def test_an_input_of_just_the_limit_is_taken(orders: World) -> None:
    data = b'{"saga": "order", "input": "' + b"x" * (LIMIT - 2) + b'"}'
    assert (await orders.api.post("/sagas", data=data, Idempotency_Key="k")).status == 202


class TestAnotherLimit:
    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"max_payload_bytes": 100}

    async def test_the_limit_is_a_setting(self, orders: World) -> None:
        for size, status in ((100, 202), (101, 413)):
            body = {"saga": "order", "input": "x" * (size - 2)}
            assert (await orders.api.post("/sagas", body, Idempotency_Key=f"k{size}")).status == status


async def test_a_body_that_hides_its_length_is_refused_before_its_end(orders: World) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 50_000_000:
            sent += 65_536
            yield b"[" * 65_536

    headers = {"Idempotency-Key": "k", "Authorization": "Bearer test.key"}
    async with orders.api.session.post(orders.api.base + "/sagas", data=endless(), headers=headers) as response:
        assert response.status == 413
        assert response.headers["Content-Type"] == "application/problem+json"
        assert sent < 50_000_000


async def test_a_length_that_is_too_large_is_refused_before_anything_is_sent(orders: World) -> None:
    host, port = orders.api.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST /sagas HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test.key\r\nIdempotency-Key: k\r\n"
    writer.write(f"{head}Content-Length: 99999999999999999999\r\n\r\n".encode())
    answer = await reader.read(4096)
    writer.close()
    await writer.wait_closed()
    assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


async def test_a_sender_that_leaves_in_the_middle_does_no_harm(orders: World) -> None:
    host, port = orders.api.base.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = "POST /sagas HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test.key\r\nIdempotency-Key: k\r\n"
    writer.write(f'{head}Content-Length: 100\r\n\r\n{{"saga": '.encode())
    writer.close()
    await writer.wait_closed()
    assert (await orders.api.get("/sagas")).json["items"] == []
