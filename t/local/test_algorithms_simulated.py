# SPDX-License-Identifier: MIT
"""The packaged algorithms in the simulator: each example, by the table that it brings along, against what can be worked out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from ensemble.cli.main import main
from t.local.test_algorithms_local import TOP, named, rows
from t.local.test_resume import Site, site
from t.unit.test_algorithms_rungs import Li2020, top_k

__all__ = ["site"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.cli.simulate.choose", lambda member: "local")


def simulated(capsys: Capture, name: str, *words: str) -> Tuple[Dict[str, Any], List[str]]:
    """The outcome, and the timeline."""
    path = str(TOP / "examples" / f"{name}.yaml")
    main(["simulate", path, "--json", *words])
    found = json.loads(capsys.readouterr().out)
    main(["simulate", path, "--timeline", *words])
    return found, capsys.readouterr().out.splitlines()


def fired(found: Dict[str, Any]) -> Dict[str, int]:
    return {rule["id"]: rule["fired"] for rule in found["rules"]}


def test_sweep(capsys: Capture) -> None:
    found, _ = simulated(capsys, "sweep", "--cores", "16", "--duration", "solve=60")
    assert found["state"] == "complete"
    assert (found["groups"]["solve"]["success"], found["most"]["running"]) == (12, 4)
    assert found["makespan"] == 3 * 60


def test_asha(capsys: Capture) -> None:
    found, lines = simulated(capsys, "asha", "--cores", "8", "--nodes", "1")
    assert found["groups"]["train"]["submitted"] == 32
    decided = [
        re.search(r"(\S+) (goes on|is stopped): loss (\S+) is .* of (\d+) at rung (\d+)", line) for line in lines
    ]
    paper, last = Li2020(3), {}
    for match in filter(None, decided):
        key, goes_on, loss, m, rung = match[1], match[2] == "goes on", float(match[3]), int(match[4]), int(match[5])
        i = last.setdefault(key, len(last))
        paper.report(rung, i, loss)
        assert len(paper.rungs[rung]) == m
        assert goes_on == (i in (paper.promotable(rung) or top_k(paper.rungs[rung], 1)))
    assert len(paper.rungs[0]) == 32
    stopped = sum(match is not None and match[2] != "goes on" for match in decided)
    assert stopped == found["groups"]["train"]["cancelled"] > 10


def test_successive_halving(capsys: Capture) -> None:
    found, lines = simulated(capsys, "successive-halving")
    # all at once: 16 for 2 minutes, 8 for 2 more, 4 for 4 more, 2 to the end
    assert found["makespan"] == 16 * 60
    assert (found["groups"]["run"]["success"], found["groups"]["run"]["cancelled"]) == (2, 14)
    assert found["utilisation"]["cores"] == pytest.approx((16 * 2 + 8 * 2 + 4 * 4 + 2 * 8) / (16 * 16), rel=0.01)
    assert any("to the end go: " in line for line in lines)


def test_adaptive_sampling(capsys: Capture) -> None:
    found, _ = simulated(capsys, "adaptive-sampling")
    number = found["groups"]["throw"]["success"]
    assert number in (10, 15, 20, 25)
    pi = found["metrics"]["throw"]["success"]["pi"]
    assert pi["sem"] <= 0.004 * pi["mean"]
    wider, _ = simulated(capsys, "adaptive-sampling", "--seed", "4")
    assert wider["groups"]["throw"]["success"] in (10, 15, 20, 25)


def test_bisect(capsys: Capture) -> None:
    found, lines = simulated(capsys, "bisect", "--cores", "4")
    assert found["state"] == "complete"
    assert found["groups"]["probe"]["submitted"] == 14
    assert found["makespan"] == 5 * 60
    assert any("stable up to 0.730859, unstable from 0.738281" in line for line in lines)


def test_evolve_as_on_a_real_queue(capsys: Capture, site: Site) -> None:
    """The same points in the same generations: what is random follows from seeds, and the simulated values are exact."""
    found, _ = simulated(capsys, "evolve", "--cores", "64")
    assert found["makespan"] == 8 * 60
    real = named(site, "evolve")
    best = min(job["values"]["score"] for job in rows(site, real))
    assert found["metrics"]["trial"]["success"]["score"]["min"] == pytest.approx(best, rel=1e-4)
    assert fired(found) == {rule["id"]: rule["fired"] for rule in site.json("status", real)["rules"]}


def test_two_phases(capsys: Capture) -> None:
    found, lines = simulated(capsys, "explore-refine", "--cores", "64")
    assert found["groups"]["trial"]["success"] == 32 + 48
    assert fired(found) == {
        "turn": 1, "rule-2": 1, "explore-start": 1, "explore-next": 24, "explore-done": 1, "refine-start": 1, "refine-next": 6,
    }  # fmt: skip
    assert any("begins with the best of the group so far" in line for line in lines)


@pytest.mark.parametrize("name", ["asha", "evolve"])
def test_an_expanded_file_does_the_same(capsys: Capture, tmp_path: Path, name: str) -> None:
    path = TOP / "examples" / f"{name}.yaml"
    assert main(["validate", "--expand", str(path)]) == 0
    other = tmp_path / f"{name}.yaml"
    other.write_text(capsys.readouterr().out)
    outcomes = []
    for file in (path, other):
        main(["simulate", str(file), "--json", "--cores", "8"])
        outcomes.append({**json.loads(capsys.readouterr().out), "file": ""})
    assert outcomes[0] == outcomes[1]


PHASES = """
jobs:
  - {name: train, command: "train {x}", parameters: {x: {uniform: [0, 1]}}, seed: 1, samples: 50, metrics: {loss: {}}}
  - {name: probe, command: "probe {dt}"}
algorithm:
  - {name: asha, group: train, metric: loss, max_resource: 16, max_concurrent: 4}
  - {name: bisect, group: probe, enabled: false, parameter: dt, bracket: [0, 1], xtol: 0.1}
rules:
  - trigger: metric
    name: count.train.finished
    when: ">= 20"
    actions: [{name: disable, label: asha}, {name: cancel, label: train}, {name: enable, label: bisect}]
  - trigger: signal
    name: bisect-done
    action: {name: enable, label: asha}
simulate:
  nodes: 1
  cores: 8
  groups: {train: {duration: 16m, metrics: {loss: {value: x + 1 / report, every: 1m}}}, probe: {fail: dt > 0.4}}
"""


def test_algorithms_are_swapped_and_swapped_back(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "phases.yaml"
    path.write_text(PHASES)
    assert main(["validate", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert main(["simulate", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "complete"
    # nothing of the one while the other was at work: four jobs were cancelled, and the rest follows
    assert found["groups"]["train"]["submitted"] == 50
    assert found["groups"]["probe"]["submitted"] == 2 + 4
    assert fired(found)["asha-start"] == 2
    assert fired(found)["bisect-round"] == 5
    assert found["most"]["running"] == 4
    assert main(["simulate", str(path), "--timeline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    switched = [n for n, line in enumerate(lines) if re.search(r"(enable|disable) the algorithm", line)]
    assert len(switched) == 3
    assert not any("submit train" in line for line in lines[switched[0] : switched[2]])
    assert any("submit train" in line for line in lines[switched[2] :])


#: a thousand nodes may be had, and one is there; at last forty jobs go on alone
FAKE = """
scaler: {{name: command, command: more-nodes, min: 1, max: 1000, timeout: 10m}}
simulate:
  nodes: 1
  cores: 1
  delay: 90s
  groups: {{work: {{duration: "lognormal(10m, 3m)"}}, tail: {{duration: 3h}}}}
logging: {{heartbeat: 30s}}
jobs:
  - {{name: work, command: work, count: 6000}}
  - {{name: tail, command: tail, count: 40}}
algorithm: {{name: autoscale, group: work, {options}, factor: 2, cooldown: 2m}}
rules:
  - trigger: start
    actions: [{{name: submit, label: tail}}, {{name: submit, label: work}}]
  - trigger: grow-finish
    repetitions: unlimited
    action: {{name: log, value: "grown to {{event.size}}"}}
  - {{trigger: end, action: {{name: log, value: "at the end {{nodes.up}}"}}}}
"""


@pytest.mark.parametrize(
    "options",
    [
        "metric: waiting, grow_above: 120, shrink_below: 30",
        "metric: backlog, grow_above: 1, shrink_below: 0.2",
        "metric: queue, grow_above: 1, shrink_below: 0.2",
        "metric: pending, grow_above: 120, shrink_below: 30",
    ],
)
def test_autoscale_on_a_thousand_nodes(options: str, tmp_path: Path, capsys: Capture) -> None:
    """It doubles up to the bound, and comes down once the backlog has gone, without ever going to and fro."""
    path = tmp_path / "it.yaml"
    path.write_text(FAKE.format(options=options))
    main(["simulate", str(path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "complete"
    assert (found["groups"]["work"]["success"], found["groups"]["tail"]["success"]) == (6000, 40)
    main(["simulate", str(path), "--timeline"])
    lines = capsys.readouterr().out.splitlines()
    asked = [
        match[1] for match in (re.search(r"(grow|shrink) from \d+ to \d+ nodes begins", x) for x in lines) if match
    ]
    sizes = [int(match[1]) for match in (re.search(r"grown to (\d+)$", line) for line in lines) if match]
    assert sizes == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
    assert found["most"]["nodes"] == 1000
    # up, then down, and no way back
    assert asked == sorted(asked)
    assert asked.count("grow") == 10
    assert asked.count("shrink") < 40, "those that idle go many at a time"
    (size,) = [int(match[1]) for match in (re.search(r"at the end (\d+)$", line) for line in lines) if match]
    assert size <= 80
    assert fired(found)["autoscale-not-grown"] == 0
