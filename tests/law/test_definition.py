"""What a definition may say, what it means, and how a wrong one is refused."""

import contextlib
import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.saga.definition import (
    Definition,
    DefinitionInvalid,
    RetryPolicy,
    Statuses,
    StepEvents,
    digest,
    parse_definition,
    to_document,
)
from app.saga.durations import parse_duration
from app.saga.plan import plan
from app.saga.yaml12 import load_yaml

SERVICES = {"inventory", "payment", "shipping"}

ORDER = """
name: order
timeout: 15m
max_concurrent: 100
input_schema: {type: object}
on_compensation_failure: halt
steps:
  - name: reserve-inventory
    service: inventory
    action: reserve
    compensation: release
    timeout: 500ms
    retries: 2
    compensation_timeout: 20s
    compensation_retry: {max_attempts: 3, max_delay: 1m}
    depends_on: []
    callback_timeout: 1d
  - name: quote
    service: payment
    action: prices/quote
    compensation: none
    depends_on: []
    on_exhausted: pause
    statuses: {refused: [423], retry: [409], success: [404]}
  - name: charge
    service: payment
    action: charge
    compensation: refund
    depends_on: [quote, reserve-inventory]
    when: "!(input.free)"
    input: {price: steps.quote.output.price, stock: steps.reserve_inventory.output, currency: "'EUR'", copies: 2}
    pivot: true
  - name: ship
    service: shipping
    action: ship
    compensation: none
    depends_on: [charge]
"""

CAMEL_CASE = """
name: Order
steps:
  - {name: ReserveInventory, service: inventory, action: reserve, compensation: releaseReservation}
  - {name: ProcessPayment, service: payment, action: charge, compensation: refundCharge}
  - {name: ShipOrder, service: shipping, action: ship, compensation: none}
"""


def order() -> dict[str, Any]:
    return load_yaml(ORDER)


def step(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "service": "inventory", "action": "do", "compensation": "undo", **more}


def parse(*steps: Any, services: Any = None, **more: Any) -> Definition:
    return parse_definition({"name": "order", "steps": list(steps), **more}, services)


def faults(document: object, services: Any = None) -> dict[str, str]:
    with pytest.raises(DefinitionInvalid) as caught:
        parse_definition(document, services)
    return {fault.path: fault.message for fault in caught.value.errors}


def step_faults(*steps: Any, services: Any = None, **more: Any) -> dict[str, str]:
    return faults({"name": "order", "steps": list(steps), **more}, services)


# What is written is what is read.


def test_everything_that_is_written_is_read():
    definition = parse_definition(order(), SERVICES)
    reserve, quote, charge, ship = definition.steps
    assert (definition.name, definition.type, definition.timeout_seconds) == ("order", "orchestration", 900)
    assert (definition.max_concurrent, definition.on_compensation_failure) == (100, "halt")
    assert definition.input_schema == {"type": "object"}
    assert (reserve.service, reserve.action, reserve.compensation) == ("inventory", "reserve", "release")
    assert (reserve.timeout_seconds, reserve.compensation_timeout_seconds) == (0.5, 20)
    assert reserve.retry == RetryPolicy(3, 1, 2, 60, 0.2)
    assert reserve.compensation_retry == RetryPolicy(3, 1, 2, 60, 0.2)
    assert reserve.callback_timeout_seconds == 86400
    assert (quote.action, quote.compensation, quote.on_exhausted) == ("prices/quote", None, "pause")
    assert quote.statuses == Statuses(frozenset({423}), frozenset({409}), frozenset({404}))
    assert charge.when == "!(input.free)"
    assert charge.input is not None
    assert charge.input["copies"] == 2
    assert (charge.pivot, ship.pivot) == (True, False)
    assert ship.depends_on == ("charge",)


def test_what_is_not_written_has_the_defaults_of_the_contract():
    definition = parse(step("a"))
    (only,) = definition.steps
    assert (definition.type, definition.timeout_seconds, definition.max_concurrent) == ("orchestration", 3600, None)
    assert (definition.input_schema, definition.on_compensation_failure) == (None, "continue")
    assert (only.timeout_seconds, only.compensation_timeout_seconds, only.callback_timeout_seconds) == (10, 10, 3600)
    assert only.retry == RetryPolicy(4, 1, 2, 60, 0.2)
    assert only.compensation_retry == RetryPolicy(10, 1, 2, 300, 0.2)
    assert (only.when, only.input, only.on_exhausted, only.pivot) == (None, None, "compensate", False)
    assert (only.depends_on, only.statuses) == ((), Statuses())


def test_a_plain_list_of_camel_case_steps_loads_as_it_is():
    definition = parse_definition(load_yaml(CAMEL_CASE), SERVICES)
    assert [one.name for one in definition.steps] == ["ReserveInventory", "ProcessPayment", "ShipOrder"]
    assert definition.steps[0].compensation == "releaseReservation"


def test_a_definition_without_any_depends_on_is_a_chain():
    definition = parse(step("a"), step("b"), step("c"))
    assert [one.depends_on for one in definition.steps] == [(), ("a",), ("b",)]


def test_with_depends_on_the_order_of_writing_does_not_count():
    definition = parse(step("c", depends_on=["b", "a"]), step("b", depends_on=["a"]), step("a", depends_on=[]))
    assert [one.depends_on for one in definition.steps] == [("b", "a"), ("a",), ()]
    assert definition.index == {"c": 0, "b": 1, "a": 2}
    assert definition.dependencies == ((1, 2), (2,), ())
    assert definition.upstream == ({1, 2}, {2}, set())
    assert definition.downstream == (set(), {0}, {0, 1})
    assert definition.pivots == ()


def test_the_pivot_is_known_by_its_position():
    assert parse_definition(order(), None).pivots == (2,)


def test_a_pivot_may_have_a_compensation_of_its_own():
    assert parse(step("a"), step("b", pivot=True)).steps[1].compensation == "undo"


def test_nothing_is_said_by_null_where_nothing_may_be_said():
    definition = parse(step("a", when=None, input=None), max_concurrent=None, input_schema=None)
    assert definition == parse(step("a"))


@pytest.mark.parametrize("retries", [0, 3])
def test_retries_come_on_top_of_the_first_attempt(retries):
    assert parse(step("a", retries=retries)).steps[0].retry.max_attempts == retries + 1


def test_retries_go_with_the_rest_of_a_retry_policy():
    policy = parse(step("a", retries=1, retry={"initial_delay": 0, "jitter": 0})).steps[0].retry
    assert policy == RetryPolicy(2, 0, 2, 60, 0)


def test_where_there_is_no_service_no_step_can_use_one():
    assert list(step_faults(step("a"), services=set())) == ["steps[0].service"]


def test_services_are_not_looked_up_for_what_was_stored_before():
    assert parse(step("a", service="gone"), services=None).steps[0].service == "gone"


@pytest.mark.parametrize("action", ["reserve", "stock/reserve", "v1.2/re~serve_it-now", "2fa", "x" * 128])
def test_calls_that_are_paths(action):
    assert parse(step("a", action=action, compensation=action)).steps[0].action == action


# What is wrong is refused, with its place.

WRONG = {
    "not an object": ([], "", "must be an object"),
    "nothing": (None, "", "must be an object"),
    "no name": ({"steps": [step("a")]}, "name", "is missing"),
    "a name that begins with a digit": ({"name": "1st", "steps": [step("a")]}, "name", "letter"),
    "a name that is too long": ({"name": "n" * 65, "steps": [step("a")]}, "name", "63"),
    "a name with a line end": ({"name": "order\n", "steps": [step("a")]}, "name", "letter"),
    "no steps": ({"name": "order"}, "steps", "is missing"),
    "an empty list of steps": ({"name": "order", "steps": []}, "steps", "1 to 1,000"),
    "too many steps": ({"name": "order", "steps": [step("a")] * 1001}, "steps", "1 to 1,000"),
    "steps that are an object": ({"name": "order", "steps": {"a": {}}}, "steps", "must be a list"),
    "a step that is a word": ({"name": "order", "steps": ["reserve"]}, "steps[0]", "must be an object"),
}
WRONG_SETTING = {
    "unknown key": ("typ", "orchestration", "known are"),
    "unknown type": ("type", "saga", "orchestration or choreography"),
    "a timeout of nothing": ("timeout", 0, "longer than 0"),
    "an empty timeout": ("timeout", None, "must be a duration"),
    "max_concurrent of none": ("max_concurrent", 0, "whole number from 1"),
    "max_concurrent that is true": ("max_concurrent", True, "whole number"),
    "max_concurrent of a half": ("max_concurrent", 1.5, "whole number"),
    "a schema that is true": ("input_schema", True, "must be a JSON Schema that is an object"),
    "a schema with NaN": ("input_schema", {"minimum": float("nan")}, "JSON does not have"),
    "unknown way to fail": ("on_compensation_failure", "stop", "continue or halt"),
}
WRONG_IN_STEP = {
    "unknown key": ("timeuot", "10s", "known are"),
    "a key that is not text": (1, 1, "known are"),
    "name with a dot": ("name", "a.b", "letter"),
    "name that is a number": ("name", 7, "letter"),
    "unknown service": ("service", "storage", "services.yaml"),
    "service that is a number": ("service", 1, "name of a service"),
    "an action that climbs": ("action", "../admin", "path of a call"),
    "an action with a query": ("action", "do?force=1", "path of a call"),
    "an action with an empty part": ("action", "do//it", "path of a call"),
    "an action that begins with a slash": ("action", "/do", "path of a call"),
    "an action that is encoded": ("action", "%2e%2e", "path of a call"),
    "an empty action": ("action", "", "path of a call"),
    "a compensation left empty": ("compensation", None, "`none`"),
    "a compensation of no letters": ("compensation", "", "path of a call"),
    "a compensation that is false": ("compensation", False, "path of a call"),
    "timeout in weeks": ("timeout", "1w", "must be a duration"),
    "compensation timeout below nothing": ("compensation_timeout", -1, "between 0 and 366 days"),
    "callback timeout of years": ("callback_timeout", "367d", "between 0 and 366 days"),
    "retries below nothing": ("retries", -1, "whole number from 0"),
    "retries that are true": ("retries", True, "whole number"),
    "a retry policy that is a number": ("retry", 3, "must be an object"),
    "an expression that is a boolean": ("when", True, "must be an expression"),
    "an expression that is broken": ("when", "input.", "ends too early"),
    "an expression that is empty": ("when", "", "is empty"),
    "an expression that is always null": ("when", "!input.free", "!(input.express)"),
    "an input that is an expression": ("input", "input.sku", "must be an object"),
    "a word of when exhausted": ("on_exhausted", "stop", "compensate or pause"),
    "a pivot that is a word": ("pivot", "yes", "true or false"),
    "a dependency that is not in a list": ("depends_on", "b", "must be a list"),
    "an empty depends_on": ("depends_on", None, "[] for none"),
    "statuses in a list": ("statuses", [409], "must be an object"),
}
WRONG_WITHIN_STEP = {
    "no attempt at all": ({"retry": {"max_attempts": 0}}, "retry.max_attempts", "from 1"),
    "unknown key of a policy": ({"retry": {"attempts": 1}}, "retry.attempts", "known are"),
    "a delay below nothing": ({"retry": {"initial_delay": -1}}, "retry.initial_delay", "between"),
    "a ceiling of nothing": ({"retry": {"max_delay": 0}}, "retry.max_delay", "longer than 0"),
    "shrinking delays": ({"retry": {"multiplier": 0.5}}, "retry.multiplier", "from 1"),
    "jitter over the whole": ({"retry": {"jitter": 1.1}}, "retry.jitter", "from 0 to 1"),
    "jitter that is true": ({"retry": {"jitter": True}}, "retry.jitter", "from 0 to 1"),
    "more attempts than can be written": ({"retries": 10**5000}, "retries", "so large a number"),
    "jitter that is NaN": ({"retry": {"jitter": float("nan")}}, "retry.jitter", "from 0 to 1"),
    "wrong policy of the compensation": (
        {"compensation_retry": {"max_attempts": "3"}},
        "compensation_retry.max_attempts",
        "whole number",
    ),
    "retries said twice": ({"retries": 3, "retry": {"max_attempts": 4}}, "retries", "leave one of them out"),
    "a status out of range": ({"statuses": {"retry": [199]}}, "statuses.retry", "200 to 599"),
    "a status that is true": ({"statuses": {"retry": [True]}}, "statuses.retry", "whole number"),
    "a status that is not in a list": ({"statuses": {"retry": 409}}, "statuses.retry", "must be a list"),
    "a status twice in a list": ({"statuses": {"retry": [409, 409]}}, "statuses.retry", "409 is named twice"),
    "a status in two lists": ({"statuses": {"refused": [409], "success": [409]}}, "statuses.success", "twice"),
    "an unknown meaning": ({"statuses": {"ok": [200]}}, "statuses.ok", "known are"),
    "a step that does not exist": ({"input": {"x": "steps.b.output"}}, "input.x", "no step 'b'"),
    "an input that is not JSON": ({"input": {"x": float("inf")}}, "input.x", "JSON does not have"),
    "an input too deep": ({"input": {"x": json.loads("[" * 200 + "]" * 200)}}, "input.x", "100 levels"),
    "an input whose key is a number": ({"input": {1: "input.x"}}, "input", "text as keys"),
}


@pytest.mark.parametrize(("document", "path", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_document_is_one_fault(document, path, words):
    found = faults(document)
    assert list(found) == [path]
    assert words in found[path]


def test_an_empty_object_lacks_a_name_and_steps():
    assert faults({}) == {"name": "is missing", "steps": "is missing"}


@pytest.mark.parametrize(("key", "value", "words"), WRONG_SETTING.values(), ids=WRONG_SETTING)
def test_a_wrong_setting_is_one_fault(key, value, words):
    found = step_faults(step("a"), **{key: value})
    assert list(found) == [key]
    assert words in found[key]


@pytest.mark.parametrize(("key", "value", "words"), WRONG_IN_STEP.values(), ids=WRONG_IN_STEP)
def test_a_wrong_value_in_a_step_is_one_fault(key, value, words):
    found = step_faults(step("a") | {key: value}, services=SERVICES)
    assert list(found) == [f"steps[0].{key}"]
    assert words in found[f"steps[0].{key}"]


@pytest.mark.parametrize(("change", "path", "words"), WRONG_WITHIN_STEP.values(), ids=WRONG_WITHIN_STEP)
def test_a_wrong_value_deep_in_a_step_is_one_fault(change, path, words):
    found = step_faults(step("a") | change)
    assert list(found) == [f"steps[0].{path}"]
    assert words in found[f"steps[0].{path}"]


@pytest.mark.parametrize("key", ["name", "service", "action", "compensation"])
def test_what_a_step_must_say(key):
    found = step_faults({other: value for other, value in step("a").items() if other != key})
    assert list(found) == [f"steps[0].{key}"]
    assert found[f"steps[0].{key}"].startswith("is missing")


# What is wrong between steps.


def test_two_steps_of_one_name():
    found = step_faults(step("a"), step("b"), step("a"))
    assert found == {"steps[2].name": "'a' is the name of an earlier step"}


def test_two_names_that_expressions_could_not_tell_apart():
    found = step_faults(step("a-b"), step("a_b"))
    assert list(found) == ["steps[1].name"]
    assert "'a-b'" in found["steps[1].name"]


def test_where_one_step_has_depends_on_every_step_says_it():
    found = step_faults(step("a"), step("b", depends_on=["a"]), step("c"))
    assert list(found) == ["steps[0].depends_on", "steps[2].depends_on"]
    assert "depends_on: []" in found["steps[0].depends_on"]


def test_a_step_that_is_no_object_is_one_fault_beside_steps_that_say_depends_on():
    assert list(step_faults(step("a", depends_on=[]), "b")) == ["steps[1]"]


def test_each_wrong_dependency_has_its_own_place():
    found = step_faults(step("a", depends_on=[]), step("b", depends_on=["a", "x", "b", "a", 3, ["a"]]))
    assert found == {
        "steps[1].depends_on[1]": "there is no step 'x'",
        "steps[1].depends_on[2]": "a step cannot depend on itself",
        "steps[1].depends_on[3]": "'a' is named twice",
        "steps[1].depends_on[4]": "must be the name of a step, not 3",
        "steps[1].depends_on[5]": "must be the name of a step, not a list of 1",
    }


def test_steps_that_wait_for_each_other():
    found = step_faults(
        step("start", depends_on=[]),
        step("a", depends_on=["start", "c"]),
        step("b", depends_on=["a"]),
        step("c", depends_on=["b"]),
    )
    assert len(found) == 1
    ((path, message),) = found.items()
    assert path in {"steps[1].depends_on[1]", "steps[2].depends_on[0]", "steps[3].depends_on[0]"}
    assert all(name in message for name in "abc")


def test_two_circles_are_two_faults():
    ring = [step(name, depends_on=[other]) for name, other in ("ab", "ba", "cd", "dc")]
    assert len(step_faults(*ring)) == 2


def test_an_expression_sees_only_what_its_step_waits_for():
    beside = step("b", depends_on=[], when="steps.a.output.ok")
    found = step_faults(step("a", depends_on=[]), beside)
    assert "need not have run before" in found["steps[1].when"]
    assert parse(step("a", depends_on=[]), beside | {"depends_on": ["a"]})


def test_a_step_after_the_point_of_no_return_cannot_be_undone():
    found = step_faults(step("a"), step("b", pivot=True), step("c"))
    assert list(found) == ["steps[2].compensation"]
    assert "'b'" in found["steps[2].compensation"]


def test_a_step_beside_the_point_of_no_return_cannot_be_undone():
    found = step_faults(step("a", depends_on=[]), step("b", depends_on=[], pivot=True))
    assert list(found) == ["steps[0].compensation"]


def test_a_saga_has_one_point_of_no_return():
    found = step_faults(step("a", pivot=True), step("b", pivot=True))
    assert list(found) == ["steps[1].pivot"]


def test_every_fault_is_told_at_once():
    document = order() | {"name": "", "timeout": "soon", "color": "red"}
    document["steps"][0] |= {"timeout": "now", "depends_on": ["nobody"]}
    document["steps"][2] |= {"when": "input.", "retry": {"jitter": 2}}
    del document["steps"][3]["compensation"]
    assert set(faults(document)) == {
        "name",
        "timeout",
        "color",
        "steps[0].timeout",
        "steps[0].depends_on[0]",
        "steps[2].when",
        "steps[2].retry.jitter",
        "steps[3].compensation",
    }


def test_a_wrong_name_is_not_a_second_fault_for_the_steps_that_depend_on_it():
    assert list(step_faults(step("1a"), step("b", input={"x": 'steps."1a".output'}))) == ["steps[0].name"]


def test_the_number_of_faults_that_are_told_is_bounded():
    with pytest.raises(DefinitionInvalid) as caught:
        parse(step("a"), **{f"key{i}": i for i in range(2000)})
    assert len(caught.value.errors) == 501
    assert "there is more" in caught.value.errors[-1].message


def test_the_text_of_the_exception_names_every_fault():
    with pytest.raises(DefinitionInvalid, match=r"name: is missing; steps: is missing"):
        parse_definition({}, None)


# Versions.


def test_the_same_meaning_has_the_same_digest_however_it_is_written():
    chain = parse(step("a", timeout="10s", retries=3), step("b"))
    written_out = parse(
        step("a", depends_on=[], timeout=10, retry={"max_attempts": 4}, pivot=False),
        step("b", depends_on=["a"], statuses={}),
        timeout="60m",
        type="orchestration",
    )
    assert chain == written_out
    assert digest(chain) == digest(written_out)


def test_the_order_in_which_dependencies_are_written_makes_no_version():
    roots = step("a", depends_on=[]), step("b", depends_on=[])
    one = parse(*roots, step("c", depends_on=["a", "b"]))
    other = parse(*roots, step("c", depends_on=["b", "a"]))
    assert digest(one) == digest(other)


def test_the_order_of_keys_makes_no_version():
    one = parse(step("a", input={"x": 1, "y": {"p": 1, "q": 2}}))
    other = parse(step("a", input={"y": {"q": 2, "p": 1}, "x": 1}))
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    "change", [{"timeout": 11}, {"compensation": "none"}, {"input": {}}, {"input": {"x": True}}, {"pivot": True}]
)
def test_another_meaning_has_another_digest(change):
    assert digest(parse(step("a"))) != digest(parse(step("a") | change))


def test_a_number_and_a_boolean_are_not_the_same_content():
    assert digest(parse(step("a", input={"x": 1}))) != digest(parse(step("a", input={"x": True})))


def test_the_document_is_json_and_makes_the_same_definition():
    definition = parse_definition(order(), SERVICES)
    stored = json.loads(json.dumps(to_document(definition), allow_nan=False))
    assert parse_definition(stored, None) == definition
    assert digest(parse_definition(stored, None)) == digest(definition)


# Durations.


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5h", 5400),
        ("90", 90),
        (90, 90),
        (0.25, 0.25),
        ("366d", 366 * 86400),
    ],
)
def test_durations(written, seconds):
    assert parse_duration(written) == seconds


NO_DURATIONS = ["", "s", "10 s", "10S", "1:30", "1h30m", "-1s", "1e3", "٣s", "10s\n", "nan", "9" * 400, "367d", "0s"]
NO_DURATIONS += [0, -1, 0.0, float("nan"), float("inf"), 10**400, -(10**400), True, None, [], {}]


@pytest.mark.parametrize("written", NO_DURATIONS)
def test_what_is_no_duration(written):
    with pytest.raises(ValueError, match=r"must be a duration"):
        parse_duration(written)


def test_nothing_is_a_duration_where_it_is_allowed():
    assert parse_duration("0s", allow_zero=True) == 0
    assert parse_duration(0, allow_zero=True) == 0


# Whatever is sent.

JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.text(max_size=3) | st.integers() | st.sampled_from(["name", "steps", "retry", "input"]), children
        )
    ),
    max_leaves=20,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each place in the document, as its container and the key there."""
    found = []
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(child, dict | list):
            found += places(child)
    return found


@st.composite
def spoiled(draw: st.DrawFn) -> Any:
    document = draw(st.sampled_from([order(), load_yaml(CAMEL_CASE), to_document(parse_definition(order(), None))]))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(document)))
        match draw(st.sampled_from(["replace", "remove", "move", "add"])):
            case "replace":
                container[key] = draw(JSON_LIKE)
            case "remove":
                del container[key]
            case "move":
                other, there = draw(st.sampled_from(places(document)))
                other[there] = deepcopy(container[key])
            case "add" if isinstance(container, dict):
                container[draw(st.text(max_size=4))] = draw(JSON_LIKE)
            case "add":
                container.insert(key, draw(JSON_LIKE))
        if not places(document):
            break
    return document


def assert_parsed_or_refused(document: Any, services: Any) -> None:
    try:
        definition = parse_definition(document, services)
    except DefinitionInvalid as exc:
        told = exc.errors
    else:
        assert parse_definition(to_document(definition), None) == definition
        return
    assert told
    assert all(isinstance(fault.path, str) and 5 < len(fault.message) < 400 for fault in told)


@settings(deadline=None)
@given(JSON_LIKE, st.none() | st.just(SERVICES))
def test_any_document_is_parsed_or_refused(document, services):
    assert_parsed_or_refused(document, services)


@settings(deadline=None, max_examples=300)
@given(spoiled(), st.none() | st.just(SERVICES))
def test_any_change_to_a_good_definition_is_parsed_or_refused(document, services):
    assert_parsed_or_refused(document, services)


@st.composite
def sound(draw: st.DrawFn) -> dict[str, Any]:
    """A good definition: any shape of dependencies, written in any order."""
    count = draw(st.integers(1, 8))
    names = [f"s-{i}" for i in range(count)]
    duration = st.floats(0.001, 1000) | st.integers(1, 1000) | st.sampled_from(["500ms", "10s", "15m", "2h", "1d"])
    policy = st.fixed_dictionaries(
        {},
        optional={
            "max_attempts": st.integers(1, 100),
            "initial_delay": duration | st.just(0),
            "multiplier": st.floats(1, 10),
            "max_delay": duration,
            "jitter": st.floats(0, 1),
        },
    )
    steps = []
    for i, name in enumerate(names):
        above = draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else []
        visible = [f"steps.{one.replace('-', '_')}.output.x" for one in above] + ["input", "saga.id", "'text'"]
        more = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "timeout": duration,
                    "retry": policy,
                    "compensation_timeout": duration,
                    "compensation_retry": policy,
                    "when": st.sampled_from(visible),
                    "input": st.dictionaries(
                        st.text(max_size=5, alphabet="abc"), st.sampled_from([*visible, 1, None, [1, {"x": 0.5}], True])
                    ),
                    "on_exhausted": st.sampled_from(["compensate", "pause"]),
                    "callback_timeout": duration,
                },
            )
        )
        compensation = draw(st.sampled_from(["undo", "none"]))
        steps.append(step(name, depends_on=above, compensation=compensation, **more))
    return {"name": "order", "steps": draw(st.permutations(steps))}


@settings(deadline=None)
@given(sound())
def test_a_good_definition_is_kept_whole(document):
    definition = parse_definition(document, SERVICES)
    stored = json.loads(json.dumps(to_document(definition), allow_nan=False))
    assert parse_definition(stored, None) == definition
    assert digest(parse_definition(stored, None)) == digest(definition)
    assert to_document(parse_definition(stored, None)) == stored


@settings(deadline=None)
@given(sound())
def test_what_follows_from_the_steps_agrees_with_them(document):
    definition = parse_definition(document, None)
    positions = range(len(definition.steps))
    for position, one in enumerate(definition.steps):
        assert definition.index[one.name] == position
        direct = {definition.index[name] for name in one.depends_on}
        assert set(definition.dependencies[position]) == direct
        assert definition.upstream[position] == direct.union(*(definition.upstream[other] for other in direct))
        assert definition.downstream[position] == {
            other for other in positions if position in definition.upstream[other]
        }


# A choreography names events instead of calls.

ORDER_EVENTS = """
name: order-events
type: choreography
started_by: OrderPlaced
correlation: data.order_id
timeout: 10m
steps:
  - {name: ReserveInventory, service: inventory, trigger: OrderPlaced, succeeded: InventoryReserved,
     failed: InventoryReservationFailed, compensated: InventoryReleased, timeout: 30s}
  - {name: ProcessPayment, service: payment, trigger: InventoryReserved, succeeded: PaymentProcessed,
     failed: PaymentFailed, compensated: PaymentRefunded, compensation_timeout: 1m,
     compensation_retry: {max_attempts: 3}}
  - {name: SendMail, service: shipping, trigger: InventoryReserved, succeeded: MailSent, failed: MailBounced,
     compensated: none}
"""

CONTRACT_EVENTS = """
name: order-events
type: choreography
started_by: OrderPlaced
correlation: data.order_id
timeout: 10m
steps:
  - {name: ReserveInventory, service: inventory, trigger: OrderPlaced,        succeeded: InventoryReserved, failed: InventoryReservationFailed, compensated: InventoryReleased, timeout: 30s}
  - {name: ProcessPayment,   service: payment,   trigger: InventoryReserved,  succeeded: PaymentProcessed,  failed: PaymentFailed,              compensated: PaymentRefunded,  timeout: 30s}
  - {name: ConfirmOrder,     service: order,     trigger: PaymentProcessed,   succeeded: OrderConfirmed,    failed: OrderConfirmationFailed,    compensated: OrderCancelled,   timeout: 30s}
"""  # noqa: E501 - as it stands in the contract


def listener(name: str, trigger: str = "Begun", **more: Any) -> dict[str, Any]:
    results = {key: f"{name}.{key}" for key in ("succeeded", "failed", "compensated")}
    return {"name": name, "service": "inventory", "trigger": trigger, **results, **more}


def dance(*steps: Any, **more: Any) -> dict[str, Any]:
    document = {"name": "order", "type": "choreography", "started_by": "Begun", "correlation": "data.order_id"}
    return {**document, "steps": list(steps), **more}


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


def test_a_choreography_is_read_with_the_order_that_follows_from_its_events():
    definition = parse_definition(load_yaml(ORDER_EVENTS), SERVICES)
    assert (definition.started_by, definition.correlation) == ("OrderPlaced", "data.order_id")
    reserve, pay, mail = definition.steps
    assert reserve.events == StepEvents(
        "OrderPlaced", "InventoryReserved", "InventoryReservationFailed", "InventoryReleased"
    )
    assert [one.depends_on for one in definition.steps] == [(), ("ReserveInventory",), ("ReserveInventory",)]
    assert (reserve.timeout_seconds, reserve.compensation_timeout_seconds) == (30, 10)
    assert (pay.timeout_seconds, pay.compensation_timeout_seconds) == (10, 60)
    assert (pay.compensation_retry.max_attempts, reserve.compensation_retry.max_attempts) == (3, 10)
    assert (mail.compensation, reserve.compensation, reserve.action) == (None, "InventoryReleased", "OrderPlaced")
    assert plan(definition) == {
        "forward": [["ReserveInventory"], ["ProcessPayment", "SendMail"]],
        "on_failure": {
            "ReserveInventory": [],
            "ProcessPayment": [["ReserveInventory"]],
            "SendMail": [["ProcessPayment"], ["ReserveInventory"]],
        },
    }


def test_the_choreography_of_the_contract_is_read_as_it_stands_there():
    definition = parse_definition(load_yaml(CONTRACT_EVENTS), {"inventory", "payment", "order"})
    assert (definition.name, definition.timeout_seconds) == ("order-events", 600)
    assert [one.depends_on for one in definition.steps] == [(), ("ReserveInventory",), ("ProcessPayment",)]
    assert {one.timeout_seconds for one in definition.steps} == {30}
    assert [one.compensation for one in definition.steps] == ["InventoryReleased", "PaymentRefunded", "OrderCancelled"]


def test_a_choreography_is_kept_whole():
    definition = parse_definition(load_yaml(ORDER_EVENTS), SERVICES)
    stored = json.loads(json.dumps(to_document(definition)))
    assert parse_definition(stored, None) == definition
    assert to_document(parse_definition(stored, None)) == stored


WRONG_DANCE = {
    "nothing that begins it": (without(dance(listener("a")), "started_by"), "started_by", "is missing"),
    "nothing that tells sagas apart": (without(dance(listener("a")), "correlation"), "correlation", "is missing"),
    "a broken correlation": (dance(listener("a"), correlation="data."), "correlation", "ends too early"),
    "a correlation outside data": (dance(listener("a"), correlation="order_id"), "correlation", "data.order_id"),
    "a correlation that is everything": (dance(listener("a"), correlation="@"), "correlation", "the whole event"),
    "a correlation that is a number": (dance(listener("a"), correlation=1), "correlation", "an expression"),
    "a correlation that copies": (
        dance(listener("a"), correlation="data" + " | [@, @]" * 40),
        "correlation",
        "copies the event",
    ),
    "places": (dance(listener("a"), max_concurrent=5), "max_concurrent", "not a key"),
    "an input schema": (dance(listener("a"), input_schema={}), "input_schema", "not a key"),
    "an action": (dance(listener("a", action="reserve")), "steps[0].action", "not a key"),
    "a dependency": (dance(listener("a", depends_on=[])), "steps[0].depends_on", "not a key"),
    "a pivot": (dance(listener("a", pivot=True)), "steps[0].pivot", "not a key"),
    "no trigger": (dance(without(listener("a"), "trigger")), "steps[0].trigger", "is missing"),
    "no success": (dance(without(listener("a"), "succeeded")), "steps[0].succeeded", "is missing"),
    "no failure": (dance(without(listener("a"), "failed")), "steps[0].failed", "says the step was not done"),
    "no word on undoing": (dance(without(listener("a"), "compensated")), "steps[0].compensated", "`none`"),
    "an empty word on undoing": (dance(listener("a", compensated=None)), "steps[0].compensated", "`none`"),
    "a failure of none": (dance(listener("a", failed="none")), "steps[0].failed", "type of an event"),
    "a type with a space": (dance(listener("a", failed="it failed")), "steps[0].failed", "type of an event"),
    "a type in quotes": (dance(listener("a", failed='x"y')), "steps[0].failed", "type of an event"),
    "a type that is too long": (dance(listener("a", failed="x" * 201)), "steps[0].failed", "type of an event"),
    "our own event": (dance(listener("a", "CompensationRequested")), "steps[0].trigger", "the orchestrator itself"),
    "unknown service": (dance(listener("a", service="attic")), "steps[0].service", "services.yaml"),
    "a trigger that nobody emits": (dance(listener("a"), listener("b", "Lost")), "steps[1].trigger", "nobody emits"),
    "a failure that triggers": (
        dance(listener("a"), listener("b", "a.failed")),
        "steps[1].trigger",
        "'a.failed' is `failed` of 'a', after which nothing goes on",
    ),
    "a step that triggers itself": (
        dance(listener("a"), listener("b", "b.succeeded")),
        "steps[1].trigger",
        "wait for each other: b -> b",
    ),
    "steps that trigger each other": (
        dance(listener("a"), listener("b", "c.succeeded"), listener("c", "b.succeeded")),
        "steps[1].trigger",
        "wait for each other: b -> c -> b",
    ),
    "one event for two results": (
        dance(listener("a"), listener("b", failed="a.failed")),
        "steps[1].failed",
        "'a.failed' is `failed` of 'a' already",
    ),
    "one event for both results of a step": (
        dance(listener("a", failed="a.succeeded")),
        "steps[0].failed",
        "'a.succeeded' is `succeeded` of 'a' already",
    ),
    "a result that begins the saga": (
        dance(listener("a", compensated="Begun")),
        "steps[0].compensated",
        "'Begun' begins the saga already",
    ),
    "two steps of one name": (
        dance(listener("a"), listener("a", succeeded="x", failed="y", compensated="z")),
        "steps[1].name",
        "name of an earlier step",
    ),
}


@pytest.mark.parametrize(("document", "path", "words"), WRONG_DANCE.values(), ids=WRONG_DANCE)
def test_what_is_wrong_in_a_choreography_is_one_fault(document, path, words):
    found = faults(document, SERVICES)
    assert list(found) == [path]
    assert words in found[path]


def test_all_that_is_wrong_in_a_choreography_is_told_at_once():
    found = faults(dance({"name": "a"}, listener("b", "Lost"), timeout="soon", correlation="data."), SERVICES)
    assert {"timeout", "correlation", "steps[0].service", "steps[0].trigger", "steps[0].failed"} <= set(found)
    assert "steps[1].trigger" in found


@pytest.mark.parametrize("key", ["started_by", "correlation"])
def test_an_orchestration_names_no_events(key):
    assert "not a key" in step_faults(step("a"), **{key: "OrderPlaced"})[key]


@pytest.mark.parametrize("word", [None, 1, [], {}, "none", "", True, "x" * 1000])
@pytest.mark.parametrize("key", ["started_by", "correlation", "trigger", "succeeded", "failed", "compensated", "name"])
def test_nonsense_in_a_choreography_is_refused_or_read(key, word):
    document = dance(listener("a"), listener("b", "a.succeeded"))
    if key in document:
        document[key] = word
    else:
        document["steps"][1][key] = word
    with contextlib.suppress(DefinitionInvalid):
        parse_definition(document, SERVICES)
