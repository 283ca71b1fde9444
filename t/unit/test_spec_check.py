# SPDX-License-Identifier: MIT
"""What needs two places of a file: labels, names, metric paths, conditions, keys of an action. And warnings."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import pytest

from ensemble.errors import SpecError
from ensemble.spec import condition, metrics
from ensemble.spec.check import heartbeat_period
from ensemble.spec.faults import Fault
from ensemble.spec.load import load
from ensemble.spec.metrics import Metric
from ensemble.spec.models import ACTIONS, COUNTS, TRIGGERS, WHEN
from ensemble.spec.reading import log_paths

JOBS = "jobs:\n- {name: echo, command: echo}\n- {name: sleep, command: sleep 1, count: 3}\n"
START = "rules:\n- {id: go, trigger: start, actions: [{name: submit, label: echo}, {name: submit, label: sleep}]}\n"
BASE = JOBS + START


def faults(text: str) -> Tuple[Fault, ...]:
    with pytest.raises(SpecError) as raised:
        load(text, "f.yaml")
    return raised.value.faults


def marked(text: str) -> Tuple[str, int, int]:
    before, _, after = text.partition("^")
    lines = before.split("\n")
    return before + after, len(lines), len(lines[-1]) + 1


def act(keys: str) -> str:
    return BASE + f"- {{trigger: idle, action: {{{keys}}}}}\n"


def rule(keys: str) -> str:
    return BASE + f"- {{{keys}, action: {{name: stop}}}}\n"


PARAMS = """variables: {n: 1}
jobs:
- {name: scan, command: "x {width}", parameters: {width: [1, 2]}, metrics: {loss: {}}}
- {name: other, command: "x {height}", parameters: {height: [1, 2]}}
rules:
- {trigger: start, actions: [{name: submit, label: scan, parameters: [{width: 1, more: 2}]}, {name: submit, label: other}]}
"""
GROUPS = "one of echo, sleep"
FAULTS: List[Tuple[str, str, Optional[str], Optional[str]]] = [
    (act("name: submit, label: ^slep"), "no group is called 'slep'", GROUPS, "sleep"),
    (act("name: submit, label: ^all"), "no group is called 'all'", GROUPS, None),
    (act("name: cancel, label: ^al"), "no group is called 'al'", GROUPS + ", all", "all"),
    (act("name: kill, label: ^Echo"), "no group is called 'Echo'", GROUPS + ", all", "echo"),
    (act("name: ^submit"), "submit has no label", "label: a group (echo, sleep)", None),
    (act("name: ^cancel"), "cancel has no label", "label: a group (echo, sleep), or all; or job: event", None),
    (act("name: ^kill"), "kill has no label", "label: a group (echo, sleep), or all; or job: event", None),
    (act("name: ^enable"), "enable has no label", "label: the id of a rule (go, rule-2)", None),
    (act("name: ^disable"), "disable has no label", "label: the id of a rule (go, rule-2)", None),
    (act("name: enable, label: ^gone"), "no rule has the id 'gone'", "one of go, rule-2", "go"),
    (act("name: ^log"), "log has no value", "value: the line", None),
    (act("name: log, value: ^[a]"), "value cannot be a list", "a line of text", None),
    (act("name: ^sumbit, label: echo"), "no action is called 'sumbit'", "one of " + ", ".join(ACTIONS), "submit"),
    (act("name: submit, label: echo, ^state: pending"), "submit takes no state", "one of label, count, duration, nodes, parameters, tasks, urgency", None),
    (act("name: cancel, label: echo, ^signal: 9"), "cancel takes no signal", "one of label, job, state", None),
    (act("name: kill, label: echo, ^count: 1"), "kill takes no count", "one of label, job, state, signal", None),
    (act("name: stop, ^status: success"), "stop takes no status", "no such key", None),
    (act("name: terminate, ^count: 3"), "terminate takes no count", "one of status", None),
    (act("name: log, value: x, ^label: echo"), "log takes no label", "one of value", None),
    (act("name: enable, label: go, ^value: 1"), "enable takes no value", "one of label", None),
    (act("name: submit, label: sleep, ^nodes: 4, tasks: 2"), "2 tasks cannot fill 4 nodes", "tasks: 4 or more, or fewer nodes", None),
    (rule("trigger: ^strat"), "no trigger is called 'strat'", "one of " + ", ".join(TRIGGERS), "start"),
    (rule("trigger: job-sucess".replace("job", "^job")), "no trigger is called 'job-sucess'", None, "job-success"),
    (rule("trigger: job-finish, name: ^slep"), "no group is called 'slep'", GROUPS, "sleep"),
    (rule("trigger: job-memo, name: ^my-title"), "no group is called 'my-title'", GROUPS, None),
    (rule("trigger: group-complete, name: ^ech"), "no group is called 'ech'", GROUPS, "echo"),
    (rule("trigger: end, name: ^completed"), "no ensemble ends in a state called 'completed'", "one of complete, failed, cancelled, halted", "complete"),
    (rule("trigger: timer").replace("- {trigger: timer", "- ^{trigger: timer"), "a rule on a timer has no after", None, None),
    (rule("trigger: idle, ^after: 5s"), "a rule on idle takes no after", "after with the trigger timer alone", None),
    (rule("trigger: timer, after: 1, ^every: 5s"), "a rule on timer takes no every", "every with the trigger heartbeat alone", None),
    (rule("trigger: heartbeat, every: ^0"), "the period '0' is too short", "a duration of at least 10ms", None),
    (rule("trigger: idle, id: ^go"), "the id 'go' is given twice; the first one is in line 5", "each id once", None),
    (BASE + "- ^{trigger: metric, action: {name: stop}}\n", "a rule on a metric has no name", None, None),
    (BASE + "- ^{trigger: metric, name: null, action: {name: stop}}\n", "a rule on a metric has no name", None, None),
    (BASE + "- ^{trigger: timer, after: ~, action: {name: stop}}\n", "a rule on a timer has no after", None, None),
    (act("name: ^submit, label: null"), "submit has no label", "label: a group (echo, sleep)", None),
    (rule("trigger: metric, name: ^cuont.sleep.success"), "no statistic is called 'cuont'", None, "count"),
    (rule("trigger: metric, name: mean^"), "the path ends behind 'mean'", "a group, as in mean.GROUP.duration", None),
    (rule("trigger: metric, name: count.^slep.success"), "no group is called 'slep'", GROUPS, "sleep"),
    (rule('trigger: metric, name: "count.^slep.success"'), "no group is called 'slep'", GROUPS, "sleep"),
    (rule("trigger: metric, name: ^'count.sl''ep.success'"), "no group is called 'sl'ep', at character 7 of the text", GROUPS, "sleep"),
    (rule("trigger: metric, name: count.sleep.^sucess"), "count.sleep has no 'sucess'", "one of " + ", ".join(COUNTS), "success"),
    (rule("trigger: metric, name: count.sleep^"), "the path ends behind 'count.sleep'", "one of " + ", ".join(COUNTS), None),
    (rule("trigger: metric, name: count.sleep.success^.x"), "the path goes on behind 'count.sleep.success'", None, None),
    (rule("trigger: metric, name: mean.sleep.failed.^durations"), "mean.sleep.failed has no 'durations'", "one of duration, pending, waiting; another variable that jobs report stands under metrics of the group", "duration"),
    (rule("trigger: metric, name: count.sleep.success, when: mean.sleep.^duratoin > 3"), "mean.sleep has no 'duratoin'", "one of duration, pending, waiting; another variable that jobs report stands under metrics of the group", "duration"),
    (rule("trigger: metric, name: mean.sleep.^retried"), "mean.sleep has no 'retried'", "one of duration, pending, waiting", None),
    (rule("trigger: report, name: ^slep.loss"), "no group is called 'slep'", GROUPS, "sleep"),
    (rule("trigger: report, name: ^sleep.duration"), "no job reports 'duration'", "sleep.VARIABLE", None),
    (rule("trigger: report, name: ^sleep.a.b"), "no job reports 'a.b'", "sleep.VARIABLE", None),
    (rule("trigger: signal, name: ^'g o'"), "no signal can be called 'g o'", "letters, digits, _, - and ., not first - or ., at most 100", None),
    (rule("trigger: signal, name: go, ^topic: x"), "a rule on signal has both a name and a topic", "one of them", None),
    (rule("trigger: idle, ^topic: x"), "a rule on idle takes no topic", "topic with the trigger signal alone", None),
    (rule("trigger: signal, topic: ^'*'"), "topic cannot be '*'", "the topic of an event, such as job-state.*, that begins with more than a *", None),
    (act("name: signal, label: ^'-x'"), "no signal can be called '-x'", "letters, digits, _, - and ., not first - or ., at most 100", None),
    (act("name: ^signal, data: {x: 1}"), "signal has no label", "label: the signal's name", None),
    (act("name: signal, label: go, ^count: 3"), "signal takes no count", "one of label, data", None),
    (rule("trigger: metric, name: mean.sleep.^fail.duration"), "no end of a job is called 'fail'", "one of success, failed, finished", "failed"),
    (rule("trigger: metric, name: mean.sleep.^failed.waiting"), "jobs that wait have not ended", "mean.sleep.waiting", None),
    (rule("trigger: metric, name: mean.^sleep-durations"), "no group is called 'sleep-durations'", GROUPS, None),
    (rule("trigger: metric, name: ^p00.sleep.duration"), "no statistic is called 'p00'", None, None),
    (rule("trigger: metric, name: ensemble.^elasped"), "ensemble has no 'elasped'", "one of active, submitted, elapsed", "elapsed"),
    (rule("trigger: metric, name: queue^"), "the path ends behind 'queue'", "one of pending, running", None),
    (rule("trigger: metric, name: queue.^runing"), "queue has no 'runing'", "one of pending, running", "running"),
    (rule("trigger: metric, name: nodes.free^.x"), "the path goes on behind 'nodes.free'", "nodes.free", None),
    (rule("trigger: metric, name: cores.^drained"), "cores has no 'drained'", "one of up, down, free, allocated", None),
    (rule("trigger: ^resource-dwon"), "no trigger is called 'resource-dwon'", None, "resource-down"),
    (rule("trigger: resource-down, when: ^event.job.id > 3"), "a rule on resource-down has no event.job", None, None),
    (act("name: grow, value: ^0"), "value cannot be '0'", None, None),
    (act("name: grow, ^count: 2"), "grow takes no count", "one of value", None),
    (rule("trigger: metric, name: var.n.^x".replace(".^x", "^.x")), "the path goes on behind 'var.n'", "var.n", None),
    (rule("trigger: metric, name: var.^__class__"), "no variable can be called '__class__'", None, None),
    (rule("trigger: metric, name: count.sleep.success, when: '> ^x'"), "no word of expressions is 'x'", None, None),
    (rule("trigger: metric, name: count.sleep.success, when: ^.nan"), "when cannot be '.nan'", "a number that is finite", None),
    (rule("trigger: metric, name: count.sleep.success, when: '>^ 1e999'"), "when cannot be ' 1e999'", "a number that is finite", None),
    (rule("trigger: metric, name: count.sleep.success, when: ^true"), "when cannot be 'true'", WHEN, None),
    (rule("trigger: metric, name: count.sleep.success, when: ^[1]"), "when cannot be a list", WHEN, None),
    (rule("trigger: metric, name: count.sleep.success, when: count.^ech.success > 3"), "no group is called 'ech'", GROUPS, "echo"),
    (rule("trigger: metric, name: count.sleep.success, when: '> count.^ech.success'"), "no group is called 'ech'", GROUPS, "echo"),
    (rule("trigger: metric, name: count.sleep.success, when: '= count.^ech.success'"), "no group is called 'ech'", GROUPS, "echo"),
    (rule("trigger: metric, name: count.sleep.success, when: '^=> 3'"), "expressions have no '=>'", ">=", None),
    (rule("trigger: metric, name: count.^slep.success, when: '> 3 and 1 < 2'"), "no group is called 'slep'", GROUPS, "sleep"),
    (rule("trigger: job-finish, when: '^3'"), "when compares a metric, and a rule on job-finish has none", None, None),
    (rule("trigger: job-finish, when: event.job.^exitcode == 3"), "event.job has no 'exitcode'", None, "exit_code"),
    (rule("trigger: start, when: ^event.job.id == 3"), "a rule on start has no event.job", "no event.*", None),
    (rule("trigger: job-finish, when: ^event.data.x == 3"), "a rule on job-finish has no event.data", "one of event.group, event.job", None),
    (rule("trigger: group-complete, when: event.^grop == 'sleep'"), "event has no 'grop'", "one of event.group", "group"),
    (rule("trigger: end, when: event.^group == 'sleep'".replace("event.^", "^event.")), "a rule on end has no event.group", "one of event.state", None),
    (rule("trigger: idle, when: \"^'yes'\""), "a string is neither true nor false", "a comparison", None),
    (rule("trigger: idle, keep_alive: x, when: 1 < 2".replace("x, when: 1 < 2", "^maybe")), "keep_alive cannot be 'maybe'", "true or false", None),
    (rule("trigger: end, ^keep_alive: true"), "a rule on the end cannot keep the ensemble from ending", None, None),
    (rule("trigger: metric, name: ^event.value"), "an event is no metric", None, None),
    (act("name: submit, label: echo, count: count.^ech.success * 2"), "no group is called 'ech'", GROUPS, "echo"),
    (act("name: submit, label: echo, count: ^many"), "count cannot be 'many'", 'a whole number from 0 to 10000000, or an expression such as "var.n * 2"', None),
    (act("name: submit, label: echo, count: ^0.5 * 3"), "count is 1.5", "a whole number from 0 to 10000000", None),
    (act("name: submit, label: echo, nodes: ^'2 - 2'"), "nodes is 0", "a whole number from 1 to 1000000", None),
    (act("name: submit, label: echo, nodes: ^'1 / 0'"), "nodes has no value", "a whole number from 1 to 1000000", None),
    (act("name: submit, label: echo, nodes: ^'1 < 2'"), "nodes cannot be true or false", "a whole number from 1 to 1000000", None),
    (act("name: submit, label: echo, urgency: ^'16 * 2'"), "urgency is 32", "a whole number from 0 to 31", None),
    (act("name: submit, label: echo, duration: ^5 minutes"), "duration cannot be '5 minutes'", None, None),
    (act("name: ^set, value: 3"), "set has no label", "label: the name of a variable", None),
    (act("name: ^set, label: n"), "set has no value", "value: a number, a string, true, false, or an expression", None),
    (act("name: set, label: n, value: ^[1]"), "value cannot be a list", None, None),
    (act("name: set, label: n, value: count.^ech.success + 1"), "no group is called 'ech'", GROUPS, "echo"),
    (act("name: set, label: ^2n, value: 1"), "no variable can be called '2n'", None, None),
    (act("name: set, label: n, value: ^two words"), "value cannot be 'two words'", None, None),
    (BASE + "variables: {^2n: 1}\n", "no variable can be called '2n'", None, None),
    (BASE + "variables: {^__n__: 1}\n", "no variable can be called '__n__'", None, None),
    (BASE + "variables: {n: ^[1]}\n", "n cannot be a list", "a number, a string, true, false or null", None),
    (BASE + "variables: {n: ^.inf}\n", "n cannot be '.inf'", "a number that is finite", None),
    (BASE + "variables: {^n: }\n", "the key 'n' has no value", None, None),
    (BASE + "variables: ^[n]\n", "variables cannot be a list", "a mapping", None),
    (rule("trigger: job-finish, when: '^> 5'"), "when compares a metric, and a rule on job-finish has none", 'an expression with both sides, as in "count.GROUP.failed > 2"', None),
    (rule("trigger: start, when: ^3"), "when compares a metric, and a rule on start has none", None, None),
    (act("name: log, value: 'so many: {count.^slep.success}'"), "no group is called 'slep'", GROUPS, "sleep"),
    (rule("trigger: report, when: ^3"), "when compares a metric, and a rule on report has none", 'an expression with both sides, as in "event.value > 2"', None),
    (rule('trigger: job-fail, when: "event.job.cause == ^\'tiemout\'"'), "event.job.cause never is 'tiemout'", None, "timeout"),
    (rule('trigger: end, when: "^\'success\' == event.state"'), "event.state never is 'success'", "one of complete, failed, cancelled, halted", None),
    (PARAMS + "- {trigger: job-fail, name: scan, when: var.n > 1 or event.job.params.^wdith > 2, action: {name: stop}}\n", "jobs of 'scan' have no parameter 'wdith'", "one of more, width", "width"),
    (PARAMS + "- {trigger: report, name: scan.loss, action: {name: log, value: '{event.job.params.^q}'}}\n", "jobs of 'scan' have no parameter 'q'", None, None),
    (PARAMS + "- {trigger: job-fail, action: {name: set, label: n, value: event.job.params.^q + 1}}\n", "no job has a parameter 'q'", "one of height, more, width", None),
    (act("name: log, value: '{^event.job.id}'"), "a rule on idle has no event.job", "no event.*", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "expected", "suggestion"), FAULTS)
def test_each_fault_has_its_words_and_its_place(
    text: str, message: str, expected: Optional[str], suggestion: Optional[str]
) -> None:
    text, line, column = marked(text)
    found = faults(text)
    assert len(found) == 1, [str(fault) for fault in found]
    assert (found[0].line, found[0].column) == (line, column), str(found[0])
    assert found[0].message == message
    if expected is not None:
        assert found[0].expected == expected
    assert found[0].suggestion == suggestion


def test_a_path_in_folded_text_is_told_where_the_text_begins() -> None:
    text, line, column = marked(
        BASE + "- trigger: idle\n  action:\n    name: log\n    value: ^>\n      a\n      {count.x.success}\n"
    )
    assert [(fault.line, fault.column) for fault in faults(text)] == [(line, column)]


def test_where_groups_cannot_be_known_labels_are_not_doubted() -> None:
    text = (
        "jobs:\n- {nam: sleep, command: sleep 1}\n"
        + START
        + "- {trigger: metric, name: count.x.success, action: {name: stop}}\n"
    )
    assert [fault.message for fault in faults(text)] == ["a job has no key 'nam'"]


def test_a_fault_in_a_rule_hides_none_in_its_action() -> None:
    text = BASE + "- {trigger: idel, when: '> x', cooldown: y, action: {name: submit, label: z, count: 0}}\n"
    assert [fault.message for fault in faults(text)] == [
        "no trigger is called 'idel'",
        "cooldown cannot be 'y'",
        "no group is called 'z'",
        "count cannot be '0'",
    ]


@pytest.mark.parametrize(
    "keys",
    [
        *(f"trigger: {trigger}" for trigger in TRIGGERS if trigger not in ("metric", "timer")),
        "trigger: metric, name: p07.sleep.failed.pending, when: '<= -0.5'",
        "trigger: metric, name: ensemble.active, when: ' = 3 '",
        "trigger: start, name: any title",
        "trigger: end, name: halted",
        "trigger: timer, after: 0",
        "trigger: heartbeat, every: 10ms",
        "trigger: job-alloc, name: sleep",
        "trigger: job-alloc, when: event.data.a.b == 3 and event.job.attempt > 2 and event.group == 'echo'",
        "trigger: metric, name: count.sleep.success, when: '> 3 and count.echo.failed == 0'",
        "trigger: metric, name: count.sleep.success, when: event.value > 3",
        "trigger: end, when: event.state != 'halted' and not count.sleep.failed",
        "trigger: idle, keep_alive: false",
    ],
)
def test_what_is_right_is_taken(keys: str) -> None:
    assert load(rule(keys), "f.yaml").spec.rules[-1].trigger == keys.split(",")[0][len("trigger: ") :]


@pytest.mark.parametrize(
    "line", ["{}", "{x}", "{ a.b }", "{a b.c}", '{"a": 1.5}', "{count.sleep.success", "{{count.sleep.success}}"]
)
def test_other_braces_stay_as_they_are(line: str) -> None:
    text = BASE + f"- trigger: idle\n  action: {{name: log, value: '{line}'}}\n"
    assert load(text, "f.yaml").spec.rules[-1].actions[0].value == line


def test_log_paths() -> None:
    assert list(log_paths("a {count.x.y} b {mean.x-duration}{x}")) == [(3, "count.x.y"), (17, "mean.x-duration")]


PATHS = [
    ("count.sleep.success", Metric("count", "sleep", "success", "")),
    ("mean.sleep.duration", Metric("mean", "sleep", "success", "duration")),
    ("p99.sleep.finished.pending", Metric("p99", "sleep", "finished", "pending")),
    ("max.sleep.waiting", Metric("max", "sleep", "", "waiting")),
    ("mean.sleep-duration", Metric("mean", "sleep", "success", "duration")),
    ("mean.sleep-pending", Metric("mean", "sleep", "", "-pending")),
    ("ensemble.elapsed", Metric("ensemble", "", "", "elapsed")),
    ("var.batch-size", Metric("var", "", "", "batch-size")),
]


@pytest.mark.parametrize(("path", "metric"), PATHS)
def test_paths(path: str, metric: Metric) -> None:
    assert metrics.parse(path, ["echo", "sleep"]) == metric
    assert metrics.parse(str(metric), ["echo", "sleep"]) == metric


def test_a_path_error_says_it_all_in_one_sentence() -> None:
    with pytest.raises(metrics.PathError) as raised:
        metrics.parse("count.slep.success", ["echo", "sleep"])
    error = raised.value
    assert str(error) == "no group is called 'slep'; expected one of echo, sleep"
    assert (error.offset, error.suggestion) == (6, "sleep")


CONDITIONS: List[Tuple[Any, float, bool]] = [
    (3, 3.0, True), (3, 4.0, False), ("> 5.7", 5.5, False), ("> 5.7", 5.8, True), (">= 5", 5, True), ("<-0.5", -1, True),
    ("<= 1e-5", 1e-6, True), ("!= 2", 2, False), ("= 2", 2, True), ("==2", 2, True), ("2", 2, True),
]  # fmt: skip


@pytest.mark.parametrize(("when", "x", "holds"), CONDITIONS)
def test_conditions(when: Any, x: float, holds: bool) -> None:
    compiled = condition.compile(when, ["a"], "metric", "count.a.success")
    assert isinstance(compiled, condition.Condition)
    assert compiled.holds(x) is holds
    assert compiled.holds(None) is False


def test_no_condition_is_none() -> None:
    assert condition.compile(None, [], "metric", "ensemble.active") is None


HEARTBEATS = [
    ("", "", 0.0),
    ("", "- {trigger: idle, action: {name: stop}}", 0.0),
    ("", "- {trigger: heartbeat, action: {name: stop}}", 60.0),
    ("", "- {trigger: heartbeat, every: 3, action: {name: stop}}", 0.0),
    ("", "- {trigger: metric, name: mean.sleep.waiting, when: '> 3', action: {name: stop}}", 60.0),
    ("", "- {trigger: metric, name: mean.sleep-pending, when: '> 3', action: {name: stop}}", 60.0),
    ("", "- {trigger: metric, name: mean.sleep.pending, when: '> 3', action: {name: stop}}", 0.0),
    ("", "- {trigger: idle, action: {name: log, value: 'waits {max.sleep.waiting}'}}", 60.0),
    ("", "- {trigger: metric, name: ensemble.elapsed, when: '> 90', action: {name: stop}}", 60.0),
    ("", "- {trigger: idle, action: {name: log, value: 'after {ensemble.elapsed}'}}", 0.0),
    ("", "- {trigger: metric, name: count.sleep.success, when: ensemble.elapsed > 90, action: {name: stop}}", 60.0),
    ("", "- {trigger: job-success, when: ensemble.elapsed > 90, action: {name: stop}}", 0.0),
    ("", "- {trigger: job-success, when: mean.sleep.waiting > 90, action: {name: stop}}", 60.0),
    ("", "- {trigger: start, action: {name: submit, label: echo, count: 'n.sleep.waiting + 1'}}", 60.0),
    ("logging: {heartbeat: 3}", "", 3.0),
    ("logging: {heartbeat: 90s}", "- {trigger: heartbeat, action: {name: stop}}", 90.0),
    ("logging: {heartbeat: 0}", "- {trigger: heartbeat, action: {name: stop}}", 60.0),
]


@pytest.mark.parametrize(("top", "more", "seconds"), HEARTBEATS)
def test_the_period_of_heartbeats(top: str, more: str, seconds: float) -> None:
    assert heartbeat_period(load(f"{BASE}{more}\n{top}\n", "f.yaml").spec) == seconds


LOOP = "- {trigger: job-success, name: echo, repetitions: unlimited, action: {name: submit, label: ^^sleep}}\n"
BACK = "- {trigger: group-complete, name: sleep, repetitions: unlimited, action: {name: submit, label: echo}}\n"
WARNINGS = [
    ("jobs:\n- {name: ^echo, command: echo}\n- {name: sleep, command: x}\nrules:\n- {trigger: start, action: {name: submit, label: sleep}}\n", "no rule submits the group 'echo'"),
    (JOBS + "^rules:\n- {trigger: job-finish, actions: [{name: submit, label: echo}, {name: submit, label: sleep}]}\n", "every rule that submits waits for something that jobs do, so no job is ever submitted"),
    (BASE + "- {trigger: ^heartbeat, action: {name: submit, label: echo}}\n", "this rule fires once, on the first heartbeat"),
    (BASE + "- {trigger: ^group-complete, action: {name: log, value: x}}\n", "this rule fires once, on the first group-complete"),
    (BASE + "- {trigger: ^group-complete, name: echo, action: {name: submit, label: echo}}\n", "this rule fires once, on the first group-complete"),
    (rule("trigger: idle, repetitions: ^0"), "this rule never fires"),
    (rule("trigger: metric, name: mean.sleep.duration, when: ^5"), "mean.sleep.duration is a measured time, which hardly ever equals 5"),
    (rule("trigger: metric, name: ensemble.elapsed, when: ^'= 5'"), "ensemble.elapsed is a measured time, which hardly ever equals 5"),
    (rule("trigger: job-success, when: ^mean.sleep.duration == 5 and count.echo.success == 1"), "mean.sleep.duration is a measured time, which hardly ever equals 5"),
    (rule("trigger: idle, when: ^1 < 2"), "this condition reads nothing, it always holds"),
    (rule("trigger: idle, when: ^'1 / 0 > 3'"), "this condition reads nothing, it never holds"),
    (rule("trigger: idle, when: var.^n > 2 or var.n < 1"), "the variable 'n' is not declared"),
    (rule("trigger: idle, when: 1 < var.^n-1") + "variables: {n: 1}\n", "the variable 'n-1' is not declared"),
    (rule("trigger: metric, name: var.^n"), "the variable 'n' is not declared"),
    (rule("trigger: metric, name: count.echo.success, when: '>= var.^n'"), "the variable 'n' is not declared"),
    (act("name: set, label: ^n, value: 5"), "the variable 'n' is not declared"),
    (act("name: set, label: n, value: 'var.n + var.^m'") + "variables: {n: 1}\n", "the variable 'm' is not declared"),
    (act("name: log, value: 'is {var.^n}'"), "the variable 'n' is not declared"),
    (act("name: submit, label: echo, count: var.^n * 2"), "the variable 'n' is not declared"),
    (act("name: kill, label: all, state: ^pending"), "a pending job has no process that a signal could reach"),
    (act("name: terminate, ^value: 1"), "terminate takes no value, it is ignored"),
    (act("name: stop, ^label: echo"), "stop takes no label, it is ignored"),
    (JOBS.replace("count: 3", "nodes: 3, tasks: ^2") + START, "2 tasks cannot fill 3 nodes, so 3 are run"),
    (BASE + (LOOP + BACK).replace("trigger: job", "trigger: ^job").replace("^^", ""), "rules submit echo, sleep again and again and have no end: on job-success of echo, rule-2 submits sleep; on group-complete of sleep, rule-3 submits echo"),
    (BASE + "- {trigger: ^job-run, name: sleep, repetitions: unlimited, action: {name: submit, label: sleep}}\n" + LOOP.replace("echo", "sleep", 1).replace("^^sleep", "echo"), "rules submit sleep again and again and have no end: on job-run of sleep, rule-2 submits sleep"),
    (BASE + LOOP.replace("^^", "") + "- {trigger: ^job-run, name: sleep, repetitions: unlimited, action: {name: submit, label: sleep}}\n", "rules submit sleep again and again and have no end: on job-run of sleep, rule-3 submits sleep"),
    (BASE + "- {trigger: ^job-finish, repetitions: unlimited, action: {name: submit, label: echo}}\n", "rules submit echo again and again and have no end: on job-finish of any group, rule-2 submits echo"),
    (BASE + "- {trigger: ^idle, repetitions: unlimited, action: {name: submit, label: echo}}\n", "rules submit echo again and again and have no end: on idle, rule-2 submits echo"),
    (BASE + "- {trigger: ^metric, name: count.echo.success, repetitions: unlimited, action: {name: submit, label: echo}}\n", "rules submit echo again and again and have no end: on count.echo.success, rule-2 submits echo"),
    (BASE + "- {trigger: ^heartbeat, repetitions: unlimited, action: {name: submit, label: echo}}\n", "this rule submits at every heartbeat and has no end"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WARNINGS)
def test_each_warning(text: str, message: str) -> None:
    text, line, column = marked(text)
    warnings = load(text, "f.yaml").warnings
    assert [(one.line, one.column, one.message, one.severity) for one in warnings] == [
        (line, column, message, "warning")
    ]


CYCLE = (LOOP + BACK).replace("^^", "")
QUIET = [
    JOBS.replace("count: 3", "nodes: 3, tasks: 3") + START,
    BASE.replace("trigger: start", "trigger: start, repetitions: unlimited")
    + "- {trigger: group-complete, name: echo, action: {name: log, value: x}}\n",
    BASE + CYCLE + "- {trigger: metric, name: count.echo.success, when: 9, action: {name: stop}}\n",
    BASE + CYCLE + "- {trigger: timer, after: 9, action: {name: disable, label: go}}\n",
    BASE + CYCLE + "limits: {max_jobs: 9}\n",
    BASE + CYCLE.replace("unlimited", "9"),
    BASE + CYCLE.replace("job-success", "job-fail"),
    BASE + CYCLE.replace("label: echo", "label: sleep, count: 1").replace("name: sleep, rep", "name: echo, rep"),
    BASE + "- {trigger: heartbeat, repetitions: 1, action: {name: submit, label: echo}}\n",
    BASE + "- {trigger: heartbeat, action: {name: terminate}}\n",
    BASE + "- {trigger: group-complete, name: echo, action: {name: log, value: x}}\n",
    BASE + "- {trigger: metric, name: n.sleep.duration, when: 3, action: {name: stop}}\n",
    BASE + CYCLE.replace("name: echo, rep", "name: echo, when: count.echo.success < 9, rep"),
    BASE
    + "- {trigger: heartbeat, when: count.echo.active < 3, repetitions: unlimited, action: {name: submit, label: echo}}\n",
    BASE
    + "- {trigger: job-success, when: var.n == 1 and mean.echo.duration != 3, action: {name: stop}}\nvariables: {n: 1}\n",
    JOBS + "variables: {n: 0}\nrules:\n- {trigger: start, action: {name: set, label: n, value: 1}}\n"
    "- {trigger: metric, name: var.n, repetitions: unlimited, actions: [{name: submit, label: echo}, {name: submit, label: sleep}]}\n",
    BASE
    + "- {trigger: idle, when: var.n == 'two words', action: {name: set, label: n, value: one}}\n"
    + "- {trigger: timer, after: 5, action: {name: set, label: n, value: \"'two words'\"}}\nvariables: {n: null}\n",
    JOBS
    + "rules:\n- {trigger: timer, after: 1, actions: [{name: submit, label: echo}, {name: submit, label: sleep}]}\n",
]


@pytest.mark.parametrize("text", QUIET)
def test_what_is_often_meant_stays_unwarned(text: str) -> None:
    assert [one.message for one in load(text, "f.yaml").warnings] == []
