# SPDX-License-Identifier: MIT
"""`make soak`: stories of new seeds until it is stopped or a promise is broken; `SEED=N` tells that one alone."""

from __future__ import annotations

import collections
import random
import sys
import time
import traceback
from typing import Counter, List

from t.engine.simulation.story import check_seed

#: seconds between two lines of progress
_PROGRESS = 10.0


def tell(seed: int, total: Counter[str]) -> bool:
    """One seed; False, with what to do about it, if it fails."""
    try:
        total.update(check_seed(seed))
    except Exception:
        traceback.print_exc()
        print(f"seed {seed} fails; once more: make soak SEED={seed}", file=sys.stderr)
        print("when it is mended, add the seed to FOUND in t/engine/test_simulation.py", file=sys.stderr)
        return False
    return True


def main(arguments: List[str]) -> int:
    total: Counter[str] = collections.Counter()
    if arguments:
        sound = min(tell(int(argument), total) for argument in arguments)
        print(", ".join(f"{name}: {number}" for name, number in sorted(total.items())))
        return 0 if sound else 1
    seed = random.SystemRandom().randrange(10**6, 10**9)
    print(f"seeds from {seed} on, until it is stopped (Ctrl-C)")
    begun = shown = time.monotonic()
    try:
        while tell(seed, total):
            seed += 1
            if time.monotonic() - shown > _PROGRESS:
                shown = time.monotonic()
                crashes = sum(number for name, number in total.items() if name.startswith("crash"))
                told = f"{total['stories']} stories, {total['jobs']} jobs, {crashes} crashes"
                print(f"{shown - begun:.0f} s: {told}; next seed {seed}", flush=True)
    except KeyboardInterrupt:
        print("; ".join(f"{name}: {number}" for name, number in sorted(total.items())))
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
