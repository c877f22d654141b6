"""What `saga show` draws of histories as the law writes them (`python -m tests.cli.record` records them anew)."""

import json
import random
from pathlib import Path

import click
import pytest

from app.cli.timeline import draw
from app.instants import moment
from tests.cli.fake import a_saga
from tests.cli.record import HISTORIES

RECORDED = sorted(path.stem for path in HISTORIES.glob("*.json"))


def history(name: str) -> dict:
    return json.loads((HISTORIES / f"{name}.json").read_text())


def drawn(recorded: dict, **more) -> list[str]:
    return draw(recorded["saga"], recorded["events"], moment(recorded["now"]), **more)


@pytest.mark.parametrize("name", RECORDED)
def test_it_is_drawn_as_it_was_agreed_upon(name: str) -> None:
    golden = Path(HISTORIES / f"{name}.txt").read_text()
    assert click.unstyle("\n".join(drawn(history(name)))) + "\n" == golden


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_the_terminal(name: str, width: int) -> None:
    assert max(len(click.unstyle(line)) for line in drawn(history(name), width=width)) <= width


@pytest.mark.parametrize("name", RECORDED)
def test_colour_adds_nothing_that_words_do_not_say(name: str) -> None:
    """Every coloured line says by a word, or by a time, what its colour says."""
    for line in drawn(history(name)):
        if line != click.unstyle(line):
            assert any(character.isalnum() for character in click.unstyle(line))


@pytest.mark.parametrize("name", RECORDED)
def test_the_attempts_of_the_history_are_all_told(name: str) -> None:
    recorded = history(name)
    text = " ".join(click.unstyle(line).strip() for line in drawn(recorded))
    for event in recorded["events"]:
        if event["type"] in {"StepSucceeded", "CompensationSucceeded"}:
            assert f"{'undo ' if event['operation'] == 'compensation' else ''}{event['step']}" in text


def test_suggested_commands_reach_the_same_house() -> None:
    text = "\n".join(drawn(history("holding"), options=" --data /srv/saga"))
    assert text.count("saga retry") == text.count("saga skip") == 1
    assert text.count("--data /srv/saga") == text.count("    saga ")


def test_a_suggested_command_can_be_copied_though_it_is_longer_than_a_line() -> None:
    lines = [click.unstyle(line) for line in drawn(history("compensation_failed"))]
    at = next(number for number, line in enumerate(lines) if "saga resolve" in line)
    command = lines[at].removesuffix("\\").split() + lines[at + 1].split()
    assert command[:2] == ["saga", "resolve"]
    assert command[3:] == ["--step", "charge-payment", "--reason", "WHY"]


def test_control_characters_of_a_participant_do_not_reach_the_terminal() -> None:
    recorded = history("refused_and_undone")
    evil = "\x1b[2J\x1b]0;mine\x07 \u202egnp\nsaga COMPLETED"
    recorded["saga"]["error"]["message"] = evil
    recorded["saga"]["labels"] = {"who": evil}
    for event in recorded["events"]:
        if "error" in event["data"]:
            event["data"]["error"]["message"] = evil
    text = click.unstyle("\n".join(drawn(recorded)))
    assert "\\x1b[2J" in text
    assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert not any(line.startswith("saga COMPLETED") for line in text.splitlines())


def test_events_that_this_command_does_not_know_are_shown_by_their_name() -> None:
    recorded = history("completed")
    recorded["events"].append({"seq": 99, "type": "StepTeleported", "at": recorded["now"], "step": "confirm-order"})
    assert any("confirm-order" in line and "StepTeleported" in line for line in drawn(recorded))


@pytest.mark.parametrize("name", RECORDED)
def test_a_history_with_holes_is_drawn_all_the_same(name: str) -> None:
    """Of a page that is missing, or a server that says less."""
    for seed in range(20):
        recorded, chance = history(name), random.Random(seed)
        recorded["events"] = [event for event in recorded["events"] if chance.random() < 0.6] or recorded["events"][:1]
        for event in recorded["events"]:
            for field in [field for field in event["data"] if chance.random() < 0.3]:
                del event["data"][field]
        lines = drawn(recorded)
        assert max(len(click.unstyle(line)) for line in lines) <= 80, f"seed {seed}"


def test_a_step_repeated_a_thousand_times_fills_no_screens() -> None:
    recorded = history("without_limit")
    failed = [event for event in recorded["events"] if event["type"] == "StepAttemptFailed"][-1]
    for number in range(41, 1001):
        for kind in ("StepStarted", "StepAttemptFailed"):
            recorded["events"].append(failed | {"type": kind, "attempt": number, "seq": 1000 + number})
    lines = drawn(recorded)
    assert len(lines) < 60
    assert any("990 more attempts that failed" in line for line in lines)


def test_a_saga_without_a_history_yet_is_shown() -> None:
    recorded = history("waiting")
    assert "Now" in draw(recorded["saga"], [], moment(recorded["now"]))


def test_a_bell_that_nobody_hears_is_one_line() -> None:
    recorded = history("out_of_time")
    sent = next(event for event in recorded["events"] if event["data"].get("sends") == 2)
    at = recorded["events"].index(sent)
    recorded["events"][at:at] = [sent] * 50
    assert sum("no worker has taken it: sent again (51 times)" in line for line in drawn(recorded)) == 1


def test_a_saga_that_follows_events_is_not_offered_a_restart() -> None:
    def offered(created: dict[str, str]) -> str:
        event = {"seq": 1, "type": "SagaCreated", "at": "2026-11-21T23:00:00Z", "data": created}
        saga = a_saga(state="FAILED", created_at="2026-11-21T23:00:00Z", finished_at="2026-11-21T23:00:01Z")
        return "\n".join(draw(saga, [event], moment("2026-11-21T23:00:02Z")))

    assert "saga restart" in offered({})
    assert "saga restart" not in offered({"event": "OrderPlaced"})
