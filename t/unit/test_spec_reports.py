# SPDX-License-Identifier: MIT
"""`metrics:` of a group, and the paths that read what jobs report."""

from __future__ import annotations

from typing import Any, List

import pytest

from ensemble.errors import SpecError
from ensemble.spec.load import load
from ensemble.spec.metrics import Metric, parse
from ensemble.spec.reports import LONGEST_REGEX, MOST_VARIABLES, Reported, compiled, declared, patterns

TEXT = """\
jobs:
  - {{name: a, command: x, metrics: {metrics}}}
rules:
  - {{trigger: start, action: {{name: submit, label: a}}}}
  - {{trigger: metric, name: {path}, action: {{name: stop}}}}
"""


def loaded(metrics: str = "{loss: {}}", path: str = "mean.a.loss") -> Any:
    return load(TEXT.format(metrics=metrics, path=path), "f.yaml")


def fault(metrics: str, path: str = "n.a.duration") -> List[str]:
    with pytest.raises(SpecError) as caught:
        loaded(metrics, path)
    (one,) = caught.value.faults
    assert one.line in (2, 5)
    return [one.message, str(one.expected)]


def test_variables_and_what_is_kept_of_them() -> None:
    spec = loaded(r"{loss: , acc: {keep: max}, speed: {regex: 's: (\d+)', keep: mean}}").spec
    found = declared(spec.groups["a"])
    assert found == {
        "loss": Reported(regex=None, keep="last"),
        "acc": Reported(regex=None, keep="max"),
        "speed": Reported(regex=r"s: (\d+)", keep="mean"),
    }
    assert patterns(found) == {"speed": r"s: (\d+)"}


@pytest.mark.parametrize(
    ("metrics", "message", "expected"),
    [
        ("{loss: {regex: 'x=('}}", "regex cannot be 'x=('", "missing ), unterminated subpattern at character 3"),
        ("{loss: {regex: 'x'}}", "regex cannot be 'x'", "and this has none"),
        ("{loss: {regex: '(a)(b)'}}", "regex cannot be '(a)(b)'", "and this has 2"),
        ("{loss: {regex: 7}}", "regex cannot be '7'", "a regular expression in quotes"),
        ("{loss: {keep: first}}", "keep cannot be 'first'", "one of last, min, max, mean"),
        ("{loss: {regx: x}}", "a variable has no key 'regx'", "one of regex, keep"),
        ("{loss: 3}", "loss cannot be '3'", "a mapping"),
        ("[loss]", "metrics cannot be a list", "a mapping"),
        ("{duration: {}}", "no variable can be called 'duration'", "known of every job"),
        ("{all: {}}", "no variable can be called 'all'", "a word of the language"),
        ("{a.b: {}}", "no variable can be called 'a.b'", "letters, digits, _ and -"),
    ],
)
def test_faults_under_metrics(metrics: str, message: str, expected: str) -> None:
    told = fault(metrics)
    assert told[0] == message
    assert expected in told[1]


def test_bounds() -> None:
    many = "{" + ", ".join(f"v{n}: {{}}" for n in range(MOST_VARIABLES + 1)) + "}"
    assert "at most" in fault(many)[1]
    with pytest.raises(ValueError, match=f"at most {LONGEST_REGEX} characters"):
        compiled("(x)" + "y" * LONGEST_REGEX)
    with pytest.raises(ValueError, match="expected"):
        compiled("(" * 500 + ")" * 500)


@pytest.mark.parametrize(
    ("path", "metric"),
    [
        ("mean.a.loss", Metric("mean", "a", "", "loss")),
        ("p90.a.success.loss", Metric("p90", "a", "success", "loss")),
        ("n.a.finished.x-y", Metric("n", "a", "finished", "x-y")),
        ("last.a.failed.loss", Metric("last", "a", "failed", "loss")),
        ("mean.a.duration", Metric("mean", "a", "success", "duration")),
    ],
)
def test_paths(path: str, metric: Metric) -> None:
    assert parse(path, ["a"]) == metric
    assert metric.reported is (metric.variable != "duration")
    if metric.variable != "duration":
        assert str(metric) == path


def test_a_variable_that_is_not_declared_is_a_warning() -> None:
    assert loaded().warnings == ()
    for path, line in (("mean.a.speed", 5), ("'max.a.success.speed'", 5)):
        (warning,) = loaded(path=path).warnings
        assert warning.message == "'a' does not declare the variable 'speed'"
        assert (warning.line, warning.expected) == (line, "metrics: {speed: {}} with the group's jobs")
    # one that is a letter off is a fault
    assert fault("{loss: {}}", "mean.a.los")[0] == "mean.a has no 'los'"
    assert fault("{loss: {}}", "min.a.failed.duratoin")[0] == "min.a.failed has no 'duratoin'"
