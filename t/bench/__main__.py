# SPDX-License-Identifier: MIT
"""Benchmarks: `make bench`, or `python -m t.bench [NAME ...]` in the project's folder.

Each prints a line: what was measured, the bare value measured by turns in the same run, their ratio, the target, and
the spread. Nothing here is a test: the exit status says whether all could be run, not how fast they were. Those that
need Flux run in one instance of their own, started here; where there is no Flux a line says that they were skipped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Callable, List

from t.bench import alone
from t.bench.figures import progress, skip
from t.conftest import why_no_flux

TOP = Path(__file__).resolve().parents[2]
ALONE = {"engine": alone.engine, "rules": alone.rules, "memory": alone.memory, "path": alone.path}
#: in the order in which they run
INSIDE = ("start", "reaction", "fan-out", "bag", "tax")


def main() -> int:
    """Run what was asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m t.bench", description="Measure against bare Flux")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join((*ALONE, *INSIDE))} (default: all)")
    parser.add_argument("-r", "--repetitions", type=int, default=5, metavar="N", help="of each (default 5)")
    parser.add_argument("-n", "--jobs", type=int, default=2000, metavar="N", help="jobs of the bag (default 2000)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in (*ALONE, *INSIDE)]
    if unknown:
        parser.error(f"no benchmark is called '{unknown[0]}'; there are {', '.join((*ALONE, *INSIDE))}")
    if args.repetitions < 1 or not 1 <= args.jobs <= 100_000:
        parser.error("expected at least 1 repetition, and from 1 to 100000 jobs")
    names: List[str] = args.names or [*ALONE, *INSIDE]
    if args.inside:
        return _inside(names, args.repetitions, args.jobs)
    failed = 0
    for name in ALONE:
        if name in names:
            progress(name)
            failed += _guarded(lambda name=name: ALONE[name](args.repetitions))  # type: ignore[misc]
    return max(failed, _with_flux([name for name in INSIDE if name in names], args))


def _guarded(call: Callable[[], None]) -> int:
    try:
        call()
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _with_flux(names: List[str], args: argparse.Namespace) -> int:
    if not names:
        return 0
    reason = why_no_flux()
    if reason:
        for name in names:
            skip(name, reason)
        return 0
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FLUX_", "ENSEMBLE_"))}
    env["PYTHONPATH"] = os.pathsep.join((str(TOP), *filter(None, [env.get("PYTHONPATH")])))
    inside = [sys.executable, "-m", "t.bench", "--inside", "-r", str(args.repetitions), "-n", str(args.jobs), *names]
    return subprocess.run(["flux", "start", "--test-size=1", *inside], env=env, cwd=TOP, check=False).returncode


def _inside(names: List[str], repetitions: int, jobs: int) -> int:
    from t.bench import inside

    return inside.run(names, repetitions, jobs)


if __name__ == "__main__":
    sys.exit(main())
