"""`saga validate`: is a definition sound, and what would it do? Read as the API reads it, and without a server."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from app.cli.output import GREEN, RED, clean, say, tinted, wrapped
from app.registration import SERVICES_FILE, FileFault, RegistrationFailed, check_definition, check_file, read_folder
from app.saga.plan import plan
from app.saga.yaml12 import load_yaml

WIDTH: Final = 80


@click.command
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print the plans, or what is wrong, as JSON.")
def validate(files: tuple[Path, ...], as_json: bool) -> None:
    """Check definitions, and show what they would do. A FILE may be a directory of them.

    Of a sound definition the plan is printed: its steps in the order in which they run, and what would be undone if
    a step were refused. All that is wrong is told with its file and place. Services are checked where services.yaml
    stands beside the file.
    """
    found = [each for path in files for each in check(path)]
    if as_json:
        say(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        for each in found:
            for line in _shown(each):
                say(line)
    if not found:
        click.echo("Error: There is no definition there.", err=True)
    sys.exit(0 if found and all(each["valid"] for each in found) else 1)


def check(path: Path) -> list[dict[str, Any]]:
    """Of each file `{file, valid, errors: [{path, message}]}`, and where it is sound its `name`, `steps` and `plan`."""
    faults: list[FileFault] = []
    files = [path]
    if path.is_dir():
        folder = read_folder(path)
        files = [*folder.documents, *([path / SERVICES_FILE] if (path / SERVICES_FILE).is_file() else [])]
        try:
            folder.definitions(() if folder.services else None)
        except RegistrationFailed as error:
            faults = error.faults
    else:
        faults = check_file(path)
    wrong: dict[Path, list[dict[str, str]]] = {}
    for fault in faults:
        wrong.setdefault(fault.file, []).append({"path": fault.path, "message": fault.message})
    return [
        {"file": str(file), "valid": False, "errors": wrong[file]} if file in wrong else _sound(file)
        for file in sorted({*files, *wrong})
        if path.is_dir() or file in wrong or not wrong
    ]


def _sound(file: Path) -> dict[str, Any]:
    result: dict[str, Any] = {"file": str(file), "valid": True, "errors": []}
    document: Any = load_yaml(file.read_bytes())
    if file.stem == Path(SERVICES_FILE).stem:
        return result | {"services": sorted(document or {})}
    definition = check_definition(document, None)
    return result | {"name": definition.name, "steps": len(definition.steps), "plan": plan(definition)}


def _shown(checked: dict[str, Any]) -> Iterator[str]:
    name = clean(checked["file"])
    if not checked["valid"]:
        yield f"{name}: {tinted('wrong', RED)}, {_counted(checked['errors'], 'fault')}"
        for fault in checked["errors"]:
            text = f"{fault['path']}: {fault['message']}" if fault["path"] else fault["message"]
            yield from wrapped(clean(text), first="  ", rest="    ", width=WIDTH)
        return
    if "plan" not in checked:
        yield f"{name}: {tinted('sound', GREEN)}, {_counted(checked['services'], 'service')}"
        return
    order = checked["plan"]
    yield f"{name}: {tinted('sound', GREEN)}, {checked['name']} of {_counted(order['on_failure'], 'step')}"
    yield "  What runs, in this order:"
    for number, group in enumerate(order["forward"], 1):
        yield from wrapped(f"{number}. {' + '.join(group)}", first="    ", rest="       ", width=WIDTH)
    yield "  What is undone, in this order, where a step is refused:"
    for step, groups in order["on_failure"].items():
        undone = ", then ".join(" + ".join(group) for group in groups) or "nothing"
        yield from wrapped(f"{step}: {undone}", first="    ", rest="      ", width=WIDTH)


def _counted(things: Any, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


COMMANDS: Final[dict[str, click.Command]] = {"validate": validate}
