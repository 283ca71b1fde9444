# SPDX-License-Identifier: MIT
"""The local queue under the contract's cases, with two cores whatever the machine has."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ensemble.engine.events import JobId
from ensemble.members.contract import MemberDriver
from ensemble.members.local import LocalMember


class LocalDriver(MemberDriver):
    """A `LocalMember` on a loop of its own, its output under `rundir`."""

    name = "local"

    def __init__(self, rundir: Path) -> None:
        super().__init__()
        self.member: LocalMember = LocalMember(rundir, cores=self.cores)
        self.member.start(lambda ensemble, event: self.deliver(ensemble, event))

    def run_for(self, seconds: float) -> None:
        self.member.loop.run_until_complete(asyncio.sleep(seconds))

    def output(self, ensemble: str, id: JobId) -> str:
        return Path(self.member.where(ensemble, id)).read_text()

    def close(self) -> None:
        self.member.stop()
        self.member.loop.close()
