"""`saga start`, `show`, `list` and what is registered: what is asked of the API, and what is made of its answers."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.fake import ID, OTHER, Asked, FakeApi, Says, a_saga, page, problem
from tests.cli.record import HISTORIES

ACCEPTED = Says(202, a_saga(), {"Location": f"/sagas/{ID}"})
COMPLETED = a_saga(state="COMPLETED", finished_at="2026-11-21T22:00:03.400000Z", current_step=None)
REFUSED = {"step": "charge", "operation": "action", "code": "refused", "message": "no money", "attempts": 1}


# --- start ------------------------------------------------------------------------------------------------------


def test_a_saga_is_started_with_its_key_and_input(api: FakeApi, run: Run) -> None:
    api.answers["POST /sagas"] = ACCEPTED
    result = run("start", "order", "--input", '{"sku": "tea", "n": 1.5}', "--key", "order-1042")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"order {ID} is EXECUTING\n  saga show {ID}\n"
    (asked,) = api.asked
    assert asked.body == {"saga": "order", "input": {"sku": "tea", "n": 1.5}}
    assert asked.headers["idempotency-key"] == "order-1042"
    assert asked.headers["authorization"] == "Bearer key.secret"
    assert "prefer" not in asked.headers


def test_everything_that_a_saga_can_be_started_with_is_sent(api: FakeApi, run: Run) -> None:
    api.answers["POST /sagas"] = ACCEPTED
    options = ["--label", "customer=42", "--label", "web=a=b", "--version", "2", "--timeout", "15m"]
    options += ["--start-at", "2030-01-01T00:00:00Z", "--notify-url", "http://127.0.0.1:1/"]
    assert run("start", "order", "--key", "k", *options).exit_code == 0
    assert api.asked[0].body == {
        "saga": "order",
        "input": {},
        "labels": {"customer": "42", "web": "a=b"},
        "version": 2,
        "timeout": "15m",
        "start_at": "2030-01-01T00:00:00Z",
        "notify_url": "http://127.0.0.1:1/",
    }


def test_an_input_may_be_any_json(api: FakeApi, run: Run) -> None:
    api.answers["POST /sagas"] = ACCEPTED
    for text in ("null", "[]", '"word"', "12345678901234567890", '{"ü": "\\ud83d\\ude00"}'):
        run("start", "order", "--input", text, "--key", "k")
        assert api.asked[-1].body["input"] == json.loads(text)


def test_an_input_comes_from_a_file_or_from_a_pipe(api: FakeApi, run: Run) -> None:
    api.answers["POST /sagas"] = ACCEPTED
    Path("order.json").write_text('{"from": "Dünya"}', encoding="utf-8")
    assert run("start", "order", "--input", "@order.json", "--key", "k").exit_code == 0
    assert run("start", "order", "--input", "-", "--key", "k", stdin='{"from": "a pipe"}').exit_code == 0
    assert [asked.body["input"] for asked in api.asked] == [{"from": "Dünya"}, {"from": "a pipe"}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", '{"a": 1,}'], "this is not JSON: Expecting property name enclosed in double quotes (at '}')"),
        (["--input", '{"a": NaN}'], "NaN is not JSON"),
        (["--input", '{"a": 1, "a": 2}'], "the key 'a' stands there twice"),
        (["--input", "[" * 100_000], "this is nested too deeply"),
        (["--input", "@none.json"], "none.json: No such file or directory"),
        (["--input", "@latin.json"], "latin.json: this is not UTF-8"),
        (["--input", "@broken.json"], "broken.json: line 2, column 1: this is not JSON"),
        (["--key", "two words"], "a key is 1 to 200 visible ASCII characters"),
        (["--key", ""], "a key is 1 to 200 visible ASCII characters"),
        (["--label", "word"], "'word' is not of the form key=value"),
        (["--label", "a=1", "--label", "a=2"], "Two values are given for one label."),
        (["--wait", "soon"], "'soon' is not a number of seconds"),
        (["--wait", "nan"], "'nan' is not a number of seconds"),
        (["--version", "0"], "0 is not in the range x>=1"),
    ],
)
def test_a_wrong_word_on_the_command_line_is_told_and_nothing_is_asked(
    api: FakeApi, run: Run, arguments: list[str], said: str
) -> None:
    Path("latin.json").write_bytes(b'"\xe4"')
    Path("broken.json").write_text('{"a": 1\n', encoding="utf-8")
    result = run("start", "order", "--key", "k", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert api.asked == []


def test_a_key_is_required(api: FakeApi, run: Run) -> None:
    result = run("start", "order")
    assert result.exit_code == 2
    assert "Missing option '--key'" in result.stderr


def test_waiting_is_left_to_the_server(api: FakeApi, run: Run) -> None:
    api.answers["POST /sagas"] = Says(200, COMPLETED)
    result = run("start", "order", "--key", "k", "--wait")
    assert (result.exit_code, len(api.asked)) == (0, 1)
    assert api.asked[0].headers["prefer"] == "wait=60"
    assert result.stdout.startswith(f"order {ID} is COMPLETED\n")


def test_waiting_goes_on_where_the_server_gave_up(api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.sagas.PAUSE_SECONDS", 0)
    again = {"Idempotency-Replayed": "true"}
    api.answers["POST /sagas"] = [ACCEPTED, Says(202, a_saga(), again), Says(200, COMPLETED, again)]
    result = run("start", "order", "--key", "k", "--wait", "--json")
    assert (result.exit_code, len(api.asked)) == (0, 3)
    assert len({json.dumps(asked.body) + asked.headers["idempotency-key"] for asked in api.asked}) == 1
    assert json.loads(result.stdout) == COMPLETED


def test_the_seconds_to_wait_are_a_bound(api: FakeApi, run: Run) -> None:
    api.answers["POST /sagas"] = ACCEPTED
    result = run("start", "order", "--key", "k", "--wait", "0")
    assert (result.exit_code, len(api.asked)) == (4, 1)
    assert "is EXECUTING" in result.stdout


@pytest.mark.parametrize("state", ["FAILED", "COMPENSATION_FAILED", "ABANDONED"])
def test_waiting_for_a_saga_that_does_not_complete_is_no_success(api: FakeApi, run: Run, state: str) -> None:
    api.answers["POST /sagas"] = Says(200, a_saga(state=state, error=REFUSED))
    result = run("start", "order", "--key", "k", "--wait")
    assert result.exit_code == 3
    assert result.stdout == f"order {ID} is {state}\n  refused in charge: no money\n  saga show {ID}\n"


def test_without_waiting_the_state_is_no_matter(api: FakeApi, run: Run) -> None:
    api.answers["POST /sagas"] = Says(200, a_saga(state="FAILED"), {"Idempotency-Replayed": "true"})
    result = run("start", "order", "--key", "k")
    assert result.exit_code == 0
    assert "is FAILED, and was started with this key before" in result.stdout


def test_json_is_the_answer_of_the_api_to_the_letter(api: FakeApi, run: Run) -> None:
    text = f'{{"id":"{ID}","saga":"order","state":"EXECUTING","x":1.0e2,"y":"\\u00e9 é"}}'
    api.answers |= {"POST /sagas": Says(202, text), f"GET /sagas/{ID}": Says(200, text)}
    assert run("start", "order", "--key", "k", "--json").stdout == text + "\n"
    assert run("show", ID, "--json").stdout == text + "\n"


# --- show -------------------------------------------------------------------------------------------------------


def shows(api: FakeApi, name: str) -> None:
    recorded = json.loads((HISTORIES / f"{name}.json").read_text())
    api.answers |= {
        f"GET /sagas/{ID}": Says(200, recorded["saga"]),
        f"GET /sagas/{ID}/events": Says(200, {"items": recorded["events"], "next_cursor": None}),
    }


def test_a_saga_is_shown_with_its_timeline(api: FakeApi, run: Run) -> None:
    shows(api, "refused_and_undone")
    assert run("show", ID).stdout == (HISTORIES / "refused_and_undone.txt").read_text()


def test_a_saga_is_found_by_its_key(api: FakeApi, run: Run) -> None:
    shows(api, "completed")
    api.answers["GET /sagas"] = page(a_saga())
    result = run("show", "order-1042/ü & co")
    assert result.stdout == (HISTORIES / "completed.txt").read_text()
    assert ("key", "order-1042/ü & co") in api.asked[0].query


def test_a_key_that_looks_like_an_id_is_found_as_well(api: FakeApi, run: Run) -> None:
    shows(api, "completed")
    api.answers["GET /sagas"] = page(a_saga())
    api.answers[f"GET /sagas/{OTHER}"] = problem(404, "saga-not-found", f"There is no saga {OTHER}.")
    assert run("show", OTHER).stdout == (HISTORIES / "completed.txt").read_text()


def test_neither_id_nor_key(api: FakeApi, run: Run) -> None:
    api.answers["GET /sagas"] = page()
    api.answers[f"GET /sagas/{OTHER}"] = problem(404, "saga-not-found", f"There is no saga {OTHER}.")
    assert run("show", "none").stderr == "Error: There is no saga with the id or the key none.\n"
    assert run("show", OTHER).stderr == f"Error: There is no saga {OTHER}. (saga-not-found)\n"


def test_a_key_of_several_tenants_is_not_guessed(api: FakeApi, run: Run) -> None:
    api.answers["GET /sagas"] = page(a_saga(), a_saga(id=OTHER))
    result = run("show", "twice")
    assert result.exit_code == 1
    assert result.stderr == f"Error: Several sagas have the key twice; name one by its id: {ID}, {OTHER}.\n"


def test_a_long_history_is_read_to_its_end(api: FakeApi, run: Run) -> None:
    recorded = json.loads((HISTORIES / "completed.json").read_text())

    def events(asked: Asked) -> Says:
        after = int(dict(asked.query).get("after", 0))
        items = [event for event in recorded["events"] if event["seq"] > after][:3]
        more = items[-1]["seq"] < recorded["events"][-1]["seq"]
        return Says(200, {"items": items, "next_cursor": items[-1]["seq"] if more else None})

    api.answers |= {f"GET /sagas/{ID}": Says(200, recorded["saga"]), f"GET /sagas/{ID}/events": events}
    assert run("show", ID).stdout == (HISTORIES / "completed.txt").read_text()
    assert json.loads(run("show", ID, "--events", "--json").stdout)["items"] == recorded["events"]


def test_the_whole_history_is_a_line_for_each_event(api: FakeApi, run: Run) -> None:
    shows(api, "refused_and_undone")
    lines = run("show", ID, "--events").stdout.splitlines()
    recorded = json.loads((HISTORIES / "refused_and_undone.json").read_text())
    assert len(lines) == len(recorded["events"])
    assert "StepRefused  action confirm-order  attempt 1" in "\n".join(lines)


def test_colours_go_to_a_terminal_only_and_no_color_is_heeded(
    api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows(api, "refused_and_undone")
    assert "\x1b[" not in run("show", ID).stdout
    assert "\x1b[31m" in run("show", ID, color=True).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run("show", ID, color=True).stdout


# --- list -------------------------------------------------------------------------------------------------------


def test_sagas_are_listed_in_columns(api: FakeApi, run: Run) -> None:
    held = a_saga(id=OTHER, paused=True, attention={"since": "2026-11-21T22:00:00Z", "reason": "-", "steps": []})
    api.answers["GET /sagas"] = page(a_saga(labels={"customer": "42", "a": "b"}), held, cursor="xyz")
    result = run("list", "--limit", "2")
    assert result.stdout == (
        f"ID                                    STATE                          SAGA   AT      AGE  KEY         LABELS\n"
        f"{ID}  EXECUTING                      order  charge  1h   order-1042  customer=42,a=b\n"
        f"{OTHER}  EXECUTING (paused, attention)  order  charge  1h   order-1042\n"
    )
    assert result.stderr == "There are more: --cursor xyz\n"


def test_filters_are_the_apis(api: FakeApi, run: Run) -> None:
    api.answers["GET /sagas"] = page()
    arguments = ["--state", "executing", "--saga", "order", "--label", "a=b=c", "--label", "d=é", "--key", "k k"]
    arguments += ["--attention", "--created-after", "2026-01-01T00:00:00+01:00", "--limit", "7", "--cursor", "c"]
    result = run("list", *arguments)
    assert result.stdout == "No saga is like that.\n"
    assert sorted(api.asked[0].query) == sorted(
        [
            *[("state", "EXECUTING"), ("saga", "order"), ("label", "a:b=c"), ("label", "d:é"), ("key", "k k")],
            *[("attention", "true"), ("created_after", "2026-01-01T00:00:00+01:00"), ("limit", "7"), ("cursor", "c")],
        ]
    )


def test_an_empty_list_says_so(api: FakeApi, run: Run) -> None:
    api.answers["GET /sagas"] = page()
    assert run("list").stdout == "There is no saga yet.\n"


def test_a_limit_beyond_a_page_takes_several(api: FakeApi, run: Run) -> None:
    def some(asked: Asked) -> Says:
        query = dict(asked.query)
        begin = int(query.get("cursor", 0))
        items = [a_saga(idempotency_key=f"k{number}") for number in range(begin, begin + int(query["limit"]))]
        return page(*items, cursor=str(begin + len(items)))

    api.answers["GET /sagas"] = some
    lines = run("list", "--limit", "450").stdout.splitlines()
    assert [dict(asked.query)["limit"] for asked in api.asked] == ["200", "200", "50"]
    assert len(lines) == 451
    assert "k449" in lines[-1]
    assert len(json.loads(run("list", "--limit", "450", "--json").stdout)["items"]) == 450


def test_the_list_as_json_is_the_apis(api: FakeApi, run: Run) -> None:
    text = '{"items":[],"next_cursor":null}'
    api.answers["GET /sagas"] = Says(200, text)
    assert run("list", "--json").stdout == text + "\n"


# --- registry ---------------------------------------------------------------------------------------------------


def test_definitions_and_services_are_listed(api: FakeApi, run: Run) -> None:
    api.answers["GET /definitions"] = Says(
        body={"items": [{"name": "order", "version": 3, "created_at": "2026-11-21T22:00:00Z"}]}
    )
    api.answers["GET /services"] = Says(
        body={
            "items": [
                {"name": "inventory", "url": "http://127.0.0.1:9001", "python": None, "max_in_flight": 50},
                {"name": "ledger", "url": None, "python": "./ledger.py", "max_in_flight": None},
            ]
        }
    )
    assert run("definitions").stdout == ("NAME   VERSION  SINCE\norder  3        2026-11-21T22:00:00Z\n")
    assert run("services").stdout == (
        "NAME       WHERE                  MAX IN FLIGHT\n"
        "inventory  http://127.0.0.1:9001  50\n"
        "ledger     python ./ledger.py     -\n"
    )


def test_an_empty_registry_says_so(api: FakeApi, run: Run) -> None:
    api.answers |= {"GET /definitions": Says(body={"items": []}), "GET /services": Says(body={"items": []})}
    assert run("definitions").stdout == "There is no definition yet.\n"
    assert run("services").stdout == "There is no service yet.\n"
    assert run("services", "--json").stdout == '{"items": []}\n'
