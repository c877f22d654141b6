"""The attempts of a saga, out of its history: what each did, and where each stands on a line of time.

Time in which nothing is called is folded, so that a back-off of an hour does not hide calls of milliseconds. Times are
microseconds since the epoch.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, TypeAlias

from app.instants import duration
from app.saga.definition import COMPENSATION_REQUESTED
from app.saga.state import COMPENSATION, SECOND, Micros

Who: TypeAlias = tuple[str, str]
"""Step and operation."""

WIDTH: Final = 1000.0
"""Of a line of time."""
NARROWEST: Final = 7.0
FOLDED: Final = 0.06
"""What an idle stretch takes at most, of the time in which something is called."""

_BEGINS: Final = frozenset({"StepStarted", "CompensationStarted"})
_ENDS: Final[Mapping[str, tuple[str, str]]] = {
    "StepSucceeded": ("succeeded", "good"),
    "CompensationSucceeded": ("succeeded", "undone"),
    "StepRefused": ("refused", "bad"),
    "StepAttemptFailed": ("failed", "bad"),
    "CompensationAttemptFailed": ("failed", "bad"),
    "StepAttemptLost": ("lost", "bad"),
    "CompensationFailed": ("refused", "bad"),
}
_OUTCOMES: Final = {
    "unknown": "failed, outcome unknown",
    "not-sent": "not sent",
    "refused": "refused for now",
}


@dataclass
class Attempt:
    number: int
    began: Micros
    key: str | None = None
    event: str | None = None
    """Of a choreography: what has begun it."""
    ended: Micros | None = None
    """None: it is under way."""
    word: str = "under way"
    tone: str = "active"
    status: int | None = None
    ms: float | None = None
    head: str | None = None
    """The beginning of the answer."""
    message: str | None = None
    accepted: Micros | None = None
    retry_at: Micros | None = None

    @property
    def took(self) -> str:
        if self.ms is not None:
            return duration(self.ms / 1000)
        return "" if self.ended is None else duration((self.ended - self.began) / SECOND)

    @property
    def told(self) -> str:
        status = f" ({self.status})" if self.status else ""
        after = f" after {self.took}" if self.took else ""
        return f"attempt {self.number}: {self.word}{status}{after}"


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    width: float
    kind: str
    """A tone, or `rest`: it waits to be repeated."""
    title: str


@dataclass(frozen=True, slots=True)
class Track:
    who: str
    bars: list[Bar]
    took: str
    told: str


@dataclass(frozen=True, slots=True)
class Line:
    tracks: list[Track]
    folds: list[float]
    """Where idle time is left out."""
    total: str


def attempts_of(events: Iterable[Mapping[str, Any]]) -> dict[Who, list[Attempt]]:
    """By step and operation, in the order in which they first began."""
    found: dict[Who, list[Attempt]] = {}
    for event in events:
        kind, data, at = event["type"], event["data"], event["at"]
        if event["step"] is None or event["operation"] is None:
            continue
        of = found.setdefault((event["step"], event["operation"]), [])
        if kind in _BEGINS:
            asked = COMPENSATION_REQUESTED if event["operation"] == COMPENSATION else data.get("event")
            of.append(Attempt(event["attempt"] or 1, at, data.get("key"), asked))
        elif kind == "StepWaiting":
            for attempt in _numbered(of, event["attempt"]):
                attempt.accepted, attempt.status = at, data.get("status")
                attempt.word, attempt.tone = "accepted, its answer is awaited", "waiting"
        elif kind in _ENDS and (event["attempt"] is not None or kind != "CompensationFailed"):
            _end(of, event, *_ENDS[kind])
    return {who: attempts for who, attempts in found.items() if attempts}


def _numbered(attempts: list[Attempt], number: int | None) -> list[Attempt]:
    return [attempt for attempt in attempts if attempt.number == number and attempt.ended is None][-1:]


def _end(attempts: list[Attempt], event: Mapping[str, Any], word: str, tone: str) -> None:
    data, at = event["data"], event["at"]
    attempt = next(iter(_numbered(attempts, event["attempt"])), None)
    if attempt is None:  # a late answer, or what a service has done by itself
        attempt = Attempt(event["attempt"] or len(attempts) + 1, at, event=data.get("event"))
        attempts.append(attempt)
    error = data.get("error") or {}
    attempt.ended, attempt.tone = at, tone
    attempt.word = _OUTCOMES.get(str(data.get("outcome")), word) if word == "failed" else word
    attempt.status = data.get("status") or error.get("status")
    attempt.ms, attempt.head, attempt.message = data.get("ms"), data.get("head"), error.get("message")
    attempt.retry_at = data.get("retry_at")


# --- on a line of time ------------------------------------------------------------------------------------------


@dataclass
class _Scale:
    """From instants to places on the line; idle stretches are shorter there than they were."""

    instants: list[Micros] = field(default_factory=list)
    places: list[float] = field(default_factory=list)
    folds: list[float] = field(default_factory=list)

    def at(self, instant: Micros) -> float:
        index = bisect_right(self.instants, instant) - 1
        if index < 0:
            return 0.0
        if index >= len(self.instants) - 1:
            return self.places[-1]
        begin, end = self.instants[index], self.instants[index + 1]
        share = (instant - begin) / (end - begin)
        return self.places[index] + share * (self.places[index + 1] - self.places[index])


def line_of(found: Mapping[Who, Sequence[Attempt]], now: Micros) -> Line:
    """`now`: until when what is under way is drawn."""
    calls = [(a.began, max(now if a.ended is None else a.ended, a.began)) for each in found.values() for a in each]
    if not calls:
        return Line([], [], "")
    rests = [rest for each in found.values() for rest in _rests(each, now)]
    scale = _scaled(calls, [*calls, *rests])
    tracks = [_track(who, each, scale, now) for who, each in found.items()]
    whole = max(end for _, end in calls) - min(begin for begin, _ in calls)
    return Line(tracks, scale.folds, duration(whole / SECOND))


def _rests(attempts: Sequence[Attempt], now: Micros) -> list[tuple[Micros, Micros]]:
    found = []
    for attempt, following in zip(attempts, [*attempts[1:], None], strict=True):
        if attempt.ended is not None and attempt.retry_at is not None:
            end = following.began if following is not None else min(attempt.retry_at, max(now, attempt.ended))
            if end > attempt.ended:
                found.append((attempt.ended, end))
    return found


def _scaled(calls: list[tuple[Micros, Micros]], spans: list[tuple[Micros, Micros]]) -> _Scale:
    instants = sorted({instant for span in spans for instant in span})
    busy = _union(calls)
    total = sum(end - begin for begin, end in busy)
    longest_idle = max(total * FOLDED, 1.0)
    lengths, folded = [], []
    begins = [begin for begin, _ in busy]
    for begin, end in pairwise(instants):
        index = bisect_right(begins, begin) - 1
        is_busy = index >= 0 and busy[index][1] > begin
        length = float(end - begin)
        lengths.append(length if is_busy else min(length, longest_idle))
        folded.append(not is_busy and length > 2 * longest_idle)
    unit = WIDTH / (sum(lengths) or 1.0)
    scale = _Scale(instants, [0.0])
    for length, is_folded in zip(lengths, folded, strict=True):
        begin_x = scale.places[-1]
        scale.places.append(begin_x + length * unit)
        if is_folded:
            scale.folds.append(round(begin_x + length * unit / 2, 1))
    return scale


def _union(spans: list[tuple[Micros, Micros]]) -> list[tuple[Micros, Micros]]:
    merged: list[tuple[Micros, Micros]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _track(who: Who, attempts: Sequence[Attempt], scale: _Scale, now: Micros) -> Track:
    step, operation = who
    bars = []
    for begin, end in _rests(attempts, now):
        title = f"waits for {duration((end - begin) / SECOND)} before it is tried again"
        bars.append(_bar(scale.at(begin), scale.at(end), "rest", title))
    bars += [_bar(scale.at(a.began), scale.at(a.ended or now), a.tone, a.told) for a in attempts]
    last = attempts[-1]
    count = f"{len(attempts)} attempts, " if len(attempts) > 1 else ""
    name = f"undo {step}" if operation == COMPENSATION else step
    return Track(name, bars, f"{count}{last.took or last.word}", "; ".join(a.told for a in attempts[-10:]))


def _bar(begin: float, end: float, kind: str, title: str) -> Bar:
    width = max(end - begin, 0.0 if kind == "rest" else NARROWEST)
    return Bar(round(min(begin, WIDTH - width), 1), round(width, 1), kind, title)
