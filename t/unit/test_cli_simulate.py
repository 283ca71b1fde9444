# SPDX-License-Identifier: MIT
"""`simulate`: options, what is printed, exit statuses; and how large the queue is taken to be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest

from ensemble.cli.main import main
from ensemble.cli.simulate_show import spread
from ensemble.errors import MemberError
from ensemble.members.simulated_nodes import Pair
from ensemble.service import cluster as sizes
from ensemble.service.cluster import cluster, nodes_of
from ensemble.spec.simulate import Simulate

TOP = Path(__file__).resolve().parents[2]
FILE = """\
jobs:
  - {name: sim, command: "true", count: 20}
  - {name: post, command: "true"}
rules:
  - {id: begin, trigger: start, action: {name: submit, label: sim}}
  - {id: after, trigger: group-complete, name: sim, action: {name: submit, label: post}}
  - {id: lost, trigger: job-fail, name: sim, repetitions: unlimited, action: {name: log, value: "lost {event.job.id}"}}
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # no instance, whatever runs the tests
    monkeypatch.setattr("ensemble.cli.simulate.choose", lambda member: "local")
    path = tmp_path / "study.yaml"
    path.write_text(FILE)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Exit status and standard output; with --json what that holds."""
    status = main(["simulate", *words])
    out = capsys.readouterr().out
    return status, json.loads(out) if "--json" in words else out


def test_it_prints_what_came_of_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--nodes", "2", "--cores", "4", "--duration", "sim=90", "--fail", "sim=5%", "--seed", "3"]
    status, out = run(capsys, str(path), *words)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("study: complete after 5.5m")
    assert lines[1] == "simulated with seed 3 on 2 nodes with 4 cores each (by options)"
    assert lines[2] == "  sim: durations 1.5m; fail 5%"
    assert lines[3].startswith("  post: a job takes 1m, since nothing says how long")
    assert any(line.split()[:2] == ["sim", "20"] for line in lines)
    assert any(line.split() == ["after", "group-complete", "1", "0", "spent", "4.5m", "4.5m"] for line in lines)
    assert any(line.startswith("in use: ") and "8 cores, 8 jobs at a time" in line for line in lines)


def test_json_has_every_firing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--json", "--nodes", "1", "--cores", "4", "--fail", "sim=30%", "--duration", "all=exponential(60)"]
    status, result = run(capsys, str(path), *words)
    rules = {rule["id"]: rule for rule in result["rules"]}
    assert status == 0
    assert result["state"] == "complete"
    lost = rules["lost"]
    assert lost["fired"] == len(lost["times"]) == result["groups"]["sim"]["failed"] > 0
    assert (lost["first"], lost["last"]) == (lost["times"][0], lost["times"][-1])
    assert lost["times"] == sorted(lost["times"])
    assert result["cluster"] == {"nodes": 1, "cores": 4, "gpus": 0, "source": "by options"}
    assert result["assumed"]["sim"] == {
        "duration": "exponential(60)", "given": True, "fail": ["30%"], "reports": [], "silent": [],
    }  # fmt: skip
    assert 0 < result["utilisation"]["cores"] < 1
    assert result["order"] == ["sim", "post"]


def test_options_outrank_the_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(FILE + "simulate:\n  nodes: 3\n  cores: 2\n  groups: {sim: {duration: 10, fail: 100%}}\n")
    _, said = run(capsys, "--json", str(path))
    _, told = run(
        capsys, "--json", str(path), "--duration", "sim=1m", "--fail", "sim=0", "--nodes", "20", "--cores", "1"
    )
    assert (said["makespan"], said["groups"]["sim"]["failed"], said["cluster"]["cores"]) == (40 + 60, 20, 6)
    assert (told["makespan"], told["groups"]["sim"]["failed"], told["cluster"]["cores"]) == (60 + 60, 0, 20)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--duration", "sim"], "--duration sim: expected GROUP=..., or all=..."),
        (["--duration", "simm=5"], "no group is called 'simm'; did you mean 'sim'?"),
        (["--duration", "sim=lognrmal(1,2)"], "no distribution is called 'lognrmal'"),
        (["--duration", "sim=10 * x"], "nothing is called 'x' here"),
        (["--fail", "sim=7"], "this is no share"),
        (["--limit", "max_job=7"], "no limit is called 'max_job'"),
        (["--limit", "max_jobs=none"], "limit max_jobs cannot be 'none': expected a whole number"),
        (["--limit", "max_jobs"], "is no limit; expected NAME=VALUE"),
        (["--until", "soon"], "--until cannot be 'soon': expected a duration"),
        (["-o", "default"], "-o is for the rows of --timeline"),
        (["--timeline", "--runs", "2"], "--timeline shows one run"),
        (["--timeline", "-o", "nonsense"], "no format is called 'nonsense'"),
        (["--nodes", "few"], "'few' is no number of nodes"),
        (["--nodes", "0"], "'0' is no number of nodes"),
        (["--cores", "0"], "'0' is no number of nodes or cores"),
        (["--runs", "0"], "'0' is no number of runs"),
        (["--seed", "x"], "'x' is no seed"),
    ],
)
def test_what_is_no_option(path: Path, capsys: pytest.CaptureFixture[str], words: List[str], message: str) -> None:
    assert main(["simulate", str(path), *words]) == 2
    assert message in capsys.readouterr().err


def test_exit_statuses(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(path), "--limit", "max_jobs=5"]) == 3
    assert main(["simulate", str(path), "--until", "30"]) == 3
    assert main(["simulate", str(path.with_name("none.yaml"))]) == 2
    path.write_text("jobs: []")
    assert main(["simulate", str(path)]) == 2
    # no rule watches these
    path.write_text(FILE.replace("job-fail, name: sim", "job-cancel, name: sim"))
    assert main(["simulate", str(path), "--fail", "sim=100%"]) == 1
    assert main(["simulate", str(path), "--fail", "sim=5%", "--runs", "8"]) == 1
    capsys.readouterr()


def test_a_runaway_names_its_loop(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(
        FILE.replace(
            "name: sim, action: {name: submit, label: post}",
            "name: sim, repetitions: unlimited, action: {name: submit, label: sim}",
        )
    )
    status, out = run(capsys, str(path), "--limit", "max_jobs=200")
    assert status == 3
    assert out.splitlines()[-2:] == ["rules that feed each other:", "  'after' -> jobs of sim -> 'after' (9 times)"]


def test_the_timeline(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(path), "--timeline", "--nodes", "1", "--cores", "8"]
    _, out = run(capsys, *words)
    head, *rows = out.splitlines()
    assert head.split() == ["TIME", "TYPE", "EVENT", "JOB", "GROUP", "RULE", "PEND", "RUN", "NODES", "CORES", "TEXT"]
    starts = [row.split() for row in rows if row.split()[2] == "start"]
    assert [row[0] for row in starts] == ["0s"] * 8 + ["1m"] * 8 + ["2m"] * 4 + ["3m"]
    assert starts[0] == ["0s", "job", "start", "1", "sim", "-", "12", "8", "1", "8"]
    assert rows[-1].split()[:2] == ["4m", "state"]
    _, out = run(capsys, *words, "-n", "-o", "{t!F} {type} {rule:>6h}")
    assert out.splitlines()[1] == "0s rule  begin"
    _, result = run(capsys, *words, "--json")
    assert len(result["timeline"]) == len(rows)
    assert result["state"] == "complete"


@pytest.mark.parametrize("words", [[], ["--runs", "3"], ["--timeline"]])
def test_it_fits_a_terminal_of_80_columns(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: List[str]
) -> None:
    path.write_text(
        FILE.replace("id: after", "id: what-comes-behind-the-simulation").replace("lost {", "this is lost: {")
    )
    given = [str(path), "--nodes", "2", "--cores", "4", "--fail", "sim=20%", "--limit", "max_jobs=200", *words]
    monkeypatch.delenv("COLUMNS", raising=False)
    _, wide = run(capsys, *given)
    monkeypatch.setenv("COLUMNS", "80")
    _, out = run(capsys, *given)
    assert max(map(len, wide.splitlines())) > 80
    assert max(map(len, out.splitlines())) <= 80
    assert "TEXT" in out if words == ["--timeline"] else "what-comes-" in out


def test_times_have_one_form(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(path), "--nodes", "1", "--cores", "4", "--duration", "sim=2400", "--until", "7000"]
    _, out = run(capsys, *words)
    lines = [line.split() for line in out.splitlines()]
    assert ["sim", "success", "duration", "8", "40m", "0s", "40m", "40m"] in lines
    assert "sim: durations 40m" in out
    assert "cut off after 1.944h" in out
    _, result = run(capsys, *words, "--json")
    assert result["metrics"]["sim"]["success"]["duration"]["mean"] == 2400


def test_a_long_timeline_is_one_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(FILE.replace("count: 20", "count: 4000"))
    _, out = run(capsys, str(path), "--timeline", "--cores", "50", "--nodes", "9")
    assert out.count("TIME") == 1
    assert len(out.splitlines()) > 12_000


def test_many_runs_tell_the_spread(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--duration",
        "sim=exponential(60)",
        "--fail",
        "sim=10%",
        "--runs",
        "9",
        "--seed",
        "5",
        "--cores",
        "4",
        "--nodes",
        "1",
    ]
    _, result = run(capsys, str(path), "--json", *words)
    assert [one["seed"] for one in result["runs"]] == list(range(5, 14))
    spans = [one["makespan"] for one in result["runs"]]
    assert len(set(spans)) == 9
    found = result["spread"]
    assert list(found["makespan"].values()) == pytest.approx(list(np.percentile(spans, [0, 25, 50, 75, 100])))
    failed = [one["groups"]["sim"]["failed"] for one in result["runs"]]
    assert list(found["groups"]["sim"]["failed"].values()) == pytest.approx(
        list(np.percentile(failed, [0, 25, 50, 75, 100]))
    )
    assert found["rules"]["lost"] == found["groups"]["sim"]["failed"]
    _, alone = run(capsys, str(path), "--json", *words[:4], "--seed", "7", "--cores", "4", "--nodes", "1")
    assert {key: alone[key] for key in result["runs"][2]} == result["runs"][2]
    _, out = run(capsys, str(path), *words)
    assert out.splitlines()[0] == "study: complete 9 (of 9 runs, seeds 5 to 13)"
    assert any(line.split()[:3] == ["rule", "lost:", "fired"] for line in out.splitlines())


def test_the_spread_of_one_run_and_of_nothing() -> None:
    result: Dict[str, Any] = {
        "state": "complete", "makespan": 5.0, "utilisation": {"nodes": None, "cores": None},
        "jobs": {"success": 1}, "groups": {}, "rules": [],
    }  # fmt: skip
    assert spread([result])["makespan"] == dict.fromkeys(("min", "q1", "median", "q3", "max"), 5.0)
    assert spread([result])["utilisation"]["nodes"] is None


@pytest.mark.parametrize("words", [["--json"], ["--timeline"], ["--runs", "4", "--json"]])
def test_the_same_seed_gives_the_same_bytes(words: List[str]) -> None:
    """In processes whose hashes differ."""
    file = str(TOP / "examples" / "rehearsal.yaml")
    outputs = set()
    for number in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "ensemble.cli.main", "simulate", file, "--seed", "8", *words],
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": str(TOP)},
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1


# ---- the size of the queue


def given(
    nodes: Optional[int] = None, cores: Optional[int] = None, gpus: Optional[int] = None
) -> Dict[str, Optional[int]]:
    return {"nodes": nodes, "cores": cores, "gpus": gpus}


INSTANCE: List[Pair] = [(8, 1), (8, 1), (4, 0)]


@pytest.mark.parametrize(
    ("options", "table", "nodes", "text", "source"),
    [
        (given(2, 4), None, [(4, 0)] * 2, "2 nodes with 4 cores each", "by options"),
        (given(), Simulate(nodes=1, cores=4, gpus=2), [(4, 2)], "1 node with 4 cores and 2 GPUs", "of the file"),
        (given(3), Simulate(nodes=1, cores=4), [(4, 0)] * 3, "3 nodes with 4 cores each", "by options, of the file"),
        (given(), None, INSTANCE, "3 nodes with 20 cores and 2 GPUs in all", "of the running instance"),
        (given(5), None, [(8, 1)] * 5, "5 nodes with 8 cores and 1 GPU each", "by options, the rest of the running instance"),
        (given(None, 2), None, [(2, 1)] * 3, "3 nodes with 2 cores and 1 GPU each", "by options, the rest of the running instance"),
        (given(None, None, 4), None, [(8, 4), (8, 4), (4, 4)], "3 nodes with 20 cores and 12 GPUs in all", "by options, the rest of the running instance"),
    ],
)  # fmt: skip
def test_the_first_that_says_it(
    options: Dict[str, Optional[int]], table: Optional[Simulate], nodes: List[Pair], text: str, source: str
) -> None:
    found = cluster(options, table, lambda: INSTANCE)
    assert (list(found.nodes), found.text, found.source) == (nodes, text, source)


def test_without_an_instance_it_is_this_machine() -> None:
    cores = len(os.sched_getaffinity(0))
    found = cluster(given(), None, lambda: None)
    assert (found.nodes, found.source) == (((cores, 0),), "of this machine")
    assert cluster(given(2), Simulate(gpus=1), lambda: None).nodes == ((cores, 1),) * 2


def test_the_instance_is_asked_only_where_it_matters() -> None:
    def no() -> Optional[List[Pair]]:
        raise MemberError("it is away")

    assert cluster(given(2, 4), None, no).nodes == ((4, 0),) * 2
    with pytest.raises(MemberError):
        cluster(given(2), None, no)


def test_nodes_of_an_instance() -> None:
    def resources(*entries: Any) -> Dict[str, Any]:
        return {"execution": {"R_lite": [{"rank": rank, "children": children} for rank, children in entries]}}

    everything = resources(("0-2", {"core": "0-3"}), ("[4,6]", {"core": "0-1", "gpu": "0"}))
    assert nodes_of({"all": everything, "down": None}) == [(4, 0)] * 3 + [(2, 1)] * 2
    assert nodes_of({"all": everything, "down": resources(("1", {"core": "0-3"}))}) == [(4, 0)] * 2 + [(2, 1)] * 2
    assert nodes_of({}) == []


def test_an_instance_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flux", None)
    with pytest.raises(MemberError, match="give --nodes and --cores"):
        sizes.instance()


def test_of_a_long_log_both_ends_are_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cores", "1", "--nodes", "1", "--fail", "sim=100%"]
    _, out = run(capsys, str(path), *words)
    log = [line.strip() for line in out.split("log:\n")[1].splitlines()]
    assert log[:2] == ["1m  lost 1", "2m  lost 2"]
    assert log[8] == "... 4 more: --timeline"
    assert log[-1] == "20m  lost 20"
    assert len(log) == 17
