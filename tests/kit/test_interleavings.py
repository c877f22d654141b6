"""Actions and compensations of one step at the same time, repeated, and killed in the middle.

The oracle is the service's own ledger of effects, read beside the barrier's row, and what was answered.
"""

import json
import subprocess
import sys

import pytest

INTERLEAVINGS = 200


def held_to_the_ledger(asked, told, seen):
    """What stands after any number of these calls, killed or not."""
    state, done, undone = seen
    assert done <= 1
    assert undone <= done
    net = done - undone
    assert net == (1 if state == "done" else 0)
    assert (state, done, undone) in {(None, 0, 0), ("done", 1, 0), ("undone", 1, 1), ("void", 0, 0)}
    answers = {
        operation: [answer for what, answer in told if what == operation and answer != "called off"]
        for operation in ("action", "compensation")
    }
    assert all(one == answers["action"][0] for one in answers["action"])
    assert all(one == answers["compensation"][0] for one in answers["compensation"])
    assert not [answer for what, answer in told if what == "error"]
    if answers["action"]:
        assert done == 1
    if answers["compensation"]:
        assert net == 0
    if ["action", "called off"] in told:
        assert net == 0
    assert len(told) <= len(asked)


@pytest.fixture(scope="module", params=["postgres plain", "sqlite"])
def kind(request):
    return request.param


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("service")
def test_random_interleavings_repeated_and_killed_leave_what_the_ledger_demands(url):
    command = [sys.executable, "-m", "tests.kit.interleaving", url, "0", str(INTERLEAVINGS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
    assert ran.returncode == 0, ran.stderr
    plays = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(plays) == INTERLEAVINGS
    for play in plays:
        asked, told, again = play["asked"], play["told"], play["again"]
        held_to_the_ledger(asked, told, play["first"])
        held_to_the_ledger(asked, again, play["last"])
        assert len(again) == len(asked), play
        before, after = dict(told), dict(again)
        for operation in {"action", "compensation"} & before.keys() & after.keys():
            if "called off" not in (before[operation], after[operation]):
                assert before[operation] == after[operation], play
        # Everything has been answered by now: what was asked to be undone does not stand, and all else does.
        net = play["last"][1] - play["last"][2]
        assert net == (0 if "compensation" in asked else 1), play
    assert {state for state, *_ in (play["last"] for play in plays)} == {"done", "undone", "void"}
    assert sum(play["killed"] for play in plays) > INTERLEAVINGS / 4
    assert any(play["killed"] and play["first"][0] is not None for play in plays)
