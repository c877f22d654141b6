"""Writes docs/cli.md from the help of the commands: `python -m tests.cli.reference` from the root of the repository."""

from collections.abc import Iterator
from pathlib import Path

import click

from app.cli import SECTIONS, saga

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"

OPENING = """# The command `saga`

Written by `python -m tests.cli.reference` from the help of the commands (a test holds it against them): `saga --help`
and `saga COMMAND --help` say the same.

Commands that ask a server speak to the house of `--data`; without `--data`, to the API at `SAGA_URL` with the key
`SAGA_API_KEY`; where `SAGA_URL` is not set either, to the house of `./.saga` if one runs there, else to
`http://127.0.0.1:8000`. Proxies of the environment are not used.

A saga is named by its id or by its key. `--json` prints the API's answer to the letter. Colours go to a terminal only,
and not where `NO_COLOR` is set; they never say what words do not.

| exit code | means |
|---|---|
| 0 | done |
| 1 | not done: the reason stands on stderr, with the API's `code` in brackets |
| 2 | the command line is wrong |
| 3 | `saga start --wait`: the saga came to rest, but not as COMPLETED |
| 4 | `saga start --wait SECONDS`: it was not at rest by then |
| 69 | `saga api`, `worker`, `beat`, `migrate`: the database (or the address of Redis) cannot be used |
"""


def reference() -> str:
    lines = [OPENING]
    root = click.Context(saga, info_name="saga", terminal_width=80, **saga.context_settings)
    for section, commands in SECTIONS.items():
        lines.append(f"## {section}\n")
        for name in commands:
            command = saga.get_command(root, name)
            assert command is not None
            lines += _described(command, click.Context(command, info_name=name, parent=root))
    return "\n".join(lines)


def _described(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"### `{context.command_path}`\n"
    yield f"```text\n{_help(command, context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _described(below, click.Context(below, info_name=name, parent=context))


def _help(command: click.Command, context: click.Context) -> str:
    lines = command.get_help(context).splitlines()
    return "\n".join(line.rstrip() for line in lines if "Show this message and exit." not in line)


if __name__ == "__main__":
    DOCUMENT.write_text(reference())
