# SPDX-License-Identifier: MIT
"""Workers of custom functions: what a function gets, what it may answer, and that nothing it does gets out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from functions import Calls
from queues import gone

import ensemble.service.functions as functions
from ensemble.service.keeper import MOST_LINES
from ensemble.service.worker import MOST_STATE


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[Callable[..., Calls]]:
    with contextlib.ExitStack() as made:

        def make(source: Any = None, **custom: Any) -> Calls:
            text = None if source is None else textwrap.dedent(source)
            return made.enter_context(contextlib.closing(Calls(tmp_path, text, **custom)))

        yield make


def pid_in(path: Path) -> int:
    return int(path.read_text())


# ---- answers


def test_every_kind_of_answer(calls: Any) -> None:
    call = calls("""
        def nothing(): return None
        def action(): return Action("submit", label="a", count=2)
        def older(): return Action({"name": "submit", "label": "a"})
        def rule(): return Rule("start", name="x", action=Action("stop"))
        def several(): return [Action("stop"), None, (Rule({"trigger": "idle", "actions": [Action("stop")]}),)]
        """)
    assert call("nothing") == {"answer": []}
    assert call("action") == {"answer": [{"action": {"name": "submit", "label": "a", "count": 2}}]}
    assert call("older") == {"answer": [{"action": {"name": "submit", "label": "a"}}]}
    assert call("rule") == {"answer": [{"rule": {"trigger": "start", "name": "x", "action": {"name": "stop"}}}]}
    assert call("several")["answer"] == [
        {"action": {"name": "stop"}},
        {"rule": {"trigger": "idle", "actions": [{"name": "stop"}]}},
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 3", "gave a wrong answer: expected None, an Action, a Rule, or a list of these, not 3"),
        ("return {'name': 'stop'}", "gave a wrong answer: expected None"),
        ("return Action('log', value=float('nan'))", "gave a wrong answer: it holds what cannot be sent"),
        ("return Action('log', value=object())", "gave a wrong answer: it holds what cannot be sent"),
        ("return Action('log', value='x' * 2**21)", "gave a wrong answer: it has 2097"),
        ("yield Action('stop')", "gave a wrong answer: it is a generator"),
        ("kwargs['state']['x'] = {1, 2}", "keeps in its state what cannot be stored"),
        ("kwargs['state']['x'] = 'x' * 2**18", f"keeps a state of {2**18 + 9} bytes, and {MOST_STATE} are the most"),
        ("1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "failed: it asked to exit (3)"),
        ("raise KeyboardInterrupt", "failed: KeyboardInterrupt"),
        ("f(**kwargs)", "failed: RecursionError"),
    ],
)
def test_what_goes_wrong_is_told_and_the_worker_goes_on(calls: Any, body: str, told: str) -> None:
    call = calls(f"import os\ndef f(**kwargs):\n    {body}\ndef pid(state):\n    state['pid'] = os.getpid()\n")
    before = call("pid")["state"]
    data = call()
    assert data["error"].startswith(told)
    if told.startswith("failed"):
        assert "custom" in data["traceback"]
        assert body in data["traceback"]
        assert "worker.py" not in data["traceback"]
    assert call("pid")["state"] == before


def test_slips_in_the_source_are_told_at_the_call(calls: Any) -> None:
    call = calls("import no_such_module\ndef f(): pass\n")
    assert call()["error"] == "failed: ModuleNotFoundError: No module named 'no_such_module'"
    assert "line 1" in call()["traceback"]


# ---- what it gets


def test_it_gets_what_it_asks_for(calls: Any) -> None:
    call = calls("""
        def named(args, event, x=1): print(args["a"], event["id"])
        def everything(**kwargs): print(*sorted(kwargs))
        def strange(instance, rule): pass
        def bare(x, /): pass
        class Callable:
            def __call__(self, action): print(action.label, action.value(), action.value(7), action.nothing)
        thing = Callable()
        """)
    assert call("named", args={"a": 5}, event={"id": 12}) == {"answer": []}
    call("everything")
    call("thing", action={"name": "custom", "label": "thing"})
    call.until(lambda: len(call.printed) == 3)
    assert call.printed == ["5 12", "action args event handle metrics params results rule state", "thing 1 7 None"]
    assert "asks for instance, and a function is given metrics, event" in call("strange")["error"]
    assert "arguments without a name" in call("bare")["error"]
    assert "no function of that name" in call("absent")["error"]


def test_metrics_as_the_predecessor_has_them(calls: Any) -> None:
    call = calls("""
        def f(metrics, rule, state, handle):
            state["mean"] = metrics.models["mean"]["work-duration"].get()
            state["pending"] = metrics.models["max"]["work-pending"].get()
            state["done"] = metrics.models["count"]["work"]["success"].get()
            state["paths"] = [metrics.get(path) for path in (
                "mean.work.duration", "mean.work.success.duration", "max.work-pending", "count.work.success",
                "mean.work.failed.duration", "n.work.failed.duration", "ensemble.active", "last.work.loss")]
            state["absent"] = "idle-duration" in metrics.models["mean"]
            state["rule"] = [rule.name, rule.trigger, rule.action.name, rule.id, handle]
            for path in ("mean.wrok.duration", "p31.work.duration", "count.work.sucess", "x"):
                try:
                    metrics.get(path)
                except KeyError as exc:
                    print(exc.args[0])
        """)
    metrics = {
        "counts": {"work": {"success": 3, "failed": 0}, "idle": {"success": 0, "failed": 0}},
        "statistics": [
            ["work", "success", "duration", {"mean": 2.5, "n": 3}], ["work", "", "-pending", {"max": 9.0}],
            ["work", "", "loss", {"last": 0.5}],
        ],
        "ensemble": {"active": 4, "submitted": 7, "elapsed": 1.0},
    }  # fmt: skip
    state = call(metrics=metrics)["state"]
    assert (state["mean"], state["pending"], state["done"]) == (2.5, 9.0, 3)
    assert state["paths"] == [2.5, 2.5, 9.0, 3, None, 0, 4, 0.5]
    assert state["absent"] is False
    assert state["rule"] == ["start", "start", "custom", "rule", None]
    call.until(lambda: len(call.printed) == 4)
    assert call.printed[1].startswith("'p31.work.duration' is not kept")


def test_where_it_runs(calls: Any, tmp_path: Path) -> None:
    call = calls("""
        import os, sys
        def f(state):
            umask = os.umask(0)
            os.umask(umask)
            state.update(cwd=os.getcwd(), greeting=os.environ["GREETING"], umask=umask, stdin=sys.stdin.read())
            from ensemble.custom import Action as ours
            from ensemble.config.types import Action as theirs, Rule as rule
            state["same"] = Action is ours is theirs and Rule is rule
        """)
    state = call()["state"]
    assert state == {"cwd": str(tmp_path), "greeting": "hallo", "umask": 0o027, "stdin": "", "same": True}


def test_a_directory_that_is_gone_is_told(calls: Any, tmp_path: Path) -> None:
    call = calls("import os\ndef f(state): state['cwd'] = os.getcwd()\n")
    tmp_path.rename(tmp_path.with_name("moved"))
    assert call()["state"] == {"cwd": "/"}
    assert "cannot be entered" in call.printed[0]
    tmp_path.with_name("moved").rename(tmp_path)


def test_a_file_of_functions(calls: Any, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("ANSWER = 42\n")
    call = calls("import helper\ndef f(state):\n    state['x'] = helper.ANSWER\n    1 / 0\n", file="sub/../steer.py")
    (tmp_path / "sub").mkdir()
    data = call()
    assert "steer.py" in data["traceback"]
    assert "1 / 0" in data["traceback"], "though the file itself is not there any more"


def test_a_module_of_functions(calls: Any, tmp_path: Path) -> None:
    (tmp_path / "steering").mkdir()
    (tmp_path / "steering" / "__init__.py").write_text("")
    (tmp_path / "steering" / "core.py").write_text(
        "from ensemble.custom import Action\ndef f():\n    return Action('stop')\n"
    )
    call = calls(module="steering.core")
    assert call() == {"answer": [{"action": {"name": "stop"}}]}
    assert "steering.core has no function of that name" in call("g")["error"]


def test_functions_of_installed_packages(calls: Any, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("from ensemble.custom import Action\ndef halt(): return Action('stop')\n")
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ensemble.functions]\nhalt_all = plugin:halt\n")
    call = calls("def f(): pass\n")
    assert call("halt_all") == {"answer": [{"action": {"name": "stop"}}]}
    assert calls()("halt_all") == {"answer": [{"action": {"name": "stop"}}]}


def test_numbers_of_numpy_are_numbers(calls: Any) -> None:
    call = calls("""
        import numpy, pathlib
        def f(state):
            state["x"] = numpy.float64(0.5)
            state["y"] = numpy.arange(2)
            return Action("submit", label="a", count=numpy.int64(3), value=pathlib.Path("x"))
        """)
    data = call()
    assert data["state"] == {"x": 0.5, "y": [0, 1]}
    assert data["answer"][0]["action"] == {"name": "submit", "label": "a", "count": 3, "value": "x"}


def test_points(calls: Any) -> None:
    call = calls("def f(): return [{'x': 1}, {'x': 2}]\ndef g(): return [3]\ndef h(): return None\n")
    assert call(points=True) == {"answer": [{"x": 1}, {"x": 2}]}
    assert call("h", points=True) == {"answer": []}
    assert "expected a list of points" in call("g", points=True)["error"]


# ---- order


def test_calls_are_made_one_after_the_other(calls: Any) -> None:
    call = calls("import time\ndef f(args):\n    time.sleep(0.05)\n    print(args)\n")
    ids = [call.start(args=n) for n in range(5)]
    call.until(lambda: len(call.answers) == 5)
    assert list(call.answers) == ids
    assert call.printed == ["0", "1", "2", "3", "4"]


def test_a_call_that_nobody_waits_for_is_not_made(calls: Any) -> None:
    call = calls("def f(args): print(args)\n")
    first, second, third = (call.start(args=n) for n in range(3))
    del call.requests[second]
    call.until(lambda: third in call.answers)
    assert list(call.answers) == [first, third]
    assert call.printed == ["0", "2"]


def test_large_frames_pass(calls: Any) -> None:
    call = calls("def f(results, state): state['n'] = len(results)\n")
    assert call(results=[{"x": "y" * 1000}] * 10_000)["state"] == {"n": 10_000}


def test_an_idle_worker_is_ended(calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "IDLE", 0.1)
    call = calls(
        "import os\nseen = []\ndef f(state):\n    seen.append(1)\n    state.update(n=len(seen), pid=os.getpid())\n"
    )
    first = call()["state"]
    call.until(lambda: gone(first["pid"]))
    again = call()["state"]
    assert (first["n"], again["n"]) == (1, 1)
    assert first["pid"] != again["pid"]


# ---- nothing gets out


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
