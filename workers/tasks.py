"""Ids in, the right room called, nothing else."""

import functools
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from celery import Celery

from app import broker, observability
from app.attempts import Attempts
from app.house import House
from app.saga.state import ACTION, COMPENSATION
from workers.runtime import runtime

Parked = Callable[[], AbstractContextManager[None]]


async def run_step(house: House, parked: Parked, saga_id: str, step: str) -> None:
    await _attempts(house).perform(saga_id, step, ACTION, parked)


async def run_compensation(house: House, parked: Parked, saga_id: str, step: str) -> None:
    await _attempts(house).perform(saga_id, step, COMPENSATION, parked)


async def sweep(house: House, _: Parked) -> None:
    if house.courier is not None:
        house.courier.wake()
    counts = await house.sweeper.sweep()
    counts["relayed"] = await house.relay.drain()
    observability.swept(counts)
    await house.alive.swept(counts)


def _attempts(house: House) -> Attempts:
    if house.attempts is None:
        raise RuntimeError("this process carries out no attempts")
    return house.attempts


TASKS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    broker.RUN_STEP: run_step,
    broker.RUN_COMPENSATION: run_compensation,
    broker.SWEEP: sweep,
}


def register(app: Celery) -> None:
    """Each task is a plain function for Celery's own pools, and carries the coroutine that ours runs."""
    for name, coroutine in TASKS.items():
        task = app.task(name=name, Strategy="workers.strategy:direct")(_blocking(coroutine))
        task.coroutine = coroutine  # type: ignore[attr-defined]


def _blocking(coroutine: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(coroutine)
    def run(*args: Any) -> None:
        runtime.run(lambda house: coroutine(house, nullcontext, *args))

    del run.__wrapped__  # Celery would take the coroutine's signature
    return run
