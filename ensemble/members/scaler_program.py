# SPDX-License-Identifier: MIT
"""Ways that are a program: a site's script (`command`), and our own that talks to Kubernetes (`minicluster`).

How it works. The program runs under `scaler_keeper.py`, which tells how it ended. What it is to bring about stands in its
environment:

    ENSEMBLE_ACTION        grow or shrink
    ENSEMBLE_SIZE_WANTED   nodes that there shall be, not how many more; asked for again, it is the same
    ENSEMBLE_SIZE_CURRENT  nodes that are up
    ENSEMBLE_SIZE_MIN, ENSEMBLE_SIZE_MAX   bounds of the scaler; MAX is empty where there is none
    ENSEMBLE_EXTENT        nodes that their owner has to have for that, those that are out of use for other reasons included
    ENSEMBLE_RANKS         shrink: the ranks to take, on which nothing runs; grow: ranks without a node
    ENSEMBLE_ID            the ensemble that wants it

Exit status 0 says that it was asked for; a line ENSEMBLE_EXTENT=N of its output, that there will be so many. With any other it has failed, and the last line that it printed says why.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ensemble.members.base import Loop
from ensemble.members.channel import Channel, started
from ensemble.members.scaler import Change, Done, Way
from ensemble.spec.scaler import Scaler as Table

_KEEPER = Path(__file__).with_name("scaler_keeper.py")
_MINICLUSTER = Path(__file__).with_name("scaler_minicluster.py")
#: seconds that a keeper which has told all may take to end, and one that was let go
_GRACE = 10.0
#: what the program may print of the size that was to be had
_EXTENT = re.compile(r"^ENSEMBLE_EXTENT=(\d{1,7})$", re.MULTILINE)
_LONGEST = 300


class Program(Way):
    """Runs a program for each change."""

    def __init__(
        self,
        loop: Loop,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: str,
        *,
        name: str = "",
        last: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.last = last
        self._name = name
        self._loop = loop
        self._command = list(command)
        self._environment = dict(environment)
        self._cwd = cwd
        self._clock = clock
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._channel: Optional[Channel] = None
        self._read = b""
        self._done: Optional[Done] = None

    def change(self, change: Change, done: Done) -> None:
        self._done = done
        self._read = b""
        settings = {
            "command": self._command,
            "environment": {**self._environment, **told(change)},
            "cwd": self._cwd,
        }
        if self._loop.uri is not None:
            settings["environment"]["FLUX_URI"] = self._loop.uri  # type: ignore[index]
        ours, theirs = socket.socketpair()
        try:
            self._process = started(["-I", "-S", str(_KEEPER)], theirs, {})
        except OSError as exc:
            ours.close()
            error = f"the program cannot be started: {exc}"
            self._loop.call_at(self._clock(), lambda: self._answer(error, None))
            return
        self._channel = Channel(ours, self._loop.watch, self._came)
        self._channel.send(json.dumps(settings).encode() + b"\n")

    def stop(self) -> None:
        self._done = None
        self._let_go()

    def _came(self, data: bytes) -> None:
        self._read += data
        if data and not data.endswith(b"\n"):
            return
        try:
            ended = json.loads(self._read)
            error, extent = outcome(ended["status"], ended["output"], self._name)
        except (ValueError, KeyError, TypeError):
            error, extent = "the process that runs the program was killed", None
        self._answer(error, extent)

    def _answer(self, error: str, extent: Optional[int]) -> None:
        done, self._done = self._done, None
        self._let_go()
        if done is not None:
            done(error, extent)

    def _let_go(self) -> None:
        """The end of the socket has the keeper end the program, if it still runs."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            self._loop.call_at(self._clock() + _GRACE, lambda: _reap(process))


def _reap(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def told(change: Change) -> Dict[str, str]:
    """What a program is told by its environment."""
    order = change.order
    return {
        "ENSEMBLE_ACTION": order.action,
        "ENSEMBLE_SIZE_WANTED": str(order.wanted),
        "ENSEMBLE_SIZE_CURRENT": str(change.current),
        "ENSEMBLE_SIZE_MIN": str(order.min),
        "ENSEMBLE_SIZE_MAX": "" if order.max is None else str(order.max),
        "ENSEMBLE_EXTENT": str(change.extent),
        "ENSEMBLE_RANKS": change.ranks,
        "ENSEMBLE_ID": order.ensemble,
    }


def outcome(status: Optional[int], output: str, name: str) -> Tuple[str, Optional[int]]:
    """Why it failed, '' if it did not, and the extent that it says was to be had; without a `name` its own words."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1][:_LONGEST] if lines else "it printed nothing"
    if not name and status:
        return last, None
    if status is None:
        return f"{name} cannot be started: {last}", None
    if status < 0:
        try:
            how = signal.Signals(-status).name
        except ValueError:
            how = f"signal {-status}"
        return f"{name} was killed by {how}: {last}", None
    if status:
        return f"{name} has failed with exit code {status}: {last}", None
    found = _EXTENT.findall(output)
    return "", int(found[-1]) if found else None


def command(table: Table, loop: Loop, environment: Mapping[str, str], cwd: str) -> Program:
    """A site's or a user's script."""
    words = table.command or ("",)
    return Program(loop, words, environment, cwd, name=os.path.basename(words[0]))


def minicluster(table: Table, loop: Loop) -> Program:
    """The MiniCluster that this instance runs in, by the Flux Operator."""
    words: List[str] = [sys.executable, "-I", "-S", "-X", "utf8", str(_MINICLUSTER)]
    for word in ("object", "namespace", "server", "account"):
        value = getattr(table, word)
        if value is not None:
            words += [f"--{word}", value]
    # the operator takes away the pods of the greatest index, which are the greatest ranks
    return Program(loop, words, dict(os.environ), "/", last=True)
