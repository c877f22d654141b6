"""A saga that cannot be read for want of a key: whoever asks is told which, and nothing of it is lost."""

import base64
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from app.settings import Settings
from tests.api.conftest import Client, World, serve

K1, K2 = (f"k{number}:{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"payload_keys": SecretStr(K1)})


@pytest.fixture
async def without(settings: Settings) -> AsyncIterator[Client]:
    """An API that was given another key."""
    async with serve(settings.model_copy(update={"payload_keys": SecretStr(K2)})) as (client, _):
        yield client


async def test_who_asks_is_told_which_key_is_missing(world: World, without: Client) -> None:
    await world.define({"name": "reserve"})
    saga = await world.submit(input={"card": 4111})
    saga_id = saga["id"]
    body = {"saga": "order", "input": {"card": 4111}}
    reason = {"reason": "a test"}
    for answer in (
        await without.get(f"/sagas/{saga_id}"),
        await without.get(f"/sagas/{saga_id}/events", Accept="text/event-stream"),
        await without.get("/sagas?payloads=true"),
        await without.post("/sagas", body, Idempotency_Key="key-1"),
        await without.post(f"/sagas/{saga_id}/cancel", {}),
        await without.post(f"/admin/api/sagas/{saga_id}/restart", reason),
        await without.get(f"/admin/api/sagas/{saga_id}/actions"),
    ):
        assert (answer.status, answer.code, answer.json["key"]) == (503, "payload-key-missing", "k1")
        assert "SAGA_PAYLOAD_KEYS" in answer.json["detail"]
        assert K2.partition(":")[2] not in answer.content.decode()
    listed = await without.get("/sagas")
    assert [each["id"] for each in listed.json["items"]] == [saga_id]
    assert (await without.get(f"/sagas/{saga_id}/events")).status == 200
    bulk = await without.post("/admin/api/bulk", {"action": "pause", "filter": {}, "limit": 10, **reason})
    assert bulk.json["failed"] == [{"id": saga_id, "code": "payload-key-missing"}]
    shown = await world.run(saga_id)
    assert (shown["state"], shown["input"]) == ("COMPLETED", {"card": 4111})
