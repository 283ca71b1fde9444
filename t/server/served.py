# SPDX-License-Identifier: MIT
"""A running `ensemble-server` for tests, and a caller of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import grpc

from ensemble.server import wire

COMMAND = [sys.executable, "-m", "ensemble.server.main", "start"]
HELLO = """\
name: hello
jobs:
  - {name: a, command: sleep 0.1, count: 3}
rules:
  - {trigger: start, action: {name: submit, label: a}}
"""
#: waits for a signal
WAITS = """\
name: waits
jobs:
  - {name: a, command: sleep 60, metrics: {loss: {}}}
rules:
  - {trigger: start, action: {name: submit, label: a}}
  - {trigger: signal, name: enough, action: {name: terminate}}
"""
#: seconds for one call
PATIENCE = 60


class Served:
    """`ensemble-server start` as a process of its own, and its words."""

    def __init__(self, folder: Path, *options: str, env: Optional[Dict[str, str]] = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = open(folder / "errors", "ab")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [*COMMAND, "--port", "0", "--state", str(folder / "state"), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.said()
        self.port = int(line)

    def said(self) -> str:
        return (self.folder / "errors").read_text()

    def token(self) -> str:
        return (self.folder / "state" / "token").read_text().strip()

    def end(self, wait: float = 30) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(wait)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()
        return code


class Caller:
    """Calls the methods with the token, and gives statuses where that is what comes."""

    def __init__(self, port: int, cert: Optional[Path], token: Optional[str], host: str = "localhost") -> None:
        target = f"{host}:{port}"
        if cert is None:
            self.channel = grpc.insecure_channel(target)
        else:
            self.channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(cert.read_bytes()))
        self.metadata: List[Tuple[str, str]] = [] if token is None else [("authorization", f"Bearer {token}")]

    def __call__(self, method: str, _service: str = wire.ENSEMBLES, **fields: Any) -> Any:
        request = next(m for m in wire.pool.FindServiceByName(_service).methods if m.name == method).input_type
        call = getattr(wire.Stub(self.channel, _service), method)
        return call(wire.message(request.full_name)(**fields), metadata=self.metadata, timeout=PATIENCE)

    def fault(self, method: str, _service: str = wire.ENSEMBLES, **fields: Any) -> Tuple[str, str]:
        """The status and the sentence of a call that fails."""
        try:
            answer = self(method, _service, **fields)
            list(answer) if hasattr(answer, "__next__") else None
        except grpc.RpcError as exc:
            return exc.code().name, exc.details()
        raise AssertionError(f"{method} did not fail: {answer}")

    def bytes(self, path: str, data: bytes, metadata: Optional[Sequence[Tuple[str, str]]] = None) -> Tuple[str, str]:
        """What a call of these very bytes is answered."""
        given = self.metadata if metadata is None else list(metadata)
        try:
            self.channel.unary_unary(path)(data, metadata=given, timeout=PATIENCE)
        except grpc.RpcError as exc:
            return exc.code().name, exc.details()
        return "OK", ""

    def close(self) -> None:
        self.channel.close()


def secure(served: Served) -> Caller:
    return Caller(served.port, served.folder / "state" / "cert.pem", served.token())
