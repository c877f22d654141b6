"""What has arrived from the stream: each event is handled once, in the transaction of its handler.

An entry of the stream is first written down here, one row for each handler that wants it, named by the event's
`source` and `id`: what comes again finds its row and is dropped. From then on the stream is not needed any more.
A handler runs in the transaction that marks its row as done. An attempt is counted before it is made, in a
transaction of its own, so an event that kills the process is given up as well.

Rows of one lane (a correlation) are handled one after another, in the order in which they came: a failing one holds
up those behind it in its lane until it is done or given up, and nothing else. Given up is a dead letter:
the row stays, in the state `dead`, until somebody retries it or the retention is over.
"""

from typing import Any, Final

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from saga_participant.tables import changed, inbox, insert_missing, now

FIRST_DELAY_SECONDS: Final = 1.0
LONGEST_DELAY_SECONDS: Final = 300.0
UNREADABLE: Final = "(none: not a CloudEvent)"


def entry(
    source: str, event_id: str, handler: str, lane: str | None, text: str, *, error: str | None = None
) -> dict[str, Any]:
    """A row that waits; with `error` a dead letter from the start."""
    names = {"source": source, "event_id": event_id, "handler": handler, "lane": lane, "event": text}
    state = "waiting" if error is None else "dead"
    return {**names, "state": state, "attempts": 0, "due_at": now(), "at": now(), "error": error}


def keep(session: Session, rows: list[dict[str, Any]]) -> None:
    """Writes down what has not been here before."""
    insert_missing(session, inbox, rows)


def claim(session: Session) -> Any:
    """Counts an attempt of the next row that is due and heads its lane, and returns the row; None: nothing is due."""
    ahead = inbox.alias("ahead")
    is_behind = exists().where(ahead.c.state == "waiting", ahead.c.lane == inbox.c.lane, ahead.c.id < inbox.c.id)
    due = select(inbox).where(inbox.c.state == "waiting", inbox.c.due_at <= now(), ~is_behind)
    # Compensations have no lane and go first: who comes back to a full inbox does not do what it is asked to undo.
    first = due.order_by(inbox.c.lane.is_not(None), inbox.c.id)
    row = session.execute(first.limit(1).with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None
    delay = min(FIRST_DELAY_SECONDS * 2.0**row.attempts, LONGEST_DELAY_SECONDS)
    counted = update(inbox).where(inbox.c.id == row.id).values(attempts=row.attempts + 1, due_at=now() + delay)
    return session.execute(counted.returning(inbox)).one()


def still_ours(session: Session, row: Any) -> bool:
    """Locks the row; False where another attempt has overtaken this one."""
    mine = select(inbox.c.id).where(inbox.c.id == row.id, inbox.c.state == "waiting", inbox.c.attempts == row.attempts)
    return session.execute(mine.with_for_update()).one_or_none() is not None


def finish(
    session: Session, row: Any, state: str, error: str | None = None, *, after_seconds: float | None = None
) -> None:
    """The state is `done`, `dead` or, where it will be tried again, `waiting`: after the delay that `claim` has set,
    or after `after_seconds`.
    """
    due_at = row.due_at if after_seconds is None else now() + after_seconds
    session.execute(update(inbox).where(inbox.c.id == row.id).values(state=state, error=error, due_at=due_at))


def dead_letters(session: Session) -> list[dict[str, Any]]:
    dead = select(inbox).where(inbox.c.state == "dead").order_by(inbox.c.id)
    return [dict(row) for row in session.execute(dead).mappings()]


def revive(session: Session, row_id: int) -> bool:
    """A dead letter is tried again, with a fresh budget; False where there is none of that id."""
    dead = update(inbox).where(inbox.c.id == row_id, inbox.c.state == "dead", inbox.c.handler != UNREADABLE)
    return changed(session, dead.values(state="waiting", attempts=0, due_at=now())) == 1


def forget_handled(session: Session, retention_seconds: float) -> None:
    session.execute(delete(inbox).where(inbox.c.state != "waiting", inbox.c.at < now() - retention_seconds))
