"""Who may log in to the dashboard: `saga users`."""

import sys
from typing import Any, Final

import click

from app.cli.output import Failure, clean, say, table
from app.cli.server import Server, json_option, speaks_http
from app.client import path_of
from app.instants import age, moment

USERS: Final = ("admin", "api", "users")
ROLES: Final = click.Choice(["viewer", "operator", "admin"])

_name = click.argument("name", metavar="NAME")
_reason = click.option("--reason", help="Why; it is kept in the audit trail.")
_tenant = click.option("--tenant", help="What the user sees and changes belongs to it.  [default: none, sees all]")


@click.group
def users() -> None:
    """Who may log in to the dashboard, and as what. What is changed counts from the user's next request on."""


@users.command("list")
@json_option
@speaks_http
def list_users(server: Server, as_json: bool) -> None:
    """List the users, by name."""
    for answer in server.client.pages(path_of(*USERS), [("limit", "200")]):
        if as_json:
            say(answer.text)
            continue
        rows = []
        for user in answer.items("name", "role"):
            last = moment(user.get("last_login_at"))
            seen = "never" if last is None else f"{age((answer.at - last).total_seconds())} ago"
            state = "disabled" if user.get("disabled") else ""
            rows.append((user["name"], user["role"], user.get("tenant") or "", seen, state))
        for line in table(("NAME", "ROLE", "TENANT", "LAST LOGIN", ""), rows):
            say(line)


@users.command
@_name
@click.option("--role", type=ROLES, required=True, help="What the user may do.")
@_tenant
@click.option("--ask-password", is_flag=True, help="Ask for the password, or read it from the standard input.")
@_reason
@json_option
@speaks_http
def create(
    server: Server,
    name: str,
    role: str,
    tenant: str | None,
    ask_password: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Make a user. Without --ask-password one is made, and printed this once."""
    body = {"name": name, "role": role, "tenant": tenant, "reason": reason}
    if ask_password:
        body["password"] = _password()
    answer = server.client.post(path_of(*USERS), body)
    if as_json:
        say(answer.text)
        return
    made = answer.object("name", "role")
    say(f"User {clean(made['name'])} is made, with the role {clean(made['role'])}.")
    if made.get("password"):
        say(f"  password: {clean(made['password'])}  (it is not shown again)")


@users.command
@_name
@click.argument("role", type=ROLES)
@_reason
@json_option
@speaks_http
def set_role(server: Server, name: str, role: str, reason: str | None, as_json: bool) -> None:
    """Give a user another role."""
    _change(server, name, {"role": role, "reason": reason}, as_json, f"has the role {role}")


@users.command
@_name
@click.option("--tenant", help="What belongs to it.")
@click.option("--every-tenant", is_flag=True, help="Everything: the user is one of the house.")
@_reason
@json_option
@speaks_http
def set_tenant(
    server: Server, name: str, tenant: str | None, every_tenant: bool, reason: str | None, as_json: bool
) -> None:
    """Say what a user sees and changes."""
    if bool(tenant) == every_tenant:
        raise click.UsageError("Say either --tenant NAME or --every-tenant.")
    told = f"belongs to {tenant}" if tenant else "sees every tenant"
    _change(server, name, {"tenant": tenant, "reason": reason}, as_json, told)


@users.command
@_name
@_reason
@json_option
@speaks_http
def set_password(server: Server, name: str, reason: str | None, as_json: bool) -> None:
    """Give a user another password. It is asked for, or read from the standard input; the user's sessions end."""
    _change(server, name, {"password": _password(), "reason": reason}, as_json, "has a new password")


@users.command
@_name
@_reason
@json_option
@speaks_http
def disable(server: Server, name: str, reason: str | None, as_json: bool) -> None:
    """Let a user in no more. The user's sessions end."""
    _change(server, name, {"disabled": True, "reason": reason}, as_json, "is disabled")


@users.command
@_name
@_reason
@json_option
@speaks_http
def enable(server: Server, name: str, reason: str | None, as_json: bool) -> None:
    """Let a disabled user in again."""
    _change(server, name, {"disabled": False, "reason": reason}, as_json, "may log in")


@users.command
@_name
@_reason
@json_option
@speaks_http
def logout(server: Server, name: str, reason: str | None, as_json: bool) -> None:
    """End every session of a user."""
    answer = server.client.post(path_of(*USERS, name, "logout"), {"reason": reason})
    say(answer.text if as_json else f"{answer.object('sessions')['sessions']} sessions of {clean(name)} have ended.")


@users.command
@_name
@_reason
@speaks_http
def remove(server: Server, name: str, reason: str | None) -> None:
    """Remove a user, with all sessions. The audit trail keeps what the user did."""
    server.client.ask("DELETE", path_of(*USERS, name), body={"reason": reason})
    say(f"User {clean(name)} is removed.")


def _change(server: Server, name: str, body: dict[str, Any], as_json: bool, told: str) -> None:
    answer = server.client.ask("PATCH", path_of(*USERS, name), body=body)
    say(answer.text if as_json else f"User {clean(answer.object('name')['name'])} {clean(told)}.")


def _password() -> str:
    """Never from the command line: every user of the machine can read that."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise Failure("No password stands on the standard input.")
    return given


COMMANDS: Final[dict[str, click.Command]] = {"users": users}
