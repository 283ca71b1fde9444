# SPDX-License-Identifier: MIT
"""Retries, and jobs that rules end, in a real instance; the example of two phases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from t import retries
from t.flux.test_cli_flux import Inside, inside, until  # noqa: F401 - a fixture

pytestmark = pytest.mark.flux
TOP = Path(__file__).resolve().parents[2]


def ask(place: Inside, *words: str) -> Any:
    done = place.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def log(place: Inside, id: str) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in place.run("log", id, "--json").stdout.splitlines()]


def test_each_cause_is_tried_again(inside: Inside) -> None:  # noqa: F811
    done = inside.run("run", inside.write(retries.RETRIES))
    assert done.returncode == 0, done.stdout + done.stderr
    said = [record["text"] for record in log(inside, "retries") if record["type"] == "log"]
    retries.check_retries(ask(inside, "status", "retries"), ask(inside, "jobs", "retries")["jobs"], said)


def test_what_a_rule_ends_is_cancelled_and_not_tried_again(inside: Inside) -> None:  # noqa: F811
    done = inside.run("run", inside.write(retries.ENDED))
    assert done.returncode == 0, done.stdout + done.stderr
    retries.check_ended(ask(inside, "status", "ended"), ask(inside, "jobs", "ended")["jobs"], log(inside, "ended"))


CANCELLED = """
name: outside
jobs:
  - {name: a, command: sleep 600, retries: {max: 1, causes: cancel}}
rules:
  - {trigger: start, action: {name: submit, label: a}}
"""


def test_what_somebody_else_cancels_may_be_tried_again_and_what_the_user_cancels_is_not(inside: Inside) -> None:  # noqa: F811
    id = inside.run("submit", inside.write(CANCELLED)).stdout.strip()

    def rows() -> Any:
        return ask(inside, "jobs", id)["jobs"]

    until(lambda: [row["state"] for row in rows()] == ["running"])
    inside.instance.run("flux", "cancel", str(rows()[0]["id"]))
    until(lambda: [row["state"] for row in rows()] == ["inactive", "running"])
    assert (rows()[0]["result"], rows()[0]["cause"]) == ("retried", "cancel")
    inside.run("cancel", id)
    until(lambda: ask(inside, "status", id)["state"] == "cancelled")
    assert [row["result"] for row in rows()] == ["retried", "cancelled"]


def test_two_phases(inside: Inside) -> None:  # noqa: F811
    done = inside.run("run", str(TOP / "examples" / "two-phases.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    groups = ask(inside, "status", "two-phases")["groups"]
    assert groups["refine"]["success"] == 5
    assert groups["probe"]["success"] >= 10
