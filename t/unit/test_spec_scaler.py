# SPDX-License-Identifier: MIT
"""`scaler:` of a file and the site's table: what is a fault, where, and which of the two counts."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any, Dict, Optional

import pytest

from ensemble.errors import SpecError
from ensemble.spec import scaler
from ensemble.spec.abilities import BUILT_IN
from ensemble.spec.load import load
from ensemble.spec.scaler import Scaler, chosen, site

FILE = """scaler: {%s}
jobs: [{name: a, command: x}]
rules:
  - {trigger: start, actions: [{name: submit, label: a}, {name: grow, value: 2}]}
"""


@pytest.mark.parametrize(
    ("table", "column", "message", "suggestion"),
    [
        ("name: drian", 16, "no scaler is called 'drian' here", "drain"),
        ("name: nosuch", 16, "no scaler is called 'nosuch' here", None),
        ("min: 2", 9, "the scaler has no name", None),
        ("name: drain, min: 0", 28, "min cannot be '0'", None),
        ("name: drain, max: many", 28, "max cannot be 'many'", None),
        ("name: drain, min: 9, max: 3", 23, "min is 9, which is more than max, 3", None),
        ("name: drain, timeout: 0s", 23, "a timeout of 0 leaves no time for any change: each would fail at once", None),
        ("name: drain, cooldown: -1", 33, "cooldown cannot be '-1'", None),
        ("name: drain, timeot: 3", 23, "the scaler has no key 'timeot'", "timeout"),
        ("name: drain, force: 'yes'", 30, "force cannot be 'yes'", "true"),
        ("name: command", 10, "the scaler 'command' has no command: give the one that changes the size", None),
        ("name: command, command: []", 34, "command cannot be a list", None),
        ("name: drain, command: x", 23, "the scaler 'drain' has no command; command has", None),
        ("name: command, command: x, object: y", 37, "the scaler 'command' has no object; minicluster has", None),
        ("name: drain, options: {a: 1}", 23, "the scaler 'drain' takes no options; those of installed packages may", None),
        ("name: minicluster, server: http://far.away", 29,
         "server has to begin with https:// (http:// only on this machine)", None),
    ],
)  # fmt: skip
def test_a_fault_is_told_where_it_is(table: str, column: int, message: str, suggestion: Optional[str]) -> None:
    with pytest.raises(SpecError) as raised:
        load(FILE % table, "f.yaml")
    (fault,) = raised.value.faults
    assert (fault.line, fault.column, fault.message, fault.suggestion) == (1, column, message, suggestion)


def test_a_scaler_that_is_no_mapping() -> None:
    with pytest.raises(SpecError) as raised:
        load(FILE.replace("{%s}", "drain"), "f.yaml")
    assert [fault.message for fault in raised.value.faults] == ["scaler cannot be 'drain'"]


def test_an_unknown_scaler_is_told_with_those_that_there_are(monkeypatch: Any) -> None:
    """Those of installed packages as well; one of a file that was taken before may be gone."""
    cloud = importlib.metadata.EntryPoint("cloud", "nowhere:at_all", scaler.ENTRY_POINTS)
    other = importlib.metadata.EntryPoint("clouds", "nowhere:at_all", "console_scripts")
    points = {scaler.ENTRY_POINTS: [cloud], "console_scripts": [other]}
    select = type("Points", (dict,), {"select": lambda self, group: self[group]})
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda: select(points))
    with pytest.raises(SpecError) as raised:
        load(FILE % "name: clod", "f.yaml")
    (fault,) = raised.value.faults
    assert fault.suggestion == "cloud"
    assert fault.expected == "one of drain, command, minicluster, cloud, or one that an installed package brings"
    for text, can in (("name: cloud", BUILT_IN), ("name: clod", None)):
        assert load(FILE % text, "f.yaml", can=can).spec.scaler is not None


def test_what_a_file_may_say() -> None:
    table = load(
        FILE % "name: command, command: a 'b c', min: 2, max: 9, cooldown: 1m, timeout: 2h", "f.yaml"
    ).spec.scaler
    assert table == Scaler(name="command", command=("a", "b c"), min=2, max=9, cooldown=60.0, timeout=7200.0)
    table = load(FILE % "name: cloud, options: {zone: b, spot: true}", "f.yaml", can=None).spec.scaler
    assert table is not None
    assert table.options == {"zone": "b", "spot": True}
    assert load("scaler:\n" + FILE.split("\n", 1)[1], "f.yaml").spec.scaler is None


def test_with_a_scaler_a_queue_that_takes_one_can_grow() -> None:
    text = FILE % "name: drain"
    assert load(text, "f.yaml").warnings == ()
    (warning,) = load(text, "f.yaml", can=BUILT_IN - {"scaler"}).warnings
    assert warning.message == "the queue has no way to grow, so this will be refused whenever the rule fires"
    assert warning.expected is None
    (warning,) = load(text.split("\n", 1)[1], "f.yaml").warnings
    assert warning.expected == "a scaler, in the file or in Flux's configuration"
    assert load(text.split("\n", 1)[1], "f.yaml", can=BUILT_IN | {"grow", "shrink"}).warnings == ()
    (warning,) = load(text, "f.yaml", site=site({"name": "drain", "fixed": True})).warnings
    assert (warning.line, warning.message) == (1, "the site has fixed the scaler 'drain', so this one is set aside")
    assert load(text, "f.yaml", site=site({"name": "drain"})).warnings == ()


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, "ensemble.scaler.name: Field required"),
        ({"name": "drain", "mx": 3}, "ensemble.scaler has no key 'mx'; did you mean 'max'?"),
        ({"name": "drain", "max": 0}, "ensemble.scaler.max: expected a whole number from 1 to 1000000"),
        ({"name": "drain", "max": 2, "min": 3}, "ensemble.scaler.min: min is 3, which is more than max, 2"),
        (
            {"name": "command"},
            "ensemble.scaler.name: the scaler 'command' has no command: give the one that changes the size",
        ),
        ({"name": "drain", "fixed": 1}, "ensemble.scaler.fixed is '1', and has to be true or false"),
    ],
)
def test_a_fault_of_the_site_is_a_sentence(table: Dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        site(table)


def test_the_file_counts_within_the_bounds_of_the_site_unless_that_has_fixed_its_own() -> None:
    mine = Scaler(name="drain", min=1, max=50, cooldown=5.0)
    assert chosen(None, None) is None
    assert chosen(mine, None) == mine
    theirs = site({"name": "command", "command": "x", "min": 2, "max": 10})
    assert chosen(None, theirs) == theirs.scaler
    assert chosen(mine, theirs) == Scaler(name="drain", min=2, max=10, cooldown=5.0)
    assert chosen(Scaler(name="drain", min=20), theirs) == Scaler(name="drain", min=10, max=10)
    fixed = site({"name": "command", "command": "x", "fixed": True})
    assert chosen(mine, fixed) == fixed.scaler
