# SPDX-License-Identifier: MIT
"""`graph`: what it draws is what the file says, in every form; Graphviz takes it, and a terminal can show it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import unicodedata
from pathlib import Path
from typing import Any, List, Tuple

import pytest

from ensemble.cli import boxes, dot
from ensemble.spec.flow import DOES, KINDS, Flow, flow
from ensemble.spec.load import load, load_file

TOP = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((TOP / "examples").glob("*.yaml"))
#: what `graph --format text` draws of the examples; made anew by that command, and looked at
GOLDEN = sorted((Path(__file__).with_name("data") / "graphs").glob("*.txt"))
graphviz = pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz is not installed")

FILE = """variables: {n: 1, m: 2}
jobs:
- {name: a, command: run a, count: 5, nodes: 2, duration: 1h}
- {name: a, command: run more}
- {name: b, command: run b, parameters: {x: [1, 2, 3]}}
- {name: lost, command: x}
custom: |
  def f(): pass
rules:
- {id: go, trigger: start, actions: [{name: submit, label: a, count: 3}, {name: set, label: n, value: 5}]}
- {id: by-n, trigger: metric, name: var.n, when: "> var.m", action: {name: signal, label: ready}}
- {id: ready, trigger: signal, name: ready, action: {name: submit, label: b}}
- {id: poor, trigger: job-fail, name: a, when: mean.b.duration > 3, repetitions: unlimited, cooldown: 90, actions: [{name: kill, job: event}, {name: enable, label: rest}]}
- {id: rest, enabled: false, trigger: group-complete, name: b, repetitions: 3, actions: [{name: cancel, label: all}, {name: disable, label: poor}]}
- {id: asks, trigger: timer, after: 60, action: {name: custom, label: f}}
- {id: over, trigger: end, name: complete, action: {name: terminate, status: success}}
"""

HOSTILE = r"""name: hostile
jobs:
- {name: a, command: ["echo", "</font>]]>", "\\l {x|<f0> y} & <b>&amp; -->; \"; } digraph { x [label=<"]}
- {name: b, command: "printf '\\x1b[31m \u202e \u0301 \u6f22\u5b57\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57 \U0001F600'"}
- name: c
  script: |
    #!/bin/sh
    set -e
    <br/> \N \G "quoted"
rules:
- {trigger: start, actions: [{name: submit, label: a}, {name: submit, label: b}, {name: submit, label: c}]}
- {trigger: job-fail, name: a, action: {name: log, value: "<script>alert('x')</script> \e[2J \\N ]]> \n two"}}
- {trigger: signal, topic: 'a"b<c>&.x', action: {name: stop}}
"""


def made(text: str) -> Flow:
    return flow(load(text, "f.yaml").spec)


def edges(graph: Flow) -> List[Tuple[str, str, str, str]]:
    return [(edge.source, edge.kind, edge.target, edge.text) for edge in graph.edges]


def width(line: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def test_what_leads_to_what() -> None:
    assert edges(made(FILE)) == [
        ("begin:start", "triggers", "rule:go", ""),
        ("rule:go", "submits", "group:a", "count 3"),
        ("rule:go", "sets", "variable:n", ""),
        ("variable:n", "triggers", "rule:by-n", ""),
        ("variable:m", "triggers", "rule:by-n", ""),
        ("rule:by-n", "sends", "signal:ready", ""),
        ("signal:ready", "triggers", "rule:ready", ""),
        ("rule:ready", "submits", "group:b", ""),
        ("group:a", "triggers", "rule:poor", "job-fail"),
        ("rule:poor", "kills", "group:a", ""),
        ("rule:poor", "enables", "rule:rest", ""),
        ("group:b", "reads", "rule:poor", "mean duration"),
        ("group:b", "triggers", "rule:rest", "group-complete"),
        ("rule:rest", "cancels", "group:a", ""),
        ("rule:rest", "cancels", "group:b", ""),
        ("rule:rest", "cancels", "group:lost", ""),
        ("rule:rest", "disables", "rule:poor", ""),
        ("rule:asks", "calls", "function:f", ""),
        ("rule:over", "ends", "end:terminate", "success"),
        ("function:f", "may submit", "group:lost", ""),
    ]


def test_what_stands_in_it() -> None:
    nodes = {node.key: node for node in made(FILE).nodes}
    assert nodes["group:a"].lines == ("5 jobs, 2 nodes, at most 1h: run a", "1 job: run more")
    assert nodes["group:b"].lines == ("3 points: run b",)
    assert nodes["variable:n"].lines == ("1",)
    assert nodes["rule:by-n"].when == "var.n > var.m"
    assert nodes["rule:by-n"].lines == ()
    poor, rest = nodes["rule:poor"], nodes["rule:rest"]
    assert (poor.lines, poor.when) == (("job-fail of a",), "mean.b.duration > 3")
    assert poor.times == "again and again, cooldown 90s"
    assert poor.actions == ("kill this job", "enable rest")
    assert (rest.enabled, rest.times, rest.actions) == (False, "up to 3 times", ("cancel all", "disable poor"))
    assert nodes["rule:asks"].lines == ("timer, after 1m",)


def test_what_never_comes_about_is_marked() -> None:
    text = FILE.replace("{name: custom, label: f}", "{name: log, value: x}").replace(
        "enable, label: rest", "log, value: x"
    )
    nodes = {node.key: node for node in made(text).nodes}
    assert nodes["rule:rest"].never == "this rule is disabled, and no rule enables it"
    assert nodes["group:lost"].never == "no job of it is ever submitted"
    assert nodes["rule:poor"].never == nodes["group:a"].never == ""
    drawn = dot.text(dot.dot(made(text)))
    assert "never: no job of it is ever submitted" in drawn
    assert "never: this rule is disabled, and no rule enables it" in "\n".join(boxes.lines(made(text), 80))


def test_many_groups_are_one_where_a_rule_means_all_of_them() -> None:
    groups = "".join(f"- {{name: g{n}, command: x}}\n" for n in range(50))
    submits = ", ".join(f"{{name: submit, label: g{n}}}" for n in range(50))
    text = f"jobs:\n{groups}rules:\n- {{trigger: start, actions: [{submits}]}}\n"
    text += "- {trigger: job-fail, action: {name: cancel, label: all}}\n"
    told = [edge for edge in edges(made(text)) if edge[1] != "submits"]
    assert ("any:any group", "triggers", "rule:rule-2", "job-fail") in told
    assert ("rule:rule-2", "cancels", "any:any group", "") in told
    assert len(told) == 3


def test_kinds_are_those_that_are_told() -> None:
    for path in EXAMPLES:
        graph = flow(load_file(path).spec)
        assert {node.kind for node in graph.nodes} <= set(KINDS)
        assert {edge.kind for edge in graph.edges} <= set(DOES)
        keys = [node.key for node in graph.nodes]
        assert len(keys) == len(set(keys))
        assert {edge.source for edge in graph.edges} | {edge.target for edge in graph.edges} <= set(keys)
    assert set(dot._NODES) == set(KINDS)
    assert set(dot._EDGES) == set(DOES)


@graphviz
@pytest.mark.parametrize("text", [FILE, HOSTILE, *(path.read_text() for path in EXAMPLES)])
def test_graphviz_takes_it(text: str) -> None:
    graph = made(text)
    drawn = dot.text(dot.dot(graph))
    done = subprocess.run(["dot", "-Tjson0"], input=drawn, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    read = json.loads(done.stdout)
    lines = [line for line in drawn.splitlines() if re.match(r"  n\d+ ", line)]
    assert len(read["objects"]) + len(read.get("edges", ())) == len(lines)
    assert len(read["objects"]) >= sum(node.kind != "variable" for node in graph.nodes)


@graphviz
def test_what_stands_in_a_file_is_text_in_the_picture() -> None:
    done = subprocess.run(
        ["dot", "-Tsvg"], input=dot.text(dot.dot(made(HOSTILE))), capture_output=True, text=True, check=True
    )
    import xml.etree.ElementTree as tree

    root = tree.fromstring(done.stdout)
    shown = "\n".join("".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "<script>alert('x')</script>" in shown.replace("\xa0", " ")
    assert 'a"b<c>&.x' in shown
    assert "echo </font>]]>" in shown
    assert r'<br/> \N \G "quoted"' in shown.replace("\u200b", "")
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_the_examples_look_as_they_did(golden: Path) -> None:
    graph = flow(load_file(TOP / "examples" / f"{golden.stem}.yaml").spec)
    assert "\n".join(boxes.lines(graph, 80)) + "\n" == golden.read_text(encoding="utf-8")


def test_there_are_pictures() -> None:
    assert len(GOLDEN) >= 14


@pytest.mark.parametrize("columns", [20, 40, 61, 80, 120])
@pytest.mark.parametrize("text", [FILE, HOSTILE, *(path.read_text() for path in EXAMPLES)])
def test_no_line_is_wider_than_the_terminal_nor_steers_it(text: str, columns: int) -> None:
    for line in boxes.lines(made(text), columns):
        assert line.isprintable(), line
        assert width(line) <= max(columns, boxes.NARROWEST), line


def test_each_rule_and_group_is_told_once() -> None:
    for path in EXAMPLES:
        graph = flow(load_file(path).spec)
        lines = list(boxes.lines(graph, 200))
        for node in graph.nodes:
            if node.kind == "rule":
                pattern = rf"[├╰]─ {re.escape(node.name)}(:|$)(?! see )"
                assert sum(bool(re.match(pattern, line)) for line in lines) == 1, (path, node.name)
            if node.kind == "group":
                assert sum(line.startswith(f"╭─ {node.name} ─") for line in lines) == 1, (path, node.name)


def test_a_rule_of_two_groups_is_told_below_the_first() -> None:
    text = FILE.replace("trigger: job-fail, name: a,", "trigger: metric, name: count.a.success,")
    text = text.replace("name: kill, job: event", "name: kill, label: a")
    lines = list(boxes.lines(made(text), 80))
    assert "╰─ poor: change of count.a.success, again and again, cooldown 90s" in lines
    assert any(line[3:] == "poor: see a" for line in lines)


def test_a_terminal_without_such_signs_gets_others() -> None:
    lines = list(boxes.lines(made(FILE), 80, boxes.PLAIN))
    assert all(line.isascii() for line in lines)
    assert "`-> submit b" in "".join(lines)


def test_the_command_draws(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text(FILE)
    done = run("graph", "f.yaml", member=False)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith('digraph "f" {\n')
    done = run("graph", "f.yaml", "--format", "text", member=False)
    assert done.out.splitlines()[0].split() == ["f", "groups:", "3,", "rules:", "7"]
    told = json.loads(run("graph", "f.yaml", "--json", member=False).out)
    assert told["name"] == "f"
    assert told["edges"][1] == {"source": "rule:go", "target": "group:a", "kind": "submits", "text": "count 3"}
    assert told["nodes"][0]["key"] == "begin:start"
    assert {"key", "kind", "name", "lines", "when", "times", "actions", "enabled", "never"} == set(told["nodes"][0])


@pytest.mark.parametrize(
    ("name", "begin"), [("x.dot", "digraph"), ("x.gv", "digraph"), ("x.txt", "f   "), ("x", "digraph")]
)
def test_a_file_is_written_in_the_form_of_its_name(run: Any, place: Path, name: str, begin: str) -> None:
    (place / "f.yaml").write_text(FILE)
    done = run("graph", "f.yaml", "-o", name, member=False)
    assert (done.status, done.out) == (0, "")
    assert name in done.err
    assert (place / name).read_text(encoding="utf-8").startswith(begin)


@graphviz
def test_an_svg_is_drawn(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text(FILE)
    assert run("graph", "f.yaml", "-o", "f.svg", member=False).status == 0
    assert "<svg" in (place / "f.svg").read_text(encoding="utf-8")
    assert "<svg" in run("graph", "f.yaml", "--format", "svg", member=False).out


def test_without_graphviz_there_is_no_svg(run: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "f.yaml").write_text(FILE)
    monkeypatch.setenv("PATH", "/nowhere")
    done = run("graph", "f.yaml", "-o", "f.svg", member=False)
    assert done.status == 2
    assert "which is not in PATH; install the package graphviz" in done.err
    assert not (place / "f.svg").exists()


def test_a_graphviz_that_fails_is_told(run: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "f.yaml").write_text(FILE)
    (place / "dot").write_text("#!/bin/sh\necho no fonts >&2\nexit 3\n")
    (place / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    done = run("graph", "f.yaml", "--format", "svg", member=False)
    assert (done.status, done.out) == (2, "")
    assert "'dot' of Graphviz has drawn nothing: no fonts" in done.err


def test_a_faulty_file_is_told_and_not_drawn(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text(FILE.replace("label: b}", "label: bb}"))
    done = run("graph", "f.yaml", member=False)
    assert (done.status, done.out) == (2, "")
    assert "no group is called 'bb'" in done.err
    (place / "f.yaml").write_text(FILE)
    done = run("graph", "f.yaml", "-o", "no/such/folder.dot", member=False)
    assert (done.status, done.out) == (2, "")
    assert "cannot be written" in done.err


def test_a_thousand_rules_are_drawn() -> None:
    text = "jobs:\n" + "".join(f"- {{name: g{n}, command: x}}\n" for n in range(200))
    text += "rules:\n- {trigger: start, action: {name: submit, label: g0}}\n"
    for n in range(1000):
        text += f"- {{trigger: job-success, name: g{n % 200}, when: 'mean.g{n * 7 % 200}.duration > {n}', action: {{name: submit, label: g{(n * 13 + 1) % 200}}}}}\n"
    graph = made(text)
    begin = time.process_time()
    assert sum(1 for _ in dot.dot(graph)) > 3000
    assert sum(1 for _ in boxes.lines(graph, 80)) > 3000
    assert time.process_time() - begin < 20


def test_the_guide_shows_what_is_drawn() -> None:
    golden = next(path for path in GOLDEN if path.stem == "two-phases").read_text(encoding="utf-8")
    assert golden in (TOP / "doc" / "guide.md").read_text(encoding="utf-8")
