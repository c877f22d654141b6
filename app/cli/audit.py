"""`saga audit`: who changed what, and why."""

import json
from typing import Any, Final

import click

from app.cli.output import say, say_indented, table
from app.cli.server import Server, json_option, speaks_http
from app.client import path_of
from app.instants import clock, moment

PATH: Final = path_of("admin", "api", "audit")
FILTERS: Final = (
    click.option("--actor", help="Who did it: key:ID, user:NAME, or house:files for what was registered at a start."),
    click.option("--action", help="What was done: retry, create-key, put-definition."),
    click.option("--saga", "saga_id", metavar="ID", help="To this saga."),
    click.option("--subject", help="To what else: definition/NAME, service/NAME, key/ID, user/NAME."),
    click.option("--created-after", metavar="TIME", help="After this RFC 3339 time."),
    click.option("--created-before", metavar="TIME", help="Before this RFC 3339 time."),
)


def _filters(command: Any) -> Any:
    for option in reversed(FILTERS):
        command = option(command)
    return command


@click.command
@_filters
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="At most so many.")
@click.option("--jsonl", "as_lines", is_flag=True, help="All that match, as JSON, a line each.")
@json_option
@speaks_http
def audit(server: Server, limit: int, as_lines: bool, as_json: bool, **filters: str | None) -> None:
    """Who changed what and why, newest first."""
    given = [(name, value) for name, value in filters.items() if value]
    if as_lines:
        for page in server.client.pages(PATH, [*given, ("limit", "200")]):
            for line in page.items("at", "actor", "action"):
                click.echo(json.dumps(line, separators=(",", ":")))
        return
    answer = server.client.get(PATH, [*given, ("limit", str(limit))])
    if as_json:
        say(answer.text)
        return
    lines = answer.items("at", "actor", "action")
    if not lines:
        say("Nobody has changed anything that matches.")
        return
    rows = [
        (
            clock(at) if (at := moment(line["at"])) else line["at"],
            line["actor"],
            line.get("address") or "",
            line["action"],
            line.get("saga_id") or line.get("subject") or "",
        )
        for line in lines
    ]
    heading, *shown = table(("AT", "WHO", "FROM", "DID", "TO"), rows)
    say(heading)
    for text, line in zip(shown, lines, strict=True):
        say(text)
        if line.get("reason"):
            say_indented(line["reason"])


COMMANDS: Final[dict[str, click.Command]] = {"audit": audit}
