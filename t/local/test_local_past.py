# SPDX-License-Identifier: MIT
"""`explain` and `replay` on the local queue: of a run that goes on, died, was carried on, and has ended; functions."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from t import past
from t.local.test_resume import Site, site  # noqa: F401 - a fixture
from t.unit.test_cli_local import until

pytestmark = pytest.mark.timeout(600)


def explained(place: Site, id: str) -> Dict[str, Any]:
    return {rule: place.json("explain", id, rule) for rule in past.RULES}


def test_running_dead_and_ended(site: Site) -> None:  # noqa: F811
    (site.folder / "other.yaml").write_text(past.OTHER)
    other = str(site.folder / "other.yaml")
    process = site.start("run", site.write(past.FILE))
    until(lambda: site.kept() and site.run("status", "past").returncode == 0)
    until(lambda: past.rounds_are_over(site.json("status", "past")))
    (id,) = site.kept()
    before = explained(site, id)
    past.check_explained(before, ended=False)
    past.check_replayed(site.json("replay", id), ended=False)
    past.check_rehearsed(site.json("replay", id, "--rules", other), ended=False)

    site.kill(process)
    done = site.run("signal", id, "go")
    assert (done.returncode, "its run died" in done.stderr) == (1, True)
    dead = explained(site, id)
    assert all(past.same(before[rule], dead[rule]) for rule in past.RULES)
    past.check_replayed(site.json("replay", id), ended=False)

    process = site.start("resume", id)
    until(lambda: site.run("signal", id, "go").returncode == 0)
    assert process.wait(60) == 0
    past.check_explained(explained(site, id), ended=True)
    past.check_replayed(site.json("replay", id), ended=True)
    past.check_rehearsed(site.json("replay", id, "--rules", other), ended=True)


STEERED = """
name: steered
jobs:
  - {name: step, command: "true", count: 2}
custom: |
  def decide(state):
      state["rounds"] = state.get("rounds", 0) + 1
      if state["rounds"] == 3:
          return Action("stop")
      return Action("submit", label="step", count=2)
rules:
  - {trigger: start, action: {name: submit, label: step}}
  - {id: ask, trigger: group-complete, name: step, repetitions: unlimited, action: {name: custom, label: decide}}
"""


def test_functions_are_not_called(site: Site) -> None:  # noqa: F811
    done = site.run("run", site.write(STEERED))
    assert done.returncode == 0, done.stdout + done.stderr
    found = site.json("explain", "steered", "ask")
    assert [one["did"] for one in found["firings"]][-2:] == [
        ["call decide", "submit step (2 jobs)"],
        ["call decide", "stop"],
    ]
    assert site.json("replay", "steered")["check"]["same"]
    same = site.json("replay", "steered", "--rules", "it.yaml")
    assert (same["answered"], same["not_called"]) == ({"decide": 3}, {})
    assert same["end"]["state"] == "complete"
    (site.folder / "other.yaml").write_text(STEERED.replace("== 3", "== 30"))
    changed = site.json("replay", "steered", "--rules", "other.yaml")
    assert (changed["answered"], changed["not_called"]) == ({}, {"decide": 3})
    assert "function decide was not called (3 times)" in str(changed["notes"])
