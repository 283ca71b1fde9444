# SPDX-License-Identifier: MIT
"""The endpoints `put` and `signal` over a member that a test drives: what is taken, what is refused, and how it is told."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from ensemble.engine.events import JobEvent
from ensemble.spec.reports import MOST_DATA, MOST_VALUES
from t.unit.fake_member import T0, House

TEXT = """\
name: it
jobs:
  - {name: a, command: x, metrics: {loss: {}}}
rules:
  - {trigger: start, action: {name: submit, label: a}}
  - {trigger: signal, name: go, repetitions: 3, keep_alive: false, action: {name: log, value: went}}
  - {trigger: report, name: a.loss, repetitions: unlimited, action: {name: log, value: "loss {last.a.loss}"}}
"""


@pytest.fixture
def house() -> House:
    return House()


def begun(house: House) -> Any:
    """Id of an ensemble, its job, and the job's key."""
    id = house.submit(TEXT)
    job = house.member.submit(id)
    house.member.tell(id, JobEvent(T0, job, "start"))
    return id, job, str(house.member.keys(id)[0])


def logged(house: House, id: str) -> Any:
    return [r["text"] for r in house.ask("log", {"id": id}).answer["records"] if r["type"] == "log"]


def test_values_are_taken_shown_and_kept_with_the_job(house: House) -> None:
    id, job, key = begun(house)
    answer = house.ask("put", {"key": key, "values": {"loss": 0.5, "epoch": 3, "x-y": "1e-3"}, "token": "t:1"}).answer
    assert answer == {"taken": ["loss", "epoch", "x-y"], "refused": {}}
    assert house.status(id)["metrics"]["a"]["reported"]["loss"] == {
        "n": 1,
        "mean": 0.5,
        "min": 0.5,
        "max": 0.5,
        "last": 0.5,
    }
    assert logged(house, id) == ["loss 0.5"]
    (row,) = house.ask("jobs", {"id": id}).answer["jobs"]
    assert row["values"] == {"loss": 0.5, "epoch": 3.0, "x-y": 0.001}
    house.member.run(id, job)
    (row,) = house.ask("jobs", {"id": id}).answer["jobs"]
    assert row["values"] == {"loss": 0.5, "epoch": 3.0, "x-y": 0.001}


def test_a_put_that_is_sent_again_takes_effect_once(house: House) -> None:
    id, _, key = begun(house)
    for _ in range(3):
        request = {"key": key, "values": {"loss": 1.0}, "token": "t:1"}
        assert house.ask("put", request).answer == {"taken": ["loss"], "refused": {}}
    assert house.status(id)["metrics"]["a"]["reported"]["loss"]["n"] == 1


def test_values_that_are_none_are_refused_one_by_one_and_counted(house: House) -> None:
    id, _, key = begun(house)
    values = {"loss": "nan", "epoch": "three", "x": 1, "y": 1e308 * 10, "all": 1, "duration": 1, "a b": 1, "failed": 1}
    answer = house.ask("put", {"key": key, "values": values, "token": "t:1"}).answer
    assert answer["taken"] == ["x"]
    assert set(answer["refused"]) == set(values) - {"x"}
    assert answer["refused"]["loss"] == "'nan' is no finite number"
    assert "known of every job" in answer["refused"]["duration"]
    found = house.status(id)["metrics"]["a"]["reported"]
    assert found["loss"] == {"n": 0, "refused": 1}
    assert found["epoch"] == {"n": 0, "refused": 1}
    assert set(found) == {"loss", "epoch", "y", "x"}
    assert house.ask("put", {"key": key, "values": {"all": 1}, "token": "t:2"}).answer["taken"] == []


def test_a_put_that_cannot_be_is_refused(house: House) -> None:
    id, job, key = begun(house)

    def refused(key: str, number: int) -> str:
        found, sentence = house.ask("put", {"key": key, "values": {"loss": 1}, "token": "t:9"}).refusal
        assert found == number
        return sentence

    assert "is no key" in refused("nonsense", errno.EINVAL)
    assert "is no key" in refused(key + "x", errno.EINVAL)
    # this errno sends the job on to the parents of its instance
    assert "not known here" in refused(key.replace(id, "zzzzzz"), errno.ENOENT)
    assert "has ended, or never was" in refused(key[:-1] + "1", errno.EINVAL)
    house.member.run(id, job)
    assert "has ended" in refused(key, errno.EINVAL)
    assert "loss" not in house.status(id)["metrics"]["a"].get("reported", {})


@pytest.mark.parametrize(
    "change",
    [
        {"values": {}},
        {"values": {"loss": None}},
        {"values": {"loss": [1]}},
        {"values": {"loss": True}},
        {"values": [1]},
        {"values": {f"v{n}": 1 for n in range(MOST_VALUES + 1)}},
        {"values": {"v" * 201: 1}},
        {"values": {"v": "1" * 201}},
        {"token": ""},
        {"token": "t" * 101},
        {"token": 7},
        {"key": 7},
        {"more": 1},
    ],
)
def test_a_put_of_another_shape_is_refused(house: House, change: Any) -> None:
    id, _, key = begun(house)
    number, _ = house.ask("put", {"key": key, "values": {"loss": 1}, "token": "t:1", **change}).refusal
    assert number == errno.EPROTO
    assert "reported" not in house.status(id)["metrics"].get("a", {})


def test_signals_fire_rules_and_say_how_many_wait(house: House) -> None:
    id, _, _ = begun(house)
    assert house.ask("signal", {"id": id, "name": "go", "data": {"x": [1]}}).answer == {
        "id": id,
        "name": "go",
        "rules": 1,
    }
    assert house.ask("signal", {"id": "it", "name": "else"}).answer["rules"] == 0
    for _ in range(3):
        house.ask("signal", {"id": id, "name": "go", "token": "t"})
    assert logged(house, id) == ["went", "went"]


def test_signals_that_cannot_be_are_refused(house: House) -> None:
    id, job, _ = begun(house)
    assert house.ask("signal", {"id": "nobody", "name": "go"}).refusal[0] == errno.ENOENT
    assert house.ask("signal", {"id": id, "name": "g o"}).refusal[0] == errno.EINVAL
    assert house.ask("signal", {"id": id, "name": "go", "data": {"x": "y" * MOST_DATA}}).refusal[0] == errno.EINVAL
    for change in ({"name": ""}, {"name": "x" * 101}, {"data": [1]}, {"data": {"k" * 201: 1}}, {"token": 1}, {"x": 1}):
        assert house.ask("signal", {"id": id, "name": "go", **change}).refusal[0] == errno.EPROTO
    house.member.run(id, job)
    assert "has ended: complete" in house.ask("signal", {"id": id, "name": "go"}).refusal[1]
    assert logged(house, id) == []


def test_nothing_is_taken_while_the_instance_goes_down(house: House) -> None:
    id, _, key = begun(house)
    house.service.freeze("it goes down")
    assert house.ask("put", {"key": key, "values": {"loss": 1}, "token": "t:1"}).refusal[0] == errno.ESHUTDOWN
    assert house.ask("signal", {"id": id, "name": "go"}).refusal[0] == errno.ESHUTDOWN
