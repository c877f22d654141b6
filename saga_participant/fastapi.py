"""The barrier as a FastAPI dependency.

::

    Step = Annotated[Barrier, steps(sessions, secrets=["whsec_..."])]

    @app.post("/reserve")
    async def reserve(step: Step) -> Any:
        if step.due:
            await step.session.execute(...)
            step.answer = {"reserved": 2}
        return step.answer

The transaction is committed when the function has returned and *before* the answer is sent (that is what FastAPI's
`scope="function"` is for: a dependency's end otherwise comes after the answer, and a commit that fails would have
been answered with success). `Refused` becomes its 4xx, `Retry` a 503 with Retry-After, both with everything rolled
back; any other exception is the application's 500, which the orchestrator repeats.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from math import ceil
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from saga_participant import Call, Refused, Retry
from saga_participant.barrier import Barrier
from saga_participant.calls import read_call


def calls(secrets: Sequence[str] = ()) -> Any:
    """A dependency: the verified `Call`, without a transaction. For work that is answered with 202."""

    async def call(request: Request) -> AsyncIterator[Call]:
        try:
            yield read_call(request.headers, await request.body(), secrets)
        except Refused as refused:
            raise HTTPException(refused.status, str(refused)) from refused
        except Retry as retry:
            seconds = retry.after_seconds
            headers = None if seconds is None else {"Retry-After": str(ceil(seconds))}
            raise HTTPException(503, str(retry), headers) from retry

    return Depends(call, scope="function")


def steps(sessions: async_sessionmaker[AsyncSession] | sessionmaker[Session], *, secrets: Sequence[str] = ()) -> Any:
    """A dependency: the call's `Barrier`, entered, in a transaction of its own.

    With a plain `sessionmaker` the barrier is entered in a thread: write the endpoint as a plain `def`, too.
    """
    here = calls(secrets)
    if isinstance(sessions, async_sessionmaker):

        async def step(call: Annotated[Call, here]) -> AsyncIterator[Barrier]:
            async with sessions.begin() as session, Barrier(session, call) as barrier:
                yield barrier

        return Depends(step, scope="function")

    def plain_step(call: Annotated[Call, here]) -> Iterator[Barrier]:
        with sessions.begin() as session, Barrier(session, call) as barrier:
            yield barrier

    return Depends(plain_step, scope="function")
