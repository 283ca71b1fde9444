# SPDX-License-Identifier: MIT
"""A `watch` command whose process is stopped, as a laptop's lid does it: the same test for every transport."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict

from ensemble.service.protocol import WATCH_RECORDS

PATIENCE = 120.0
LINES = 50
#: writes thousands of records a second, until it is cancelled
CHATTER = f"""
name: chatter
jobs:
  - {{name: g, command: sleep 600}}
rules:
  - {{trigger: start, action: {{name: submit, label: g}}}}
  - trigger: heartbeat
    every: 0.01s
    repetitions: unlimited
    actions: [{", ".join(["{name: log, value: word}"] * LINES)}]
"""

Ask = Callable[[str, Dict[str, Any]], Dict[str, Any]]


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while True:
        got = condition()
        if got:
            return got
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def stopped_and_continued(ask: Ask, member: str, env: Dict[str, str], folder: Path) -> None:
    """The stream of a stopped watcher is cut, the service goes on, and once it is continued it has missed nothing."""
    submitter = {"environment": {}, "cwd": "/", "umask": None, "rlimits": {}}
    id = ask("submit", {"text": CHATTER, "file": "chatter.yaml", "submitter": submitter})["id"]
    told = folder / "told"
    with told.open("wb") as out:
        watcher = subprocess.Popen(
            [str(Path(sys.executable).with_name("ensemble")), "watch", "--member", member, "--json", id],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        until(lambda: told.stat().st_size, "its first line")
        os.kill(watcher.pid, signal.SIGSTOP)
        last = _last(ask, id, 0)
        until(lambda: ask("stats", {})["watchers"] == 0, "the cut")
        # the ensemble goes on while nobody reads, far beyond what one request buys
        until(lambda: _last(ask, id, last) > last + 2 * WATCH_RECORDS, "what it does not read")
        assert ask("stats", {})["watchers"] == 0
        ask("cancel", {"id": id})
        until(lambda: ask("status", {"id": id})["state"] == "cancelled", "the end")
        os.kill(watcher.pid, signal.SIGCONT)
        _, said = watcher.communicate(timeout=PATIENCE)
    finally:
        if watcher.poll() is None:
            watcher.kill()
            watcher.communicate()
    assert (watcher.returncode, said) == (4, "")
    records = [json.loads(line) for line in told.read_text().splitlines()]
    seqs = [record["seq"] for record in records if record["type"] != "metric"]
    assert seqs == list(range(1, _last(ask, id, last) + 1)), "a gap or a repeat"
    assert (records[-1]["type"], records[-1]["state"]) == ("state", "cancelled")


def _last(ask: Ask, id: str, since: int) -> int:
    """The seq of the newest record."""
    while True:
        answer = ask("log", {"id": id, "since": since, "max": 10_000})
        if len(answer["records"]) < 10_000:
            return int(answer["last"])
        since = answer["last"]
