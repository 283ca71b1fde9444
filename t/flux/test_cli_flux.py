# SPDX-License-Identifier: MIT
"""The commands inside a real Flux instance, as `flux ensemble`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from t.flux_instance import FluxInstance

pytestmark = pytest.mark.flux

PATIENCE = 90.0
TWO_STEPS = """\
name: two-steps
jobs:
  - {name: first, command: sleep 0.2, count: 2}
  - {name: second, command: "echo done", count: 1}
rules:
  - trigger: start
    action: {name: submit, label: first}
  - trigger: metric
    name: count.first.success
    when: 2
    action: {name: submit, label: second}
"""
LONG = """\
name: long
jobs:
  - {name: sleeper, command: sleep 300}
rules:
  - trigger: start
    action: {name: submit, label: sleeper}
"""


class Inside:
    """Runs `flux ensemble` inside the instance."""

    def __init__(self, instance: FluxInstance, folder: Path) -> None:
        self.instance = instance
        self.folder = folder
        # `flux ensemble` is found in PATH
        path = os.pathsep.join([str(Path(sys.executable).parent), instance.env["PATH"]])
        self.env = {**instance.env, "PATH": path}

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        more.setdefault("env", self.env)
        done: subprocess.CompletedProcess[str] = self.instance.run(
            "flux", "ensemble", *words, check=False, cwd=self.folder, **more
        )
        assert "Traceback" not in done.stderr
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["flux", "ensemble", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
            cwd=self.folder,
        )

    def write(self, text: str) -> str:
        (self.folder / "it.yaml").write_text(text)
        return "it.yaml"

    def active(self) -> List[Dict[str, Any]]:
        done = self.run("list", "--json")
        return [] if done.returncode else [one for one in json.loads(done.stdout) if one["t_end"] is None]

    def running(self) -> Optional[Dict[str, Any]]:
        """The one ensemble that has not ended, once its job runs."""
        found = [one for one in self.active() if one["jobs"]["running"] == 1]
        return found[0] if found else None


@pytest.fixture
def inside(flux_instance: FluxInstance, tmp_path: Path) -> Iterator[Inside]:
    inside = Inside(flux_instance, tmp_path)
    yield inside
    for one in inside.active():
        inside.run("cancel", one["id"])
    inside.run("service", "stop")


def until(true: Any) -> Any:
    """What `true` answers once it answers something."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        found = true()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def jobs(instance: FluxInstance, *options: str) -> List[str]:
    out: str = instance.run("flux", "jobs", "-no", "{name} {result}", *options).stdout
    return sorted(out.splitlines())


def test_no_service(inside: Inside) -> None:
    for words in (
        ["list"],
        ["status", "x"],
        ["watch", "x"],
        ["cancel", "x"],
        ["service", "status"],
        ["service", "stop"],
    ):
        done = inside.run(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("flux-ensemble: no ")
        assert done.stderr.count("\n") == 1
        assert "flux ensemble service start" in done.stderr


def test_no_instance(inside: Inside) -> None:
    env = {**inside.env, "FLUX_URI": "local:///nowhere/local"}
    done = inside.run("list", env=env)
    assert done.returncode == 1
    assert "no Flux instance answers at FLUX_URI=local:///nowhere/local" in done.stderr


def test_run_starts_the_service_and_goes_to_the_end(inside: Inside) -> None:
    done = inside.run("run", inside.write(TWO_STEPS))
    assert done.returncode == 0, done.stderr
    assert "no service was running in this Flux instance: started one" in done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if "-> submit" in line] == ["rule-1", "rule-2"]
    assert ["first", "2", "0", "0", "2", "0", "0"] in [line.split() for line in lines]
    assert lines[-1].startswith("output: flux job attach ")
    assert jobs(inside.instance, "-a")[:3] == ["first COMPLETED", "first COMPLETED", "second COMPLETED"]
    place = lines[-1].split(";")[0].split()[-1]
    inside.instance.run("flux", "job", "attach", place)
    again = inside.run("run", inside.write(TWO_STEPS.replace("echo done", "false")))
    assert again.returncode == 1
    assert again.stderr == ""
    stats = json.loads(inside.run("service", "status", "--json").stdout)
    assert list(stats) == ["host", "pid", "supervisor_pid", "version", "t_start", "restarts", "ensembles"]
    assert (stats["host"], stats["ensembles"]) == ("process", 2)
    assert inside.run("watch", "two-steps").returncode == 1, "the latest of that name"


def test_jobs_stand_where_the_submitter_stood(inside: Inside) -> None:
    text = "name: here\njobs: [{name: it, script: 'pwd; umask; echo $GREETING', output: out}]\n"
    text += "rules: [{trigger: start, action: {name: submit, label: it}}]\n"
    inside.run("service", "start")
    done = inside.run("run", inside.write(text), env={**inside.env, "GREETING": "hallo"}, umask=0o027)
    assert done.returncode == 0, done.stderr
    assert (inside.folder / "out").read_text().split() == [str(inside.folder), "0027", "hallo"]


def test_a_guest_is_told_what_to_do(inside: Inside) -> None:
    inside.run("service", "start")
    guest = {**inside.env, "FLUX_HANDLE_ROLEMASK": "0x2", "FLUX_HANDLE_USERID": "12345"}
    done = inside.run("list", env=guest)
    assert (done.returncode, done.stdout) == (1, "")
    assert "flux start" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_detaches(inside: Inside, number: int, code: int) -> None:
    process = inside.start("run", inside.write(LONG))
    summary = until(inside.running)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert f"watch it with 'flux ensemble watch {summary['id']}'" in err
    assert [one["id"] for one in inside.active()] == [summary["id"]]


def test_ctrl_c_twice_cancels(inside: Inside) -> None:
    process = inside.start("run", inside.write(LONG))
    until(inside.running)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4, err
    assert ": cancelled after" in out
    assert jobs(inside.instance) == []


def test_pause_resume_cancel(inside: Inside) -> None:
    inside.run("service", "start")
    done = inside.run("submit", inside.write(LONG))
    assert (done.returncode, done.stderr) == (0, "")
    id = done.stdout.strip()
    until(inside.running)
    assert json.loads(inside.run("pause", id, "--json").stdout) == {"id": id, "state": "paused"}
    assert json.loads(inside.run("resume", "long", "--json").stdout) == {"id": id, "state": "running"}
    assert inside.run("cancel", id).returncode == 0
    assert inside.run("watch", id).returncode == 4
    assert inside.run("cancel", id).returncode == 1


def test_a_service_that_is_killed_half_way(inside: Inside) -> None:
    """Its supervisor starts it again, and it takes the ensemble up: who watches misses nothing and sees nothing twice."""
    process = inside.start("run", inside.write(LONG))
    until(inside.running)
    pid = json.loads(inside.run("service", "status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)

    def again() -> bool:
        told = inside.run("service", "status", "--json").stdout
        return bool(told) and json.loads(told)["pid"] != pid

    until(again)
    until(inside.running)
    assert inside.run("cancel", inside.active()[0]["id"]).returncode == 0
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4
    assert "silent" in err
    assert out.count(" submitted\n") == 1
    assert out.count("-> submit") == 1


def test_a_service_that_stays_away_is_given_up(inside: Inside) -> None:
    process = inside.start("run", inside.write(LONG))
    until(inside.running)
    begun = time.monotonic()
    assert inside.run("service", "stop").returncode == 0
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "gave up after 30 s" in err.splitlines()[-1]
    assert time.monotonic() - begun > 25
    inside.instance.run("flux", "cancel", "--all", check=False)


def test_the_installed_bindings_are_used_where_the_environment_has_none(inside: Inside) -> None:
    """A Python that has our package, but not Flux's: it asks the installed Flux where its own are."""
    code = (
        "import sys\n"
        "sys.path[:] = [folder for folder in sys.path if not __import__('os').path.isdir(folder + '/flux')] + sys.argv[1:]\n"
        "from ensemble.service.flux_client import load_flux\n"
        "print(load_flux().__file__)"
    )
    wanted = inside.instance.run("flux", "python", "-c", "import flux; print(flux.__file__)").stdout
    same = inside.instance.run("flux", "python", "-c", "import sys; print(*sys.version_info[:2])").stdout
    if tuple(map(int, same.split())) != sys.version_info[:2]:
        pytest.skip("the installed Flux has bindings for another Python")
    extra = [folder for folder in sys.path if folder.endswith("site-packages") and not Path(folder, "flux").is_dir()]
    hidden = inside.folder / "packages"
    hidden.mkdir()
    for folder in sys.path:
        if Path(folder, "flux").is_dir():
            for entry in Path(folder).iterdir():
                if entry.name not in ("flux", "_flux"):
                    (hidden / entry.name).symlink_to(entry)
    root = str(Path(__file__).resolve().parents[2])
    env = {key: value for key, value in inside.env.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(hidden), root, *extra],
        capture_output=True,
        text=True,
        env=env,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == wanted


def test_purge(inside: Inside) -> None:
    ended = json.loads(inside.run("submit", "--json", inside.write(TWO_STEPS)).stdout)["id"]
    assert inside.run("watch", ended).returncode == 0
    active = json.loads(inside.run("submit", "--json", inside.write(LONG)).stdout)["id"]

    def listed() -> List[str]:
        return [one["id"] for one in json.loads(inside.run("list", "--json").stdout)]

    refused = inside.run("purge", active)
    assert refused.returncode == 1
    assert "has not ended" in refused.stderr
    assert json.loads(inside.run("purge", "--older-than", "1h", ended, "--json").stdout) == {"removed": []}
    done = inside.run("purge", ended)
    assert (done.returncode, done.stdout) == (0, f"{ended}: removed (two-steps, complete)\n"), done.stderr
    assert ended not in listed()
    assert active in listed()
    assert inside.run("service", "restart").returncode == 0
    assert ended not in listed(), "it is gone from the KVS"
    assert active in listed()
