# SPDX-License-Identifier: MIT
"""How the tests drive a local queue of their own, and look whether processes have gone."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from ensemble.engine.actions import Cause, Submit
from ensemble.engine.events import Acknowledged, Event, JobEvent, Key, Refused
from ensemble.members.base import Submitter
from ensemble.members.local import LocalMember
from ensemble.spec.models import JobSet, Spec

PATIENCE = 60.0
CAUSE = Cause(None, 0, "the test said so")


class Queue:
    """A local queue of so many cores with one ensemble `e1`, and what it delivered."""

    def __init__(self, rundir: Path, cores: int) -> None:
        self.member = LocalMember(rundir, cores=cores)
        self.events: List[Event] = []
        self.member.start(lambda ensemble, event: self.events.append(event))
        self._firing = 0

    def open(self, *sets: Dict[str, Any], **submitter: Any) -> None:
        spec = Spec(name="t", jobs=tuple(JobSet(**one) for one in sets), rules=())
        where = Submitter(**{"environment": dict(os.environ), "cwd": "/", **submitter})
        self.member.open("e1", spec, where, frozenset(("alloc", "release", "free")))

    def submit(self, group: str, **overrides: Any) -> Key:
        self._firing += 1
        key = Key("e1", "r", self._firing, 0, 0)
        self.member.perform("e1", Submit(key, group, 0, overrides))
        return key

    def run(self, seconds: float = 0.01) -> None:
        self.member.loop.run_until_complete(asyncio.sleep(seconds))

    def wait_for(self, predicate: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not predicate():
            assert time.monotonic() < end, f"waited in vain: {self.events[-20:]}"
            self.run()

    def id(self, key: Key) -> int:
        self.wait_for(lambda: any(isinstance(e, (Acknowledged, Refused)) and e.key == key for e in self.events))
        return next(e.id for e in self.events if isinstance(e, Acknowledged) and e.key == key)

    def event(self, id: int, name: str) -> Optional[JobEvent]:
        return next((e for e in self.events if isinstance(e, JobEvent) and e.id == id and e.name == name), None)

    def wait(self, id: int, name: str) -> JobEvent:
        self.wait_for(lambda: self.event(id, name))
        event = self.event(id, name)
        assert event is not None
        return event

    def all(self, name: str) -> List[int]:
        return [e.id for e in self.events if isinstance(e, JobEvent) and e.name == name]

    def output(self, id: int) -> str:
        return Path(self.member.where("e1", id)).read_text()


def gone(pid: int) -> bool:
    """Is the process dead? A zombie is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def expect_gone(*pids: int) -> None:
    end = time.monotonic() + PATIENCE
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < end, f"still alive: {[pid for pid in pids if not gone(pid)]}"
        time.sleep(0.02)


def read_pids(path: Path, count: int, run: Callable[[], None]) -> List[int]:
    """The process ids that a job has written, one a line."""
    end = time.monotonic() + PATIENCE
    while not path.exists() or len(path.read_text().split()) < count:
        assert time.monotonic() < end, f"no {count} ids in {path}"
        run()
    return [int(word) for word in path.read_text().split()]
