# SPDX-License-Identifier: MIT
"""Studies on the local queue: points of a file and drawn ones, over a power cut; the example that stops early."""

from __future__ import annotations

import json
from pathlib import Path

from t import study
from t.local.test_resume import Site, site  # noqa: F401 - a fixture
from t.unit.test_cli_local import until

TOP = Path(__file__).resolve().parents[2]


def test_a_study_goes_on_with_its_points_after_a_power_cut(site: Site) -> None:  # noqa: F811
    text, points, log = study.write(site.folder)
    process = site.start("run", site.write(text))
    until(lambda: site.kept() and len(study.told(log)) >= 4)
    site.kill(process)
    (id,) = site.kept()
    before = site.json("jobs", id)["jobs"]
    points.unlink()
    assert site.run("resume", id).returncode == 0
    rows = site.json("jobs", id)["jobs"]
    study.check(rows, log)
    # those that came to light before are the same, and so are the points that were still to come
    kept = {(row["index"], row["attempt"]): row["params"] for row in rows}
    assert all(kept[row["index"], row["attempt"]] == row["params"] for row in before if row["result"])
    (table,), (drawn,) = (site.json("status", id)["parameters"][group] for group in ("table", "drawn"))
    assert (table["taken"], table["total"], table["seed"]) == (3, 3, None)
    assert (drawn["taken"], drawn["total"], drawn["sample"]) == (8, 8, "sobol")


def test_a_function_says_the_points(site: Site) -> None:  # noqa: F811
    text = '''\
name: asked
jobs:
  - name: trial
    command: sh -c 'echo "$0" "$ENSEMBLE_PARAM_X"' {x}
    parameters: {custom: next_points}
rules:
  - {trigger: start, action: {name: submit, label: trial}}
  - {trigger: group-complete, name: trial, repetitions: unlimited, action: {name: submit, label: trial}}
custom: |
  def next_points(results, state):
      """Halves the step around the best of the last points, three times."""
      best = max((row["params"]["x"] for row in results), default=0.5)
      state["step"] = state.get("step", 1.0) / 2
      return [{"x": best - state["step"]}, {"x": best + state["step"]}] if state["step"] > 0.1 else []
'''
    done = site.run("run", site.write(text))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "next_points has no more points of trial" in done.stdout
    rows = site.json("jobs", "asked")["jobs"]
    assert [row["params"]["x"] for row in rows] == [0.0, 1.0, 0.75, 1.25, 1.125, 1.375]
    for row in rows:
        assert Path(row["where"]).read_text() == f"{row['params']['x']!r} {row['params']['x']!r}\n"
    (of,) = site.json("status", "asked")["parameters"]["trial"]
    assert (of["sample"], of["taken"], of["total"]) == ("custom", 6, None)


def test_the_example_stops_once_a_trial_is_good_enough(site: Site) -> None:  # noqa: F811
    done = site.run("run", str(TOP / "examples" / "parameter-study.yaml"))
    assert done.returncode == 0, done.stderr
    assert "stopped by rule 'good-enough'" in done.stdout
    rows = site.json("jobs", "parameter-study")["jobs"]
    assert 8 <= len(rows) < 60
    assert all(set(row["params"]) == {"width", "rate"} for row in rows)
    assert len({json.dumps(row["params"]) for row in rows}) == len(rows)
    for row in rows:
        said = Path(row["where"]).read_text()
        assert said == f"rate {row['params']['rate']!r}, width {row['params']['width']!r}\n"
        assert Path(row["where"]).name == f"trial-{row['id']}-rate-{row['params']['rate']:.1e}.out"
