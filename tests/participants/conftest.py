from collections.abc import AsyncIterator

import aiohttp
import pytest

from app.participants.http import open_session
from tests.participant import Participant


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with Participant.serve() as participant:
        yield participant


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session
