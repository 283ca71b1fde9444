# SPDX-License-Identifier: MIT
"""Workers of custom functions: whatever a function does, nothing of it gets out, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from queues import gone

import ensemble.service.functions as functions
from ensemble.service.keeper import MOST_LINES


def pid_in(path: Path) -> int:
    return int(path.read_text())


def test_a_function_that_loops_for_ever_is_killed(calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(functions, "TIME_LIMIT", 3.0)
    call = calls("""
        import os, signal
        def f():
            open("pid", "w").write(str(os.getpid()))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            while True:
                pass
        def g(): pass
        """)
    assert call()["error"] == "took longer than 3 s, and was killed"
    pid = pid_in(tmp_path / "pid")
    call.until(lambda: gone(pid))
    monkeypatch.setattr(functions, "TIME_LIMIT", 60.0)
    assert call("g") == {"answer": []}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("os._exit(7)", "has ended its process (exit code 7)"),
        ("os.kill(os.getpid(), 9)", "has ended its process (killed by SIGKILL)"),
        ("os.abort()", "has ended its process (killed by SIGABRT)"),
        ("os.killpg(0, 9)", "has ended its process (killed by SIGKILL)"),
        ("import ctypes; ctypes.string_at(0)", "has ended its process (killed by SIGSEGV)"),
        ("os.closerange(0, 1000); time.sleep(600)", "has ended its process"),
        ("[os.write(fd, b'\\xff' * 100) for fd in sockets()]; time.sleep(600)", "has ended its process"),
        ("[os.write(fd, b'\\0\\0\\0\\2[]') for fd in sockets()]; time.sleep(600)", "has ended its process"),
    ],
)
def test_a_worker_that_dies_is_told_and_the_next_call_gets_another(calls: Any, body: str, told: str) -> None:
    call = calls(f"""
        import os, stat, time
        def sockets():
            return [fd for fd in range(3, 100) if os.path.exists(f"/proc/self/fd/{{fd}}") and stat.S_ISSOCK(os.fstat(fd).st_mode)]
        def f():
            {body}
        def g(): pass
        """)
    assert call()["error"].startswith(told)
    assert call("g") == {"answer": []}


@pytest.mark.parametrize(
    "body",
    [
        "os.kill(os.getppid(), 9)",
        "os.killpg(os.getpgid(os.getppid()), 9)",
        "os.kill(os.getppid(), 19); time.sleep(600)",
    ],
)
def test_the_service_is_not_the_parent(calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """The process above it, and its whole group, may be killed: that is the keeper. What is left behind is found."""
    monkeypatch.setattr(functions, "TIME_LIMIT", 5.0)
    call = calls(f"""
        import os, subprocess, time
        def f():
            child = subprocess.Popen(["sleep", "600"], start_new_session=True)
            open("pids", "w").write(f"{{os.getpid()}} {{child.pid}}")
            {body}
        def g(): pass
        """)
    assert call()["error"].startswith(("has lost its process", "took longer"))
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    call.until(lambda: all(gone(pid) for pid in pids))
    monkeypatch.setattr(functions, "TIME_LIMIT", 60.0)
    assert call("g") == {"answer": []}


def test_what_it_forks_ends_with_it(calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(functions, "TIME_LIMIT", 5.0)
    call = calls("""
        import os, subprocess, time
        def f():
            for n in range(20):
                if os.fork() == 0:
                    if n % 2:
                        os.setsid()
                        os.fork()
                    open(f"pid-{os.getpid()}", "w").close()
                    time.sleep(600)
            time.sleep(600)
        """)
    assert call()["error"].startswith("took longer")
    pids = [int(path.name[4:]) for path in tmp_path.glob("pid-*")]
    assert len(pids) >= 20
    call.until(lambda: all(gone(pid) for pid in pids))


def test_a_forked_child_does_not_answer(calls: Any) -> None:
    call = calls("""
        import os
        def f():
            if os.fork() == 0:
                return Action("stop")
            os.wait()
            return Action("log", value="parent")
        """)
    assert call() == {"answer": [{"action": {"name": "log", "value": "parent"}}]}


def test_memory_is_bounded(calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "most_memory", lambda: 512 << 20)
    call = calls("def f():\n    x = []\n    while True:\n        x.append(bytearray(1 << 24))\ndef g(): pass\n")
    assert call()["error"] == "failed: it ran out of memory (0.5 GiB)"
    assert call("g") == {"answer": []}


def test_output_is_bounded_and_flushed_before_the_answer(calls: Any) -> None:
    call = calls("""
        import os, sys
        def f():
            for n in range(100000):
                print(n)
            print("x" * 10_000_000)
        def g():
            os.write(2, b"\\xff\\n")
            sys.stdout.write("no end")
        """)
    call()
    assert call.printed[:3] == ["0", "1", "2"]
    assert len(call.printed) == MOST_LINES + 1
    assert call.printed[-1].startswith("(what this call prints after")
    del call.printed[:]
    call("g")
    assert call.printed == ["\\xff", "no end"]


def test_a_closed_standard_output_is_no_end(calls: Any) -> None:
    call = calls("import sys\ndef f():\n    sys.stdout.close()\n    sys.stderr = None\n")
    assert call() == {"answer": []}
    assert call() == {"answer": []}


def test_nothing_outlives_a_killed_service(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from functions import Calls
        call = Calls(Path({str(tmp_path)!r}), '''
        import os, subprocess, time
        def f():
            child = subprocess.Popen(["sleep", "600"], start_new_session=True)
            open("new", "w").write(f"{{os.getpid()}} {{child.pid}}")
            os.rename("new", "pids")
            time.sleep(600)
        '''.replace("\\n        ", "\\n"))
        call()
        """)
    service = subprocess.Popen([sys.executable, "-c", program])
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "pids").exists():
            assert time.monotonic() < end
            assert service.poll() is None
            time.sleep(0.02)
    finally:
        service.send_signal(signal.SIGKILL)
        service.wait()
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    end = time.monotonic() + 60
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < end, [os.path.exists(f"/proc/{pid}") for pid in pids]
        time.sleep(0.02)
