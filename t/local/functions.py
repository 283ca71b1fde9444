# SPDX-License-Identifier: MIT
"""Calls of custom functions without an ensemble: workers of the real kind on a loop of the test's own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from hosts import PATIENCE

from ensemble.members.base import Submitter
from ensemble.members.local import LocalMember
from ensemble.service.functions import Functions, Surroundings
from ensemble.spec.models import Custom

EMPTY = {"counts": {}, "statistics": [], "ensemble": {"active": 0, "submitted": 0, "elapsed": 0.0}}


class Calls:
    """Makes calls and waits for their answers."""

    def __init__(self, folder: Path, source: Optional[str] = None, **custom: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.member = LocalMember(folder / "run", loop=self.loop)
        self.answers: Dict[str, Dict[str, Any]] = {}
        self.printed: List[str] = []
        self.logged: List[str] = []
        self.requests: Dict[str, Dict[str, Any]] = {}
        submitter = Submitter(environment={"PATH": "/usr/bin:/bin", "GREETING": "hallo"}, cwd=str(folder), umask=0o027)
        self.functions = Functions(
            self.member,
            Surroundings(Custom(source=source, **custom), submitter, "steered.yaml"),
            request=self.requests.get,
            answered=self.answers.__setitem__,
            printed=lambda id, lines: self.printed.extend(lines),
            log=lambda level, text: self.logged.append(text),
            clock=time.time,
        )

    def start(self, name: str = "f", **more: Any) -> str:
        """Begin a call; its id."""
        id = f"rule/1/{len(self.requests)}"
        self.requests[id] = {
            "call": id, "function": name, "args": None, "action": {"name": "custom", "label": name}, "params": {},
            "rule": {"id": "rule", "trigger": "start"}, "event": {}, "state": {}, "metrics": EMPTY, "results": [], **more,
        }  # fmt: skip
        self.functions.call(id)
        return id

    def __call__(self, name: str = "f", **more: Any) -> Dict[str, Any]:
        """A call, and the data of its answer."""
        id = self.start(name, **more)
        self.until(lambda: id in self.answers)
        return self.answers[id]

    def until(self, condition: Callable[[], Any]) -> None:
        """Let the loop run until that is so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {self.answers} {self.printed}"
            self.loop.run_until_complete(asyncio.sleep(0.01))

    def close(self) -> None:
        self.functions.close()
        self.member.stop()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
