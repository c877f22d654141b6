"""How often a login was tried in vain, and how long the next try has to wait. All time is the database's.

A try counts as failed before its password is looked at, in the statement that also says whether it may be looked at:
so a hundred at once are no more than a hundred in a row. What succeeds takes its count back.

After `free` failures each further try waits: 1 s, 2 s, 4 s, … up to the longest. What is tried meanwhile counts
nothing, so nobody can keep a wait from ending. One failure is forgotten in each `forget` seconds without a try.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one subject: `account/NAME`, `address/IP`."""

    subject: str
    free: int
    longest: float
    forget: float

    @property
    def most(self) -> int:
        """Failures beyond these would change nothing; not counted, they are not waited for to be forgotten."""
        steps = 0
        while 2**steps < self.longest:
            steps += 1
        return self.free + steps

    def wait(self, failures: int) -> float:
        return min(self.longest, 2.0 ** (failures - self.free)) if failures >= self.free else 0.0


_WAIT: Final = "CASE WHEN f.failures < :free THEN 0 ELSE LEAST(:longest, power(2, f.failures - :free)) END"
_COUNT: Final = text(f"""
    INSERT INTO login_failure AS f (subject, failures, last_at) VALUES (:subject, 1, clock_timestamp())
    ON CONFLICT (subject) DO UPDATE
    SET failures = LEAST(
            :most,
            GREATEST(0, f.failures - LEAST(:most, floor(extract(epoch FROM clock_timestamp() - f.last_at) / :forget)))
            + 1),
        last_at = clock_timestamp()
    WHERE f.last_at + make_interval(secs => {_WAIT}) <= clock_timestamp()
    RETURNING f.failures""")
_REMAINING: Final = text(f"""
    SELECT extract(epoch FROM f.last_at + make_interval(secs => {_WAIT}) - clock_timestamp())
    FROM login_failure AS f WHERE f.subject = :subject""")
_FORGIVE: Final = text("UPDATE login_failure SET failures = GREATEST(0, failures - 1) WHERE subject = :subject")
_CLEAR: Final = text("DELETE FROM login_failure WHERE subject = :subject")
_PURGE: Final = text("""
    DELETE FROM login_failure WHERE subject IN (
        SELECT subject FROM login_failure WHERE last_at < now() - make_interval(secs => :kept)
        ORDER BY last_at LIMIT 100 FOR UPDATE SKIP LOCKED)""")


class Waits(Exception):  # noqa: N818 - a condition
    """The try may not be looked at yet; its transaction has to be rolled back."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


async def count(connection: AsyncConnection, limits: Sequence[Limit]) -> list[int]:
    """Counts a try for each subject: how many have failed with it. Raises Waits."""
    found = []
    for limit in sorted(limits, key=lambda each: each.subject):  # always in one order: no two wait for each other
        failures = (await connection.execute(_COUNT, _values(limit))).scalar_one_or_none()
        if failures is None:
            remaining = (await connection.execute(_REMAINING, _values(limit))).scalar_one_or_none()
            raise Waits(float(remaining or 0))
        found.append((limit.subject, int(failures)))
    by_subject = dict(found)
    return [by_subject[limit.subject] for limit in limits]


async def forgive(connection: AsyncConnection, subject: str) -> None:
    """Takes back what `count` has counted."""
    await connection.execute(_FORGIVE, {"subject": subject})


async def clear(connection: AsyncConnection, subject: str) -> None:
    await connection.execute(_CLEAR, {"subject": subject})


async def purge(connection: AsyncConnection, kept_seconds: float) -> None:
    """A hundred at most of those that mean nothing any more: more than a login can add."""
    await connection.execute(_PURGE, {"kept": kept_seconds})


def _values(limit: Limit) -> dict[str, Any]:
    return {
        "subject": limit.subject,
        "free": limit.free,
        "longest": limit.longest,
        "forget": limit.forget,
        "most": limit.most,
    }
