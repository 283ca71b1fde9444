# SPDX-License-Identifier: MIT
"""What the tests of the commands share: a place to stand, services that do as told, a way to call the command."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from ensemble.cli.main import main
from t.unit.socket_service import HELLO, Done, Serve, SocketService


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A working directory with a file, and nobody's services around."""
    runtime = Path(tempfile.mkdtemp(prefix="ens-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello.yaml").write_text(HELLO)
    yield tmp_path
    shutil.rmtree(runtime)


@pytest.fixture
def serve(place: Path) -> Iterator[Serve]:
    services: List[SocketService] = []

    def start(**answers: Any) -> SocketService:
        path = Path(os.environ["XDG_RUNTIME_DIR"], "ensemble", f"{len(services) + 1}.sock")
        services.append(SocketService(path, answers))
        # the order of the sockets is that of their times
        os.utime(path, (len(services), len(services)))
        return services[-1]

    yield start
    for service in services:
        service.stop()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str, member: bool = True) -> Done:
        status = main([*words, "--member", "local"] if member else list(words))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Done(status, out, err)

    return call
