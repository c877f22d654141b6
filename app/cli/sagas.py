"""`saga start`, `show` and `list`, and what is registered. They decide nothing: the server has every word."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import click

from app.cli.output import Failure, clean, named, say, say_indented, table, terminal_width
from app.cli.parameters import (
    JsonParameter,
    KeyParameter,
    LabelParameter,
    WaitParameter,
    filter_options,
    saga_argument,
    wanted,
)
from app.cli.server import Server, json_option, speaks_http
from app.cli.timeline import AT_REST, draw
from app.client import Answer, Unreachable, path_of
from app.errors import Problem
from app.instants import age, moment

NOT_COMPLETED: Final = 3
"""Exit code of `saga start --wait`: the saga came to rest, but not as COMPLETED."""
STILL_UNDER_WAY: Final = 4
"""Exit code of `saga start --wait SECONDS`: it was not at rest by then."""

LONGEST_WAIT_SECONDS: Final = 60
"""The server holds a request no longer."""
PAUSE_SECONDS: Final = 0.2
MOST_OF_A_PAGE: Final = 200


# --- start ------------------------------------------------------------------------------------------------------


@click.command
@click.argument("name")
@click.option("--input", "saga_input", type=JsonParameter(), default="{}", help="The saga's input.  [default: {}]")
@click.option(
    "--key",
    required=True,
    type=KeyParameter(),
    help="Your own name of this very order. Starting it again under the same key runs nothing twice.",
)
@click.option(
    "--label", "labels", type=LabelParameter(), multiple=True, help="To find it by. May be given several times."
)
@click.option("--version", type=click.IntRange(1), help="Of the definition.  [default: the newest]")
@click.option("--timeout", metavar="DURATION", help="Of the whole saga: 500ms, 10s, 15m, 2h, 1d.")
@click.option("--start-at", metavar="TIME", help="Not before this RFC 3339 time: 2030-01-31T08:00:00Z.")
@click.option("--notify-url", metavar="URL", help="Is told when the saga comes to rest or needs attention.")
@click.option(
    "--wait",
    type=WaitParameter(),
    is_flag=False,
    flag_value="inf",
    help="Wait until it has come to rest, at most so many SECONDS where they are given.",
)
@json_option
@speaks_http
def start(
    server: Server,
    name: str,
    saga_input: Any,
    key: str,
    labels: Sequence[tuple[str, str]],
    version: int | None,
    timeout: str | None,
    start_at: str | None,
    notify_url: str | None,
    wait: float | None,
    as_json: bool,
) -> None:
    """Start a saga of the definition NAME.

    With --wait the exit code is 0 where the saga has COMPLETED, 3 where it came to rest otherwise, and 4 where it is
    still under way after SECONDS.
    """
    if len(dict(labels)) < len(labels):
        raise click.UsageError("Two values are given for one label.")
    options = {"labels": dict(labels) or None, "version": version, "timeout": timeout}
    options |= {"start_at": start_at, "notify_url": notify_url}
    body = {"saga": name, "input": saga_input, **{name: each for name, each in options.items() if each is not None}}
    first, last = _submit(server, body, key, wait)
    saga = last.saga()
    if as_json:
        say(last.text)
    else:
        _tell_started(server, saga, known=first.headers.get("idempotency-replayed", "").lower() == "true")
    if wait is not None and saga["state"] != "COMPLETED":
        sys.exit(NOT_COMPLETED if saga["state"] in AT_REST else STILL_UNDER_WAY)


def _submit(server: Server, body: dict[str, Any], key: str, wait: float | None) -> tuple[Answer, Answer]:
    """The first answer and the last: the same key and body again answer with the same saga, so waiting is asking."""
    headers = {"Idempotency-Key": key}
    give_up = time.monotonic() + (wait or 0)
    first: Answer | None = None
    while True:
        left = max(min(give_up - time.monotonic(), LONGEST_WAIT_SECONDS), 0)
        prefer = {"Prefer": f"wait={max(round(left), 1)}"} if wait is not None and left > 0 else {}
        asked = time.monotonic()
        try:
            answer = server.client.ask(
                "POST", "/sagas", body=body, headers=headers | prefer, patience_seconds=left if prefer else 0
            )
        except (Unreachable, Problem) as error:
            if first is not None:
                raise Failure(f"{error}. The saga goes on: saga show {first.saga()['id']}{server.options}") from None
            if isinstance(error, Unreachable) and error.sent:
                advice = "Say the same again: its key makes it one saga."
                raise Failure(f"{error}; whether it was started is not known. {advice}") from None
            raise
        first = first or answer
        if wait is None or answer.saga()["state"] in AT_REST or time.monotonic() >= give_up:
            return first, answer
        if time.monotonic() - asked < PAUSE_SECONDS:
            time.sleep(PAUSE_SECONDS)  # a server that does not wait is not to be hurried


def _tell_started(server: Server, saga: dict[str, Any], *, known: bool) -> None:
    say(f"{named(saga)}{', and was started with this key before' if known else ''}")
    if error := saga.get("error"):
        of = f" in {error['step']}" if error.get("step") else ""
        say_indented(f"{error.get('code')}{of}: {error.get('message')}")
    if attention := saga.get("attention"):
        say_indented(str(attention.get("reason")))
    say(f"  saga show {saga['id']}{server.options}")


# --- show and list ----------------------------------------------------------------------------------------------


@click.command
@saga_argument
@click.option("--events", "as_events", is_flag=True, help="The whole history, one line for each event.")
@json_option
@speaks_http
def show(server: Server, saga: str, as_events: bool, as_json: bool) -> None:
    """Show a saga: its steps, attempts and compensations over time, what is wrong, and what may be done.

    Times on the left count from the saga's creation.
    """
    answer = server.saga(saga)
    found = answer.saga()
    if as_json and not as_events:
        say(answer.text)
        return
    pages = list(server.client.pages(path_of("sagas", str(found["id"]), "events"), cursor="after"))
    events = [event for page in pages for event in page.items("seq", "type", "at")]
    if as_json:
        _say_pages(pages, events)
    elif as_events:
        for event in events:
            say(_event_line(event))
    else:
        for line in draw(found, events, answer.at, width=terminal_width() or 80, options=server.options):
            say(line)


def _say_pages(pages: Sequence[Answer], items: Sequence[Any]) -> None:
    if len(pages) == 1:
        say(pages[0].text)
    else:
        last = pages[-1].object("items")
        say(json.dumps({"items": items, "next_cursor": last.get("next_cursor")}, ensure_ascii=False))


def _event_line(event: dict[str, Any]) -> str:
    of = [str(event[name]) for name in ("operation", "step") if event.get(name)]
    attempt = [f"attempt {event['attempt']}"] if event.get("attempt") else []
    data = [json.dumps(event["data"], ensure_ascii=False, separators=(",", ":"))] if event.get("data") else []
    return clean("  ".join([f"{event['seq']:>5}", str(event["at"]), str(event["type"]), " ".join(of), *attempt, *data]))


@click.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@click.option("--cursor", help="Go on where an earlier list ended.")
@json_option
@speaks_http
def list_sagas(
    server: Server, labels: Sequence[tuple[str, str]], limit: int, cursor: str | None, as_json: bool, **filters: Any
) -> None:
    """List sagas, newest first."""
    query = [(name, "true" if value is True else value) for name, value in wanted(filters).items()]
    query += [("label", f"{name}:{value}") for name, value in labels]
    pages: list[Answer] = []
    items: list[dict[str, Any]] = []
    while len(items) < limit:
        more = [("limit", str(min(limit - len(items), MOST_OF_A_PAGE))), *([("cursor", cursor)] if cursor else [])]
        page = server.client.get("/sagas", [*query, *more])
        pages.append(page)
        items += page.items("id", "saga", "state")
        cursor = page.object("items").get("next_cursor")
        if not cursor:
            break
    if as_json:
        _say_pages(pages, items)
        return
    if not items:
        say("No saga is like that." if query else "There is no saga yet.")
        return
    now = pages[-1].at
    headings = ("ID", "STATE", "SAGA", "AT", "AGE", "KEY", "LABELS")
    rows = [
        (
            saga["id"],
            _state_in_list(saga),
            saga["saga"],
            saga.get("current_step"),
            age((now - created).total_seconds()) if (created := moment(saga.get("created_at"))) else "",
            saga.get("idempotency_key"),
            ",".join(f"{name}={value}" for name, value in (saga.get("labels") or {}).items()),
        )
        for saga in items
    ]
    for line in table(headings, rows, width=terminal_width(), drop=("LABELS", "KEY", "AT")):
        say(line)
    if cursor:
        click.echo(f"There are more: --cursor {cursor}", err=True)


def _state_in_list(saga: dict[str, Any]) -> str:
    marks = [word for word, so in (("paused", saga.get("paused")), ("attention", saga.get("attention"))) if so]
    return f"{saga['state']} ({', '.join(marks)})" if marks else str(saga["state"])


# --- registry ---------------------------------------------------------------------------------------------------


@click.command
@json_option
@speaks_http
def definitions(server: Server, as_json: bool) -> None:
    """List the definitions that sagas can be started of."""
    answer = server.client.get("/definitions")
    found = answer.items("name")
    if as_json:
        say(answer.text)
        return
    rows = [(each["name"], each.get("version"), each.get("created_at")) for each in found]
    for line in table(("NAME", "VERSION", "SINCE"), rows) if rows else ["There is no definition yet."]:
        say(line)


COMMANDS: Final[dict[str, click.Command]] = {
    "start": start,
    "show": show,
    "list": list_sagas,
    "definitions": definitions,
}
