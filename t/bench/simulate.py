# SPDX-License-Identifier: MIT
"""How fast `simulate` is: the whole command, from the start of Python to its last line, and the memory that it took.

A million jobs take their time, so they are simulated once for each kind, however often the rest is repeated: a bag that one
rule submits (10000 of it active at a time), and chains in which each job's end fires a rule that submits the next one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Tuple

from t.bench.figures import Figure, progress, tell

TOP = Path(__file__).resolve().parents[2]
MANY, FEW = 1_000_000, 1000
_QUEUE = "simulate: {nodes: 100, cores: 48, groups: {work: {duration: 'lognormal(60, 15)', fail: 1%}}}\nfailures: all\n"


def bag(jobs: int) -> str:
    """One rule submits all; one looks at each end."""
    return f"""
jobs: [{{name: work, command: 'true', count: {jobs}}}]
rules:
  - {{trigger: start, action: {{name: submit, label: work}}}}
  - {{trigger: metric, name: count.work.success, when: '>= {jobs}', action: {{name: log, value: done}}}}
limits: {{max_jobs: {jobs}, max_active: 10000}}
{_QUEUE}"""


def chains(jobs: int, width: int = 100) -> str:
    """Every job that ends submits the next: a firing a job."""
    return f"""
jobs: [{{name: work, command: 'true'}}]
rules:
  - {{trigger: start, action: {{name: submit, label: work, count: {width}}}}}
  - {{trigger: job-finish, name: work, repetitions: {jobs - width}, action: {{name: submit, label: work}}}}
limits: {{max_jobs: {jobs}, max_firings: {jobs}}}
{_QUEUE}"""


def simulate(repetitions: int) -> None:
    """Time and memory of the command."""
    for name, text in (("simulate", bag), ("simulate-chain", chains)):
        few = [_command(text(FEW), FEW) for _ in range(repetitions)]
        note = f"{FEW} jobs, the whole command"
        tell(Figure(f"{name}-few", "s", [took for took, _, _ in few], at_most=1, of_ratio=False, note=note))
        progress(f"{name}: {MANY} jobs")
        took, spent, memory = _command(text(MANY), MANY)
        note = f"{MANY} jobs, the whole command, {spent:.1f} s of them on a processor"
        tell(Figure(name, "s", [took], at_most=120, of_ratio=False, note=note))
        tell(Figure(f"{name}-memory", "MB", [memory], at_most=500, of_ratio=False, note=f"at most, {MANY} jobs"))


def _command(text: str, jobs: int) -> Tuple[float, float, float]:
    """Seconds, seconds of processor time, and megabytes of one run of the command."""
    with tempfile.TemporaryDirectory(prefix="ens-bench-") as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(text)
        out = Path(folder) / "out"
        begun = time.monotonic()
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "ensemble.cli.main", "simulate", str(path)],
            {**os.environ, "PYTHONPATH": str(TOP)},
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, str(out), os.O_WRONLY | os.O_CREAT, 0o600)],
        )
        _, status, usage = os.wait4(pid, 0)
        took = time.monotonic() - begun
        said = out.read_text().splitlines()
    found: Dict[str, Any] = {"status": os.waitstatus_to_exitcode(status), "said": said[:8]}
    if found["status"] or not any(line.split()[:2] == ["work", str(jobs)] for line in said):
        raise AssertionError(f"that was no simulation of {jobs} jobs: {found}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
