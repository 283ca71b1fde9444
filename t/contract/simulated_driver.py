# SPDX-License-Identifier: MIT
"""The simulated queue under the contract's cases: its clock is moved in place of being waited for.

What the cases' commands would do is put into words of fates here; there are no processes, files and environments.
"""

from __future__ import annotations

import math
import re
import shlex
import signal
import time
from pathlib import Path

from ensemble.engine.actions import Submit
from ensemble.engine.events import JobId
from ensemble.members.contract import MemberDriver
from ensemble.members.simulated import SimulatedMember
from ensemble.members.simulated_job import Fate
from ensemble.members.simulated_nodes import Nodes
from ensemble.spec.models import JobSet, Spec


class SimulatedDriver(MemberDriver):
    """A `SimulatedMember` of one node with two cores."""

    name = "simulated"
    runs_commands = False

    def __init__(self, rundir: Path) -> None:
        super().__init__()
        self._specs: dict[str, Spec] = {}
        self.member: SimulatedMember = SimulatedMember(Nodes([(self.cores, 0)]), self._fate, start=time.time())
        self.member.start(lambda ensemble, event: self.deliver(ensemble, event))

    def open(self, ensemble: str, *sets, **more) -> Spec:  # type: ignore[no-untyped-def]
        self._specs[ensemble] = spec = super().open(ensemble, *sets, **more)
        return spec

    def now(self) -> float:
        return self.member.clock()

    def run_for(self, seconds: float) -> None:
        self.member.run(self.member.clock() + seconds)

    def output(self, ensemble: str, id: JobId) -> str:
        raise AssertionError("simulated jobs print nothing")

    def _fate(self, submission: Submit) -> Fate:
        spec = self._specs[submission.key.ensemble]
        return fate(spec.groups[submission.group][submission.set])

    def close(self) -> None:
        self.member.stop()


def fate(jobs: JobSet) -> Fate:
    """What the command, which one of the cases has, would come to."""
    text = jobs.script or shlex.join(jobs.command)
    words = text.split()
    if words[0] == "/etc/passwd":
        return Fate(0.0, 126 << 8, ("exec", f"{words[0]}: permission denied"))
    if words[0].startswith(("/no/", "no-such")):
        return Fate(0.0, 127 << 8, ("exec", f"{words[0]}: no such file or directory"))
    if "trap '' TERM" in text:
        return Fate(math.inf, survives=frozenset((signal.SIGTERM, signal.SIGALRM)))
    if "kill -KILL $$" in text:
        return Fate(0.01, (128 + signal.SIGKILL) << 8)
    seconds = re.search(r"sleep (\d+)", text)
    code = re.search(r"exit (\d+)", text)
    return Fate(float(seconds[1]) if seconds else 0.01, int(code[1]) << 8 if code else 0)
