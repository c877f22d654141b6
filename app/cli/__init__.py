"""The command `saga`.

Each command's module is imported when the command runs: `saga --help` and the commands that only speak HTTP load
neither Celery nor SQLAlchemy nor FastAPI, and answer at once. What a user can cause is told in a sentence on stderr,
with exit code 1 (2 where the command line itself is wrong); a traceback is a bug of ours.
"""

import io
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click

SECTIONS: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "Commands": {
        "start": ("sagas", "Start a saga."),
        "show": ("sagas", "Show a saga and its timeline."),
        "list": ("sagas", "List sagas, newest first."),
        "cancel": ("repair", "Stop a saga, and undo what was done."),
        "publish": ("events", "Publish an event, for choreographed sagas."),
    },
    "Commands for repair": {
        "retry": ("repair", "Try again now what failed."),
        "skip": ("repair", "Let a saga go on without a step."),
        "resolve": ("repair", "Say that a failed compensation was settled by hand."),
        "compensate": ("repair", "Undo what was done, as an operator."),
        "abandon": ("repair", "Stop a saga for good, with nothing undone."),
        "restart": ("repair", "Run a saga at rest again, as a new one."),
        "pause": ("repair", "Send nothing new for a saga."),
        "resume": ("repair", "Let a paused saga go on."),
        "extend": ("repair", "Give a saga more time."),
        "bulk": ("repair", "Do the same to every saga that a filter matches."),
        "dead-letters": ("repair", "What was given up: list it, retry it, discard it."),
        "notices": ("repair", "What a notify_url could not be told yet."),
        "audit": ("audit", "Who changed what, and why."),
    },
    "Commands for definitions": {
        "validate": ("validate", "Check definitions, without a server."),
        "diagram": ("diagram", "Draw a definition, or a saga."),
        "definitions": ("sagas", "List the definitions."),
        "services": ("services", "The services that take part: list, pause, resume them."),
    },
    "Commands for the house": {
        "up": ("up", "Start everything on this machine."),
        "doctor": ("doctor", "Find out what keeps the house from working."),
        "api": ("parts", "Run the HTTP API alone."),
        "worker": ("parts", "Run one worker process alone."),
        "beat": ("parts", "Run the clock that starts the sweeps alone."),
        "users": ("users", "Who may log in to the dashboard."),
        "migrate": ("parts", "Bring the database to the newest schema."),
        "keys": ("keys", "API keys; and what payloads are sealed with."),
    },
}
"""Command -> (module of this package, what it does in short). A module's commands stand in its `COMMANDS`."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        for commands in SECTIONS.values():
            if cmd_name in commands:
                found: click.Command = import_module(f"app.cli.{commands[cmd_name][0]}").COMMANDS[cmd_name]
                return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, words) for name, (_, words) in commands.items()], col_max=14)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="saga-orchestrator", message="%(version)s")
def saga() -> None:
    """Runs business processes that cross services: every step is done, or every done step is undone, or a person is
    told what is left.
    """


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in Greek is no reason to die on an ASCII terminal
    saga(prog_name="saga")
