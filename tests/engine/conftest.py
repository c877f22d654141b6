from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from app.house import House, open_house
from app.settings import Settings
from tests.participant import Participant

from .workshop import Workshop, put_shop


@pytest.fixture
def options() -> dict[str, Any]:
    """A module that waits for leases and re-sends has shorter ones; here a slow machine must not be in their way."""
    return {"lease_grace": 4, "redispatch_after": 2}


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with Participant.serve() as participant:
        yield participant


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    async with open_house(settings, worker=True) as house:
        yield house


@pytest.fixture
async def workshop(house: House, participant: Participant, redis_url: str) -> AsyncIterator[Workshop]:
    """At the end of each test, what must hold of every saga is looked at."""
    async with redis.asyncio.Redis.from_url(redis_url) as valkey:
        await put_shop(house, participant)
        workshop = Workshop(house, participant, valkey)
        yield workshop
        await workshop.check_everything()


@pytest.fixture
async def other(
    settings: Settings, workshop: Workshop, participant: Participant, redis_url: str
) -> AsyncIterator[Workshop]:
    """A second worker, with a house of its own."""
    async with open_house(settings, worker=True) as house, redis.asyncio.Redis.from_url(redis_url) as valkey:
        yield Workshop(house, participant, valkey)
