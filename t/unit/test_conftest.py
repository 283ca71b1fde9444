# SPDX-License-Identifier: MIT
"""Our own watch over the tests is tested: what is left running fails a run, and skipped Flux tests are counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"


def run_inner(folder: Path, test: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Pytest on one file of its own, under our conftest with a short grace."""
    text = CONFTEST.read_text()
    assert "GRACE = 20.0" in text
    (folder / "conftest.py").write_text(text.replace("GRACE = 20.0", "GRACE = 0.3"))
    (folder / "test_inner.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = flux: x\n")
    # it is a run of its own, not a part of this one
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**outer, **environment},
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["alone", "shared"])
def test_a_process_left_running_fails_the_run(tmp_path: Path, options: List[str]) -> None:
    done = run_inner(
        tmp_path,
        "import subprocess\n"
        "def test_x(tmp_path):\n"
        "    p = subprocess.Popen(['sleep', '61'], start_new_session=True)\n"
        "    p.__class__.__del__ = lambda self: None\n",
        *options,
    )
    assert "1 passed" in done.stdout
    assert "LEFT RUNNING" in done.stdout
    assert "sleep 61" in done.stdout
    assert done.returncode == 1


def test_a_clean_run_passes(tmp_path: Path) -> None:
    done = run_inner(tmp_path, "import subprocess\ndef test_x():\n    subprocess.run(['true'])\n")
    assert "LEFT RUNNING" not in done.stdout
    assert done.returncode == 0, done.stdout


def test_skipped_flux_tests_are_counted_in_one_line(tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.flux\n@pytest.mark.parametrize('n', [1, 2, 3])\ndef test_x(n):\n    assert 0\n"
    done = run_inner(tmp_path, test, PATH=str(tmp_path))
    lines = [line for line in done.stdout.splitlines() if line.startswith("skipped ")]
    assert lines == ["skipped 3: Flux tests: Flux is not installed (no `flux` in PATH)"]
    assert done.returncode == 0, done.stdout
