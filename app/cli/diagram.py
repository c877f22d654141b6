"""`saga diagram`: a definition or a saga as a picture. The server draws its own; a file is drawn here."""

import re
from pathlib import Path
from typing import Final

import click

from app.cli.output import Failure, say
from app.cli.server import Server, speaks_http
from app.client import Answer, Unreachable, path_of
from app.errors import Problem
from app.registration import SERVICES_FILE, check_definition, check_file
from app.saga.diagram import mermaid, svg
from app.saga.yaml12 import load_yaml

FILES: Final = frozenset({".yaml", ".yml", ".json"})
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_SVG, _MERMAID = "image/svg+xml", "text/vnd.mermaid"


@click.command
@click.argument("what", metavar="NAME|ID|KEY|FILE")
@click.option("--svg", "as_svg", is_flag=True, help="SVG in place of Mermaid.  [default: where OUTPUT ends in .svg]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUTPUT",
    help="Write to this file.  [default: stdout]",
)
@speaks_http
def diagram(server: Server, what: str, as_svg: bool, output: Path | None) -> None:
    """Draw a definition by its NAME or from a FILE, or a saga by its ID or KEY: the steps, and below them what undoes
    each. A saga's picture says how every step stands.

    A FILE is what ends in .yaml, .yml or .json; it is drawn without a server. Where a definition and a saga's key have
    the same name, it is the definition.
    """
    as_svg = as_svg or (output is not None and output.suffix.lower() == ".svg")
    is_file = Path(what).suffix.lower() in FILES
    drawn = _of_file(Path(what), as_svg=as_svg) if is_file else _of_server(server, what, as_svg=as_svg)
    if output is None:
        say(drawn.removesuffix("\n"))
        return
    try:
        output.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{output} cannot be written: {error.strerror or error}.") from None


def _of_file(file: Path, *, as_svg: bool) -> str:
    faults = check_file(file)
    if faults:
        raise Failure(f"{file} cannot be drawn.", faults=[str(fault) for fault in faults])
    if file.stem == Path(SERVICES_FILE).stem:
        raise Failure(f"{file} holds services, which are not drawn.")
    definition = check_definition(load_yaml(file.read_bytes()), None)
    return svg(definition) if as_svg else mermaid(definition)


def _of_server(server: Server, what: str, *, as_svg: bool) -> str:
    kind = _SVG if as_svg else _MERMAID

    def ask(*path: str) -> Answer:
        accept = {"Accept": f"{kind}, application/problem+json;q=0.5"}
        return server.client.ask("GET", path_of(*path, "diagram"), headers=accept)

    def ask_for_saga() -> Answer:
        return server.on_saga(what, lambda saga_id: ask("sagas", saga_id))

    if _NAME.fullmatch(what):
        try:
            answer = ask("definitions", what)
        except Problem as problem:
            if problem.code != "definition-not-found":
                raise
            try:
                answer = ask_for_saga()
            except Failure:
                raise Failure(f"There is no definition {what}, and no saga with this key.") from None
    else:
        answer = ask_for_saga()
    if not answer.headers.get("content-type", "").startswith(kind):
        raise Unreachable(f"{server.client.url} does not answer as a saga API would")
    return answer.text


COMMANDS: Final[dict[str, click.Command]] = {"diagram": diagram}
