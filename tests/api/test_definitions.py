"""Definitions and services: registered, looked at, checked, and refused as a whole."""

from typing import Any

from tests.api.conftest import Client, World

YAML = b"""
name: order
input_schema: {type: object, required: [sku]}
steps:
  - {name: reserve, service: shop, action: reserve, compensation: release}
  - {name: charge, service: shop, action: charge, compensation: refund, timeout: 3s}
  - {name: mail, service: shop, action: mail, compensation: none}
"""


async def test_changed_content_makes_the_next_version(world: World) -> None:
    first = await world.api.put("/definitions/order", data=YAML, Content_Type="application/yaml")
    assert (first.status, first.json["version"], first.json["created"]) == (201, 1, True)
    same = await world.api.put("/definitions/order", first.json["definition"])
    assert (same.status, same.json["version"], same.json["created"]) == (200, 1, False)
    next_one = await world.api.put("/definitions/order", data=YAML.replace(b"3s", b"4s"))
    assert (next_one.status, next_one.json["version"]) == (201, 2)
    (listed,) = (await world.api.get("/definitions")).json["items"]
    assert (listed["name"], listed["version"]) == ("order", 2)
    newest = (await world.api.get("/definitions/order")).json
    assert (newest["version"], newest["definition"]["steps"][1]["timeout"]) == (2, 4)
    assert [each["version"] for each in newest["versions"]] == [2, 1]
    old = (await world.api.get("/definitions/order?version=1")).json
    assert (old["version"], old["definition"]["steps"][1]["timeout"]) == (1, 3)


async def test_what_is_not_there_is_not_found(world: World) -> None:
    await world.api.put("/definitions/order", data=YAML)
    for path in ("/none", "/order?version=2", "/order?version=99999999999", "/%00", "/none/diagram"):
        answer = await world.api.get("/definitions" + path)
        assert (answer.status, answer.code) == (404, "definition-not-found"), path
    for query in ("version=0", "version=x", "ver=1"):
        answer = await world.api.get("/definitions/order?" + query)
        assert (answer.status, answer.code) == (422, "filter-invalid"), query


async def test_what_is_neither_yaml_nor_json_is_refused(world: World) -> None:
    for data in (b"", b"  ", b"{", b"a: b: c", b"\xff\xfe", b"- [", b"a: 1\na: 2", b"&a [*a]", b"a\x00b"):
        for method, path in (("PUT", "/definitions/order"), ("POST", "/definitions/validate")):
            answer = await world.api(method, path, data=data)
            assert (answer.status, answer.code) == (400, "body-not-yaml"), (path, data)


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"name": "other"}, ["name"]),
    ({"steps": []}, ["steps"]),
    ({"extra": 1}, ["extra"]),
    ({"steps": [{"name": "a", "service": "nowhere", "action": "x", "compensation": "none"}]}, ["steps[0].service"]),
    ({"steps": [{"name": "a", "service": "shop", "action": "x"}]}, ["steps[0].compensation"]),
    ({"input_schema": {"type": "objec"}}, ["input_schema.type"]),
    ({"input_schema": {"properties": {"a": {"minimum": "x"}}}}, ["input_schema.properties.a.minimum"]),
    ({"input_schema": {"$ref": "http://127.0.0.1:1/schema"}}, ["input_schema"]),
    ({"input_schema": {"$ref": "#/$defs/none"}}, ["input_schema"]),
    ({"input_schema": {"pattern": "(["}}, ["input_schema.pattern"]),
    ({"input_schema": "x"}, ["input_schema"]),
    (
        {"timeout": "soon", "input_schema": {"type": 1}, "max_concurrent": 0},
        ["timeout", "max_concurrent", "input_schema.type"],
    ),
]


async def test_a_wrong_definition_is_refused_with_every_fault(world: World) -> None:
    step = {"name": "a", "service": "shop", "action": "x", "compensation": "none"}
    for change, paths in WRONG:
        document = {"name": "order", "steps": [step], **change}
        answer = await world.api.put("/definitions/order", document)
        assert (answer.status, answer.code, answer.paths) == (422, "definition-invalid", paths), change
        if change != {"name": "other"}:
            checked = await world.api.post("/definitions/validate", document)
            assert (checked.status, checked.code, checked.paths) == (422, "definition-invalid", paths), change
    for document in (b"null", b"[]", b'"order"', b"5", b"order"):
        answer = await world.api.put("/definitions/order", data=document)
        assert (answer.status, answer.code) == (422, "definition-invalid"), document
    assert (await world.api.get("/definitions")).json["items"] == []


async def test_a_definition_can_be_checked_without_being_registered(world: World) -> None:
    answer = await world.api.post("/definitions/validate", data=YAML)
    assert answer.status == 200
    assert answer.json == {
        "valid": True,
        "plan": {
            "forward": [["reserve"], ["charge"], ["mail"]],
            "on_failure": {"reserve": [], "charge": [["reserve"]], "mail": [["charge"], ["reserve"]]},
        },
    }
    assert (await world.api.get("/definitions")).json["items"] == []


async def test_a_service_is_known_as_soon_as_it_is_registered(world: World) -> None:
    new = YAML.replace(b"shop", b"newcomer")
    assert (await world.api.put("/definitions/order", data=new)).status == 422
    await world.api.put("/services/newcomer", {"url": "http://127.0.0.1:1"})
    assert (await world.api.put("/definitions/order", data=new)).status == 201


async def test_a_long_definition_is_too_large(world: World) -> None:
    answer = await world.api.put("/definitions/order", data=b"#" * 1_000_001)
    assert (answer.status, answer.code) == (413, "body-too-large")


async def test_a_diagram_is_mermaid(world: World) -> None:
    await world.api.put("/definitions/order", data=YAML)
    answer = await world.api.get("/definitions/order/diagram")
    assert answer.status == 200
    lines = answer.content.decode().splitlines()
    assert lines[0] == "flowchart LR"
    assert "    s0 --> s1" in lines
    assert sum("undone by" in line for line in lines) == 2


WRONG_SERVICES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["url"]),
    ({"url": None}, ["url"]),
    ({"url": 5}, ["url"]),
    ({"url": "stock"}, ["url"]),
    ({"url": "ftp://stock"}, ["url"]),
    ({"url": "http://"}, ["url"]),
    ({"url": "http://stock:99999"}, ["url"]),
    ({"url": "http://stock/?a=b"}, ["url"]),
    ({"url": "http://stock/#x"}, ["url"]),
    ({"url": "http://a b"}, ["url"]),
    ({"url": "http://[::1"}, ["url"]),
    ({"python": "./ledger.py"}, ["python"]),
    ({"url": "http://stock", "python": "os"}, ["python"]),
    ({"url": "http://stock", "name": "other"}, ["name"]),
    ({"url": "http://stock", "more": 1}, ["more"]),
    ({"url": "http://stock", "headers": []}, ["headers"]),
    ({"url": "http://stock", "headers": {"X": 1}}, ["headers"]),
    ({"url": "http://stock", "headers": {"X y": "1"}}, ["headers"]),
    ({"url": "http://stock", "headers": {"X": "a\r\nb: c"}}, ["headers"]),
    ({"url": "http://stock", "headers": {"Idempotency-Key": "1"}}, ["headers"]),
    ({"url": "http://stock", "headers": {"saga-id": "1"}}, ["headers"]),
    ({"url": "http://stock", "max_in_flight": 0}, ["max_in_flight"]),
    ({"url": "http://stock", "max_in_flight": 1.5}, ["max_in_flight"]),
    ({"url": "http://stock", "secret": "short"}, ["secret"]),
    ({"url": "http://stock", "secret": "whsec_*"}, ["secret"]),
    ({"url": "http://stock", "secrets": []}, ["secrets"]),
    ({"url": 5, "max_in_flight": "x", "foo": 1}, ["url", "max_in_flight", "foo"]),
]


class TestServices:
    async def test_one_is_registered_and_changed_without_showing_its_secrets(self, api: Client) -> None:
        secret = "whsec_" + "c2VjcmV0" * 4
        body = {"url": "https://stock.example:8443/api/", "headers": {"X-Env": "test"}, "secret": secret}
        first = await api.put("/services/stock", body)
        assert first.status == 201
        changed = await api.put("/services/stock", {**body, "name": "stock", "max_in_flight": 5})
        assert changed.status == 200
        expected = {
            "name": "stock",
            "url": "https://stock.example:8443/api/",
            "python": None,
            "headers": ["X-Env"],
            "max_in_flight": 5,
            "signed": True,
            "subscribes": [],
            "paused": None,
        }
        assert changed.json == expected
        answer = await api.get("/services")
        assert answer.json == {"items": [expected]}
        assert b"whsec" not in answer.content
        assert (await api.get("/services/stock")).json == expected
        assert (await api.get("/services/none")).code == "service-not-found"
        rotated = await api.put("/services/stock", {"url": "http://stock", "secrets": [secret, secret[:-8]]})
        assert (rotated.status, rotated.json["max_in_flight"]) == (200, None)

    async def test_one_is_paused_and_resumed(self, world: World) -> None:
        missing = await world.api.post("/admin/api/services/shop/pause", {})
        assert (missing.status, missing.code) == (422, "reason-missing")
        paused = await world.api.post("/admin/api/services/shop/pause", {"reason": "it is being moved"})
        assert paused.status == 200
        told = paused.json["paused"]
        assert (told["by"], told["reason"]) == ("key:bootstrap", "it is being moved")
        assert (await world.api.get("/services/shop")).json == paused.json
        again = await world.api.post("/admin/api/services/shop/pause", {"reason": "twice"})
        assert (again.status, again.code) == (409, "already-paused")
        changed = await world.api.put("/services/shop", {"url": "http://127.0.0.1:9"})
        assert changed.json["paused"] == told
        resumed = await world.api.post("/admin/api/services/shop/resume", {"reason": "it has moved"})
        assert (resumed.status, resumed.json["paused"]) == (200, None)
        again = await world.api.post("/admin/api/services/shop/resume", {"reason": "twice"})
        assert (again.status, again.code) == (409, "not-paused")
        for name in ("none", "%00", "a%2Fb"):
            gone = await world.api.post(f"/admin/api/services/{name}/pause", {"reason": "x"})
            assert gone.status == 404, name

    async def test_who_acts_for_one_tenant_stops_nobody_elses_sagas(self, world: World) -> None:
        made = await world.api.post("/admin/api/keys", {"scopes": ["admin"], "tenant": "acme"})
        answer = await world.api.post("/admin/api/services/shop/pause", {"reason": "x"}, key=made.json["key"])
        assert (answer.status, answer.code) == (403, "tenant-bound")
        assert (await world.api.get("/services/shop")).json["paused"] is None

    async def test_a_wrong_one_is_refused_with_every_fault(self, api: Client) -> None:
        for body, paths in WRONG_SERVICES:
            answer = await api.put("/services/stock", body)
            assert (answer.status, answer.code, answer.paths) == (422, "service-invalid", paths), body
        assert (await api.get("/services")).json == {"items": []}

    async def test_its_name_has_to_be_one(self, api: Client) -> None:
        for name in ("-x", "a%20b", "%00", "x" * 129):
            answer = await api.put(f"/services/{name}", {"url": "http://stock"})
            assert (answer.status, answer.code) == (422, "service-invalid"), name
        answer = await api.put("/services/stock", [])
        assert (answer.status, answer.code) == (422, "body-invalid")
