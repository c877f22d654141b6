"""What a person does to a saga: one call of the API each, drawn from one table; the dead letters, and the notices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
from click.core import ParameterSource

from app.cli.output import WithDefault, clean, named, say, say_indented, table
from app.cli.parameters import JsonParameter, filter_options, saga_argument, wanted
from app.cli.server import Server, json_option, speaks_http
from app.client import path_of
from app.instants import age, moment

MOST_OF_A_PAGE: Final = 200

Option = Callable[[Any], Any]
"""As `click.option` makes it. Its name is the name of the field in the body."""


@dataclass(frozen=True)
class Action:
    """`POST /admin/api/sagas/{id}/{name}`."""

    help: str
    options: tuple[Option, ...] = ()
    prefix: tuple[str, ...] = ("admin", "api")


_reason = click.option("--reason", required=True, help="Why; it is kept in the saga's history.")
_reason_if_any = click.option("--reason", help="Why; it is kept in the saga's history.")
_step = click.option("--step", required=True, help="The step.")
_not_done = click.option(
    "--confirm-not-done",
    is_flag=True,
    help="You have looked at the step's service: though an attempt's outcome is unknown, it was not done.",
)

ACTIONS: Final = {
    "cancel": Action(
        "Stop a saga, and undo what was done. Refused once it has passed its point of no return.",
        (_reason_if_any,),
        prefix=(),
    ),
    "retry": Action(
        "Try again now, with all attempts anew: the failed compensations of a saga that is COMPENSATION_FAILED, else "
        "the step that is RETRYING or EXHAUSTED, or that was refused after a pivot.",
        (
            _reason,
            click.option("--step", help="Only this step."),
            click.option("--input", type=JsonParameter(), help="A new input of the step, in place of its own."),
            _not_done,
        ),
    ),
    "skip": Action(
        "Let a saga go on without a step that is RETRYING or EXHAUSTED, or was refused and holds the saga.",
        (
            _step,
            _reason,
            click.option("--output", type=JsonParameter(), help="What later steps shall see as the step's output."),
            _not_done,
        ),
    ),
    "resolve": Action("Say that a failed compensation was settled by hand.", (_step, _reason)),
    "compensate": Action(
        "Undo what was done, as an operator. This also ends a saga that holds or is paused.", (_reason,)
    ),
    "abandon": Action("Stop a saga for good, with nothing undone. What was done, stands.", (_reason,)),
    "restart": Action(
        "Run a saga at rest again, as a new saga that names the old one.",
        (_reason, click.option("--input", type=JsonParameter(), help="In place of the old saga's input.")),
    ),
    "pause": Action(
        "Send nothing new for a saga until it is resumed. Answers that are under way are kept.", (_reason,)
    ),
    "resume": Action("Let a saga go on that an operator has paused.", (_reason,)),
    "extend": Action(
        "Give a saga more time: its deadline becomes now and the timeout.",
        (
            click.option("--timeout", required=True, metavar="DURATION", help="From now: 500ms, 10s, 15m, 2h, 1d."),
            _reason,
        ),
    ),
}


def _command(name: str, action: Action) -> click.Command:
    def run(server: Server, saga: str, as_json: bool, **fields: Any) -> None:
        source = click.get_current_context().get_parameter_source
        body = {field: value for field, value in fields.items() if source(field) is not ParameterSource.DEFAULT}
        path = [*action.prefix, "sagas"]
        answer = server.on_saga(saga, lambda saga_id: server.client.post(path_of(*path, saga_id, name), body))
        found = answer.saga()
        if as_json:
            say(answer.text)
            return
        say(named(found))
        if name == "restart":
            say(clean(f"  it is a new saga, with the key {found.get('idempotency_key')}"))
        say(f"  saga show {found['id']}{server.options}")

    decorated: Any = speaks_http(run)
    for option in (json_option, *reversed(action.options), saga_argument):
        decorated = option(decorated)
    return click.command(name, help=action.help)(decorated)


# --- many -------------------------------------------------------------------------------------------------------


@click.command
@click.argument("action", type=click.Choice(["retry", "compensate", "pause"]))
@filter_options
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many, the newest."
)
@click.option("--dry-run", is_flag=True, help="Only count.")
@_reason
@json_option
@speaks_http
def bulk(
    server: Server,
    action: str,
    labels: Sequence[tuple[str, str]],
    limit: int,
    dry_run: bool,
    reason: str,
    as_json: bool,
    **filters: Any,
) -> None:
    """Do the same to every saga that a filter matches."""
    given = wanted(filters) | ({"label": dict(labels)} if labels else {})
    if not given:
        raise click.UsageError("No filter is given, and that would be every saga: say which ones are meant.")
    body = {"action": action, "filter": given, "limit": limit, "dry_run": dry_run, "reason": reason}
    answer = server.client.post(path_of("admin", "api", "bulk"), body)
    if as_json:
        say(answer.text)
        return
    found = answer.object("matched", "done", "remaining", "failed")
    if dry_run:
        say(f"{found['matched']} match; {action} would be done to {min(found['matched'], limit)} of them.")
        return
    say(f"{action}: done to {found['done']} of {found['matched']}; {found['remaining']} remain.")
    for each in found["failed"]:
        say(f"  saga show {each['id']}{server.options}  ({each['code']})")


# --- dead letters -----------------------------------------------------------------------------------------------


@click.group("dead-letters", cls=WithDefault)
def dead_letters() -> None:
    """What was given up and waits for a person. Alone, `saga dead-letters` lists what is open."""


@dead_letters.command("list")
@click.option(
    "--status",
    type=click.Choice(["open", "retried", "resolved", "discarded", "noted"]),
    default="open",
    show_default=True,
    help="Of which kind.",
)
@click.option("--limit", type=click.IntRange(1, MOST_OF_A_PAGE), default=50, show_default=True, help="At most so many.")
@json_option
@speaks_http
def list_letters(server: Server, status: str, limit: int, as_json: bool) -> None:
    """List the operations that were given up."""
    answer = server.client.get("/admin/api/dead-letters", [("status", status), ("limit", str(limit))])
    letters = answer.items("id", "saga_id", "saga", "step", "operation", "attempts", "created_at")
    if as_json:
        say(answer.text)
        return
    if not letters:
        say(f"No dead letter is {status}.")
        return
    rows = [
        (
            letter["id"],
            letter["saga"] or letter.get("service") or "",
            f"{_BEFORE.get(letter['operation'], '')}{letter['step']}",
            letter["attempts"],
            age((answer.at - created).total_seconds()) if (created := moment(letter["created_at"])) else "",
        )
        for letter in letters
    ]
    heading, *lines = table(("ID", "SAGA", "WHAT", "TRIES", "AGE"), rows)
    say(heading)
    for line, letter in zip(lines, letters, strict=True):
        error = letter.get("error") or {}
        say(line)
        say_indented(str(error.get("message") or error.get("code") or "no reason is known"))
        if letter["saga_id"] is not None:
            say(f"  saga show {letter['saga_id']}{server.options}")


_BEFORE: Final = {"compensation": "undo ", "event": "event ", "delivery": "deliver "}


def _letter_command(name: str, words: str, told: str) -> None:
    def run(server: Server, letter: str, reason: str, as_json: bool) -> None:
        answer = server.client.post(path_of("admin", "api", "dead-letters", letter, name), {"reason": reason})
        say(answer.text if as_json else f"Dead letter {clean(letter)} is {told}.")

    decorated: Any = speaks_http(run)
    for option in (json_option, _reason, click.argument("letter", metavar="ID")):
        decorated = option(decorated)
    dead_letters.command(name, help=words)(decorated)


_letter_command("retry", "Try again what was given up.", "tried again")
_letter_command("discard", "Put a dead letter aside; its saga stays as it is.", "discarded")


# --- notices ----------------------------------------------------------------------------------------------------


@click.group("notices", cls=WithDefault)
def notices() -> None:
    """What a notify_url could not be told yet. Alone, `saga notices` lists it."""


@notices.command("list")
@click.option("--status", type=click.Choice(["waiting", "failing", "given-up"]), help="Of which kind.  [default: all]")
@click.option("--limit", type=click.IntRange(1, MOST_OF_A_PAGE), default=50, show_default=True, help="At most so many.")
@json_option
@speaks_http
def list_notices(server: Server, status: str | None, limit: int, as_json: bool) -> None:
    """List the notices that nobody has taken yet, and why."""
    query = [("limit", str(limit)), *([("status", status)] if status else [])]
    answer = server.client.get("/admin/api/notices", query)
    found = answer.items("id", "saga_id", "type", "url", "status", "attempts", "created_at")
    if as_json:
        say(answer.text)
        return
    if not found:
        say(f"No notice is {status}." if status else "Every notice was taken.")
        return
    rows = [
        (
            notice["id"],
            notice["type"],
            notice["status"],
            notice["attempts"],
            age((answer.at - created).total_seconds()) if (created := moment(notice["created_at"])) else "",
        )
        for notice in found
    ]
    heading, *lines = table(("ID", "TYPE", "STATUS", "TRIES", "AGE"), rows)
    say(heading)
    for line, notice in zip(lines, found, strict=True):
        say(line)
        say_indented(f"{notice['url']}: {notice.get('last_error') or 'not tried yet'}")
        say(f"  saga show {notice['saga_id']}{server.options}")


def _notice_command(name: str, words: str, told: str, reason: Option) -> None:
    def run(server: Server, notice: str, reason: str | None, as_json: bool) -> None:
        body = {} if reason is None else {"reason": reason}
        answer = server.client.post(path_of("admin", "api", "notices", notice, name), body)
        say(answer.text if as_json else f"Notice {clean(notice)} is {told}.")

    decorated: Any = speaks_http(run)
    for option in (json_option, reason, click.argument("notice", metavar="ID")):
        decorated = option(decorated)
    notices.command(name, help=words)(decorated)


_notice_command("retry", "Send a notice again now, also one that was given up.", "sent again", _reason_if_any)
_notice_command("discard", "Take a notice away; its receiver is not told.", "discarded", _reason)


COMMANDS: Final[dict[str, click.Command]] = {
    **{name: _command(name, action) for name, action in ACTIONS.items()},
    "bulk": bulk,
    "dead-letters": dead_letters,
    "notices": notices,
}
