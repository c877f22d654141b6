"""`saga-participant`: runs a service's inbox and outbox, and shows and retries its dead letters."""

import argparse
import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import sys

from saga_participant.participant import Participant
from saga_participant.tables import metadata


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="saga-participant", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "run": "read, handle, publish and post until Ctrl-C or SIGTERM",
        "dead-letters": "events that were given up, as JSON lines",
        "retry": "try a dead letter again",
        "tables": "the names of the kit's tables",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        if name != "tables":
            command.add_argument("participant", metavar="MODULE:OBJECT", help="where the Participant is")
        if name == "retry":
            command.add_argument("id", type=int, help="of the dead letter")
    given = parser.parse_args(arguments)
    if given.command == "tables":
        print("\n".join(table.name for table in metadata.sorted_tables))  # noqa: T201 - this is a command
        return 0
    participant = load(given.participant)
    if given.command == "run":
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(run(participant))
    elif given.command == "dead-letters":
        for letter in asyncio.run(participant.dead_letters()):
            print(json.dumps(letter))  # noqa: T201
    elif not asyncio.run(participant.retry_dead_letter(given.id)):
        sys.exit(f"There is no dead letter {given.id} that can be tried again.")
    return 0


def load(where: str) -> Participant:
    """The object that `module:object` names; modules are looked for in the working directory, too."""
    module, _, name = where.partition(":")
    if not (module and name):
        sys.exit(f"{where} is not MODULE:OBJECT, such as inventory.events:participant.")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - a path of strings
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        sys.exit(f"{module} cannot be imported: {error}")
    except AttributeError:
        sys.exit(f"{module} has no {name}.")
    if not isinstance(found, Participant):
        sys.exit(f"{where} is not a Participant.")
    return found


async def run(participant: Participant) -> None:
    task = asyncio.ensure_future(participant.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task


if __name__ == "__main__":
    sys.exit(main())
