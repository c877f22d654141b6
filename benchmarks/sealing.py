"""What sealing costs a saga: `python -m benchmarks.sealing`. Prints JSON lines; CPU, the best of several rounds.

A saga of three steps keeps four payloads. Each is sealed once, and opened by a process that has not just written it:
here by three of them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial

from app.store.sealing import Sealer

OWNER, NAME = "01991d6e-0000-7000-8000-000000000001", "output/charge-payment"
PAYLOADS, READERS = 4, 3


def best(act: Callable[[], object], times: int, rounds: int = 7) -> float:
    """Microseconds of CPU that one act takes."""
    found = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(times):
            act()
        found = min(found, (time.process_time() - begun) / times)
    return found * 1e6


def main() -> None:
    sealer = Sealer("k1", {"k1": bytes(32)})
    for size, times in ((300, 20_000), (4_000, 20_000), (262_144, 500)):
        data = os.urandom(size)
        codec, sealed = sealer.seal(OWNER, NAME, data)
        seal = best(partial(sealer.seal, OWNER, NAME, data), times)
        opened = best(partial(sealer.open, OWNER, NAME, codec, sealed), times)
        told = {"bytes": size, "seal_us": round(seal, 1), "open_us": round(opened, 1)}
        told["saga_us"] = round(PAYLOADS * (seal + READERS * opened), 1)
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
