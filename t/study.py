# SPDX-License-Identifier: MIT
"""A study with points of a file and drawn ones, whose jobs tell what they got; used on both queues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

from ensemble.engine.events import Key

POINTS = [{"x": number, "who": who} for number, who in ((1, "me"), (2.5, "you, too"), (-3, "é \"quoted\" 'words'"))]
STUDY = """\
name: study
limits: {max_active: 2}
jobs:
  - name: table
    command: ["sh", "-c", 'printf "%s|%s|%s|%s\\n" "$ENSEMBLE_JOB" "$1" "$2" "$ENSEMBLE_PARAM_WHO" >> LOG; sleep 0.3', sh, "{x}", "{who}"]
    parameters: {file: points.csv}
  - name: drawn
    script: |
      echo "$ENSEMBLE_JOB|{u}|$ENSEMBLE_PARAM_V|{v:.3e}" >> LOG
      sleep 0.3
    parameters:
      u: {uniform: [0, 1]}
      v: {loguniform: [1e-3, 1e3]}
    sample: sobol
    samples: 8
rules:
  - {trigger: start, actions: [{name: submit, label: table}, {name: submit, label: drawn}]}
"""


def write(folder: Path) -> Tuple[str, Path, Path]:
    """The study in a folder: its text, its file of points, and where its jobs tell what they got."""
    log, points = folder / "told", folder / "points.csv"
    lines = ["x,who", *(f"{p['x']},{json.dumps(p['who'], ensure_ascii=False)}" for p in POINTS)]
    points.write_text("\n".join(lines).replace('\\"', '""') + "\n")
    return STUDY.replace("LOG", str(log)), points, log


def told(log: Path) -> List[List[str]]:
    return [line.split("|") for line in log.read_text().splitlines()] if log.exists() else []


def check(rows: List[Dict[str, Any]], log: Path) -> None:
    """Every job got the values that its row has; each point was taken once, however often it was tried."""
    by_key = {(row["rule"], row["firing"], row["index"], row["attempt"]): row for row in rows}
    for key, *words in told(log):
        row = by_key[Key.parse(key)[1:]]
        params = row["params"]
        if row["group"] == "table":
            assert words == [str(params["x"]), params["who"], params["who"]]
        else:
            assert words == [repr(params["u"]), repr(params["v"]), f"{params['v']:.3e}"]
    ended = [row for row in rows if row["result"] == "success"]
    assert [row["params"] for row in ended if row["group"] == "table"] == POINTS
    drawn = {json.dumps(row["params"]) for row in rows if row["group"] == "drawn"}
    assert len(drawn) == len([row for row in ended if row["group"] == "drawn"]) == 8
