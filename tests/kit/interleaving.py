"""Random interleavings of a step's calls, each in a process of its own that may be killed in the middle.

`python -m tests.kit.interleaving URL FIRST COUNT` prints one JSON line for each seed: what was asked, what was
answered before the kill, what the database says after it, and the same once every call has been repeated.
"""

import asyncio
import json
import os
import random
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import case, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from saga_participant.barrier import Barrier, CalledOff
from saga_participant.tables import barrier, immediate
from tests.kit.conftest import call, effects, postgres_engine, sqlite_engine

PROBES_OF_A_CALL = 5


class World:
    """One process's calls. At each probe others get a turn, and at one of them the process is killed."""

    def __init__(self, engine, seed, kill_at, write):
        self.random, self.engine, self.kill_at, self.write = random.Random(f"{seed} {kill_at}"), engine, kill_at, write
        self.saga_id, self.probes = f"saga-{seed}", 0

    def probe(self):
        self.probes += 1
        if self.probes == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, operation, answer):
        os.write(self.write, (json.dumps([operation, answer]) + "\n").encode())

    def effect(self, session, step):
        session.execute(insert(effects).values(saga_id=self.saga_id, what=step.call.operation))
        step.answer = {"by": [os.getpid(), self.random.random()]}

    def run(self, operations):
        if isinstance(self.engine, AsyncEngine):
            asyncio.run(self.all_async(operations))
        else:
            with ThreadPoolExecutor(len(operations)) as threads:
                list(threads.map(self.plain, operations))

    def plain(self, operation):
        self.probe()
        try:
            with Session(self.engine) as session, session.begin():
                self.probe()
                with Barrier(session, call(self.saga_id, operation)) as step:
                    self.probe()
                    if step.due:
                        self.effect(session, step)
                    self.probe()
            self.tell(operation, step.answer)
        except CalledOff:
            self.tell(operation, "called off")
        self.probe()

    async def all_async(self, operations):
        await asyncio.gather(*map(self.one_async, operations))

    async def turn(self):
        self.probe()
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)

    async def one_async(self, operation):
        await self.turn()
        try:
            async with AsyncSession(self.engine) as session, session.begin():
                await self.turn()
                async with Barrier(session, call(self.saga_id, operation)) as step:
                    await self.turn()
                    if step.due:
                        await session.run_sync(self.effect, step)
                    await self.turn()
            self.tell(operation, step.answer)
        except CalledOff:
            self.tell(operation, "called off")
        await self.turn()


def look(engine, saga_id):
    """The row's state and how often each effect stands, in one snapshot."""
    state = select(barrier.c.state).where(barrier.c.saga_id == saga_id).scalar_subquery()
    counts = [
        func.coalesce(func.sum(case((effects.c.what == what, 1), else_=0)), 0) for what in ("action", "compensation")
    ]
    found = select(state, *counts).where(effects.c.saga_id == saga_id)

    async def ask():
        async with engine.connect() as connection:
            return list((await connection.execute(found)).one())

    if isinstance(engine, AsyncEngine):
        return asyncio.run(ask())
    with engine.connect() as connection:
        return list(connection.execute(found).one())


def in_a_child(work):
    """What `work(write)` has told, a line each, until it ended or was killed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            work(write)
        except BaseException as error:  # noqa: BLE001 - the parent shows it
            os.write(write, (json.dumps(["error", repr(error)]) + "\n").encode())
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as told:  # noqa: PTH123 - it is a pipe
        lines = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    return [json.loads(line) for line in lines], os.WIFSIGNALED(status)


def play(engine, seed):
    dice = random.Random(seed)
    operations = ["action"] * dice.randint(0, 3) + ["compensation"] * dice.randint(0, 2) or ["action"]
    dice.shuffle(operations)
    kill_at = dice.randint(1, PROBES_OF_A_CALL * len(operations)) if dice.random() < 0.7 else None
    told, killed = in_a_child(lambda write: World(engine, seed, kill_at, write).run(operations))

    def recover(write):
        world = World(engine, seed, None, write)
        world.tell("first", look(engine, world.saga_id))
        world.run(operations)
        world.tell("last", look(engine, world.saga_id))

    (_, first), *again, (_, last) = in_a_child(recover)[0]
    return {
        "seed": seed, "asked": operations, "killed": killed, "told": told, "first": first, "again": again, "last": last
    }  # fmt: skip


def main(url, first, count):
    engine = sqlite_engine(url) if url.startswith("sqlite") else postgres_engine(url)
    immediate(engine)
    look(engine, "")  # the children inherit what SQLAlchemy has learnt of the server, and no connection
    for seed in range(first, first + count):
        sys.stdout.write(json.dumps(play(engine, seed)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
