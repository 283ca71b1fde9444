# SPDX-License-Identifier: MIT
"""Statistics: against numpy, before their first value, kept apart, and through JSON bit for bit."""

from __future__ import annotations

import json
import math
from typing import Any, List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.engine.engine import Engine
from ensemble.engine.events import Begin, JobEvent, TimerExpired
from ensemble.engine.stats import Statistics
from ensemble.errors import RecordError
from ensemble.spec.metrics import STATS
from t.engine.harness import EXIT1, Plan, act, make_spec, rule

START = rule("start", act("submit", "a"), id="start")
LOG = act("log", value="x")
ALL = (*STATS, "p01", "p25", "p50", "p75", "p90", "p99")
VALUES = st.floats(-1e9, 1e9, allow_nan=False)

EXACT = {
    "n": len,
    "last": lambda x: x[-1],
    "sum": lambda x: float(np.sum(x)),
    "mean": lambda x: float(np.mean(x)),
    "variance": lambda x: float(np.var(x, ddof=1)),
    "std": lambda x: float(np.std(x, ddof=1)),
    "sem": lambda x: float(np.std(x, ddof=1) / math.sqrt(len(x))),
    "min": min,
    "max": max,
}
NEEDS_TWO = ("variance", "std", "sem")


def fed(values: Any, stats: Any = ALL) -> Statistics:
    made = Statistics(stats)
    for x in values:
        assert made.update(x)
    return made


@given(st.lists(VALUES, min_size=1, max_size=60))
def test_exact_ones_against_numpy(values: List[float]) -> None:
    stats = fed(values)
    scale = max(1.0, *(abs(v) for v in values))
    for name, function in EXACT.items():
        if name in NEEDS_TWO and len(values) < 2:
            assert stats.get(name) is None
            continue
        room = scale * scale if name == "variance" else scale
        near = 1e-9 * room * len(values) if name not in ("std", "sem") else 1e-4 * scale
        assert stats.get(name) == pytest.approx(function(values), rel=1e-9, abs=near), name


@pytest.mark.parametrize("offset", [0.0, 1.7e9])
def test_moments_keep_their_digits_far_from_zero(offset: float) -> None:
    values = offset + np.random.default_rng(1).normal(100.0, 5.0, 5000)
    stats = fed(values.tolist())
    for name in ("mean", "variance", "std", "sem"):
        assert stats.get(name) == pytest.approx(EXACT[name](values), rel=1e-6), name


@pytest.mark.parametrize("draw", ["normal", "exponential", "uniform"])
def test_estimates_on_unimodal_data(draw: str) -> None:
    values = getattr(np.random.default_rng(7), draw)(size=20000)
    stats = fed(values.tolist())
    spread = float(np.std(values))
    for name in ("p01", "p25", "p50", "p75", "p90", "p99"):
        assert stats.get(name) == pytest.approx(np.percentile(values, int(name[1:])), abs=0.12 * spread), name
    assert stats.get("median") == stats.get("p50")
    q1, median, q3 = np.percentile(values, (25, 50, 75))
    assert stats.get("iqr") == pytest.approx(q3 - q1, rel=0.1)
    assert stats.get("mad") == pytest.approx(np.median(np.abs(values - median)), rel=0.15)


def test_ewm_follows_a_change() -> None:
    stats = fed([0.0] * 50 + [10.0] * 50, ["ewm", "mean"])
    assert stats.get("mean") == pytest.approx(5.0)
    assert stats.get("ewm") == pytest.approx(10.0, abs=0.1)


def test_none_before_the_first_value() -> None:
    stats = Statistics(ALL)
    assert {name: stats.get(name) for name in ALL} == {**dict.fromkeys(ALL), "n": 0}
    assert stats.values() == {"n": 0}


def test_none_below_two() -> None:
    stats = fed([5.0])
    assert [name for name in ALL if stats.get(name) is None] == list(NEEDS_TWO)
    assert stats.get("median") == stats.get("p99") == stats.get("ewm") == 5.0
    assert stats.get("iqr") == stats.get("mad") == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_and_counted(bad: float) -> None:
    stats = fed([1.0, 2.0])
    before = stats.values()
    assert stats.update(bad) is False
    assert stats.refused == 1
    assert stats.values() == before
    stats.update(3.0)
    assert stats.get("mean") == 2.0


def test_a_statistic_that_was_not_wanted() -> None:
    stats = fed([1.0], ["mean"])
    assert stats.values() == {"mean": 1.0}
    with pytest.raises(KeyError):
        stats.get("median")


def test_whole_numbers_are_numbers() -> None:
    stats = fed([1, 2, 3])
    assert json.loads(json.dumps(stats.to_json())) == stats.to_json()
    assert stats.get("last") == 3.0


@settings(max_examples=60)
@given(st.lists(VALUES, max_size=40), st.lists(VALUES, max_size=20), st.sets(st.sampled_from(ALL), min_size=1))
def test_through_json_bit_for_bit(before: List[float], after: List[float], wanted: Any) -> None:
    one = fed(before, wanted)
    two = Statistics.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False)))
    assert two.to_json() == one.to_json()
    for x in after:
        one.update(x)
        two.update(x)
        assert [one.get(name) for name in sorted(wanted)] == [two.get(name) for name in sorted(wanted)]
    assert two.to_json() == one.to_json()


def test_damaged_states_are_record_errors() -> None:
    good = fed([1.0, 2.0, 3.0]).to_json()
    bad: List[Any] = [None, [], "x", {}, {**good, "n": "many"}, {**good, "moments": None}, {**good, "others": {}}]
    bad += [{**good, "last": 3}, {**good, "others": {**good["others"], "median": ["AAAA", True]}}]
    odd = "A" * 4 + good["others"]["median"][0]
    bad += [{**good, "others": {**good["others"], "median": [text, True]}} for text in (odd, "?", "", 5, None)]
    bad += [{**good, "others": {**good["others"], "sum": "zero"}}, {**good, "stats": ["moment"]}]
    for state in bad:
        with pytest.raises(RecordError):
            Statistics.from_json(json.loads(json.dumps(state)))


#: of five jobs: two succeed, one fails, one is cancelled while it runs, one is refused
MIXED = [
    Plan(seen=0.0, wait=2.0, run=10.0),
    Plan(seen=0.0, wait=4.0, run=30.0),
    Plan(seen=0.0, wait=6.0, run=50.0, status=EXIT1),
    Plan(seen=0.0, wait=8.0, run=70.0, status=15, exception=("cancel", "")),
    Plan(refuse="before"),
]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mean.a.duration", 20.0),
        ("mean.a-duration", 20.0),
        ("mean.a.success.duration", 20.0),
        ("n.a.success.duration", 2),
        ("max.a.failed.duration", 50.0),
        ("n.a.failed.duration", 1),
        ("mean.a.failed.pending", 6.0),
        ("max.a.finished.duration", 50.0),
        ("n.a.finished.duration", 3),
        ("sum.a.pending", 6.0),
        ("mean.a.finished.pending", 4.0),
        ("std.a.duration", math.sqrt(200)),
        ("count.a.finished", 5),
        ("count.a.failed", 2),
        ("count.a.timeout", 0),
        ("count.a.retried", 0),
    ],
)
def test_success_failed_and_finished_are_apart(world: Any, path: str, value: float) -> None:
    rules = [START, rule("end", act("log", value=f"{{{path}}}"))]
    w = world(rules, [{"name": "a", "count": 5}], plans={"a": MIXED}).run()
    assert float(w.logged()[0]) == pytest.approx(value, rel=1e-5)


def test_status_shows_the_common_ones_of_both_ends(world: Any) -> None:
    w = world([START], [{"name": "a", "count": 5}, "b"], plans={"a": MIXED}).run()
    table = w.engine.tally.table()
    assert set(table) == {"a"}
    assert set(table["a"]) == {"success", "failed"}
    assert set(table["a"]["success"]["duration"]) == {"n", "mean", "std", "min", "max"}
    assert table["a"]["failed"]["pending"] == {"n": 1, "mean": 6.0, "min": 6.0, "max": 6.0}


def aged(world: Any, path: str, plans: Any, until: float, **keys: Any) -> List[Any]:
    """The values of the path when its rule fired, as pairs of seconds and text."""
    r = rule("metric", act("log", value=f"{{{path}}}"), id="r", name=path, repetitions="unlimited", **keys)
    w = world([START, r], [{"name": "a", "count": len(plans)}], plans={"a": plans}, logging={"heartbeat": 10})
    w.run(until=until)
    found = [(round(x["t"]), x["text"]) for x in w.records("log")]
    w.command("cancel")
    w.run()
    return found


def test_waiting_is_the_ages_at_the_last_heartbeat(world: Any) -> None:
    plans = [Plan(seen=0.0, wait=25.0), Plan(seen=5.0, wait=30.0)]
    assert aged(world, "mean.a.waiting", plans, 65.0) == [(10, "7.5"), (20, "17.5"), (30, "25"), (40, "no value")]


def test_waiting_falls_away_with_those_that_waited(world: Any) -> None:
    plans = [Plan(seen=0.0, wait=15.0), Plan(seen=0.0, wait=25.0)]
    assert aged(world, "n.a.waiting", plans, 65.0) == [(10, "2"), (20, "1"), (30, "0")]


def test_waiting_of_nobody_is_no_change(world: Any) -> None:
    assert aged(world, "n.a.waiting", [Plan(wait=0.5, run=40.0)], 35.0) == []


def test_the_predecessors_pending(world: Any) -> None:
    """Each final wait, and at each heartbeat the age of each job still pending."""
    plans = [Plan(seen=0.0, wait=4.0, run=90.0), Plan(seen=0.0, wait=25.0, run=90.0)]
    found = aged(world, "n.a-pending", plans, 45.0)
    assert found == [(4, "1"), (10, "2"), (20, "3"), (25, "4")]
    assert aged(world, "sum.a-pending", plans, 45.0) == [(4, "4"), (10, "14"), (20, "34"), (25, "59")]


@pytest.mark.parametrize("path", ["max.a.waiting", "max.a-pending"])
def test_a_cancelled_pending_job_ages_no_more(world: Any, path: str) -> None:
    r = rule("metric", act("log", value=f"{{{path}}}"), name=path, repetitions="unlimited")
    rules = [START, r, rule("timer", act("cancel", "a"), after=25), rule("timer", LOG, after=100)]
    w = world(rules, plans={"a": Plan(seen=0.0, wait=500.0)}, logging={"heartbeat": 10}).run()
    said = [text for text in w.logged() if text != "x"]
    assert said[:2] == ["10", "20"]
    assert said[2:] in ([], ["no value"])


def test_a_heartbeat_comes_by_itself_where_ages_are_read(world: Any) -> None:
    r = rule("metric", LOG, id="r", name="max.a.waiting", when="> 100", repetitions=1)
    w = world([START, r], plans={"a": Plan(wait=150.0)}).run()
    assert w.fired("r") == [120.0]


def test_ages_with_a_clock_that_begins_at_zero() -> None:
    spec = make_spec([START, rule("metric", LOG, name="max.a.waiting")], logging={"heartbeat": 10})
    engine = Engine(spec, "ens")
    (key,) = [a.key for a in engine.handle(Begin(0.0)) if hasattr(a, "key")]
    engine.handle(JobEvent(0.0, 1, "submit", {}, key))
    engine.handle(TimerExpired(10.0, "heartbeat"))
    assert engine.values.metric(engine.book.rules[1].metric) == 10.0
