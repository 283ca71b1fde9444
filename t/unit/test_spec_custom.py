# SPDX-License-Identifier: MIT
"""`custom:` of a file: where its functions are, which there are, and each slip at its place."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import pytest

from ensemble.custom import Action, Metrics, Rule
from ensemble.errors import SpecError
from ensemble.spec.beside import Beside
from ensemble.spec.custom import ANY, find, names
from ensemble.spec.load import load, load_file

HEAD = "jobs: [{name: a, command: x}]\nrules: [{trigger: start, action: {name: custom, label: f}}]\n"


def faults(text: str, **files: str) -> List[Tuple[int, int, str]]:
    with pytest.raises(SpecError) as raised:
        load(text, "it.yaml", Beside(files))
    return [(fault.line, fault.column, fault.message) for fault in raised.value.faults]


def test_source_stands_in_the_file() -> None:
    loaded = load(HEAD + "custom: |\n  def f():\n      pass\n", "it.yaml")
    assert loaded.spec.custom is not None
    assert loaded.spec.custom.source == "def f():\n    pass\n"
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("custom", "line", "column"),
    [
        ("custom: |\n  def f():\n      x = (1\n", 5, 11),
        ("custom: |\n\n  # why\n\n  def f(:\n      pass\n", 7, 9),
        ("custom: |2\n    def f(): pass\n", 4, 3),
        ('custom: "def f(:"\n', 3, 16),
        ("custom: def f(x y) pass\n", 3, 15),
    ],
)
def test_a_slip_in_the_source_is_told_where_it_stands(custom: str, line: int, column: int) -> None:
    ((told_line, told_column, message),) = faults(HEAD + custom)
    assert message.startswith("this is no Python: ")
    # where in the line the parser sees it differs between releases of Python
    assert told_line == line
    assert abs(told_column - column) <= 3


@pytest.mark.parametrize(
    "source", ["x = " + "(" * 100_000, "x = " + "-" * 100_000 + "1", "def f():\n    return" + " not" * 50_000 + " x\n"]
)
def test_source_that_no_parser_takes_is_told(source: str) -> None:
    indented = "".join(f"  {line}\n" for line in source.splitlines())
    ((_, _, message),) = faults(HEAD + "custom: |\n" + indented)
    assert message.startswith("this is no Python")


@pytest.mark.parametrize(
    ("source", "bound"),
    [
        ("def f(): pass\nasync def g(): pass\nclass H: pass\n", {"f", "g", "H"}),
        ("import a.b, c as d\nfrom e import f, g as h\n", {"a", "d", "f", "h"}),
        ("x = y, (z, *w) = 1, (2, 3)\nv: int = 3\nu += 1\n", {"x", "y", "z", "w", "v", "u"}),
        ("try:\n    import a\nexcept ImportError:\n    b = 1\nelse:\n    c = 1\nfinally:\n    d = 1\n", set("abcd")),
        (
            "if 1:\n    def f(): pass\nfor i in x:\n    def g(): pass\nwith a as b:\n    def h(): pass\n",
            {"f", "g", "h"},
        ),
        ("def f():\n    def inner(): pass\n", {"f"}),
    ],
)
def test_names_of_a_source(source: str, bound: set[str]) -> None:
    assert names(source) == bound


@pytest.mark.parametrize("source", ["from x import *", "globals().update(f=1)", "exec('def f(): pass')", "def f(:"])
def test_names_that_cannot_be_told(source: str) -> None:
    assert names(source) == ANY


def test_an_unknown_function_is_a_fault_with_the_nearest_name() -> None:
    text = HEAD + "custom: |\n  def g_x(): pass\n  def fx(): pass\n"
    with pytest.raises(SpecError) as raised:
        load(text.replace("label: f", "label: gx"), "it.yaml")
    (fault,) = raised.value.faults
    assert (fault.line, fault.column, fault.message) == (2, 56, "no function is called 'gx'")
    assert fault.suggestion == "g_x"


def test_a_function_without_custom_is_a_fault() -> None:
    (fault,) = faults(HEAD)
    assert fault == (2, 56, "no function is called 'f'")


def test_an_unknown_function_of_parameters_is_a_fault() -> None:
    text = HEAD.replace("command: x", "command: x, parameters: {custom: g}") + "custom: 'def f(): pass'\n"
    ((line, _, message),) = faults(text)
    assert (line, message) == (1, "no function is called 'g'")


@pytest.mark.parametrize(
    ("custom", "told"),
    [
        ("custom: [1]", "custom cannot be a list"),
        ("custom: 3", "custom cannot be '3'"),
        ("custom: ''", "custom is empty"),
        ("custom: {fiel: x}", "custom has no key 'fiel'"),
        ("custom: {file: a, module: b}", "custom needs one place where its functions are"),
        ("custom: {}", "custom needs one place where its functions are"),
        ("custom: {file: [a]}", "file cannot be a list"),
        ("custom: {module: a-b}", "'a-b' is no name of a module"),
        ("custom: {file: b.py}", "the file 'b.py' gives no functions: it was not sent along"),
        ("custom: {file: bad.py}", "bad.py:2:1: this is no Python"),
        ("custom:", "the key 'custom' has no value"),
    ],
)
def test_other_slips(custom: str, told: str) -> None:
    found = faults(HEAD + custom + "\n", **{"bad.py": "x = 1\n)\n"})
    assert any(message.startswith(told) for _, _, message in found), found


def test_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "steer.py").write_text("def f(): pass\n")
    (tmp_path / "it.yaml").write_text(HEAD + "custom: {file: steer.py}\n")
    loaded = load_file(tmp_path / "it.yaml")
    assert loaded.files == {"steer.py": "def f(): pass\n"}
    assert loaded.spec.custom is not None
    assert loaded.spec.custom.source == "def f(): pass\n"
    again = load((tmp_path / "it.yaml").read_text(), "it.yaml", Beside(loaded.files))
    assert again.spec == loaded.spec


def test_modules_are_found_and_never_imported(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "pack" / "inner.py").write_text("raise SystemExit('imported')\n")
    assert find("pack.inner", [str(tmp_path)]) == str(tmp_path / "pack" / "inner.py")
    assert find("pack", [str(tmp_path)]) == str(tmp_path / "pack" / "__init__.py")
    assert find("pack.other", [str(tmp_path)]) is None
    assert find("no_such_pack.inner", [str(tmp_path)]) is None


def test_the_service_warns_of_no_module() -> None:
    loaded = load(HEAD + "custom: {module: nobodys.module}\n", "it.yaml")
    assert loaded.warnings == ()


def test_a_steered_file_is_not_told_what_functions_may_do() -> None:
    text = "jobs: [{name: a, command: x}, {name: b, command: x}]\nrules: [{trigger: start, action: {name: custom, label: f}}]\n"
    assert load(text + "custom: 'def f(): pass'\n", "it.yaml").warnings == ()


# ---- what functions work with


def test_actions_and_rules() -> None:
    action = Action("submit", label="a", count=2)
    assert action == Action({"name": "submit", "label": "a", "count": 2})
    assert (action.name, action.label, action.count, action.nothing, action.value()) == ("submit", "a", 2, None, 1)
    assert repr(action) == "Action({'name': 'submit', 'label': 'a', 'count': 2})"
    rule = Rule("job-success", action=action)
    assert (rule.name, rule.trigger, rule.action, rule.when) == ("job-success", "job-success", action, None)
    assert rule.plain() == {"trigger": "job-success", "action": {"name": "submit", "label": "a", "count": 2}}
    many = Rule({"trigger": "idle", "actions": [action, {"name": "stop"}]})
    assert many.plain()["actions"] == [action.plain(), {"name": "stop"}]
    assert many.actions == [action, Action("stop")]
    assert Rule("idle") != Action("idle")
    with pytest.raises(TypeError, match="expected a name or a mapping"):
        Action(3)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        action._private  # noqa: B018


def test_variables_among_the_metrics() -> None:
    metrics = Metrics({"counts": {}, "statistics": [], "ensemble": {}, "variables": {"n": 3}})
    assert metrics.get("var.n") == 3
    with pytest.raises(KeyError, match=r"no metric is called 'var\.m'"):
        metrics.get("var.m")


def test_a_list_under_action_reaches_the_check_that_says_what_is_wrong() -> None:
    described = Rule("start", action=[Action("stop")]).plain()
    assert described == {"trigger": "start", "action": [{"name": "stop"}]}
