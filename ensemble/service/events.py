# SPDX-License-Identifier: MIT
"""The answer to `events`: what an ensemble has consumed, a page at a time, for those who replay it.

Law of this file: the environment of whoever submitted it is nobody's business, and stays here.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

from ensemble.errors import BadRequest
from ensemble.service.running import BROKEN, Running
from ensemble.service.store import Store, Stored

#: bytes of events in one answer, about
_BYTES = 1 << 20
#: what a replay needs of what was submitted
_GIVEN = ("version", "name", "file", "text", "files", "seeds", "t_submit")


def events(
    stored: Stored, running: Optional[Running], summary: Dict[str, Any], store: Store, after: int, most: int
) -> Dict[str, Any]:
    """The answer to a request. Raises BadRequest for an ensemble whose record cannot be read."""
    if stored.damaged is not None:
        raise BadRequest(f"the events of ensemble {stored.id} cannot be read: {stored.damaged}")
    found: List[Any] = []
    size, last = 0, after
    for event in store.events(stored.id, after, most):
        last = event[0]
        size += len(json.dumps(event))
        # what no event has caused has a number, and no event
        if event[1]:
            found.append(event)
        if size > _BYTES:
            break
    answer: Dict[str, Any] = {"events": found, "last": last, "ensemble": summary, "given": None}
    answer["broken"] = why_broken(stored, running)
    if after == 0:
        answer["given"] = {name: stored.given.get(name) for name in _GIVEN}
    return answer


def why_broken(stored: Stored, running: Optional[Running]) -> Optional[str]:
    """Why the ensemble was quarantined while it ran, so that its engine does not say how it ended; None for a sound one."""
    if running is not None:
        return running.broken
    reason = str((stored.status or {}).get("reason") or "")
    return reason if reason.startswith(BROKEN) else None
