# SPDX-License-Identifier: MIT
"""Files put together at random, and the fates of their jobs.

Two kinds. What `steady` makes does not depend on the order in which things happen: its jobs, firings and end are
those of an undisturbed run. What `wild` makes does, and is held against its own log.
"""

from __future__ import annotations

import random
from typing import Any, Dict, List, NamedTuple, Optional

import yaml

from ensemble.engine.events import Key
from t.engine.harness import act, rule
from t.engine.simulation.manager import Fate

EXIT1 = 1 << 8


class File(NamedTuple):
    """What one user submits."""

    name: str
    text: str
    #: is its result independent of the order of events?
    steady: bool


def make(r: random.Random, name: str, steady: bool) -> File:
    top = _steady(r) if steady else _wild(r)
    return File(name, yaml.safe_dump({"name": name, **top}, sort_keys=False), steady)


def _jobs(r: random.Random, groups: str, most: int = 5) -> List[Dict[str, Any]]:
    return [{"name": group, "command": "true", "count": r.randint(1, most)} for group in groups]


def _for_ever(trigger: str, group: Optional[str], *actions: Dict[str, Any], **keys: Any) -> Dict[str, Any]:
    return rule(trigger, *actions, **({"name": group} if group else {}), repetitions="unlimited", **keys)


def _chain(r: random.Random) -> List[Dict[str, Any]]:
    """Each job that ends well is followed by one of the next group, and each failure by one that repairs."""
    rules = [rule("start", act("submit", "a"), id="go")]
    for one, two in zip("abc", "bcd"):
        rules.append(_for_ever("job-success", one, act("submit", two, count=1), id=f"after-{one}"))
    if r.random() < 0.5:
        rules.append(_for_ever("job-fail", "b", act("submit", "e", count=r.randint(1, 2)), id="repair"))
    return rules


def _stages(r: random.Random) -> List[Dict[str, Any]]:
    """Each group begins when the one before is complete."""
    rules = [rule("start", act("submit", "a"), act("submit", "a", count=2), id="go")]
    for one, two in zip("abcd", "bcde"):
        rules.append(rule("group-complete", act("submit", two), name=one, id=f"stage-{two}"))
    return rules


def _bag(r: random.Random) -> List[Dict[str, Any]]:
    """Many at once, and one rule that counts them."""
    rules = [rule("start", act("submit", "a", count=r.randint(5, 15)), act("submit", "b"), id="go")]
    when = r.randint(1, 3)
    rules.append(rule("metric", act("submit", "c"), name="count.a.success", when=when, id="enough"))
    rules.append(_for_ever("job-finish", "b", act("submit", "d"), id="each-b"))
    return rules


def _steady(r: random.Random) -> Dict[str, Any]:
    rules = r.choice((_chain, _stages, _bag))(r)
    if r.random() < 0.4:
        rules.append(rule("idle", act("submit", "e", count=2), id="idle"))
    if r.random() < 0.4:
        rules.append(rule("end", act("submit", "e", count=1), act("log", value="over"), id="end"))
    top: Dict[str, Any] = {"jobs": _jobs(r, "abcde", 3), "rules": rules}
    top["failures"] = r.choice(("none", "all", 2))
    if r.random() < 0.5:
        top["limits"] = {"max_active": r.randint(1, 4)}
    if r.random() < 0.3:
        top["logging"] = {"debug": True}
    return top


PATHS = (
    "count.a.success", "count.a.failed", "count.b.finished", "count.b.active", "count.a.running", "count.b.pending",
    "mean.a.duration", "median.a.finished.duration", "max.b.pending", "n.b-duration", "max.a.waiting",
    "ensemble.active", "ensemble.submitted", "ensemble.elapsed",
)  # fmt: skip
TRIGGERS = (
    "job-finish", "job-success", "job-fail", "job-cancel", "job-timeout", "job-run", "job-sched", "job-cleanup",
    "job-inactive", "job-exception", "job-submit", "group-complete",
)  # fmt: skip


def _action(r: random.Random, rules: int) -> Dict[str, Any]:
    group = r.choice("ab")
    kind = r.randrange(14)
    if kind < 6:
        return act("submit", group, count=r.randint(1, 3))
    if kind < 8:
        state = r.choice((None, "pending", "running"))
        return act("cancel", r.choice(("a", "b", "all")), **({"state": state} if state else {}))
    if kind == 8 and r.random() < 0.3:
        return act("urgency", group, value=r.choice((0, 5, 31)))
    if kind == 8:
        return act("kill", group, signal=r.choice(("TERM", "USR1", 9)))
    if kind < 12:
        return act(r.choice(("enable", "disable")), f"r{r.randrange(rules)}")
    if kind == 12:
        return act("log", value="{mean.a.duration} {max.b.waiting} {count.a.success}")
    return act(*r.choice((("stop",), ("terminate",))))


def _trigger(r: random.Random) -> Dict[str, Any]:
    kind = r.randrange(10)
    if kind < 4:
        found: Dict[str, Any] = {"trigger": r.choice(TRIGGERS)}
        if r.random() < 0.7:
            found["name"] = r.choice("ab")
        return found
    if kind < 7:
        found = {"trigger": "metric", "name": r.choice(PATHS)}
        when = r.choice((None, 0, 2, "> 1", "<= 3", "!= 2", "> 10"))
        return found if when is None else {**found, "when": when}
    if kind == 7:
        return {"trigger": "timer", "after": r.choice((0, 3, 30))}
    if kind == 8:
        return r.choice(({"trigger": "heartbeat"}, {"trigger": "heartbeat", "every": 6}))
    return r.choice(({"trigger": "idle"}, {"trigger": "end"}))


def _gates(r: random.Random) -> Dict[str, Any]:
    gates: Dict[str, Any] = {}
    if r.random() < 0.6:
        gates["repetitions"] = r.choice((1, 2, 5, "unlimited"))
    if r.random() < 0.3:
        gates["backoff"] = r.randint(0, 2)
    if r.random() < 0.3:
        gates["cooldown"] = r.choice((0.5, 7, 40))
    if r.random() < 0.2:
        gates["enabled"] = r.random() < 0.5
    return gates


def _wild(r: random.Random) -> Dict[str, Any]:
    number = r.randint(2, 6)
    rules = [rule("start", act("submit", "a"), act("submit", "b"), id="r0")]
    for n in range(1, number):
        actions = [_action(r, number) for _ in range(r.randint(1, 2))]
        rules.append({"id": f"r{n}", **_trigger(r), **_gates(r), "actions": actions})
    limits: Dict[str, Any] = {"max_jobs": r.randint(4, 25), "max_firings": r.randint(2, 12)}
    if r.random() < 0.4:
        limits["max_active"] = r.randint(1, 4)
    if r.random() < 0.2:
        limits["max_failures"] = r.choice((1, 3, "20%"))
    if r.random() < 0.2:
        limits["duration"] = r.choice((15, 60))
    if r.random() < 0.2:
        limits["submit_rate"] = r.choice((0.5, 2, 10))
    jobs = [*_jobs(r, "ab", 3), {"name": "a", "command": "false"}]
    if r.random() < 0.3:
        retries = {"max": r.randint(1, 2), "causes": ["fail", "signal", "timeout"], "backoff": r.choice((0, 4))}
        jobs[r.randrange(3)]["retries"] = retries
    return {
        "jobs": jobs,
        "rules": rules,
        "limits": limits,
        "failures": r.choice(("none", "all", "50%")),
        "logging": {"heartbeat": r.choice((0, 5)), "debug": r.random() < 0.2},
    }


def fate(seed: object, steady: bool, key: Key) -> Fate:
    """What becomes of a job: the same for each attempt, and in each run of the story."""
    r = random.Random(f"{seed}/{key.rule}/{key.firing}/{key.index}")
    exception = r.choice((None,) * 7 + (("timeout", "expired"), ("exec", "no such file"), ("memory", "")))
    return Fate(
        wait=r.choice((0.0, 0.05, 1.0, 5.0)),
        run=r.choice((0.0, 0.3, 2.0, 15.0)),
        status=r.choice((0, 0, 0, 0, EXIT1, 9)) if exception is None else 1 << 8,
        exception=exception,
        refuse=r.choice((None,) * 12 + ("before", "after", "late")),
        losses=r.choice((0,) * 8 + (1,)),
        handles=() if steady else r.choice(((), (10, 15))),
    )
