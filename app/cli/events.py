"""`saga publish`: an event by hand, as a service would publish it."""

import uuid
from typing import Any, Final

import click

from app.cli.output import Failure, say
from app.cli.parameters import JsonParameter
from app.cli.server import Server, json_option, speaks_http
from app.client import Unreachable


@click.command
@click.argument("event_type", metavar="TYPE")
@click.option("--event-data", type=JsonParameter(), default="{}", help="What happened.  [default: {}]")
@click.option("--source", default="saga-cli", show_default=True, help="Who says so.")
@click.option("--id", "event_id", help="Names the event together with its source.  [default: a new one]")
@click.option("--subject", help="What it is about.")
@json_option
@speaks_http
def publish(
    server: Server,
    event_type: str,
    event_data: Any,
    source: str,
    event_id: str | None,
    subject: str | None,
    as_json: bool,
) -> None:
    """Publish an event of TYPE on the stream of the choreographed sagas.

    The same source and id again are the same event, and nothing is published twice.
    """
    event_id = event_id or str(uuid.uuid4())
    body = {"specversion": "1.0", "id": event_id, "source": source, "type": event_type, "data": event_data}
    if subject is not None:
        body["subject"] = subject
    try:
        answer = server.client.post("/events", body)
    except Unreachable as error:
        if not error.sent:
            raise
        advice = f"Say the same again with --id {event_id}: then it is one event."
        raise Failure(f"{error}; whether it was published is not known. {advice}") from None
    known = answer.status == 200
    say(answer.text if as_json else f"{event_type} {event_id} {'was published before' if known else 'is published'}.")


COMMANDS: Final = {"publish": publish}
