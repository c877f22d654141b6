"""What stands on the command line, read and checked: JSON, keys, labels, seconds."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

if TYPE_CHECKING:
    ParamType: TypeAlias = click.ParamType[Any]
else:
    ParamType = click.ParamType


class JsonParameter(ParamType):
    """JSON, or @ and the file that holds it, or - for the standard input."""

    name = "JSON|@FILE|-"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        where = ""
        if value == "-":
            text, where = sys.stdin.read(), "the standard input: "
        elif value.startswith("@"):
            where = f"{value[1:]}: "
            try:
                text = Path(value[1:]).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                self.fail(f"{where}this is not UTF-8", param, ctx)
            except OSError as error:
                self.fail(f"{where}{error.strerror or error}", param, ctx)
        else:
            text = value
        try:
            return json.loads(text, object_pairs_hook=_refuse_doubles, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}: " if where else ""
            self.fail(f"{where}{place}this is not JSON: {error.msg} (at {_excerpt(error)})", param, ctx)
        except RecursionError:
            self.fail(f"{where}this is nested too deeply", param, ctx)
        except ValueError as error:
            self.fail(f"{where}{error}", param, ctx)


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} stands there twice")
        values[key] = value
    return values


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _excerpt(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos : error.pos + 20].split("\n")[0]
    return repr(rest) if rest else "its end"


class KeyParameter(ParamType):
    name = "KEY"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[!-~]{1,200}", value):
            self.fail("a key is 1 to 200 visible ASCII characters", param, ctx)
        return str(value)


class LabelParameter(ParamType):
    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, separator, rest = str(value).partition("=")
        if not key or not separator:
            self.fail(f"{value!r} is not of the form key=value", param, ctx)
        return key, rest


class WaitParameter(ParamType):
    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1
        if not seconds >= 0:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


saga_argument = click.argument("saga", metavar="ID|KEY")


FILTERS = (
    click.option(
        "--state", help="CREATED, EXECUTING, COMPLETED, COMPENSATING, FAILED, COMPENSATION_FAILED, ABANDONED."
    ),
    click.option("--saga", metavar="NAME", help="Of this definition."),
    click.option(
        "--label", "labels", type=LabelParameter(), multiple=True, help="With this label. May be given several times."
    ),
    click.option("--key", help="With this key."),
    click.option("--created-after", metavar="TIME", help="Created after this RFC 3339 time."),
    click.option("--created-before", metavar="TIME", help="Created before this RFC 3339 time."),
    click.option("--attention", is_flag=True, help="Only what needs a person."),
)


def filter_options(command: Any) -> Any:
    """Which sagas are meant: `wanted(filters)`, and `labels` apart."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


def wanted(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Those filters that were given, as the API names them."""
    found = {name: value for name, value in filters.items() if value}
    return found | ({"state": found["state"].upper()} if "state" in found else {})
