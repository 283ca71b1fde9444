# SPDX-License-Identifier: MIT
"""The supervisor alone, with programs that stand in for the service. Needs no Flux."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List

import pytest

from ensemble.service.supervisor import EXIT_DONE, EXIT_GONE, EXIT_REFUSED, MAX_QUICK, describe
from t.flux.processes import PATIENCE, alive, until

#: supervises the program in argv[2], which gets the folder in argv[1], the number of restarts, and why
DRIVER = """
import sys
from ensemble.service.supervisor import Supervisor
folder, program = sys.argv[1:]
def command(restarts, cause):
    return [sys.executable, "-c", program, folder, str(restarts), cause]
sys.exit(Supervisor(command, lambda text: print("report:", text, flush=True)).run())
"""

#: notes its start: restarts, process id, cause
NOTE = """
import os, signal, sys, time
folder, restarts, cause = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with open(folder + "/starts", "a") as file:
    file.write(f"{restarts}|{os.getpid()}|{cause}\\n")
"""
STAY = NOTE + "\nwhile True: time.sleep(1)\n"


@contextlib.contextmanager
def supervised(folder: Path, program: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for _, pid, _ in starts(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        # Last, because the child holds the pipe too.
        process.communicate()


def starts(folder: Path) -> List[List[str]]:
    try:
        return [line.split("|") for line in (folder / "starts").read_text().splitlines()]
    except FileNotFoundError:
        return []


def wait_for_starts(folder: Path, number: int) -> List[List[str]]:
    until(lambda: len(starts(folder)) >= number, f"start {number}")
    return starts(folder)


@pytest.mark.parametrize("status", [EXIT_DONE, EXIT_GONE, EXIT_REFUSED])
def test_a_clean_end_is_the_end_of_the_supervisor_too(tmp_path, status):
    with supervised(tmp_path, NOTE + f"sys.exit({status})") as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (status, "")
    assert len(starts(tmp_path)) == 1


def test_a_killed_service_is_restarted_and_told_why(tmp_path):
    with supervised(tmp_path, STAY) as process:
        first = wait_for_starts(tmp_path, 1)[0]
        os.kill(int(first[1]), signal.SIGKILL)
        second = wait_for_starts(tmp_path, 2)[1]
        assert first[::2] == ["0", ""]
        assert second[::2] == ["1", "was killed by SIGKILL"]
        assert process.poll() is None


def test_it_gives_up_on_a_service_that_dies_again_and_again(tmp_path):
    with supervised(tmp_path, NOTE + "sys.exit(7)") as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert [int(start[0]) for start in starts(tmp_path)] == list(range(MAX_QUICK))
    assert out.count("report:") == 1
    assert "ended with status 7" in out
    assert "flux ensemble service start" in out


def test_a_refusal_after_a_restart_is_tried_again(tmp_path):
    # The name of the dead one may be taken for a moment still.
    program = NOTE + f"sys.exit([1, {EXIT_REFUSED}, {EXIT_REFUSED}, 0][restarts])"
    with supervised(tmp_path, program) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_DONE
    assert len(starts(tmp_path)) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_service_and_supervisor(tmp_path, number):
    with supervised(tmp_path, STAY) as process:
        child = int(wait_for_starts(tmp_path, 1)[0][1])
        process.send_signal(number)
        assert process.wait(PATIENCE) == EXIT_DONE
        assert not alive(child)
    assert len(starts(tmp_path)) == 1


def test_a_signal_in_a_pause_ends_the_supervisor(tmp_path):
    # Waits for the third death: the pause after it is 0.4 s.
    with supervised(tmp_path, NOTE + "sys.exit(1)") as process:
        wait_for_starts(tmp_path, 3)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (EXIT_DONE, "")


def test_a_service_that_ignores_sigterm_is_killed(tmp_path):
    driver = DRIVER.replace(
        "folder, program", "import ensemble.service.supervisor as module\nmodule.PATIENCE = 0.2\nfolder, program", 1
    )
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STAY
    process = subprocess.Popen([sys.executable, "-c", driver, str(tmp_path), program])
    try:
        child = int(wait_for_starts(tmp_path, 1)[0][1])
        process.terminate()
        assert process.wait(PATIENCE) == EXIT_DONE
        assert not alive(child)
    finally:
        process.kill()
        process.wait()


def test_the_service_outlives_a_supervisor_that_is_killed(tmp_path):
    with supervised(tmp_path, STAY) as process:
        child = int(wait_for_starts(tmp_path, 1)[0][1])
        process.kill()
        process.wait()
        assert alive(child)


def test_the_service_starts_with_signals_as_usual(tmp_path):
    # The supervisor blocks signals for itself; a service that inherited that could not be ended.
    program = NOTE + "sys.exit(5 if signal.pthread_sigmask(signal.SIG_BLOCK, []) else 0)"
    with supervised(tmp_path, program) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_DONE


def test_the_supervisor_is_small():
    code = "import sys, ensemble.service.main; print([name for name in sys.modules if name.split('.')[0] in %r])"
    heavy = ["flux", "_flux", "river", "pydantic", "yaml", "numpy", "subprocess"]
    done = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("status", "text"),
    [(1, "ended with status 1"), (-9, "was killed by SIGKILL"), (-11, "was killed by SIGSEGV"), (-35, "killed by")],
)
def test_how_an_end_is_described(status, text):
    assert text in describe(status)
