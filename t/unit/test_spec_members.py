# SPDX-License-Identifier: MIT
"""`members:` of a file and `member:` of a group: what they hold, and their faults, each at its place."""

from __future__ import annotations

from typing import Any, List, Tuple

import pytest

from ensemble.errors import SpecError
from ensemble.spec.load import load
from ensemble.spec.places import TIMEOUT

FILE = """\
members:
  a: {uri: local:///run/flux/local}
  b: {job: f2NkmX, timeout: 1h}
  c: {nodes: 4, cores: 2, duration: 8h, queue: batch}
jobs:
  - {name: g, command: "true"MORE}
rules:
  - {trigger: start, action: {name: submit, label: g}}
"""


def read(text: str) -> Any:
    loaded = load(text, "f.yaml")
    assert not loaded.warnings, [str(warning) for warning in loaded.warnings]
    return loaded.spec


def faults(text: str) -> List[Tuple[int, str]]:
    with pytest.raises(SpecError) as caught:
        load(text, "f.yaml")
    return [(fault.line, fault.message) for fault in caught.value.faults]


def test_a_whole_table() -> None:
    a, b, c = read(FILE.replace("MORE", "")).members.values()
    assert (a.uri, a.job, a.nodes, a.timeout) == ("local:///run/flux/local", None, None, TIMEOUT)
    assert (b.job, b.timeout) == ("f2NkmX", 3600)
    assert (c.nodes, c.cores, c.duration, c.queue) == (4, 2, 28800, "batch")


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), (", member: a", ("a",)), (", member: [b, home]", ("b", "home")), (", member: home", ("home",))],
)
def test_where_a_group_runs(text: str, names: Any) -> None:
    assert read(FILE.replace("MORE", text)).jobs[0].member == names


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("MORE", ", member: aa", 6, "no member is called 'aa'"),
        ("MORE", ", member: [a, hoem]", 6, "no member is called 'hoem'"),
        ("MORE", ", member: []", 6, "member is an empty list"),
        ("{uri: local:///run/flux/local}", "{}", 2, "the member 'a' does not say where it is"),
        ("{uri: local:///run/flux/local}", "{uri: local:///x, job: f1}", 2, "the member 'a' says uri, job"),
        ("local:///run/flux/local", "/run/flux/local", 2, "'/run/flux/local' is no URI of an instance"),
        ("local:///run/flux/local", "local:///x, cores: 2", 2, "cores is for an instance that is started, and 'a' is one that is there"),
        ("{job: f2NkmX, timeout: 1h}", "{uri: local:///run/flux/local}", 3, "'a' is that instance already"),
        ("  b:", "  home:", 3, "'home' is the service's own instance"),
        ("  b:", "  b c:", 3, "'b c' is no name"),
        ("timeout: 1h", "timeuot: 1h", 3, "a member has no key 'timeuot'"),
        ("nodes: 4", "nodes: 0", 4, "nodes cannot be '0'"),
        ("  - {trigger: start,", "  - {trigger: member-down, name: x,", 8, "no member is called 'x'"),
        ("  - {trigger: start,", "  - {trigger: member-down, name: home,", 8, "no member is called 'home'"),
        ("  - {trigger: start,", "  - {trigger: member-dwon,", 8, "no trigger is called 'member-dwon'"),
        ("  - {trigger: start,", "  - {trigger: member-up, when: event.group == 'g',", 8, "a rule on member-up has no event.group"),
    ],
)  # fmt: skip
def test_faults(old: str, new: str, line: int, message: str) -> None:
    text = FILE.replace(old, new).replace("MORE", "")
    assert text != FILE
    found = faults(text)
    assert [(at, told[: len(message)]) for at, told in found] == [(line, message)], found


def test_home_is_named_once_among_those_that_there_are() -> None:
    with pytest.raises(SpecError) as raised:
        read("members: {home: {nodes: 1}, a: {nodes: 1}}\njobs: [{name: g, command: x, member: b}]\n"
             "rules: [{trigger: start, action: {name: submit, label: g}}]\n")  # fmt: skip
    assert [fault.expected for fault in raised.value.faults][1] == "one of a, home"


def test_rules_on_members() -> None:
    text = (
        FILE.replace("MORE", "")
        + "  - {trigger: member-gone, name: c, when: event.name == 'c', action: {name: stop}}\n"
    )
    assert read(text).rules[1].name == "c"
