# SPDX-License-Identifier: MIT
"""`parameters:` as users write it: what it may hold, every fault at its place, and what looks like an accident."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest

from ensemble.errors import SpecError
from ensemble.spec import sampling
from ensemble.spec.beside import Beside
from ensemble.spec.faults import Fault
from ensemble.spec.load import Loaded, load, load_file
from ensemble.spec.models import JobSet
from ensemble.spec.templates import Hole, fill, formatted, texts, written

START = "\nrules:\n- {trigger: start, action: {name: submit, label: a}}\n"
FILES = {
    "points.csv": "x, y\n1, abc\n2.5,\n\n",
    "empty.csv": "",
    "header.csv": "x\n",
    "ragged.csv": "x,y\n1,2\n3\n",
    "twice.csv": "x,x\n1,2\n",
    "odd.csv": "x,my value\n1,2\n",
    "quote.csv": 'x\n"a\n',
}


def loaded(job: str, rules: str = START) -> Loaded:
    return load(f"jobs:\n- {{name: a, {job}}}{rules}", "f.yaml", Beside(FILES))


def fault(job: str, rules: str = START) -> Tuple[Fault, int]:
    """The one fault of a job, and the column that is marked by ^."""
    text = f"jobs:\n- {{name: a, {job}}}{rules}"
    before, _, after = text.partition("^")
    with pytest.raises(SpecError) as raised:
        load(before + after, "f.yaml", Beside(FILES))
    (one,) = raised.value.faults
    assert one.line == before.count("\n") + 1, str(one)
    return one, len(before.split("\n")[-1]) + 1


GRID = "command: 'x {x}', parameters: {x: [1, 2]}"
KINDS = "a list of values, or one of {range: ...}, {linspace: ...}, {uniform: ...}, {loguniform: ...}, {choice: ...}, {file: ...}"
WHOLE = "a mapping of names to lists or distributions, {file: points.csv}, or {custom: function}"
NAMES = "letters, digits and _, not first a digit, at most 60"
FAULTS: List[Tuple[str, str, Optional[str]]] = [
    ("command: x, parameters: ^5", "parameters cannot be '5'", WHOLE),
    ("command: x, parameters: ^[a]", "parameters cannot be a list", WHOLE),
    ("command: x, parameters: ^{}", "parameters cannot be an empty mapping", WHOLE),
    ("command: 'x {x}', parameters: {x: ^5}", "the parameter 'x' cannot be '5'", KINDS),
    ("command: 'x {x}', parameters: {x: ^{range: [0, 1], choice: [1]}}", "the parameter 'x' cannot be a mapping", KINDS),
    ("command: 'x {x}', parameters: {x: ^[]}", "the values of 'x' cannot be an empty list", "a list of values"),
    ("command: 'x {x}', parameters: {x: {choice: ^a}}", "the values of 'x' cannot be 'a'", "a list of values"),
    ("command: 'x {x}', parameters: {x: [1, ^[2]]}", "a value of 'x' cannot be a list", "a number, a string, true or false"),
    ("command: 'x {x}', parameters: {x: [^null]}", "a value of 'x' cannot be 'null'", "a number, a string, true or false"),
    ("command: 'x {x}', parameters: {x: [^.nan]}", "a value of 'x' cannot be '.nan'", "a number that is finite"),
    ("command: x, parameters: {^x-y: [1]}", "'x-y' is no name of a parameter", NAMES),
    ("command: x, parameters: {^1x: [1]}", "'1x' is no name of a parameter", NAMES),
    ("command: 'x {x}', parameters: {x: [1], ^X: [1]}", "the parameter 'X' and 'x' would both be ENSEMBLE_PARAM_X", "another name"),
    ("command: 'x {x}', parameters: {x: [1], ^file: points.csv}", "the parameter 'x' is there twice", "another name"),
    ("command: 'x {x}', parameters: {x: {^rnage: [0, 1]}}", "no sample of values is called 'rnage'", KINDS),
    ("command: 'x {x}', parameters: {x: {range: ^[0]}}", "range cannot be a list", "range: [from, to, step], 'to' excluded, as numbers"),
    ("command: 'x {x}', parameters: {x: {range: ^[a, b]}}", "range cannot be a list", "range: [from, to, step], 'to' excluded, as numbers"),
    ("command: 'x {x}', parameters: {x: {range: ^[0, 1, 0]}}", "range of 'x' is wrong: the step is 0", "a step that leads from the first number to the second"),
    ("command: 'x {x}', parameters: {x: {range: ^[1, 0]}}", "range of 'x' is wrong: no value lies between its ends", "a step that leads from the first number to the second"),
    ("command: 'x {x}', parameters: {x: {range: ^[0, 1e9]}}", "range of 'x' is wrong: it has 1000000000 values", "at most 10000000"),
    ("command: 'x {x}', parameters: {x: {linspace: ^[0, 1, 2.5]}}", "linspace of 'x' is wrong: 2.5 is no number of values", "a whole number from 1 to 10000000"),
    ("command: 'x {x}', parameters: {x: {uniform: ^[1, 1]}}, samples: 2", "uniform of 'x' is wrong: 1 is not below 1", "[from, to], the smaller one first"),
    ("command: 'x {x}', parameters: {x: {uniform: ^[-1e308, 1e308]}}, samples: 2", "uniform of 'x' is wrong: its ends are too far apart", "ends whose difference is a number"),
    ("command: 'x {x}', parameters: {x: {uniform: ^[0, .inf]}}, samples: 2", "uniform cannot be a list", "uniform: [from, to], as numbers"),
    ("command: 'x {x}', parameters: {x: {loguniform: ^[0, 1]}}, samples: 2", "loguniform of 'x' is wrong: 0 has no logarithm", "[from, to], both greater than 0"),
    ("command: x, parameters: {file: ^gone.csv}", "the file 'gone.csv' cannot be taken: it was not sent along with the ensemble's file: submit with the command 'flux ensemble'", None),
    ("command: x, parameters: {file: ^empty.csv}", "the file 'empty.csv' cannot be taken: it is empty; expected a line of names and a line a point", None),
    ("command: x, parameters: {file: ^header.csv}", "the file 'header.csv' cannot be taken: it has no rows", None),
    ("command: x, parameters: {file: ^ragged.csv}", "the file 'ragged.csv' cannot be taken: line 3 has 1 values for 2 columns", None),
    ("command: x, parameters: {file: ^twice.csv}", "the file 'twice.csv' cannot be taken: its first line has 'x' twice", None),
    ("command: x, parameters: {file: ^odd.csv}", f"the file 'odd.csv' cannot be taken: its first line names the parameters, and 'my value' is no name: expected {NAMES}", None),
    ("command: x, parameters: {file: ^quote.csv}", "the file 'quote.csv' cannot be taken: line 2 is no CSV (unexpected end of data)", None),
    ("command: x, parameters: {custom: ^f}", "no function is called 'f'", "custom: with the function's Python source"),
    ("command: x, parameters: {custom: f, ^x: [1]}", "a function answers whole points, so nothing goes beside it", "custom alone"),
    ("command: x, parameters: {custom: ^'f g'}", "custom cannot be 'f g'", "the name of a function"),
    ("command: x, ^sample: grid", "sample means nothing without parameters", "parameters beside it"),
    ("command: x, ^seed: 1", "seed means nothing without parameters", "parameters beside it"),
    (f"{GRID}, sample: ^gird", "sample cannot be 'gird'", "one of grid, zip, random, lhs, sobol, halton"),
    (f"{GRID}, seed: ^-1", "seed cannot be '-1'", "a whole number from 0 to 9223372036854775807"),
    (f"{GRID}, ^samples: 3", "a sample of 'grid' takes every point, so that samples means nothing", "sample: random, lhs, sobol or halton"),
    (f"{GRID}, sample: ^lhs", "a latin hypercube (lhs) is made for a number of points", "samples: that number"),
    (f"{GRID}, sample: lhs, samples: ^2000000", "a latin hypercube of that size would be too large", "samples times parameters of at most 1000000, or sample: sobol"),
    ("command: 'x {x}', parameters: {x: {uniform: [0, 1]}}, sample: ^grid", "'x' has no end of values, so that a grid cannot walk through them", "a list, range or linspace, or sample: random, lhs, sobol or halton"),
    ("command: 'x {x}{y}', parameters: {x: [1, 2], y: [1]}, sample: ^zip", "a zip needs equally many values (x: 2, y: 1)", "as many values of each parameter"),
    ("command: 'x {x}{y}{z}', ^parameters: {x: {range: [0, 1e6]}, y: {range: [0, 1e6]}, z: {range: [0, 1e6]}}", "the grid has 1000000000000000000 points", "at most 1000000000000000"),
    ("command: ^'x {x:.2f}', parameters: {x: [1, abc]}", "x is 'abc', which cannot be written as '.2f': Unknown format code 'f' for object of type 'str'", "another format, or other values"),
    ("command: ^'x {x:d}', parameters: {x: {uniform: [0, 1]}}, samples: 1", "x is '0.0', which cannot be written as 'd': Unknown format code 'd' for object of type 'float'", "another format, or other values"),
    ("command: ^'x {x:99999d}', parameters: {x: [1]}", "x is '1', which cannot be written as '99999d': it is too wide", "another format, or other values"),
    ("command: x, output: ^'{x:3q}', parameters: {x: [1]}", "x is '1', which cannot be written as '3q': Unknown format code 'q' for object of type 'int'", "another format, or other values"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "message", "expected"), FAULTS)
def test_each_fault_has_its_words_and_its_place(job: str, message: str, expected: Optional[str]) -> None:
    one, column = fault(job)
    assert (one.message, one.expected, one.column) == (message, expected, column), str(one)


def test_a_misspelt_kind_is_suggested() -> None:
    assert fault("command: 'x {x}', parameters: {x: {^unifrom: [0, 1]}}, samples: 1")[0].suggestion == "uniform"


NO_END = "command: 'x {x}', parameters: {x: {uniform: [0, 1]}}"


@pytest.mark.parametrize(
    ("job", "keys", "message"),
    [
        (NO_END, "label: ^a", "this submits all points of 'a', of which there is no end"),
        (GRID, "label: a, parameters: ^5", "parameters cannot be '5'"),
        (GRID, "label: a, parameters: ^[]", "parameters cannot be a list"),
        (GRID, "label: a, parameters: ^{x: [1, 2]}", "parameters cannot be a mapping"),
        (GRID, "label: a, parameters: ^{y: 1}", "the points have no 'x', which is a parameter of 'a'"),
        (GRID, "label: a, parameters: ^[{x: 1}, {y: 1}]", "parameters cannot be a list"),
        (GRID, "label: a, parameters: ^{x: 1, X: 2}", "parameters cannot be a mapping"),
        (
            "command: 'x {x:d}', parameters: {x: [1]}",
            "label: a, parameters: ^{x: 1.5}",
            "x is '1.5', which cannot be written as 'd': Unknown format code 'd' for object of type 'float'",
        ),
    ],
)
def test_faults_of_an_action(job: str, keys: str, message: str) -> None:
    one, column = fault(job, f"\nrules:\n- {{trigger: start, action: {{name: submit, {keys}}}}}\n")
    assert (one.message, one.column) == (message, column), str(one)


@pytest.mark.parametrize(
    ("job", "keys"),
    [
        (NO_END + ", samples: 3", ""),
        (NO_END + ", count: 3", ""),
        (NO_END, ", count: 3"),
        (NO_END, ", parameters: {x: 1}"),
        ("command: 'x {x}'", ", parameters: [{x: 1}, {x: b}]"),
        ("command: 'x {file} {custom}', parameters: {file: [a], custom: [b]}", ""),
    ],
)
def test_what_may_be_written(job: str, keys: str) -> None:
    found = loaded(job, f"\nrules:\n- {{trigger: start, action: {{name: submit, label: a{keys}}}}}\n")
    assert not found.warnings


WARNINGS: List[Tuple[str, str]] = [
    ("command: 'x {lr} {rte}', parameters: {lr: [1], rate: [2]}", "'{rte}' is no parameter, and so stays as it is"),
    ("command: 'x {lr}', parameters: {lr: [1], rate: [2]}", "no key uses the parameter 'rate'; jobs find it in ENSEMBLE_PARAM_RATE alone"),
    ("command: 'x {lr} ${lr}', parameters: {lr: [1]}", "'${lr}' is left to a shell, and so is not the parameter"),
    ("command: 'x {x}', parameters: {x: {range: [0, 200000]}}", "'a' has 200000 points, and the limit max_jobs is 100000"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "message"), WARNINGS)
def test_what_looks_like_an_accident(job: str, message: str) -> None:
    assert message in [warning.message for warning in loaded(job).warnings]


@pytest.mark.parametrize(
    "job",
    [
        "command: 'x {lr} {{rte}} {other} {1}', parameters: {lr: [1]}",
        "script: 'x $ENSEMBLE_PARAM_LR ${lr}', parameters: {lr: [1]}",
        "command: x, environment: {A: '{lr}'}, parameters: {lr: [1]}",
        "command: x, shell: {a: [{b: '{lr}'}]}, parameters: {lr: [1]}",
        "command: x, attributes: {user.a: '{lr}'}, parameters: {lr: [1]}",
        "command: 'x {x}', count: 5, parameters: {x: {range: [0, 200000]}}",
    ],
)
def test_what_is_no_accident(job: str) -> None:
    assert not loaded(job).warnings


def test_a_file_has_numbers_and_texts() -> None:
    (jobs,) = loaded("command: 'x {x} {y}', parameters: {file: points.csv}").spec.jobs
    (axis,) = jobs.parameters.axes
    assert (axis.names, axis.data) == (("x", "y"), ((1, "abc"), (2.5, "")))
    # as one of several parameters, under any name
    (jobs,) = loaded("command: 'x {x} {y} {z}', parameters: {p: {file: points.csv}, z: [1, 2]}").spec.jobs
    assert jobs.parameters.names == ("x", "y", "z")
    assert sampling.total(jobs) == 4


def test_a_file_is_looked_for_beside_the_ensembles_file_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("there", "here"):
        (tmp_path / folder).mkdir()
    text = "jobs:\n- {name: a, command: 'x {x}', parameters: {file: p.csv}}" + START
    (tmp_path / "there" / "f.yaml").write_text(text)
    (tmp_path / "here" / "p.csv").write_text("x\n1\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load_file("../there/f.yaml").files == {"p.csv": "x\n1\n"}
    (tmp_path / "there" / "p.csv").write_text("x\n2\n")
    found = load_file("../there/f.yaml")
    assert found.files == {"p.csv": "x\n2\n"}
    os.remove(tmp_path / "there" / "p.csv")
    assert load(text, "f.yaml", Beside(found.files)).spec == found.spec


def test_seeds_are_drawn_where_there_is_none() -> None:
    text = (
        "jobs:\n- {name: a, command: 'x {x}', parameters: {x: {uniform: [0, 1]}}, samples: 2}\n"
        "- {name: a, command: 'x {x}', parameters: {x: {uniform: [0, 1]}}, samples: 2, seed: 5}\n"
        "- {name: a, command: 'x {x}', parameters: {x: [1]}}\n- {name: a, command: x}\n"
        "- {name: a, command: 'x {x}', parameters: {x: [1]}, sample: sobol, samples: 2}" + START
    )
    spec = load(text, "f.yaml").spec
    seeds = sampling.draw(spec, lambda below: below - 1)
    assert seeds == {"0": 2**32 - 1, "4": 2**32 - 1}
    assert [jobs.seed for jobs in sampling.seeded(spec, seeds).jobs] == [2**32 - 1, 5, None, None, 2**32 - 1]
    assert sampling.draw(sampling.seeded(spec, seeds), lambda below: 0) == {}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{x}", "0.1"),
        ("a{x}b{n}{x}", "a0.1b30.1"),
        ("{n:05d}|{x:.3f}|{s:>5}", "00003|0.100|  {n}"),
        ("{{x}} {{ x }} {{{x}}} ${x} $x", "{{x}} {{ x }} {{{x}}} ${x} $x"),
        ('{"rate":{x}, "deep": {"n":{n}}}', '{"rate":0.1, "deep": {"n":3}}'),
        ("{y} {} { x } {x } {0} {x.real} {x!r}", "{y} {} { x } {x } {0} {x.real} {x!r}"),
        ("{s}", "{n}"),
        ("{b} {b:>6}", "true   true"),
    ],
)
def test_what_is_replaced(text: str, filled: str) -> None:
    assert fill(text, {"x": 0.1, "n": 3, "s": "{n}", "b": True}) == filled


def test_numbers_read_back_as_the_same() -> None:
    for number in (0.1, 1e-300, 1 / 3, 123456789012345678, -0.0, 1e22):
        assert type(number)(written(number)) == number
    with pytest.raises(ValueError, match="too wide"):
        formatted(1.0, Hole("x", "1000.3f", 0))


def test_every_text_of_a_set_is_a_template() -> None:
    """All keys of a set whose value is a text are filled in, but for its name and what has words of its own."""
    keys: Dict[str, Any] = {"command": ["c"], "environment": {"A": "e"}, "shell": {"o": "s"}, "attributes": {"o": "a"}}
    keys.update({key: key for key in ("workdir", "input", "output", "error", "queue", "bank")})
    one = JobSet(name="a", **keys)
    assert {key for key, _ in texts(one)} == set(keys)
    other = set(JobSet.model_fields) - set(keys) - {"script"}
    assert not [key for key in other if isinstance(getattr(one, key), str) and key != "name"]
