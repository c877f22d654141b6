"""What a definition's `input_schema` asks for. JSON Schema, and nothing of it is ever fetched."""

from collections.abc import Mapping
from typing import Any, Final

import jsonschema_rs

from app.saga.definition import Definition
from app.saga.fields import Fault
from app.saga.redaction import REDACTED, Paths, covers

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
            # Messages quote values; those of an input that is not to be seen in full quote none.
            mask = REDACTED if _hidden(definition) else None
            compiled = self._compiled[definition.name, version] = _compile(definition.input_schema, mask)
        if compiled.is_valid(value):
            return []
        found: list[Fault] = []
        for error in compiled.iter_errors(value):
            place, message = error.instance_path, error.message
            if (depth := covers(_hidden(definition), place)) is not None:
                # The names of what stands in a hidden place are hidden too, and messages tell them.
                place, message = place[:depth], "is not what the schema asks for"
            fault = Fault(_path("input", place), _said(message))
            if fault not in found:
                found.append(fault)
            if len(found) == MAX_FAULTS:
                break
        return found


def _hidden(definition: Definition) -> Paths:
    return () if definition.redaction is None else definition.redaction.input


def _compile(schema: Mapping[str, Any], mask: str | None = None) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(dict(schema), offline=True, mask=mask)


def _path(path: str, below: list[str | int]) -> str:
    for part in below:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:80]}"
    return path


def _said(message: str) -> str:
    return message if len(message) <= _SHOWN else message[: _SHOWN - 1] + "…"
