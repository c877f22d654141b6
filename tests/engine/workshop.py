"""The engine of one worker in the test's own process, on real PostgreSQL and Valkey.

What the engine rings waits in Valkey until the test carries it out: `drain` does what was rung until nothing is,
`finish` also sweeps and lets time pass until the saga is at rest. So a test holds the order of things in its hands.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from typing import Any, Self

import asyncpg
import orjson
import redis.asyncio

from app import broker, probes
from app.engine import Submission
from app.house import House
from app.saga import rules
from app.saga.definition import Definition, parse_definition
from app.saga.history import fold
from app.saga.messages import Abandon, Actor, Cancel, FromOperator, Pause, Record, RecordType, Resume, Retry, Skip
from app.saga.service import Service
from app.saga.state import ACTION, COMPENSATION, SECOND, CallState, Operation, SagaState, unpack
from app.store.database import to_micros
from app.store.sagas import Saga
from tests.participant import Participant
from tests.waiting import until

OPERATOR = Actor("operator", "because of a test")
QUICK = {"max_attempts": 2, "initial_delay": "10ms", "jitter": 0}
STEPS = ("reserve", "charge", "ship", "confirm")

_keys = count(1)


@dataclass(frozen=True)
class Ring:
    """One message as a worker would find it."""

    saga_id: str
    step: str
    operation: Operation


class Workshop:
    def __init__(self, house: House, participant: Participant, valkey: redis.asyncio.Redis) -> None:
        self.house, self.participant, self.valkey = house, participant, valkey
        self.engine = house.engine
        self.definitions: dict[str, tuple[Definition, int]] = {}
        self.broken_on_purpose: set[str] = set()
        """Sagas whose rows a test has spoilt: they are not checked."""
        self.put_off = False
        """Whether a backlog may have put sagas off beyond the time that their state names."""

    # --- before ---

    async def define(self, *steps: str | dict[str, Any], name: str = "order", **more: Any) -> Definition:
        """A chain of steps of service `shop`; a step is a name, or what differs from a quick one."""
        written = []
        for step in steps or STEPS:
            given = {"name": step} if isinstance(step, str) else step
            step_name = given["name"]
            default = {
                "service": "shop",
                "action": step_name,
                "compensation": f"undo-{step_name}",
                "timeout": "2s",
                "compensation_timeout": "2s",
                "retry": QUICK,
                "compensation_retry": QUICK,
            }
            written.append({**default, **given})
        made = parse_definition({"name": name, "steps": written, **more}, None)
        version, _ = await self.house.definitions.register(made)
        self.definitions[name] = made, version
        return made

    async def start(self, saga: str = "order", saga_input: Any = None, key: str | None = None, **more: Any) -> str:
        made, version = self.definitions[saga]
        body = orjson.dumps(saga_input)
        submission = Submission("", key or f"key-{next(_keys)}", sha256(body).digest(), made, version, body, {}, **more)
        started, _ = await self.engine.start(submission)
        return started.id

    # --- carrying out ---

    async def rung(self) -> list[Ring]:
        """Takes what has been rung, the oldest first."""
        await self.house.publisher.flush()
        found = []
        for queue, operation in ((broker.COMPENSATIONS, COMPENSATION), (broker.STEPS, ACTION)):
            for message in await self.valkey.rpop(queue, 100_000) or ():
                (saga_id, step), _, _ = orjson.loads(base64.b64decode(orjson.loads(message)["body"]))
                found.append(Ring(saga_id, step, operation))
        return found

    async def perform(self, ring: Ring) -> None:
        await self.house.attempts.perform(ring.saga_id, ring.step, ring.operation)

    async def drain(self) -> int:
        """Carries out what is rung until nothing is, and nothing will be in a moment; returns how much it was."""
        done, tasks = 0, set[asyncio.Task[None]]()
        async with asyncio.timeout(60):
            while True:
                rings = await self.rung()
                done += len(rings)
                tasks |= {asyncio.create_task(self.perform(ring)) for ring in rings}
                if tasks:
                    ended, tasks = await asyncio.wait(tasks, timeout=0.005, return_when=asyncio.FIRST_COMPLETED)
                    for task in ended:
                        task.result()
                elif (rest := self._next_timer()) is not None:
                    await asyncio.sleep(rest)
                elif not rings:
                    return done

    def _next_timer(self) -> float | None:
        loop = asyncio.get_running_loop()
        coming = [t.when() - loop.time() for t in self.house.publisher._timers if not t.cancelled()]
        return min((rest for rest in coming if rest > -0.05), default=None)

    async def finish(self, *saga_ids: str, seconds: float = 30) -> Saga:
        """Until these are at rest, or paused with nothing under way; returns the last of them."""
        give_up = time.monotonic() + seconds
        while True:
            await self.drain()
            sagas = [await self.load(saga_id) for saga_id in saga_ids]
            waiting = [saga for saga in sagas if saga.wake_at is not None]
            if not waiting:
                return sagas[-1]
            assert time.monotonic() < give_up, f"not at rest: {[self.story(saga) for saga in waiting]}"
            due = min(saga.wake_at for saga in waiting if saga.wake_at is not None)
            await asyncio.sleep(max((due - await self.house.database.now()) / SECOND, 0) + 0.002)
            await self.house.sweeper.sweep()

    async def run(self, saga: str = "order", saga_input: Any = None, **more: Any) -> Saga:
        return await self.finish(await self.start(saga, saga_input, **more))

    async def sweep(self) -> dict[str, int]:
        return await self.house.sweeper.sweep()

    async def until_due(self, saga_id: str) -> None:
        """Returns when the saga's time to be looked at has come."""

        async def due() -> bool:
            return saga_id in await self.house.sagas.due(1000)

        await until(due)

    async def sweep_until_moved(self, saga_id: str) -> Saga:
        """Lets time pass until a sweep changes something of the saga."""
        before = (await self.load(saga_id)).state.seq
        while (saga := await self.load(saga_id)).state.seq == before:
            await self.until_due(saga_id)
            await self.sweep()
        return saga

    # --- asking ---

    async def load(self, saga_id: str) -> Saga:
        return await self.engine.load(saga_id)

    async def ask(self, saga_id: str, kind: type[FromOperator], *arguments: Any, **more: Any) -> Saga:
        def message(at: int, _: Saga) -> FromOperator:
            return kind(at, OPERATOR, *arguments, **more)

        return await self.engine.ask(saga_id, message, action=kind.__name__.lower(), actor=OPERATOR)

    async def cancel(self, saga_id: str) -> Saga:
        return await self.ask(saga_id, Cancel)

    async def history(self, saga_id: str) -> list[str]:
        """`StepStarted charge 1`, in order."""
        rows = await self.rows("SELECT * FROM saga_event WHERE saga_id = $1 ORDER BY seq", saga_id)
        return [" ".join(str(word) for word in (r["type"], r["step"], r["attempt"]) if word is not None) for r in rows]

    async def rows(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.house.database.url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def depth(self) -> int:
        """Messages that wait."""
        await self.house.publisher.flush()
        return await self.valkey.llen(broker.STEPS) + await self.valkey.llen(broker.COMPENSATIONS)

    @staticmethod
    def story(saga: Saga) -> str:
        steps = ", ".join(
            f"{plan.name} {step.action.state} {step.action.attempts}/{step.compensation.state}"
            for plan, step in zip(saga.definition.steps, saga.state.steps, strict=True)
        )
        return f"{saga.state.state}: {steps}"

    # --- what must hold of every saga, whatever has been done to it ---

    async def check_everything(self) -> None:
        """The fold of each history is its row; the row's columns say what its state says; nobody sleeps too long."""
        for row in await self.rows("SELECT * FROM saga"):
            if str(row["id"]) in self.broken_on_purpose:
                continue
            definition = await self.house.definitions.get(row["definition"], row["version"])
            state = unpack(orjson.loads(row["document"]), len(definition.steps))
            events = await self.rows("SELECT * FROM saga_event WHERE saga_id = $1 ORDER BY seq", row["id"])
            records = [
                Record(
                    event["seq"],
                    RecordType(event["type"]),
                    to_micros(event["at"]),
                    None if event["step"] is None else definition.index[event["step"]],
                    event["operation"],
                    event["attempt"],
                    orjson.loads(event["data"]),
                )
                for event in events
            ]
            assert fold(definition, records) == state
            assert (row["seq"], row["state"]) == (state.seq, str(state.state))
            assert row["paused"] == rules.paused(definition, state)
            assert row["attention"] == (state.attention is not None)
            assert to_micros(row["updated_at"]) == state.updated_at
            assert (row["finished_at"] is not None) == state.final
            needed = rules.wake_at(definition, state, state.updated_at)
            assert (row["wake_at"] is None) == (needed is None)
            if needed is not None and not self.put_off:
                assert to_micros(row["wake_at"]) <= needed
        assert self.participant.faults == []


class Stop:
    """At a probe: whoever passes there (and is meant) waits until the test lets it go.

    with Stop(probes.PERFORM_CALLED, step="charge") as stop: ... await stop.reached.wait() ... stop.release()
    """

    def __init__(self, probe: str, when: Callable[..., bool] | None = None, *, times: int = 1, **facts: Any) -> None:
        self.reached = asyncio.Event()
        self.passed = 0
        self._left, self._facts, self._when = times, facts, when
        self._released = asyncio.Event()
        self._armed = probes.arm(probe, self._hook)

    def release(self) -> None:
        self._released.set()

    async def _hook(self, **facts: Any) -> None:
        if any(facts.get(name) != value for name, value in self._facts.items()):
            return
        if (self._when is not None and not self._when(**facts)) or not self._left:
            return
        self._left -= 1
        self.passed += 1
        self.reached.set()
        await self._released.wait()

    def __enter__(self) -> Self:
        self._armed.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        self._armed.__exit__(None, None, None)


def do_at(probe: str, act: Callable[[], Awaitable[Any]], *, nth: int = 1, **meant: Any) -> Any:
    """A context in which `act` is done when the probe is passed for the nth time, before whoever passes goes on."""
    passed = count(1)

    async def hook(**facts: Any) -> None:
        if all(facts.get(name) == value for name, value in meant.items()) and next(passed) == nth:
            await act()

    return probes.arm(probe, hook)


def states(saga: Saga, operation: Operation = ACTION) -> list[CallState]:
    return [step.call(operation).state for step in saga.state.steps]


async def put_shop(house: House, participant: Participant, **more: Any) -> None:
    await house.services.put(Service("shop", url=participant.url, **more))


__all__ = [
    "OPERATOR",
    "QUICK",
    "STEPS",
    "Abandon",
    "Cancel",
    "Pause",
    "Resume",
    "Retry",
    "Ring",
    "SagaState",
    "Skip",
    "Stop",
    "Workshop",
    "do_at",
    "put_shop",
    "states",
]
