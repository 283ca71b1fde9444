# SPDX-License-Identifier: MIT
"""Algorithms of installed packages: found by their entry point, expanded in a process of their own, called in the worker.

A package is a folder on PYTHONPATH with a module and its metadata, as an installer would have left it.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from t.local.test_algorithms_local import lines, rows, run
from t.local.test_resume import Site, site

__all__ = ["site"]

DOCUMENT = (Path(__file__).resolve().parents[2] / "doc" / "algorithms.md").read_text()
HEAD = """\
from ensemble.algorithms import Algorithm, Option
class Theirs(Algorithm):
    OPTIONS = (Option("n", "integer", "a number", 3, low=1),)
    def expand(self, group):
        return [self.rule("start", "enabled", self.submit(count=self.options["n"]))]
"""
FILE = 'jobs: [{name: a, command: "true"}]\nalgorithm: {name: theirs}\n'


@pytest.fixture
def package(site: Site, tmp_path: Path) -> Any:
    def install(name: str, module: str, source: str, target: str) -> None:
        folder = tmp_path / "site-packages"
        (folder / f"{module}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        (folder / f"{module}-1.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n"
        )
        points = f"[ensemble.algorithms]\n{name} = {module}:{target}\n"
        (folder / f"{module}-1.0.dist-info" / "entry_points.txt").write_text(points)
        site.env["PYTHONPATH"] = str(folder)

    return install


def validate(site: Site, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = site.command("validate", *words, site.write(text), member=False)
    return subprocess.run(command, capture_output=True, text=True, env=site.env, cwd=site.folder, check=False)


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_worked_example_of_the_document(site: Site, package: Any) -> None:
    source, text = block("python"), block("yaml-with-golden-section")
    assert block("toml").splitlines()[1] == 'golden-section = "golden_section:GoldenSection"'
    package("golden-section", "golden_section", source, "GoldenSection")
    id = run(site, text)
    assert site.json("status", id)["state"] == "complete"
    (line,) = lines(site, id)
    assert abs(float(re.search(r"[\d.]+", line)[0]) - 0.6) < 0.02  # type: ignore[index]
    # 0.618**9 < 0.02: two probes, and one for each further round
    assert len(rows(site, id)) == 10
    # in the simulator, too
    table = "simulate: {groups: {probe: {metrics: {cost: (x - 0.6) ** 2 + 1}}}}\n"
    words = site.command("simulate", "--json", site.write(text + table), member=False)
    done = subprocess.run(words, capture_output=True, text=True, env=site.env, cwd=site.folder, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["groups"]["probe"]["success"] == 10
    wrong = validate(site, text.replace("parameter: x", "paramter: x"))
    assert wrong.returncode == 2
    assert "golden-section has no option 'paramter'" in wrong.stderr
    assert "did you mean 'parameter'?" in wrong.stderr


def test_one_that_is_there_runs(site: Site, package: Any) -> None:
    package("theirs", "theirs", HEAD, "Theirs")
    done = validate(site, FILE, "--expand")
    assert "id: theirs-start" in done.stdout, done.stderr
    id = run(site, FILE.replace("theirs}", "theirs, n: 2}"))
    assert len(rows(site, id)) == 2


def test_the_known_ones_are_told(site: Site, package: Any) -> None:
    package("theirs", "theirs", HEAD, "Theirs")
    done = validate(site, FILE.replace("theirs}", "their}"))
    assert done.returncode == 2
    assert "did you mean 'theirs'?" in done.stderr


EVIL = {
    "raises": ("raise ValueError('no good')", "failed to expand: ValueError: no good"),
    "exits": ("import os; os._exit(3)", "ended without an answer (exit status 3)"),
    "asks to exit": ("raise SystemExit(1)", "failed: SystemExit: 1"),
    "answers nonsense": ("return 'rules'", "expected a list of rules"),
    "answers objects": ("return [{'id': object()}]", "hold more than plain data"),
    "answers nothing": ("return []", "expected a list of rules"),
    "answers too many": (
        "return [self.rule(str(n), 'start', self.submit()) for n in range(2000)]",
        "1000 of 1048576 are the most",
    ),
    "depends on chance": (
        "import random; return [self.rule(str(random.random())[2:], 'start', self.submit())]",
        "is not deterministic",
    ),
    "prints": (
        "print('{}' * 1000); return [self.rule('x', 'nonsense', self.submit())]",
        "no trigger is called 'nonsense'",
    ),
    "eats memory": ("x = bytearray(1 << 44)", "failed to expand: MemoryError"),
}


@pytest.mark.parametrize("deed", EVIL)
def test_whatever_one_does_at_load_is_a_fault_of_the_file(site: Site, package: Any, deed: str) -> None:
    body, said = EVIL[deed]
    package("theirs", "theirs", HEAD.rsplit("return", 1)[0] + body + "\n", "Theirs")
    done = validate(site, FILE)
    assert done.returncode == 2
    assert said in done.stderr
    assert ":2:" in done.stderr, "at the algorithm's place"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_one_that_hangs_at_load_is_ended(site: Site, package: Any, tmp_path: Path) -> None:
    left = tmp_path / "left"
    body = f"import os, time; open({str(left)!r}, 'w').write(str(os.getpid())); time.sleep(1000)\n"
    package("theirs", "theirs", HEAD.rsplit("return", 1)[0] + body, "Theirs")
    done = validate(site, FILE)
    assert "the algorithm 'theirs' did not answer within 20 s, and was killed" in done.stderr
    assert done.returncode == 2
    end = time.monotonic() + 30
    while Path("/proc", left.read_text()).exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("module", "said"), [("1 / 0", "cannot be loaded: ZeroDivisionError"), ("Theirs = 3", "is no subclass")]
)
def test_one_that_cannot_be_loaded(site: Site, package: Any, module: str, said: str) -> None:
    package("theirs", "theirs", module, "Theirs")
    assert said in validate(site, FILE).stderr


def test_one_that_goes_wrong_in_a_call_fails_its_ensemble_alone(site: Site, package: Any) -> None:
    source = HEAD.replace(
        "return [", "return [self.rule('ended', 'job-finish', self.call('ended'), name=group.name),\n            "
    )
    package("theirs", "theirs", source + "    def on_ended(self, told):\n        import os; os._exit(1)\n", "Theirs")
    id = run(site, FILE, expected=1)
    status = site.json("status", id)
    assert status["state"] == "failed"
    assert "function 'theirs:theirs' has ended its process (exit code 1)" in status["reason"]


def test_a_package_cannot_take_a_shipped_name(site: Site, package: Any) -> None:
    package("sweep", "theirs", HEAD, "Theirs")
    done = validate(site, FILE.replace("theirs}", "sweep, num_samples: 3}"), "--expand")
    assert "sweep-start" in done.stdout, done.stderr
    assert "sweep-done" in done.stdout
