# SPDX-License-Identifier: MIT
"""The examples about reports and signals, run on a real instance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, List

import pytest

from t.flux.test_cli_flux import Inside, inside, until  # noqa: F401 - a fixture

pytestmark = pytest.mark.flux

TOP = Path(__file__).resolve().parents[2]


def said(inside: Inside, id: str) -> List[str]:  # noqa: F811
    records = [json.loads(line) for line in inside.run("log", "--json", id).stdout.splitlines()]
    return [r["text"] for r in records if r["type"] == "log"]


def test_poor_runs_are_killed_by_what_they_report(inside: Inside) -> None:  # noqa: F811
    done = inside.run("run", str(TOP / "examples" / "kill-poor-runs.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(inside.run("status", "--json", "kill-poor-runs").stdout)
    assert (status["jobs"]["success"], status["jobs"]["cancelled"], status["jobs"]["failed"]) == (4, 1, 0)
    rows = json.loads(inside.run("jobs", "--json", "kill-poor-runs").stdout)["jobs"]
    (poor,) = [row for row in rows if row["result"] == "cancelled"]
    assert poor["params"] == {"start": 60}
    assert poor["values"]["loss"] > 50
    assert sorted(row["values"]["loss"] for row in rows)[:4] == [5.0, 6.0, 7.0, 8.0]
    assert said(inside, "kill-poor-runs")[-1] == "4 runs went to their end, 1 did not; the least loss is 5"


def test_a_rule_on_a_foreign_event(inside: Inside) -> None:  # noqa: F811
    inside.run("service", "start")
    id = inside.run("submit", str(TOP / "examples" / "foreign-event.yaml")).stdout.strip()

    def publish(topic: str, *data: Any) -> None:
        inside.instance.run("flux", "event", "pub", topic, *data)

    for number in (7, 0, 8):
        publish("beamline.sample", json.dumps({"number": number}))
    until(lambda: len(said(inside, id)) == 2)
    publish("beamline.closed")
    assert inside.run("watch", id).returncode == 0
    assert said(inside, id) == ["sample 7", "sample 8"]
    assert json.loads(inside.run("status", "--json", id).stdout)["jobs"]["success"] == 2
