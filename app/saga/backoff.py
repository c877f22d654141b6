"""How long to wait before the next attempt.

Exponential back-off with a ceiling, spread by jitter so that sagas which failed together do not come back
together (Brooker, "Exponential Backoff And Jitter", 2015). The jitter comes from a hash and not from a random
source: the same failure has the same delay wherever and however often it is worked out.
"""

from hashlib import sha256

from app.saga.definition import RetryPolicy


def delay_seconds(policy: RetryPolicy, failures: int, key: str) -> float:
    """Seconds to wait after the `failures`-th failure (the first is 1) of the operation called `key`.

    Lies in [delay * (1 - jitter), delay], where delay = min(initial * multiplier ** (failures - 1), ceiling).
    """
    try:
        grown = policy.initial_delay_seconds * policy.multiplier ** (failures - 1)
    except OverflowError:
        # A step after a pivot is retried without limit, so the power does leave the range of a float.
        grown = policy.max_delay_seconds if policy.initial_delay_seconds else 0.0
    delay = min(grown, policy.max_delay_seconds)
    return delay * (1 - policy.jitter * _fraction(f"{key}#{failures}"))


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on nothing but the text."""
    # 53 bits are what a float holds: more could round up to 1.
    return (int.from_bytes(sha256(text.encode()).digest()[:8]) >> 11) / 2**53
