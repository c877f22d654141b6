"""Every failure of every step: what the kit promises of a user's definition, and that it would notice."""

import pytest

from app.saga import machine
from app.testing import NotAtRest, Result, Run, assert_all_or_nothing, every_failure

from .definitions import ORDER, a_step, define

INPUT = {"total": 12, "confirm": True}
SHAPES = {
    "chain": define(a_step("a"), a_step("b"), a_step("c")),
    "halting": define(a_step("a"), a_step("b"), on_compensation_failure="halt"),
    "diamond": define(
        a_step("a", depends_on=[]),
        a_step("b", depends_on=["a"]),
        a_step("c", depends_on=["a"]),
        a_step("d", depends_on=["b", "c"]),
    ),
    "pivot": define(a_step("a"), a_step("b", pivot=True, compensation="none"), a_step("c", compensation="none")),
    "holding": define(a_step("a"), a_step("b", on_exhausted="pause"), a_step("c")),
    "once": define(a_step("a", attempts=1), a_step("b", attempts=1)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_failure_ends_in_all_or_nothing(shape: str, capsys: pytest.CaptureFixture[str]):
    number = assert_all_or_nothing(Run(SHAPES[shape]))
    assert f"trip: all or nothing in {number} stories: " in capsys.readouterr().out


def test_each_story_happens():
    run = Run(ORDER, INPUT)
    run.step("reserve").answers({"id": "r1"})
    stories = {story.name: story.result for story in every_failure(run)}
    assert stories["nothing fails"].state == "COMPLETED"
    assert stories["nothing fails"].sent_to("charge")[0].input["reservation"] == "r1", "what was scripted holds"
    assert stories["charge is refused"].calls == ["reserve", "charge", "reserve/compensation"]
    assert stories["charge fails 3 times"].error == "exhausted"
    assert stories["the answer of charge is lost once"].state == "COMPLETED"
    assert stories["a cancel comes during confirm"].error == "cancelled"
    assert stories["confirm/compensation is refused"].state == "COMPENSATION_FAILED"
    assert stories["reserve/compensation fails once"].attempts("reserve/compensation") == 2
    assert not any(name.startswith("reserve/compensation/") for name in stories)


def test_steps_that_are_not_called_have_no_misfortunes():
    names = [story.name for story in every_failure(Run(ORDER, {"total": 12}))]
    assert not any("confirm" in name for name in names)


def test_a_story_that_does_not_end_is_named():
    run = Run(SHAPES["pivot"])
    run.step("c").fails()
    with pytest.raises(NotAtRest, match=r"nothing fails: trip has not come to rest"):
        assert_all_or_nothing(run)


def test_what_is_left_behind_by_steps_without_compensation_is_told(capsys: pytest.CaptureFixture[str]):
    assert_all_or_nothing(Run(define(a_step("quote", compensation="none"), a_step("b"))))
    assert "quote says that there is nothing to undo; its effect is left in" in capsys.readouterr().out


def test_an_effect_that_is_not_undone_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "needs_compensation", lambda *_: False)
    with pytest.raises(AssertionError, match=r"FAILED, and the effect of a still stands") as told:
        assert_all_or_nothing(Run(SHAPES["chain"]))
    assert "turns: what was done is undone" in str(told.value), "the timeline is part of the message"


def test_the_user_s_own_check_is_asked_of_every_story():
    def check(result: Result) -> None:
        assert result.attention is None, "nobody should be called"

    with pytest.raises(AssertionError, match=r"is refused: nobody should be called"):
        assert_all_or_nothing(Run(SHAPES["chain"]), check)
