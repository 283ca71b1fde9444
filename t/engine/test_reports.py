# SPDX-License-Identifier: MIT
"""What jobs report: statistics at each report and at the end, rules on `report`, each once, and nothing that is no number."""

from __future__ import annotations

import json
from typing import Any, Dict, Optional

import pytest

from ensemble.engine import reports
from ensemble.engine.events import Printed, Report, from_json, to_json
from ensemble.engine.snapshot import restore, snapshot
from ensemble.errors import RecordError
from ensemble.spec.reports import MOST_VARIABLES
from t.engine.harness import EXIT1, T0, Plan, World, act, make_spec, rule

LOG = act("log", value="x")
START = rule("start", act("submit", "a"), id="start")
LOSS = {"name": "a", "metrics": {"loss": {}}}


def running(w: World, number: int = 0) -> Any:
    """The key of a job that runs by now."""
    w.run(until=w.t - T0 + 3)
    return w.submits("a")[number].key


def put(w: World, key: Any, id: str, **values: Any) -> None:
    w.feed(Report(w.t, key, values, id))


def stats(w: World, state: str = "reported") -> Dict[str, Any]:
    table: Dict[str, Any] = w.engine.tally.table()["a"].get(state, {})
    return table


def test_each_report_feeds_the_statistics_without_a_state(world: Any) -> None:
    high = rule("metric", LOG, id="high", name="max.a.loss", when="> 2", repetitions="unlimited")
    w = world([START, high], [{**LOSS, "count": 2}])
    one, two = running(w), w.submits("a")[1].key
    put(w, one, "x:1", loss=1.0)
    put(w, two, "y:1", loss=2.0)
    assert w.fired("high") == []
    put(w, one, "x:2", loss=6)
    assert len(w.fired("high")) == 1
    assert stats(w)["loss"] == {"n": 3, "mean": 3.0, "std": pytest.approx(7**0.5), "min": 1.0, "max": 6.0, "last": 6.0}
    assert "success" not in w.engine.tally.table()["a"]
    w.run()


@pytest.mark.parametrize(("keep", "stands"), [("last", 2.0), ("min", 1.0), ("max", 6.0), ("mean", 3.0), (None, 2.0)])
def test_with_a_state_a_job_counts_once_with_what_it_kept(world: Any, keep: Optional[str], stands: float) -> None:
    variable = {} if keep is None else {"keep": keep}
    good = rule("metric", LOG, id="good", name="sum.a.success.loss", repetitions="unlimited")
    bad = rule("metric", LOG, id="bad", name="n.a.failed.loss", when=1)
    both = rule("metric", LOG, id="both", name="sum.a.finished.loss", when=f"> {stands}")
    jobs = [{"name": "a", "count": 2, "metrics": {"loss": variable}}]
    w = world([START, good, bad, both], jobs, plans={"a": [Plan(run=20), Plan(run=30, status=EXIT1)]}, failures="all")
    one, two = running(w), w.submits("a")[1].key
    for key in (one, two):
        for n, x in enumerate((1, 6, 2)):
            put(w, key, f"{key.index}:{n}", loss=x)
    assert w.fired_rules() == ["start"]
    w.run()
    assert w.fired_rules() == ["start", "good", "bad", "both"]
    assert [row["values"] for row in w.rows()] == [{"loss": stands}] * 2
    assert w.engine.tally.get(w.engine.book.rules[3].metric) == 2 * stands


def test_a_cancelled_job_counts_for_no_state(world: Any) -> None:
    read = rule("metric", LOG, id="read", name="n.a.finished.loss", repetitions="unlimited")
    end = rule("report", act("cancel", "a"), id="end", name="a.loss")
    w = world([START, read, end], [LOSS])
    put(w, running(w), "x:1", loss=1)
    w.run()
    assert w.results() == {"cancelled": 1}
    assert w.fired("read") == []


def test_rules_on_report_hear_a_variable_a_group_or_any(world: Any) -> None:
    names = {"var": "a.loss", "epoch": "a.epoch", "group": "a", "other": "b.loss", "any": None}
    rules = [rule("report", LOG, id=id, repetitions=9, **({"name": n} if n else {})) for id, n in names.items()]
    w = world(
        [START, *rules], [{"name": "a", "metrics": {"loss": {}, "epoch": {}}}, {"name": "b", "metrics": {"loss": {}}}]
    )
    put(w, running(w), "x:1", loss=0.5, epoch=3)
    assert w.fired_rules() == ["start", "var", "epoch", "group", "any"]
    texts = [r["text"] for r in w.records("rule")[1:]]
    assert texts == ["report a.loss = 0.5", "report a.epoch = 3"] + ["report a: loss = 0.5, epoch = 3"] * 2
    put(w, w.submits("a")[0].key, "x:2", epoch=4)
    assert w.fired_rules()[5:] == ["epoch", "group", "any"]
    w.run()


def test_what_the_event_of_a_report_has(world: Any) -> None:
    w = world(
        [START, rule("report", LOG, id="r", name="a.epoch", repetitions=2)], [{"name": "a", "metrics": {"epoch": {}}}]
    )
    key = running(w)
    seen = []
    occasion = w.engine.occasion
    w.engine.occasion = lambda rule, what: (seen.append(what.event), occasion(rule, what))[1]
    put(w, key, "x:1", loss=0.5, epoch=3)
    (event,) = seen
    assert (event["group"], event["name"], event["value"], event["data"]) == (
        "a",
        "epoch",
        3.0,
        {"loss": 0.5, "epoch": 3.0},
    )
    assert event["job"]["id"] == 100
    del w.engine.occasion
    w.run()


def test_a_report_takes_effect_once(world: Any) -> None:
    w = world([START, rule("report", LOG, id="r", repetitions="unlimited")], [LOSS])
    key = running(w)
    for id in ("x:1", "x:1", "y:1", "x:2", "x:1", "word", "word", "x:2"):
        put(w, key, id, loss=1)
    assert stats(w)["loss"]["n"] == 4
    assert len(w.fired("r")) == 4
    # also where the engine was restored in between
    again = restore(w.spec, json.loads(json.dumps(snapshot(w.engine))))
    again.handle(Report(w.t, key, {"loss": 1}, "x:2"))
    assert again.tally.table() == w.engine.tally.table()
    w.run()


def test_sources_are_forgotten_in_time_and_those_of_the_output_are_not(world: Any) -> None:
    w = world([START], [LOSS], plans={"a": Plan(run=1000)})
    key = running(w)
    put(w, key, "@0:7", loss=1)
    for n in range(50):
        put(w, key, f"word-{n}", loss=1)
    seen = w.engine.jobs[key].reported["seen"]
    assert len(seen) == 50
    w.run(until=reports.FORGET + 10)
    put(w, key, "late", loss=1)
    assert list(seen) == ["late"]
    put(w, key, "@0:7", loss=1)
    assert stats(w)["loss"]["n"] == 52
    w.run()


def test_each_line_of_the_output_is_a_report_and_counts_once(world: Any) -> None:
    w = world([START, rule("report", LOG, id="r", name="a.loss", repetitions=9)], [LOSS])
    key = running(w)
    w.feed(Printed(w.t, key, "1", [[0, {"loss": 1}], [8, {"loss": 2, "x": "abc"}]]))
    w.feed(Printed(w.t, key, "2", [[0, {"loss": 3}]]))
    # read anew, from the beginning
    w.feed(Printed(w.t, key, "1", [[0, {"loss": 1}], [8, {"loss": 2}], [16, {"loss": 4}]]))
    assert [r["text"] for r in w.records("rule", rule="r")] == [f"report a.loss = {n}" for n in (1, 2, 3, 4)]
    assert stats(w)["loss"]["n"] == 4
    assert stats(w)["x"] == {"n": 0, "refused": 1}
    w.run()


def test_the_memory_of_one_job_has_a_bound(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "SOURCES", 10)
    w = world([START], [LOSS])
    key = running(w)
    for n in range(30):
        put(w, key, f"word-{n}", loss=1)
        put(w, key, f"@{n}:1", loss=1)
    reported = w.engine.jobs[key].reported
    assert len(reported["seen"]) == len(reported["read"]) == 10
    w.run()


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "abc", "", None, True, [], float("1e308") * 10])
def test_what_is_no_finite_number_is_counted_and_feeds_nothing(world: Any, bad: Any) -> None:
    w = world(
        [
            START,
            rule("report", LOG, id="r", repetitions=9),
            rule("metric", LOG, id="m", name="n.a.loss", repetitions=9),
        ],
        [LOSS],
    )
    key = running(w)
    w.engine.handle(Report(w.t, key, {"loss": bad}, "x:1"))
    assert w.fired_rules() == ["start"]
    assert w.engine.tally.table()["a"]["reported"] == {"loss": {"n": 0, "refused": 1}}
    put(w, key, "x:2", loss=1)
    put(w, key, "x:3", loss=2)
    assert stats(w)["loss"]["n"] == 2
    assert stats(w)["loss"]["max"] == 2.0
    assert len(w.fired("r")) == 2
    w.run()


def test_one_of_an_ended_attempt_is_refused(world: Any) -> None:
    w = world(
        [START, rule("report", LOG, id="r", repetitions=9)],
        [{**LOSS, "count": 2}],
        plans={"a": [Plan(run=5), Plan(run=50)]},
    )
    key = running(w)
    assert reports.refusal(w.engine, key) is None
    w.run(until=20)
    assert "has ended, or never was" in str(reports.refusal(w.engine, key))
    put(w, key, "x:1", loss=1)
    put(w, key._replace(index=9), "x:2", loss=1)
    assert w.fired("r") == []
    w.run()
    assert "has ended: complete" in str(reports.refusal(w.engine, key))


def test_before_its_submission_was_acknowledged_a_job_may_report(world: Any) -> None:
    w = world([START], [LOSS], by_hand=True)
    put(w, w.submits("a")[0].key, "x:1", loss=1)
    assert stats(w)["loss"]["n"] == 1


def test_a_variable_that_is_not_declared_is_taken_as_long_as_there_is_room(world: Any) -> None:
    w = world([START], [LOSS])
    key = running(w)
    for n in range(MOST_VARIABLES + 5):
        put(w, key, f"x:{n}", **{f"v{n}": n})
    assert len(w.engine.jobs[key].values) == MOST_VARIABLES - 1
    assert w.engine.tally.has_room("a", "loss")
    assert w.engine.tally.has_room("a", "v3")
    assert not w.engine.tally.has_room("a", "w")
    again = restore(w.spec, json.loads(json.dumps(snapshot(w.engine))))
    assert not again.tally.has_room("a", "w")
    w.run()


def test_a_report_is_an_event_record() -> None:
    w = World(make_spec([START]))
    printed = Printed(1.5, w.submits("a")[0].key, "1", [[0, {"loss": 1}], [7, {"loss": "nan"}]])
    assert from_json(json.loads(json.dumps(to_json(printed)))) == printed
    event = Report(1.5, w.submits("a")[0].key, {"loss": 1}, "x:1")
    assert from_json(json.loads(json.dumps(to_json(event)))) == event
    record = to_json(event)
    for at, wrong in ((3, None), (4, []), (5, 7)):
        with pytest.raises(RecordError):
            from_json([*record[:at], wrong, *record[at + 1 :]])
