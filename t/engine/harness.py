# SPDX-License-Identifier: MIT
"""A queue without a machine: turns what an engine asks for into events, on a clock of its own.

Theory of operation. `World` holds an engine and a heap of events in order of time. Each `Submit` is looked up in the
plans, which say what becomes of that job (`Plan`), and puts its events onto the heap; `Cancel` and `Kill` change what
is on it; a `SetTimer` becomes a `TimerExpired`. After every single event `check` looks at all that must always hold,
and what the engine answers is written down. `by_hand=True` leaves the heap alone, for tests that say each event
themselves. `over` is the check that nothing else happens: every test of a world ends with it (see `conftest.py`).
Its lines are past 400 because the queue and the checks of what it must keep to are one thing.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

import yaml

from ensemble.engine import calls, ending
from ensemble.engine import jobs as life
from ensemble.engine.actions import Action, Call, Cancel, Finished, Kill, Record, SetTimer, Submit
from ensemble.engine.engine import Engine
from ensemble.engine.events import (
    Acknowledged,
    ActionDone,
    Answered,
    Begin,
    Command,
    Event,
    JobEvent,
    Key,
    Refused,
    TimerExpired,
    to_json,
)
from ensemble.engine.snapshot import restore, snapshot
from ensemble.spec.load import load
from ensemble.spec.models import END_STATES, Spec
from t.engine import foreseen

#: when every world begins, seconds since the epoch
T0 = 1_700_000_000.0
#: wait statuses
OK, EXIT1 = 0, 1 << 8


class Plan(NamedTuple):
    """What becomes of one job. Times are seconds."""

    #: from the submission to the start
    wait: float = 1.0
    #: from start to finish; None runs until it is ended
    run: Optional[float] = 10.0
    #: wait status of the finish event
    status: int = OK
    #: type and note of an exception of severity 0 just before the finish
    exception: Optional[Tuple[str, str]] = None
    #: signals that it survives
    handles: Tuple[int, ...] = ()
    #: None, or before | after | late: refused without a job, after its invalidate, before its invalidate
    refuse: Optional[str] = None
    #: the acknowledgement comes this long after the submission
    ack: float = 0.02
    #: the submit event comes this long after the submission
    seen: float = 0.01
    #: events are delivered once more, as after a lost connection
    twice: bool = False


Plans = Union[Plan, Sequence[Plan], Callable[[Submit, int], Plan]]


def make_spec(rules: Sequence[Dict[str, Any]], jobs: Optional[Sequence[Any]] = None, **top: Any) -> Spec:
    """A spec by way of the file that a user would write. A job may be given as its group's name alone."""
    entries = [{"name": j, "command": "x"} if isinstance(j, str) else {"command": "x", **j} for j in jobs or ["a"]]
    text = yaml.safe_dump({"name": "test", **top, "jobs": entries, "rules": list(rules)}, sort_keys=False)
    return load(text, "test.yaml").spec


def act(name: str, label: Optional[str] = None, **keys: Any) -> Dict[str, Any]:
    """An action as it stands in a file."""
    return {"name": name, **({"label": label} if label else {}), **keys}


def rule(trigger: str, *actions: Dict[str, Any], **keys: Any) -> Dict[str, Any]:
    """A rule as it stands in a file."""
    return {"trigger": trigger, **keys, "actions": list(actions)}


def _plain(engine: Engine) -> Dict[str, Any]:
    """What an engine remembers in plain types, whether a snapshot has it or not."""
    found = {}
    for name in set(vars(engine)) - {"_out", "spec", "groups", "held", "waiting", "wanted_events"}:
        with contextlib.suppress(TypeError):  # no plain type: its own part of the snapshot
            found[name] = json.dumps(getattr(engine, name), default=sorted)
    return found


class _QueueJob:
    def __init__(self, id: int, plan: Plan, t: float) -> None:
        self.id = id
        self.plan = plan
        self.state = "pending"
        self.t = t
        self.history: List[JobEvent] = []


class World:
    """An engine, the queue around it, and all that happened."""

    def __init__(
        self,
        spec: Spec,
        plans: Optional[Dict[str, Plans]] = None,
        *,
        by_hand: bool = False,
        checks: bool = True,
        begin: bool = True,
        functions: Optional[Dict[str, Callable[[Dict[str, Any]], Any]]] = None,
    ) -> None:
        self.spec = spec
        self.engine = Engine(spec, "ens")
        self.t = T0
        self.by_hand = by_hand
        self.checks = checks
        self.events: List[Event] = []
        self.actions: List[Action] = []
        self.answers: List[List[Action]] = []
        self._plans = plans or {}
        #: what custom functions do: from a request to the data of `Answered`; None never answers
        self._functions = functions or {}
        #: requests of the calls so far
        self.called: List[Dict[str, Any]] = []
        self._heap: List[Tuple[float, int, Any]] = []
        self._count = itertools.count()
        self._ids = itertools.count(100)
        self._jobs: Dict[int, _QueueJob] = {}
        self._timers: Dict[str, int] = {}
        self._keys: Dict[Key, Submit] = {}
        self._per_group: Dict[str, int] = {}
        self._taken = 0
        if begin:
            self.feed(Begin(T0))

    # ---- time

    def feed(self, event: Event) -> List[Action]:
        """Give the engine this event now; its answer."""
        self.t = max(self.t, event.t)
        before = self.engine.final
        answer = self.engine.handle(event)
        self.events.append(event)
        self.answers.append(answer)
        self.actions.extend(answer)
        self._check_answer(event, answer, before)
        for action in answer:
            if isinstance(action, Submit):
                assert action.key not in self._keys, f"{action.key} is submitted twice"
                self._keys[action.key] = action
            if isinstance(action, SetTimer):
                self._timer(action)
            elif not self.by_hand:
                self._perform(action)
        if self.checks:
            self.check()
        return answer

    def step(self) -> bool:
        """Let the next thing happen; False if there is none."""
        while self._heap:
            t, number, what = heapq.heappop(self._heap)
            if isinstance(what, TimerExpired):
                if self._timers.get(what.timer) != number:
                    continue
                del self._timers[what.timer]
            self.t = max(self.t, t)
            if callable(what):
                what = what()
                if what is None:
                    continue
            self.feed(what)
            return True
        return False

    def run(self, until: Optional[float] = None, most: int = 200_000) -> World:
        """Until the ensemble has ended, or until that many seconds after the begin."""
        for _ in range(most):
            if until is not None and (not self._heap or self._heap[0][0] > T0 + until):
                self.t = max(self.t, T0 + until)
                return self
            if until is None and self.engine.final is not None:
                return self
            if not self.step():
                assert until is not None or self.engine.final is not None, "nothing happens, and it has not ended"
                return self
        raise AssertionError(f"no end after {most} events")

    def at(self, seconds: float, what: Union[Event, Callable[[], Optional[Event]]]) -> None:
        """Let an event, or what a function answers, happen that many seconds after the begin."""
        heapq.heappush(self._heap, (T0 + seconds, next(self._count), what))

    def command(self, name: str, **data: Any) -> List[Action]:
        """A command of the user, now."""
        return self.feed(Command(self.t, name, data))

    def of(self, kind: Type[Any]) -> List[Any]:
        return [action for action in self.actions if isinstance(action, kind)]

    def records(self, type: str, **having: Any) -> List[Dict[str, Any]]:
        """The data of the records of a type, each with its time as seconds after the begin under `t`."""
        found = []
        for r in self.of(Record):
            if r.type == type and all(r.data.get(name) == value for name, value in having.items()):
                found.append({"t": r.t - T0, **r.data})
        return found

    def fired(self, rule: str) -> List[float]:
        """When the rule fired: seconds after the begin."""
        return [r["t"] for r in self.records("rule", rule=rule)]

    def fired_rules(self) -> List[str]:
        """The rules that fired, in order."""
        return [r["rule"] for r in self.records("rule")]

    def logged(self) -> List[str]:
        return [r["text"] for r in self.records("log")]

    def rows(self) -> List[Dict[str, Any]]:
        return [action.row for action in self.of(Finished)]

    def results(self) -> Dict[str, int]:
        counts: Dict[str, int] = {}
        for row in self.rows():
            counts[row["result"]] = counts.get(row["result"], 0) + 1
        return counts

    def submits(self, group: Optional[str] = None) -> List[Submit]:
        return [s for s in self.of(Submit) if group in (None, s.group)]

    def counts(self, group: str = "a") -> Dict[str, int]:
        return self.engine.tally.counts[group]

    def take(self) -> List[Action]:
        """What the engine asked of the queue and of the clock since the last `take`; records are left out."""
        new, self._taken = self.actions[self._taken :], len(self.actions)
        return [action for action in new if not isinstance(action, (Record, Finished))]

    # ---- the queue

    def _plan(self, submit: Submit) -> Plan:
        number = self._per_group.get(submit.group, 0)
        self._per_group[submit.group] = number + 1
        plans = self._plans.get(submit.group, Plan())
        if isinstance(plans, Plan):
            return plans
        if callable(plans):
            return plans(submit, number)
        return plans[min(number, len(plans) - 1)]

    def _later(self, seconds: float, what: Any) -> None:
        heapq.heappush(self._heap, (self.t + seconds, next(self._count), what))

    def _timer(self, timer: SetTimer) -> None:
        number = next(self._count)
        self._timers[timer.timer] = number
        heapq.heappush(self._heap, (timer.at, number, TimerExpired(max(timer.at, self.t), timer.timer)))

    def _perform(self, action: Action) -> None:
        if isinstance(action, Submit):
            self._submit(action)
        elif isinstance(action, Cancel):
            self._end(action.id, "cancel", None)
        elif isinstance(action, Kill):
            self._end(action.id, "kill", action.signal)
        elif isinstance(action, Call):
            self._later(0.01, lambda: self._call(action.call))

    def _call(self, id: str) -> Optional[Event]:
        request = calls.request(self.engine, id)
        if request is None:
            return None
        json.dumps(request, allow_nan=False)
        self.called.append(request)
        data = self._functions[request["function"]](request)
        return None if data is None else Answered(self.t, id, data)

    def _submit(self, submit: Submit) -> None:
        plan, key = self._plan(submit), submit.key
        if plan.refuse == "before":
            self._later(plan.ack, lambda: Refused(self.t, key, "no such queue"))
            return
        job = _QueueJob(next(self._ids), plan, self.t + plan.seen)
        self._jobs[job.id] = job
        self._later(plan.seen, lambda: self._tell(job, "submit", key=key))
        if plan.refuse is not None:
            order = (0.01, 0.02) if plan.refuse == "after" else (0.02, 0.01)
            self._later(plan.seen + order[0], lambda: self._tell(job, "invalidate"))
            self._later(plan.seen + order[1], lambda: Refused(self.t, key, "too many nodes"))
            return
        self._later(plan.ack, lambda: Acknowledged(self.t, key, job.id))
        for name in ("validate", "depend", "priority"):
            self._later(plan.seen, lambda name=name: self._tell(job, name))
        self._later(plan.wait + plan.seen, lambda: self._start(job))

    def _tell(
        self, job: _QueueJob, name: str, context: Optional[Dict[str, Any]] = None, key: Optional[Key] = None
    ) -> JobEvent:
        event = JobEvent(self.t, job.id, name, context or {}, key)
        job.history.append(event)
        if job.plan.twice:
            self._later(0.0, event)
        return event

    def _start(self, job: _QueueJob) -> Optional[Event]:
        if job.state != "pending":
            return None
        job.state = "running"
        self._later(0.0, lambda: self._tell(job, "start"))
        if job.plan.run is not None:
            self._later(job.plan.run, lambda: self._finish(job, job.plan.status))
        return self._tell(job, "alloc", {"ranks": "0"})

    def _finish(self, job: _QueueJob, status: int, exception: Optional[Tuple[str, str]] = None) -> Optional[Event]:
        if job.state != "running":
            return None
        job.state = "inactive"
        kind = exception or job.plan.exception
        self._later(0.0, lambda: self._tell(job, "finish", {"status": status}))
        self._later(0.01, lambda: self._tell(job, "clean"))
        if kind is None:
            return None
        return self._tell(job, "exception", {"type": kind[0], "severity": 0, "note": kind[1]})

    def _end(self, id: int, action: str, signal: Optional[int]) -> None:
        job = self._jobs.get(id)
        if job is None or job.state == "inactive" or (action == "kill" and job.state != "running"):
            self._later(0.01, lambda: ActionDone(self.t, id, action, "the job is inactive"))
            return
        self._later(0.005, lambda: ActionDone(self.t, id, action))
        if action == "kill" and signal in job.plan.handles:
            return
        if job.state == "running":
            why = ("cancel", "") if action == "cancel" else None
            self._later(0.01, lambda: self._finish(job, 15 if signal is None else signal, why))
            return
        job.state = "inactive"
        self._later(0.01, lambda: self._tell(job, "exception", {"type": "cancel", "severity": 0, "note": ""}))
        self._later(0.02, lambda: self._tell(job, "clean"))

    # ---- what must always hold

    def _check_answer(self, event: Event, answer: List[Action], before: Optional[str]) -> None:
        revived = isinstance(event, Command) and event.name == "resume"
        if before is not None and not revived:
            assert answer == [], f"after its end ({before}) the engine answers {event} with {answer}"
        ends = [i for i, a in enumerate(answer) if isinstance(a, Record) and a.data.get("state") in END_STATES]
        if ends:
            assert ends == [len(answer) - 1], f"the final state is not the last thing said: {answer}"
        for action in answer:
            json.dumps(action, allow_nan=False)
            if isinstance(action, Record):
                assert action.type in ("submitted", "rule", "action", "job", "state", "log", "error")
        json.dumps(to_json(event), allow_nan=False)

    def check(self) -> None:
        """Whatever happened, this holds between two events."""
        engine = self.engine
        alive = {life.SUBMITTING, life.WITHDRAWN, life.PENDING, life.RUNNING}
        for group, counts in engine.tally.counts.items():
            jobs = engine.group_jobs[group]
            states = [job.state for job in jobs.values()]
            where = f"{group}: {counts}, {states}"
            assert min(counts.values()) >= 0, where
            assert counts["submitted"] == counts["pending"] + counts["running"] + counts["finished"], where
            assert counts["finished"] == counts["success"] + counts["failed"] + counts["cancelled"], where
            assert counts["timeout"] <= counts["failed"], where
            assert counts["active"] == engine.unfinished[group] >= counts["pending"] + counts["running"], where
            held = engine.held.waiting.get(group, 0)
            held += sum(batch.group == group for batch in engine.waiting)
            assert counts["active"] == held + sum(state in alive for state in states), where
            # a lost job stays pending until its next attempt has begun: that one waits, or was sent
            again = sum(b.jobs for b in engine.held if b.group == group and b.attempt)
            again += sum(batch.group == group for batch in engine.waiting)
            again += sum(job.state == life.SUBMITTING and job.key.attempt > 0 for job in jobs.values())
            assert counts["pending"] == again + sum(s in (life.PENDING, life.WITHDRAWN) for s in states), where
            assert counts["running"] == sum(s == life.RUNNING for s in states), where
            assert all(job.group == group and engine.jobs[key] is job for key, job in jobs.items()), where
        assert sum(map(len, engine.group_jobs.values())) == len(engine.jobs)
        assert all(job.id == id and engine.jobs.get(job.key) is job for id, job in engine.by_id.items())
        assert sum(job.id is not None for job in engine.jobs.values()) == len(engine.by_id)
        assert sum(job.state == life.SUBMITTING for job in engine.jobs.values()) == engine.unanswered
        first = engine.waiting.first
        assert first is None or engine.final == "halted" or engine.timers["retry:"] <= first
        assert sum(engine.held.waiting.values()) == engine.held.total == sum(b.jobs for b in engine.held)
        assert engine.sent == len(self._keys)
        assert engine.unanswered <= ending.WINDOW
        rows = [row for row in self.rows() if row["result"] is not None]
        gone = {(row["rule"], row["firing"], row["index"], row["attempt"]) for row in rows}
        assert len(gone) == len(rows) == len(self.rows()), "a job has left twice, or without a result"
        assert len(rows) + len(engine.jobs) == engine.sent
        for group, counts in engine.tally.counts.items():
            ended = [row["result"] for row in rows if row["group"] == group]
            ended += [j.result for j in engine.group_jobs[group].values() if j.result is not None]
            assert counts["retried"] == ended.count("retried"), (group, counts, ended)
            # one that waits to be tried again and is dropped has failed with its last attempt
            assert counts["finished"] >= len(ended) - ended.count("retried"), (group, counts, ended)
        if engine.final is not None:
            assert not engine.jobs, "it has ended, and jobs are left"
            assert engine.t_end is not None
            assert engine.final == "halted" or not (engine.held.total or engine.waiting or engine.timers)
            assert not engine.calls.pending, "it has ended, and functions are not answered"
        pending = {f"{one.rule}/{one.firing}" for one in engine.calls.pending.values()}
        assert pending == set(engine.calls.firings)
        assert engine.calls.rows == len(self.rows())
        state = json.loads(json.dumps(snapshot(engine), allow_nan=False))
        again = restore(self.spec, state)
        assert snapshot(again) == state, "a restored engine is another one"
        assert _plain(again) == _plain(engine), "a restored engine has forgotten something"

    def over(self) -> None:
        """Nothing else happens: what is still to come changes nothing, and no job is left in the queue."""
        self.check()
        foreseen.check(self.engine)
        if self.engine.final is None:
            return
        states = {job.state for job in self._jobs.values() if job.plan.refuse is None}
        assert states <= {"inactive"}, f"jobs are left in the queue: {states}"
        said = len(self.actions)
        while self.step():
            continue
        assert len(self.actions) == said, f"more was said after the end: {self.actions[said:]}"
