"""Sagas as this process left them, so that the next step of one need not read it again."""

import time
from collections import OrderedDict
from dataclasses import replace
from typing import Final

from app.saga import rules
from app.saga.state import CallState, Operation
from app.store.database import Clock
from app.store.sagas import Saga

SAGAS: Final = 500
BYTES: Final = 65_536
"""Of payloads that one saga may bring along."""


class Recent:
    """Of a worker. What it holds may be stale: a claim is guarded by it, so a stale one is lost and made again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sagas: OrderedDict[str, Saga] = OrderedDict()

    def remember(self, saga: Saga) -> None:
        if saga.state.at_rest or saga.payload_bytes > BYTES:
            self._sagas.pop(saga.id, None)
            return
        self._sagas[saga.id] = saga
        self._sagas.move_to_end(saga.id)
        if len(self._sagas) > SAGAS:
            self._sagas.popitem(last=False)

    def claimable(self, saga_id: str, step_name: str, operation: Operation) -> Saga | None:
        """The saga, where it is enough to claim this step by. What does not look claimable has to be read.

        Its time is the database's clock as last read, within a bound far below the margin in which a claimed attempt
        has to be sent.
        """
        saga = self._sagas.pop(saga_id, None)
        if saga is None or not self._clock.tight:
            return None
        asked_at = time.monotonic()
        step = saga.definition.index[step_name]
        scheduled = saga.state.call(step, operation).state is CallState.SCHEDULED
        if not scheduled or not rules.may_be_sent(saga.definition, saga.state, step, operation):
            return None
        return replace(saga, read_at=self._clock.now(), asked_at=asked_at)
