"""Which API a command speaks to, and how its refusals are told.

With `--data` it is the house of that directory. Without, it is the one at SAGA_URL, with the key SAGA_API_KEY; where
SAGA_URL is not set either, the house of ./.saga if one runs there.
"""

import functools
import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from app.cli.output import Failure
from app.client import ANSWER_SECONDS, Answer, Client, Unreachable, path_of
from app.errors import Problem
from app.local.directory import RunningHouse

DEFAULT_URL: Final = "http://127.0.0.1:8000"
DEFAULT_DATA: Final = Path(".saga")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
START_ONE: Final = "start one with `saga up`, or set SAGA_URL"

json_option = click.option("--json", "as_json", is_flag=True, help="Print the API's JSON as it is.")


@dataclass(frozen=True)
class Server:
    client: Client
    options: str
    """What a suggested command has to say to reach the same server: nothing, or --data."""

    def find(self, name: str) -> str:
        """The id of a saga that is named by its key."""
        found = self.client.get("/sagas", [("key", name), ("limit", "3")]).items("id")
        if not found:
            raise Failure(f"There is no saga with the id or the key {name}.")
        if len(found) > 1:
            ids = ", ".join(str(each["id"]) for each in found)
            raise Failure(f"Several sagas have the key {name}; name one by its id: {ids}.")
        return str(found[0]["id"])

    def on_saga(self, name: str, ask: Callable[[str], Answer]) -> Answer:
        """Asks about the saga with this id, or with this key. A key may look like an id."""
        if not _UUID.fullmatch(name):
            return ask(self.find(name))
        try:
            return ask(name)
        except Problem as problem:
            if problem.code != "saga-not-found":
                raise
            try:
                found = self.find(name)
            except (Failure, Problem):
                raise problem from None
            return ask(found)

    def saga(self, name: str) -> Answer:
        return self.on_saga(name, lambda saga_id: self.client.get(path_of("sagas", saga_id)))


def speaks_http(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose first argument is the server; what the server refuses becomes a sentence."""

    @click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        help="Speak to the house of this directory.  [default: SAGA_URL, else .saga]",
    )
    @functools.wraps(function)
    def command(*args: Any, data: Path | None, **options: Any) -> Any:
        with_server = find_server(data)
        try:
            return function(with_server, *args, **options)
        except Problem as problem:
            raise _refused(problem) from None
        except Unreachable as error:
            raise Failure(_unreachable(error)) from None

    return command


def _unreachable(error: Unreachable) -> str:
    if error.sent:
        return f"{error}; whether it was done is not known: look with `saga show` or `saga list`."
    return f"{error}; {START_ONE}."


def _refused(problem: Problem) -> Failure:
    advice = {
        401: " Set SAGA_API_KEY; `saga up` keeps the first key in credentials.json of its --data.",
    }.get(problem.status, "")
    faults = [f"{path}: {message}" if path else message for path, message in problem.errors]
    return Failure(f"{problem.detail.rstrip()} ({problem.code}){advice}", faults=faults)


def find_server(data: Path | None, *, timeout_seconds: float | None = None) -> Server:
    """Whom to ask; nothing is asked yet. Failure where that cannot be known."""
    url, key, options = _address(data)
    try:
        return Server(Client(url, key, timeout_seconds=timeout_seconds or ANSWER_SECONDS), options)
    except ValueError as error:
        of_key = "The API key (SAGA_API_KEY, or credentials.json of --data)"
        subject = of_key if "key" in str(error) else f"SAGA_URL={_without_password(url)}"
        raise Failure(f"{subject} {error}.") from None


def _address(data: Path | None) -> tuple[str, str | None, str]:
    given_key = os.environ.get("SAGA_API_KEY") or os.environ.get("SAGA_BOOTSTRAP_API_KEY") or None
    if data is not None:
        house = running_house(data)
        if house is None:
            raise Failure(f"No house runs on {data}: start it with `saga up --data {shlex.quote(str(data))}`.")
        return house.url, _key_in(data) or given_key, f" --data {shlex.quote(str(data))}"
    if url := os.environ.get("SAGA_URL"):
        return url, os.environ.get("SAGA_API_KEY") or None, ""
    if house := running_house(DEFAULT_DATA):
        return house.url, _key_in(DEFAULT_DATA) or given_key, ""
    return DEFAULT_URL, given_key, ""


def running_house(data: Path) -> RunningHouse | None:
    """The house that runs on the directory. The lock tells: a killed one leaves its notice, and others its port."""
    house = RunningHouse.of(data)
    if house is None and (data / "lock").exists() and not os.access(data / "lock", os.R_OK):
        raise Failure(f"{data} may not be read by you: it belongs to who started `saga up`.")
    return house


def _key_in(data: Path) -> str | None:
    try:
        key = json.loads((data / "credentials.json").read_text()).get("api_key")
    except (OSError, ValueError, AttributeError):
        return None
    return key if isinstance(key, str) else None


def _without_password(url: str) -> str:
    try:
        netloc = urlsplit(url).netloc
    except ValueError:
        return "..."
    return url.replace(netloc, netloc.rpartition("@")[2]) if netloc else url
