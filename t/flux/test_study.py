# SPDX-License-Identifier: MIT
"""Studies on Flux: points of a file and drawn ones, over a kill of the service; jobspecs; the example that stops early."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, List

import pytest

from t import study
from t.flux.processes import gone
from t.flux.test_cli_flux import Inside, inside, until  # noqa: F401 - a fixture

pytestmark = pytest.mark.flux
TOP = Path(__file__).resolve().parents[2]


def ask(place: Inside, *words: str) -> Any:
    done = place.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows_of(place: Inside, id: str) -> List[Dict[str, Any]]:
    rows: List[Dict[str, Any]] = ask(place, "jobs", id)["jobs"]
    return rows


def test_a_study_goes_on_with_its_points_after_a_kill_of_the_service(inside: Inside) -> None:  # noqa: F811
    text, points, log = study.write(inside.folder)
    id = inside.run("submit", inside.write(text)).stdout.strip()
    until(lambda: len(study.told(log)) >= 4)
    points.unlink()
    pid = ask(inside, "service", "status")["pid"]
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    # until the supervisor has brought another one up, there is none to ask
    until(lambda: '"state": "complete"' in inside.run("status", id, "--json").stdout)
    rows = rows_of(inside, id)
    study.check(rows, log)
    assert len(study.told(log)) == 11
    for row in rows:
        shown = inside.instance.run("flux", "job", "info", str(row["id"]), "jobspec").stdout
        assert json.loads(shown)["attributes"]["user"]["ensemble_params"] == row["params"]
    assert ask(inside, "status", id)["parameters"]["drawn"][0]["taken"] == 8


def test_the_example_stops_once_a_trial_is_good_enough(inside: Inside) -> None:  # noqa: F811
    done = inside.run("run", str(TOP / "examples" / "parameter-study.yaml"))
    assert done.returncode == 0, done.stderr
    assert "stopped by rule 'good-enough'" in done.stdout
    rows = rows_of(inside, "parameter-study")
    assert 8 <= len(rows) < 60
    names = sorted(path.name for path in inside.folder.glob("trial-*.out"))
    assert names == sorted(f"trial-{row['id']}-rate-{row['params']['rate']:.1e}.out" for row in rows)
    table = inside.run("jobs", "parameter-study").stdout.splitlines()
    assert table[0].split()[-3:] == ["WIDTH", "RATE", "RULE"]
