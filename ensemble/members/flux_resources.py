# SPDX-License-Identifier: MIT
"""The nodes of a Flux instance: which come and go, and how many there are. Imports flux.

How it works. `resource.journal` streams the events of all nodes, its past first. Each ensemble that asked for them is
told what happened after a time of its own, which moves on with what it was told; so the past needs no care, be it that
of the first stream or of one that was opened anew after the resource module had gone away. Numbers are asked for
when an ensemble wants them, once for all that want them at the time: the scheduler's view of the nodes, and the
counts of jobs. Who wants them while they are being asked for gets those of the next time: what is on its way may be from
before the event that they are wanted for.
"""

from __future__ import annotations

import syslog
from typing import Any, Callable, Dict, Mapping, Set

import flux
from flux.constants import FLUX_RPC_NORESPONSE, FLUX_RPC_STREAMING
from flux.core.inner import lib
from flux.idset import IDset

from ensemble.engine.events import Counted, Event, Resources
from ensemble.members.flux_nodes import REASON
from ensemble.members.flux_timers import Timers
from ensemble.members.guard import Log, guarded

#: event of the resource module -> what a rule calls it
_NAMES = {"online": "up", "offline": "down", "drain": "drain", "undrain": "undrain"}
#: seconds to the next try after the stream was lost, at first and at most
_BACKOFF = (0.1, 5.0)
#: seconds after which a question counts as not answered
_PATIENCE = 15.0


class ResourceWatch:
    """`post(ensemble, event)` gets what there is to tell; it must not deliver before the reactor's next turn."""

    def __init__(
        self,
        handle: flux.Flux,
        timers: Timers,
        clock: Callable[[], float],
        log: Log,
        post: Callable[[str, Event], None],
    ) -> None:
        self._handle = handle
        self._timers = timers
        self._clock = clock
        self._log = log
        self._post = post
        #: ensemble -> time of the last event that it was told, seconds since the epoch
        self._told: Dict[str, float] = {}
        self._stream: Any = None
        self._backoff = _BACKOFF[0]
        #: who gets the numbers that are asked for now, and who those of the next time
        self._asking: Set[str] = set()
        self._next: Set[str] = set()
        self._under_way = False
        self._stopped = False

    def open(self, ensemble: str, since: float) -> None:
        """Tell this ensemble what happens to nodes after that time."""
        self._told.setdefault(ensemble, since)
        if self._stream is None:
            self._connect()

    def since(self, ensemble: str, t: float) -> None:
        """An ensemble of an earlier service was last told of something at that time."""
        if ensemble in self._told:
            self._told[ensemble] = t

    def close(self, ensemble: str) -> None:
        """Tell it nothing more."""
        self._told.pop(ensemble, None)
        self._asking.discard(ensemble)
        self._next.discard(ensemble)

    def look(self, ensemble: str) -> None:
        """Answer with a `Counted`, of now or later."""
        self._next.add(ensemble)
        if not self._under_way:
            self._ask()

    def stop(self) -> None:
        """Tell nobody anything more."""
        self._stopped = True
        self._told.clear()
        self._asking.clear()
        self._next.clear()
        if self._stream is not None:
            end_stream(self._handle, self._stream)
            self._stream = None

    # The stream

    def _connect(self) -> None:
        if self._stopped:
            return
        self._stream = self._handle.rpc("resource.journal", {"full": True}, flags=FLUX_RPC_STREAMING)
        self._stream.then(guarded(self._log, self._heard))

    def _heard(self, future: Any) -> None:
        if self._stopped or future is not self._stream:
            return
        try:
            events = future.get()["events"]
        except OSError as exc:
            self._stream = None
            self._log(syslog.LOG_NOTICE, f"the journal of resources ended ({exc.strerror}): reading it again")
            self._timers.after(self._backoff, self._connect)
            self._backoff = min(2 * self._backoff, _BACKOFF[1])
            return
        future.reset()
        if not events:
            # the past is told, so the stream works
            self._backoff = _BACKOFF[0]
        for event in events:
            name, context = _NAMES.get(event.get("name")), event.get("context") or {}
            ranks = context.get("idset")
            if name is None or not ranks or _reworded(context):
                continue
            t = float(event["timestamp"])
            for ensemble, told in self._told.items():
                if t > told:
                    self._told[ensemble] = t
                    self._post(ensemble, Resources(t, name, str(ranks)))

    # Numbers

    def _ask(self) -> None:
        self._under_way = True
        self._asking, self._next = self._next, set()
        future = self._handle.rpc("resource.sched-status", {})
        future.then(guarded(self._log, self._nodes), timeout=_PATIENCE)

    def _nodes(self, future: Any) -> None:
        counts: Dict[str, Any] = {}
        try:
            counts.update(counted(future.get()))
        except (OSError, KeyError, TypeError, ValueError) as exc:
            self._log(syslog.LOG_WARNING, f"the nodes cannot be counted: {exc}")
        jobs = self._handle.rpc("job-list.job-stats", {})
        jobs.then(guarded(self._log, lambda answer: self._jobs(answer, counts)), timeout=_PATIENCE)

    def _jobs(self, future: Any, counts: Dict[str, Any]) -> None:
        try:
            states = future.get()["job_states"]
            pending = sum(int(states[name]) for name in ("depend", "priority", "sched"))
            counts["queue"] = {"pending": pending, "running": int(states["run"]) + int(states["cleanup"])}
        except (OSError, KeyError, TypeError, ValueError) as exc:
            self._log(syslog.LOG_WARNING, f"the jobs cannot be counted: {exc}")
        asking, self._asking = self._asking, set()
        self._under_way = False
        if self._stopped:
            return
        for ensemble in sorted(asking):
            self._post(ensemble, Counted(self._clock(), counts))
        if self._next:
            self._ask()


def _reworded(context: Mapping[str, Any]) -> bool:
    """Has a scaler written another reason at nodes that were drained already?"""
    return bool(context.get("overwrite")) and str(context.get("reason") or "").startswith(REASON)


def end_stream(handle: flux.Flux, stream: Any) -> None:
    """Have the resource module end a stream; its end is answered with ENODATA."""
    tag = lib.flux_rpc_get_matchtag(stream.pimpl.handle)
    handle.rpc("resource.journal-cancel", {"matchtag": tag}, flags=FLUX_RPC_NORESPONSE)


def counted(status: Mapping[str, Any]) -> Dict[str, Dict[str, int]]:
    """Nodes and cores in what `resource.sched-status` answers. To the scheduler a drained node is down."""
    everything, down, allocated = (_cores(status[name]) for name in ("all", "down", "allocated"))
    up = {rank: cores for rank, cores in everything.items() if rank not in down}
    return {
        "nodes": {
            "up": len(up),
            "down": len(everything) - len(up),
            "free": sum(rank not in allocated for rank in up),
            "allocated": len(allocated),
        },
        "cores": {
            "up": sum(up.values()),
            "down": sum(everything.values()) - sum(up.values()),
            "free": sum(cores - allocated.get(rank, 0) for rank, cores in up.items()),
            "allocated": sum(allocated.values()),
        },
    }


def _cores(R: Any) -> Dict[int, int]:
    """Rank to the number of cores, in a resource set (RFC 20)."""
    found: Dict[int, int] = {}
    for entry in (R or {}).get("execution", {}).get("R_lite", ()):
        cores = len(IDset(str(entry["children"].get("core", ""))))
        for rank in IDset(str(entry["rank"])):
            found[rank] = found.get(rank, 0) + cores
    return found
