# SPDX-License-Identifier: MIT
"""Runs that are explained and replayed, on whatever queue: the files, and what must be told of them."""

from __future__ import annotations

from typing import Any, Dict

FILE = """
name: past
variables: {rounds: 0}
jobs:
  - {name: sim, command: "true", count: 4}
  - {name: post, command: "true"}
rules:
  - {id: begin, trigger: start, action: {name: submit, label: sim}}
  - id: again
    trigger: group-complete
    name: sim
    when: var.rounds < 3
    repetitions: unlimited
    actions: [{name: set, label: rounds, value: var.rounds + 1}, {name: submit, label: sim, count: 2}]
  - {id: post, trigger: metric, name: count.sim.success, when: ">= 4", action: {name: submit, label: post}}
  - {id: many, trigger: metric, name: count.sim.success, when: "> 99 and mean.post.duration < 1e9", action: {name: stop}}
  - {id: fails, trigger: job-fail, name: post, action: {name: stop}}
  - {id: rests, trigger: job-success, name: sim, enabled: false, action: {name: stop}}
  - {id: hold, trigger: signal, name: go, keep_alive: true, action: {name: log, value: gone}}
"""
OTHER = """
name: other
jobs:
  - {name: sim, command: "true", count: 4}
  - {name: more, command: "true", count: 5}
rules:
  - {id: begin, trigger: start, action: {name: submit, label: sim}}
  - id: post
    trigger: metric
    name: count.sim.success
    when: ">= 2"
    actions: [{name: submit, label: more}, {name: log, value: "at {count.sim.success}"}]
  - {id: hold, trigger: signal, name: go, keep_alive: true, action: {name: log, value: gone}}
"""
#: rules of FILE but for the last
RULES = ("begin", "again", "post", "many", "fails", "rests")


def rounds_are_over(status: Dict[str, Any]) -> bool:
    """Have all jobs of FILE run? It then waits for its signal."""
    return bool(status["groups"]["sim"]["success"] == 10 and status["groups"]["post"]["success"] == 1)


def check_explained(found: Dict[str, Dict[str, Any]], ended: bool) -> None:
    """What must be told of each rule of FILE, once its jobs have run."""
    assert found["begin"]["why"] == "spent"
    assert found["begin"]["firings"][0]["did"] == ["submit sim (4 jobs)"]
    again = found["again"]
    assert (again["fired"], again["holds"], again["condition"]["terms"][0]["value"]) == (3, False, 3)
    assert again["looked"]["outcome"] == "false"
    assert [one["did"] for one in again["firings"]] == [
        [f"set rounds to {n}", "submit sim (2 jobs)"] for n in (1, 2, 3)
    ]
    assert "var.rounds is 3, so 'var.rounds < 3' is false" in again["answer"]
    assert found["post"]["fired"] == 1
    many = found["many"]
    assert [term["value"] for term in many["condition"]["terms"]] == [False, True]
    assert many["looked"]["event"] == "count.sim.success = 10"
    assert "because count.sim.success is 10, so 'count.sim.success > 99' is false" in many["answer"]
    assert found["fails"]["looked"] is None
    assert "no job of post has failed" in found["fails"]["answer"]
    assert found["rests"]["why"] == "disabled"
    for rule in ("again", "many", "fails"):
        assert (found[rule]["why"] == "ended") == ended, rule
        assert ("The ensemble has ended (complete)" in found[rule]["answer"]) == ended


def same(one: Dict[str, Any], other: Dict[str, Any]) -> bool:
    """Is the same told of a rule, but for what time alone changes?"""
    return all(one[key] == other[key] for key in one if key not in ("ensemble", "cooldown"))


def check_replayed(found: Dict[str, Any], ended: bool) -> None:
    """FILE against its own rules."""
    assert found["check"]["same"], found["check"]["differences"]
    assert found["check"]["firings"] == 5 + ended
    assert {rule["rule"]: rule["firings"] for rule in found["rules"]} == {
        **dict.fromkeys(("many", "fails", "rests"), 0), "begin": 1, "again": 3, "post": 1, "hold": int(ended),
    }  # fmt: skip


def check_rehearsed(found: Dict[str, Any], ended: bool) -> None:
    """FILE's run against OTHER."""
    rules = {rule["rule"]: rule for rule in found["rules"]}
    assert rules["begin"]["recorded"]["same"]
    post = rules["post"]
    assert post["firings"] == post["recorded"]["firings"] == 1
    assert post["first"] <= post["recorded"]["first"]
    assert post["did"] == ["submit more (5 jobs)", "log: at 2"]
    assert rules["again"]["firings"] is None
    assert rules["again"]["recorded"]["firings"] == 3
    assert {group["group"]: (group["would"], group["recorded"]) for group in found["groups"]} == {
        "sim": (4, 10), "more": (5, None), "post": (None, 1),
    }  # fmt: skip
    assert found["ignored"] == {"post": 1}
    assert rules["hold"]["firings"] == int(ended)
    assert found["end"] is None, "jobs of `more` have no events, and so no end is known"
