# SPDX-License-Identifier: MIT
"""A service on the local socket that answers what a test tells it to, for the tests of the commands."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

from ensemble.errors import ServiceError

COUNTS = ("submitted", "pending", "running", "active", "finished", "success", "failed", "cancelled", "retried")
#: closes the connection
HANG_UP = object()
#: sends nothing more, and keeps the connection
SILENCE = object()


def counts(**given: int) -> Dict[str, int]:
    return {**dict.fromkeys(COUNTS, 0), **given}


def summary(id: str = "bcdfgh", name: str = "hello", state: str = "complete", **more: Any) -> Dict[str, Any]:
    ended = state in ("complete", "failed", "cancelled", "halted")
    return {
        "id": id,
        "name": name,
        "state": state,
        "reason": "all is said" if ended else None,
        "t_submit": 1000.0,
        "t_end": 1012.5 if ended else None,
        "jobs": counts(submitted=2, finished=2, success=2),
        **more,
    }


def status(**given: Any) -> Dict[str, Any]:
    of = summary(**given)
    return {
        "groups": {"sleep": of["jobs"]},
        "metrics": {"sleep": {"success": {"duration": {"n": 2, "mean": 2.5, "std": 0.5, "min": 2.0, "max": 3.0}}}},
        "rules": [
            {"id": "rule-1", "trigger": "start", "fired": 1, "remaining": 0, "state": "spent", "error": None},
            {"id": "again", "trigger": "metric", "fired": 7, "remaining": None, "state": "ready", "error": None},
        ],
        "variables": {},
        "parameters": {},
        **of,
    }


def job(number: int = 1, **given: Any) -> Dict[str, Any]:
    return {
        "id": str(number),
        "group": "sleep",
        "state": "inactive",
        "result": "success",
        "exit_code": 0,
        "signal": None,
        "cause": None,
        "attempt": 0,
        "rule": "rule-1",
        "firing": 1,
        "index": number - 1,
        "t_submit": 1000.0,
        "t_start": 1001.0,
        "t_end": 1003.5,
        "ranks": "0",
        "params": {},
        "values": {},
        "where": f"/out/bcdfgh/sleep-{number}.out",
        **given,
    }


def story(state: str = "complete", reason: str = "all is said") -> List[Dict[str, Any]]:
    """The records of a small ensemble from its submission to its end."""
    told: List[Dict[str, Any]] = [
        {"type": "submitted", "id": "bcdfgh", "name": "hello", "file": "hello.yaml", "debug": False},
        {"type": "state", "state": "running", "reason": None},
        {"type": "rule", "rule": "rule-1", "trigger": "start", "firing": 1, "remaining": 0, "text": "start"},
        {"type": "action", "rule": "rule-1", "firing": 1, "action": "submit", "label": "sleep", "count": 2},
        {"type": "job", "job": "1", "group": "sleep", "event": "submit"},
        {"type": "state", "state": state, "reason": reason},
    ]
    return [{"seq": seq, "t": 1000.0 + seq, **record} for seq, record in enumerate(told, 1)]


class SocketService:
    """Serves one socket from a thread. `answers` maps an endpoint to its answer.

    An answer is a dict, a ServiceError, HANG_UP, SILENCE, a list of these (a stream; it ends with ENODATA unless the
    last one says otherwise), or a function of the payload that returns one of them.
    """

    def __init__(self, path: Path, answers: Dict[str, Any]) -> None:
        self.path = path
        self.answers = {"stats": stats(), **answers}
        self.requests: List[Tuple[str, Dict[str, Any]]] = []
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._connections: List[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def asked(self, endpoint: str) -> List[Dict[str, Any]]:
        """The payloads that came for an endpoint."""
        return [payload for name, payload in self.requests if name == endpoint]

    def stop(self) -> None:
        self.path.unlink(missing_ok=True)
        for one in (self._socket, *self._connections):
            for end in (lambda s: s.shutdown(socket.SHUT_RDWR), socket.socket.close):
                with contextlib.suppress(OSError):
                    end(one)
        for thread in self._threads:
            thread.join(10.0)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    if not self._answer(connection, json.loads(line)):
                        connection.shutdown(socket.SHUT_RDWR)
                        return
        except OSError:
            pass

    def _answer(self, connection: socket.socket, request: Dict[str, Any]) -> bool:
        if "cancel" in request:
            return True
        self.requests.append((request["endpoint"], request["payload"]))
        answer: Any = self.answers[request["endpoint"]]
        if callable(answer):
            answer = answer(request["payload"])
        stream = isinstance(answer, list)
        for one in [*answer, ServiceError("end of stream", errno.ENODATA)] if stream else [answer]:
            if one is HANG_UP:
                return False
            if one is SILENCE:
                return True
            send(connection, request["id"], one)
        return True


def send(connection: socket.socket, id: Optional[int], answer: Union[Dict[str, Any], ServiceError]) -> None:
    told: Dict[str, Any] = {"id": id}
    if isinstance(answer, ServiceError):
        told.update(errno=answer.errno, error=str(answer))
    else:
        told["ok"] = answer
    connection.sendall(json.dumps(told).encode() + b"\n")


def stats(**given: Any) -> Dict[str, Any]:
    return {
        "host": "local",
        "pid": os.getpid(),
        "supervisor_pid": None,
        "version": "0.1.0",
        "t_start": 900.0,
        "restarts": 0,
        "ensembles": 1,
        "active": 0,
        "member": "local",
        "capabilities": ["submit"],
        **given,
    }


Serve = Callable[..., SocketService]


HELLO = """\
# says hello
jobs:
  - {name: sleep, command: sleep 1, count: 2}
rules:
  - trigger: start
    action: {name: submit, label: sleep}
"""


class Done(NamedTuple):
    status: int
    out: str
    err: str


def expect_sentence(done: Done, status: int, *words: str) -> None:
    assert done.status == status
    assert done.out == ""
    assert done.err.startswith("ensemble: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err
