# SPDX-License-Identifier: MIT
"""Nodes of a real instance that die, are drained and undrained under an ensemble: retries, triggers, metrics."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from t.flux.test_cli_flux import Inside, until
from t.flux_instance import FluxInstance

pytestmark = pytest.mark.flux
TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Inside]:
    """An instance of four brokers of its own, since its nodes do not come back; and its service."""
    instance = FluxInstance(4, ["--test-exit-mode=leader"])
    inside = Inside(instance, tmp_path)
    try:
        yield inside
    finally:
        with contextlib.suppress(AssertionError):
            inside.run("service", "stop")
        instance.stop()


def ask(place: Inside, *words: str) -> Any:
    done = place.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows(place: Inside, id: str) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = ask(place, "jobs", id)["jobs"]
    return found


def said(place: Inside, id: str) -> List[str]:
    lines = [json.loads(line) for line in place.run("log", id, "--json").stdout.splitlines()]
    return [line["text"] for line in lines if line["type"] == "log"]


def broker_of(place: Inside, rank: str) -> int:
    """The process of a broker of the instance, which we have started."""
    return int(place.instance.run("flux", "exec", "-r", rank, "flux", "getattr", "broker.pid").stdout)


def test_a_job_whose_broker_is_killed_moves_on_and_burns_nothing_of_its_own(place: Inside) -> None:
    text = (TOP / "examples" / "retry-lost-node.yaml").read_text()
    # the jobs end when they are told to, so that nothing depends on the machine's speed; then the last attempt but one
    # of each fails, so that the file's own retry is needed as well: it has to be there for the lost one too
    go, more = place.folder / "go", place.folder / "more"
    script = f"while [ ! -e {go} ]; do sleep 0.2; done; KEY=${{ENSEMBLE_JOB#*/*/*/}}; "
    script += f"[ ${{KEY#*/}} -gt 0 ] && [ ! -e {more}-$KEY ] || exit 1"
    text = text.replace("command: sleep 2", f"script: '{script}'").replace("backoff: 5s", "backoff: 0.2s")
    id = place.run("submit", place.write(text)).stdout.strip()
    until(lambda: sum(row["state"] == "running" for row in rows(place, id)) == 3)
    victim = next(row for row in rows(place, id) if row["ranks"] != "0")
    Path(f"{more}-{victim['index']}/1").parent.mkdir()
    Path(f"{more}-{victim['index']}/1").touch()
    os.kill(broker_of(place, victim["ranks"]), signal.SIGKILL)
    until(lambda: any(row["attempt"] and row["state"] == "running" for row in rows(place, id)))
    go.touch()
    until(lambda: ask(place, "status", id)["state"] not in ("running", "stopping"))
    status = ask(place, "status", id)
    assert (status["state"], status["jobs"]["success"], status["jobs"]["failed"]) == ("complete", 3, 0)
    # one was lost; each of the three failed once and was tried again out of its own budget of one
    assert status["jobs"]["retried"] == 4
    lost = [row for row in rows(place, id) if row["cause"] == "infrastructure"]
    assert [(row["id"], row["result"]) for row in lost] == [(victim["id"], "retried")]
    index = lost[0]["index"]
    tries = [(row["attempt"], row["result"], row["cause"]) for row in rows(place, id) if row["index"] == index]
    assert tries == [(0, "retried", "infrastructure"), (1, "retried", "fail"), (2, "success", None)]
    assert f"down: {victim['ranks']}" in said(place, id)
    again = place.instance.run(
        "flux", "jobs", "-ano", "{ranks}", *(str(r["id"]) for r in rows(place, id) if r["attempt"])
    )
    assert victim["ranks"] not in again.stdout.split()
    table = place.run("jobs", id).stdout.splitlines()
    assert "RETRY" in table[0]
    assert "RETRIED" in place.run("status", id).stdout


NODES = """
logging: {heartbeat: 1s}
jobs:
  - {name: hold, command: sleep 600, nodes: 2, exclusive: true}
rules:
  - {trigger: start, action: {name: submit, label: hold}}
  - {trigger: resource-drain, repetitions: 9, action: {name: log, value: "drain {event.ranks}"}}
  - {trigger: resource-undrain, repetitions: 9, action: {name: log, value: "undrain {event.ranks}"}}
  - {trigger: metric, name: nodes.up, repetitions: 9, action: {name: log, value: "{nodes.up} up, {nodes.down} down"}}
  - trigger: metric
    name: nodes.allocated
    when: "nodes.allocated == 2 and queue.running == 1"
    action: {name: log, value: "{nodes.free} free, {cores.allocated} of {cores.up} cores"}
"""


def test_nodes_that_are_drained_and_undrained(place: Inside) -> None:
    id = place.run("submit", place.write(NODES)).stdout.strip()
    until(lambda: "4 up, 0 down" in said(place, id))
    cores = json.loads(place.instance.run("flux", "resource", "R").stdout)
    assert cores
    until(lambda: any("free" in line for line in said(place, id)))
    (line,) = (line for line in said(place, id) if "free" in line)
    words = line.replace(",", "").split()
    assert (words[0], int(words[2]) * 2) == ("2", int(words[4]))
    # rank 3 runs nothing of it, or does: drained it takes no more either way
    place.instance.run("flux", "resource", "drain", "3", "for the test")
    until(lambda: "drain 3" in said(place, id) and "3 up, 1 down" in said(place, id))
    place.instance.run("flux", "resource", "undrain", "3")
    until(lambda: "undrain 3" in said(place, id) and said(place, id).count("4 up, 0 down") == 2)
    assert said(place, id).count("drain 3") == said(place, id).count("undrain 3") == 1
    place.run("cancel", id)


FRESH = """
jobs: [{name: hold, command: sleep 600, nodes: 1}]
rules:
  - {trigger: start, action: {name: submit, label: hold}}
  - {trigger: job-start, action: {name: log, value: ready}}
  - {trigger: resource-drain, repetitions: unlimited, action: {name: log, value: "drain {nodes.up} {nodes.down}"}}
  - {trigger: resource-undrain, repetitions: unlimited, action: {name: log, value: "undrain {nodes.up} {nodes.down}"}}
  - {trigger: resource-down, when: nodes.up == 3, action: {name: log, value: "one is down"}}
"""


def test_rules_on_nodes_that_change_see_the_nodes_as_they_are_then(place: Inside) -> None:
    id = place.run("submit", place.write(FRESH)).stdout.strip()
    until(lambda: "ready" in said(place, id))
    for how in ("drain", "undrain"):
        for rank in "123":
            place.instance.run("flux", "resource", how, rank)
    until(lambda: sum("drain" in line for line in said(place, id)) == 6)
    drained = [line for line in said(place, id) if "drain" in line]
    assert drained == ["drain 3 1", "drain 2 2", "drain 1 3", "undrain 2 2", "undrain 3 1", "undrain 4 0"]
    os.kill(broker_of(place, "3"), signal.SIGKILL)
    until(lambda: "one is down" in said(place, id))
    place.run("cancel", id)
