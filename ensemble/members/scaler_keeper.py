# SPDX-License-Identifier: MIT
"""The program between the service and a program that changes the size of a queue.

Law of this file: a program of its own, standard library only, run by path (`python -I -S`). Standard input is a socket to
the service, which sends one line of JSON: `command`, `environment`, `cwd`. The command runs in a session of its own, without
input. When it has ended one line goes back: its wait `status` and the last of its `output`; what it leaves running is left
alone. At the end of the socket (the service gave up, or was killed) the command's process group gets SIGTERM, and SIGKILL
`GRACE` seconds later.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import time
from typing import Any, Callable, Dict, NoReturn

#: seconds between SIGTERM and SIGKILL
GRACE = 5.0
#: bytes of output that go back: the last ones
MOST = 4000
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _start(settings: Dict[str, Any], output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        settings["command"],
        env=settings["environment"],
        cwd=settings["cwd"],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=_prepare(),
    )


def _prepare() -> Callable[[], None]:
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)

    return prepare


def _run(peer: socket.socket, settings: Dict[str, Any]) -> Dict[str, Any]:
    """What became of the command; an OSError where the service is gone."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        process = _start(settings, writing)
    except (OSError, ValueError) as exc:
        return {"status": None, "output": str(exc)}
    os.close(writing)
    output = b""

    def hear() -> bool:
        nonlocal output
        with contextlib.suppress(BlockingIOError):
            data = os.read(reading, 1 << 16)
            output = (output + data)[-MOST:]
            return bool(data)
        return False

    watched = [peer.fileno(), reading]
    while process.poll() is None:
        # a child of the command may hold the pipe, so its end is not waited for
        ready, _, _ = select.select(watched, [], [], 0.05)
        if reading in ready and not hear():
            watched.remove(reading)
        if peer.fileno() in ready and not peer.recv(4096):
            _end(process)
            raise OSError("the service is gone")
    while hear():
        continue
    return {"status": process.returncode, "output": output.decode("utf-8", "replace")}


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGTERM)
    end = time.monotonic() + GRACE
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> NoReturn:
    """Keep one command."""
    peer = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    with contextlib.suppress(OSError, ValueError), peer:
        with peer.makefile("rb") as file:
            settings = json.loads(file.readline())
        peer.sendall(json.dumps(_run(peer, settings)).encode() + b"\n")
    raise SystemExit(0)


if __name__ == "__main__":
    main()
