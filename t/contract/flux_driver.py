# SPDX-License-Identifier: MIT
"""The contract's driver for the Flux member, in a real instance."""

from __future__ import annotations

import subprocess
import time
from typing import Callable, List, Optional

import flux
from _flux._core import lib

from ensemble.engine.events import JobId
from ensemble.members.flux import FluxMember
from t.contract.driver import MemberDriver
from t.flux_instance import FluxInstance


class FluxDriver(MemberDriver):
    """One member in a running instance, which outlives it."""

    name = "flux"

    def __init__(self, instance: FluxInstance, start: bool = True) -> None:
        super().__init__()
        self.instance = instance
        self.handle = flux.Flux(instance.uri)
        self.member = self.flux_member = FluxMember(self.handle)
        if start:
            self.member.start(self.deliver)

    def run_for(self, seconds: float) -> None:
        """Run the reactor."""
        over = False

        def stop(*_: object) -> None:
            nonlocal over
            over = True

        with self.handle.timer_watcher_create(seconds, stop):
            until = time.monotonic() + 10 * seconds + 60
            while not over and time.monotonic() < until:
                self.handle.reactor_run(flags=lib.FLUX_REACTOR_ONCE)

    def close(self) -> None:
        """Stop the member."""
        self.member.stop()

    def output(self, ensemble: str, id: JobId) -> str:
        """What the job wrote, by the command that the member names."""
        command = self.member.where(ensemble, id).split()
        assert command[:3] == ["flux", "job", "attach"], command
        return str(self.instance.run(*command, check=False).stdout)

    def foreign(self, command: List[str]) -> Optional[Callable[[], bool]]:
        """A job of the same owner that belongs to no ensemble."""
        id = self.instance.run("flux", "submit", *command).stdout.strip()

        def ended() -> bool:
            done = subprocess.run(
                ["flux", "job", "wait-event", "-t", "0.2", id, "clean"], env=self.instance.env, capture_output=True
            )
            return done.returncode == 0

        return ended
