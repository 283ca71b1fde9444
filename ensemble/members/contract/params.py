# SPDX-License-Identifier: MIT
"""What every member makes of a job's parameters: texts, environment, and no more."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Dict

from ensemble.engine.actions import Submit
from ensemble.engine.events import JobId, Key, Refused
from ensemble.members.base import Submitter
from ensemble.members.contract.driver import MemberDriver, commands

#: prints its arguments, and the environment that is of interest
SAY = """
import json, os, sys
names = [name for name in os.environ if name.startswith(("ENSEMBLE_PARAM_", "MINE"))]
print(json.dumps({"argv": sys.argv[1:], "environment": {name: os.environ[name] for name in names}}))
"""
VALUES = {"x": 0.1, "n": 3, "s": 'two "words" {x} \\ é', "yes": True}


def run(driver: MemberDriver, params: Dict[str, Any], number: int = 1) -> JobId:
    key = Key("e1", "r", number, 0, 0)
    driver.perform("e1", Submit(key, "g", 0, {}, params))
    driver.wait_for(lambda: driver.answers(key))
    driver.wait_event(driver.id(key), "clean")
    return driver.id(key)


@commands
def test_values_stand_in_the_command_and_in_the_environment(driver: MemberDriver, tmp_path: Path) -> None:
    words = ["{x}", "{n:03d}", "a{s}b", "{yes}", "{x:.3f}", "${n}", "{other}", "{", "{n:x", "{n}{n}"]
    driver.open(
        "e1",
        {
            "name": "g",
            "command": [sys.executable, "-c", SAY, *words],
            "environment": {"MINE": "{s}-{n}", "MINE_TOO": "{other}"},
            "output": str(tmp_path / "{n}-{x:.1f}.out"),
        },
        submitter=Submitter(environment={**os.environ, "ENSEMBLE_PARAM_OUTER": "1"}, cwd="/"),
    )
    run(driver, VALUES)
    said = json.loads((tmp_path / "3-0.1.out").read_text())
    strange = 'two "words" {x} \\ é'
    assert said["argv"] == [
        "0.1",
        "003",
        f"a{strange}b",
        "true",
        "0.100",
        "${n}",
        "{other}",
        "{",
        "{n:x",
        "33",
    ]
    assert said["environment"] == {
        "MINE": f"{strange}-3",
        "MINE_TOO": "{other}",
        "ENSEMBLE_PARAM_X": "0.1",
        "ENSEMBLE_PARAM_N": "3",
        "ENSEMBLE_PARAM_S": strange,
        "ENSEMBLE_PARAM_YES": "true",
    }


@commands
def test_a_script_and_the_places_of_files(driver: MemberDriver, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in").write_text(f"from {name}\n")
    script = 'cat; echo {x} "$ENSEMBLE_PARAM_X" ${x-unset} {{x}}; pwd; echo no >&2\n'
    places = {"input": "{dir}/in", "output": "out-{x}", "error": "err-{x}"}
    driver.open(
        "e1",
        {"name": "g", "script": script, "workdir": "{dir}", **places},
        submitter=Submitter(environment=dict(os.environ), cwd="/"),
    )
    # what makes the working directory absolute is a value
    run(driver, {"dir": str(tmp_path / "one"), "x": 1}, 1)
    run(driver, {"dir": str(tmp_path / "two"), "x": 1e-5}, 2)
    assert (tmp_path / "one" / "out-1").read_text() == f"from one\n1 1 unset {{{{x}}}}\n{tmp_path}/one\n"
    assert (tmp_path / "two" / "out-1e-05").read_text() == f"from two\n1e-05 1e-05 unset {{{{x}}}}\n{tmp_path}/two\n"
    assert (tmp_path / "one" / "err-1").read_text() == "no\n"


@commands
def test_where_the_output_of_a_point_lies(driver: MemberDriver, tmp_path: Path) -> None:
    driver.open("e1", {"name": "g", "command": "echo {x}", "output": str(tmp_path / "{x}")})
    id = run(driver, {"x": "here"})
    assert driver.member.where("e1", id, {"x": "here"}) == str(tmp_path / "here")
    assert (tmp_path / "here").read_text() == "here\n"


def test_a_value_that_fits_no_format_is_refused(driver: MemberDriver) -> None:
    driver.open("e1", {"name": "g", "command": "echo {x:.3f}"})
    key = Key("e1", "r", 1, 0, 0)
    driver.perform("e1", Submit(key, "g", 0, {}, {"x": "abc"}))
    driver.wait_for(lambda: driver.answers(key))
    (answer,) = driver.answers(key)
    assert isinstance(answer, Refused)
    assert "x is 'abc', which cannot be written as '.3f'" in answer.reason


@commands
def test_what_is_foreseen_is_not_done_until_it_is_asked_for(driver: MemberDriver, tmp_path: Path) -> None:
    driver.open("e1", {"name": "g", "command": "echo {n:d}", "output": f"{tmp_path}/out-{{n}}"})
    bad = Submit(Key("e1", "r", 300, 0, 0), "g", 0, {}, {"n": "abc"})
    driver.member.foresee("e1", bad)
    # more than anybody keeps, and in another order than they are asked for
    many = [Submit(Key("e1", "r", number, 0, 0), "g", 0, {}, {"n": number}) for number in range(1, 201)]
    for one in many:
        driver.member.foresee("e1", one)
    driver.run_for(0.3)
    assert not driver.delivered
    for number in (200, 1):
        run(driver, {"n": number}, number)
        assert (tmp_path / f"out-{number}").read_text() == f"{number}\n"
    driver.perform("e1", bad)
    driver.wait_for(lambda: driver.answers(bad.key))
    assert isinstance(driver.answers(bad.key)[0], Refused)
    assert sorted(path.name for path in tmp_path.glob("out-*")) == ["out-1", "out-200"]


@commands
def test_jobs_without_parameters_have_braces_as_they_are(driver: MemberDriver, tmp_path: Path) -> None:
    driver.open("e1", {"name": "g", "command": "echo {x} {n:03d}", "output": str(tmp_path / "out")})
    run(driver, {})
    assert (tmp_path / "out").read_text() == "{x} {n:03d}\n"
