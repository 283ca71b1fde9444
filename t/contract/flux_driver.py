# SPDX-License-Identifier: MIT
"""The contract's driver for the Flux member, in a real instance that outlives it and is left without jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, List, Optional

import flux
from _flux._core import lib

from ensemble.engine.events import JobEvent, JobId
from ensemble.members.contract import MemberDriver
from ensemble.members.flux import FluxMember
from t.flux_instance import FluxInstance, shared

#: a job that the instance only pretends to run
MOCK = {"name": "mock", "command": "true", "attributes": {"exec.test.run_duration": "0.001s"}}
#: the events of its life
LIFE = ["submit", "start", "finish", "clean"]


class FluxDriver(MemberDriver):
    """One member in `instance`, by default the one that tests share."""

    name = "flux"

    def __init__(self, folder: Optional[Path] = None, instance: Optional[FluxInstance] = None) -> None:
        super().__init__()
        self.instance = instance or shared()
        self.cores = self.instance.cores
        self.handle = flux.Flux(self.instance.uri)
        self.member: FluxMember = FluxMember(self.handle, self.instance.uri)
        self.begin()

    def begin(self) -> None:
        """Start the member."""
        self.member.start(lambda ensemble, event: self.deliver(ensemble, event))

    def run_for(self, seconds: float) -> None:
        """Run the reactor."""
        until = time.monotonic() + seconds
        with self.handle.timer_watcher_create(0.0, lambda *_: None, repeat=max(seconds, 0.001)):
            while time.monotonic() < until:
                self.handle.reactor_run(flags=lib.FLUX_REACTOR_ONCE)

    def output(self, ensemble: str, id: JobId) -> str:
        """What the job wrote, by the command that the member names."""
        command = self.member.where(ensemble, id).split()
        assert command[:3] == ["flux", "job", "attach"], command
        return str(self.instance.run(*command, check=False).stdout)

    def foreign(self, command: List[str]) -> Optional[Callable[[], bool]]:
        """A job of the same owner that belongs to no ensemble."""
        id = self.instance.run("flux", "submit", *command).stdout.strip()
        wait = ("flux", "job", "wait-event", "-t", "0.2", id, "clean")
        return lambda: self.instance.run(*wait, check=False).returncode == 0

    def close(self) -> None:
        """Stop the member, and leave no job in the instance."""
        self.member.stop()
        # The handle's requests went out in order: what was sent is known when this is answered.
        self.instance.run("flux", "cancel", "--all", "--quiet", check=False)
        self.handle.rpc("job-manager.idle").get()


def ended(driver: MemberDriver) -> int:
    """How many jobs are clean."""
    return sum(event.name == "clean" for event in driver.of(JobEvent))
