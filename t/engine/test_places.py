# SPDX-License-Identifier: MIT
"""Members of an ensemble: where jobs go, and what becomes of them when a member goes away, comes back, or is given up."""

from __future__ import annotations

from typing import Any, List

import pytest

from ensemble.engine.actions import Cancel, Submit
from ensemble.engine.events import Acknowledged, JobEvent, MemberChanged
from t.engine.harness import T0, act, rule

START = rule("start", act("submit", "a"), act("submit", "b"))
MEMBERS = {"x": {"uri": "local:///x"}, "y": {"job": "f2"}, "z": {"nodes": 2}}
SAID = act("log", value="{event.name}")
WATCH = [
    rule(f"member-{how}", SAID, id=how, repetitions="unlimited", **({"name": "x"} if how == "down" else {}))
    for how in ("down", "up", "gone")
]


def jobs(*where: Any, count: int = 1) -> List[Any]:
    """A group a with these places, and b at home."""
    return [{"name": "a", "member": where[0] if len(where) == 1 else list(where), "count": count}, "b"]


def change(w: Any, name: str, how: str) -> List[Any]:
    answer: List[Any] = w.feed(MemberChanged(w.t + 1, name, how, f"{name} {how}"))
    return answer


def begun(w: Any, submit: Submit, id: int, *names: str) -> None:
    for name in names:
        w.feed(JobEvent(w.t + 0.1, id, name, {}, submit.key if name == "submit" else None))


@pytest.mark.parametrize(("where", "member"), [(("x",), "x"), (("home",), ""), (("home", "x"), ""), (("y", "x"), "y")])
def test_a_job_goes_where_its_group_says(world: Any, where: Any, member: str) -> None:
    w = world([START], jobs(*where), members=MEMBERS, by_hand=True)
    a, b = w.submits()
    assert (a.member, b.member) == (member, "")


def test_a_member_that_is_down_is_waited_for(world: Any) -> None:
    """It may come back with all that it had, so nothing goes elsewhere, and no job is lost."""
    w = world([START, *WATCH], jobs("x", "home"), members=MEMBERS, by_hand=True)
    a, _ = w.submits()
    begun(w, a, 7, "submit", "start")
    change(w, "x", "down")
    assert w.counts()["running"] == 1
    change(w, "x", "down")
    change(w, "x", "up")
    change(w, "x", "up")
    assert w.logged() == ["the member 'x' cannot be reached: x down", "x", "the member 'x' is back: x up", "x"]
    assert (len(w.fired("down")), len(w.fired("up")), len(w.fired("gone"))) == (1, 1, 0)
    assert len(w.submits()) == 2
    begun(w, a, 7, "finish", "clean")
    assert w.counts()["success"] == 1


@pytest.mark.parametrize("state", ["submitting", "acknowledged", "pending", "running"])
def test_the_jobs_of_one_that_is_gone_are_tried_again_elsewhere(world: Any, state: str) -> None:
    w = world([START, *WATCH], jobs("x", "y", "home"), members=MEMBERS, by_hand=True)
    a, _ = w.submits()
    if state == "acknowledged":
        w.feed(Acknowledged(w.t + 0.1, a.key, 7))
    elif state != "submitting":
        begun(w, a, 7, "submit", *(["start"] if state == "running" else []))
    change(w, "y", "down")
    change(w, "x", "gone")
    again = w.submits("a")[-1]
    assert again == a._replace(key=a.key._replace(attempt=1), member="y"), "one that is down may come back"
    counts = w.counts()
    assert (counts["submitted"], counts["retried"], counts["active"]) == (1, 1, 1)
    (row,) = w.rows()
    assert (row["member"], row["cause"], row["result"]) == ("x", "infrastructure", "retried")
    change(w, "y", "gone")
    assert w.submits("a")[-1].member == ""
    assert w.fired("gone") == [w.t - T0 - 1, w.t - T0]


def test_what_it_still_tells_changes_nothing(world: Any) -> None:
    w = world([START, *WATCH], jobs("x", "home"), members=MEMBERS, by_hand=True)
    a, _ = w.submits()
    change(w, "x", "gone")
    begun(w, a, 7, "submit", "start", "finish", "clean")
    w.feed(Acknowledged(w.t + 0.1, a.key, 7))
    assert w.counts()["success"] == 0
    assert w.counts()["active"] == 1


def test_one_that_is_back_is_taken_again(world: Any) -> None:
    w = world([START, rule("member-up", act("submit", "a"))], jobs("x", "home"), members=MEMBERS, by_hand=True)
    change(w, "x", "gone")
    change(w, "x", "down")
    assert w.engine.places == {"x": "gone"}, "until it is up it does not count"
    change(w, "x", "up")
    assert [submit.member for submit in w.submits("a")] == ["x", "", "x"]


def test_losses_have_a_budget_where_jobs_ran(world: Any) -> None:
    w = world([START], jobs("x"), members=MEMBERS, by_hand=True)
    for attempt in range(4):
        submit = w.submits("a")[-1]
        assert (submit.key.attempt, submit.member) == (attempt, "x")
        begun(w, submit, 10 + attempt, "submit", "start")
        change(w, "x", "gone")
        change(w, "x", "up")
    assert w.counts()["failed"] == 1
    assert w.rows()[-1]["cause"] == "infrastructure"


def test_one_that_is_given_up_once_more_takes_with_it_what_had_waited(world: Any) -> None:
    """A service that was restarted has waited anew for a member that was gone before."""
    w = world([START, *WATCH, rule("signal", act("submit", "a"), name="s")], jobs("x"), members=MEMBERS, by_hand=True)
    change(w, "x", "gone")
    (_, second) = w.submits("a")
    assert second.key.attempt == 1
    change(w, "x", "gone")
    assert len(w.fired("gone")) == 1
    assert w.submits("a")[-1].key.attempt == 2


def test_a_cancelled_ensemble_ends_with_its_member(world: Any) -> None:
    w = world([START], jobs("x"), members=MEMBERS, by_hand=True)
    a, b = w.submits()
    begun(w, b, 5, "submit", "start")
    w.command("cancel")
    assert [cancel.id for cancel in w.of(Cancel)] == [5]
    begun(w, b, 5, "finish", "clean")
    assert w.engine.final is None, "nobody knows what became of the other"
    change(w, "x", "gone")
    assert w.engine.final == "cancelled"
    assert w.counts()["cancelled"] == 1
    assert a.key.attempt == 0
