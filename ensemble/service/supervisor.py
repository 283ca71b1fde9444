# SPDX-License-Identifier: MIT
"""Keeps the service process running, and the way in for those who start and stop it.

Theory of operation. The supervisor is a small parent without Flux in it. It starts the service with exec, waits, and
restarts it when it died of a fault; the pauses double from 0.1 s to 10 s. It gives up after five deaths in a row that
each came within 10 s of a start. What the service's exit status means stands in `EXIT_*`: a service that was told to
quit, or whose broker is gone, ends its supervisor too, so neither outlives the instance.

A supervisor that is killed with -9 leaves its service running and unguarded, on purpose: the service holds ensembles
and is worth more than its guard, and it ends with its broker in any case. Start it again with
`flux ensemble service restart`.

The functions at the end are for clients (the command, the rc scripts); they import Flux when called, so that the
supervisor itself stays small.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

#: the service was told to end: by `quit`, a signal, or the shutdown of its instance
EXIT_DONE = 0
#: the broker is gone, or cannot be reached
EXIT_GONE = 3
#: the service cannot start here (another one runs, wrong rank, not the owner, the library is broken)
EXIT_REFUSED = 4

#: seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
#: a death within so many seconds of the start is a quick one
QUICK = 10.0
#: quick deaths in a row after which the supervisor gives up
MAX_QUICK = 5
#: a service that lived so many seconds has earned the short pause again
STEADY = 60.0
#: seconds between SIGTERM and SIGKILL
PATIENCE = 10.0

_WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """Runs one service after another until one ends for good.

    `command(restarts, cause)` is the argument vector of the next service: how often it was restarted, and why it is
    started again (empty at first). `report(text)` tells people that the supervisor has given up. `quiet` is called
    once the first service holds the standard files.
    """

    def __init__(
        self,
        command: Callable[[int, str], Sequence[str]],
        report: Callable[[str], None],
        quiet: Callable[[], None] = lambda: None,
    ) -> None:
        self._command = command
        self._report = report
        self._quiet = quiet
        self._stopping = False

    def run(self) -> int:
        """Supervise until the end; the exit status for the supervisor itself, one of `EXIT_*` or 1."""
        # Blocked signals wait for sigtimedwait, so nothing here can be interrupted half-way.
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        restarts = quick = 0
        pause, cause = FIRST_PAUSE, ""
        while True:
            begun = time.monotonic()
            status = self._one_life(self._command(restarts, cause))
            lived = time.monotonic() - begun
            if self._stopping or status in (EXIT_DONE, EXIT_GONE):
                return EXIT_DONE if self._stopping else status
            if status == EXIT_REFUSED and restarts == 0:
                return status
            cause = describe(status)
            quick = quick + 1 if lived < QUICK else 0
            if quick >= MAX_QUICK:
                self._report(
                    f"the service {cause}, for the {quick}th time in a row within {QUICK:g} s of its start: it is not "
                    "restarted any more; see the lines above, then 'flux ensemble service start'"
                )
                return 1
            if lived >= STEADY:
                pause = FIRST_PAUSE
            if self._paused(pause):
                return EXIT_DONE
            pause = min(2 * pause, LONGEST_PAUSE)
            restarts += 1

    def _one_life(self, argv: Sequence[str]) -> int:
        """Start the service and wait for its end; its exit code, or minus the signal that killed it."""
        pid = os.posix_spawn(argv[0], list(argv), os.environ, setsigmask=[], setsigdef=[signal.SIGTERM, signal.SIGINT])
        self._quiet()
        deadline: Optional[float] = None
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            # Without a deadline a long wait stands for one without end.
            got = signal.sigtimedwait(_WATCHED, 3600.0 if left is None else left)
            if got is None:
                if left is not None:
                    os.kill(pid, signal.SIGKILL)
                    deadline = None
            elif got.si_signo != signal.SIGCHLD and not self._stopping:
                self._stopping = True
                os.kill(pid, signal.SIGTERM)
                deadline = time.monotonic() + PATIENCE

    def _paused(self, seconds: float) -> bool:
        """Wait; whether the supervisor was told to end meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            got = signal.sigtimedwait(_WATCHED, max(0.0, deadline - time.monotonic()))
            if got is None:
                return False
            if got.si_signo != signal.SIGCHLD:
                return True


def describe(status: int) -> str:
    """How a service ended, as the rest of a sentence; `status` is negative for a signal."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def supervise(detached: bool) -> int:
    """Supervise the service of this instance; the exit status. `detached` lets go of the standard files."""
    if detached:
        if os.fork():
            os._exit(0)
        os.setsid()
    base = [sys.executable, "-m", "ensemble.service.main"]

    def command(restarts: int, cause: str) -> List[str]:
        argv = [*base, "--supervisor", str(os.getpid()), "--restarts", str(restarts), "--cause", cause]
        return [*argv, "--detached"] if detached else argv

    def report(text: str) -> None:
        # By a process of its own, because this one has no Flux in it.
        pid = os.posix_spawn(sys.executable, [*base, "--report", text], os.environ, setsigmask=[])
        os.waitpid(pid, 0)

    return Supervisor(command, report, close_standard_files if detached else lambda: None).run()


def close_standard_files() -> None:
    """Let go of standard input, output and error; whoever started us may be waiting for their end."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def python_environment(env: Optional[Dict[str, str]] = None) -> Dict[str, str]:
    """`env` (default: ours), with PYTHONPATH such that a child of the same Python imports what we import."""
    result = dict(os.environ if env is None else env)
    result["PYTHONPATH"] = os.pathsep.join(folder for folder in sys.path if folder)
    return result


# For clients


def start_detached(env: Optional[Dict[str, str]] = None, wait: float = 10.0) -> Dict[str, Any]:
    """Start the supervised service of the instance that `env` names, in a session of its own.

    Returns what `stats` answers, and `started`: False where a service was running already. `wait` is in seconds.
    Raises NoService, with the reason as far as it is known, if there is no first answer within that time.
    """
    import flux

    from ensemble.errors import NoService

    environ = dict(os.environ if env is None else env)
    try:
        handle = flux.Flux(environ["FLUX_URI"]) if environ.get("FLUX_URI") else flux.Flux()
    except OSError as exc:
        raise NoService(
            f"no Flux instance can be reached ({exc.strerror or exc}): start one with 'flux start' or 'flux alloc'"
        ) from None
    deadline = time.monotonic() + wait
    try:
        return {**service_status(handle, wait), "started": False}
    except NoService:
        pass
    said = _launch(python_environment(environ), deadline)
    try:
        return {**service_status(handle, max(0.1, deadline - time.monotonic())), "started": True}
    except NoService as exc:
        lines = said.replace("flux-ensemble: ", "").split("\n")
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if reason:
            raise NoService(f"the service did not start: {reason}") from None
        raise NoService(f"the service did not start within {wait:g} s ({exc}); 'flux dmesg' may say more") from None


def _launch(env: Dict[str, str], deadline: float) -> str:
    """Start supervisor and service; what they wrote before they let go of their standard error, or were overdue."""
    import select
    import subprocess

    read, write = os.pipe()
    try:
        subprocess.run(
            [sys.executable, "-m", "ensemble.service.main", "--supervised", "--detached"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=write,
            env=env,
            cwd="/",
            check=False,
        )
        os.close(write)
        write = -1
        said = b""
        while True:
            ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(read, 65536) if ready else b""
            if not chunk:
                return said.decode("utf-8", "replace")
            said = (said + chunk)[-65536:]
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)


def service_status(handle: Any, wait: float = 10.0) -> Dict[str, Any]:
    """What the service answers to `stats`. Raises NoService if none runs, ServiceError for another refusal."""
    return _ask(handle, "stats", wait)


def service_stop(handle: Any, wait: float = 10.0) -> Dict[str, Any]:
    """Tell the service to quit and wait until it is gone; what `stats` answered last. `wait` is in seconds.

    Raises NoService if none runs, ServiceError if it refuses, or is not gone in time.
    """
    import errno

    from ensemble.errors import NoService, ServiceError

    deadline = time.monotonic() + wait
    last = service_status(handle, wait)
    _ask(handle, "quit", max(0.1, deadline - time.monotonic()))
    while time.monotonic() < deadline:
        try:
            _ask(handle, "stats", max(0.1, deadline - time.monotonic()))
        except NoService:
            return last
        time.sleep(0.02)
    raise ServiceError(
        f"the service has not ended within {wait:g} s of 'quit': end it with kill {last.get('pid', 'PID')}",
        errno.ETIMEDOUT,
    )


def _ask(handle: Any, endpoint: str, wait: float) -> Dict[str, Any]:
    """One request, answered within `wait` seconds. Raises the ServiceError that stands for its errno."""
    import errno

    from ensemble.errors import NoService, service_error
    from ensemble.service.protocol import SERVICE

    future = handle.rpc(f"{SERVICE}.{endpoint}", {})
    try:
        future.wait_for(wait)
        answer = future.get()
    except OSError as exc:
        if exc.errno == errno.ENOSYS:
            raise NoService("no service runs in this Flux instance: 'flux ensemble service start' starts it") from None
        if exc.errno == errno.ETIMEDOUT:
            raise NoService(f"the service gave no answer within {wait:g} s", exc.errno) from None
        raise service_error(exc.errno or errno.EIO, future.error_string() or str(exc)) from None
    return dict(answer or {})
