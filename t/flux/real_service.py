# SPDX-License-Identifier: MIT
"""The real service of an instance, supervised and ended again, and requests to it."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, Iterator

from ensemble.service import supervisor
from t.flux.processes import PATIENCE, gone

#: a mocked job: no process
MOCK = "attributes: {system.exec.test.run_duration: 0.001s}"


class RealService:
    """A service that runs, and a handle of its own that asks it."""

    def __init__(self, instance: Any) -> None:
        import flux

        self.instance = instance
        self.handle = flux.Flux(instance.uri)
        self.stats = supervisor.start_detached(instance.env, PATIENCE)
        self.submitter = {"environment": dict(os.environ), "cwd": "/", "umask": 0o022, "rlimits": {}}

    @property
    def pid(self) -> int:
        return int(self.ask("stats")["pid"])

    def ask(self, endpoint: str, payload: Any = None) -> Dict[str, Any]:
        """The answer. Raises OSError."""
        answer: Dict[str, Any] = self.handle.rpc(f"ensemble.{endpoint}", payload or {}).wait_for(PATIENCE).get()
        return answer

    def submit(self, text: str) -> str:
        return str(self.ask("submit", {"text": text, "file": "it.yaml", "submitter": self.submitter})["id"])


@contextlib.contextmanager
def serving(instance: Any) -> Iterator[RealService]:
    service = RealService(instance)
    try:
        yield service
    finally:
        stats = supervisor.service_stop(service.handle, PATIENCE)
        gone(*filter(None, (stats["pid"], stats["supervisor_pid"])))
