"""What a definition's `input_schema` asks for. JSON Schema, and nothing of it is ever fetched."""

from collections.abc import Mapping
from typing import Any, Final

import jsonschema_rs

from app.saga.definition import Definition
from app.saga.fields import Fault

MAX_FAULTS: Final = 100
_SHOWN: Final = 300


def schema_faults(schema: Mapping[str, Any], path: str = "input_schema") -> list[Fault]:
    """What keeps it from being a JSON Schema; references must lead to places within it."""
    try:
        _compile(schema)
    except jsonschema_rs.ValidationError as error:
        return [Fault(_path(path, error.instance_path), _said(error.message))]
    except (ValueError, RecursionError) as error:
        return [Fault(path, _said(str(error)))]
    return []


class InputSchemas:
    """Compiled schemas of definitions. A version never changes, so its schema is compiled once per process."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, int], jsonschema_rs.Validator] = {}

    def faults(self, definition: Definition, version: int, value: Any) -> list[Fault]:
        """What is wrong with a saga's input."""
        if definition.input_schema is None:
            return []
        compiled = self._compiled.get((definition.name, version))
        if compiled is None:
            compiled = self._compiled[definition.name, version] = _compile(definition.input_schema)
        if compiled.is_valid(value):
            return []
        found = []
        for error in compiled.iter_errors(value):
            found.append(Fault(_path("input", error.instance_path), _said(error.message)))
            if len(found) == MAX_FAULTS:
                break
        return found


def _compile(schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(dict(schema), offline=True)


def _path(path: str, below: list[str | int]) -> str:
    for part in below:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:80]}"
    return path


def _said(message: str) -> str:
    return message if len(message) <= _SHOWN else message[: _SHOWN - 1] + "…"
