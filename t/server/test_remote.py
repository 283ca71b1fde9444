# SPDX-License-Identifier: MIT
"""A queue elsewhere: a process of its own that attaches to the server, runs jobs, and comes back whatever breaks."""

from __future__ import annotations

import collections
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from ensemble.server import wire
from t.server.served import COMMAND, Caller, Served, secure

#: seconds
PATIENCE = 100
JOBS = """\
name: far
jobs:
  - {{name: a, script: 'echo "$ENSEMBLE_JOB" >>{ran}; sleep 0.7', count: 6}}
  - {{name: b, script: 'echo "$ENSEMBLE_JOB" >>{ran}', count: 2}}
rules:
  - {{trigger: start, action: {{name: submit, label: a}}}}
  - {{trigger: metric, name: count.a.success, when: 6, action: {{name: submit, label: b}}}}
"""


class Far:
    """A server with a service of its own, and a process that is its member."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served = self._serve()
        self.port = self.served.port
        self.call = secure(self.served)
        self.member: Optional[subprocess.Popen[bytes]] = None
        self.ran = folder / "ran"

    def _serve(self, *options: str) -> Served:
        return Served(
            self.folder, "--member", "remote", "--name", "far", "--rundir", str(self.folder / "run"), *options
        )

    def attach(
        self, folder: str = "member", name: str = "far", port: int = 0, token: str = "state/token"
    ) -> subprocess.Popen[bytes]:
        state = self.folder / "state"
        with open(self.folder / "member.log", "ab") as log:
            self.member = subprocess.Popen(
                [
                    sys.executable, "-m", "ensemble.server.processes", f"localhost:{port or self.port}", "--name", name,
                    "--folder", str(self.folder / folder), "--cores", "2", "--cert", str(state / "cert.pem"),
                    "--token-file", str(self.folder / token),
                ],
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        return self.member

    def submit(self) -> str:
        return str(self.call("Submit", text=JOBS.format(ran=self.ran)).id)

    def lines(self) -> List[str]:
        return self.ran.read_text().split() if self.ran.exists() else []

    def kill_server(self) -> None:
        self.served.process.kill()
        self.served.end()
        self.call.close()

    def restart_server(self) -> None:
        self.served = self._serve("--port", str(self.port))
        self.call = secure(self.served)

    def kill_member(self) -> None:
        assert self.member is not None
        self.member.kill()
        self.member.wait(PATIENCE)

    def counts(self, id: str) -> Dict[str, int]:
        return dict(json.loads(self.call("Status", id=id).json)["jobs"])

    def wait_for(self, what: Callable[[], Any]) -> None:
        until = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < until, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return self.served.said() + (self.folder / "member.log").read_text()

    def end(self) -> None:
        if self.member is not None and self.member.poll() is None:
            self.member.terminate()
            self.member.wait(PATIENCE)
        self.call.close()
        self.served.end()

    def check_whole(self, id: str) -> None:
        """Each job ran once, was counted once, and told once."""
        self.wait_for(lambda: self.call("Status", id=id).summary.state not in ("running", "stopping"))
        status = json.loads(self.call("Status", id=id).json)
        assert status["state"] == "complete", (status, self.said())
        assert {name: status["jobs"][name] for name in ("submitted", "success", "failed", "retried")} == {
            "submitted": 8, "success": 8, "failed": 0, "retried": 0,
        }  # fmt: skip
        ran = collections.Counter(self.lines())
        assert len(ran) == 8
        assert set(ran.values()) == {1}, ran
        rows = [json.loads(row) for row in self.call("Jobs", id=id).jobs]
        assert len({row["id"] for row in rows}) == 8
        told: Dict[Any, int] = collections.Counter()
        for record in self.call("Watch", id=id):
            one = json.loads(record.json)
            if one["type"] == "job":
                told[one["job"], one["event"]] += 1
            assert one["type"] != "error", one
        assert set(told.values()) == {1}, told


class Wire:
    """A line between member and server that can be cut while both live."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: List[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                beyond = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, beyond]
                for ends in ((near, beyond), (beyond, near)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()


@pytest.fixture
def far(tmp_path: Path) -> Any:
    one = Far(tmp_path)
    yield one
    one.end()


def test_what_is_submitted_waits_for_the_member(far: Far) -> None:
    id = far.submit()
    assert far.counts(id)["active"] == 6
    far.attach()
    far.check_whole(id)


def test_the_server_is_killed_in_the_middle(far: Far) -> None:
    far.attach()
    id = far.submit()
    far.wait_for(lambda: len(far.lines()) >= 2)
    far.kill_server()
    # what happens meanwhile is told later
    far.wait_for(lambda: len(far.lines()) >= 4)
    far.restart_server()
    far.check_whole(id)


def test_the_member_is_killed_in_the_middle(far: Far) -> None:
    far.attach()
    id = far.submit()
    far.wait_for(lambda: len(far.lines()) >= 2)
    far.kill_member()
    time.sleep(1.0)
    assert far.counts(id)["success"] < 6
    far.attach()
    far.check_whole(id)


def test_jobs_that_begin_and_end_while_the_member_is_dead_have_their_own_times(far: Far) -> None:
    far.attach()
    text = "{name: far, jobs: [{name: a, command: sleep 0.5, count: 2}], rules: [{trigger: start, action: {name: submit, label: a}}]}"
    id = str(far.call("Submit", text=text).id)
    jobs = far.folder / "member" / "jobs"
    far.wait_for(lambda: all((jobs / n / "begun").exists() for n in "12"))
    far.kill_member()
    far.wait_for(lambda: all((jobs / n / "end").exists() for n in "12"))
    time.sleep(2)
    back = time.time()
    far.attach()
    far.wait_for(lambda: far.call("Status", id=id).summary.state == "complete")
    for row in map(json.loads, far.call("Jobs", id=id).jobs):
        assert 0.5 <= row["t_end"] - row["t_start"] < 1.5
        assert row["t_end"] < back - 1.5
    records = [json.loads(record.json) for record in far.call("Watch", id=id)]
    ends = [record for record in records if record["type"] == "job" and record["event"] == "finish"]
    assert len(ends) == 2
    assert all(end["at"] < back - 1.5 < back < end["t"] for end in ends[1:])


def test_the_line_is_cut_again_and_again(far: Far) -> None:
    cable = Wire(far.port)
    try:
        far.attach(port=cable.port)
        id = far.submit()
        for lines in (1, 3, 5):
            far.wait_for(lambda lines=lines: len(far.lines()) >= lines)
            seen = far.served.said().count("is attached")
            cable.cut()
            far.wait_for(lambda seen=seen: far.served.said().count("is attached") > seen)
        far.check_whole(id)
    finally:
        cable.close()


def test_both_are_killed_again_and_again(far: Far) -> None:
    id = far.submit()
    for round in range(4):
        far.attach()
        seen = len(far.lines())
        far.wait_for(lambda seen=seen: len(far.lines()) > seen or len(far.lines()) == 8)
        first, second = (far.kill_server, far.kill_member) if round % 2 else (far.kill_member, far.kill_server)
        first()
        second()
        far.restart_server()
    far.attach()
    far.check_whole(id)


def test_cancel_and_a_time_limit(far: Far) -> None:
    far.attach()
    text = """\
failures: all
jobs:
  - {name: slow, command: sleep 60, count: 3}
  - {name: late, command: sleep 60, duration: 1s}
  - {name: wide, command: echo, nodes: 2}
  - {name: none, command: /no/such/program}
rules:
  - {trigger: start, actions: [{name: submit, label: late}, {name: submit, label: wide}, {name: submit, label: none}]}
  - {trigger: job-timeout, name: late, action: {name: submit, label: slow}}
  - {trigger: job-start, name: slow, repetitions: 1, action: {name: cancel, label: slow}}
"""
    id = far.call("Submit", text=text).id
    far.wait_for(lambda: far.call("Status", id=id).summary.state == "complete")
    rows = [json.loads(row) for row in far.call("Jobs", id=id).jobs]
    found = collections.Counter((row["group"], row["result"], row["cause"]) for row in rows)
    assert found == {
        ("slow", "cancelled", "cancel"): 3,
        ("late", "failed", "timeout"): 1,
        ("wide", "failed", "refused"): 1,
        ("none", "failed", "exec"): 1,
    }
    assert "one node with 2 cores" in next(row["note"] for row in rows if row["group"] == "wide")


def test_names_in_the_paths_of_output_are_filled_in(far: Far) -> None:
    far.attach()
    text = f"""\
jobs:
  - {{name: a, script: 'echo one', count: 2, output: '{far.folder}/{{{{name}}}}-{{{{id}}}}.out', error: '{far.folder}/{{{{x}}}}'}}
rules:
  - {{trigger: start, action: {{name: submit, label: a}}}}
"""
    id = far.call("Submit", text=text).id
    far.wait_for(lambda: far.call("Status", id=id).summary.state == "complete")
    ids = [json.loads(row)["id"] for row in far.call("Jobs", id=id).jobs]
    assert len(set(ids)) == 2
    assert [(far.folder / f"a-{each}.out").read_text() for each in ids] == ["one\n"] * 2
    assert (far.folder / "{{x}}").exists(), "unknown ones stay"


def test_a_member_without_its_token_says_so(far: Far) -> None:
    (far.folder / "state" / "token").rename(far.folder / "state" / "elsewhere")
    assert far.attach().wait(PATIENCE) == 1
    assert "the token cannot be read: [Errno 2]" in (far.folder / "member.log").read_text()
    assert "Traceback" not in far.said()


def test_another_journal_and_another_name_are_refused(far: Far) -> None:
    first = far.attach()
    far.wait_for(lambda: "is attached" in far.served.said())
    for folder, name, words in (("member", "near", "is called 'far'"), ("other", "far", "another journal")):
        if folder == "member":
            first.terminate()
            first.wait(PATIENCE)
        other = far.attach(folder, name)
        assert other.wait(PATIENCE) == 1
        assert words in far.said()
    log = (far.folder / "member.log").read_text()
    assert log.count("attached to") == 1, "only the one that was accepted says so"


def test_a_member_with_a_wrong_token_is_never_attached(far: Far) -> None:
    (far.folder / "wrong").write_text("0123456789abcdefgh")
    (far.folder / "wrong").chmod(0o600)
    assert far.attach(token="wrong").wait(PATIENCE) == 1
    log = (far.folder / "member.log").read_text()
    assert "UNAUTHENTICATED" in log
    assert "attached" not in log


def test_two_servers_do_not_share_a_folder(far: Far, tmp_path: Path) -> None:
    options = ["--port", "0", "--member", "remote", "--state", str(tmp_path / "s"), "--rundir", str(far.folder / "run")]
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, "another server has its ensembles in" in done.stderr) == (1, True)


def test_what_a_member_may_not_send(far: Far) -> None:
    attach = wire.Stub(far.call.channel, wire.MEMBERS).Attach
    make = wire.message("FromMember")
    hello = make(register={"name": "far", "identity": "1"})
    for messages, words in (
        ([make(event={"seq": 1})], "the first message"),
        ([hello, hello], "the first message of a line and no other"),
        ([hello, make(event={"seq": 1, "job": {"id": 1, "name": "start", "context": "[]"}})], "JSON object"),
        ([hello, make(event={"seq": 1, "t": float("nan"), "recovered": True})], "makes no sense"),
        ([hello, make(event={"seq": 1, "t": 1.0})], "says nothing"),
        ([hello, make(event={"seq": 1, "t": 1.0, "recovered": True}),
          make(event={"seq": 3, "t": 1.0, "recovered": True})], "without a gap"),
    ):  # fmt: skip
        with pytest.raises(Exception, match="FAILED_PRECONDITION") as caught:
            for _ in attach(_then_wait(messages), metadata=far.call.metadata, timeout=60):
                pass
        assert words in str(caught.value)
    assert far.call("List") is not None


def _then_wait(messages: List[Any]) -> Any:
    yield from messages
    time.sleep(5)


def test_a_member_needs_the_token(far: Far) -> None:
    caller = Caller(far.port, far.folder / "state" / "cert.pem", "0123456789abcdefgh")
    with pytest.raises(Exception, match="UNAUTHENTICATED"):
        list(wire.Stub(caller.channel, wire.MEMBERS).Attach(iter([]), metadata=caller.metadata, timeout=60))
    caller.close()
