"""What is written about the command line is what it does."""

from importlib import import_module

import click

from app.cli import SECTIONS, saga
from tests.cli.conftest import Run
from tests.cli.reference import DOCUMENT, reference


def test_the_document_says_what_the_commands_say() -> None:
    assert DOCUMENT.read_text() == reference(), "write it anew: python -m tests.cli.reference"


def test_every_command_of_every_module_is_offered() -> None:
    offered = {name: module for commands in SECTIONS.values() for name, (module, _) in commands.items()}
    for module in set(offered.values()):
        commands = import_module(f"app.cli.{module}").COMMANDS
        assert set(commands) == {name for name, its in offered.items() if its == module}
        assert all(commands[name].name == name for name in commands)


def test_every_option_says_what_it_is_for() -> None:
    def check(command: click.Command, name: str) -> None:
        assert command.help, name
        assert "\n" not in command.get_short_help_str(200), name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"
                assert parameter.help.rstrip().endswith((".", "]")), f"{name} {parameter.opts}"
        if isinstance(command, click.Group):
            for each in command.commands.values():
                check(each, f"{name} {each.name}")

    root = click.Context(saga, **saga.context_settings)
    for name in saga.list_commands(root):
        command = saga.get_command(root, name)
        assert command is not None
        check(command, name)


def test_help_is_80_columns_wide(run: Run) -> None:
    for arguments in ([], ["start"], ["up"], ["dead-letters"]):
        result = run(*arguments, "--help")
        assert result.exit_code == 0
        assert max(map(len, result.stdout.splitlines())) <= 80
        assert run(*arguments, "-h").stdout == result.stdout


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").stdout.strip()[0].isdigit()


def test_what_is_said_of_a_command_in_the_list_is_a_short_sentence() -> None:
    for commands in SECTIONS.values():
        assert all(words.endswith(".") and len(words) <= 60 for _, words in commands.values())
