"""An action or a compensation takes effect once, whatever the network does to its call.

The orchestrator promises *at least once*; a call may come twice, at the same time as its repetition, after the
caller has given it up, and a compensation may come without its action or before it. Open the barrier in the
transaction of the effect, before anything else in it::

    async with sessions.begin() as session, Barrier(session, call) as step:
        if step.due:
            ...                                  # the effect, in this session
            step.answer = {"reserved": 2}
    return step.answer                           # of the first time, if it was not due

Each step of a saga has one row. It is the memory and the lock, and its state decides:

===========  ==========================  ==============================================
the row is   an action                   a compensation
===========  ==========================  ==============================================
not there    due; writes `done`          not due; writes `void`: nothing to undo
`done`       not due; its answer         due, given the action's answer; then `undone`
`undone`     CalledOff                   not due; its answer
`void`       CalledOff                   not due; answers null
===========  ==========================  ==============================================

Who writes the row first holds it until its transaction ends: the other waits there (PostgreSQL: INSERT ... ON
CONFLICT waits for an uncommitted row; SQLite: there is one writer, see `tables.immediate`). Then the row is
committed, and decides; or it is gone with everything else, and the other is the first. So at no time does more than
one effect of a step stand, and none once its compensation has been answered. Only successes are stored: a refusal or
any other exception leaves nothing, and the same call may succeed later.

It is checked where the effect takes place. For work answered with 202 that is when the work is done, not when it is
accepted.

The row is named by saga id, step and generation (`Call.generation`: an operator's new input makes another operation
of it). A later generation calls off the earlier ones that have not come: they were declared not to have happened.

What it does not do: hold together effects outside this transaction (a mail, another service: give those the call's
`idempotency_key`), or remember longer than `forget` allows. It wants READ COMMITTED on PostgreSQL (the default);
under a stricter level the second of two concurrent calls fails with a serialization error and leaves nothing, which
is safe: it is repeated. On an AUTOCOMMIT connection nothing holds.

Where it comes from: dtm's sub-transaction barrier (yedf2/dtm, "Handle network exceptions"). That one inserts two rows
by INSERT IGNORE, one for the action and one for the compensation, and reads from the counts what to do. Here it is
one row with a state: it also keeps the answers, so a repeated call is told what the first was told, and an action
after its compensation is told that it was called off, where dtm answers success to both.
"""

import json
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, and_, bindparam, delete, select, update
from sqlalchemy.orm import Session

from saga_participant import Call, Refused
from saga_participant.tables import DAY, AnySession, barrier, changed, insert_missing, insert_once, now

LONGEST_NAME_BYTES = 2000  # PostgreSQL indexes no more than 2704
GENERATIONS = 100

# Made once: SQLAlchemy takes longer to build a statement than PostgreSQL to carry it out.
_MINE = and_(*(barrier.c[name] == bindparam(f"my_{name}") for name in ("saga_id", "step", "generation")))
_FOUND = select(barrier.c.state, barrier.c.action_answer, barrier.c.compensation_answer).where(_MINE)
_FOUND_AND_LOCKED = _FOUND.with_for_update()
_ANSWERED = update(barrier).where(_MINE).values(at=bindparam("now"))
_DONE = _ANSWERED.values(action_answer=bindparam("answer"))
_UNDONE = _ANSWERED.values(state="undone", compensation_answer=bindparam("answer"))


class CalledOff(Refused):
    """The action's compensation has been here; the action does nothing any more."""

    def __init__(self) -> None:
        super().__init__("this was called off already", status=410)


class Barrier:
    """One operation of one step, in the transaction `session`; for `with` or, on an async session, `async with`.

    Raises `CalledOff` before the body is entered. An exception in the body rolls back the innermost transaction that
    it was opened in (a savepoint, if there is one), so it leaves no trace even where somebody catches it.
    """

    due: bool
    """Whether the effect is to happen now."""
    done: Any
    """For a compensation that is due: what the action answered. By this database, since the orchestrator may never
    have received it and then sends null."""
    answer: Any
    """What to answer. Set it where the effect is due, to anything that JSON can say; it reads back as JSON says it."""

    def __init__(self, session: AnySession, call: Call) -> None:
        if call.operation not in ("action", "compensation"):
            raise ValueError(f"operation is action or compensation, not {call.operation!r}")
        if len((call.saga_id + call.step).encode(errors="surrogatepass")) > LONGEST_NAME_BYTES:
            raise ValueError("saga id and step are too long")
        self.session: Any = session
        self.call = call
        self.due, self.done, self.answer = False, None, None

    def __enter__(self) -> Self:
        self._enter(self.session)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit(self.session, error)

    async def __aenter__(self) -> Self:
        await self.session.run_sync(self._enter)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.run_sync(self._exit, error)

    def _enter(self, db: Session | Connection) -> None:
        is_action = self.call.operation == "action"
        row = self._claim(db, "done" if is_action else "void")
        self._transaction = _innermost(db)
        if row is None:
            self.due = is_action
        elif is_action and row.state != "done":
            raise CalledOff
        elif not is_action and row.state == "done":
            self.due, self.done = True, _loads(row.action_answer)
        else:
            self.answer = _loads(row.action_answer if is_action else row.compensation_answer)

    def _claim(self, db: Session | Connection, state: str) -> Any:
        """The step's row, locked where it may change; None where it is new and has `state` now."""
        n = self.call.generation
        if n:
            earlier = range(max(0, n - GENERATIONS), n)
            insert_missing(db, barrier, [self._names(one) | {"state": "void", "at": now()} for one in earlier])
        found = _FOUND if state == "done" else _FOUND_AND_LOCKED
        while not insert_once(db, barrier, self._names(n) | {"state": state, "at": now()}):
            row = db.execute(found, self._mine()).one_or_none()
            if row is not None:  # else it was forgotten in between
                return row
        return None

    def _exit(self, db: Session | Connection, error: BaseException | None) -> None:
        if error is not None:
            if self._transaction is not None and self._transaction.is_active:
                self._transaction.rollback()
        elif self.due:
            if self._transaction is None or _innermost(db) is not self._transaction:
                raise RuntimeError("the transaction ended inside the barrier: commit after it")
            text = json.dumps(self.answer, allow_nan=False)
            answered = _DONE if self.call.operation == "action" else _UNDONE
            db.execute(answered, {**self._mine(), "answer": text, "now": now()})
            self.answer = json.loads(text)

    def _mine(self) -> dict[str, Any]:
        return {f"my_{name}": value for name, value in self._names(self.call.generation).items()}

    def _names(self, generation: int) -> dict[str, Any]:
        return {"saga_id": self.call.saga_id, "step": self.call.step, "generation": generation}


def forget(session: Session | Connection, *, older_than_seconds: float = 30 * DAY) -> int:
    """Forgets steps that nobody has begun for so long; how many. Async: `await session.run_sync(forget)`.

    Keep them longer than a repetition or a compensation can come: the longest saga's timeout and all its retries,
    and what operators need. The runner of a `Participant` does it by itself.
    """
    return changed(session, delete(barrier).where(barrier.c.at < now() - older_than_seconds))


def _innermost(db: Session | Connection) -> Any:
    return db.get_nested_transaction() or db.get_transaction()


def _loads(text: str | None) -> Any:
    return None if text is None else json.loads(text)
