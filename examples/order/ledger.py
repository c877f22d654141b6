"""What a service remembers, in one SQLite file: what it holds, what each key did, and who asked how often.

The orchestrator promises *at least once*, always with the same key. This file turns that into *effectively
once*, by four rules that any participant needs:

1. The effect and the key that caused it are stored in one transaction: there is no crash between them.
2. A key that is known is answered with what was answered before. A refusal is not stored: it had no effect,
   and the same question may find more stock tomorrow.
3. A compensation that finds no action has nothing to undo and succeeds. It is remembered all the same, and
   an action that arrives after its compensation (a network is free to deliver that late) is refused.
4. Nothing takes effect after the caller's deadline: from then on the orchestrator takes it for ended.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS holding (
    name   TEXT PRIMARY KEY,                          -- a thing in stock, a card, an order
    amount INTEGER NOT NULL CHECK (amount >= 0)
);
CREATE TABLE IF NOT EXISTS done (
    key    TEXT PRIMARY KEY,                          -- the idempotency key: once, says the table
    answer TEXT                                       -- JSON; NULL: a compensation that found nothing to undo
);
CREATE TABLE IF NOT EXISTS seen (
    key TEXT NOT NULL, saga_id TEXT NOT NULL, step TEXT NOT NULL, operation TEXT NOT NULL,
    attempt INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS seen_by_saga ON seen (saga_id);
"""

ENTRIES = """
SELECT seen.saga_id, seen.step, seen.operation, seen.key, json_group_array(seen.attempt),
       CASE WHEN done.key IS NULL THEN 'not done' WHEN done.answer IS NULL THEN 'nothing to undo'
            ELSE 'done' END, done.answer
FROM seen LEFT JOIN done USING (key)
WHERE ?1 IS NULL OR seen.saga_id = ?1
GROUP BY seen.key ORDER BY min(seen.rowid)
"""


class Refused(Exception):  # noqa: N818 - the field's word, and it reads as one: raise Refused(402, "declined")
    """It did not happen, and asking again would not help. `status` is a 4xx."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class DeadlinePassedError(Exception):
    """The caller has stopped waiting; nothing was done."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request of the orchestrator, as far as a ledger cares."""

    key: str
    saga_id: str
    step: str
    operation: str
    """`action` or `compensation`."""
    attempt: int
    deadline: datetime | None
    input: dict[str, Any]


class Ledger:
    """One service's memory. Not thread-safe: its service uses it on one event loop, one call after another."""

    def __init__(self, path: Path, opening: dict[str, int]) -> None:
        """`opening` is what the service holds when its file is new."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)  # we say BEGIN ourselves
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(SCHEMA)
        self._db.executemany("INSERT OR IGNORE INTO holding VALUES (?, ?)", opening.items())

    def act(self, call: Call, effect: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The answer of an action whose `effect` happens once, however often the key comes.

        Raises `Refused` or `DeadlinePassedError`, and then the effect did not happen.
        """
        with self._transaction(call):
            if self._is_known(f"{call.key}/compensation"):
                raise Refused(410, "this was called off already")
            if not self._is_known(call.key):
                self._store(call, effect())
            return self._answer(call.key) or {}

    def undo(self, call: Call, effect: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """The answer of a compensation, whose `effect` is given what its action answered.

        That answer comes from this ledger and not from the request: the orchestrator may never have
        received it, and then sends null.
        """
        with self._transaction(call):
            if not self._is_known(call.key):
                done = self._answer(call.key.removesuffix("/compensation"))
                self._store(call, None if done is None else effect(done))
            return self._answer(call.key) or {}

    def move(self, name: str, by: int) -> bool:
        """Adds `by`, which may be negative, to what is held; False where it would fall below zero."""
        if by > 0:
            self._db.execute("INSERT OR IGNORE INTO holding VALUES (?, 0)", (name,))
        query = "UPDATE holding SET amount = amount + ?1 WHERE name = ?2 AND amount + ?1 >= 0"
        return self._db.execute(query, (by, name)).rowcount == 1

    def holdings(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT name, amount FROM holding ORDER BY name"))

    def entries(self, saga_id: str | None = None) -> list[dict[str, Any]]:
        """One entry for each key that was ever seen, in the order in which they first came."""
        return [
            {
                "saga_id": saga,
                "step": step,
                "operation": operation,
                "key": key,
                "attempts": json.loads(attempts),
                "state": state,
                "effect": json.loads(answer or "null"),
            }
            for saga, step, operation, key, attempts, state, answer in self._db.execute(ENTRIES, (saga_id,))
        ]

    @contextmanager
    def _transaction(self, call: Call) -> Iterator[None]:
        """Keeps that the call was seen, and with it everything that the block wrote, or none of that."""
        failed = None
        with self._db:  # commits at its end, or rolls everything back
            self._db.execute("BEGIN IMMEDIATE")
            seen = (call.key, call.saga_id, call.step, call.operation, call.attempt)
            self._db.execute("INSERT INTO seen VALUES (?, ?, ?, ?, ?)", seen)
            self._db.execute("SAVEPOINT effect")
            try:
                yield
            except (Refused, DeadlinePassedError) as error:
                self._db.execute("ROLLBACK TO effect")
                failed = error
        if failed:
            raise failed

    def _is_known(self, key: str) -> bool:
        return self._db.execute("SELECT 1 FROM done WHERE key = ?", (key,)).fetchone() is not None

    def _answer(self, key: str) -> dict[str, Any] | None:
        row = self._db.execute("SELECT answer FROM done WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row and row[0] else None

    def _store(self, call: Call, answer: dict[str, Any] | None) -> None:
        self._db.execute("INSERT INTO done VALUES (?, ?)", (call.key, None if answer is None else json.dumps(answer)))
        if call.deadline is not None and datetime.now(UTC) >= call.deadline:
            raise DeadlinePassedError
