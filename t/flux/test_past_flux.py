# SPDX-License-Identifier: MIT
"""`explain` and `replay` in a real instance: of a run that goes on, was taken up by another service, and has ended."""

from __future__ import annotations

import json
from typing import Any, Dict

import pytest

from t import past
from t.flux.test_cli_flux import Inside, inside, until  # noqa: F401 - a fixture

pytestmark = [pytest.mark.flux, pytest.mark.timeout(600)]


def ask(place: Inside, *words: str) -> Any:
    done = place.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def explained(place: Inside, id: str) -> Dict[str, Any]:
    return {rule: ask(place, "explain", id, rule) for rule in past.RULES}


def test_running_restored_and_ended(inside: Inside) -> None:  # noqa: F811
    (inside.folder / "other.yaml").write_text(past.OTHER)
    id = inside.run("submit", inside.write(past.FILE)).stdout.strip()
    until(lambda: past.rounds_are_over(ask(inside, "status", id)))
    before = explained(inside, id)
    past.check_explained(before, ended=False)
    past.check_replayed(ask(inside, "replay", id), ended=False)
    past.check_rehearsed(ask(inside, "replay", id, "--rules", "other.yaml"), ended=False)

    assert inside.run("service", "restart").returncode == 0
    after = explained(inside, id)
    assert all(past.same(before[rule], after[rule]) for rule in past.RULES)
    past.check_replayed(ask(inside, "replay", id), ended=False)

    assert inside.run("signal", id, "go").returncode == 0
    until(lambda: ask(inside, "status", id)["state"] == "complete")
    found = explained(inside, id)
    past.check_explained(found, ended=True)
    past.check_replayed(ask(inside, "replay", id), ended=True)
    past.check_rehearsed(ask(inside, "replay", id, "--rules", "other.yaml"), ended=True)

    assert inside.run("service", "restart").returncode == 0
    again = explained(inside, id)
    assert all(found[rule] == again[rule] for rule in past.RULES)
    past.check_replayed(ask(inside, "replay", id), ended=True)

    done = inside.run("explain", id, "many")
    # it is wrapped for the terminal
    assert " ".join(done.stdout.split()).startswith(
        "Rule 'many' has not fired: its condition did not hold, because count.sim.success is 10"
    )
    done = inside.run("explain", id, "agian")
    assert done.returncode == 1
    assert "did you mean 'again'?" in done.stderr
    done = inside.run("replay", id, "--rules", "other.yaml", "--timeline")
    assert done.returncode == 0
    assert "Nothing was carried out" in done.stdout


LONG = """
name: long
jobs:
  - {name: step, command: "true", attributes: {system.exec.test.run_duration: 0.001s}}
rules:
  - {trigger: start, action: {name: submit, label: step, count: 20}}
  - {id: more, trigger: job-success, name: step, repetitions: 280, action: {name: submit, label: step, count: 1}}
"""


def test_a_run_over_many_snapshots(inside: Inside) -> None:  # noqa: F811
    """Recovery needs little of its log; a replay has it all."""
    assert inside.run("run", inside.write(LONG)).returncode == 0
    found = ask(inside, "replay", "long")
    assert found["check"]["same"], found["check"]["differences"]
    assert found["check"]["firings"] == 281
    assert found["events"] > 1200
    assert inside.run("service", "restart").returncode == 0
    assert ask(inside, "replay", "long")["check"] == found["check"]
    more = ask(inside, "explain", "long", "more")
    assert [one["firing"] for one in more["firings"]] == [278, 279, 280]
    assert all(one["did"] == ["submit step (1 job)"] for one in more["firings"])
