# SPDX-License-Identifier: MIT
"""`python -m ensemble.members.flux` shows the jobs of a queue, whoever submits them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List

import pytest

from t.flux_instance import FluxInstance

pytestmark = pytest.mark.flux
PATIENCE = 90.0


def watch(instance: FluxInstance, *args: str, uri: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, **({"FLUX_URI": uri} if uri else {})}
    command = [sys.executable, "-m", "ensemble.members.flux", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen[str]) -> List[str]:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert not err
    return out.splitlines()


def test_events_and_numbers_of_foreign_jobs(flux_instance: FluxInstance) -> None:
    process = watch(flux_instance, flux_instance.uri, "--json", "--jobs", "3", "--every", "2")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["type"] == "resources"
    assert first["cores"]["up"] == flux_instance.cores
    assert first["nodes"]["up"] == 1
    # the stream may be a moment behind its first line
    time.sleep(0.5)
    ids = [flux_instance.run("flux", "submit", "--job-name=one", "true").stdout.strip()]
    ids.append(flux_instance.run("flux", "submit", "--job-name=one", "true").stdout.strip())
    ids.append(flux_instance.run("flux", "submit", "false").stdout.strip())
    lines: List[Dict[str, Any]] = [json.loads(line) for line in ended(process)]
    for id in ids:
        names = [line["event"] for line in lines if line["type"] == "event" and line["job"] == id.replace("ƒ", "f")]
        assert names[0] == "submit"
        assert names[-1] == "clean"
        assert {"alloc", "start", "finish"} <= set(names)
    last = [line for line in lines if line["type"] == "metrics"][-1]
    assert last["results"] == {"success": 2, "failed": 1, "cancelled": 0}
    assert last["states"]["inactive"] == 3
    assert last["times"]["one"]["duration"]["n"] == last["times"]["one"]["pending"]["n"] == 2
    assert last["times"]["false"]["duration"]["mean"] > 0
    assert len([line for line in lines if line["type"] == "metrics"]) == 2


def test_the_past_as_lines_for_people(flux_instance: FluxInstance) -> None:
    for _ in range(3):
        flux_instance.run("flux", "run", "--job-name=past", "true")
    process = watch(flux_instance, "--all", "--jobs", "1", uri=flux_instance.uri)
    assert process.stdout is not None
    assert "nodes: 1 up" in process.stdout.readline()
    assert "submit" in process.stdout.readline()
    flux_instance.run("flux", "run", "--job-name=past", "true")
    lines = ended(process)
    assert any(line.split()[2:3] == ["alloc"] and "ranks=0" in line for line in lines)
    assert any(line.strip().startswith("past duration: n 4  mean ") for line in lines)


def test_a_reader_that_goes_is_no_fault(flux_instance: FluxInstance) -> None:
    process = watch(flux_instance, "--all", "--jobs", "2", uri=flux_instance.uri)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    for _ in range(2):
        flux_instance.run("flux", "run", "true")
    assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_cancelled_jobs_are_counted_pending_and_running(flux_instance: FluxInstance) -> None:
    process = watch(flux_instance, flux_instance.uri, "--json", "--jobs", "4", "--every", "0")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)

    def submit(*words: str) -> str:
        return str(flux_instance.run("flux", "submit", *words).stdout.strip())

    pending = submit("--urgency=0", "true")
    flux_instance.run("flux", "cancel", pending)
    for command in ("sleep 600", "trap 'exit 0' TERM; sleep 600 & wait"):
        running = submit("sh", "-c", command)
        flux_instance.run("flux", "job", "wait-event", "-t", str(PATIENCE), running, "start")
        flux_instance.run("flux", "cancel", running)
    submit("no-such-command")
    last = json.loads(ended(process)[-1])
    assert last["results"] == {"success": 0, "failed": 1, "cancelled": 3}
    assert last["states"]["inactive"] == 4


@pytest.mark.parametrize("option", ["--jobs=-3", "--jobs=0", "--every=-1", "--jobs=x"])
def test_a_number_of_jobs_that_is_none_is_refused(option: str) -> None:
    process = watch(None, option)  # type: ignore[arg-type]
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert f"'{option.partition('=')[2]}' is no number of jobs" in err


def test_an_instance_that_runs_in_a_job(flux_instance: FluxInstance) -> None:
    id = flux_instance.run("flux", "batch", "-N1", "-n1", "--wrap", "sleep", "60").stdout.strip()
    flux_instance.run("flux", "job", "wait-event", "-t", str(PATIENCE), id, "memo")
    process = watch(flux_instance, id, "--jobs", "1", "--all", uri=flux_instance.uri)
    assert process.stdout is not None
    # of this machine: by its socket, and not by ssh; it has only begun, and its node may come up a moment later
    assert process.stdout.readline().startswith("nodes: ")
    flux_instance.run("flux", "cancel", id)
    process.communicate(timeout=PATIENCE)


def test_without_an_instance_it_says_so() -> None:
    process = watch(None, "local:///nowhere/at/all")  # type: ignore[arg-type]
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "no Flux instance can be reached" in err
