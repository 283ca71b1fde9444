# SPDX-License-Identifier: MIT
"""How a job finds the service of its ensemble, and waits for one that is away; the services are played."""

from __future__ import annotations

import errno
from typing import Any, Dict, List

import pytest

from ensemble.errors import BadRequest, NoService, NotFound, ServiceError, ServiceLost, UsageError
from ensemble.service import inside
from ensemble.service.inside import Inside

JOB = {"ENSEMBLE_JOB": "ens/go/1/0/0", "ENSEMBLE_ID": "ens", "FLUX_URI": "local:///inner"}


class Level:
    """One place; each of its answers is used once, the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: List[Dict[str, Any]] = []
        self.local = False
        self.parent = None

    def call(self, endpoint: str, payload: Dict[str, Any], timeout: float) -> Any:
        self.asked.append(payload)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def drop(self) -> None:
        """Nothing is open."""


TAKEN = {"taken": ["x"], "refused": {}}
AWAY, UNKNOWN = NoService("away"), NotFound("unknown")


def job(monkeypatch: pytest.MonkeyPatch, *levels: Level, wait: float = 0.0) -> Inside:
    monkeypatch.setattr(inside, "_PAUSE", 0.01)
    found = Inside(JOB, wait=wait)
    found._levels = list(levels)  # type: ignore[arg-type]
    return found


def test_outside_of_a_job_is_a_mistake() -> None:
    for environ in ({}, {"ENSEMBLE_JOB": "x"}, {"ENSEMBLE_ID": "x"}):
        with pytest.raises(UsageError, match="no job of an ensemble"):
            Inside(environ)


def test_the_first_that_knows_the_ensemble_answers_and_is_asked_first_from_then_on(monkeypatch: Any) -> None:
    inner, outer = Level(AWAY), Level(TAKEN)
    one = job(monkeypatch, inner, Level(UNKNOWN), outer)
    for _ in range(3):
        assert one.put({"x": 1}) == TAKEN
    assert len(inner.asked) == 1
    assert len({payload["token"] for payload in outer.asked}) == 3


@pytest.mark.parametrize(
    "away", [AWAY, ServiceLost("lost"), ServiceError("down", errno.ESHUTDOWN), ServiceError("disk", errno.EIO)]
)
def test_one_that_is_away_is_waited_for_under_the_same_token(monkeypatch: Any, away: Exception) -> None:
    level = Level(away, away, TAKEN)
    assert job(monkeypatch, Level(UNKNOWN), level, wait=60.0).put({"x": 1}) == TAKEN
    assert len(level.asked) == 3
    assert len({payload["token"] for payload in level.asked}) == 1


def test_what_nobody_knows_and_what_is_refused_is_not_waited_for(monkeypatch: Any) -> None:
    with pytest.raises(NotFound, match="unknown"):
        job(monkeypatch, Level(UNKNOWN), Level(UNKNOWN), wait=60.0).put({"x": 1})
    refusing = Level(BadRequest("the attempt has ended"))
    with pytest.raises(BadRequest, match="has ended"):
        job(monkeypatch, refusing, wait=60.0).put({"x": 1})
    assert len(refusing.asked) == 1


def test_one_that_was_waited_for_in_vain_is_asked_once_a_time_until_it_answers(monkeypatch: Any) -> None:
    level = Level(AWAY)
    one = job(monkeypatch, level, wait=0.2)
    with pytest.raises(NoService):
        one.put({"x": 1})
    asked = len(level.asked)
    assert asked > 1
    with pytest.raises(NoService):
        one.put({"x": 2})
    assert len(level.asked) == asked + 1
    level.answers = [TAKEN]
    assert one.put({"x": 3}) == TAKEN
    level.answers = [AWAY, AWAY, TAKEN]
    one.wait = 60.0
    assert one.put({"x": 4}) == TAKEN


def test_what_is_not_finite_goes_as_a_word_and_what_is_no_number_not_at_all(monkeypatch: Any) -> None:
    level = Level(TAKEN)
    one = job(monkeypatch, level)
    one.put({"a": 1, "b": float("nan"), "c": float("-inf"), "d": True, "e": "word"})
    assert level.asked[0]["values"] == {"a": 1.0, "b": "nan", "c": "-inf", "d": 1.0, "e": "word"}
    with pytest.raises(TypeError):
        one.put({"a": object()})


def test_python_is_told_by_a_warning_and_goes_on(monkeypatch: Any) -> None:
    import ensemble

    monkeypatch.setattr(
        inside, "_ours", job(monkeypatch, Level(TAKEN, {"taken": [], "refused": {"x": "no number"}}, AWAY))
    )
    assert ensemble.put(x=1) is True
    with pytest.warns(RuntimeWarning, match="x was not taken: no number"):
        assert ensemble.put({"x": 2}) is False
    with pytest.warns(RuntimeWarning, match="the signal 'go' was dropped: away"):
        assert ensemble.signal("go", n=1) is False
    with pytest.raises(TypeError, match="x is a string"):
        ensemble.put(x="0.3")  # type: ignore[arg-type]
