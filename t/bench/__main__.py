# SPDX-License-Identifier: MIT
"""Benchmarks: `make bench`, or `python -m t.bench [--only NAME] [--jobs N]` in the project's folder.

Each prints a line: what was measured, the bare value measured by turns in the same run, their ratio, the target, and
the spread. Nothing here is a test: the exit status says whether all could be run, not how fast they were. Those that
need Flux run in one instance of their own, started here; where there is no Flux a line says that they were skipped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from t.bench import alone, simulate
from t.bench.figures import progress, skip
from t.conftest import why_no_flux

TOP = Path(__file__).resolve().parents[2]
ALONE = {"engine": alone.engine, "rules": alone.rules, "memory": alone.memory, "path": alone.path}
#: those that take minutes whatever the repetitions
LONG = {"simulate": simulate.simulate}
#: in the order in which they run
INSIDE = ("start", "reaction", "fan-out", "bag", "tax", "kvs", "storm")
#: jobs, where nobody says how many
SIZES: Dict[str, Tuple[int, ...]] = {
    "bag": (10_000,),
    "kvs": (2000,),
    "storm": (10_000,),
    "recovery": (1000, 10_000, 100_000),
}
NAMES = (*ALONE, *LONG, *INSIDE, "recovery")


def main() -> int:
    """Run what was asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m t.bench", description="Measure against bare Flux")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} (default: all)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="the same as NAME")
    parser.add_argument("-r", "--repetitions", type=int, default=5, metavar="N", help="of each (default 5)")
    sizes = "; ".join(f"{name} {', '.join(map(str, jobs))}" for name, jobs in SIZES.items())
    parser.add_argument("-n", "--jobs", type=int, metavar="N", help=f"jobs of those that have many (default: {sizes})")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    names: List[str] = [*args.names, *args.only] or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark is called '{unknown[0]}'; there are {', '.join(NAMES)}")
    if args.repetitions < 1 or not 1 <= (args.jobs or 1) <= 1_000_000:
        parser.error("expected at least 1 repetition, and from 1 to 1000000 jobs")
    if args.inside:
        return _inside(names, args.repetitions, args.jobs)
    failed = 0
    for name, call in {**ALONE, **LONG}.items():
        if name in names:
            progress(name)
            failed += _guarded(lambda call=call: call(args.repetitions))  # type: ignore[misc]
    failed = max(failed, _with_flux([name for name in INSIDE if name in names], args))
    if "recovery" in names:
        for jobs in [args.jobs] if args.jobs else SIZES["recovery"]:
            failed = max(failed, _recovery(jobs, args.repetitions))
    return failed


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
    inside = [sys.executable, "-m", "t.bench", "--inside", "-r", str(args.repetitions), *names]
    if args.jobs:
        inside += ["-n", str(args.jobs)]
    return _instance(inside)


def _instance(command: List[str], *options: str) -> int:
    """Run a command in an instance of one broker; its exit status."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FLUX_", "ENSEMBLE_"))}
    env["PYTHONPATH"] = os.pathsep.join((str(TOP), *filter(None, [env.get("PYTHONPATH")])))
    return subprocess.run(["flux", "start", "--test-size=1", *options, *command], env=env, cwd=TOP).returncode


def _recovery(jobs: int, repetitions: int) -> int:
    """Two instances, one after the other, over one KVS."""
    reason = why_no_flux()
    if reason:
        skip(f"recovery-{jobs}", reason)
        return 0
    progress(f"recovery with {jobs} jobs")
    folder = tempfile.mkdtemp(prefix="ens-bench-")
    try:
        for phase in (["fill", str(jobs)], ["measure", str(jobs), str(repetitions)]):
            status = _instance([sys.executable, "-m", "t.bench.recovery", *phase], f"-Sstatedir={folder}")
            if status:
                return status
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _inside(names: List[str], repetitions: int, jobs: Optional[int]) -> int:
    from t.bench import inside

    sizes = {name: jobs or default[0] for name, default in SIZES.items()}
    return inside.run(names, repetitions, sizes)


if __name__ == "__main__":
    sys.exit(main())
