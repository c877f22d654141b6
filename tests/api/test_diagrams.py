"""Diagrams of definitions and of sagas, in the form that is asked for."""

from xml.etree import ElementTree as ET

import pytest

from tests.api.conftest import World
from tests.participant import answers

SVG = "image/svg+xml"
MERMAID = "text/vnd.mermaid; charset=utf-8"
BROWSER_PAGE = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
BROWSER_IMAGE = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"

ACCEPTS = {
    "anything": ("*/*", MERMAID),
    "SVG": (SVG, SVG),
    "any image": ("image/*", SVG),
    "an image in a page": (BROWSER_IMAGE, SVG),
    "a page": (BROWSER_PAGE, MERMAID),
    "any text": ("text/*", MERMAID),
    "plain text": ("text/plain", "text/plain; charset=utf-8"),
    "rather SVG": ("text/vnd.mermaid;q=0.5, Image/SVG+XML; q=0.9", SVG),
    "rather Mermaid": ("image/svg+xml;q=0.5, text/vnd.mermaid", MERMAID),
    "all but Mermaid": ("*/*, text/*;q=0", SVG),
    "a weight that is none": ("image/svg+xml;q=much, text/*", MERMAID),
    "nothing in particular": ("", MERMAID),
}


@pytest.mark.parametrize(("accept", "kind"), ACCEPTS.values(), ids=ACCEPTS)
async def test_a_definition_is_drawn_as_it_is_asked_for(world: World, accept: str, kind: str) -> None:
    await world.define({"name": "reserve"}, {"name": "charge"})
    answer = await world.api.get("/definitions/order/diagram", Accept=accept)
    assert (answer.status, answer.headers["Content-Type"], answer.headers["Vary"]) == (200, kind, "Accept")
    if kind == SVG:
        boxes = ET.fromstring(answer.content).findall(".//*[@data-operation='action'][@data-step]")
        assert [box.get("data-step") for box in boxes] == ["reserve", "charge"]
    else:
        assert answer.content.startswith(b"flowchart LR\n")


@pytest.mark.parametrize("accept", ["text/html", "image/png", "image/svg+xml;q=0", "*/*;q=0", "nonsense", ";,;"])
async def test_another_form_is_not_to_be_had(world: World, accept: str) -> None:
    await world.define({"name": "reserve"})
    answer = await world.api.get("/definitions/order/diagram", Accept=accept)
    assert (answer.status, answer.code) == (406, "not-acceptable")


async def test_an_earlier_version_is_drawn_on_request(world: World) -> None:
    await world.define({"name": "reserve"})
    await world.define({"name": "charge"})
    answer = await world.api.get("/definitions/order/diagram?version=1", Accept=SVG)
    assert b'data-step="reserve"' in answer.content
    assert b'data-step="charge"' not in answer.content


async def test_a_saga_is_drawn_with_its_states_and_the_version_it_was_started_with(world: World) -> None:
    await world.define({"name": "reserve"}, {"name": "charge"})
    world.participant.on("charge", answers(422, {"detail": "<b>no & money</b>"}))
    saga = await world.ran()
    assert saga["state"] == "FAILED"
    await world.define({"name": "other"})
    path = f"/sagas/{saga['id']}/diagram"
    drawn = await world.api.get(path, Accept=SVG)
    assert (drawn.status, drawn.headers["Content-Type"]) == (200, SVG)
    root = ET.fromstring(drawn.content)
    states = {
        (box.get("data-step"), box.get("data-operation")): box.get("data-state")
        for box in root.iter("{http://www.w3.org/2000/svg}g")
        if box.get("data-state")
    }
    told = {(step["name"], "action"): step["state"] for step in saga["steps"]}
    told |= {(step["name"], "compensation"): step["compensation"]["state"] for step in saga["steps"]}
    assert states == told
    text = await world.api.get(path)
    assert text.headers["Content-Type"] == MERMAID
    assert "class u0 COMPENSATED" in text.content.decode()
    assert (await world.api.get(path, Accept="image/png")).status == 406


async def test_a_saga_that_has_not_moved_is_not_drawn_again(world: World) -> None:
    await world.define({"name": "reserve"})
    saga = await world.submit()
    path = f"/sagas/{saga['id']}/diagram"
    drawn = await world.api.get(path, Accept=SVG)
    tag = drawn.headers["ETag"]
    unmoved = await world.api.get(path, Accept=SVG, If_None_Match=tag)
    assert (unmoved.status, unmoved.content, unmoved.headers["ETag"]) == (304, b"", tag)
    assert (await world.api.get(path, If_None_Match=tag)).status == 200, "Mermaid is not what the client has"
    await world.run(saga["id"])
    assert (await world.api.get(path, Accept=SVG, If_None_Match=tag)).status == 200


@pytest.mark.parametrize("saga", ["0199c4b2-7d1e-7c3a-9f00-1c2d3e4f5a6b", "none", "%00"])
async def test_there_is_no_diagram_of_a_saga_that_does_not_exist(world: World, saga: str) -> None:
    answer = await world.api.get(f"/sagas/{saga}/diagram", Accept=SVG)
    assert (answer.status, answer.code) == (404, "saga-not-found")
    assert (await world.api.get(f"/sagas/{saga}/diagram", key=None)).status == 401


async def test_a_drawing_that_is_opened_by_itself_may_do_nothing(world: World) -> None:
    await world.define({"name": "reserve"})
    drawn = await world.api.get("/definitions/order/diagram", Accept=SVG)
    assert "default-src 'none'" in drawn.headers["Content-Security-Policy"]
    assert drawn.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_document_tells_both_forms(world: World) -> None:
    document = (await world.api.get("/openapi.json")).json
    for path in ("/definitions/{name}/diagram", "/sagas/{id}/diagram"):
        answer = document["paths"][path]["get"]["responses"]["200"]
        assert {"text/vnd.mermaid", SVG} <= set(answer["content"])
