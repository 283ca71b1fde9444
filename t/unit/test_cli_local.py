# SPDX-License-Identifier: MIT
"""The commands on the real local queue: a service of one's own, one in the background, signals, a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

PATIENCE = 90.0
TWO_STEPS = """\
# the second group follows the first
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


class Place:
    """A folder, and what is needed to run the command in it."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(self.state), "TERM": "xterm"}

    def command(self, *words: str, member: bool = True) -> List[str]:
        return [sys.executable, "-m", "ensemble.cli.main", *words, *(["--member", "local"] if member else [])]

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            env=self.env,
            cwd=self.folder,
            timeout=PATIENCE,
            **more,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
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

    def sockets(self) -> List[Path]:
        return list(Path(self.env["XDG_RUNTIME_DIR"], "ensemble").glob("*.sock"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    runtime = Path(tempfile.mkdtemp(prefix="ens-"))
    place = Place(tmp_path, runtime)
    yield place
    for path in place.sockets():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.stem), signal.SIGTERM)
    assert until(lambda: not place.sockets())
    shutil.rmtree(runtime)


def until(true: Any) -> Any:
    """What `true` answers once it answers something."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        found = true()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def running(place: Place) -> Optional[Dict[str, Any]]:
    """The one ensemble, once its job runs."""
    done = place.run("list", "--json")
    listed = json.loads(done.stdout) if done.returncode == 0 else []
    return listed[0] if listed and listed[0]["jobs"]["running"] == 1 else None


CANNOT = """name: cannot
variables: {}
scaler: {name: drain}
jobs: [{name: g, command: "true"}]
rules:
  - {trigger: start, actions: [{name: submit, label: g}, {name: set, label: n, value: 1}]}
  - {trigger: job-finish, action: {name: grow}}
"""


def test_what_only_the_service_warns_of_is_told_as_well(place: Place) -> None:
    """The command does not know what its queue can do; what it has told itself is not told again."""
    path = place.write(CANNOT)
    grow, variable = "warning: the queue has no way to grow", "warning: the variable 'n' is not declared"
    for words in (("run",), ("run", "--json"), ("submit",), ("submit", "--json")):
        done = place.run(*words, path)
        assert done.returncode == 0, done.stderr
        assert (done.stderr.count(grow), done.stderr.count(variable)) == (1, 1), done.stderr
    assert [text.split("\n")[0].partition(": ")[2] for text in json.loads(done.stdout)["warnings"]] == [
        variable,
        f"{grow}, so this will be refused whenever the rule fires",
    ]
    for words in ("run", "submit"):
        done = place.run(words, place.write("strict: true\n" + CANNOT.replace("variables: {}", "variables: {n: 0}")))
        assert (done.returncode, done.stdout) == (2, "")
        assert ":8:42: the queue has no way to grow" in done.stderr


def test_run_to_the_end(place: Place) -> None:
    done = place.run("run", place.write(TWO_STEPS))
    assert done.returncode == 0, done.stderr
    assert "running on the local queue" in done.stderr
    lines = done.stdout.splitlines()
    fired = [line for line in lines if "-> submit" in line]
    assert [line.split()[1] for line in fired] == ["rule-1", "rule-2"]
    assert "count.first.success" in fired[1]
    assert fired[1].endswith("-> submit second (1 job)")
    assert ["first", "2", "0", "0", "2", "0", "0"] in [line.split() for line in lines]
    assert ["second", "success", "duration", "1"] in [line.split()[:4] for line in lines]
    assert lines[-1].startswith(f"output: in {place.state}/ensemble/")
    folder = Path(lines[-1].split(" in ")[1])
    assert [path.read_text() for path in folder.glob("second-*.out")] == ["done\n"]
    assert place.sockets() == []


@pytest.mark.parametrize(
    ("change", "code", "state"),
    [
        (("echo done", "false"), 1, "failed"),
        (("rules:", "limits: {max_jobs: 2}\nrules:"), 3, "halted"),
    ],
)
def test_exit_status(place: Place, change: Any, code: int, state: str) -> None:
    done = place.run("run", place.write(TWO_STEPS.replace(*change)))
    assert done.returncode == code, done.stderr
    assert f": {state} after " in done.stdout


def test_run_in_json(place: Place) -> None:
    done = place.run("run", "--json", place.write(TWO_STEPS))
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    stored = [record for record in records if record["type"] != "metric"]
    assert [record["seq"] for record in stored] == list(range(1, len(stored) + 1))
    assert stored[0]["type"] == "submitted"
    assert (stored[-1]["type"], stored[-1]["state"]) == ("state", "complete")
    assert {"rule", "action", "job"} <= {record["type"] for record in stored}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_without_a_terminal_cancels(place: Place, number: int) -> None:
    process = place.start("run", place.write(LONG))
    until(lambda: running(place))
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4, err
    assert "cancelled" in out
    assert place.sockets() == []


def test_jobs_end_with_a_run_that_is_killed(place: Place) -> None:
    process = place.start("run", place.write(LONG))
    until(lambda: running(place))
    process.kill()
    process.communicate(timeout=PATIENCE)
    # that no job is left is what conftest looks at in the end
    assert until(lambda: not place.sockets())


def test_submit_and_the_verbs(place: Place) -> None:
    done = place.run("submit", place.write(TWO_STEPS))
    assert done.returncode == 0, done.stderr
    assert "started a local service in the background" in done.stderr
    assert place.run("watch", "two-steps").returncode == 0
    again = place.run("submit", place.write(LONG))
    assert (again.returncode, again.stderr) == (0, ""), "the service in the background is used again"
    id = again.stdout.strip()
    assert again.stdout == f"{id}\n"
    status = json.loads(place.run("status", id[:4], "--json").stdout)
    assert (status["id"], status["name"], status["state"]) == (id, "long", "running")
    assert set(status) == {
        "id", "name", "state", "reason", "t_submit", "t_end", "jobs", "groups", "metrics", "rules", "variables", "parameters",
        "members", "scaling",
    }  # fmt: skip
    listed = json.loads(place.run("list", "--json").stdout)
    assert [entry["name"] for entry in listed] == ["two-steps", "long"]
    assert set(listed[0]) == {"id", "name", "state", "reason", "t_submit", "t_end", "jobs"}
    rows = json.loads(place.run("jobs", id, "--json").stdout)
    assert rows["total"] == 1
    assert {row["group"] for row in rows["jobs"]} == {"sleeper"}
    types = [json.loads(line)["type"] for line in place.run("log", id, "--json").stdout.splitlines()]
    assert types[0] == "submitted"
    assert json.loads(place.run("pause", id, "--json").stdout) == {"id": id, "state": "paused"}
    assert json.loads(place.run("resume", id, "--json").stdout) == {"id": id, "state": "running"}
    assert place.run("cancel", id).returncode == 0
    assert place.run("watch", id).returncode == 4
    assert place.run("cancel", id).returncode == 1, "it has ended"
    assert place.run("status", "nope").returncode == 1
    assert json.loads(place.run("service", "status", "--json").stdout)["ensembles"] == 2
    assert place.run("service", "stop").returncode == 0
    assert place.run("service", "status").returncode == 1
    assert json.loads(place.run("list", "--json").stdout)[1]["state"] == "cancelled", "its file outlives the service"


def test_service_start_and_restart(place: Place) -> None:
    first = json.loads(place.run("service", "start", "--json").stdout)
    assert first["host"] == "local"
    assert "was running already" in place.run("service", "start").stdout
    second = json.loads(place.run("service", "restart", "--json").stdout)
    assert second["pid"] != first["pid"]
    assert place.run("service", "stop").returncode == 0


def test_a_folder_that_cannot_be_made(place: Place) -> None:
    (place.folder / "file").write_text("")
    done = place.run("run", place.write(TWO_STEPS), "--rundir", "file/folder")
    assert done.returncode == 1
    assert "cannot keep output in" in done.stderr.splitlines()[-1]
    assert "--rundir" in done.stderr.splitlines()[-1]


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, place: Place, *words: str, **env: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(place.folder)
            os.execve(sys.executable, place.command(*words), {**place.env, **env})
        self.seen = ""

    def expect(self, text: str) -> None:
        give_up = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < give_up, f"no {text!r} in the end of {self.seen[-1000:]!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self) -> int:
        """The exit status."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError):
                if select.select([self.fd], [], [], 0.1)[0]:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it does not end: {self.seen[-1000:]!r}")


def test_live_lines_on_a_terminal(place: Place) -> None:
    terminal = Terminal(place, "run", place.write(TWO_STEPS), COLUMNS="100", LINES="30")
    terminal.expect("RUNNING")
    assert terminal.end() == 0
    assert "\x1b[" in terminal.seen
    assert "-> submit second (1 job)" in terminal.seen
    assert ": complete after" in terminal.seen


def test_a_dumb_terminal_gets_plain_lines(place: Place) -> None:
    terminal = Terminal(place, "run", place.write(TWO_STEPS), TERM="dumb")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.seen


def test_ctrl_c_asks_and_the_run_goes_on_in_the_background(place: Place) -> None:
    terminal = Terminal(place, "run", place.write(LONG))
    summary = until(lambda: running(place))
    terminal.expect("sleeper")
    terminal.type("\x03")
    terminal.expect("[b]ackground")
    terminal.type("maybe\n")
    terminal.expect("please answer")
    terminal.type("b\n")
    assert terminal.end() == 130
    assert f"watch it with 'ensemble watch {summary['id']}'" in terminal.seen.replace("\r\n", "")
    still = running(place)
    assert still is not None
    assert still["state"] == "running"
    # it is a service for all now
    done = place.run("submit", place.write(TWO_STEPS))
    assert (done.returncode, done.stderr) == (0, "")
    assert place.run("service", "stop").returncode == 0


def test_ctrl_c_asks_and_the_run_is_cancelled(place: Place) -> None:
    terminal = Terminal(place, "run", place.write(LONG))
    until(lambda: running(place))
    terminal.type("\x03")
    terminal.expect("[c]ancel")
    terminal.type("c\n")
    assert terminal.end() == 4


def test_ctrl_c_twice_cancels_without_a_question_answered(place: Place) -> None:
    terminal = Terminal(place, "run", place.write(LONG))
    until(lambda: running(place))
    terminal.type("\x03")
    terminal.expect("[c]ancel")
    terminal.type("\x03")
    assert terminal.end() == 4


def test_a_service_that_cannot_start_says_why(place: Place) -> None:
    Path(place.env["XDG_RUNTIME_DIR"], "ensemble").mkdir(mode=0o777)
    os.chmod(Path(place.env["XDG_RUNTIME_DIR"], "ensemble"), 0o777)
    done = place.run("run", place.write(TWO_STEPS))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ensemble: the local service did not start: others can get into ")
