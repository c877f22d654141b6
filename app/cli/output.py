"""What every command says in the same way: errors, tables, durations, and text that came from outside."""

import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import IO, Any, Final

import click

WIDTH: Final = 80
WIDEST: Final = 120

RED, GREEN, YELLOW, CYAN, DIM, BOLD = "red", "green", "yellow", "cyan", "dim", "bold"
TONES: Final = {
    "COMPLETED": GREEN,
    "SUCCEEDED": GREEN,
    "FAILED": RED,
    "COMPENSATION_FAILED": RED,
    "ABANDONED": RED,
    "COMPENSATING": YELLOW,
    "EXECUTING": CYAN,
    "ok": GREEN,
    "warn": YELLOW,
    "fail": RED,
}
"""Colour goes with a word that says the same."""


class Failure(click.ClickException):
    """What a user caused or can mend, in a sentence; `faults` are several at once."""

    def __init__(self, message: str, *, faults: Sequence[str] = (), exit_code: int = 1) -> None:
        super().__init__(message)
        self.faults = faults
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"Error: {clean(self.message)}", file=file, err=file is None)
        for fault in self.faults:
            click.echo(f"  {clean(fault)}", file=file, err=file is None)


def say(text: str = "") -> None:
    """A line on stdout. Colours go to a terminal only, and not where NO_COLOR (no-color.org) is set."""
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def say_indented(text: str) -> None:
    """What belongs to the line before."""
    for line in wrapped(clean(text), first="  ", rest="    ", width=terminal_width() or WIDTH):
        say(line)


def tinted(text: str, tone: str | None) -> str:
    match tone:
        case None | "":
            return text
        case "bold":
            return click.style(text, bold=True)
        case "dim":
            return click.style(text, dim=True)
        case _:
            return click.style(text, fg=tone)


def clean(text: object) -> str:
    """Without what would move the cursor, recolour the terminal or turn the direction of writing around."""
    shown = (
        character if character.isprintable() and unicodedata.category(character) != "Cf" else _spelled(character)
        for character in str(text)
    )
    return "".join(shown)


def _spelled(character: str) -> str:
    return " " if character in "\n\r\t" else f"\\x{ord(character):02x}"


def wrapped(text: str, *, first: str, rest: str, width: int) -> list[str]:
    """The text between margins, of which the first line has its own. A number stays with its unit."""
    lines = textwrap.wrap(
        _NUMBER_AND_UNIT.sub(_GLUE, text),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
    )
    return [line.replace(_GLUE, " ") for line in lines] or [first.rstrip()]


_GLUE: Final = "\x1f"
_NUMBER_AND_UNIT: Final = re.compile(r"(?<=\d) (?=(?:ms|s)\b)|(?<=\d[dhm]) (?=\d\d[hms]\b)")


def terminal_width() -> int | None:
    """None where nobody looks: a pipe has no width."""
    if not sys.stdout.isatty():
        return None
    return max(40, min(shutil.get_terminal_size().columns, WIDEST))


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, width: int | None = None, drop: Sequence[str] = ()
) -> list[str]:
    """Columns as wide as what stands in them. Too wide for `width`, columns named in `drop` are left out in turn."""
    lines = [list(headings), *([clean("" if cell is None else cell) for cell in row] for row in rows)]
    kept = list(range(len(headings)))

    def widths() -> list[int]:
        return [max(len(line[column]) for line in lines) for column in kept]

    for name in drop:
        if width is None or sum(widths()) + 2 * (len(kept) - 1) <= width:
            break
        kept.remove(headings.index(name))
    sized = list(zip(kept, widths(), strict=True))
    shown = ["  ".join(line[column].ljust(size) for column, size in sized).rstrip() for line in lines]
    return shown if width is None else [line if len(line) <= width else f"{line[: width - 2]}.." for line in shown]


def named(saga: dict[str, Any]) -> str:
    paused = ", paused" if saga.get("paused") else ""
    return f"{clean(saga['saga'])} {saga['id']} is {tinted(saga['state'], TONES.get(saga['state']))}{paused}"


class WithDefault(click.Group):
    """`saga dead-letters --status noted` is `saga dead-letters list --status noted`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named_or_helped = args and (not args[0].startswith("-") or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named_or_helped else ["list", *args])
