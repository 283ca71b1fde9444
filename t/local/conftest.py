# SPDX-License-Identifier: MIT
"""A local queue, or a local service, for one test; both are stopped at its end."""

from __future__ import annotations

import contextlib
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from functions import Calls
from hosts import PATIENCE, Client, Host
from queues import Queue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Callable[..., Queue]]:
    made: List[Queue] = []

    def make(*sets: Dict[str, Any], cores: int = 2) -> Queue:
        made.append(Queue(tmp_path / f"run{len(made)}", cores))
        if sets:
            made[-1].open(*sets)
        return made[-1]

    yield make
    for one in made:
        one.member.stop()
        one.member.loop.close()


@pytest.fixture
def start(runtime_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    made: List[Host] = []

    def make(*options: str, hosted: bool = False) -> Host:
        made.append(Host(runtime_dir, tmp_path / "run", *options, hosted=hosted))
        assert made[-1].path, made[-1].process.communicate(timeout=PATIENCE)
        return made[-1]

    yield make
    for host in made:
        host.close_pipe()
        if host.process.poll() is None:
            host.process.send_signal(signal.SIGTERM)
        host.process.communicate(timeout=PATIENCE)


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[Callable[..., Calls]]:
    with contextlib.ExitStack() as made:

        def make(source: Any = None, **custom: Any) -> Calls:
            text = None if source is None else textwrap.dedent(source)
            return made.enter_context(contextlib.closing(Calls(tmp_path, text, **custom)))

        yield make


@pytest.fixture
def connect() -> Iterator[Callable[[Host], Client]]:
    with contextlib.ExitStack() as made:

        def make(host: Host) -> Client:
            return made.enter_context(contextlib.closing(Client(host.path)))

        yield make
