# SPDX-License-Identifier: MIT
"""How the tests start a local service in a process of its own and talk to it in raw lines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional

PATIENCE = 60.0
ONE_JOB = """
name: one
jobs: [{name: g, command: COMMAND, count: COUNT}]
rules: [{trigger: start, action: {name: submit, label: g}}]
"""


class Host:
    """A service in a process of its own."""

    def __init__(self, runtime: Path, rundir: Path, *options: str, hosted: bool = False) -> None:
        ready, tell = os.pipe()
        passed = [tell]
        words = [sys.executable, "-m", "ensemble.service.local_host", "--rundir", str(rundir), "--cores", "2"]
        words += ["--ready-fd", str(tell), *options]
        self.pipe: Optional[int] = None
        if hosted:
            reading, self.pipe = os.pipe()
            passed.append(reading)
            words += ["--hosted-fd", str(reading)]
        self.process = subprocess.Popen(
            words,
            pass_fds=passed,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for end in passed:
            os.close(end)
        with os.fdopen(ready) as file:
            self.path = file.readline().strip()

    def close_pipe(self) -> None:
        if self.pipe is not None:
            os.close(self.pipe)
            self.pipe = None

    def wait(self) -> int:
        """Its exit status; it must end by itself, without a word above info, and leave no socket."""
        _, said = self.process.communicate(timeout=PATIENCE)
        assert not [line for line in said.splitlines() if " info: " not in line], said
        assert not os.path.exists(self.path)
        return self.process.returncode


class Client:
    """A connection that speaks the raw lines."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")
        self.last = 0

    def send(self, endpoint: str, payload: Any = None, **more: Any) -> int:
        self.last += 1
        self.raw(json.dumps({"id": self.last, "endpoint": endpoint, "payload": payload or {}, **more}).encode() + b"\n")
        return self.last

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> Optional[Dict[str, Any]]:
        """The next line; None at the end of the connection."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            return None
        answer: Optional[Dict[str, Any]] = json.loads(line) if line else None
        return answer

    def call(self, endpoint: str, payload: Any = None) -> Dict[str, Any]:
        """The answer to one request, others' passed over."""
        id = self.send(endpoint, payload)
        while True:
            answer = self.read()
            assert answer is not None, "the connection was closed"
            if answer["id"] == id:
                return answer

    def submit(self, command: str, count: int = 1) -> str:
        text = ONE_JOB.replace("COMMAND", json.dumps(command)).replace("COUNT", str(count))
        submitter = {"environment": dict(os.environ), "cwd": "/"}
        answer = self.call("submit", {"text": text, "file": "one.yaml", "submitter": submitter})
        assert "ok" in answer, answer
        id: str = answer["ok"]["id"]
        return id

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def until(predicate: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not predicate():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def running_job(client: Client, tmp_path: Path) -> int:
    """Submit a job that sleeps; returns its process id."""
    pids = tmp_path / "pids"
    client.submit(f"sh -c 'echo $$ > {pids}; exec sleep 300'")
    until(lambda: pids.exists() and pids.read_text().strip())
    return int(pids.read_text())
