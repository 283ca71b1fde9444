# SPDX-License-Identifier: MIT
"""One simulated run of a file: the real engine, the simulated queue, and a virtual clock.

Law of this file: the path of an event is that of `running.py` (engine, what is kept, then out to the member) without what
makes it durable; nothing here decides anything. Functions run in their worker process, and the virtual clock stands still
meanwhile; their answer comes before anything else happens. What is remembered grows with rules, groups and firings, not
with jobs, unless functions ask for rows or somebody watches.

The same spec, nodes, fates and seed give the same run, event by event. It has more than 400 lines because whatever an engine
asks for is carried out here, beside what is counted of it.
"""

from __future__ import annotations

import gc
import math
from array import array
from collections import deque
from random import Random
from typing import Any, Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ensemble.engine import calls, ending, signals
from ensemble.engine.actions import FOR_MEMBER, Action, Call, Finished, Record, Resize, SetTimer, Size
from ensemble.engine.engine import Engine
from ensemble.engine.events import (
    Acknowledged,
    Answered,
    Begin,
    Event,
    JobEvent,
    Key,
    Refused,
    Report,
    Signal,
    TimerExpired,
)
from ensemble.members.base import Submitter, Timer
from ensemble.members.simulated import SimulatedMember
from ensemble.members.simulated_nodes import Nodes, Pair
from ensemble.service.aside import Aside
from ensemble.service.fates import Fates
from ensemble.service.feeding import Cause, Feeding
from ensemble.service.functions import Functions, Surroundings, results
from ensemble.service.running import SHOWN
from ensemble.service.scaling import Scaling
from ensemble.service.store import Commit, MemoryStore
from ensemble.spec import sampling
from ensemble.spec.models import Spec
from ensemble.spec.simulate import DELAY, Outage, Sent
from ensemble.spec.units import fsd

#: events in a row that are about no job and after which nothing new is expected
MOST_QUIET = 100_000
#: states that only a simulation can end in: nothing will happen, the same would happen for ever, time is up
STALLED, ENDLESS, CUT = "stalled", "endless", "cut"
#: jobs that wait to start; what is submitted beyond waits with the engine, which needs less memory for it
MOST_PENDING = 200_000
#: lines of the log that are kept from the begin, and from the end
LINES = 8
#: timers behind which lies what the actions of a firing did, not the passing of time
_AT_ONCE = (ending.AGAIN, signals.TIMER)
#: timers, by the first part of their names, that come again and again, or that what has just happened sets
_REPEATED = {"heartbeat", "every", "cooldown", *_AT_ONCE}
_ID = "simulated"
#: objects made between two looks for garbage: there are few cycles, and many jobs
_GARBAGE = 200_000


class Setting(NamedTuple):
    """What a run is given beside its spec."""

    #: cores and GPUs of each node
    nodes: Sequence[Pair]
    fates: Fates
    seed: int
    #: limits in place of the file's
    limits: Mapping[str, Any] = {}
    #: seconds after which the run is cut off
    until: float = math.inf
    signals: Sequence[Sent] = ()
    outages: Sequence[Outage] = ()
    #: where functions come from: the file as the user named it, and where the user stands
    file: str = ""
    submitter: Optional[Submitter] = None
    #: gets each record with what is in use at the time; None where nobody watches
    watch: Optional[Callable[[Record, Dict[str, Dict[str, int]]], None]] = None


class Simulation:
    """One run. `run` once, then look at `result`."""

    def __init__(self, spec: Spec, setting: Setting) -> None:
        if setting.limits:
            spec = spec.model_copy(update={"limits": spec.limits.model_copy(update=dict(setting.limits))})
        seeds = sampling.draw(spec, Random(setting.seed).randrange)
        spec = sampling.seeded(spec, seeds)
        self._setting = setting
        self.engine = Engine(spec, _ID)
        queues = {jobs.queue for jobs in spec.jobs if jobs.queue is not None}
        nodes = Nodes.growing(setting.nodes, None if spec.scaler is None else spec.scaler.max)
        delay = DELAY if spec.simulate is None else spec.simulate.delay
        more: Dict[str, Any] = {"queues": queues, "lean": True, "delay": delay, "most_pending": MOST_PENDING}
        self.member = SimulatedMember(nodes, setting.fates.draw, **more)
        self._scaling = Scaling(self.member, self._deliver, lambda level, text: None, self.member.clock)
        self._scaling.start()
        self.feeding = Feeding()
        #: rule's id -> when it fired, in seconds from the start
        self.firings: Dict[str, array[float]] = {rule.id: array("d") for rule in spec.rules}
        #: events taken in
        self.events = 0
        #: STALLED, ENDLESS or CUT, where the engine came to no end of its own
        self.stopped: Optional[str] = None
        #: lines of errors and of the rules' log: the first ones, the last ones of the others, and how many there were
        self.lines: List[Record] = []
        self.last_lines: Deque[Record] = deque(maxlen=LINES)
        self.said = 0
        self._quiet = 0
        self._timers: Dict[str, Timer] = {}
        #: timer that runs out at once -> what set it
        self._behind: Dict[str, Tuple[Cause, ...]] = {}
        self._calls: Deque[str] = deque()
        self._store: Optional[MemoryStore] = None
        self._functions: Optional[Functions] = None
        self._answer: Optional[Tuple[str, Dict[str, Any]]] = None
        self._aside: Optional[Aside] = None
        self._wanted = self.engine.wanted_events
        if spec.asks:
            self._store = MemoryStore()
            self._store.create(_ID, {}, lambda error: None)

    # ---- running

    def run(self) -> None:
        """Run to the end."""
        thresholds = gc.get_threshold()
        gc.set_threshold(_GARBAGE, 20, 50)
        try:
            self._run()
        finally:
            gc.set_threshold(*thresholds)
            if self._functions is not None:
                self._functions.close()
                self._functions.wait()
            if self._aside is not None:
                self._aside.close()
            self.member.stop()

    def _run(self) -> None:
        engine, member, setting = self.engine, self.member, self._setting
        # what is down from the first moment on is not there to go down
        member.lose([rank for outage in setting.outages if not outage.at for rank in outage.ranks])
        member.open(_ID, engine.spec, setting.submitter or Submitter(), engine.wanted_events)
        member.start(self._deliver)
        for number, sent in enumerate(setting.signals):
            signal = Signal(sent.at, sent.name, dict(sent.data), f"outside-{number}")
            member.call_at(sent.at, lambda signal=signal: self.feed(signal))  # type: ignore[misc]
        for outage in setting.outages:
            if outage.at:
                member.call_at(outage.at, lambda outage=outage: member.lose(outage.ranks))  # type: ignore[misc]
            if outage.duration is not None:
                member.call_at(outage.at + outage.duration, lambda outage=outage: member.regain(outage.ranks))  # type: ignore[misc]
        self.feed(Begin(member.clock()))
        while engine.final is None:
            if self._calls:
                self._call(self._calls.popleft())
            elif self._quiet > MOST_QUIET:
                if self._beats_only():
                    self.stopped = ENDLESS
                    return
                self._quiet = 0
            elif not member.run(setting.until):
                self.stopped = STALLED if member.idle else CUT
                return

    def _beats_only(self) -> bool:
        """Does nothing run, and is nothing set that comes once, so that all that is left are heartbeats?"""
        kinds = {name.partition(":")[0] for name in self.engine.timers}
        setting = self._setting
        times = [*(sent.at for sent in setting.signals), *(outage.at for outage in setting.outages)]
        coming = any(at > self.member.clock() for at in times)
        return not (self.member.running or coming or kinds - _REPEATED)

    def feed(self, event: Event) -> None:
        """Take one event along the whole path."""
        self._deliver(_ID, event)

    def _deliver(self, ensemble: str, event: Event) -> None:
        engine = self.engine
        kind = type(event)
        about = None
        if kind is JobEvent:
            self._quiet = 0
            about = engine.by_id.get(event.id)  # type: ignore[union-attr, arg-type]
        else:
            self._quiet += 1
        self.events += 1
        actions = engine.handle(event)
        if not actions:
            return
        fired: List[str] = []
        rows: List[Dict[str, Any]] = []
        watch = self._setting.watch
        for action in actions:
            what = type(action)
            if what is Record:
                if action.type == "rule":  # type: ignore[union-attr]
                    fired.append(action.data["rule"])  # type: ignore[union-attr]
                elif action.type == "error" or action.type == "log":  # type: ignore[union-attr]
                    self._line(action)  # type: ignore[arg-type]
                if watch is not None:
                    watch(action, self.member.counts())  # type: ignore[arg-type]
            elif what is Finished:
                if self._store is not None:
                    rows.append(_shown(action.row))  # type: ignore[union-attr]
            else:
                self._perform(action, event, about, fired)
        if fired:
            causes = self._causes(event, about)
            for rule in fired:
                if rule not in self.firings:
                    self.firings[rule] = array("d")
                self.firings[rule].append(engine.t)
                self.feeding.fired(rule, causes)
        if engine.final is not None or self._calls or self._quiet > MOST_QUIET:
            self.member.interrupt()
        if rows and self._store is not None:
            self._store.commit(_ID, Commit(self.events, [], [], [], rows), lambda error: None)
        if engine.wanted_events is not self._wanted:
            self._wanted = engine.wanted_events
            self.member.want(_ID, self._wanted)

    def _perform(self, action: Action, event: Event, about: Any, fired: List[str]) -> None:
        if isinstance(action, SetTimer):
            name = action.timer
            if name in _AT_ONCE:
                # what the rules that have just fired did, or what the event itself led to
                by = tuple(Cause(rule, "") for rule in fired) or self._causes(event, about)
                self._behind[name] = by
            self._set_timer(name, action.at)
        elif isinstance(action, Resize):
            self._scaling.ask(self.engine, None, action)
        elif isinstance(action, Size):
            self._scaling.want(self.engine, None, action)
        elif isinstance(action, FOR_MEMBER):
            self.member.perform(_ID, action)
        elif isinstance(action, Call):
            self._calls.append(action.call)

    def _set_timer(self, name: str, at: float) -> None:
        old = self._timers.pop(name, None)
        if old is not None:
            old.cancel()

        def expired() -> None:
            self._timers.pop(name, None)
            self.feed(TimerExpired(max(self.member.clock(), at), name))

        self._timers[name] = self.member.call_at(at, expired)

    def _causes(self, event: Event, about: Any) -> Tuple[Cause, ...]:
        """What the event came of, as far as rules had a hand in it."""
        if about is not None:
            return (Cause(about.key.rule, about.group),)
        if isinstance(event, (JobEvent, Acknowledged, Refused, Report)) and event.key is not None:
            return (Cause(event.key.rule, self._group(event.key)),)
        if isinstance(event, TimerExpired):
            return self._behind.get(event.timer, ())
        if isinstance(event, Answered):
            return (Cause(event.call.split("/")[0], ""),)
        return ()

    def _group(self, key: Key) -> str:
        job = self.engine.jobs.get(key)
        return "" if job is None else job.group

    def _line(self, record: Record) -> None:
        self.said += 1
        (self.lines if len(self.lines) < LINES else self.last_lines).append(record)

    # ---- functions

    def _call(self, id: str) -> None:
        """Have a function called, wait for its answer in real time, and take that in."""
        if self._functions is None:
            setting = self._setting
            self._aside = Aside(self.member.clock)
            where = Surroundings(self.engine.spec.custom, setting.submitter or Submitter(), setting.file)
            self._functions = Functions(
                self._aside,
                where,
                request=self._request,
                answered=self._answered,
                printed=self._printed,
                log=lambda level, text: None,
                clock=self.member.clock,
            )
        assert self._aside is not None
        self._answer = None
        self._functions.call(id)
        self._aside.wait(lambda: self._answer is not None)
        answer, self._answer = self._answer, None
        if answer is not None and answer[0]:
            self.feed(Answered(self.member.clock(), *answer))

    def _request(self, id: str) -> Optional[Dict[str, Any]]:
        request = calls.request(self.engine, id)
        if request is None:
            # nobody waits for it any more, and so there is no answer either
            self._answer = ("", {})
            return None
        assert self._store is not None
        here = [_shown(job.row()) for job in self.engine.jobs.values() if job.ended is not None]
        request["results"] = results(self.engine.calls.pending[id], self._store, _ID, here)
        return request

    def _answered(self, id: str, data: Dict[str, Any]) -> None:
        self._answer = (id, data)

    def _printed(self, id: str, lines: List[str]) -> None:
        for line in lines:
            record = Record(self.member.clock(), "log", {"text": line, "rule": id.split("/")[0]})
            self._line(record)
            if self._setting.watch is not None:
                self._setting.watch(record, self.member.counts())

    # ---- what came of it

    @property
    def state(self) -> str:
        """The engine's end, or STALLED, ENDLESS or CUT."""
        return self.engine.final or self.stopped or self.engine.state

    @property
    def reason(self) -> Optional[str]:
        """Why it ended so; a sentence."""
        engine = self.engine
        if self.stopped is None:
            return engine.reason
        if self.stopped == CUT:
            return f"cut off after {fsd(self._setting.until, digits=True)}"
        if self.stopped == ENDLESS:
            return f"for {MOST_QUIET} events nothing has happened to any job, and nothing else seems to be coming"
        waits = [rule.id for rule in engine.book.rules if rule.keeps_alive]
        held = sum(job.urgency == 0 for job in engine.jobs.values())
        parts = [f"rule '{id}' waits for what does not come" for id in waits[:3]]
        if engine.jobs:
            parts.append(f"{len(engine.jobs)} jobs cannot start" + (f", {held} of them held" if held else ""))
        return "nothing more happens: " + ("; ".join(parts) or "it waits for something from outside")

    def result(self) -> Dict[str, Any]:
        """All of it as JSON-able data; times are seconds from the start."""
        engine, member = self.engine, self.member
        span = (engine.t_end if engine.t_end is not None else member.clock()) - (engine.t_begin or 0.0)
        node_seconds, core_seconds = member.usage.used(member.clock())
        nodes_up, cores_up = member.usage.had(member.clock())
        counts = engine.tally.counts
        return {
            "state": self.state,
            "reason": self.reason,
            "seed": self._setting.seed,
            "makespan": span,
            "jobs": {name: sum(count[name] for count in counts.values()) for name in SHOWN},
            "groups": {
                group: {**{name: count[name] for name in SHOWN}, **self._span(group)} for group, count in counts.items()
            },
            # groups by the start of their first jobs
            "order": list(member.usage.spans),
            "utilisation": {
                "nodes": min(1.0, node_seconds / nodes_up) if nodes_up > 0 else None,
                "cores": min(1.0, core_seconds / cores_up) if cores_up > 0 else None,
            },
            "held_back": member.held_back,
            "most": {
                "running": member.usage.most_running,
                "nodes": member.usage.most_nodes,
                "cores": member.usage.most_cores,
            },
            "rules": [self._rule(rule) for rule in engine.book.rules],
            "metrics": engine.tally.table(),
            "variables": dict(engine.variables),
            "loops": self.feeding.loops(),
            "events": self.events,
        }

    def _span(self, group: str) -> Dict[str, Optional[float]]:
        """When the first of the group's jobs started, and the last of them that ran ended."""
        first, last = self.member.usage.spans.get(group, (None, None))
        return {"first": first, "last": last}

    def _rule(self, rule: Any) -> Dict[str, Any]:
        times = self.firings.get(rule.id, array("d"))
        return {
            "id": rule.id,
            "trigger": rule.rule.trigger,
            "fired": rule.fired,
            "remaining": rule.remaining,
            "state": rule.state(self.engine.t),
            "error": rule.error,
            "first": times[0] if times else None,
            "last": times[-1] if times else None,
            "times": times.tolist(),
        }


def _shown(row: Dict[str, Any]) -> Dict[str, Any]:
    return {**row, "id": None if row["id"] is None else str(row["id"]), "where": None}
