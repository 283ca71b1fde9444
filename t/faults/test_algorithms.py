# SPDX-License-Identifier: MIT
"""ASHA and successive halving on a real instance: 64 jobs that report each 0.1 s, of which the poor ones are ended.

What can be the same twice, is: who goes to the end of a successive halving depends on the curves alone, and so is what the
paper says, with or without a service that is killed half-way. ASHA decides in the order in which it hears of the jobs, which
differs from run to run; so its decisions are checked against the paper's rungs in the order of the ensemble's log, and its
survivors are the same where the curves leave no choice: sixteen good jobs at a time, and poor ones behind them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from random import Random
from typing import Any, Dict, Iterator, List, Set, Tuple

import pytest

from t.faults.counting import ask, ended
from t.flux.processes import gone, until
from t.flux.real_service import RealService, serving
from t.flux_instance import running
from t.unit.test_algorithms_rungs import Li2020, li_sha, top_k

pytestmark = [pytest.mark.flux, pytest.mark.slow, pytest.mark.timeout(900)]

N, STEPS, CORES = 64, 16, 16
#: a job prints `STEPS` losses, `limit + gap / step`
FILE = """
name: train
jobs:
  - name: train
    script: |
      awk 'BEGIN { for (i = 1; i <= STEPS; i++) printf "step=%d loss=%.9f\\n", i, {limit} + {gap} / i }' | while read -r line; do
        echo "$line"
        sleep 0.1
      done
    parameters: {limit: LIMITS, gap: GAPS}
    sample: zip
    shell: {cpu-affinity: "off"}
    metrics:
      loss: {regex: 'loss=(\\S+)'}
      step: {regex: 'step=(\\d+)'}
algorithm: {name: NAME, metric: loss, resource: step, max_resource: STEPS, reduction_factor: ETA, max_concurrent: CORES}
"""
#: a decision of ASHA: job, whether it goes on, its loss, the rung
Decision = Tuple[int, bool, float, int]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    """An instance that believes to have 16 cores: the jobs sleep."""
    path = tmp_path_factory.mktemp("resources") / "R"
    words = ["flux", "R", "encode", "-r", "0", "-c", f"0-{CORES - 1}", "-H", os.uname().nodename]
    path.write_text(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    options = ["--conf=resource.noverify=true", f"--conf=resource.path={path}"]
    with running(options=options) as instance, serving(instance) as made:
        yield made


def text(name: str, eta: int, arms: List[Tuple[float, float]]) -> str:
    made = FILE.replace("NAME", name).replace("ETA", str(eta)).replace("STEPS", str(STEPS)).replace("CORES", str(CORES))
    return made.replace("LIMITS", str([a for a, _ in arms])).replace("GAPS", str([b for _, b in arms]))


def drawn(seed: int) -> List[Tuple[float, float]]:
    draw = Random(seed)
    return [(round(draw.uniform(0, 1), 6), round(draw.uniform(0.2, 2), 6)) for _ in range(N)]


def records(service: RealService, id: str) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = []
    while True:
        page = ask(service.instance, "log", {"id": id, "max": 1000, "since": found[-1]["seq"] if found else 0})[
            "records"
        ]
        if not page:
            return found
        found += page


def jobs(service: RealService, id: str) -> Dict[str, Dict[str, Any]]:
    """Rows by the job's name; of one that was tried again, its last."""
    rows = ask(service.instance, "jobs", {"id": id, "max": 1000})["jobs"]
    return {
        f"{row['rule']}/{row['firing']}/{row['index']}": row for row in sorted(rows, key=lambda row: row["attempt"])
    }


def raced(service: RealService, name: str, eta: int, arms: List[Tuple[float, float]], kill: bool) -> str:
    """Run it to its end, killing the service half-way; the ensemble's id."""
    id = service.submit(text(name, eta, arms))
    if kill:

        def firings() -> int:
            rules = ask(service.instance, "status", {"id": id})["rules"]
            return int(sum(rule["fired"] for rule in rules if rule["id"].startswith(f"{name}-rung-")))

        until(lambda: firings() >= N // 2, "half of the jobs at a rung")
        pid = service.pid
        os.kill(pid, signal.SIGKILL)
        gone(pid)
    status = ended(service.instance, id)
    assert status["state"] == "complete", status["reason"]
    counts = status["groups"]["train"]
    assert counts["submitted"] == N
    assert counts["failed"] == counts["retried"] == 0
    assert counts["success"] + counts["cancelled"] == N
    return id


def decisions(service: RealService, id: str, arms: List[Tuple[float, float]]) -> List[Decision]:
    """What ASHA has decided, in the order of the log; the losses are checked against the curves."""
    number = {key: arms.index((row["params"]["limit"], row["params"]["gap"])) for key, row in jobs(service, id).items()}
    found = []
    for record in records(service, id):
        if record["type"] != "log":
            continue
        match = re.match(r"(\S+) (goes on|is stopped): loss (\S+) is .* at rung (\d+)", record["text"])
        if match:
            found.append((number[match[1]], match[2] == "goes on", float(match[3]), int(match[4])))
    return found


def check_asha(found: List[Decision], arms: List[Tuple[float, float]], eta: int) -> Set[int]:
    """Each decision is the paper's in that order, none is taken twice, none is missing; who is never stopped."""
    assert len({(i, rung) for i, _, _, rung in found}) == len(found), "decided twice"
    paper = Li2020(eta)
    alive = [set(range(N)), set(), set()]
    for i, goes_on, loss, rung in found:
        true = arms[i][0] + arms[i][1] / eta**rung
        assert loss == pytest.approx(true, rel=1e-4)
        paper.report(rung, i, true)
        promotable = paper.promotable(rung) or top_k(paper.rungs[rung], 1)
        # equal losses are equally good
        worst = max(paper.rungs[rung][j] for j in promotable)
        assert goes_on == (true <= worst + 1e-9), (i, rung)
        assert i in alive[rung], "one that was stopped has no say any more"
        if goes_on:
            alive[rung + 1].add(i)
    assert {i for i, _, _, rung in found if rung == 0} == set(range(N)), "every job was judged at the first rung"
    return alive[2]


@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "killed"])
def test_asha_on_curves_that_leave_no_choice(service: RealService, kill: bool) -> None:
    """Sixteen good jobs run at a time, all alike; whoever comes later is worse, and never among a quarter."""
    draw = Random(5)
    arms = [(0.1, 0.5)] * 16 + [(round(draw.uniform(2, 3), 6), round(draw.uniform(1, 2), 6)) for _ in range(N - 16)]
    id = raced(service, "asha", 4, arms, kill)
    rows = jobs(service, id)
    survivors = sorted(
        (row["params"]["limit"], row["params"]["gap"]) for row in rows.values() if row["result"] == "success"
    )
    assert survivors == [(0.1, 0.5)] * 16


@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "killed"])
def test_asha_decides_as_the_paper_in_the_order_of_the_log(service: RealService, kill: bool) -> None:
    arms = drawn(11)
    id = raced(service, "asha", 4, arms, kill)
    survivors = check_asha(decisions(service, id, arms), arms, 4)
    rows = jobs(service, id)
    succeeded = {
        arms.index((row["params"]["limit"], row["params"]["gap"]))
        for row in rows.values()
        if row["result"] == "success"
    }
    assert survivors <= succeeded
    # while no service was there to end it, a poor job may have come to its end by itself
    assert kill or len(succeeded) <= len(survivors) + 2
    assert len(survivors) < N / 2


@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "killed"])
def test_successive_halving_ends_with_the_papers_survivors(service: RealService, kill: bool) -> None:
    arms = drawn(12)
    id = raced(service, "successive-halving", 4, arms, kill)
    number = {key: arms.index((row["params"]["limit"], row["params"]["gap"])) for key, row in jobs(service, id).items()}
    (line,) = [
        r["text"] for r in records(service, id) if r["type"] == "log" and r["text"].startswith("to the end go: ")
    ]
    survivors = {number[key] for key in line.split(": ", 1)[1].split(", ")}
    paper = li_sha(N, 1, STEPS, 4, 0, lambda i, r: arms[i][0] + arms[i][1] / r)
    assert survivors == paper[-1]
    assert all(jobs(service, id)[key]["result"] == "success" for key, i in number.items() if i in survivors)
