"""Keys: those that open the API, and those that seal payloads at rest."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from app.cli.output import clean, say, table
from app.cli.server import Server, json_option, speaks_http
from app.client import Answer, path_of
from app.instants import age, moment

KEYS: Final = ("admin", "api", "keys")

_key = click.argument("key_id", metavar="ID")
_reason = click.option("--reason", help="Why; it is kept in the audit trail.")


@click.group
def keys() -> None:
    """Keys that open the API, and those that payloads are sealed with."""


@keys.command
@click.option("--scopes", required=True, help="What it may do: start, read, define, admin, with commas between them.")
@click.option("--tenant", help="What is started with it belongs to that tenant, and nothing else is seen.")
@click.option("--expires", help="It ends after so long: 90d, 12h.  [default: never]")
@click.option("--note", help="What it is for.")
@_reason
@json_option
@speaks_http
def create(
    server: Server,
    scopes: str,
    tenant: str | None,
    expires: str | None,
    note: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Make a key. It is printed this once; what is kept of it opens nothing."""
    named = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    body = {"scopes": named, "tenant": tenant, "expires_in": expires, "note": note, "reason": reason}
    _made(server.client.post(path_of(*KEYS), body), as_json=as_json)


@keys.command("list")
@json_option
@speaks_http
def list_keys(server: Server, as_json: bool) -> None:
    """List the keys, newest first, without their secrets."""
    for answer in server.client.pages(path_of(*KEYS), [("limit", "200")]):
        if as_json:
            say(answer.text)
            continue
        rows = []
        for key in answer.items("id", "scopes"):
            used = moment(key.get("last_used_at"))
            seen = "never" if used is None else f"{age((answer.at - used).total_seconds())} ago"
            rows.append((key["id"], ",".join(key["scopes"]), key.get("tenant") or "", seen, _state(key, answer.at)))
        for line in table(("ID", "SCOPES", "TENANT", "LAST USED", ""), rows):
            say(line)


def _state(key: dict[str, Any], now: datetime) -> str:
    if key.get("revoked_at"):
        return "revoked"
    ends = moment(key.get("expires_at"))
    if ends is None:
        return ""
    left = (ends - now).total_seconds()
    return f"ends in {age(left)}" if left > 0 else "expired"


@keys.command
@_key
@click.option("--overlap", default="1d", show_default=True, help="So long the old one goes on.")
@_reason
@json_option
@speaks_http
def rotate(server: Server, key_id: str, overlap: str, reason: str | None, as_json: bool) -> None:
    """Make a key in place of another, with the same scopes, tenant and length of life."""
    _made(server.client.post(path_of(*KEYS, key_id, "rotate"), {"overlap": overlap, "reason": reason}), as_json=as_json)


@keys.command
@_key
@_reason
@json_option
@speaks_http
def revoke(server: Server, key_id: str, reason: str | None, as_json: bool) -> None:
    """End a key. Within two seconds it opens nothing any more."""
    answer = server.client.ask("DELETE", path_of(*KEYS, key_id), body={"reason": reason})
    say(answer.text if as_json else f"Key {clean(answer.object('id')['id'])} is revoked.")


def _made(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        say(answer.text)
        return
    made = answer.object("id", "key")
    ends = f", until {clean(made['expires_at'])}" if made.get("expires_at") else ""
    tenant = f", of the tenant {clean(made['tenant'])}" if made.get("tenant") else ""
    say(f"A key for {clean(', '.join(made['scopes']))}{tenant}{ends}. It is not shown again:")
    say(f"  {clean(made['key'])}")


@keys.command("rotate-payloads")
@click.option(
    "--batch", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Rows of one transaction."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="The running house of this directory.  [default: SAGA_DATABASE_URL, else .saga]",
)
def rotate_payloads(batch: int, data: Path | None) -> None:
    """Seal everything under the first key of SAGA_PAYLOAD_KEYS.

    What is under another key, or plain, is sealed anew; with `plain` in front of the keys it is opened. Workers may run
    meanwhile. Started again, it goes on with what is left.

    Exit code 1 where something is left that another key is needed for.
    """
    from app.cli import sealing  # noqa: PLC0415 - the other commands speak HTTP and need no database

    sys.exit(sealing.rotate_payloads(batch, data))


COMMANDS: Final[dict[str, click.Command]] = {"keys": keys}
