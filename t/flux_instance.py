# SPDX-License-Identifier: MIT
"""A real Flux instance for tests, one for each test file: `flux_instance` is a fixture of module scope.

`shared()` is one instance for all tests that leave it as they found it, ended with the session.

The instance's initial program prints its URI and then waits for the end of its stdin, which is ours to close. A file
that needs more than one broker, or options, says so before its tests:

    FLUX_SIZE = 4
    FLUX_OPTIONS = ["--conf=..."]
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import pytest

#: seconds that an instance may take to come up, and to go
PATIENCE = 90.0
_HOLD = 'printf "%s\\n" "$FLUX_URI"; cat >/dev/null'


class FluxInstance:
    """A running instance. `uri` reaches its rank 0, `env` is the environment for programs that shall use it."""

    def __init__(self, size: int = 1, options: Sequence[str] = ()) -> None:
        """Raises AssertionError if it does not come up."""
        self.size = size
        self.folder = Path(tempfile.mkdtemp(prefix="ens-flux-"))
        self._log = (self.folder / "log").open("wb")
        base = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        # Commands and jobs find the `flux ensemble` of the Python that runs the tests.
        base["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), base.get("PATH", os.defpath)))
        base["TMPDIR"] = str(self.folder)
        self._process = subprocess.Popen(
            ["flux", "start", f"--test-size={size}", *options, "/bin/sh", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=base,
            cwd=self.folder,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.uri = self._process.stdout.readline().decode().strip()
        if not self.uri:
            self.stop()
            raise AssertionError(f"no Flux instance came up: {self.stderr}")
        self.env: Dict[str, str] = {**base, "FLUX_URI": self.uri}

    @property
    def pid(self) -> int:
        """The process id of `flux start`, the parent of the brokers."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What the instance has written to its stderr so far."""
        return (self.folder / "log").read_text(errors="replace")

    def run(self, *command: str, check: bool = True, timeout: float = PATIENCE, **more: Any) -> Any:
        """Run a command inside the instance; returns the CompletedProcess with its output as text."""
        more.setdefault("env", self.env)
        more.setdefault("cwd", self.folder)
        if "input" not in more:
            more.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **more)
        assert not check or done.returncode == 0, f"{command}: exit {done.returncode}: {done.stdout}{done.stderr}"
        return done

    @property
    def cores(self) -> int:
        """Cores of the instance."""
        return int(self.run("flux", "resource", "list", "-n", "-s", "up", "-o", "{ncores}").stdout)

    def stop(self) -> int:
        """End the instance; returns the exit status of `flux start`, negative if it had to be killed."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for pid in reversed(_family(self._process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            status = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
        return status

    def remove(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _family(pid: int) -> List[int]:
    """A process and all that descend from it, parents first."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                found.extend(int(child) for child in children.read_text().split())
    return found


@contextlib.contextmanager
def running(size: int = 1, options: Sequence[str] = ()) -> Iterator[FluxInstance]:
    """An instance for the body of a `with`. Skips the test where `flux` is not found."""
    if shutil.which("flux") is None:
        pytest.skip("Flux tests: Flux is not installed (no `flux` in PATH)")
    instance = FluxInstance(size, options)
    try:
        yield instance
    finally:
        instance.stop()
        instance.remove()


_shared: List[FluxInstance] = []


def shared() -> FluxInstance:
    """The instance of one broker that tests share."""
    return _one(0)


def another() -> FluxInstance:
    """A second one."""
    return _one(1)


def _one(number: int) -> FluxInstance:
    while len(_shared) <= number:
        _shared.append(FluxInstance())
    return _shared[number]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    while _shared:
        instance = _shared.pop()
        instance.stop()
        instance.remove()


@pytest.fixture(scope="module")
def flux_instance(request: pytest.FixtureRequest) -> Iterator[FluxInstance]:
    """The instance of this test file."""
    module = request.module
    with running(getattr(module, "FLUX_SIZE", 1), getattr(module, "FLUX_OPTIONS", ())) as instance:
        yield instance
