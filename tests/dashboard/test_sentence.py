"""The sentence that an operator reads first: what has happened, and what comes next."""

from dataclasses import replace

import pytest

from app.instants import about
from app.sentence import sentence
from tests.law.build import Tale, a_pivot, a_step, chain, compensating, policy
from tests.law.listening import Story, in_a_row


def said(tale, *paused: str) -> str:
    return sentence(tale.definition, tale.state, tale.now, paused)


def order(**charge) -> Tale:
    reserve = replace(a_step("reserve", undo_attempts=3), compensation="release")
    return Tale(chain(a_step("quote", compensation="void"), reserve, a_step("charge", **charge)))


def test_the_example_of_the_issue():
    tale = Tale(
        chain(
            replace(a_step("reserve"), compensation="release", compensation_retry=policy(5, delay=40)),
            a_step("label", compensation="unlabel"),
            a_step("charge", attempts=4),
        )
    )
    tale.wake()
    tale.does("reserve", "label")
    for _ in range(4):
        tale.tries("charge", "is_not_sent")
    tale.tries("-label", "succeeds")
    tale.tries("-reserve", "fails")
    assert said(tale) == (
        "Failed at charge after 4 attempts; 1 of 2 undone; release is tried again in 40 s, after 1 attempt."
    )


def test_just_begun():
    assert said(order()) == "0 of 3 steps done; quote waits for a worker."


def test_before_the_time_at_which_it_is_to_begin():
    tale = Tale(chain("a"), start_at=order().now + 90 * 1_000_000)
    assert said(tale) == "Begins in 90 s."


def test_while_it_waits_for_a_place():
    tale = Tale(chain("a", max_concurrent=3))
    assert said(tale) == "Waits for a place: of order only 3 run at a time."


def test_a_step_that_is_being_called():
    tale = order()
    tale.wake()
    tale.does("quote")
    tale.begins("reserve")
    assert said(tale) == "1 of 3 steps done; reserve is being called."


def test_a_step_that_is_to_be_repeated_and_why():
    tale = order()
    tale.wake()
    tale.does("quote", "reserve")
    tale.begins("charge")
    tale.fails("charge")
    assert said(tale) == "2 of 3 steps done; charge is tried again in 1 s, after 1 attempt."
    tale.wait(5)
    assert said(tale).endswith("charge is tried again as soon as a worker takes it, after 1 attempt.")


def test_a_step_whose_answer_is_awaited():
    tale = order()
    tale.wake()
    tale.begins("quote")
    tale.accepts("quote")
    assert said(tale) == "0 of 3 steps done; quote was accepted, and its answer is awaited, 60 min at most."


def test_an_operators_pause_promises_nothing():
    tale = order()
    tale.wake()
    tale.does("quote")
    tale.pause()
    assert said(tale) == "1 of 3 steps done; held by an operator: nothing new is sent."


def test_a_step_that_holds():
    tale = order(on_exhausted="pause", attempts=1)
    tale.wake()
    tale.does("quote", "reserve")
    tale.tries("charge", "fails")
    assert said(tale) == (
        "2 of 3 steps done; charge holds it after 1 attempt; a person has to retry, skip or compensate."
    )


def test_completed():
    tale = order()
    tale.wake()
    tale.does("quote", "reserve")
    tale.wait(75)
    tale.does("charge")
    assert said(tale) == "Completed in 1m 15s; 3 of 3 steps done."


def test_refused_and_undone():
    tale = order()
    tale.wake()
    tale.does("quote", "reserve")
    tale.begins("charge")
    tale.refuses("charge")
    tale.does("-reserve", "-quote")
    assert said(tale) == "Refused at charge (422); what was done is undone (2 of 2)."


def test_refused_with_nothing_to_undo():
    tale = order()
    tale.wake()
    tale.begins("quote")
    tale.refuses("quote")
    assert said(tale) == "Refused at quote (422); nothing had to be undone."


def test_what_could_not_be_undone():
    tale = order()
    tale.wake()
    tale.does("quote", "reserve")
    tale.begins("charge")
    tale.refuses("charge")
    tale.begins("-reserve")
    tale.refuses("-reserve")
    tale.does("-quote")
    assert said(tale) == (
        "Refused at charge (422); 1 of 2 undone; release failed after 1 attempt (422);"
        " what reserve did may still stand, and a person has to decide."
    )


def test_a_cut_off_attempt_keeps_its_undoing_waiting():
    tale = Tale(chain(a_step("a"), a_step("b", attempts=1)))
    tale.wake()
    tale.does("a")
    tale.begins("b")
    tale.fails("b", cut=8)
    assert said(tale) == (
        "Failed at b after 1 attempt; 0 of 2 undone; nothing is undone before the last attempt of b has surely ended."
    )


def test_cancelled_and_abandoned():
    tale = order()
    tale.wake()
    tale.does("quote", "reserve")
    tale.cancel()
    assert said(tale) == "Cancelled; 0 of 2 undone; release waits for a worker."
    tale.abandon()
    assert said(tale) == ("Abandoned: nothing more is done or undone; what quote and reserve did still stands.")


def test_a_kept_turn_waits_for_the_pivot():
    tale = Tale(chain(a_step("a"), a_pivot("pay"), a_step("mail", compensation=None)))
    tale.wake()
    tale.does("a")
    tale.begins("pay")
    tale.cancel()
    assert said(tale) == (
        "1 of 3 steps done; cancelled: it turns back unless pay turns out to have happened; pay is being called."
    )


def test_many_at_once_are_counted():
    tale = compensating(*"abcdef")
    assert said(tale).count("waits for a worker") <= 3


def test_a_choreography_speaks_of_what_is_awaited():
    story = Story(in_a_row("a", "b", "c"))
    assert said(story) == "0 of 3 steps done; a is awaited, 10 s at most."
    story.hears("a.done", "b.done", "c.failed")
    told = (
        "C failed; 0 of 2 undone; the undoing of a is awaited, and asked for in 10 s; the undoing of b is awaited, and"
    )
    assert said(story) == f"{told} asked for in 10 s."
    assert said(story, story.definition.steps[0].service) == said(story)  # nobody sends it anything


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_durations_are_told_in_one_unit(seconds, words):
    assert about(seconds) == words


def test_a_service_that_is_paused_is_waited_for_and_nothing_else_is_promised():
    tale = order()
    service = tale.definition.steps[0].service
    assert said(tale, service) == f"0 of 3 steps done; quote waits: an operator has paused {service}."
    tale.wake()
    tale.begins("quote")
    assert said(tale, service) == "0 of 3 steps done; quote is being called."
    assert said(tale, "another") == said(tale)
