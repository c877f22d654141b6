"""How long to wait before the next attempt."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.saga.backoff import delay_seconds
from app.saga.definition import RetryPolicy

POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.just(4),
    initial_delay_seconds=st.floats(0, 1e6),
    multiplier=st.floats(1, 1000),
    max_delay_seconds=st.floats(0.001, 3e7),
    jitter=st.floats(0, 1),
)


def policy(initial: float = 1, multiplier: float = 2, ceiling: float = 60, jitter: float = 0) -> RetryPolicy:
    return RetryPolicy(4, initial, multiplier, ceiling, jitter)


def test_delays_double_up_to_the_ceiling():
    delays = [delay_seconds(policy(), failures, "k") for failures in range(1, 9)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_ceiling_below_the_first_delay_holds_from_the_start():
    assert delay_seconds(policy(initial=300, ceiling=60), 1, "k") == 60


@pytest.mark.parametrize("failures", [2000, 10**6])
def test_a_step_that_is_retried_without_limit_never_overflows(failures):
    assert delay_seconds(policy(), failures, "k") == 60
    assert delay_seconds(policy(multiplier=1), failures, "k") == 1
    assert delay_seconds(policy(initial=0), failures, "k") == 0


def test_jitter_spreads_sagas_that_failed_together():
    delays = [delay_seconds(policy(initial=10, jitter=0.2), 1, f"saga-{i}") for i in range(1000)]
    assert all(8 <= delay <= 10 for delay in delays)
    assert len(set(delays)) == 1000
    assert min(delays) < 8.1
    assert max(delays) > 9.9
    assert sum(delays) / 1000 == pytest.approx(9, abs=0.1)


def test_jitter_is_another_one_after_each_failure():
    delays = {delay_seconds(policy(multiplier=1, jitter=1), failures, "k") for failures in range(1, 20)}
    assert len(delays) == 19


def test_the_same_failure_has_the_same_delay_everywhere():
    # The numbers themselves: another hash would let two releases side by side disagree.
    assert delay_seconds(policy(jitter=0.2), 1, "0199/charge") == pytest.approx(0.8733058016419514)
    assert delay_seconds(policy(jitter=0.2), 2, "0199/charge") == pytest.approx(1.6040943822246705)


@given(POLICIES, st.integers(1, 10**6), st.text())
def test_a_delay_lies_between_the_jittered_and_the_full_one(policy, failures, key):
    delay = delay_seconds(policy, failures, key)
    try:
        full = min(policy.initial_delay_seconds * policy.multiplier ** (failures - 1), policy.max_delay_seconds)
    except OverflowError:
        full = policy.max_delay_seconds if policy.initial_delay_seconds else 0.0
    assert math.isfinite(delay)
    assert full * (1 - policy.jitter) * (1 - 1e-12) <= delay <= full
    assert delay == delay_seconds(policy, failures, key)
