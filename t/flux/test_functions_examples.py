# SPDX-License-Identifier: MIT
"""The examples about custom functions, run on a real instance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t import steered
from t.flux.test_cli_flux import Inside, inside  # noqa: F401 - a fixture

TOP = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]


@pytest.mark.slow
def test_the_example_of_ten_generations(inside: Inside) -> None:  # noqa: F811
    done = inside.run("run", str(TOP / "examples" / "generations.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(inside.run("jobs", "generations", "--json").stdout)["jobs"]
    records = [json.loads(line) for line in inside.run("log", "generations", "--json").stdout.splitlines()]
    steered.check_example(rows, records)


def test_the_example_of_a_rule_from_a_function(inside: Inside) -> None:  # noqa: F811
    done = inside.run("run", str(TOP / "examples" / "rule-from-function.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(inside.run("status", "rule-from-function", "--json").stdout)
    assert status["groups"]["production"]["success"] == 8
    assert [rule["id"] for rule in status["rules"]] == ["rule-1", "plan", "too-slow"]
