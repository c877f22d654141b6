"""Expressions of a definition: JMESPath over what the saga knows so far.

The document is `{"input", "steps": {name: {"state", "output"}}, "saga": {"id", "key", "name"}}`. A `-` in a
step's name may be written `_`, because JMESPath would want the hyphen quoted.

`check` reads an expression without a document and refuses what would silently be null for ever, above all a
step that need not have run yet: `steps` can only be used by name, so an expression never depends on which of
several parallel steps came first. It also bounds how often an expression may copy its input, in time and in
memory. What it lets through may still fail in `evaluate`, on a type mostly.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import (
    EmptyExpressionError,
    IncompleteExpressionError,
    JMESPathError,
    JMESPathTypeError,
    LexerError,
    ParseError,
)
from jmespath.functions import Functions

from app.saga.fields import shown
from app.saga.jsonable import json_fault, text_fault

MAX_LENGTH = 2000
MAX_NESTING = 100
# `[@, @] | [@, @] | ...` doubles with every stage: forty of them fill any memory.
MAX_COPIES = 256


class _WrongError(ValueError):
    """An expression that cannot be right, whatever the saga's input; says why."""


class ExpressionFailed(ValueError):  # noqa: N818 - the code of the fault: expression-failed
    """An expression that has no result for this document; says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def document(
    saga_input: Any, steps: Mapping[str, tuple[str, Any]], saga_id: str, key: str, name: str
) -> dict[str, Any]:
    """What expressions see; `steps` maps a name to (state, output)."""
    known: dict[str, dict[str, Any]] = {}
    for step, (state, output) in steps.items():
        known[step] = known[_underscored(step)] = {"state": state, "output": output}
    return {"input": saga_input, "steps": known, "saga": {"id": saga_id, "key": key, "name": name}}


def evaluate(expression: str, document: Mapping[str, Any]) -> Any:
    """The result, which is JSON; null where a path leads nowhere. Raises ExpressionFailed."""
    try:
        result = _compiled(expression).search(document)
    except JMESPathTypeError as exc:
        expected = " or ".join(exc.expected_types)
        raise ExpressionFailed(f"{exc.function_name}() takes {expected}, not {exc.actual_type}") from exc
    except _WrongError as exc:
        raise ExpressionFailed(str(exc)) from exc
    except Exception as exc:
        # jmespath lets through what breaks inside it: TypeError of 'a' < 1, OverflowError of ceil(), …
        raise ExpressionFailed(str(exc) or type(exc).__name__) from exc
    if fault := json_fault(result):
        raise ExpressionFailed(f"the result {fault}")
    return result


def evaluate_mapping(mapping: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """A step's input: text is an expression, anything else stands for itself."""
    values = {}
    for key, value in mapping.items():
        try:
            values[key] = evaluate(value, document) if isinstance(value, str) else value
        except ExpressionFailed as exc:
            raise ExpressionFailed(f"{key}: {exc.message}") from exc
    return values


def truthy(value: Any) -> bool:
    """Whether `when` lets the step run: all but false and null do, 0 and empty values too."""
    return value is not None and value is not False


def check(expression: str, upstream: Collection[str], all_steps: Collection[str]) -> str | None:
    """What is wrong with the expression, as a sentence, or None."""
    try:
        copies = _Reading(upstream, all_steps).value(_compiled(expression).parsed, _Scope.DOCUMENT)
    except _WrongError as exc:
        return str(exc)
    if copies > MAX_COPIES:
        return f"copies its input more than {MAX_COPIES} times over"
    return None


def check_correlation(expression: str) -> str | None:
    """What is wrong with an expression over a CloudEvent, as a sentence, or None."""
    try:
        copies = _Reading((), ()).value(_compiled(expression).parsed, _Scope.EVENT)
    except _WrongError as exc:
        return str(exc)
    return f"copies the event more than {MAX_COPIES} times over" if copies > MAX_COPIES else None


def tree(expression: str) -> Any:
    """What jmespath makes of an expression, unchecked; ValueError says why it is none."""
    return _compiled(expression).parsed


def _underscored(step: str) -> str:
    return step.replace("-", "_")


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> Any:
    if len(expression) > MAX_LENGTH:
        raise _WrongError(f"is longer than {MAX_LENGTH:,} characters")
    if fault := text_fault(expression):
        raise _WrongError(fault)
    too_deep = _WrongError(f"is nested more than {MAX_NESTING} levels deep")
    try:
        with warnings.catch_warnings():
            # `foo` in backticks, an old way to write 'foo', warns.
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            compiled = jmespath.compile(expression)
    except RecursionError:
        raise too_deep from None
    except JMESPathError as exc:
        raise _WrongError(_syntax(exc, expression)) from exc
    level, nesting = [compiled.parsed], 0
    while level:
        level = [child for node in level for child in node["children"] if isinstance(child, dict)]
        nesting += 1
        if nesting > MAX_NESTING:
            raise too_deep
    return compiled


def _syntax(error: JMESPathError, expression: str) -> str:
    if isinstance(error, EmptyExpressionError):
        return "is empty: write a JMESPath expression such as input.sku"
    if isinstance(error, IncompleteExpressionError) or getattr(error, "token_type", None) == "EOF":
        what = "it ends too early"
    elif isinstance(error, LexerError):
        what = f"{error.message} at column {error.lexer_position + 1}"
    elif isinstance(error, ParseError):
        what = f"{shown(error.token_value)} cannot stand at column {error.lex_position + 1}"
    else:
        what = str(error)
    if re.search(r"\w-\w", expression):
        what += "; a - in a step's name is written _, any other name with - stands in double quotes"
    return f"is not a JMESPath expression: {what}"


class _Scope(Enum):
    """What the current value is while an expression is read without a document."""

    DOCUMENT = "the whole document"
    STEPS = "all steps"
    STEP = "a step"
    SAGA = "the saga"
    EVENT = "the whole event"
    VALUE = "anything"


_FIELDS = {
    _Scope.DOCUMENT: {"input": _Scope.VALUE, "steps": _Scope.STEPS, "saga": _Scope.SAGA},
    _Scope.STEP: {"state": _Scope.VALUE, "output": _Scope.VALUE},
    _Scope.SAGA: {"id": _Scope.VALUE, "key": _Scope.VALUE, "name": _Scope.VALUE},
}
_PROJECTIONS = ("projection", "value_projection", "filter_projection", "flatten")
_CHAINS = ("subexpression", "index_expression", "pipe")


class _Reading:
    """Follows what each part of the tree is applied to. Sizes are in copies of the input."""

    def __init__(self, upstream: Collection[str], all_steps: Collection[str]) -> None:
        self._upstream = upstream
        self._all_steps = all_steps

    def value(self, node: Any, scope: _Scope) -> int:
        """The size of a part whose result is used as a value."""
        result, copies = self.follow(node, scope)
        self._refuse_unnamed(result)
        return copies

    def follow(self, node: Any, scope: _Scope) -> tuple[_Scope, int]:
        """What a part leads to, and its size."""
        kind, children = node["type"], node["children"]
        if kind in (*_PROJECTIONS, *_CHAINS[:2]) and children[0]["type"] == "not_expression":
            raise _WrongError("is always null: `!` binds closer than what follows it; write !(input.express) for `not`")
        match kind:
            case "current" | "identity":
                return scope, 1
            case "field":
                return self._field(node["value"], scope), 1
            case "literal":
                if fault := json_fault(node["value"]):
                    raise _WrongError(f"has a literal that {fault}")
                return _Scope.VALUE, 1
            case "index" | "slice":
                self._refuse_unnamed(scope)
                return _Scope.VALUE, 1
            case "subexpression" | "index_expression" | "pipe":
                copies = 1
                for child in children:
                    scope, more = self.follow(child, scope)
                    copies *= more
                return scope, copies
            case "function_expression":
                return _Scope.VALUE, self._function(node["value"], children, scope)
            case "expref":
                raise _WrongError("has an `&` that is not an argument of a function")
        if kind in _PROJECTIONS:
            # What follows a projection is applied to the elements.
            copies = self.value(children[0], scope)
            sizes = [self.value(child, _Scope.VALUE) for child in children[1:]]
            return _Scope.VALUE, copies * max(sizes, default=1)
        sizes = [self.value(child, scope) for child in children]
        if kind in ("multi_select_list", "multi_select_dict"):
            return _Scope.VALUE, sum(sizes)
        return _Scope.VALUE, max(sizes)

    def _refuse_unnamed(self, scope: _Scope) -> None:
        if scope is _Scope.EVENT:
            raise _WrongError(f"uses {scope.value}: name what you want, as in data.order_id or subject")
        if scope in (_Scope.DOCUMENT, _Scope.STEPS):
            raise _WrongError(f"uses {scope.value}: name what you want, as in input.sku or steps.reserve.output")

    def _field(self, name: str, scope: _Scope) -> _Scope:
        if scope is _Scope.STEPS:
            self._step(name)
            return _Scope.STEP
        if scope is _Scope.VALUE:
            return _Scope.VALUE
        if scope is _Scope.EVENT:
            # Attributes and extensions of an event are lower-case letters and digits (CloudEvents 1.0, section 3.1).
            if not re.fullmatch("[a-z0-9]+", name):
                raise _WrongError(f"there is no {name!r} in an event: what services say is in data, as in data.{name}")
            return _Scope.VALUE
        known = _FIELDS[scope]
        if name not in known:
            hint = ""
            if scope is _Scope.DOCUMENT:
                hint = "; text stands in single quotes; numbers, true, false and null in backticks"
            raise _WrongError(f"there is no {name!r} here: {scope.value} has {', '.join(known)}{hint}")
        return known[name]

    def _step(self, name: str) -> None:
        spelled = (step for step in self._all_steps if _underscored(step) == name)
        step = name if name in self._all_steps else next(spelled, None)
        if step is None:
            raise _WrongError(f"there is no step {name!r}")
        if step not in self._upstream:
            raise _WrongError(
                f"the step {step!r} need not have run before this one: "
                "a step sees only those that it depends on, directly or through others"
            )

    def _function(self, name: str, arguments: list[Any], scope: _Scope) -> int:
        if name not in Functions.FUNCTION_TABLE:
            raise _WrongError(f"there is no function {name}()")
        signature = Functions.FUNCTION_TABLE[name]["signature"]
        variadic = signature[-1].get("variadic", False)
        if len(arguments) < len(signature) or (len(arguments) > len(signature) and not variadic):
            few = "at least " if variadic else ""
            raise _WrongError(f"{name}() takes {few}{len(signature)} arguments, not {len(arguments)}")
        copies, factor = 0, 1
        for argument in arguments:
            if argument["type"] == "expref":
                factor *= self.value(argument["children"][0], _Scope.VALUE)
            else:
                copies += self.value(argument, scope)
        # to_string() of a text that is JSON already doubles its backslashes.
        return copies * factor * (2 if name == "to_string" else 1)
