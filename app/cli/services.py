"""Who takes part in sagas: `saga services`."""

from typing import Any, Final

import click

from app.cli.output import WithDefault, clean, say, say_indented, table
from app.cli.server import Server, json_option, speaks_http
from app.client import path_of
from app.instants import age, moment


@click.group(cls=WithDefault)
def services() -> None:
    """The services that carry out the steps. Alone, `saga services` lists them."""


@services.command("list")
@json_option
@speaks_http
def list_services(server: Server, as_json: bool) -> None:
    """List the services, by name."""
    answer = server.client.get("/services")
    found = answer.items("name")
    if as_json:
        say(answer.text)
        return
    rows = [
        (
            each["name"],
            each.get("url") or f"python {each.get('python')}",
            each.get("max_in_flight") or "-",
            "paused" if each.get("paused") else "",
        )
        for each in found
    ]
    heading, *lines = table(("NAME", "WHERE", "MAX IN FLIGHT", ""), rows)
    say(heading if rows else "There is no service yet.")
    for line, each in zip(lines, found, strict=True):
        say(line)
        if pause := each.get("paused"):
            since = moment(pause.get("since"))
            ago = "" if since is None else f" {age((answer.at - since).total_seconds())} ago"
            say_indented(f"paused{ago} by {pause.get('by')}: {pause.get('reason')}")


def _command(name: str, words: str, told: str) -> None:
    def run(server: Server, service: str, reason: str, as_json: bool) -> None:
        answer = server.client.post(path_of("admin", "api", "services", service, name), {"reason": reason})
        say(answer.text if as_json else f"{clean(service)} {told}")

    decorated: Any = speaks_http(run)
    reason = click.option("--reason", required=True, help="Why; it is kept in the audit trail.")
    for option in (json_option, reason, click.argument("service", metavar="NAME")):
        decorated = option(decorated)
    services.command(name, help=words)(decorated)


_command(
    "pause",
    "Send nothing new to a service, in any saga, until it is resumed. What is under way goes on to its end; the "
    "timeouts of sagas go on too.",
    "is paused: nothing new is sent to it.",
)
_command("resume", "Send a paused service what waits for it.", "goes on: what waits for it is sent now.")

COMMANDS: Final[dict[str, click.Command]] = {"services": services}
