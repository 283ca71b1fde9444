# SPDX-License-Identifier: MIT
"""The local queue's end of the line to its launcher, the process that starts and reaps the jobs' processes.

Law of this file: carry messages, keep the launcher alive, know nothing of queues. The launcher (`local_launcher.py`,
which tells its messages) is another process because starting one blocks, because what is done between fork and exec
is safe only without threads, and because it outlives a killed queue just long enough to kill the jobs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

from ensemble.errors import MemberError
from ensemble.members.channel import Channel, Lines, started
from ensemble.members.loop_timers import watch

_PROGRAM = Path(__file__).with_name("local_launcher.py")
#: seconds that `close` waits for the launcher to have killed all jobs
_PATIENCE = 15.0


class LauncherProcess:
    """Starts a launcher and talks to it. All calls come from the thread that runs `loop`.

    `on_event(message)` gets each message of the launcher, `on_lost()` is called once if it dies; both from the loop.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_event: Callable[[Dict[str, Any]], None], on_lost: Callable[[], None]
    ) -> None:
        """Raises MemberError if the process cannot be started."""
        self._on_event = on_event
        self._on_lost = on_lost
        self._lines = Lines()
        #: process groups of the running jobs, for the case that the launcher dies
        self._groups: Dict[int, List[int]] = {}
        ours, theirs = socket.socketpair()
        try:
            # what it says of itself stands where our own errors do
            self._process = started(["-I", "-S", str(_PROGRAM)], theirs, stderr=None)
        except OSError as exc:
            ours.close()
            raise MemberError(
                f"cannot start the process that runs local jobs ({exc}); is {sys.executable} in place?"
            ) from exc
        self._channel = Channel(ours, lambda fd, call, *, write=False: watch(loop, fd, call, write), self._came)

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._process.pid

    def send(self, message: Dict[str, Any]) -> None:
        """Pass a message on; never blocks. A message to a dead launcher is dropped, `on_lost` tells."""
        self._channel.send(json.dumps(message).encode() + b"\n")

    def _came(self, data: bytes) -> None:
        if not data:
            self._lost()
            return
        for line in self._lines.feed(data):
            message = json.loads(line)
            if message["event"] == "start":
                self._groups[message["id"]] = message["pids"]
            else:
                self._groups.pop(message["id"], None)
            self._on_event(message)

    def _lost(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()
        # The kernel has killed the tasks themselves; this is for what they had started.
        for pids in self._groups.values():
            for pid in pids:
                try:
                    os.killpg(pid, signal.SIGKILL)
                except OSError:
                    continue
        self._groups.clear()
        self._on_lost()

    def close(self) -> None:
        """Kill all jobs and end the launcher; returns when they are gone. Calls back no more."""
        self._channel.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
