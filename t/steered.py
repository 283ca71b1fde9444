# SPDX-License-Identifier: MIT
"""Ensembles that are steered by functions, run alike on both queues, and what must have become of them."""

from __future__ import annotations

from typing import Any, Dict, List

#: each generation is made from the last one's results, which a function has as rows
GENERATIONS = """
name: generations
jobs:
  - {name: trial, command: "sh -c 'exit {x}'", parameters: {custom: next_points}}
failures: all
custom: |
  def next_points(results, state):
      state.setdefault("seen", []).append(sorted(row["exit_code"] for row in results))
      n = len(state["seen"])
      print(f"generation {n}: {state['seen'][-1]}")
      return [{"x": n * 10 + k} for k in range(5)] if n <= 3 else None
rules:
  - {trigger: start, action: {name: submit, label: trial}}
  - {trigger: group-complete, name: trial, repetitions: unlimited, action: {name: submit, label: trial}}
"""
#: every kind of answer, and a rule that is added and survives
ANSWERS = """
name: answers
jobs:
  - {name: first, command: "true", count: 3}
  - {name: second, command: "true"}
custom: |
  import os
  calls = []
  def begin(action, args, **kwargs):
      assert action.value() == 7 and args == {"n": 3}
      return Action("submit", label="first", count=args["n"])
  def more(event, metrics, results, state):
      assert event["group"] == "first" and len(results) == 3, (event, results)
      assert {row["result"] for row in results} == {"success"}
      assert metrics.get("count.first.success") == 3 == metrics.models["count"]["first"]["success"].get()
      assert metrics.models["mean"]["first-duration"].get() >= 0
      state["called"] = state.get("called", 0) + 1
      return [
          Rule("job-success", name="second", id="after", action=Action("custom", label="each"), repetitions="unlimited"),
          Rule({"trigger": "metric", "name": "count.second.success", "when": 4,
                "action": {"name": "log", "value": "{count.second.success} of second"}}),
          Rule("job-alloc", name="second", action=Action("log", value="second runs")),
          Action({"name": "submit", "label": "second", "count": 4}),
      ]
  def each(event):
      print("job", event["job"]["exit_code"], event["id"] > 0)
  def last(state, handle):
      print("handle", handle is not None and handle.attr_get("rank"))
rules:
  - {trigger: start, action: {name: custom, label: begin, value: 7, args: {n: 3}}}
  - {trigger: group-complete, name: first, action: {name: custom, label: more}}
  - {trigger: end, action: {name: custom, label: last}}
"""
#: a function that is killed with the service, and is called again
SLOW = """
name: slow
jobs:
  - {name: work, command: "true"}
custom: |
  import os, time
  def slow(state):
      with open("CALLS", "a") as file:
          print(os.getpid(), file=file)
      if len(open("CALLS").readlines()) == 1:
          time.sleep(50)
      state["n"] = state.get("n", 0) + 1
      return [Action("submit", label="work", count=2),
              Rule("group-complete", name="work", action=Action("custom", label="check"), id="added")]
  def check(results):
      print("checked", len(results))
rules:
  - {trigger: start, action: {name: custom, label: slow}}
"""
#: what a rule does when its function does something evil, beside one that goes on
EVIL = """
name: evil
jobs:
  - {name: work, command: "true"}
custom: |
  import os, signal, subprocess, sys, time
  def evil():
      BODY
rules:
  - {trigger: start, action: {name: custom, label: evil}, on_error: ignore}
"""
DEEDS: Dict[str, str] = {
    "exits": "os._exit(3)",
    "kills its parent": "os.kill(os.getppid(), signal.SIGKILL); time.sleep(50)",
    "kills its parent's group": "os.killpg(os.getpgid(os.getppid()), signal.SIGKILL); time.sleep(50)",
    "kills its own group": "os.killpg(0, signal.SIGKILL)",
    "eats memory": "x = bytearray(1 << 44)",
    "closes everything": "os.closerange(0, 100); time.sleep(50)",
    "raises": "1 / 0",
    "answers nonsense": "return Action('submit', label='nobody')",
}


def texts(records: List[Dict[str, Any]], type: str) -> List[str]:
    return [record["text"] for record in records if record["type"] == type]


def check_generations(status: Dict[str, Any], jobs: List[Dict[str, Any]], records: List[Dict[str, Any]]) -> None:
    assert status["state"] == "complete"
    assert sorted(job["params"]["x"] for job in jobs) == [10 * n + k for n in (1, 2, 3) for k in range(5)]
    told = [[], [10, 11, 12, 13, 14], [20, 21, 22, 23, 24], [30, 31, 32, 33, 34]]
    assert texts(records, "log") == [f"generation {n}: {codes}" for n, codes in enumerate(told, 1)]


def check_answers(status: Dict[str, Any], records: List[Dict[str, Any]], rank: str) -> None:
    assert status["state"] == "complete", status["reason"]
    assert {group: counts["success"] for group, counts in status["groups"].items()} == {"first": 3, "second": 4}
    assert [rule["id"] for rule in status["rules"]] == [
        "rule-1",
        "rule-2",
        "rule-3",
        "after",
        "rule-2-1-2",
        "rule-2-1-3",
    ]
    lines = texts(records, "log")
    assert lines.count("job 0 True") == 4
    assert "4 of second" in lines
    assert lines.count("second runs") == 1
    assert lines[-1] == f"handle {rank}"


def check_example(rows: List[Dict[str, Any]], records: List[Dict[str, Any]]) -> None:
    """Ten generations of twenty, each from the scores of the one before, which the jobs themselves reported."""
    assert len(rows) == 200
    for row in rows:
        x, y = row["params"]["x"], row["params"]["y"]
        assert abs(row["values"]["score"] - ((x - 1.5) ** 2 + (y + 0.5) ** 2)) < 1e-3 * (1 + row["values"]["score"])
    lines = texts(records, "log")
    assert [line.split(",")[0] for line in lines[:-1]] == [f"generation {n}: 20 scores" for n in range(1, 11)]
    best = [float(line.split()[-1]) for line in lines[:-1]]
    assert best == sorted(best, reverse=True)
    assert best[-1] < 0.05 < best[0]
    assert lines[-1].startswith("200 trials, the best score is ")
