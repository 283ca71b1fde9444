# SPDX-License-Identifier: MIT
"""`simulate:` of a file: what it holds, and its faults, each at its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List, Tuple

import pytest

from ensemble.errors import SpecError
from ensemble.spec.load import load
from ensemble.spec.simulate import Fails, Simulate, Told

TOP = Path(__file__).resolve().parents[2]
FILE = """\
jobs:
  - {name: sim, command: "true {x}", parameters: {x: [1, 2]}, metrics: {loss: {}}}
  - {name: post, command: "true"}
rules:
  - {trigger: start, action: {name: submit, label: sim}}
  - {trigger: idle, action: {name: submit, label: post}}
simulate:
"""


def table(text: str) -> Simulate:
    loaded = load(FILE + text, "f.yaml")
    assert not loaded.warnings, [str(warning) for warning in loaded.warnings]
    assert loaded.spec.simulate is not None
    return loaded.spec.simulate


def faults(text: str) -> List[Tuple[int, int, str]]:
    """Lines (counted from `simulate:`, which is 0), columns and messages."""
    with pytest.raises(SpecError) as caught:
        load(FILE + text, "f.yaml")
    return [(fault.line - 7, fault.column, fault.message) for fault in caught.value.faults]


def test_a_whole_table() -> None:
    found = table(
        """\
  nodes: 4
  cores: 8
  groups:
    sim:
      duration: lognormal(60, 15)
      fail: 5%
      metrics:
        loss: {value: x + elapsed, noise: "normal(0, 1)", every: 1m}
    post: {duration: 90, fail: [0.1, {rate: 1%, signal: KILL}]}
  signals:
    - {name: more, at: 2h, data: {n: 5}}
"""
    )
    assert (found.nodes, found.cores, found.gpus) == (4, 8, None)
    sim, post = found.groups["sim"], found.groups["post"]
    assert (sim.duration, sim.fail) == ("lognormal(60, 15)", (Fails(rate="5%"),))
    assert sim.metrics == {"loss": Told(value="x + elapsed", noise="normal(0, 1)", every=60)}
    assert (post.duration, post.fail) == (90, (Fails(rate=0.1), Fails(rate="1%", signal=9)))
    assert [(sent.name, sent.at, sent.data) for sent in found.signals] == [("more", 7200, {"n": 5})]


def test_nothing_and_null() -> None:
    assert load(FILE, "f.yaml").spec.simulate is None
    assert load(FILE.replace("simulate:\n", "simulate: {}\n"), "f.yaml").spec.simulate == Simulate()


def test_the_reference_shows_one() -> None:
    text = next(
        block
        for block in re.findall(r"^```yaml\n(.*?)^```$", (TOP / "doc" / "language.md").read_text(), re.M | re.S)
        if block.startswith("simulate:")
    )
    head = """\
jobs:
  - {name: sim, command: "true"}
  - {name: train, command: "true {layers} {rate}", parameters: {layers: [1, 2], rate: [1]}, metrics: {loss: {}, accuracy: {}}}
rules:
  - {trigger: start, action: {name: submit, label: sim}}
  - {trigger: idle, action: {name: submit, label: train}}
"""
    loaded = load(head + text, "f.yaml")
    assert loaded.spec.simulate is not None
    assert not loaded.warnings


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("  nods: 4\n", (1, 3), "simulate has no key 'nods'"),
        ("  nodes: 0\n", (1, 10), "nodes cannot be '0'"),
        ("  cores: many\n", (1, 10), "cores cannot be 'many'"),
        ("  groups:\n    simm: {}\n", (2, 5), "no group is called 'simm'"),
        ("  groups:\n    sim: {durations: 5}\n", (2, 11), "a simulated group has no key 'durations'"),
        ("  groups:\n    sim: {duration: true}\n", (2, 21), "duration cannot be 'true'"),
        ("  groups:\n    sim: {duration: 10 * y}\n", (2, 26), "nothing is called 'y' here"),
        ('  groups:\n    sim: {duration: "10 * y"}\n', (2, 27), "nothing is called 'y' here"),
        ("  groups:\n    post: {duration: 10 * x}\n", (2, 27), "nothing is called 'x' here"),
        ('  groups:\n    sim: {duration: "normal(1)"}\n', (2, 22), "normal has 2 arguments, not 1"),
        ("  groups:\n    sim: {fail: 5}\n", (2, 17), "this is no share"),
        ("  groups:\n    sim: {fail: {exit: 3}}\n", (2, 17), "fail has no rate"),
        ("  groups:\n    sim: {fail: [{rate: 1%, exit: 300}]}\n", (2, 35), "exit cannot be '300'"),
        ("  groups:\n    sim: {fail: [{rate: x +, exit: 3}]}\n", (2, 28), "the expression ends too early"),
        ("  groups:\n    sim: {metrics: {duration: 5}}\n", (2, 21), "no variable can be called 'duration'"),
        ("  groups:\n    sim: {metrics: {loss: {value: elapst}}}\n", (2, 35), "nothing is called 'elapst' here"),
        ("  groups:\n    sim: {metrics: {loss: {every: 5}}}\n", (2, 27), "a variable has no value"),
        ("  groups:\n    sim: {metrics: {loss: {value: 1, every: 0}}}\n", (2, 45), "every cannot be 0"),
        ("  signals: [{name: 'no spaces', at: 5}]\n", (1, 20), "no signal can be called 'no spaces'"),
        ("  signals: [{name: stop}]\n", (1, 13), "a signal has no at"),
        ("  outages: [{at: 5, ranks: 3-1}]\n", (1, 28), "ranks cannot be '3-1'"),
        ("  outages: [{at: 5, ranks: x}]\n", (1, 28), "ranks cannot be 'x'"),
        ("  outages: [{ranks: 1}]\n", (1, 13), "an outage has no at"),
        ("  [5]\n", (1, 3), "simulate cannot be a list"),
    ],
)
def test_faults(text: str, where: Tuple[int, int], message: str) -> None:
    found = faults(text)
    assert (*where, message) in found, found
    assert len(found) == 1, found


def test_a_variable_that_is_not_declared_is_a_warning() -> None:
    (warning,) = load(FILE + "  groups: {post: {metrics: {score: 5}}}\n", "f.yaml").warnings
    assert warning.message == "'post' does not declare the variable 'score'"


@pytest.mark.parametrize(("text", "ranks"), [("0", (0,)), ("0-2,7", (0, 1, 2, 7)), ("'[3,1-2]'", (1, 2, 3))])
def test_ranks(text: str, ranks: Tuple[int, ...]) -> None:
    (outage,) = table(f'  outages: [{{at: 5, ranks: "{text.strip(chr(39))}"}}]\n').outages
    assert (outage.ranks, outage.duration) == (ranks, None)


def test_all_faults_at_once() -> None:
    text = "  nodes: 0\n  groups:\n    simm: {}\n    sim: {duration: y, fail: 7}\n"
    assert len(faults(text)) == 4
