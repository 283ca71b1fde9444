# SPDX-License-Identifier: MIT
"""What an event costs, and what is kept: by counting, not by the clock."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Set

from ensemble.engine.actions import Finished, Submit
from ensemble.engine.engine import Engine
from ensemble.engine.events import Acknowledged, Begin, Event, JobEvent, Refused
from ensemble.engine.rules import RuleBook
from ensemble.engine.snapshot import snapshot
from ensemble.engine.values import Values
from t.engine.harness import T0, act, make_spec, rule

LOG = act("log", value="x")


def test_an_event_looks_at_the_rules_of_its_own_group_alone(monkeypatch: Any) -> None:
    """1000 groups, 10000 rules: an event of a job of g7 asks rules of g7, and makes no list of all the others."""
    groups = [f"g{n}" for n in range(1000)]
    rules: List[Dict[str, Any]] = [rule("start", act("submit", "g7"))]
    for g in groups:
        for trigger in ("job-run", "job-finish", "job-success", "job-fail", "group-complete"):
            rules.append(rule(trigger, LOG, name=g))
        for path in ("success", "failed", "active", "running"):
            rules.append(rule("metric", LOG, name=f"count.{g}.{path}", when="> 100"))
        rules.append(rule("metric", LOG, name=f"mean.{g}.duration", when="> 1e6"))
    spec = make_spec(rules, groups)
    engine = Engine(spec, "ens")
    asked: Set[str] = set()
    touched: List[int] = []

    class Watched(List[Any]):
        def __getitem__(self, number: Any) -> Any:
            asked.add(spec.rules[number].name or "")
            touched.append(number)
            return super().__getitem__(number)

        def __iter__(self) -> Any:
            walks.append(1)
            return super().__iter__()

    walks: List[int] = []
    (key,) = [a.key for a in engine.handle(Begin(T0)) if isinstance(a, Submit)]
    engine.book.rules = Watched(engine.book.rules)
    value = Values.metric
    monkeypatch.setattr(Values, "metric", lambda self, metric: (asked.add(f"{metric}"), value(self, metric))[1])
    life: List[Event] = [JobEvent(T0 + 1, 1, "submit", {}, key), Acknowledged(T0 + 1, key, 1)]
    life += [JobEvent(T0 + 2 + n, 1, name, {"status": 0}) for n, name in enumerate(("alloc", "start", "finish"))]
    for event in life:
        engine.handle(event)
    assert asked, "nothing was asked: the test looks in the wrong place"
    assert {a for a in asked if "g7" not in a.split(".") and a != "g7"} == set()
    assert len(touched) <= 20
    assert walks == []


def test_rules_are_found_without_a_walk(monkeypatch: Any) -> None:
    spec = make_spec([rule("job-success", LOG, name=f"g{n}") for n in range(50)], [f"g{n}" for n in range(50)])
    book = RuleBook(spec)
    assert book.on("job-success", "g7") == [7]
    assert book.on("job-fail", "g7") == []
    assert book.on("idle") == []


def run_through(engine: Engine, jobs: int) -> Dict[int, int]:
    """So many jobs, one after the other, from submission to clean; the sizes of snapshots by jobs ended."""
    sizes: Dict[int, int] = {}
    todo = [a for a in engine.handle(Begin(T0)) if isinstance(a, Submit)]
    t, ended = T0, 0
    while ended < jobs:
        assert len(todo) == 1
        key, id = todo[0].key, 10**12 + ended
        found: List[Any] = []
        told: List[Event] = [JobEvent(t, id, "submit", {}, key), Acknowledged(t, key, id)]
        told += [JobEvent(t, id, name, {"status": (ended % 3 == 0) << 8}) for name in ("start", "finish", "clean")]
        for event in told:
            t += 1.0 + ended % 7
            found += engine.handle(event._replace(t=t))
        todo = [a for a in found if isinstance(a, Submit)]
        assert sum(isinstance(a, Finished) for a in found) == 1
        ended += 1
        if ended in (1000, jobs):
            text = json.dumps(snapshot(engine))
            # numbers grow by digits, and keys and ids have them too: sizes are compared with each as one
            sizes[ended] = len(re.sub(r"-?(0x)?[0-9a-f]*[0-9][0-9a-f.]*(p[+-]\d+|e[+-]\d+)?", "0", text))
            for held in (engine.jobs, engine.by_id, engine.group_jobs["a"]):
                assert len(held) <= 1
    return sizes


def test_what_is_kept_does_not_grow_with_history() -> None:
    spec = make_spec(
        [
            rule("start", act("submit", "a")),
            rule("job-finish", act("submit", "a"), repetitions="unlimited"),
            rule("job-exception", LOG, repetitions="unlimited"),
            *(
                rule("metric", LOG, name=f"{stat}.a.finished.duration", when="> 1e12", repetitions="unlimited")
                for stat in ("mean", "median", "mad", "iqr", "p99", "ewm", "variance")
            ),
        ]
    )
    sizes = run_through(Engine(spec, "ens"), 20_000)
    assert abs(sizes[20_000] - sizes[1000]) <= 20, sizes


def test_refusals_that_are_remembered_are_bounded() -> None:
    spec = make_spec([rule("start", act("submit", "a")), rule("job-fail", act("submit", "a"), repetitions="unlimited")])
    engine = Engine(spec, "ens")
    todo = [a for a in engine.handle(Begin(T0)) if isinstance(a, Submit)]
    for n in range(3000):
        answer = engine.handle(Refused(T0 + n, todo[0].key, "no"))
        todo = [a for a in answer if isinstance(a, Submit)]
    assert len(engine.refused) <= 1000
    assert len(engine.jobs) == 1
