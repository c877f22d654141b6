"""Expressions: what they see, what is refused before a saga ever runs, and how they fail."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.saga.expressions import ExpressionFailed, check, document, evaluate, evaluate_mapping, truthy

UPSTREAM = {"quote", "reserve-inventory"}
ALL_STEPS = {*UPSTREAM, "ship", "bill-customer"}

DOCUMENT = document(
    {"sku": "x1", "express": False, "count": 0, "items": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 5}], "a-b": 1},
    {"quote": ("SUCCEEDED", {"price": 12.5}), "reserve-inventory": ("SKIPPED", None)},
    "0199",
    "order-7",
    "order",
)

RESULTS = {
    "a field of the input": ("input.sku", "x1"),
    "the whole input": ("input", DOCUMENT["input"]),
    "an output": ("steps.quote.output.price", 12.5),
    "a step's state": ("steps.quote.state", "SUCCEEDED"),
    "a hyphen written as underscore": ("steps.reserve_inventory.state", "SKIPPED"),
    "a hyphen in quotes": ('steps."reserve-inventory".state', "SKIPPED"),
    "an output that is null": ("steps.reserve_inventory.output.id", None),
    "the saga": ("saga", {"id": "0199", "key": "order-7", "name": "order"}),
    "a missing path": ("input.nobody.knows[3].this", None),
    "a quoted field": ('input."a-b"', 1),
    "a projection": ("input.items[*].qty", [2, 5]),
    "a filter": ("input.items[?qty > `3`].sku", ["b"]),
    "a function": ("sum(input.items[*].qty)", 7),
    "a sort by expression": ("sort_by(input.items, &qty)[-1].sku", "b"),
    "a comparison": ("input.sku == 'x1' && steps.quote.output.price < `20`", True),
    "not": ("!(input.express)", True),
    "not of a whole": ("!input", False),
    "a new object": ("{sku: input.sku, key: saga.key}", {"sku": "x1", "key": "order-7"}),
    "a new list": ("[input.sku, saga.id]", ["x1", "0199"]),
    "the first that is there": ("(steps.reserve_inventory.output || steps.quote.output).price", 12.5),
    "a pipe": ("input.items | [0].sku", "a"),
    "a pipe from the document": ("steps | quote.output.price", 12.5),
    "text": ("'EUR'", "EUR"),
    "a literal": ("`[1, 2.5, null]`", [1, 2.5, None]),
    "a word in backticks as older JMESPath wrote it": ("`EUR`", "EUR"),
    "ninety alternatives": ("||".join(["input.nothing"] * 90), None),
}


@pytest.mark.parametrize(("expression", "result"), RESULTS.values(), ids=RESULTS)
def test_a_good_expression_passes_and_has_its_result(expression, result):
    assert check(expression, UPSTREAM, ALL_STEPS) is None
    assert evaluate(expression, DOCUMENT) == result


REFUSED = {
    "nothing": ("", "is empty"),
    "half an expression": ("input.", "ends too early"),
    "an open bracket": ("input.items[", "ends too early"),
    "an open quote": ("'EUR", "Unclosed"),
    "something between": ("input sku", "'sku' cannot stand at column 7"),
    "a hyphen": ("steps.reserve-inventory.output", "is written _"),
    "a step that does not exist": ("steps.pay.output", "no step 'pay'"),
    "a step that runs beside": ("steps.ship.output", "'ship' need not have run before"),
    "a hyphened step that runs beside": ("steps.bill_customer.output", "'bill-customer' need not have run before"),
    "a step that runs beside, after a pipe": ("steps | ship.output", "'ship'"),
    "a step that runs beside, from the current node": ("@.steps.ship", "'ship'"),
    "a step that runs beside, in an object": ("{x: steps.ship.output}", "'ship'"),
    "a step that runs beside, in a list after a pipe": ("@ | [steps.ship]", "'ship'"),
    "a step that runs beside, in a function": ("not_null(steps.ship.output, input)", "'ship'"),
    "a step that runs beside, under not": ("!(steps.ship.output)", "'ship'"),
    "a step that runs beside, as the other alternative": ("input.x || steps.ship.output", "'ship'"),
    "a step that runs beside, as a base of a filter": ("steps.ship.output[?x]", "'ship'"),
    "all steps": ("steps", "uses all steps"),
    "any step": ("steps.*.output", "uses all steps"),
    "the names of steps": ("keys(steps)", "uses all steps"),
    "an index of steps": ("steps[0]", "uses all steps"),
    "steps in parentheses": ("(steps || input).quote", "uses all steps"),
    "the whole document": ("@", "uses the whole document"),
    "all of the document": ("*", "uses the whole document"),
    "the document as text": ("to_string(@)", "uses the whole document"),
    "an unknown root": ("order.sku", "no 'order' here"),
    "text in double quotes": ('input.tier == "gold"', "text stands in single quotes"),
    "a bare literal": ("input.express == true", "in backticks"),
    "a field that a step does not have": ("steps.quote.price", "a step has state, output"),
    "a field that a saga does not have": ("saga.version", "the saga has id, key, name"),
    "an unknown function": ("upper(input.sku)", "no function upper()"),
    "too many arguments": ("length(input, input)", "takes 1 arguments, not 2"),
    "too few arguments": ("not_null()", "takes at least 1 arguments, not 0"),
    "an expression as a value": ("&input", "not an argument"),
    "NaN": ("`NaN`", "JSON does not have"),
    "a huge integer": ("`99999999999999999999`", "64 bits"),
    "a NUL": ("'a\0b'", "NUL"),
    "half a character": ('input."\ud800"', "surrogate"),
    "not before a path": ("!input.express", "!(input.express)"),
    "not before a path of a step": ("!steps.quote.output.ok", "!(input.express)"),
    "not before a path, in the middle": ("input.a && !input.b.c", "!(input.express)"),
    "not before an index of a path": ("!input.items[0].sku", "!(input.express)"),
    "not before a path of a function": ("!merge(input, input).a", "!(input.express)"),
    "not before a filter": ("!input[?a]", "!(input.express)"),
    "not before all": ("!input.*", "!(input.express)"),
    "not before a path in a filter": ("input.items[?!a.b]", "!(input.express)"),
    "too long": ("input." + "a" * 2000, "2,000 characters"),
    "parentheses without end": ("(" * 900 + "input" + ")" * 900, "100 levels"),
    "not without end": ("!" * 1900 + "input", "100 levels"),
    "lists without end": ("[" * 900 + "input" + "]" * 900, "100 levels"),
    "alternatives without end": ("||".join(["saga"] * 300), "100 levels"),
    "a list that doubles": ("input" + " | [@, @]" * 9, "copies its input"),
    "a flat list that doubles": ("input" + " | [@, @][]" * 9, "copies its input"),
    "a text that doubles": ("input" + " | join('', [@, @])" * 9, "copies its input"),
    "a text that is quoted again and again": ("input" + " | to_string([@])" * 9, "copies its input"),
    "a map that doubles": ("input.items" + " | map(&[@, @], @)" * 9, "copies its input"),
    "a projection that doubles": ("input.items" + " | [*].[@, @]" * 9, "copies its input"),
}


@pytest.mark.parametrize(("expression", "words"), REFUSED.values(), ids=REFUSED)
def test_an_expression_that_cannot_be_right_is_refused_with_a_sentence(expression, words):
    fault = check(expression, UPSTREAM, ALL_STEPS)
    assert fault is not None
    assert words in fault
    assert len(fault) < 300


@pytest.mark.parametrize("expression", [expression for expression, words in REFUSED.values() if "!(" in words])
def test_not_before_a_path_would_have_been_null_or_wrong(expression):
    """The reason for refusing it; if the library ever changes this, so may we."""
    data = {"input": {"express": True, "b": {"c": True}, "a": True, "items": []}, "steps": {"quote": {}}}
    assert evaluate(expression, data) in (None, [])


FAILING = {
    "a function of another type": ("abs(input.sku)", "abs() takes number, not string"),
    "a list of another type": ("join(',', input.items)", "join() takes array-string"),
    "text compared with a number": ("input.sku < `1`", "not supported"),
    "no number": ("to_number('nan')", "JSON does not have"),
    "infinity": ("to_number('1e999')", "JSON does not have"),
    "a number that others would round": ("to_number('99999999999999999999')", "64 bits"),
    "infinity rounded": ("ceil(to_number('inf'))", "infinity"),
    "a step of nothing": ("input.items[::0]", "zero"),
    "text contains a number": ("contains(input.sku, `1`)", "string"),
    "an expression that was never checked": ("input.", "ends too early"),
    "an expression as a value": ("&input", "JSON does not have"),
    "a key that cannot be stored": ('{"\\u0000": input.sku}', "NUL"),
}


@pytest.mark.parametrize(("expression", "words"), FAILING.values(), ids=FAILING)
def test_an_expression_that_fails_says_why(expression, words):
    with pytest.raises(ExpressionFailed) as caught:
        evaluate(expression, DOCUMENT)
    assert words in caught.value.message


def test_a_result_that_is_too_deep_fails():
    deep = json.loads("[" * 200 + "]" * 200)
    with pytest.raises(ExpressionFailed, match="100 levels"):
        evaluate("input", document(deep, {}, "1", "k", "n"))


def test_a_result_that_would_fill_the_memory_fails_even_when_it_was_never_checked():
    with pytest.raises(ExpressionFailed, match="1,000,000 values"):
        evaluate("input" + " | [@, @]" * 60, DOCUMENT)


def test_text_is_an_expression_and_anything_else_stands_for_itself():
    mapping = {"sku": "input.sku", "none": "input.nobody", "copies": 2, "fixed": ["input.sku"], "off": None}
    assert evaluate_mapping(mapping, DOCUMENT) == {
        "sku": "x1",
        "none": None,
        "copies": 2,
        "fixed": ["input.sku"],
        "off": None,
    }


def test_a_mapping_that_fails_names_the_value():
    with pytest.raises(ExpressionFailed, match=r"price: abs\(\) takes number"):
        evaluate_mapping({"sku": "input.sku", "price": "abs(input.sku)"}, DOCUMENT)


@pytest.mark.parametrize("value", [True, 0, 0.0, "", [], {}, "false"])
def test_a_step_runs_for_anything_but_false_and_null(value):
    assert truthy(value)


@pytest.mark.parametrize("value", [False, None])
def test_a_step_is_skipped_for_false_and_null(value):
    assert not truthy(value)


# Whatever is written.

WORDS = (
    "input steps saga quote reserve_inventory ship output state sku items length( sum( sort_by( map( to_string( keys("
)
SIGNS = """. .. [ ] [] [? [*] * ( ) { } : , | || && & ! == < @ `1` `"a"` `NaN` `[]` 'x' "q" "\\ud800" 0 -1 99"""
PIECES = st.sampled_from(WORDS.split()) | st.sampled_from(SIGNS.split()) | st.text(max_size=3)


@settings(deadline=None, max_examples=1000)
@given(st.lists(PIECES, max_size=12).map("".join) | st.lists(PIECES, max_size=12).map(" ".join))
def test_any_text_is_refused_with_a_sentence_or_evaluated_or_fails_with_a_sentence(expression):
    fault = check(expression, UPSTREAM, ALL_STEPS)
    assert fault is None or 5 < len(fault) < 400
    with suppress(ExpressionFailed):
        json.dumps(evaluate(expression, DOCUMENT), allow_nan=False).encode()


@settings(deadline=None, max_examples=500)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_an_expression_that_passes_does_not_see_the_steps_beside(expression):
    def seen(ship: Any) -> Any:
        steps = {"quote": ("SUCCEEDED", {}), "reserve-inventory": ("SUCCEEDED", {}), "ship": ship}
        try:
            return evaluate(expression, document({"sku": 1, "items": [1]}, steps, "1", "k", "n"))
        except ExpressionFailed as exc:
            return exc.message

    if check(expression, UPSTREAM, ALL_STEPS) is None:
        assert seen(("PENDING", None)) == seen(("SUCCEEDED", {"sku": 1}))
