"""Definitions of choreographed sagas: registered, checked, drawn, and not to be started by a request."""

from xml.etree import ElementTree as ET

from tests.api.conftest import World

YAML = b"""
name: order-events
type: choreography
started_by: OrderPlaced
correlation: data.order_id
timeout: 10m
steps:
  - {name: ReserveInventory, service: shop, trigger: OrderPlaced, succeeded: InventoryReserved,
     failed: InventoryReservationFailed, compensated: InventoryReleased, timeout: 30s}
  - {name: ProcessPayment, service: shop, trigger: InventoryReserved, succeeded: PaymentProcessed,
     failed: PaymentFailed, compensated: PaymentRefunded}
  - {name: SendMail, service: shop, trigger: InventoryReserved, succeeded: MailSent, failed: MailBounced,
     compensated: none}
"""


async def test_a_choreography_is_registered_as_it_is_written(world: World) -> None:
    first = await world.api.put("/definitions/order-events", data=YAML)
    assert (first.status, first.json["version"], first.json["definition"]["type"]) == (201, 1, "choreography")
    same = await world.api.put("/definitions/order-events", first.json["definition"])
    assert (same.status, same.json["created"]) == (200, False)
    read = (await world.api.get("/definitions/order-events")).json["definition"]
    assert read == first.json["definition"]
    assert (read["started_by"], read["correlation"]) == ("OrderPlaced", "data.order_id")
    assert [step["compensated"] for step in read["steps"]] == ["InventoryReleased", "PaymentRefunded", "none"]
    assert read["steps"][0]["timeout"] == 30
    changed = await world.api.put("/definitions/order-events", data=YAML.replace(b"MailBounced", b"MailReturned"))
    assert (changed.status, changed.json["version"]) == (201, 2)


async def test_a_choreography_is_checked_with_its_plan(world: World) -> None:
    answer = await world.api.post("/definitions/validate", data=YAML)
    assert (answer.status, answer.json["valid"]) == (200, True)
    assert answer.json["plan"]["forward"] == [["ReserveInventory"], ["ProcessPayment", "SendMail"]]
    assert answer.json["plan"]["on_failure"]["SendMail"] == [["ProcessPayment"], ["ReserveInventory"]]


async def test_what_is_wrong_in_it_is_told_with_its_place(world: World) -> None:
    wrong = YAML.replace(b"failed: PaymentFailed, ", b"").replace(b"trigger: OrderPlaced", b"trigger: OrderPaid")
    wrong = wrong.replace(b"data.order_id", b"order_id").replace(b"timeout: 10m", b"max_concurrent: 3")
    for method, path in (("PUT", "/definitions/order-events"), ("POST", "/definitions/validate")):
        answer = await world.api(method, path, data=wrong)
        assert (answer.status, answer.code) == (422, "definition-invalid")
        places = {fault["path"] for fault in answer.json["errors"]}
        assert places == {"correlation", "max_concurrent", "steps[0].trigger", "steps[1].failed"}


async def test_its_diagram_names_the_events(world: World) -> None:
    await world.api.put("/definitions/order-events", data=YAML)
    text = (await world.api.get("/definitions/order-events/diagram")).content.decode()
    assert 's0 -- "InventoryReserved" --> s1' in text
    answer = await world.api.get("/definitions/order-events/diagram", Accept="image/svg+xml")
    events = [each.get("data-event") for each in ET.fromstring(answer.content).findall(".//*[@data-event]")]
    assert events == ["OrderPlaced", "InventoryReserved", "InventoryReserved"]


async def test_no_request_starts_one_and_the_answer_names_the_event(world: World) -> None:
    await world.api.put("/definitions/order-events", data=YAML)
    answer = await world.api.post("/sagas", {"saga": "order-events", "input": {}}, Idempotency_Key="k")
    assert (answer.status, answer.code) == (422, "saga-is-choreographed")
    assert "OrderPlaced" in answer.json["detail"]
    assert (await world.api.get("/sagas")).json["items"] == []
