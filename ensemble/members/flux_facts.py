# SPDX-License-Identifier: MIT
"""Small facts read out of Flux's own objects: ids, owners, resource sets, jobspecs. Imports flux."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Optional

import flux
from flux.core.inner import ffi, lib
from flux.idset import IDset

from ensemble.engine.events import Event, JobEvent
from ensemble.members.flux_jobspec import ID_TAG


def owner_of(handle: flux.Flux) -> int:
    """The user id of the instance's owner."""
    return int(handle.attr_get("security.owner"))


def is_cancel(event: Event) -> bool:
    """Does it say that a job is cancelled, be it by its user or by the shutdown of its instance?"""
    return isinstance(event, JobEvent) and event.name == "exception" and event.context.get("type") == "cancel"


def ranks_of(R: Any) -> str:
    """The ranks of a resource set (RFC 20), as an idset; empty if it names none."""
    try:
        ranks = [str(entry["rank"]) for entry in R["execution"]["R_lite"]]
        return ranks[0] if len(ranks) == 1 else str(IDset(",".join(ranks)))
    except (KeyError, TypeError, IndexError, ValueError):
        return ""


def output_of(system: Dict[str, Any], id: int) -> Optional[str]:
    """The path of a job's stdout, from its jobspec; None if it goes to the KVS."""
    try:
        stdout = system["shell"]["options"]["output"]["stdout"]
        if stdout["type"] != "file":
            return None
        path = stdout["path"].replace(ID_TAG, f58(id)).replace("{{name}}", system["job"]["name"])
        return str(os.path.join(system["cwd"], path))
    except (KeyError, TypeError, AttributeError):
        return None


def f58(id: int) -> str:
    """A job id as users write it, in ASCII. An id that is none is shown as a number."""
    text = ffi.new("char[64]")
    if id < 0 or lib.flux_job_id_encode(id, b"f58plain", text, 64) < 0:
        return str(id)
    return str(ffi.string(text).decode())


def log_to(handle: flux.Flux) -> Callable[[int, str], None]:
    """A function `log(level, text)` that writes to the broker's log ring, a line at a time."""

    def log(level: int, text: str) -> None:
        for line in text.splitlines() or [""]:
            # The bindings hand the text to a printf.
            handle.log(level, line.replace("%", "%%").encode("utf-8", "replace"))

    return log
