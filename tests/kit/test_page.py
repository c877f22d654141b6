"""The service of docs/kit.md runs as it is printed."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from sqlalchemy import delete, insert, select

from saga_participant.events import COMPENSATION_REQUESTED, FIELD, STREAM, Event
from saga_participant.tables import outbox
from tests.kit.conftest import call
from tests.kit.test_fastapi import Client

PAGE = Path(__file__).parents[2] / "docs/kit.md"


@pytest.fixture
def inventory(tmp_path, monkeypatch, redis_url):
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "inventory.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGA_REDIS_URL", redis_url)
    spec = importlib.util.spec_from_file_location("inventory", tmp_path / "inventory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.sessions.begin() as session:
        session.execute(insert(module.stock).values(sku="book", held=5))
    yield module
    module.engine.dispose()


def held(inventory):
    with inventory.sessions() as session:
        return session.execute(select(inventory.stock.c.held)).scalar_one()


async def test_it_reserves_and_releases_when_it_is_called(inventory):
    client = Client(inventory.app)
    book = {"sku": "book", "quantity": 2}
    assert await client.call("/reserve", say=book) == (200, book)
    assert await client.call("/reserve", say=book) == (200, book)
    assert held(inventory) == 3
    assert (await client.call("/reserve", saga_id="other", say=book | {"quantity": 4}))[0] == 422
    assert (await client.call("/release", "compensation"))[0] == 200
    assert held(inventory) == 5


async def test_it_answers_later(inventory):
    client = Client(inventory.app)
    assert await client.call("/ship") == (202, None)
    accepted = call("0199-2", callback_url="http://127.0.0.1:1/callbacks/token")
    accepted = replace(accepted, input={"sku": "book", "quantity": 1})
    with inventory.sessions.begin() as session:
        session.execute(delete(inventory.to_pack))
        session.execute(insert(inventory.to_pack), [{"call": accepted.to_json()}] * 2)
        inventory.restock(session, "book", "77")
    inventory.pack_one()
    inventory.pack_one()
    assert held(inventory) == 4
    with inventory.sessions() as session:
        kinds = session.execute(select(outbox.c.kind).order_by(outbox.c.id)).scalars().all()
    assert kinds == ["saga", "callback", "callback"]


async def test_it_does_its_part_in_choreography(inventory, redis_url):
    def send(event_type, data):
        with redis.Redis.from_url(redis_url) as client:
            client.xadd(STREAM, {FIELD: Event(event_type, "shop", data).to_json()})

    send("OrderPlaced", {"order_id": "1", "sku": "book", "quantity": 2})
    await inventory.inventory.settle()
    assert held(inventory) == 3
    send(COMPENSATION_REQUESTED, {"saga": "o", "step": "ReserveInventory", "correlation": "1", "reason": "silent"})
    await inventory.inventory.settle()
    assert held(inventory) == 5
    with redis.Redis.from_url(redis_url) as client:
        types = [Event.from_json(fields[FIELD.encode()]).type for _, fields in client.xrange(STREAM)]
    assert types == ["OrderPlaced", "InventoryReserved", "CompensationRequested", "InventoryReleased"]
