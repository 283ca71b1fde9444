# SPDX-License-Identifier: MIT
"""The packaged algorithms on the local queue, by the command: each example, an expanded file in place of its own, a killed run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest

from t.local.test_functions_local import log, run
from t.local.test_resume import Site, site, until

__all__ = ["site"]

TOP = Path(__file__).resolve().parents[2]


def example(name: str) -> str:
    return (TOP / "examples" / f"{name}.yaml").read_text()


def named(site: Site, name: str, text: str = "") -> str:
    return run(site, f"name: {name}\n{text or example(name)}")


def lines(site: Site, id: str, rule: str = "") -> List[str]:
    """What algorithms and rules have logged."""
    return [r["text"] for r in log(site, id) if r["type"] == "log" and r["rule"].startswith(rule)]


def counts(site: Site, id: str, group: str) -> Dict[str, int]:
    status = site.json("status", id)
    assert status["state"] == "complete", status["reason"]
    found: Dict[str, int] = status["groups"][group]
    return found


def rows(site: Site, id: str) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = site.json("jobs", id)["jobs"]
    return found


def test_sweep(site: Site) -> None:
    id = named(site, "sweep")
    assert counts(site, id, "solve")["success"] == 12
    assert lines(site, id) == ["12 of 12 points are solved"]
    # never more than four at a time: of every five in a row the first has ended before the last was submitted
    jobs = rows(site, id)
    points = {(job["params"]["n"], job["params"]["threads"]) for job in jobs}
    assert len(points) == 12
    for job in jobs:
        others = [o for o in jobs if o["t_submit"] <= job["t_submit"] < o["t_end"]]
        assert len(others) <= 4


def test_asha(site: Site) -> None:
    id = named(site, "asha")
    told = counts(site, id, "train")
    assert told["submitted"] == 32
    assert told["failed"] == 0
    assert told["cancelled"] >= 10
    stopped = [line for line in lines(site, id, "asha-rung") if " is stopped: " in line]
    # one that ended by itself before it was told is no accident
    assert len(stopped) >= told["cancelled"]
    assert told["success"] == 32 - told["cancelled"]
    # the least loss of all at the first rung is never stopped there
    firsts = [re.search(r"(\S+) (?:goes on|is stopped): loss (\S+) .* at rung 0", line) for line in lines(site, id)]
    found = {match[1]: float(match[2]) for match in firsts if match}
    assert len(found) == 32
    best = min(found, key=lambda key: found[key])
    assert any(line.startswith(f"{best} goes on: ") and line.endswith("at rung 0") for line in lines(site, id))


def test_successive_halving(site: Site) -> None:
    id = named(site, "successive-halving")
    told = counts(site, id, "run")
    assert told["submitted"] == 16
    # the two that the papers keep, by hand: 0.1 x + y / r at r = 2, 4, 8
    arms = [(3 * i / 15, 2 - i / 15) for i in range(16)]
    alive = list(range(16))
    for r, k in ((2, 8), (4, 4), (8, 2)):
        alive = sorted(alive, key=lambda i: 0.1 * arms[i][0] + arms[i][1] / r)[:k]
    (line,) = [line for line in lines(site, id) if line.startswith("to the end go: ")]
    wanted = sorted(f"successive-halving-start/1/{i}" for i in alive)
    assert sorted(line.split(": ")[1].split(", ")) == wanted
    ended = {f"{job['rule']}/{job['firing']}/{job['index']}": job["result"] for job in rows(site, id)}
    assert all(ended[key] == "success" for key in wanted)


def test_adaptive_sampling(site: Site) -> None:
    id = named(site, "adaptive-sampling")
    done = counts(site, id, "throw")["success"]
    assert done in range(10, 41, 5)
    values = [job["values"]["pi"] for job in rows(site, id)]

    def error(n: int) -> float:
        mean = sum(values[:n]) / n
        return float((sum((x - mean) ** 2 for x in values[:n]) / (n - 1) / n) ** 0.5 / mean)

    assert error(done) <= 0.004 or done == 40
    (line,) = lines(site, id, "adaptive-sampling-done")
    assert line.endswith(f"from {done} jobs")


def test_bisect(site: Site) -> None:
    id = named(site, "bisect")
    told = counts(site, id, "probe")
    assert told["failed"] >= 2
    (line,) = lines(site, id, "rule-1")
    low, high = (float(x) for x in re.findall(r"[\d.]+", line))
    assert low < 0.7317 <= high
    assert high - low <= 0.01
    # two ends, and three in each of four rounds: 1.9 / 4**4 < 0.01
    assert told["submitted"] == 14


def test_bisect_where_nothing_changes(site: Site) -> None:
    text = 'jobs: [{name: probe, command: "true"}]\n'
    text += "algorithm: {name: bisect, parameter: x, bracket: [0, 1], xtol: 0.1, on_error: ignore}\n"
    done = site.run("run", site.write(text))
    assert "bisect has no option 'on_error'" in done.stderr
    id = run(site, text.replace(", on_error: ignore", ""), expected=1)
    reason = site.json("status", id)["reason"]
    assert "function 'bisect:bisect' failed: the outcome is success at both ends, 0 and 1" in reason
    assert not [r for r in log(site, id) if "Traceback" in str(r.get("text"))]


def test_evolve(site: Site) -> None:
    id = named(site, "evolve")
    assert counts(site, id, "trial")["success"] == 96
    best = [float(re.search(r"score so far is (\S+),", line)[1]) for line in lines(site, id, "evolve-next")]  # type: ignore[index]
    assert len(best) == 8
    assert best == sorted(best, reverse=True)
    assert best[-1] < 1.0
    for job in rows(site, id):
        assert -5 <= job["params"]["x"] <= 5
        assert 1 <= job["params"]["k"] <= 1000


def test_two_phases(site: Site) -> None:
    id = named(site, "explore-refine")
    assert counts(site, id, "trial")["success"] == 32 + 48
    said = lines(site, id)
    swept, refined = (float(re.search(r"best score is ([\d.e-]+)", said[n])[1]) for n in (0, -1))  # type: ignore[index]
    assert refined <= swept
    assert "begins with the best of the group so far" in said
    order = [job["rule"] for job in rows(site, id)]
    assert all(rule.startswith("explore-") for rule in order[:32])
    assert all(rule.startswith("refine-") for rule in order[32:])


@pytest.mark.parametrize("name", ["evolve", "bisect"])
def test_an_expanded_file_does_the_same(site: Site, name: str) -> None:
    words = site.command("validate", "--expand", site.write(f"name: {name}\n{example(name)}"), member=False)
    done = subprocess.run(words, capture_output=True, text=True, env=site.env, cwd=site.folder, check=False)
    assert done.returncode == 0, done.stderr
    assert "algorithm: {" not in done.stdout
    found = []
    for text in (f"name: {name}\n{example(name)}", done.stdout):
        id = run(site, text)
        found.append(([job["params"] for job in sorted(rows(site, id), key=lambda j: (j["rule"], j["firing"], j["index"]))],
                      lines(site, id)))  # fmt: skip
    assert found[0] == found[1]


def test_a_killed_run_goes_on(site: Site) -> None:
    """Killed at once with its service in the middle of an evolution: it ends with what it would have ended with."""
    text = "name: evolve\n" + example("evolve").replace("awk '", "sleep 0.1; awk '")
    undisturbed = run(site, text)
    process = site.start("run", site.write(text))
    (id,) = set(until(lambda: set(site.kept()) - {undisturbed}))

    def generations() -> bool:
        return len([line for line in lines(site, id, "evolve-next") if line.startswith("generation")]) >= 3

    until(generations)
    site.kill(process)
    done = site.run("resume", id)
    assert done.returncode == 0, done.stderr
    until(lambda: site.json("status", id)["t_end"] is not None)
    assert lines(site, id) == lines(site, undisturbed)
    # those that the kill had cut off were tried again
    ended = [[job for job in rows(site, one) if job["result"] == "success"] for one in (undisturbed, id)]
    points = [sorted(json.dumps(job["params"]) for job in jobs) for jobs in ended]
    assert points[0] == points[1]
