# SPDX-License-Identifier: MIT
"""What jobs of the local queue report, by `put`, in Python, and in their output; signals; what has no bus."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from t.local.test_resume import Site, site  # noqa: F401 - a fixture

TOP = Path(__file__).resolve().parents[2]


def text(script: str, rules: str = "", metrics: str = "{}") -> str:
    path = f"PATH={Path(sys.executable).parent}:$PATH"
    lines = "".join(f"      {line}\n" for line in [path, *script.splitlines()])
    return (
        f"name: it\njobs:\n  - name: a\n    metrics: {metrics}\n    script: |\n{lines}"
        f"rules:\n  - {{trigger: start, action: {{name: submit, label: a}}}}\n{rules}"
    )


def said(site: Site) -> List[str]:  # noqa: F811
    import json

    records = [json.loads(line) for line in site.run("log", "--json", "it").stdout.splitlines()]
    return [r["text"] for r in records if r["type"] == "log"]


def test_put_and_signal_in_a_script(site: Site) -> None:  # noqa: F811
    script = "set -e\nensemble put x=1 y=2\nensemble put x=3 x-y=4\nensemble put x=inf nonsense y=word\nensemble signal done n=5 why=so"
    rules = "  - {trigger: signal, name: done, repetitions: 1, keep_alive: false, when: event.data.n == 5, action: {name: log, value: '{event.data.why}'}}\n"
    done = site.run("run", site.write(text(script, rules)))
    assert done.returncode == 0, done.stdout + done.stderr
    found = site.json("status", "it")["metrics"]["a"]["reported"]
    assert (found["x"]["n"], found["x"]["mean"], found["x"]["refused"]) == (2, 2, 1)
    assert (found["y"]["n"], found["y"]["refused"], found["x-y"]["n"]) == (1, 1, 1)
    (row,) = site.json("jobs", "it")["jobs"]
    assert row["values"] == {"x": 3.0, "y": 2.0, "x-y": 4.0}
    output = Path(row["where"]).read_text()
    for sentence in ("x was not taken: 'inf' is no finite number", "'nonsense' is no value", "y was not taken: 'word'"):
        assert sentence in output
    assert said(site) == ["so"]


def test_python_reports_over_one_connection_and_a_fork_over_its_own(site: Site) -> None:  # noqa: F811
    code = (
        "import ensemble, os\n"
        "for n in range(100): assert ensemble.put(x=n)\n"
        "if os.fork() == 0:\n"
        "    assert ensemble.put(x=1000); os._exit(0)\n"
        "assert os.wait()[1] == 0\n"
        "assert ensemble.put(x=1001)\n"
    )
    (site.folder / "job.py").write_text(code)
    done = site.run("run", site.write(text(f"exec '{sys.executable}' {site.folder}/job.py")))
    assert done.returncode == 0, done.stdout + done.stderr
    found = site.json("status", "it")["metrics"]["a"]["reported"]["x"]
    assert (found["n"], found["max"]) == (102, 1001)


def test_values_from_the_output_count_before_the_end(site: Site) -> None:  # noqa: F811
    rules = (
        "  - {trigger: metric, name: sum.a.success.x, action: {name: log, value: 'kept {sum.a.success.x}'}}\n"
        "  - {trigger: report, name: a.x, repetitions: unlimited, action: {name: log, value: 'x {event.value}'}}\n"
    )
    script = "for n in 3 1 2; do echo x=$n; done; echo x=nan >&2; printf x=5"
    done = site.run("run", site.write(text(script, rules, r"{x: {regex: 'x=(\S+)', keep: max}}")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert said(site) == ["x 3", "x 1", "x 2", "x 5", "kept 5"]
    assert site.json("status", "it")["metrics"]["a"]["reported"]["x"]["refused"] == 1
    assert "VALUES" not in site.run("jobs", "it").stdout
    assert site.run("jobs", "it").stdout.splitlines()[0].split()[-2:] == ["X", "RULE"]


def test_the_local_queue_has_no_bus(site: Site) -> None:  # noqa: F811
    rules = "  - {trigger: signal, topic: 'a.b', action: {name: stop}}\n"
    done = site.run("run", site.write(text("true", rules)))
    assert done.returncode != 0
    assert "a rule waits for the topic 'a.b', and there is no bus of Flux here" in done.stderr


@pytest.mark.parametrize("words", [["put", "x=1"], ["signal", "done"], ["signal", "a=1"], ["signal", "a", "b", "c"]])
def test_outside_of_a_job(site: Site, words: Any) -> None:  # noqa: F811
    command = site.command(*words, member=words[0] != "put")
    done = subprocess.run(command, capture_output=True, text=True, env=site.env, cwd=site.folder, timeout=90)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("ensemble: ")
