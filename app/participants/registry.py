"""From a step's service and operation to the participant that carries it out, and how many it may serve at once."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Final

import aiohttp

from app.participants.contract import Participant
from app.participants.http import HttpParticipant, open_session
from app.participants.python import ParticipantUnusable, PythonParticipant, load_handlers
from app.saga.service import Service
from app.saga.state import ACTION, COMPENSATION, Operation
from app.settings import Settings

SHARE_OF_SLOTS: Final = 0.75
"""Of a worker's slots, for one service without `max_in_flight`: a service that hangs leaves the others room. Of those
for actions and of those for compensations: what is to be undone does not wait for actions that hang."""

PARKED_AT_MOST: Final = 1000
"""Actions that wait in one worker for busy services, and compensations that do. More are dropped, and the sweep sends
them again."""


class Busy(Exception):  # noqa: N818 - a condition
    """Too many wait for this service already."""


class Participants:
    """Of one worker process and event loop; open it there."""

    def __init__(self, service: Callable[[str], Awaitable[Service | None]], settings: Settings) -> None:
        self._service, self._settings = service, settings
        self._session: aiohttp.ClientSession | None = None
        self._threads = ThreadPoolExecutor(
            settings.worker_slots + settings.worker_compensation_slots, thread_name_prefix="handler"
        )
        self._made: dict[tuple[str, str], tuple[Service, Participant]] = {}
        self._slots: dict[tuple[str, Operation | None], Slots] = {}
        self._parked: Counter[Operation] = Counter()

    async def find(self, service_name: str, operation_name: str) -> Participant | str:
        """The participant, or a sentence that says what is missing."""
        service = await self._service(service_name)
        if service is None:
            return f"service {service_name!r} is not registered: register it again, or have the saga compensated"
        made = self._made.get((service_name, operation_name))
        if made is not None and made[0] == service:
            return made[1]
        try:
            participant = self._make(service, operation_name)
        except ParticipantUnusable as error:
            return f"service {service_name!r} cannot be used: {error}"
        self._made[service_name, operation_name] = service, participant
        return participant

    async def paused(self, service_name: str) -> bool:
        """Whether an operator has stopped what is sent to it."""
        service = await self._service(service_name)
        return service is not None and service.pause is not None

    def _make(self, service: Service, operation_name: str) -> Participant:
        if service.url is not None:
            if self._session is None:
                self._session = open_session()
            try:
                return HttpParticipant(self._session, service, self._settings.max_payload_bytes)
            except ValueError as error:
                raise ParticipantUnusable(f"its secret is not one: {error}") from error
        reference = service.python or ""
        handlers = load_handlers(reference, self._settings.sagas_dir)
        if operation_name not in handlers:
            known = ", ".join(sorted(handlers))
            raise ParticipantUnusable(f"{reference} has no handler for {operation_name!r}; it has {known}")
        return PythonParticipant(
            handlers[operation_name],
            self._threads,
            max_output_bytes=self._settings.max_payload_bytes,
            lease_grace_seconds=self._settings.lease_grace,
        )

    @asynccontextmanager
    async def slot(
        self,
        service_name: str,
        operation: Operation,
        parked: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> AsyncIterator[None]:
        """One of the service's slots: compensations first, then first come, first served.

        `parked` is held while waiting. Busy: too many wait already.
        """
        slots = await self._slots_of(service_name, operation)
        if not slots.take():
            if self._parked[operation] >= PARKED_AT_MOST:
                raise Busy(service_name)
            self._parked[operation] += 1
            try:
                with parked():
                    await slots.wait(first=operation == COMPENSATION)
            finally:
                self._parked[operation] -= 1
        try:
            yield
        finally:
            slots.give_back()

    async def _slots_of(self, service_name: str, operation: Operation) -> "Slots":
        service = await self._service(service_name)
        if service is not None and service.max_in_flight is not None:
            slots = self._slots.setdefault((service_name, None), Slots(0))
            slots.limit = service.max_in_flight
        else:
            settings = self._settings
            share = settings.worker_slots if operation == ACTION else settings.worker_compensation_slots
            slots = self._slots.setdefault((service_name, operation), Slots(0))
            slots.limit = max(int(share * SHARE_OF_SLOTS), 1)
        return slots

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class Slots:
    """A semaphore whose limit may change while it is held."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._first: deque[asyncio.Future[None]] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        if self._taken >= self.limit or self._first or self._waiting:
            return False
        self._taken += 1
        return True

    async def wait(self, *, first: bool = False) -> None:
        """`first`: before all who wait without it."""
        future = asyncio.get_running_loop().create_future()
        (self._first if first else self._waiting).append(future)
        self._hand_out()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        self._taken -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while (self._first or self._waiting) and self._taken < self.limit:
            future = (self._first or self._waiting).popleft()
            if not future.done():
                self._taken += 1
                future.set_result(None)
