# SPDX-License-Identifier: MIT
"""What is in vain in a file is told, each with its words and its place; what only looks like it stays untold."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import SpecError
from ensemble.spec.load import load, load_file
from t.unit.test_ranges import CONDITIONS

TOP = Path(__file__).resolve().parents[2]

#: five jobs of `sim` in all, one of `one`; nobody submits more
FILE = """variables: {n: 1, phase: warm-up, none: null, flag: true}
jobs:
- {name: sim, command: x, count: 5, metrics: {loss: {}}}
- {name: one, command: x}
rules:
- {trigger: start, actions: [{name: submit, label: sim}, {name: submit, label: one}]}
"""


def marked(text: str) -> Tuple[str, int, int]:
    before, _, after = text.partition("^")
    lines = before.split("\n")
    return before + after, len(lines), len(lines[-1]) + 1


def told(text: str) -> List[Tuple[int, int, str]]:
    return [(one.line, one.column, one.message) for one in load(text, "f.yaml").warnings]


def when(condition: str, trigger: str = "job-finish, name: sim") -> str:
    return FILE + f'- {{trigger: {trigger}, when: "{condition}", action: {{name: stop}}}}\n'


def metric(name: str, condition: str, more: str = "") -> str:
    return FILE + f"- {{trigger: metric, name: {name}, when: {condition}, action: {{name: stop}}}}\n" + more


def rules(*lines: str) -> str:
    return FILE + "".join(f"- {{{line}}}\n" for line in lines)


STOP = "action: {name: stop}"
FIVE = "at most 5 jobs of 'sim' are ever submitted"
COUNTED = "it is a whole number from 0 on"
NEVER = "so this rule never fires"
IN_VAIN = [
    # rules that never fire
    (rules(f"trigger: idle, repetitions: ^0, {STOP}"), "this rule never fires"),
    (rules(f"trigger: idle, enabled: ^false, {STOP}"), "this rule is disabled, and no rule enables it"),
    (metric("count.sim.success", "^50"), f"count.sim.success == 50 never holds: {FIVE}, {NEVER}"),
    (metric("count.sim.success", "'^>= 6'"), f"count.sim.success >= 6 never holds: {FIVE}, {NEVER}"),
    (metric("count.sim.finished", "^count.sim.failed > 5"), f"count.sim.failed > 5 never holds: {FIVE}, {NEVER}"),
    (metric("n.sim.duration", "'^> 5'"), f"n.sim.duration > 5 never holds: {FIVE}, {NEVER}"),
    (metric("count.sim.success", "'^< 0'"), f"count.sim.success < 0 never holds: {COUNTED}, {NEVER}"),
    (metric("count.sim.success", "^2.5"), f"count.sim.success == 2.5 never holds: {COUNTED}, {NEVER}"),
    (metric("count.sim.success", "not (^count.sim.success >= 0)"), f"not count.sim.success >= 0 never holds: {COUNTED}, {NEVER}"),
    (metric("count.sim.success", "not (^count.sim.success >= 0 and count.sim.failed < 6)"), f"not count.sim.success >= 0 or not count.sim.failed < 6 never holds: {COUNTED}; {FIVE}, {NEVER}"),
    (metric("count.sim.success", "^count.sim.success > 5 or count.sim.failed > 6"), f"count.sim.success > 5 or count.sim.failed > 6 never holds: {FIVE}, {NEVER}"),
    (metric("mean.one.duration", "not (^mean.one.duration >= 0)"), f"not mean.one.duration >= 0 never holds: it is a number from 0 on, {NEVER}"),
    (metric("mean.sim.duration", "^floor(mean.sim.duration) == 2.5"), f"floor(mean.sim.duration) == 2.5 never holds, {NEVER}"),
    (metric("mean.sim.duration", "'^< 0'"), f"mean.sim.duration < 0 never holds: it is a number from 0 on, {NEVER}"),
    (metric("nodes.free", "'^< 0'"), f"nodes.free < 0 never holds: it is a whole number from 0 on, {NEVER}"),
    (metric("ensemble.active", "'^> 6'"), f"ensemble.active > 6 never holds: it is a whole number from 0 to 6, {NEVER}"),
    (metric("std.one.duration", "'^> 3'"), f"std.one.duration > 3 never holds: it takes two jobs, and only one of 'one' is ever submitted, {NEVER}"),
    (metric("sem.one.failed.duration", "'^> 3'"), f"sem.one.failed.duration > 3 never holds: it takes two jobs, and only one of 'one' is ever submitted, {NEVER}"),
    (metric("sem.one.success.loss", "'^> 3'").replace("{name: one, command: x}", "{name: one, command: x, metrics: {loss: {}}}"), f"sem.one.success.loss > 3 never holds: it takes two jobs, and only one of 'one' is ever submitted, {NEVER}"),
    (when("count.sim.success > 1 and ^count.sim.success > 6"), f"count.sim.success > 6 never holds: {FIVE}, {NEVER}"),
    (when("var.n == 1 and ^var.n > 3"), f"var.n > 3 never holds: it is always 1, {NEVER}"),
    (when("^var.none > 3"), f"var.none > 3 never holds: no rule that fires gives it a value, {NEVER}"),
    (when("not ^var.flag"), f"not var.flag never holds: it is always true, {NEVER}"),
    (when("^var.phase == 'main'"), f"var.phase == 'main' never holds: it is always 'warm-up', {NEVER}"),
    (when("^count.sim.success > 0", "start"), f"count.sim.success > 0 never holds: at the start no job has run, {NEVER}"),
    (when("^event.job.exit_code == 256"), f"event.job.exit_code == 256 never holds: on job-finish it is a whole number from 0 to 255, {NEVER}"),
    (when("^event.job.exit_code == 3", "job-success"), f"event.job.exit_code == 3 never holds: on job-success it is always 0, {NEVER}"),
    (when("^event.job.cause == 'fail'", "job-timeout").replace("name: sim, command: x", "name: sim, command: x, duration: 9"), f"event.job.cause == 'fail' never holds: on job-timeout it is always 'timeout', {NEVER}"),
    (when("^event.job.signal == 9", "job-success"), f"event.job.signal == 9 never holds: a rule on job-success has none, {NEVER}"),
    (when("^event.group == 'one'"), f"event.group == 'one' never holds: on job-finish it is always 'sim', {NEVER}"),
    (when("^event.state == 'failed'", "end, name: complete"), f"event.state == 'failed' never holds: on end it is always 'complete', {NEVER}"),
    # contradictions
    (when("event.job.id > 5 and ^event.job.id < 3"), f"event.job.id > 5 and event.job.id < 3 never hold together, {NEVER}"),
    (when("event.job.id > 5 and ^event.job.id < 6"), f"event.job.id > 5 and event.job.id < 6 never hold together, {NEVER}"),
    (when("mean.sim.duration > 5 and ^mean.sim.duration <= 5"), f"mean.sim.duration > 5 and mean.sim.duration <= 5 never hold together, {NEVER}"),
    (when("^5 < mean.sim.duration < 3".replace("^5 < ", "5 < ^")), f"5 < mean.sim.duration and mean.sim.duration < 3 never hold together, {NEVER}"),
    (when("count.sim.failed == 1 and ^count.sim.failed == 2"), f"count.sim.failed == 1 and count.sim.failed == 2 never hold together, {NEVER}"),
    (when("event.job.cause == 'fail' and ^event.job.cause == 'timeout'", "job-fail"), f"event.job.cause == 'fail' and event.job.cause == 'timeout' never hold together, {NEVER}"),
    (when("mean.sim.duration < 3 and not ^mean.sim.duration < 5"), f"mean.sim.duration < 3 and not mean.sim.duration < 5 never hold together, {NEVER}"),
    (when("(mean.sim.duration > 9 or mean.sim.duration > 7) and ^mean.sim.duration < 5"), f"mean.sim.duration > 9 and mean.sim.duration > 7 and mean.sim.duration < 5 never hold together, {NEVER}"),
    (when("^mean.sim.duration - 2 > max.sim.duration and max.sim.duration > 5 and mean.sim.duration < 6"), f"mean.sim.duration < 6 and max.sim.duration > 5 and mean.sim.duration - 2 > max.sim.duration never hold together, {NEVER}"),
    # what waits for what never comes, and what waits for that
    (rules(f"trigger: metric, name: ^var.none, {STOP}"), f"no rule that fires sets the variable none, {NEVER}"),
    (rules("id: a, trigger: idle, enabled: ^false, action: {name: enable, label: a}"), "this rule is disabled, and a, which would enable it, never fires"),
    (rules("trigger: job-retry, name: ^sim, action: {name: log, value: x}").replace("name: sim, command: x", "name: sim, command: x, retries: {max: 0, infrastructure: 0}"), f"no job that this is about is ever tried again, {NEVER}"),
    (metric("count.sim.retried", "'^> 0'").replace("name: sim, command: x", "name: sim, command: x, retries: {max: 0, infrastructure: 0}"), f"count.sim.retried > 0 never holds: no job of 'sim' is ever tried again, {NEVER}"),
    (rules(f"trigger: job-timeout, name: ^sim, {STOP}"), "no job of 'sim' has a time limit, so that none times out unless its queue sets one"),
    (rules(f"trigger: ^job-timeout, {STOP}"), "no job has a time limit, so that none times out unless its queue sets one"),
    (metric("^count.sim.timeout", "'> 2'"), "no job of 'sim' has a time limit, so that none times out unless its queue sets one"),
    # no value
    (when("^std.one.duration > 3 or count.sim.failed > 2"), "std.one.duration never has a value: it takes two jobs, and only one of 'one' is ever submitted"),
    (when("count.sim.failed > 2 or ^var.none > 3"), "var.none never has a value: no rule that fires gives it a value"),
    (when("count.sim.failed > 2 or ^var.phase > 3"), "var.phase is a string, which is never less or greater than 3: it is always 'warm-up'"),
    (when("count.sim.failed > 2 or ^var.phase == 3"), "var.phase is a string, which never equals 3: it is always 'warm-up'"),
    (when("count.sim.failed > 2 or ^event.group == count.sim.failed".replace("^event.group == count.sim.failed", "^var.flag == 1")), "var.flag is true or false, which never equals 1: it is always true"),
    (rules("trigger: idle, action: {name: submit, label: one, count: ^var.none + 1}"), "var.none never has a value: no rule that fires gives it a value, so that this rule fails when it fires"),
    (rules("trigger: start, action: {name: set, label: n, value: ^mean.sim.duration * 2}"), "mean.sim.duration never has a value: at the start no job has run, so that this rule fails when it fires"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), IN_VAIN)
def test_what_is_in_vain_is_told_at_its_place(text: str, message: str) -> None:
    text, line, column = marked(text)
    assert told(text) == [(line, column, message)]


LOOP = "trigger: job-success, name: one, when: count.one.success < 99, repetitions: unlimited, action: {name: submit, label: one}"
IN_EARNEST = [
    rules("id: a, trigger: idle, enabled: false, action: {name: stop}", "trigger: idle, action: {name: enable, label: a}"),
    metric("count.sim.success", "5"),
    metric("count.sim.success", "'> 4'"),
    metric("count.sim.retried", "'> 50'"),
    metric("ensemble.submitted", "'> 50'"),
    metric("ensemble.active", "6"),
    metric("nodes.free", "'> 1000'"),
    metric("ensemble.elapsed", "'> 1e6'"),
    metric("std.sim.duration", "'> 3'"),
    metric("count.one.success", "50", "- {" + LOOP + "}\n"),
    metric("std.one.duration", "'> 3'", "- {" + LOOP + "}\n"),
    metric("count.one.success", "4", "- {" + LOOP.replace("unlimited", "3") + "}\n"),
    # an attempt that is tried again starts anew
    metric("count.one.success", "50", "- {trigger: job-start, name: sim, repetitions: unlimited, action: {name: submit, label: one}}\n"),
    # ages are looked at again and again, and a job may report as often as it likes
    metric("std.one-pending", "'> 3'"),
    metric("std.sim.waiting", "'> 3'"),
    metric("sem.one.loss", "'> 3'").replace("{name: one, command: x}", "{name: one, command: x, metrics: {loss: {}}}"),
    metric("min.sim.loss", "'< -3'"),
    # estimated
    metric("iqr.sim.duration", "'< 0'"),
    when("count.sim.active > 2", "start"),
    when("event.job.exit_code == 3 or event.job.signal == 9", "job-fail"),
    when("event.job.cause == 'in-doubt'", "job-cancel"),
    when("event.group == 'one'", "job-finish"),
    when("event.state == 'halted'", "end"),
    when("event.job.params.x > 9 and event.job.params.x < 10", "job-finish").replace("name: sim, command: x", "name: sim, command: 'x {x}', parameters: {x: [9.5]}"),
    when("event.value > 2", "metric, name: count.sim.success"),
    when("event.value < -2", "report, name: sim.loss"),
    when("event.data.x == 'yes' or event.data.x > 3", "signal, name: go"),
    when("mean.sim.duration > 5 and max.sim.duration < 3"),
    when("mean.sim.duration >= 5 and mean.sim.duration <= 5"),
    when("mean.sim.duration > 5 and mean.sim.duration < 5.000001"),
    when("count.sim.failed > 1 and count.sim.failed < 3"),
    when("not (count.sim.failed > 3 and count.sim.failed < 1)"),
    when("(count.sim.failed > 3 or count.sim.success > 3) and count.sim.failed < 1"),
    when("mean.sim.duration - 2 > max.sim.duration and max.sim.duration > 5 and mean.sim.duration < 8"),
    when("1e10 + mean.sim.duration > 1e10 + 1 and mean.sim.duration < 1.000001"),
    when("var.phase == 'warm-up' and var.flag and var.n == 1"),
    when("var.phase == 'main'") + "- {trigger: idle, action: {name: set, label: phase, value: main}}\n",
    when("var.none > 3") + "- {trigger: idle, action: {name: set, label: none, value: var.n * 4}}\n",
    when("var.n > 1000") + "- {trigger: job-finish, repetitions: unlimited, action: {name: set, label: n, value: var.n + 1}}\n",
    when("var.n < -1000") + "- {trigger: job-finish, repetitions: unlimited, action: {name: set, label: n, value: 1 - 2 * var.n}}\n",
    rules(f"trigger: metric, name: var.none, {STOP}", "trigger: idle, action: {name: set, label: none, value: 3}"),
    rules(f"trigger: job-timeout, name: sim, {STOP}", f"trigger: job-timeout, {STOP}", f"trigger: metric, name: count.sim.timeout, when: 1, {STOP}").replace("label: sim}", "label: sim, duration: 5}"),
    rules(f"trigger: job-timeout, name: sim, {STOP}").replace("name: sim, command: x", "name: sim, command: x, attributes: {system.duration: 5}"),
    # users send signals, drain nodes, and cancel
    rules(f"trigger: signal, name: go, {STOP}", f"trigger: resource-drain, {STOP}", f"trigger: job-cancel, name: sim, {STOP}", f"trigger: end, name: cancelled, {STOP}"),
    rules("trigger: job-retry, name: sim, action: {name: log, value: x}"),
    # a function may do anything
    rules("trigger: idle, action: {name: custom, label: f}", f"trigger: idle, enabled: false, {STOP}", f"trigger: job-fail, name: three, {STOP}", f"trigger: metric, name: var.none, when: '> 3', {STOP}", f"trigger: metric, name: count.one.success, when: 9, {STOP}").replace("variables:", "custom: 'def f(): pass'\nvariables:").replace("- {name: one, command: x}", "- {name: one, command: x}\n- {name: three, command: x}"),
]  # fmt: skip


@pytest.mark.parametrize("text", IN_EARNEST)
def test_what_may_come_about_is_not_called_in_vain(text: str) -> None:
    assert told(text) == []


CHAIN = """jobs:
- {name: a, command: x}
- {name: b, command: x}
- {name: c, command: x}
rules:
- {trigger: start, action: {name: submit, label: a}}
- {id: far, trigger: metric, name: count.a.success, when: 2, action: {name: submit, label: b}}
- {trigger: group-complete, name: b, action: {name: submit, label: c}}
- {trigger: job-fail, name: c, action: {name: enable, label: last}}
- {id: last, enabled: false, trigger: idle, action: {name: stop}}
"""


def test_what_waits_for_what_never_comes_never_comes() -> None:
    assert told(CHAIN) == [
        (3, 10, "far, which would submit the group 'b', never fires"),
        (4, 10, "rule-3, which would submit the group 'c', never fires"),
        (7, 59, f"count.a.success == 2 never holds: at most 1 job of 'a' is ever submitted, {NEVER}"),
        (8, 35, f"no job of 'b' is ever submitted, {NEVER}"),
        (9, 29, f"no job of 'c' is ever submitted, {NEVER}"),
        (10, 23, "this rule is disabled, and rule-4, which would enable it, never fires"),
    ]
    assert told(CHAIN.replace("when: 2", "when: 1")) == []


def test_points_are_spent_some_day() -> None:
    text = """jobs:
- {name: a, command: "x {p}", parameters: {p: [1, 2, 3]}, count: 2}
rules:
- {trigger: start, action: {name: submit, label: a}}
- {trigger: group-complete, name: a, repetitions: unlimited, action: {name: submit, label: a}}
- {trigger: metric, name: count.a.success, when: %s, action: {name: log, value: x}}
"""
    assert told(text % 3) == []
    message = f"count.a.success == 4 never holds: at most 3 jobs of 'a' are ever submitted, {NEVER}"
    assert told(text % 4) == [(6, 50, message)]
    assert (
        told((text % 4).replace("label: a}}\n- {trigger: m", "label: a, parameters: {p: 4}}}\n- {trigger: m"))[0][0]
        == 5
    )


def test_the_files_of_the_predecessor_have_no_false_warnings() -> None:
    for path in sorted(Path(__file__).with_name("data").glob("predecessor-*.yaml")):
        messages = [one.message for one in load_file(path).warnings]
        assert not [one for one in messages if "never " in one and "whenever" not in one], path


def test_a_computed_count_bounds_the_jobs() -> None:
    text = metric(
        "count.one.success",
        "7",
        "- {trigger: idle, repetitions: 2, action: {name: submit, label: one, count: 'min(3, count.sim.failed)'}}\n",
    )
    assert told(text) == []
    assert told(text.replace("when: 7", "when: 8")) == [
        (7, 52, f"count.one.success == 8 never holds: at most 7 jobs of 'one' are ever submitted, {NEVER}")
    ]


def test_a_thousand_warnings_crowd_out_no_fault_and_are_counted() -> None:
    text = FILE + "".join("- {trigger: idle, enabled: false, action: {name: stop}}\n" for _ in range(1500))
    warnings = load(text, "f.yaml").warnings
    assert len(warnings) == 101
    assert warnings[-1].message == "and 1400 more warnings from here on"


PATHS = ["var.n", "var.phase", "var.none", "count.sim.success", "n.one.duration", "std.one.duration", "ensemble.active",
         "nodes.free", "event.job.exit_code", "event.job.cause", "event.group", "event.job.params.x", "min.sim.loss"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data(), CONDITIONS, st.sampled_from(["job-finish", "job-success, name: one", "job-fail, name: sim"]))
def test_no_condition_is_too_much_for_the_analysis(data: Any, condition: str, trigger: str) -> None:
    for name in ("var.a", "var.b", "var.c"):
        condition = condition.replace(name, data.draw(st.sampled_from(PATHS)))
    value = condition.replace("'", "''")
    text = (
        FILE
        + f"- {{trigger: {trigger}, when: '{value}', actions: [{{name: set, label: n, value: '{value}'}}, {{name: submit, label: one, count: '{value}'}}]}}\n"
    )
    try:
        found = load(text, "f.yaml").warnings
    except SpecError as exc:
        found = exc.faults
    for one in found:
        assert one.message.isprintable()
        assert 1 <= one.column <= len(text.splitlines()[one.line - 1]) + 1
