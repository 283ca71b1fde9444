# SPDX-License-Identifier: MIT
"""Grow and shrink: from a rule to a size, one request after the other, and what comes of it."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest

from ensemble.engine.actions import Look, Resize, Size
from ensemble.engine.events import Counted, Scaled
from t.engine.harness import T0, Plan, act, rule

START = rule("start", act("submit", "a"), id="start")
SAID = "{event.wanted} {event.size} {event.reason}"


def heard(how: str) -> Dict[str, Any]:
    return rule(how, act("log", value=f"{how} {SAID}"), id=how, repetitions="unlimited")


HEARD = [heard(how) for how in ("grow-finish", "grow-fail", "shrink-finish", "shrink-fail")]


def scaled(w: Any, name: str, **data: Any) -> List[Any]:
    answer = w.feed(Scaled(w.t, name, data))
    return [action for action in answer if isinstance(action, (Resize, Size))]


@pytest.mark.parametrize(
    ("action", "by"), [(act("grow"), 1), (act("grow", value=3), 3), (act("shrink", value="1 + 1"), -2)]
)
def test_a_rule_asks_what_size_that_makes_and_then_for_that_size(world: Any, action: Any, by: int) -> None:
    w = world([START, rule("job-start", action, id="r")], plans={"a": Plan(run=50)})
    w.run(until=2)
    (asked,) = w.of(Resize)
    assert (asked.number, asked.by, asked.held) == (1, by, None)
    assert (asked.cause.rule, asked.cause.firing) == ("r", 1)
    assert not w.of(Size), "no size is known yet"
    (size,) = scaled(w, "wanted", number=1, size=4, wanted=4 + by)
    assert (size.wanted, size.action, size.cause) == (4 + by, action["name"], asked.cause)
    scaled(w, "finish", wanted=4 + by, size=4 + by)
    w.run()
    assert w.engine.final == "complete"


def test_requests_are_answered_one_after_the_other_each_on_top_of_the_last(world: Any) -> None:
    w = world([START, rule("job-start", act("grow", value=2), act("grow", value=3))], plans={"a": Plan(run=50)})
    w.run(until=2)
    assert [(r.number, r.by, r.held) for r in w.of(Resize)] == [(1, 2, None)]
    size, again = scaled(w, "wanted", number=1, size=4, wanted=6)
    assert size.wanted == 6
    assert (again.number, again.by, again.held) == (2, 3, 6)
    assert [s.wanted for s in scaled(w, "wanted", number=2, size=4, wanted=9)] == [9]
    assert scaled(w, "wanted", number=2, size=4, wanted=9) == [], "an answer that comes twice"
    assert scaled(w, "finish", wanted=6, size=6) == [], "another size has taken its place"
    assert w.engine.scaling["open"]["wanted"] == 9
    scaled(w, "finish", wanted=9, size=9)
    assert w.engine.scaling["open"] is None
    w.run()


def test_a_grow_that_is_not_over_keeps_the_ensemble_from_being_idle(world: Any) -> None:
    w = world([rule("start", act("grow", value=2)), rule("idle", act("log", value="idle"), id="idle"), *HEARD])
    w.run(until=1000)
    assert w.engine.final is None
    scaled(w, "wanted", number=1, size=1, wanted=3)
    w.run(until=2000)
    assert (w.engine.final, w.fired("idle")) == (None, [])
    scaled(w, "finish", wanted=3, size=3)
    assert w.logged() == ["grow-finish 3 3 ", "idle"]
    assert w.engine.final == "complete"


def test_a_shrink_is_waited_for_where_a_rule_waits_for_it_and_the_answer_always_is(world: Any) -> None:
    w = world([rule("start", act("shrink"))])
    w.run(until=10)
    assert w.engine.final is None, "what size it makes is not known yet"
    assert [s.wanted for s in scaled(w, "wanted", number=1, size=4, wanted=3)] == [3]
    assert w.engine.final == "complete"
    assert scaled(w, "finish", wanted=3, size=3) == []
    w = world([rule("start", act("shrink")), heard("shrink-finish")])
    scaled(w, "wanted", number=1, size=4, wanted=3)
    assert w.engine.final is None
    scaled(w, "finish", wanted=3, size=3)
    assert (w.logged(), w.engine.final) == (["shrink-finish 3 3 "], "complete")


def test_the_rules_of_the_end_may_shrink(world: Any) -> None:
    w = world([START, rule("end", act("shrink", value=2))], plans={"a": Plan(run=1)})
    w.run(until=10)
    assert w.engine.final is None
    assert [s.wanted for s in scaled(w, "wanted", number=1, size=4, wanted=2)] == [2]
    assert w.engine.final == "complete"


def test_what_fails_is_told_and_fires_its_rules_and_the_rule_goes_on(world: Any) -> None:
    asks = rule("job-start", act("grow", value=2), id="r", repetitions=3)
    w = world([START, asks, *HEARD], [{"name": "a", "count": 3}], plans={"a": Plan(run=50)})
    w.run(until=2)
    assert len(w.fired("r")) == 3
    scaled(w, "wanted", number=1, size=4, wanted=6)
    (again,) = [a for a in w.of(Resize) if a.number == 2]
    assert again.held == 6
    scaled(w, "refused", number=2, size=4, reason="there may be no more than 6 nodes")
    scaled(w, "refused", number=3, reason="no")
    assert w.engine.scaling["open"]["wanted"] == 6, "what is on its way goes on"
    scaled(w, "fail", wanted=6, size=5, reason="after 9 s not all are up")
    assert w.engine.scaling["wanted"] == 5, "the next one counts from what there is"
    assert w.logged() == [
        "grow-fail 6 4 there may be no more than 6 nodes",
        "grow-fail 6 no value no",
        "grow-fail 6 5 after 9 s not all are up",
    ]
    told = [(e["rule"], e["text"]) for e in w.records("error")]
    assert told == [
        ("r", "grow: there may be no more than 6 nodes"),
        ("r", "grow: no"),
        ("r", "grow to 6 nodes has failed: after 9 s not all are up"),
    ]
    w.run()
    assert w.engine.final == "complete"


def test_what_is_to_be_had_may_be_less_and_others_may_object(world: Any) -> None:
    w = world([START, rule("job-start", act("grow", value=4)), rule("job-finish", act("shrink")), *HEARD],
              plans={"a": Plan(run=5)})  # fmt: skip
    w.run(until=2)
    scaled(w, "wanted", number=1, size=2, wanted=6)
    scaled(w, "finish", wanted=6, size=4, reached=4)
    w.run(until=8)
    assert w.of(Resize)[-1].held == 4
    scaled(w, "wanted", number=2, size=4, wanted=3)
    scaled(w, "waits", wanted=3, reason="ensemble xyz wants 4 nodes")
    scaled(w, "waits", wanted=9, reason="not ours")
    texts = [r["text"] for r in w.records("action", action="shrink")]
    assert texts == ["shrink by 1 node", "shrink from 4 to 3 nodes begins", "shrink waits: ensemble xyz wants 4 nodes"]
    scaled(w, "fail", wanted=3, size=None, reason="gone")
    assert w.engine.scaling["wanted"] == 3
    w.run()


def test_a_shrink_of_what_is_still_to_come_says_so(world: Any) -> None:
    w = world([START, rule("job-start", act("grow", value=3), act("shrink", value=2), *[act("shrink")] * 2)],
              plans={"a": Plan(run=50)})  # fmt: skip
    w.run(until=2)
    scaled(w, "wanted", number=1, size=1, wanted=4)
    scaled(w, "wanted", number=2, size=1, wanted=2)
    scaled(w, "wanted", number=3, size=1, wanted=1)
    scaled(w, "wanted", number=4, size=2, wanted=1, reason="there may be no fewer than 1 node")
    texts = [r["text"] for r in w.records("action") if "begins" in r["text"]]
    assert texts == [
        "grow from 1 to 4 nodes begins",
        "shrink to 2 nodes, no more to 4, begins: 1 node is up",
        "shrink to 1 node, no more to 2, begins: 1 node is up",
        "shrink from 2 to 1 node begins, and goes no further: there may be no fewer than 1 node",
    ]
    w.command("cancel")
    w.run()


def test_what_people_and_cooldowns_want_to_know_is_kept(world: Any) -> None:
    w = world([START, rule("job-start", act("grow"), act("grow"))], plans={"a": Plan(run=50)})
    w.run(until=2)
    assert [w.engine.scaling[name] for name in ("size", "t_done", "failed")] == [None] * 3
    scaled(w, "wanted", number=1, size=2, wanted=3)
    scaled(w, "refused", number=2, reason="no")
    assert w.engine.scaling["failed"] == {"t": w.t, "action": "grow", "wanted": None, "reason": "no"}
    assert (w.engine.scaling["size"], w.engine.scaling["t_done"]) == (2, None)
    w.run(until=10)
    w.feed(Scaled(T0 + 10, "finish", {"wanted": 3, "size": 3}))
    assert (w.engine.scaling["size"], w.engine.scaling["t_done"]) == (3, T0 + 10)
    w.command("resize", by=1)
    scaled(w, "wanted", number=3, size=3, wanted=4)
    w.feed(Scaled(T0 + 11, "fail", {"wanted": 4, "reason": "there is no scaler"}))
    assert w.engine.scaling["t_done"] == T0 + 10, "nothing was begun"
    assert w.engine.scaling["failed"]["wanted"] == 4
    w.command("resize", by=1)
    scaled(w, "wanted", number=4, size=3, wanted=4)
    w.feed(Scaled(T0 + 12, "fail", {"wanted": 4, "size": None, "reason": "late"}))
    assert (w.engine.scaling["size"], w.engine.scaling["t_done"]) == (3, T0 + 12)
    w.command("resize", by=-1)
    scaled(w, "wanted", number=5, size=3, wanted=2)
    w.run(until=20)
    w.command("cancel")
    w.run()
    assert w.engine.scaling["t_done"] >= T0 + 20, "what goes on without it counts from its end"


def test_numbers_are_looked_at_anew_once_nodes_have_come(world: Any) -> None:
    reader = rule("metric", act("log", value="x"), name="nodes.up", when="> 7")
    w = world([START, rule("job-start", act("grow")), reader], plans={"a": Plan(run=5)})
    w.feed(Counted(T0 + 1, {}))
    w.run(until=2)
    before = len(w.of(Look))
    scaled(w, "wanted", number=1, size=2, wanted=3)
    scaled(w, "finish", wanted=3, size=3)
    assert len(w.of(Look)) == before + 1
    w.command("cancel")
    w.run()


def test_a_cancel_waits_for_no_grow_and_what_comes_later_changes_nothing(world: Any) -> None:
    w = world([rule("start", act("grow"))])
    scaled(w, "wanted", number=1, size=2, wanted=3)
    w.command("cancel")
    assert w.engine.final == "cancelled"
    assert w.engine.scaling["open"] is None
    assert scaled(w, "finish", wanted=3, size=3) == []


def test_rules_that_grow_whenever_a_grow_fails_come_to_an_end(world: Any) -> None:
    asks = rule("grow-fail", act("grow"), id="r", repetitions="unlimited")
    w = world([rule("start", act("grow")), asks], limits={"max_firings": 5})
    for number in range(1, 20):
        scaled(w, "refused", number=number, reason="no")
    assert len(w.fired("r")) == 5
    assert w.engine.final == "halted"
    assert w.t >= T0


def test_an_operator_resizes_until_the_ensemble_ends(world: Any) -> None:
    w = world([START], plans={"a": Plan(run=5)})
    w.run(until=1)
    w.command("resize", by=2)
    w.command("resize", by=-1)
    assert [(r.by, r.cause.rule) for r in w.of(Resize)] == [(2, None)]
    assert [r["text"][:16] for r in w.records("log")] == ["grow by 2 nodes,", "shrink by 1 node"]
    size, again = scaled(w, "wanted", number=1, size=4, wanted=6)
    assert (size.cause.rule, size.cause.text) == (None, "asked for by an operator")
    assert (again.by, again.held, again.cause.rule) == (-1, 6, None)
    scaled(w, "refused", number=2, size=4, reason="no")
    assert [e["rule"] for e in w.records("error")] == [None]
    scaled(w, "finish", wanted=6, size=6)
    w.run()
    w.command("resize", by=1)
    assert len(w.of(Resize)) == 2
