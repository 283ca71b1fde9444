# SPDX-License-Identifier: MIT
"""`python -m ensemble.members.flux`: watches a whole Flux queue, without an ensemble. Imports flux.

How it works. The journal of the job manager is read from now on (`--all`: from its beginning), every job of it, whoever
submitted it; each event is a line, and after every `--every` jobs that ended, at each Ctrl-C and at the end come the
numbers: jobs by state, waiting and run times by the name of the job, nodes and cores. Nothing is changed in the instance.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, TextIO

import flux
import flux.constants

from ensemble.engine.stats import Statistics
from ensemble.members.flux_facts import f58, ranks_of
from ensemble.members.flux_nested import from_here
from ensemble.members.flux_resources import counted

_TOPIC = "job-manager.events-journal"
#: states of RFC 21 that an event brings a job to; `depend` ends DEPEND, and so on
_STATES = {
    "submit": "depend",
    "validate": "depend",
    "depend": "priority",
    "priority": "sched",
    "alloc": "run",
    "finish": "cleanup",
    "release": "cleanup",
    "clean": "inactive",
    "invalidate": "inactive",
}
_ORDER = ("depend", "priority", "sched", "run", "cleanup", "inactive")
_RESULTS = ("success", "failed", "cancelled")
#: statistics that are shown of each time
_SHOWN = ("n", "mean", "min", "max", "std")
_END = frozenset(("clean", "invalidate"))


class _Job:
    __slots__ = ("name", "result", "state", "t_start", "t_submit", "told")

    def __init__(self) -> None:
        self.name = "?"
        self.state = "depend"
        #: what the first fatal exception makes of it
        self.result: Optional[str] = None
        #: its result was counted
        self.told = False
        self.t_submit: Optional[float] = None
        self.t_start: Optional[float] = None


class Tally:
    """What the events of a queue add up to. Ended jobs leave; their times stay in the statistics."""

    def __init__(self) -> None:
        self.jobs: Dict[int, _Job] = {}
        self.results: Counter[str] = Counter()
        #: name of jobs -> pending or duration -> statistics
        self.times: Dict[str, Dict[str, Statistics]] = {}
        self.ended = 0

    def take(self, id: int, name: str, entry: Dict[str, Any], jobspec: Any) -> None:
        """One event of a job."""
        job = self.jobs.setdefault(id, _Job())
        t = float(entry["timestamp"])
        if name == "submit":
            job.t_submit, job.name = t, _name(jobspec)
        elif name == "start" and job.t_start is None:
            job.t_start = t
            if job.t_submit is not None:
                self._time(job.name, "pending", t - job.t_submit)
        elif name == "finish":
            good = (entry.get("context") or {}).get("status", 0) == 0
            self._count(job, "success" if good else "failed")
            if job.t_start is not None:
                self._time(job.name, "duration", t - job.t_start)
        elif name == "exception" and (entry.get("context") or {}).get("severity", 1) == 0:
            job.state = "cleanup"
            job.result = job.result or ("cancelled" if entry["context"].get("type") == "cancel" else "failed")
        elif name == "clean":
            self._count(job, "failed")  # one that never ran has no finish
        job.state = _STATES.get(name, job.state)
        if name in _END:
            self.ended += 1
            del self.jobs[id]

    def _count(self, job: _Job, result: str) -> None:
        """As Flux has it: a fatal exception outranks the exit status."""
        if not job.told:
            job.told = True
            self.results[job.result or result] += 1

    def _time(self, name: str, what: str, seconds: float) -> None:
        kinds = self.times.setdefault(name, {"pending": Statistics(_SHOWN), "duration": Statistics(_SHOWN)})
        kinds[what].update(max(0.0, seconds))

    def numbers(self) -> Dict[str, Any]:
        """As JSON: `states`, `results`, and of each name of jobs `pending` and `duration` in seconds."""
        states = Counter(job.state for job in self.jobs.values())
        return {
            "states": {**{state: states[state] for state in _ORDER}, "inactive": self.ended},
            "results": {result: self.results[result] for result in _RESULTS},
            "times": {
                name: {what: {stat: known[stat] for stat in _SHOWN if stat in known} for what, known in told.items()}
                for name, kinds in sorted(self.times.items())
                for told in [{what: stats.values() for what, stats in kinds.items() if stats.get_n()}]
            },
        }


def _name(jobspec: Any) -> str:
    """As `flux jobs` names a job: by its name, else its command."""
    try:
        given = jobspec["attributes"]["system"].get("job", {}).get("name")
        return str(given or jobspec["tasks"][0]["command"][0].rpartition("/")[2])
    except (KeyError, IndexError, TypeError, AttributeError):
        return "?"


class Watcher:
    """Reads the journal until it ends, is interrupted, or `most` jobs have ended."""

    def __init__(self, handle: flux.Flux, out: TextIO, *, as_json: bool, every: int, most: Optional[int]) -> None:
        self._handle = handle
        self._out = out
        self._json = as_json
        self._every = every
        self._most = most
        self.tally = Tally()
        self._told = self._begun = 0
        self._past = True
        self._stream: Any = None
        self._error: Optional[OSError] = None

    def run(self, past: bool) -> None:
        """Print until there is no more. Raises OSError where the instance is gone or refuses."""
        flags = flux.constants.FLUX_RPC_STREAMING
        self._stream = self._handle.rpc(_TOPIC, {"full": past}, flags=flags)
        self._stream.then(self._heard)
        self._handle.reactor_run()
        if self._error is not None:
            raise self._error

    def _heard(self, future: Any) -> None:
        try:
            message = future.get()
        except OSError as exc:
            self._error = exc
            self._handle.reactor_stop()
            return
        future.reset()
        id = message["id"]
        if id == -1:
            self._past = False
            self._begun = self._told = self.tally.ended
            return
        for entry in message["events"]:
            name = entry["name"]
            if name == "annotations":
                continue
            self.tally.take(id, name, entry, message.get("jobspec"))
            self._line(id, name, entry, message.get("R"))
        ended = self.tally.ended
        if self._past:
            return
        if self._every and ended - self._told >= self._every:
            self._told = ended
            self.summary()
        if self._most is not None and ended - self._begun >= self._most:
            self._handle.reactor_stop()

    def _line(self, id: int, name: str, entry: Dict[str, Any], R: Any) -> None:
        context = dict(entry.get("context") or {})
        if R is not None:
            context["ranks"] = ranks_of(R)
        if self._json:
            self._print({"t": entry["timestamp"], "type": "event", "job": f58(id), "event": name, "context": context})
            return
        when = time.strftime("%H:%M:%S", time.localtime(entry["timestamp"]))
        told = " ".join(f"{key}={value}" for key, value in context.items() if not isinstance(value, (dict, list)))
        print(f"{when}  {f58(id):<14} {name:<16} {told}".rstrip(), file=self._out, flush=True)

    def _print(self, data: Dict[str, Any]) -> None:
        print(json.dumps(data, separators=(",", ":")), file=self._out, flush=True)

    def summary(self) -> None:
        """Print the numbers of now."""
        numbers = self.tally.numbers()
        if self._json:
            self._print({"t": time.time(), "type": "metrics", **numbers})
            return
        states = "  ".join(f"{name} {count}" for name, count in numbers["states"].items() if count) or "none"
        results = "  ".join(f"{name} {count}" for name, count in numbers["results"].items())
        print(f"jobs: {states}   {results}", file=self._out)
        for name, kinds in numbers["times"].items():
            for what, stats in kinds.items():
                told = "  ".join(f"{stat} {value:.4g}" for stat, value in stats.items())
                print(f"  {name} {what}: {told}", file=self._out)
        self._out.flush()

    def resources(self) -> None:
        """Print the nodes and cores of now."""
        numbers = counted(self._handle.rpc("resource.sched-status", {}).get())
        if self._json:
            self._print({"t": time.time(), "type": "resources", **numbers})
        else:
            told = "   ".join(f"{what}: {n['up']} up, {n['free']} free" for what, n in numbers.items())
            print(told, file=self._out, flush=True)


def _number(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"'{text}' is no number of jobs: give a whole number, {least} or more")
        return int(text)

    return number


def main(argv: Optional[List[str]] = None) -> int:
    """Watch the enclosing instance, or the one that is named. Returns an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ensemble.members.flux", description="Watch the queue of a Flux instance: events and numbers."
    )
    parser.add_argument("uri", nargs="?", help="a URI or job id of an instance; without it the enclosing one")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--all", action="store_true", help="from the beginning of the journal, and not from now on")
    parser.add_argument(
        "--every", type=_number(0), default=10, metavar="N", help="numbers after N ended jobs (10); 0 is never"
    )
    parser.add_argument("--jobs", type=_number(1), metavar="N", help="end after so many jobs have ended")
    args = parser.parse_args(argv)
    try:
        handle = _open(args.uri)
    except (OSError, ValueError) as exc:
        print(f"{parser.prog}: no Flux instance can be reached ({exc}): run inside one, or name one", file=sys.stderr)
        return 1
    watcher = Watcher(handle, sys.stdout, as_json=args.json, every=args.every, most=args.jobs)
    try:
        return _watch(watcher, args.all, parser.prog)
    except BrokenPipeError:
        # who read our output has gone, as `head` does; nothing is left to say, nor at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _watch(watcher: Watcher, past: bool, name: str) -> int:
    status = 0
    try:
        watcher.resources()
        watcher.run(past)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        raise
    except OSError as exc:
        print(f"{name}: the instance tells no more ({exc}); only its owner can follow its jobs", file=sys.stderr)
        status = 1
    watcher.summary()
    return status


def _open(uri: Optional[str]) -> flux.Flux:
    if uri is None or "://" in uri:
        return flux.Flux(uri) if uri else flux.Flux()
    from flux.uri import FluxURIResolver

    return flux.Flux(from_here(str(FluxURIResolver().resolve(uri))))
