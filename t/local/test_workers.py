# SPDX-License-Identifier: MIT
"""Workers of custom functions: what a function gets, and what it may answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from queues import gone

import ensemble.service.functions as functions
from ensemble.service.worker import MOST_STATE

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
