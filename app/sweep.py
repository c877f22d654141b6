"""The sweep: looks at every saga whose time has come, and lets the machine decide.

Safe in any number: every write is guarded, and the loser does nothing. A saga that cannot be looked at does not keep
the others from being looked at, and a backlog is not multiplied.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from app import broker
from app.engine import Engine
from app.errors import DatabaseUnavailable, PayloadUnreadable
from app.observability import log
from app.saga import rules
from app.saga.messages import Record, Transition, Woken
from app.saga.state import SECOND, Micros, Operation
from app.settings import Settings
from app.store.sagas import Saga
from app.store.services import WAIT_SECONDS, Services

BATCH: Final = 500
ROUNDS: Final = 20
RESENDS_AT_LEAST: Final = 20
"""Per batch, however long the queues are: a lost message is found behind any backlog, and adds little to it."""


class Sweeper:
    def __init__(self, engine: Engine, services: Services, publisher: broker.Publisher, settings: Settings) -> None:
        self._engine, self._services, self._publisher, self._settings = engine, services, publisher, settings

    async def sweep(self) -> dict[str, int]:
        """How many sagas were woken, postponed because it was too early, lost to somebody quicker, and admitted."""
        counts = {"woken": 0, "postponed": 0, "raced": 0, "admitted": 0}
        for _ in range(ROUNDS):
            due = await self._engine.sagas.due(BATCH)
            if due:
                await self._wake(due, counts)
            if len(due) < BATCH:
                break
        for definition in await self._engine.sagas.places_waited_for():
            # Places are given as they become free; this is for those that a dead process did not give.
            counts["admitted"] += await self._engine.admit(definition)
        return counts

    async def _wake(self, due: list[str], counts: dict[str, int]) -> None:
        found = await asyncio.gather(*map(self._engine.sagas.load, due), return_exceptions=True)
        moved: list[tuple[Saga, Transition]] = []
        resent: list[tuple[Saga, Transition]] = []
        later: list[tuple[Saga, Micros]] = []
        polls: list[tuple[Saga, int, Operation]] = []
        failed: dict[str, BaseException] = {}
        for saga_id, saga in zip(due, found, strict=True):
            if isinstance(saga, BaseException):
                failed[saga_id] = saga
                continue
            if saga is None:
                continue
            try:
                transition = self._engine.step(saga, Woken(saga.read_at))
            except Exception as error:  # noqa: BLE001 - told below
                failed[saga_id] = error
                continue
            due_polls = rules.polls_due(transition.state, saga.wake_at or saga.read_at, saga.read_at)
            polls += [(saga, step, operation) for step, operation in due_polls]
            if _only_resends(transition):
                resent.append((saga, transition))
            elif transition.records:
                moved.append((saga, transition))
            elif (wake_at := rules.wake_at(saga.definition, saga.state, saga.read_at)) is not None:
                later.append((saga, wake_at))
        resent, waiting = await self._part_those_that_wait(resent)
        later += waiting
        allowed = await self._resends_allowed(len(resent))
        later += [(saga, self._later(saga, transition)) for saga, transition in resent[allowed:]]
        writes = (*moved, *resent[:allowed])
        results = await asyncio.gather(
            *(self._engine.write(saga, transition, {}) for saga, transition in writes), return_exceptions=True
        )
        for (saga, _), result in zip(writes, results, strict=True):
            if isinstance(result, BaseException):
                failed[saga.id] = result
        for saga, step, operation in polls[: await self._resends_allowed(len(polls))]:
            self._engine.ring(saga, step, operation)
        if later:
            await self._engine.sagas.postpone(later)
        counts["woken"] += sum(isinstance(result, Saga) for result in results)
        counts["raced"] += sum(result is None for result in results)
        counts["postponed"] += len(later)
        if failed:
            await self._give_way(failed)

    async def _part_those_that_wait(
        self, resent: list[tuple[Saga, Transition]]
    ) -> tuple[list[tuple[Saga, Transition]], list[tuple[Saga, Micros]]]:
        """(those whose messages are sent again, those that only wait for paused services and when to look at them)."""
        if not resent:
            return [], []
        services = await self._services.read()  # now: who is resumed after this wakes its sagas itself
        paused = {name for name, service in services.items() if service.pause is not None}

        def waits(saga: Saga, record: Record) -> bool:
            return record.step is not None and saga.definition.steps[record.step].service in paused

        sent, waiting = [], []
        for saga, transition in resent:
            if not all(waits(saga, record) for record in transition.records):
                sent.append((saga, transition))
                continue
            apart = {(r.step, r.operation) for r in transition.records if r.step is not None and r.operation}
            look = saga.read_at + WAIT_SECONDS * SECOND
            other = rules.wake_at(saga.definition, saga.state, saga.read_at, apart=apart)
            waiting.append((saga, min(look, other or look)))
        return sent, waiting

    def _later(self, saga: Saga, resent: Transition) -> Micros:
        """When to look again at a saga whose messages are not sent again this time; what else it waits for comes."""
        pause = saga.read_at + round(self._settings.redispatch_after * SECOND)
        return min(pause, rules.wake_at(saga.definition, resent.state, saga.read_at) or pause)

    async def _give_way(self, failed: Mapping[str, BaseException]) -> None:
        """A saga that cannot be looked at is told about, and does not keep others from being looked at."""
        sealed: list[PayloadUnreadable] = []
        for saga_id, error in failed.items():
            if not isinstance(error, Exception) or isinstance(error, DatabaseUnavailable):
                raise error
            if isinstance(error, PayloadUnreadable):
                sealed.append(error)
            else:
                log.error("saga %s cannot be looked at", saga_id, exc_info=error)
        if sealed:
            log.error("%d sagas are left alone until they can be read: %s", len(sealed), sealed[0])
        await self._engine.sagas.put_off(list(failed), self._settings.redispatch_after)

    async def _resends_allowed(self, wanted: int) -> int:
        """A backlog must not multiply itself: what is probably still in the queue is not sent again."""
        if wanted <= RESENDS_AT_LEAST:
            return wanted
        depths = await self._publisher.depths()
        if depths is None:
            return 0
        return max(wanted - depths[broker.STEPS] - depths[broker.COMPENSATIONS], RESENDS_AT_LEAST)


def _only_resends(transition: Transition) -> bool:
    return bool(transition.records) and all(record.data.get("sends", 0) > 1 for record in transition.records)
