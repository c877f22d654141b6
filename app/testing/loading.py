"""The definition that a test names: a file, YAML or JSON text, a document, or the definition itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.input_schema import schema_faults
from app.saga.definition import Definition, DefinitionInvalid, parse_definition
from app.saga.yaml12 import load_yaml


def load_definition(source: "str | Path | Mapping[str, Any] | Definition", beside: Path | None = None) -> Definition:
    """Text of one line that is no JSON object names a file, looked for in `beside` and then where the process runs.

    Raises FileNotFoundError, YamlInvalid, or DefinitionInvalid with every fault.
    """
    if isinstance(source, Definition):
        return source
    document: Any = source
    if isinstance(source, Path) or (isinstance(source, str) and _names_file(source)):
        document = load_yaml(_find(Path(source), beside).read_bytes())
    elif isinstance(source, str):
        document = load_yaml(source)
    definition = parse_definition(document, None)
    if faults := schema_faults(definition.input_schema or {}):
        raise DefinitionInvalid(faults)
    return definition


def _names_file(text: str) -> bool:
    return "\n" not in text and not text.lstrip().startswith("{")


def _find(path: Path, beside: Path | None) -> Path:
    places = [folder / path for folder in (beside, Path.cwd()) if folder is not None]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"There is no definition {' or '.join(map(str, dict.fromkeys(places)))}.")
