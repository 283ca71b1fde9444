# SPDX-License-Identifier: MIT
"""The rc scripts, in instances started with them: up before the initial program, gone without a trace after it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from t.flux.installed import TOP, environment, need_flux_python
from t.flux.processes import gone

pytestmark = pytest.mark.flux
PATIENCE = 110.0
SERVICE = "flux ensemble-service"

#: submits an ensemble whose rules answer every end of a job with another job
BUSY = """
import flux, os
text = '''
name: busy
jobs:
  - {name: long, command: sleep 300, count: 2}
  - {name: answer, command: "true"}
rules:
  - {trigger: start, action: {name: submit, label: long}}
  - {trigger: job-cancel, name: long, repetitions: unlimited, action: {name: submit, label: answer}}
  - {trigger: job-fail, name: long, repetitions: unlimited, action: {name: submit, label: answer}}
'''
submitter = {"environment": dict(os.environ), "cwd": "/"}
flux.Flux().rpc("ensemble.submit", {"text": text, "file": "busy.yaml", "submitter": submitter}).get()
"""


@dataclasses.dataclass
class Ended:
    """What became of an instance."""

    status: int
    out: str
    err: str

    @property
    def ours(self) -> List[str]:
        """Lines on its stderr, where the broker repeats what is err or worse, that are ours."""
        return [line for line in self.err.splitlines() if "ensemble" in line and "rc2.0" not in line]

    @property
    def stats(self) -> Dict:
        """What the service said of itself, if the script asked it."""
        return next(json.loads(line) for line in self.out.splitlines() if line.startswith("{"))

    @property
    def pids(self) -> Tuple[int, ...]:
        return tuple(filter(None, (self.stats["pid"], self.stats["supervisor_pid"])))


@pytest.fixture
def start(tmp_path):
    """Run a script as the initial program of an instance with our rc scripts, and see it end."""

    def run(script: str, *options: str, **more: str) -> Ended:
        base = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        env = {**environment(base, tmp_path), "TMPDIR": str(tmp_path), **more}
        done = subprocess.run(
            ["flux", "start", *options, "/bin/sh", "-ec", script],
            env=env,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


#: levels of the log that nothing of ours may reach in a life without trouble
LOUD = re.compile(r" ensemble\.(emerg|alert|crit|err|warning)\[")


@pytest.mark.parametrize("size", [1, 4])
def test_up_before_the_initial_program_and_gone_after_it(start, size):
    ended = start(f"{SERVICE} --status; flux run true; flux dmesg", f"--test-size={size}")
    assert ended.status == 0, ended.err
    assert ended.stats["host"] == "process"
    assert ended.stats["restarts"] == 0
    assert "ensemble.info[0]: service started" in ended.out
    assert not LOUD.search(ended.out)
    assert ended.ours == []
    gone(*ended.pids)


@pytest.mark.parametrize(("size", "host"), [(1, "process"), (4, "process"), (1, "module")])
def test_a_shutdown_with_running_jobs_submits_nothing(start, tmp_path, size, host):
    if host == "module":
        need_flux_python()
    state = tmp_path / "state"
    state.mkdir()
    wait = "until [ $(flux jobs -n --filter=running | wc -l) = 2 ]; do sleep 0.1; done"
    ended = start(
        f"{SERVICE} --status; '{sys.executable}' -c \"$BUSY\"; {wait}",
        f"--test-size={size}",
        f"-Sstatedir={state}",
        f"--conf=ensemble.host={host}",
        BUSY=BUSY,
    )
    assert ended.status == 0, ended.err
    assert ended.stats["host"] == host
    assert ended.ours == []
    gone(*ended.pids)
    after = start("flux jobs -an -o '{name} {status_abbrev}'", f"-Sstatedir={state}", "--conf=ensemble.autostart=false")
    assert after.out.split("\n")[:-1] == ["long CA", "long CA"]


def test_the_service_answers_its_ensembles_when_it_is_no_shutdown(start):
    """What the test above must not see: the same ensemble, its jobs cancelled by the user."""
    count = "until [ $(flux jobs -an --filter=inactive -o '{name}' | grep -c answer) = 2 ]; do sleep 0.1; done"
    wait = "until [ $(flux jobs -n --filter=running | wc -l) = 2 ]; do sleep 0.1; done"
    ended = start(f"'{sys.executable}' -c \"$BUSY\"; {wait}; flux cancel --all; {count}", BUSY=BUSY)
    assert ended.status == 0, ended.err


NOT_RUNNING = f"! {SERVICE} --status 2>&1"


@pytest.mark.parametrize(
    ("options", "env", "runs"),
    [
        (["--conf=ensemble.autostart=false"], {}, False),
        (["--conf=ensemble.autostart=true"], {"ENSEMBLE_AUTOSTART": "false"}, False),
        (["--conf=ensemble.autostart=false"], {"ENSEMBLE_AUTOSTART": "true"}, True),
        # a system instance: lets guests in
        (["--conf=access.allow-guest-user=true"], {}, False),
        (["--conf=access.allow-guest-user=true", "--conf=ensemble.autostart=true"], {}, True),
    ],
)
def test_whether_it_starts(start, options, env, runs):
    ended = start(f"{SERVICE} --status" if runs else NOT_RUNNING, *options, **env)
    assert ended.status == 0, ended.out + ended.err
    assert runs or "no service runs" in ended.out
    if runs:
        gone(*ended.pids)


@pytest.mark.parametrize("autostart", ["", "true"])
def test_nested_instances_have_none_unless_asked_for(start, autostart):
    inner = f"flux getattr instance-level; {SERVICE} --status 2>&1 || true"
    env = {"ENSEMBLE_AUTOSTART": autostart} if autostart else {}
    ended = start(f"flux run -N1 flux start /bin/sh -c '{inner}'", "--test-size=2", **env)
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[0] == "1"
    if autostart:
        assert ended.stats["host"] == "process"
        gone(*ended.pids)
    else:
        assert "no service runs" in ended.out
    assert ended.ours == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--conf=ensemble.autostart=perhaps", "rc1: ensemble.autostart, or ENSEMBLE_AUTOSTART, is 'perhaps'"),
        ("--conf=ensemble.host=elsewhere", "rc1: ensemble.host is 'elsewhere': expected process or module"),
    ],
)
def test_a_wrong_configuration_is_told_and_harms_nothing(start, options, says):
    ended = start(f"flux dmesg; {NOT_RUNNING}", options)
    assert ended.status == 0, ended.err
    assert f"ensemble.warning[0]: {says}" in ended.out


def test_a_broken_installation_is_told_and_harms_nothing(start, tmp_path):
    ended = start("flux dmesg; flux run true", FLUX_EXEC_PATH_PREPEND=str(tmp_path), PATH=_path_without_ours())
    assert ended.status == 0, ended.err
    assert "ensemble.warning[0]: rc1: the service was not started" in ended.out


def _path_without_ours() -> str:
    here = Path(sys.executable).parent
    return os.pathsep.join(one for one in os.environ["PATH"].split(os.pathsep) if Path(one) != here)


def test_rc3_ends_the_service_and_leaves_a_module_to_the_broker(start):
    """By hand, while the instance runs: at a real shutdown the service is often faster."""
    script = f"{TOP}/etc/rc3.d/ensemble"
    ended = start(f"{SERVICE} --status; {script}; {NOT_RUNNING}; {script}")
    assert ended.status == 0, ended.out + ended.err
    gone(*ended.pids)
    need_flux_python()
    ended = start(f"{SERVICE} --status; {script}; {SERVICE} --status", "--conf=ensemble.host=module")
    assert ended.status == 0, ended.out + ended.err
    assert ended.out.count('"host": "module"') == 2


def test_off_rank_0_the_scripts_do_nothing(start):
    script = (
        f"flux exec -r 1 env ENSEMBLE_AUTOSTART=true {TOP}/etc/rc1.d/ensemble; {NOT_RUNNING}; flux exec -r 1 flux dmesg"
    )
    ended = start(script, "--test-size=2", ENSEMBLE_AUTOSTART="false")
    assert ended.status == 0, ended.out + ended.err
    assert not LOUD.search(ended.out), "the service itself refuses that rank, but is not even asked"
    script = f"flux exec -r 1 {TOP}/etc/rc3.d/ensemble; {SERVICE} --status"
    ended = start(script, "--test-size=2")
    assert ended.status == 0, ended.out + ended.err
    gone(*ended.pids)


def test_the_examples_are_what_flux_reads(start, tmp_path):
    """The example configuration parses, and says what the scripts ask for."""
    keys = "flux config get ensemble.autostart; flux config get ensemble.host"
    ended = start(keys, f"--config-path={TOP}/etc/ensemble.toml")
    assert ended.status == 0, ended.err
    assert ended.out.split() == ["true", "process"]
