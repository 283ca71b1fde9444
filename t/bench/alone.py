# SPDX-License-Identifier: MIT
"""Benchmarks without Flux: the engine's rate, the cost of many rules, the memory of a job, an event's way through.

Time is processor time of this process, because the target speaks of one core and the machine may be shared. An event
is a job's event; acknowledgements and timers are fed too and not counted.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import Callable, FrozenSet, List, Mapping, Sequence, Tuple

from ensemble.engine.actions import Action, Submit
from ensemble.engine.engine import Engine
from ensemble.engine.events import Begin, Event, JobEvent, JobId, Key
from ensemble.members.base import Deliver, Member, Submitter, Timer
from ensemble.service.running import Running
from ensemble.service.scaling import Scaling
from ensemble.service.store import MemoryStore
from ensemble.spec.models import Spec
from t.bench import journal
from t.bench.figures import Figure, by_turns, progress, tell

#: jobs of a recorded journal: 4 base events each
JOBS = 20_000
GROUPS, RULES = 1000, 10_000


def bag(jobs: int) -> str:
    """One rule submits all; one more watches a count."""
    return f"""
jobs:
  - {{name: work, command: 'true', count: {jobs}}}
rules:
  - {{trigger: start, action: {{name: submit, label: work}}}}
  - {{trigger: metric, name: count.work.success, when: {jobs}, action: {{name: log, value: all done}}}}
"""


def chains(jobs: int, width: int = 64) -> str:
    """Every job that ends submits the next: a firing a job."""
    return f"""
jobs:
  - {{name: first, command: 'true', count: {width}}}
  - {{name: link, command: 'true'}}
rules:
  - {{trigger: start, action: {{name: submit, label: first}}}}
  - {{trigger: job-finish, repetitions: {jobs - width}, action: {{name: submit, label: link}}}}
"""


def many(groups: int, rules: int, jobs: int) -> str:
    """`rules` rules, each on a count of one of `groups` groups; the same number of jobs and firings for any."""
    lines = ["jobs:"]
    lines += [f"  - {{name: g{g}, command: 'true', count: {jobs // groups}}}" for g in range(groups)]
    lines += ["limits: {max_jobs: 1000000}", "rules:", "  - trigger: start", "    actions:"]
    lines += [f"      - {{name: submit, label: g{g}}}" for g in range(groups)]
    each = max(1, rules // groups)
    for rule in range(rules):
        # one rule of a group reads what every job changes, the others what none does: the index is to tell them apart
        state = "success" if rule < groups else "failed"
        lines.append(
            f"  - {{trigger: metric, name: count.g{rule % groups}.{state}, when: {jobs + each}, "
            "action: {name: log, value: never}}"
        )
    return "\n".join(lines)


def rate(spec: Spec, events: List[Event]) -> float:
    """Job events a second of processor time, handled by a new engine."""
    engine = Engine(spec, journal.ID)
    handle = engine.handle
    gc.collect()
    gc.freeze()
    begun = time.process_time()
    for event in events:
        handle(event)
    spent = time.process_time() - begun
    gc.unfreeze()
    if engine.final != "complete":
        raise AssertionError(f"the replay ended {engine.state}: {engine.reason}")
    return journal.job_events(events) / spent


def _recorded(text: str) -> Tuple[Spec, List[Event]]:
    spec = journal.spec(text)
    return spec, journal.record(spec)


def engine(repetitions: int) -> None:
    """Rate on recorded journals."""
    for name, text, note in (
        ("engine", bag(JOBS), f"{JOBS} jobs of one firing"),
        ("engine-chain", chains(JOBS), f"{JOBS} jobs, a firing each"),
    ):
        spec, events = _recorded(text)
        rates = [rate(spec, events) for _ in range(repetitions)]
        tell(Figure(name, "events/s", rates, at_least=100_000, of_ratio=False, note=note))


def rules(repetitions: int) -> None:
    """What an event costs with many rules, against one."""
    one = _recorded(many(1, 1, JOBS))
    progress(f"reading a file of {RULES} rules")
    lots = _recorded(many(GROUPS, RULES, JOBS))
    measured, bare = by_turns(lambda: 1e6 / rate(*lots), lambda: 1e6 / rate(*one), repetitions, "us")
    note = f"cost of an event, {RULES} rules in {GROUPS} groups against one rule"
    tell(Figure("rules", "us/event", measured, bare, at_most=1.3, note=note))


def memory(repetitions: int) -> None:
    """Bytes that an active job holds in the engine, and what is left of a finished one."""
    active = [_of_active(5000) for _ in range(repetitions)]
    tell(Figure("memory-active", "B/job", active, at_most=1000, of_ratio=False, note="5000 running jobs, engine alone"))
    finished = [_of_finished(JOBS) for _ in range(repetitions)]
    note = f"growth from {JOBS // 4} to {JOBS * 3 // 4} finished jobs, 64 active, engine alone"
    tell(Figure("memory-finished", "B/job", finished, at_most=1, of_ratio=False, note=note))


def _of_active(jobs: int) -> float:
    engine = Engine(journal.spec(bag(jobs)), journal.ID)
    gc.collect()
    tracemalloc.start()
    begun = tracemalloc.get_traced_memory()[0]
    asked = [action for action in engine.handle(Begin(1e9)) if isinstance(action, Submit)]
    for number in range(jobs):
        # what this loop itself holds is gone at its end
        key, t, id = asked.pop().key, 1e9 + number / 7, 1_000_000 + number
        asked += [action for action in engine.handle(JobEvent(t, id, "submit", {}, key)) if isinstance(action, Submit)]
        engine.handle(JobEvent(t + 0.01, id, "start"))
    del key
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - begun
    tracemalloc.stop()
    if asked or len(engine.jobs) != jobs:
        raise AssertionError(f"{len(engine.jobs)} jobs are active, not {jobs}")
    return held / jobs


def _of_finished(jobs: int) -> float:
    spec, events = _recorded(chains(jobs))
    engine = Engine(spec, journal.ID)
    looks, finished = [], 0
    gc.collect()
    tracemalloc.start()
    for event in events:
        engine.handle(event)
        if type(event) is JobEvent and event.name == "clean":
            finished += 1
            if finished in (jobs // 4, jobs * 3 // 4):
                gc.collect()
                looks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return (looks[1] - looks[0]) / (jobs // 2)


class _Deaf(Member):
    """A queue that takes everything and says nothing: the recorded journal speaks for it."""

    name = "deaf"
    capabilities = frozenset(("submit", "cancel", "kill"))

    def start(self, deliver: Deliver) -> None:
        """Nothing is ever delivered."""

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        """Every ensemble is welcome."""

    def recover(self, ensemble: str, known: Mapping[JobId, Key], doubtful: Sequence[Submit], t: float) -> None:
        """Nothing was there before."""

    def perform(self, ensemble: str, action: Action) -> None:
        """Taken, and forgotten."""

    def close(self, ensemble: str) -> None:
        """Nothing to forget."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """A timer that never runs out: expiries are in the journal."""
        return _Never()

    def stop(self) -> None:
        """Nothing to stop."""


class _Never(Timer):
    def cancel(self) -> None:
        """Nothing to cancel."""


def path(repetitions: int) -> None:
    """The whole path of an event through the service, but for the queue: engine, records, rows, store."""
    spec, events = _recorded(chains(JOBS))
    spent = [_through_service(spec, events) for _ in range(repetitions)]
    note = f"{JOBS} jobs, a firing each, through engine and {MemoryStore.__name__}, no queue"
    tell(Figure("path", "us/event", spent, note=note))


def _through_service(spec: Spec, events: List[Event]) -> float:
    store = MemoryStore()
    given = {"name": spec.name, "file": "bench.yaml", "t_submit": 1e9}
    store.create(journal.ID, given, lambda error: None)
    ends: List[Running] = []
    member = _Deaf()
    running = Running(
        Engine(spec, journal.ID),
        given,
        member,
        store,
        Scaling(member, lambda ensemble, event: None, lambda level, text: progress(text), lambda: 1e9),
        log=lambda level, text: progress(text),
        clock=lambda: 1e9,
        on_end=ends.append,
    )
    gc.collect()
    gc.freeze()
    begun = time.process_time()
    for event in events:
        running.feed(event)
    spent = time.process_time() - begun
    gc.unfreeze()
    if not ends or running.engine.final != "complete":
        raise AssertionError(f"the replay ended {running.engine.state}: {running.engine.reason}")
    return 1e6 * spent / journal.job_events(events)
