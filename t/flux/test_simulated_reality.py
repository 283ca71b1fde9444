# SPDX-License-Identifier: MIT
"""The simulator against reality: the same files simulated and run on a real instance fire, count and order alike.

Each real job takes a fraction of a second; what the simulation is to take for it stands in the file or in options. Nothing
here depends on how fast the machine is: where order matters, it follows from the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from t.flux.test_cli_flux import Inside, inside  # noqa: F401 - a fixture

pytestmark = pytest.mark.flux

TOP = Path(__file__).resolve().parents[2]
COUNTS = ("submitted", "finished", "success", "failed", "cancelled", "retried")

#: pilots that fail at first, waves that follow one another, a signal, a variable, what waits is cancelled, a rule of the end
CAMPAIGN = """
variables: {waves: 0}
failures: all
jobs:
  - {name: pilot, script: 'case $ENSEMBLE_JOB in */0) exit 3;; esac', count: 3, retries: {max: 1, causes: [3]}}
  - {name: wave, command: sleep 0.2, count: 4}
  - {name: held, command: sleep 0.2, urgency: 0, count: 2}
  - {name: report, command: sleep 0.1}
  - {name: slow, command: sleep 300, duration: 0.5}
rules:
  - {id: begin, trigger: start, actions: [{name: submit, label: pilot}, {name: submit, label: held}]}
  - {id: again, trigger: job-retry, name: pilot, repetitions: unlimited, action: {name: log, value: once more}}
  - {id: first, trigger: group-complete, name: pilot, actions: [{name: signal, label: ready}, {name: submit, label: slow}]}
  - {id: go, trigger: signal, name: ready, action: {name: submit, label: wave}}
  - id: next
    trigger: group-complete
    name: wave
    when: var.waves < 3
    repetitions: unlimited
    actions:
      - {name: set, label: waves, value: var.waves + 1}
      - {name: submit, label: wave, count: var.waves}
  - {id: late, trigger: job-timeout, name: slow, action: {name: log, value: too long}}
  - {id: last, trigger: metric, name: var.waves, when: 3, action: {name: cancel, label: held}}
  - {id: never, trigger: metric, name: count.wave.failed, when: '> 0', action: {name: stop}}
  - {id: close, trigger: end, name: complete, action: {name: submit, label: report}}
simulate:
  groups:
    pilot: {duration: 0.1, fail: {rate: attempt == 0, exit: 3}}
    wave: {duration: 0.2}
    report: {duration: 0.1}
    slow: {duration: 300}
"""
#: jobs as wide as the queue start one by one: by urgency, then in order of submission; then a loop that a limit ends
QUEUE = """
limits: {max_jobs: 14}
jobs:
  - {name: first, command: sleep 1.5, cores: CORES}
  - {name: low, command: sleep 0.1, cores: CORES, urgency: 5, count: 2}
  - {name: plain, command: sleep 0.1, cores: CORES}
  - {name: high, command: sleep 0.1, cores: CORES, urgency: 30}
  - {name: loop, command: 'true'}
rules:
  - id: begin
    trigger: start
    actions: [{name: submit, label: first}]
  # the others only once the first one has all there is
  - id: fill
    trigger: job-start
    name: first
    actions: [{name: submit, label: low}, {name: submit, label: plain}, {name: submit, label: high}]
  - {id: turn, trigger: group-complete, name: low, action: {name: submit, label: loop}}
  - {id: round, trigger: job-success, name: loop, repetitions: unlimited, action: {name: submit, label: loop}}
simulate:
  groups: {first: {duration: 1.5}, low: {duration: 0.1}, plain: {duration: 0.1}, high: {duration: 0.1}, loop: {duration: 0.1}}
"""
#: sizes up to 4 are not enough
FAILING = [word for n in range(1, 5) for word in ("--fail", f"size-{n}=100%")]


def real(inside: Inside, file: Path) -> Dict[str, Any]:  # noqa: F811
    """What a run on the instance came to."""
    done = inside.run("run", str(file))
    assert done.returncode in (0, 3), done.stdout + done.stderr
    status = json.loads(inside.run("status", "--json", file.stem).stdout)
    rows = json.loads(inside.run("jobs", "--json", file.stem).stdout)["jobs"]
    started: Dict[str, float] = {}
    for row in rows:
        if row["t_start"] is not None:
            started[row["group"]] = min(row["t_start"], started.get(row["group"], row["t_start"]))
    return {"exit": done.returncode, **_of(status), "order": sorted(started, key=lambda group: started[group])}


def simulated(inside: Inside, file: Path, *options: str) -> Dict[str, Any]:  # noqa: F811
    """What a simulation inside the same instance came to."""
    done = inside.run("simulate", "--json", str(file), *options)
    result = json.loads(done.stdout)
    assert result["cluster"]["source"] == "of the running instance"
    assert result["cluster"]["cores"] == inside.instance.cores
    return {"exit": done.returncode, **_of(result), "order": result["order"]}


def _of(status: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "state": status["state"],
        "firings": {rule["id"]: rule["fired"] for rule in status["rules"]},
        "counts": {group: {name: of[name] for name in COUNTS} for group, of in status["groups"].items()},
    }


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bisection", ["--duration", "all=0.1", *FAILING]),
        ("kill-poor-runs", []),
        ("campaign", []),
        ("queue", []),
    ],
)
def test_simulated_as_it_really_is(inside: Inside, tmp_path: Path, name: str, options: List[str]) -> None:  # noqa: F811
    if name == "campaign":
        file = write(tmp_path, name, CAMPAIGN)
    elif name == "queue":
        file = write(tmp_path, name, QUEUE.replace("CORES", str(inside.instance.cores)))
    else:
        file = TOP / "examples" / f"{name}.yaml"
    expected = real(inside, file)
    assert simulated(inside, file, *options) == expected
    # something has happened, and not the same for all
    assert sum(expected["firings"].values()) >= 3
    assert expected["order"]
