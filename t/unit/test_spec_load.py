# SPDX-License-Identifier: MIT
"""A file into a Spec: defaults, the forms that ensemble-python takes, each fault with its words and its position."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import pytest

from ensemble.errors import SpecError
from ensemble.spec.faults import Fault
from ensemble.spec.load import load, load_file
from ensemble.spec.models import NOT_YET, Spec

TOP = Path(__file__).resolve().parents[2]

JOBS = "jobs:\n- {name: a, command: echo}\n- {name: b, command: echo}\n"
RULES = "rules:\n- {trigger: start, actions: [{name: submit, label: a}, {name: submit, label: b}]}\n"


def spec(text: str, file: str = "f.yaml") -> Spec:
    return load(text, file).spec


def faults(text: Any, file: str = "f.yaml") -> Tuple[Fault, ...]:
    with pytest.raises(SpecError) as raised:
        load(text, file)
    return raised.value.faults


def only(text: str) -> Fault:
    found = faults(text)
    assert len(found) == 1, [str(fault) for fault in found]
    return found[0]


def marked(text: str) -> Tuple[str, int, int]:
    """The text without its mark, and the line and column where the mark stood."""
    before, _, after = text.partition("^")
    lines = before.split("\n")
    return before + after, len(lines), len(lines[-1]) + 1


def later_words() -> List[Tuple[str, str]]:
    return [(where, word) for where, words in NOT_YET.items() for word in words]


@pytest.mark.parametrize(("where", "word"), later_words())
def test_every_word_of_a_later_release_is_told_as_such(where: str, word: str) -> None:
    texts = {
        "file": JOBS + RULES + f"^{word}: x\n",
        "job": JOBS + f"- {{name: c, command: c, ^{word}: x}}\n" + RULES,
        "rule": JOBS + RULES + f"- {{trigger: idle, ^{word}: x, action: {{name: stop}}}}\n",
        "trigger": JOBS + RULES + f"- {{trigger: ^{word}, name: x, action: {{name: stop}}}}\n",
        "action": JOBS + RULES + f"- {{trigger: idle, action: {{name: ^{word}, label: x, value: 1}}}}\n",
        "action key": JOBS + RULES + f"- {{trigger: idle, action: {{name: submit, label: a, ^{word}: x}}}}\n",
        "limit": JOBS + RULES + f"limits: {{^{word}: 3}}\n",
    }
    text, line, column = marked(texts[where])
    fault = only(text)
    assert (fault.line, fault.column) == (line, column)
    assert fault.message.endswith(f"'{word}' is not supported yet")
    assert fault.expected is not None
    assert "kept for a later release" in fault.expected


def test_names_come_from_the_file() -> None:
    assert spec(JOBS + RULES, "/some/where/my-study.yaml").name == "my-study"
    assert spec(JOBS + RULES, "my study (2).yml").name == "my-study-2"
    assert spec(JOBS + RULES, "-").name == "ensemble"
    assert spec(JOBS + RULES, "été.yaml").name == "t"
    assert spec(JOBS + RULES, "x" * 300).name == "x" * 100
    assert spec("name: given\n" + JOBS + RULES, "other.yaml").name == "given"


def test_rules_get_ids_that_collide_with_none() -> None:
    text = (
        JOBS + RULES + "- {id: rule-1, trigger: idle, action: {name: stop}}\n- {trigger: idle, action: {name: stop}}\n"
    )
    ids = [rule.id for rule in spec(text).rules]
    assert ids[1:] == ["rule-1", "rule-3"]
    assert len(set(ids)) == 3


def test_defaults() -> None:
    made = spec(JOBS + RULES)
    assert (made.jobs[0].count, made.jobs[0].nodes, made.jobs[0].duration, made.jobs[0].urgency) == (1, None, 0.0, 16)
    assert (made.failures, made.limits.max_jobs, made.logging.heartbeat) == ("none", 100_000, 0.0)
    assert made.rules[0].repetitions == 1


def test_all_keys_of_a_job() -> None:
    job = spec(
        """
jobs:
  - name: a
    command: ["./run", 1.10, 007]
    count: 2.0
    nodes: 2
    tasks: 4
    cores: 3
    gpus: 1
    exclusive: true
    duration: 1.5h
    workdir: /tmp
    environment: {VERSION: 1.10, GONE: null, EMPTY: "", N: 010}
    queue: debug
    bank: b
    urgency: 31
    input: in
    output: "out-{{id}}"
    error: err
    shell: {cpu-affinity: per-task, verbose: 2}
    attributes: {system.x: [1, {a: b}], y: 1.5}
rules: [{trigger: start, action: {name: submit, label: a}}]
"""
    ).jobs[0]
    assert job.command == ("./run", "1.10", "007")
    assert (job.count, job.nodes, job.tasks, job.cores, job.gpus, job.exclusive) == (2, 2, 4, 3, 1, True)
    assert (job.duration, job.workdir, job.urgency) == (5400.0, "/tmp", 31)
    assert job.environment == {"VERSION": "1.10", "GONE": None, "EMPTY": "", "N": "010"}
    assert (job.queue, job.bank, job.input, job.output, job.error) == ("debug", "b", "in", "out-{{id}}", "err")
    assert job.shell == {"cpu-affinity": "per-task", "verbose": 2}
    assert type(job.shell["verbose"]) is int
    assert job.attributes == {"system.x": [1, {"a": "b"}], "y": 1.5}


def test_a_script() -> None:
    job = spec(
        "jobs:\n- name: a\n  script: |\n    x=1\n    echo $x\n" + RULES.replace(", {name: submit, label: b}", "")
    ).jobs[0]
    assert (job.script, job.command) == ("x=1\necho $x\n", ())


def test_the_keys_of_rules_and_actions() -> None:
    made = spec(
        JOBS
        + RULES
        + """
- id: late
  trigger: timer
  after: 2m
  enabled: false
  action: {name: kill, label: all, signal: USR1, state: running}
- trigger: heartbeat
  every: 500ms
  action: {name: submit, label: a, count: 2, nodes: 1, tasks: 2, duration: 1m, urgency: 0, repetitions: unlimited, cooldown: 5s}
- trigger: end
  name: failed
  actions:
  - {name: log, value: 5}
  - {name: terminate, status: failure}
  - {name: enable, label: late}
  repetitions: 3
limits: {max_jobs: 5, max_active: 2, max_firings: 7, max_failures: 10%, duration: 1h}
failures: 5%
logging: {debug: true, heartbeat: 1}
description: what it is for
"""
    )
    late, beat, end = made.rules[1:]
    assert (late.id, late.after, late.enabled, late.actions[0].signal) == ("late", 120.0, False, "USR1")
    assert (beat.every, beat.repetitions, beat.cooldown, beat.actions[0].duration) == (0.5, None, 5.0, 60.0)
    assert (beat.actions[0].count, beat.actions[0].urgency) == (2, 0)
    assert [action.name for action in end.actions] == ["log", "terminate", "enable"]
    assert end.actions[0].value == 5
    assert (made.limits.max_failures, made.failures, made.limits.duration) == ("10%", "5%", 3600.0)


def test_null_written_out_is_as_good_as_no_key() -> None:
    text = JOBS.replace("{name: a,", "{name: a, nodes: null, script: ~, workdir: Null,") + RULES
    assert spec(text) == spec(JOBS + RULES)


def test_empty_sections_are_none() -> None:
    assert spec("logging:\nlimits:\n" + JOBS + RULES).logging.heartbeat == 0


#: where a fault stands is marked with ^; then its message, what was expected, and the suggestion
JOB = "jobs:\n- {name: a, command: echo, %s}\n" + RULES.replace(", {name: submit, label: b}", "")
RULE = JOBS + RULES + "- {trigger: idle, action: {name: stop}, %s}\n"
ACT = JOBS + RULES + "- trigger: idle\n  action: {%s}\n"
WHOLE = "a whole number from {} to {}"
DURATION = "a duration such as 30s, 5m or 1.5h, or a number of seconds"
SHAPES = [
    (JOB % "count: ^five", "count cannot be 'five'", WHOLE.format(1, 10_000_000), None),
    (JOB % "count: ^0", "count cannot be '0'", WHOLE.format(1, 10_000_000), None),
    (JOB % "count: ^1.5", "count cannot be '1.5'", WHOLE.format(1, 10_000_000), None),
    (JOB % "count: ^true", "count cannot be 'true'", WHOLE.format(1, 10_000_000), None),
    (JOB % "count: ^.nan", "count cannot be '.nan'", WHOLE.format(1, 10_000_000), None),
    (JOB % "count: ^null", "count cannot be 'null'", WHOLE.format(1, 10_000_000), None),
    (JOB % "count: ^[1]", "count cannot be a list", WHOLE.format(1, 10_000_000), None),
    (JOB % "^count: ", "the key 'count' has no value", "a value behind the ':'", None),
    (JOB % "nodes: ^-1", "nodes cannot be '-1'", WHOLE.format(1, 1_000_000), None),
    (JOB % "tasks: ^0", "tasks cannot be '0'", WHOLE.format(1, 1_000_000), None),
    (JOB % "cores: ^'2'", "cores cannot be '2'", WHOLE.format(1, 1_000_000), None),
    (JOB % "gpus: ^-1", "gpus cannot be '-1'", WHOLE.format(0, 1_000_000), None),
    (JOB % "urgency: ^32", "urgency cannot be '32'", WHOLE.format(0, 31), None),
    (JOB % "exclusive: ^yes", "exclusive cannot be 'yes'", "true or false", "true"),
    (JOB % "exclusive: ^OFF", "exclusive cannot be 'OFF'", "true or false", "false"),
    (JOB % "^exclusive: true", "exclusive takes whole nodes", "nodes beside it", None),
    (JOB % "duration: ^5w", "duration cannot be '5w'", DURATION, None),
    (JOB % "duration: ^-1", "duration cannot be '-1'", "a duration from 0 to 1000000000 seconds", None),
    (JOB % "workdir: ^''", "workdir cannot be ''", "a string that is not empty", None),
    (JOB % "queue: ^[a]", "queue cannot be a list", "a string", None),
    (JOB % "output: ^true", "output cannot be 'true'", "a string; with quotes around it this would be one", None),
    (JOB % "environment: ^[A]", "environment cannot be a list", "a mapping", None),
    (JOB % "environment: {A: ^{b: c}}", "A cannot be a mapping", "a string", None),
    (JOB % "environment: {A: ^yes, B: true}".replace("^yes, B: true", "^true"), "A cannot be 'true'", "a string; with quotes around it this would be one", None),
    (JOB % "environment: ^{'A=B': c}", "environment cannot be a mapping", "names of variables without '=', not 'A=B'", None),
    (JOB % "shell: ^5", "shell cannot be '5'", "a mapping", None),
    (JOB % "shell: {a: ^.inf}", "a cannot be '.inf'", "numbers that are finite, strings, lists and mappings", None),
    (JOB % "^comand: x", "a job has no key 'comand'", None, "command"),
    (JOB % "^script: x", "a job has both command and script", "one of them", None),
    ("jobs:\n- ^{name: a}\n" + RULES.replace(", {name: submit, label: b}", ""), "a job has no command", "command: a command line, or script: lines for /bin/sh", None),
    ("jobs:\n- {name: a, ^comand: x}\n" + RULES.replace(", {name: submit, label: b}", ""), "a job has no key 'comand'", None, "command"),
    ("jobs:\n- {name: a, command: ^''}\n" + RULES.replace(", {name: submit, label: b}", ""), "command cannot be ''", "a command, this one is empty", None),
    ("jobs:\n- {name: a, command: ^\"a 'b\"}\n" + RULES.replace(", {name: submit, label: b}", ""), "command cannot be 'a 'b'", "a command line that a shell could split (no closing quotation)", None),
    ("jobs:\n- {name: a, command: ^[a, true]}\n" + RULES.replace(", {name: submit, label: b}", ""), "command cannot be a list", "a list of words; with quotes around it any word is one", None),
    ("jobs:\n- {name: a, script: ^' '}\n" + RULES.replace(", {name: submit, label: b}", ""), "script cannot be ' '", "lines for /bin/sh, this is empty", None),
    (JOBS + "- ^{command: c}\n" + RULES, "a job has no name", "name: the group's name: letters, digits, _ and -", None),
    (JOBS + "- {command: c, name: ^1c}\n" + RULES, "name cannot be '1c'", "a group's name: letters, digits, _ and -, not first a digit or -, at most 100", None),
    (JOBS + "- {command: c, name: ^all}\n" + RULES, "name cannot be 'all'", "a group's name, and 'all' is a word of the language", None),
    (JOBS + "- ^c\n" + RULES, "a job cannot be 'c'", "a mapping", None),
    ("jobs: ^{a: b}\n" + RULES, "jobs cannot be a mapping", "a list", None),
    ("jobs: ^[]\n" + RULES, "jobs is an empty list", "at least one of the jobs", None),
    (JOBS + "rules: ^[]\n", "rules is an empty list", "at least one of the rules", None),
    ("^" + JOBS, "the file has no rules", "rules: what happens when", None),
    ("^rules:\n- {trigger: idle, action: {name: stop}}\n", "the file has no jobs", "jobs: the groups of jobs", None),
    ("^jobs and rules\n", "the file cannot be 'jobs and rules'", "a mapping with the keys jobs and rules", None),
    ("^- a\n", "the file cannot be a list", "a mapping with the keys jobs and rules", None),
    (JOBS + RULES + "^rule: 5\n", "the file has no key 'rule'", None, "rules"),
    (JOBS + RULES + "name: ^a b\n", "name cannot be 'a b'", "a name of letters, digits, _, - and ., not first - or ., at most 100", None),
    (JOBS + RULES + "failures: ^some\n", "failures cannot be 'some'", 'none, all, a number of jobs, or a share such as "10%"', None),
    (JOBS + RULES + "failures: ^-1\n", "failures cannot be '-1'", 'none, all, a number of jobs, or a share such as "10%"', None),
    (JOBS + RULES + "limits: {max_failures: ^110%}\n", "max_failures cannot be '110%'", 'a number of jobs, or a share such as "10%"', None),
    (JOBS + RULES + "limits: {max_jobs: ^1e20}\n", "max_jobs cannot be '1e20'", WHOLE.format(1, 10_000_000), None),
    (JOBS + RULES + "limits: {^max_job: 1}\n", "limits has no key 'max_job'", None, "max_jobs"),
    (JOBS + RULES + "limits: ^[5]\n", "limits cannot be a list", "a mapping", None),
    (JOBS + RULES + "logging: {heartbeat: ^often}\n", "heartbeat cannot be 'often'", DURATION, None),
    (JOBS + RULES + "logging: {heartbeat: ^0.001}\n", "the period '0.001' is too short", "0, or a duration of at least 10ms", None),
    (JOBS + RULES + "logging: {debug: ^1}\n", "debug cannot be '1'", "true or false", "true"),
    (JOBS + RULES + "logging: {^verbose: 1}\n", "logging has no key 'verbose'", "one of debug, heartbeat", None),
    (RULE % "repetitions: ^-1", "repetitions cannot be '-1'", WHOLE.format(0, 1_000_000_000) + ", or unlimited", None),
    (RULE % "repetitions: ^null", "repetitions cannot be null", "a whole number, or unlimited", None),
    (RULE % "repetitions: ^forever", "repetitions cannot be 'forever'", WHOLE.format(0, 1_000_000_000) + ", or unlimited", None),
    (RULE % "backoff: ^x", "backoff cannot be 'x'", WHOLE.format(0, 1_000_000_000), None),
    (RULE % "cooldown: ^x", "cooldown cannot be 'x'", DURATION, None),
    (RULE % "enabled: ^no", "enabled cannot be 'no'", "true or false", "false"),
    (RULE % "id: ^a/b", "id cannot be 'a/b'", "a rule's id: letters, digits, _ and -, not first a digit or -, at most 100", None),
    (RULE % "^repetition: 2", "a rule has no key 'repetition'", None, "repetitions"),
    (JOBS + RULES + "- {trigger: idle, ^action: {name: stop}, actions: [{name: stop}]}\n", "this rule has both action and actions", "one of them", None),
    (JOBS + RULES + "- ^{trigger: idle}\n", "this rule has no action", "action, or a list of actions under actions", None),
    (JOBS + RULES + "- {trigger: idle, actions: ^[]}\n", "this rule has no action", "at least one action", None),
    (JOBS + RULES + "- {trigger: idle, actions: ^{name: stop}}\n", "actions cannot be a mapping", "a list", None),
    (JOBS + RULES + "- {trigger: idle, actions: [^stop]}\n", "an action cannot be 'stop'", "a mapping", None),
    (JOBS + RULES + "- {trigger: idle, action: ^[{name: stop}]}\n", "action cannot be a list", "a mapping; several stand under actions", None),
    (JOBS + RULES + "- {trigger: idle, action: ^stop}\n", "action cannot be 'stop'", "a mapping such as {name: stop}", None),
    (JOBS + RULES + "- ^{action: {name: stop}}\n", "a rule has no trigger", "trigger: what makes the rule fire", None),
    (JOBS + RULES + "- {^triger: idle, action: {name: stop}}\n", "a rule has no key 'triger'", None, "trigger"),
    (JOBS + RULES + "- {trigger: idle, repetitions: 2, action: {name: stop, ^repetitions: 3}}\n", "'repetitions' is given twice, with the rule and with its action", "one of them", None),
    (JOBS + RULES + "- {trigger: idle, actions: [{name: stop, ^backoff: 3}]}\n", "'backoff' belongs to the rule, not to one of its actions", "backoff beside actions", None),
    (JOBS + RULES + "- {trigger: idle, action: {name: stop, cooldown: ^x}}\n", "cooldown cannot be 'x'", DURATION, None),
    (ACT % "^lable: a, name: submit", "an action has no key 'lable'", None, "label"),
    (ACT % "name: kill, label: a, state: ^runing", "state cannot be 'runing'", "one of pending, running", "running"),
    (ACT % "name: kill, label: a, signal: ^SIGFOO", "signal cannot be 'SIGFOO'", "a signal such as SIGTERM, USR1 or 9", None),
    (ACT % "name: kill, label: a, signal: ^99", "signal cannot be '99'", "a signal such as SIGTERM, USR1 or 9 (1 to 64)", None),
    (ACT % "name: terminate, status: ^ok", "status cannot be 'ok'", "one of success, failure", None),
    (ACT % "name: submit, label: a, count: ^1.5", "count cannot be '1.5'", WHOLE.format(1, 10_000_000), None),
    (ACT % "name: submit, label: a, count: count.a.^sucess", "count.a has no 'sucess'", None, "success"),
    (JOBS + RULES + "- trigger: idle\n  action: ^{}\n", "an action has no name", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "expected", "suggestion"), SHAPES)
def test_each_fault_has_its_words_and_its_place(text: str, message: str, expected: Any, suggestion: Any) -> None:
    text, line, column = marked(text)
    fault = only(text)
    assert (fault.line, fault.column) == (line, column), str(fault)
    assert fault.message == message
    if expected is not None:
        assert fault.expected == expected
    assert fault.suggestion == suggestion
    assert fault.source == text.split("\n")[line - 1]
    assert fault.file == "f.yaml"


def test_all_faults_at_once_in_file_order() -> None:
    found = faults(
        """nam: x
jobs:
  - name: a
    command: echo
    count: five
    nodes: 0
  - name: all
    command: ''
rules:
  - trigger: strat
    action: {name: submit, label: aa}
  - trigger: metric
    name: count.a.sucess
    when: "> x"
    action: {name: kill, label: a, signal: FOO}
  - trigger: heartbeat
    every: x
    custom: x
    action: {name: grov}
limits: {max_jobs: 0}
"""
    )
    assert [(fault.line, fault.column) for fault in found] == [
        (1, 1), (5, 12), (6, 12), (7, 11), (8, 14), (10, 14), (11, 35),
        (13, 19), (14, 14), (15, 44), (17, 12), (18, 5), (19, 20), (20, 20),
    ]  # fmt: skip


def test_no_message_speaks_of_the_tools_inside() -> None:
    for text, *_ in SHAPES:
        for fault in faults(marked(text)[0]):
            told = str(fault).lower()
            for word in (
                "pydantic",
                "input should",
                "valid ",
                "ctx",
                "loc",
                "none",
                "nonetype",
                "dict",
                "tuple",
                "value error",
            ):
                assert word not in told.replace("none, all", "").replace("/nonewhere", ""), told


def test_one_fault_of_a_shared_node_is_told_once() -> None:
    text = "jobs:\n- {name: a, command: c}\nrules:\n- {trigger: start, action: &x {name: submit, label: ab}}\n- {trigger: idle, action: *x}\n"
    assert only(text).column == 53


def test_bytes_and_strings_are_alike() -> None:
    assert load((JOBS + RULES).encode(), "f.yaml") == load(JOBS + RULES, "f.yaml")
    assert faults(b"\xff")[0].message == "the byte 0xff is not UTF-8"


def test_the_spec_is_frozen_and_comes_back_from_its_dump() -> None:
    made = load_file(TOP / "examples" / "heartbeat.yaml").spec
    with pytest.raises(Exception, match="frozen"):
        made.name = "other"
    assert Spec.model_validate_json(made.model_dump_json()) == made
