# SPDX-License-Identifier: MIT
"""Reading the output of Flux jobs whose groups declare a `regex`: from the KVS, or from its files.

How it works. A job is followed from its `start` on; its `finish`, and what comes behind it, waits until the rest of its
output has been read, so that what it has printed counts before its end does. After a restart the past brings the `start`
again, and the output is read from its beginning.
"""

from __future__ import annotations

import os
import re
from typing import Any, Callable, Dict, List, Optional, Tuple

from ensemble.engine.events import Event, JobEvent, JobId
from ensemble.members.flux_facts import f58
from ensemble.members.flux_jobspec import ID_TAG
from ensemble.members.flux_journal import Journal
from ensemble.members.output import Outputs
from ensemble.spec.models import Spec
from ensemble.spec.reports import declared, patterns

#: what the job shell fills in and we do not know
_MUSTACHE = re.compile(r"\{\{[^{}]*\}\}")
_SKEW = 2.0


class FluxOutput:
    """Between the journal and the delivery of events: follows jobs, and holds their ends."""

    def __init__(self, outputs: Outputs, journal: Journal, deliver: Callable[[str, Event], None]) -> None:
        self._outputs = outputs
        self._journal = journal
        self._deliver = deliver
        #: ensemble -> group -> variable -> expression
        self._patterns: Dict[str, Dict[str, Dict[str, str]]] = {}
        #: ended jobs whose output is still read: what waits for it
        self._held: Dict[JobId, List[Tuple[str, Event]]] = {}

    def open(self, ensemble: str, spec: Spec) -> bool:
        """Know an ensemble; is there output to be read?"""
        found = {group: patterns(declared(sets)) for group, sets in spec.groups.items()}
        found = {group: wanted for group, wanted in found.items() if wanted}
        if found:
            self._patterns[ensemble] = found
        return bool(found)

    def close(self, ensemble: str) -> None:
        """Read no more for this ensemble."""
        if self._patterns.pop(ensemble, None) is not None:
            for id in self._outputs.of(ensemble):
                self._outputs.forget(id)
                self._held.pop(id, None)

    def takes(self, ensemble: str, event: Event) -> bool:
        """Look at an event on its way to the ensemble. True: it is held, and delivered later."""
        if ensemble not in self._patterns or not isinstance(event, JobEvent):
            return False
        held = self._held.get(event.id)
        if held is not None:
            held.append((ensemble, event))
            return True
        if event.name == "start":
            self._follow(ensemble, event)
        elif event.name in ("finish", "clean") and self._outputs.follows(event.id):
            self._held[event.id] = [(ensemble, event)]
            self._outputs.end(event.id, lambda: self._release(event.id))
            return True
        return False

    def _follow(self, ensemble: str, event: JobEvent) -> None:
        about = self._journal.about(event.id)
        if about is None or self._outputs.follows(event.id):
            return
        key, system = about
        wanted = self._patterns[ensemble].get(str((system.get("job") or {}).get("name")))
        if not wanted:
            return
        files, kvs = files_of(system, event.id)
        # a file whose name is not the job's own may be there from before
        own = all(f58(event.id) in path for path in files)
        since = 0.0 if own else event.t - _SKEW
        self._outputs.follow(ensemble, event.id, key, wanted, files, since, kvs)

    def _release(self, id: JobId) -> None:
        for ensemble, event in self._held.pop(id, []):
            self._deliver(ensemble, event)


def files_of(system: Dict[str, Any], id: JobId) -> Tuple[List[str], bool]:
    """The files that a job's output and error go to, `*` for what is not known of a name; and does any go to the KVS?"""
    output = _options(system).get("output") or {}
    files: List[str] = []
    kvs = False
    for stream in ("stdout", "stderr"):
        where = output.get(stream)
        if not isinstance(where, dict):
            # the error goes where the output goes
            kvs = kvs or stream == "stdout"
            continue
        if where.get("type") == "file":
            path = str(where.get("path"))
            for tag in (ID_TAG, "{{id}}", "{{jobid}}", "{{id.f58}}"):
                path = path.replace(tag, f58(id))
            path = path.replace("{{id.dec}}", str(id)).replace("{{name}}", str((system.get("job") or {}).get("name")))
            files.append(os.path.join(str(system.get("cwd") or "/"), _MUSTACHE.sub("*", path)))
        else:
            kvs = True
    return files, kvs


def _options(system: Dict[str, Any]) -> Dict[str, Any]:
    found: Optional[Dict[str, Any]] = (system.get("shell") or {}).get("options")
    return found or {}
