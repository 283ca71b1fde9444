# SPDX-License-Identifier: MIT
"""What all tests share: when Flux tests run, a clean environment, and the check that nothing was left running.

Every process that a test starts inherits a variable that is unique to this run of pytest, however it detaches
itself. At the end of the run nothing with it may be alive; what is, is named, ended by its id, and fails the run.
Where several processes share the work (`-n`, pytest-xdist) that is looked at by the one that began them, for all.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Dict, Iterator, List, Optional

import hypothesis
import pytest

if Path(__file__).with_name("flux_instance.py").is_file():
    pytest_plugins = ["t.flux_instance"]

#: marks the processes of this run
MARK = "ENSEMBLE_TEST_RUN"
RUN = (os.environ.get(MARK) if "PYTEST_XDIST_WORKER" in os.environ else None) or uuid.uuid4().hex
#: how long those that are ending may take, in seconds
GRACE = 20.0

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def why_no_flux() -> Optional[str]:
    """A sentence: why Flux tests cannot run here; None where they can."""
    if shutil.which("flux") is None:
        return "Flux is not installed (no `flux` in PATH)"
    done = subprocess.run([sys.executable, "-c", "import flux, flux.job"], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"the bindings of the installed Flux do not load in Python {sys.version.split()[0]} ({why})"
    return None


def pytest_configure(config: pytest.Config) -> None:
    os.environ[MARK] = RUN
    # What a script runs in the background ignores Ctrl-C, and so would all that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Not the instance, nor the job, that pytest itself may run in.
    # Nor are lines as wide as its terminal, or as pytest-xdist says that one of its processes had.
    for name in ("FLUX_URI", "FLUX_JOB_ID", "ENSEMBLE_JOB", "COLUMNS", "LINES"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    wanting = [item for item in items if item.get_closest_marker("flux")]
    reason = why_no_flux() if wanting else None
    if reason:
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason=f"Flux tests: {reason}"))


@pytest.fixture(scope="session", autouse=True)
def runtime_dir() -> Iterator[Path]:
    """Where local services of this run put their sockets, and in `state` what they keep: not among the user's, which
    would be found as well. Short, as a socket's path must be."""
    folder = tempfile.mkdtemp(prefix="ens-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        patch.setenv("XDG_STATE_HOME", str(Path(folder, "state")))
        yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def interrupt() -> Iterator[None]:
    """Ctrl-C means after a test what it meant before.

    A blocking call of Flux's bindings takes Python's handler away, and does not put it back if the call fails.
    """
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def left_over(mark: str = RUN) -> Dict[int, str]:
    """The processes of this run that are alive now, other than pytest itself: id to command line."""
    needle = f"{MARK}={mark}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            # Zombies have an empty environment: they are not counted, being dead.
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(entry.name)] = line.strip()
        except OSError:
            continue  # gone meanwhile, or not ours to read
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    until = time.monotonic() + GRACE
    left = left_over()
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = left_over()
    session.config.stash[_LEFT] = left
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if left and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_LEFT = pytest.StashKey[Dict[int, str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left = config.stash.get(_LEFT, {})
    for pid, line in left.items():
        terminalreporter.write_line(f"LEFT RUNNING by a test: process {pid}: {line[:200]}", red=True)
    reasons = collections.Counter(
        report.longrepr[2].replace("Skipped: ", "", 1)
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, (tuple, list))
    )
    for reason, count in reasons.items():
        terminalreporter.write_line(f"skipped {count}: {reason}")
