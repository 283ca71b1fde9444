# SPDX-License-Identifier: MIT
"""Custom functions on the local queue, by the command: answers, files and modules, a killed run, functions that mean no good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from t import steered
from t.local.test_resume import Site, site, until

__all__ = ["site"]

TOP = Path(__file__).resolve().parents[2]
FILE = """
name: beside
jobs: [{name: a, command: "true", count: 2}]
custom: {file: steering/steer.py}
rules: [{trigger: start, action: {name: custom, label: begin}}]
"""


def run(site: Site, text: str, expected: int = 0) -> str:
    """Run a file to its end; the ensemble's id."""
    before = set(site.kept())
    done = site.run("run", site.write(text))
    assert done.returncode == expected, done.stdout + done.stderr
    (id,) = set(site.kept()) - before
    return id


def validate(site: Site, text: str) -> str:
    """What `validate` says of a file."""
    words = site.command("validate", site.write(text), member=False)
    return subprocess.run(words, capture_output=True, text=True, env=site.env, cwd=site.folder, check=False).stderr


def log(site: Site, id: str) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in site.run("log", id, "--json").stdout.splitlines()]


def test_answers(site: Site) -> None:
    id = run(site, steered.ANSWERS)
    steered.check_answers(site.json("status", id), log(site, id), "False")


def test_generations(site: Site) -> None:
    id = run(site, steered.GENERATIONS)
    steered.check_generations(site.json("status", id), site.json("jobs", id)["jobs"], log(site, id))


@pytest.mark.slow
def test_the_example_of_ten_generations(site: Site) -> None:
    # its jobs report by the command
    site.env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = site.run("run", str(TOP / "examples" / "generations.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    (id,) = site.kept()
    steered.check_example(site.json("jobs", id)["jobs"], log(site, id))


def test_the_example_of_a_rule_from_a_function(site: Site) -> None:
    done = site.run("run", str(TOP / "examples" / "rule-from-function.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    status = site.json("status", "rule-from-function")
    assert status["groups"]["production"]["success"] == 8
    assert [rule["id"] for rule in status["rules"]] == ["rule-1", "plan", "too-slow"]


def test_a_killed_run_calls_again(site: Site) -> None:
    calls = site.folder / "calls"
    process: subprocess.Popen[str] = site.start("run", site.write(steered.SLOW.replace("CALLS", str(calls))))
    until(lambda: calls.exists() and calls.read_text().strip())
    site.kill(process)
    (id,) = site.kept()
    done = site.run("resume", id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(calls.read_text().split()) == 2
    status = site.json("status", id)
    assert status["groups"]["work"]["success"] == 2
    assert [rule["id"] for rule in status["rules"]] == ["rule-1", "added"]
    assert "checked 2" in steered.texts(log(site, id), "log")


def test_a_file_is_read_where_one_submits(site: Site) -> None:
    folder = site.folder / "steering"
    folder.mkdir()
    (folder / "helper.py").write_text("GROUP = 'a'\n")
    (folder / "steer.py").write_text(
        "import helper\ndef begin():\n    print('beside')\n    return Action('submit', label=helper.GROUP)\n"
    )
    id = run(site, FILE)
    assert site.json("status", id)["groups"]["a"]["success"] == 2
    (folder / "steer.py").write_text("def begin(:\n")
    done = site.run("run", site.write(FILE))
    assert done.returncode == 2
    assert "steer.py:1:11: this is no Python: " in done.stderr
    (folder / "steer.py").unlink()
    assert "gives no functions: it cannot be read" in validate(site, FILE)


def test_a_module_is_found_where_one_submits(site: Site) -> None:
    (site.folder / "mine.py").write_text(
        "from ensemble.custom import Action\ndef begin():\n    return Action('submit', label='a')\n"
    )
    text = FILE.replace("file: steering/steer.py", "module: mine")
    id = run(site, text)
    assert site.json("status", id)["groups"]["a"]["success"] == 2
    told = validate(site, text.replace("label: begin", "label: bgin"))
    assert "the module 'mine' may have no function 'bgin'" in told
    told = validate(site, text.replace("module: mine", "module: nobodys"))
    assert "no module 'nobodys' is to be found here" in told


def test_a_failure_is_told_with_its_traceback(site: Site) -> None:
    id = run(site, steered.EVIL.replace("BODY", "1 / 0").replace("on_error: ignore", "on_error: fail"), expected=1)
    status = site.json("status", id)
    assert status["reason"] == "rule 'rule-1' failed: function 'evil' failed: ZeroDivisionError: division by zero"
    assert status["rules"][0]["state"] == "failed"
    (trace, _) = steered.texts(log(site, id), "error")
    assert 'custom", line 3, in evil' in trace
    assert "    1 / 0" in trace


@pytest.mark.parametrize("deed", steered.DEEDS)
def test_the_service_goes_on_whatever_a_function_does(site: Site, deed: str) -> None:
    text = steered.EVIL.replace("BODY", steered.DEEDS[deed])
    text += "  - {trigger: idle, action: {name: submit, label: work}}\n"
    id = run(site, text)
    assert site.json("status", id)["groups"]["work"]["success"] == 1
    assert any("function 'evil'" in told for told in steered.texts(log(site, id), "error"))


def test_a_file_of_the_predecessor_runs_unchanged(site: Site) -> None:
    done = site.run("run", str(TOP / "t" / "unit" / "data" / "predecessor-custom.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    (id,) = site.kept()
    assert {g: c["success"] for g, c in site.json("status", id)["groups"].items()} == {"sleep": 2, "echo": 4}
    lines = steered.texts(log(site, id), "log")
    assert sorted(lines) == ["count.echo.success metric echo_again 0", "finished True", "finished True"]
