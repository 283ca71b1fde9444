# SPDX-License-Identifier: MIT
"""The contract's driver for several members: all jobs go to an instance that is not the service's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional

from ensemble.engine.actions import Action, Submit
from ensemble.engine.events import JobId
from ensemble.members.base import Submitter
from ensemble.members.flux import FluxMember
from ensemble.members.several import Several
from ensemble.spec.models import JobSet, Spec
from ensemble.spec.places import Place
from t.contract.flux_driver import FluxDriver
from t.flux_instance import another, shared


class SeveralDriver(FluxDriver):
    """A member of two instances; the second one is driven by a process of its own."""

    def __init__(self, folder: Optional[Path] = None) -> None:
        super().__init__(folder, shared())
        self.other = another()

    def begin(self) -> None:
        home = self.member
        assert isinstance(home, FluxMember)
        self.member = Several(home, lambda level, text: None)  # type: ignore[assignment]
        super().begin()

    def open(
        self,
        ensemble: str,
        *sets: Dict[str, Any],
        events: Iterable[str] = (),
        submitter: Optional[Submitter] = None,
    ) -> Spec:
        places = {"a": Place(uri=self.other.uri)}
        spec = Spec(name=ensemble, jobs=tuple(JobSet(**one) for one in sets), rules=(), members=places)
        self._inside = True
        try:
            submitter = submitter or Submitter(environment=dict(os.environ), cwd="/")
            self.member.open(ensemble, spec, submitter, frozenset(events))
        finally:
            self._inside = False
        return spec

    def perform(self, ensemble: str, action: Action) -> None:
        super().perform(ensemble, action._replace(member="a") if isinstance(action, Submit) else action)

    def output(self, ensemble: str, id: JobId) -> str:
        command = self.member.where(ensemble, id).split()
        assert command[:3] == ["flux", "proxy", self.other.uri], command
        return str(self.instance.run(*command, check=False).stdout)

    def foreign(self, command: List[str]) -> Optional[Callable[[], bool]]:
        id = self.other.run("flux", "submit", *command).stdout.strip()
        wait = ("flux", "job", "wait-event", "-t", "0.2", id, "clean")
        return lambda: self.other.run(*wait, check=False).returncode == 0

    def close(self) -> None:
        super().close()
        self.other.run("flux", "cancel", "--all", "--quiet", check=False)
        self.other.run("flux", "queue", "idle", check=False)
