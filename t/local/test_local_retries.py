# SPDX-License-Identifier: MIT
"""Retries, and jobs that rules end, on the local queue; the examples of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

from t import retries
from t.local.test_resume import Site, site  # noqa: F401 - a fixture
from t.unit.test_cli_local import until

TOP = Path(__file__).resolve().parents[2]


def log(site: Site, id: str) -> List[Dict[str, Any]]:  # noqa: F811
    return [json.loads(line) for line in site.run("log", id, "--json").stdout.splitlines()]


def test_each_cause_is_tried_again(site: Site) -> None:  # noqa: F811
    done = site.run("run", site.write(retries.RETRIES))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = site.json("jobs", "retries")["jobs"]
    said = [record["text"] for record in log(site, "retries") if record["type"] == "log"]
    retries.check_retries(site.json("status", "retries"), rows, said)
    table = site.run("jobs", "retries").stdout.splitlines()
    assert table[0].split() == ["JOBID", "GROUP", "STATUS", "EXIT", "CAUSE", "RETRY", "WAIT", "TIME", "RULE"]
    assert "RETRIED" in site.run("status", "retries").stdout


def test_what_a_rule_ends_is_cancelled_and_not_tried_again(site: Site) -> None:  # noqa: F811
    done = site.run("run", site.write(retries.ENDED))
    assert done.returncode == 0, done.stdout + done.stderr
    retries.check_ended(site.json("status", "ended"), site.json("jobs", "ended")["jobs"], log(site, "ended"))


WAITING = """
name: waiting
jobs:
  - {name: a, script: '[ ${ENSEMBLE_JOB##*/} -ge 1 ] || exit 1', retries: {max: 1, backoff: 25s}}
rules:
  - {trigger: start, action: {name: submit, label: a}}
"""


def test_a_retry_that_waits_outlives_a_power_cut(site: Site) -> None:  # noqa: F811
    process = site.start("run", site.write(WAITING))

    def held() -> Any:
        rows = site.json("jobs", "waiting")["jobs"] if site.kept() else []
        return [(row["attempt"], row["group"]) for row in rows if row["state"] == "held"]

    until(lambda: held() == [(1, "a")])
    site.kill(process)
    (id,) = site.kept()
    assert site.run("resume", id).returncode == 0
    rows = site.json("jobs", id)["jobs"]
    assert [(row["attempt"], row["result"]) for row in rows] == [(0, "retried"), (1, "success")]


QUEUE = """
name: queue
logging: {heartbeat: 0.3s}
jobs:
  - {name: a, command: sleep 2}
rules:
  - {trigger: start, action: {name: submit, label: a}}
  - trigger: metric
    name: queue.running
    when: "queue.running == 1"
    action: {name: log, value: "{nodes.up} {nodes.free} {cores.allocated} {cores.up} {cores.free}"}
"""


def test_the_numbers_of_the_local_queue(site: Site) -> None:  # noqa: F811
    done = site.run("run", site.write(QUEUE))
    assert done.returncode == 0, done.stdout + done.stderr
    (said,) = [record["text"] for record in log(site, "queue") if record["type"] == "log"]
    up, free, taken, cores, left = (int(word) for word in said.split())
    assert (up, free, taken, left) == (1, 0, 1, cores - 1)


def test_the_examples(site: Site) -> None:  # noqa: F811
    done = site.run("run", str(TOP / "examples" / "two-phases.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    status = site.json("status", "two-phases")
    assert status["groups"]["refine"]["success"] == 5
    probe = status["groups"]["probe"]
    assert probe["success"] >= 10
    assert probe["submitted"] == probe["success"] + probe["cancelled"] <= 14
    assert {rule["id"]: rule["state"] for rule in status["rules"]}["search"] == "disabled"
    done = site.run("run", str(TOP / "examples" / "retry-lost-node.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.json("status", "retry-lost-node")["groups"]["work"]["success"] == 3


def test_growing_is_warned_of_and_refused(site: Site) -> None:  # noqa: F811
    text = """
jobs:
  - {name: a, command: sleep 0.2}
rules:
  - {trigger: start, action: {name: submit, label: a}}
  - {trigger: job-start, action: {name: grow, value: 1}}
"""
    done = site.run("run", site.write(text))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the queue has no way to grow, so this will be refused whenever the rule fires" in done.stderr
    assert "grow: the queue 'local' has no way to grow, so nothing was done" in done.stdout + done.stderr
