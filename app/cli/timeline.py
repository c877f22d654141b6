"""A saga with its history (`app.telling`) and what may be done, as lines of text.

Pure: `draw` takes the API's JSON.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from app.cli.output import BOLD, RED, TONES, YELLOW, clean, tinted, wrapped
from app.instants import clock, duration, moment
from app.telling import LEFT_OUT, Json, between, message_of, tell

AT_REST: Final = frozenset({"COMPLETED", "FAILED", "COMPENSATION_FAILED", "ABANDONED"})
UNDER_WAY: Final = frozenset({"SCHEDULED", "RUNNING", "WAITING", "RETRYING"})

OFFSET: Final = 9
WIDEST_NAME: Final = 30


def draw(saga: Json, events: Sequence[Json], now: datetime, *, width: int = 80, options: str = "") -> list[str]:
    """The saga with its timeline; `options` belong to every command that is suggested."""
    lines = [*head(saga, now), ""]
    if events:
        lines += [*_rows(saga, events, now, width), ""]
    # Only a saga that follows events was created by one.
    choreographed = bool(events) and "event" in (events[0].get("data") or {})
    advice = _advice(next_commands(saga, choreographed=choreographed), width, options)
    for block in (_now(saga, now, width), _sentences(saga, width), advice):
        if block:
            lines += [*block, ""]
    return lines[:-1]


def head(saga: Json, now: datetime) -> list[str]:
    created, ended = moment(saga.get("created_at")), moment(saga.get("finished_at"))
    state = str(saga["state"])
    lines = [f"{tinted(clean(saga['saga']), BOLD)}  {tinted(state, TONES.get(state))}{_how_long(saga, now)}"]
    facts = [("id", saga["id"]), ("key", saga.get("idempotency_key")), ("version", saga.get("version"))]
    facts.append(("labels", ", ".join(f"{key}={value}" for key, value in (saga.get("labels") or {}).items())))
    facts.append(("again of", saga.get("restarted_from")))
    if created is not None:
        facts.append(("created", clock(created, fine=True)))
    if (deadline := moment(saga.get("deadline_at"))) and ended is None and state in {"CREATED", "EXECUTING"}:
        facts.append(("deadline", f"{clock(deadline)}, {_until(deadline, now)}"))
    return lines + [f"  {name:9} {clean(value)}" for name, value in facts if value not in (None, "")]


def _how_long(saga: Json, now: datetime) -> str:
    created, finished = moment(saga.get("created_at")), moment(saga.get("finished_at"))
    words = ", paused" if saga.get("paused") else ""
    if created is None:
        return words
    if finished is not None:
        return f" after {between(created, finished)}{words}"
    return f"{words}, since {between(created, now)}" if saga["state"] not in AT_REST else words


def _until(at: datetime, now: datetime) -> str:
    return f"in {between(now, at)}" if at > now else f"{between(at, now)} ago"


# --- the timeline -----------------------------------------------------------------------------------------------


def _rows(saga: Json, events: Sequence[Json], now: datetime, width: int) -> Iterator[str]:
    standing = str((saga.get("attention") or {}).get("reason"))
    rows = tell(events, now if saga["state"] not in AT_REST else None, standing)
    begin = moment(events[0]["at"]) or now
    column = min(max((len(row.who) for row in rows), default=0), WIDEST_NAME)
    margin = OFFSET + 2
    for row in rows:
        offset = "" if row.text == LEFT_OUT else _offset(row.at - begin)
        lead = f"{offset:>{OFFSET}}  "
        if not row.who:
            lines = wrapped(clean(row.told), first=lead, rest=" " * (margin + 2), width=width)
        elif len(row.who) > column:
            yield f"{lead}{clean(row.who)}"
            indent = " " * (margin + 4)
            lines = wrapped(clean(row.told), first=indent, rest=indent, width=width)
        else:
            lead += f"{clean(row.who):{column}}  "
            lines = wrapped(clean(row.told), first=lead, rest=" " * (margin + column + 2), width=width)
        yield from (tinted(line, row.tone) for line in lines)


def _offset(since: timedelta) -> str:
    seconds = since.total_seconds()
    return f"{seconds:.2f} s" if -100 < seconds < 100 else duration(seconds)


# --- what is under way, what is wrong, what may be done ---------------------------------------------------------


def _now(saga: Json, now: datetime, width: int) -> list[str]:
    if saga["state"] in AT_REST:
        return []
    lines: list[str] = []
    to_come: list[str] = []
    for step in saga.get("steps") or ():
        for who, call in ((step["name"], step), (f"undo {step['name']}", step.get("compensation") or {})):
            if call.get("state") in UNDER_WAY:
                text = clean(f"{who}: {_doing(call, now)}")
                lines += wrapped(text, first="  ", rest="    ", width=width)
        if step.get("state") == "PENDING":
            to_come.append(str(step["name"]))
    if to_come:
        text = f"{'held back' if saga.get('paused') else 'to come'}: {', '.join(to_come)}"
        lines += wrapped(clean(text), first="  ", rest="    ", width=width)
    return ["Now", *lines] if lines else []


def _doing(call: Json, now: datetime) -> str:
    following = int(call.get("attempts") or 0) + 1
    at = moment(call.get("next_attempt_at"))
    match call["state"]:
        case "SCHEDULED":
            return f"SCHEDULED, attempt {following} waits for a worker"
        case "RUNNING":
            return f"RUNNING, attempt {following - 1}"
        case "WAITING":
            return "WAITING for the answer that it has promised"
    due = f" at {clock(at)}, {_until(at, now)}" if at and at > now else " as soon as a worker takes it"
    last = f" (last: {message_of(call['error'])})" if call.get("error") else ""
    return f"RETRYING, attempt {following}{due}{last}"


def _sentences(saga: Json, width: int) -> list[str]:
    lines: list[str] = []
    if error := saga.get("error"):
        of = " ".join(str(error[name]) for name in ("operation", "step") if error.get(name)).replace(" ", " of ")
        code = f"{error.get('code')}{f' in the {of}' if of else ''}: "
        text = f"Error: {'' if message_of(error).startswith(str(error.get('code'))) else code}{message_of(error)}"
        lines += [tinted(line, RED) for line in wrapped(clean(text), first="", rest="  ", width=width)]
    if attention := saga.get("attention"):
        since = moment(attention.get("since"))
        text = f"Attention{f' since {clock(since)}' if since else ''}: {attention.get('reason')}"
        lines += [tinted(line, YELLOW) for line in wrapped(clean(text), first="", rest="  ", width=width)]
    return lines


def _advice(commands: Sequence[tuple[str, str]], width: int, options: str) -> list[str]:
    lines = []
    for command, words in commands:
        lines += [f"  {words}:", *_shell(f"saga {command}{options}", width)]
    return ["What may be done", *lines] if lines else []


def _shell(command: str, width: int) -> Iterator[str]:
    """A command to be copied: what does not fit goes on below, as a shell reads it."""
    line = "   "
    for number, part in enumerate(command.replace(" --", "\0--").split("\0")):
        if number and len(line) + len(part) + 3 > width:
            yield f"{line} \\"
            line = "       "
        line += f" {part}"
    yield line


def next_commands(saga: Json, *, choreographed: bool = False) -> list[tuple[str, str]]:
    """(command without `saga`, what it does) of what the saga's state suggests. The server has the last word."""
    named, state, steps = saga["id"], saga["state"], saga.get("steps") or ()
    undoing = [step.get("compensation") or {} for step in steps]
    why = "--reason WHY"
    if state == "COMPENSATION_FAILED":
        failed = [s["name"] for s, undo in zip(steps, undoing, strict=True) if undo.get("state") == "FAILED"]
        one = failed[0] if len(failed) == 1 else "STEP"
        return [
            (f"retry {named} {why}", "the failed compensations again"),
            (f"resolve {named} --step {one} {why}", "it was settled by hand"),
            (f"abandon {named} {why}", "leave it as it is, for good"),
        ]
    if state in {"FAILED", "ABANDONED"}:
        return [] if choreographed else [(f"restart {named} {why}", "run it again as a new saga")]
    if state == "COMPENSATING":
        found = []
        if any(undo.get("state") in {"RETRYING", "FAILED"} for undo in undoing):
            found.append((f"retry {named} {why}", "the compensation again, now"))
        return [*found, *([(f"resume {named} {why}", "go on")] if saga.get("paused") else [])]
    if state == "COMPLETED":
        return []
    holding = [step["name"] for step in steps if step.get("state") in {"EXHAUSTED", "REFUSED"}]
    stuck = holding or [step["name"] for step in steps if step.get("state") == "RETRYING"]
    found = []
    if saga.get("paused") and not holding:
        found.append((f"resume {named} {why}", "go on"))
    if stuck:
        one = stuck[0] if len(stuck) == 1 else "STEP"
        found.append((f"retry {named} {why}", "try again now, with all its attempts"))
        found.append((f"skip {named} --step {one} {why}", "go on without the step"))
    return [*found, (f"cancel {named}", "stop, and undo what was done")]
