# SPDX-License-Identifier: MIT
"""Attempts that failed and are tried again: which, when, how often, and what drops them."""

from __future__ import annotations

from typing import Any, List

import pytest

from ensemble.engine.events import JobEvent, Lost
from t.engine.harness import EXIT1, Plan, act, rule
from t.engine.lives import whole_life

START = rule("start", act("submit", "a"), id="start")
LOG = act("log", value="x")
TRIGGERS = ("job-finish", "job-success", "job-fail", "job-cancel", "job-timeout", "job-retry", "group-complete")
WATCH = [rule(trigger, LOG, id=trigger, name="a", repetitions="unlimited") for trigger in TRIGGERS]
FAIL = Plan(status=EXIT1)
NODE = Plan(exception=("exec", "node failure on n1 (rank 1)"), status=9)


def group(retries: Any, **keys: Any) -> List[Any]:
    return [{"name": "a", "retries": retries, **keys}]


def fired(w: Any) -> Any:
    """Trigger to the number of firings, those that did not fire left out."""
    found: Any = {}
    for name in w.fired_rules():
        if name != "start":
            found[name] = found.get(name, 0) + 1
    return found


def test_a_failure_is_tried_again_and_tells_of_itself_only_at_the_end(world: Any) -> None:
    w = world([START, *WATCH], group(2), plans={"a": [FAIL, FAIL, Plan()]}).run()
    assert [s.key.attempt for s in w.submits()] == [0, 1, 2]
    assert len({s.key[:4] for s in w.submits()}) == 1
    assert [row["result"] for row in w.rows()] == ["retried", "retried", "success"]
    assert fired(w) == {"job-retry": 2, "job-finish": 1, "job-success": 1, "group-complete": 1}
    counts = w.counts()
    assert (counts["submitted"], counts["finished"], counts["success"], counts["retried"]) == (1, 1, 1, 2)
    assert counts["failed"] == 0
    assert w.engine.tally.table()["a"].keys() == {"success"}, "what was tried again is in no statistic"
    assert w.engine.final == "complete"


def test_when_no_retry_is_left_it_has_failed(world: Any) -> None:
    w = world([START, *WATCH], group(2), plans={"a": FAIL}, failures="all").run()
    assert [row["result"] for row in w.rows()] == ["retried", "retried", "failed"]
    assert fired(w) == {"job-retry": 2, "job-finish": 1, "job-fail": 1, "group-complete": 1}
    assert (w.counts()["failed"], w.counts()["retried"], w.counts()["finished"]) == (1, 2, 1)


def test_failures_are_judged_on_what_has_failed_for_good(world: Any) -> None:
    jobs = group(1, count=4)
    # the first two attempts fail, all others succeed
    w = world([START], jobs, plans={"a": [FAIL, FAIL, Plan()]}, limits={"max_failures": 1}).run()
    assert w.engine.final == "complete"
    w = world([START], jobs, plans={"a": FAIL}, failures=3).run()
    assert w.engine.final == "failed"
    assert w.counts()["failed"] == 4


#: how an attempt ends, and the causes that have it tried again
ENDS: List[Any] = [
    (Plan(status=EXIT1), {"fail", 1}),
    (Plan(status=42 << 8), {"fail", 42}),
    (Plan(status=9), {"signal"}),
    (Plan(status=(128 + 9) << 8), {"signal", 137}),
    (Plan(exception=("timeout", "resource allocation expired"), status=14), {"timeout"}),
    (Plan(exception=("exec", "no such file"), status=127 << 8), {"exec"}),
    (Plan(exception=("odd", "a plugin's own"), status=EXIT1), {"exception"}),
    (Plan(exception=("cancel", ""), status=15), {"cancel"}),
]
CAUSES: List[Any] = ["fail", "signal", "timeout", "exec", "exception", "cancel", 1, 42, 137]


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize(("plan", "causes"), ENDS)
def test_each_cause_names_its_ends_and_no_other(world: Any, plan: Any, causes: Any, cause: Any) -> None:
    w = world([START, *WATCH], group({"max": 1, "causes": [cause]}), plans={"a": [plan, Plan()]}, failures="all").run()
    assert w.counts()["retried"] == (cause in causes)
    assert w.counts()["success"] == (cause in causes)
    assert fired(w).get("job-retry", 0) == (cause in causes)


def test_without_causes_fail_signal_and_timeout_are_tried_again(world: Any) -> None:
    for plan, causes in ENDS:
        w = world([START], group(1), plans={"a": [plan, Plan()]}, failures="all").run()
        assert w.counts()["retried"] == bool(causes & {"fail", "signal", "timeout"})


def test_without_retries_nothing_is_tried_again_but_losses(world: Any) -> None:
    for plan, _ in ENDS:
        w = world([START], plans={"a": [plan, Plan()]}, failures="all").run()
        assert w.counts()["retried"] == 0
    w = world([START], plans={"a": [NODE, Plan()]}).run()
    assert w.counts()["retried"] == 1


def test_the_two_budgets_do_not_burn_each_other(world: Any) -> None:
    plans = [NODE, FAIL, NODE, NODE, FAIL, Plan()]
    w = world([START], group(2), plans={"a": plans}).run()
    assert [row["cause"] for row in w.rows()] == [
        "infrastructure",
        "fail",
        "infrastructure",
        "infrastructure",
        "fail",
        None,
    ]
    assert [s.key.attempt for s in w.submits()] == [0, 1, 2, 3, 4, 5]
    assert w.engine.final == "complete"
    w = world([START], group(2), plans={"a": [NODE, FAIL, NODE, NODE, NODE]}, failures="all").run()
    assert w.rows()[-1]["result"] == "failed"
    assert len(w.submits()) == 5


def test_lost_while_it_only_waited_costs_nothing_of_either_budget(world: Any) -> None:
    w = world([START], group(1), by_hand=True)
    for id in range(10, 16):
        w.feed(JobEvent(w.t + 1, id, "submit", {}, w.submits()[-1].key))
        w.feed(Lost(w.t + 1, id, "the queue is gone"))
    assert len(w.submits()) == 7
    for event in whole_life(w.submits()[-1].key, EXIT1, id=20):
        w.feed(event._replace(t=event.t + 100))
    assert len(w.submits()) == 8, "the file's own budget is whole"


@pytest.mark.parametrize("losses", [0, 1, 5])
def test_the_budget_of_losses_may_be_set(world: Any, losses: int) -> None:
    w = world([START], group({"max": 0, "infrastructure": losses}), plans={"a": NODE}, failures="all").run()
    assert len(w.submits()) == losses + 1


def test_waits_double_up_to_their_end(world: Any) -> None:
    retries = {"max": 5, "backoff": "30s", "max_backoff": "2m"}
    w = world([START], group(retries), plans={"a": Plan(status=EXIT1, run=0.0, wait=0.0)}, failures="all").run()
    ends = [r["t"] for r in w.records("job", event="retry")]
    starts = [s for s, answer in zip(w.events, w.answers) if any(a in w.submits()[1:] for a in answer)]
    waits = [round(event.t - 1_700_000_000.0 - end) for end, event in zip(ends, starts)]
    assert waits == [30, 60, 120, 120, 120]


def test_a_loss_is_made_good_at_once(world: Any) -> None:
    w = world([START], group({"max": 1, "backoff": "1h"}), plans={"a": [NODE, Plan()]}).run()
    assert w.t - 1_700_000_000.0 < 60


def test_who_waits_is_pending_and_keeps_the_ensemble_alive(world: Any) -> None:
    rules = [START, *WATCH, rule("idle", LOG, id="idle"), rule("end", LOG, id="end")]
    w = world(rules, group({"max": 1, "backoff": "10m"}), plans={"a": [FAIL, Plan()]})
    w.run(until=300)
    assert w.engine.state == "running"
    assert (w.counts()["pending"], w.counts()["active"], w.counts()["running"]) == (1, 1, 0)
    assert fired(w) == {"job-retry": 1}
    w.run()
    assert fired(w) == {"job-retry": 1, "job-finish": 1, "job-success": 1, "group-complete": 1, "idle": 1, "end": 1}


def test_those_that_wait_go_in_order_of_their_time(world: Any) -> None:
    late, soon = {"max": 1, "backoff": "2m"}, {"max": 1, "backoff": "1m"}
    jobs = [{"name": "a", "retries": late}, {"name": "a", "retries": soon, "count": 2}]
    w = world([START], jobs, plans={"a": [FAIL, FAIL, FAIL, Plan()]}).run()
    assert [s.key.index for s in w.submits()[3:]] == [1, 2, 0]


def test_a_pause_holds_them_in_order(world: Any) -> None:
    w = world([START], group({"max": 1, "backoff": "1m"}, count=2), plans={"a": [FAIL, FAIL, Plan()]})
    w.run(until=20)
    w.command("pause")
    w.run(until=500)
    assert len(w.submits()) == 2
    assert w.engine.final is None
    w.command("resume")
    assert [s.key[3:] for s in w.submits()[2:]] == [(0, 1), (1, 1)]
    w.run()
    assert w.counts()["success"] == 2


def test_stop_drops_them_and_they_have_failed(world: Any) -> None:
    w = world(
        [START, rule("timer", act("stop"), after=30)], group({"max": 1, "backoff": "1h"}), plans={"a": FAIL}
    ).run()
    assert w.t - 1_700_000_000.0 < 60
    assert (w.counts()["failed"], w.counts()["cancelled"], w.counts()["finished"]) == (1, 0, 1)
    assert w.engine.final == "failed"


ENDING: List[Any] = [act("cancel", "a"), act("cancel", "all"), act("cancel", "a", state="pending"), act("terminate")]


@pytest.mark.parametrize("action", ENDING)
@pytest.mark.parametrize("paused", [False, True])
def test_what_a_rule_ends_while_it_waits_is_cancelled(world: Any, action: Any, paused: bool) -> None:
    rules = [START, *WATCH, rule("timer", action, id="r", after=100)]
    w = world(rules, group({"max": 1, "backoff": "1m" if paused else "1h"}), plans={"a": FAIL})
    w.run(until=20)
    if paused:
        w.command("pause")
    w.run(until=110)
    if paused:
        w.command("resume")
    assert (w.counts()["failed"], w.counts()["cancelled"], w.counts()["finished"]) == (0, 1, 1)
    assert len(w.submits()) == 1
    assert w.engine.final == "complete"


def test_the_users_cancel_ends_those_that_wait(world: Any) -> None:
    w = world([START], group({"max": 1, "backoff": "1h"}), plans={"a": FAIL})
    w.run(until=20)
    w.command("cancel")
    assert w.engine.final == "cancelled"
    assert (w.counts()["failed"], w.counts()["cancelled"]) == (0, 1)


@pytest.mark.parametrize(
    "action", [act("cancel", "a"), act("kill", "a"), act("kill", "a", signal="USR1"), act("cancel", job="event")]
)
def test_what_a_rule_has_ended_is_not_tried_again(world: Any, action: Any) -> None:
    retries = {"max": 3, "causes": ["fail", "signal", "cancel", "exec", "exception", "timeout"]}
    w = world([START, *WATCH, rule("job-start", action)], group(retries), plans={"a": Plan(run=None)}).run()
    assert [row["result"] for row in w.rows()] == ["cancelled"]
    assert fired(w) == {"rule-9": 1, "job-finish": 1, "job-cancel": 1, "group-complete": 1}


def test_a_halted_ensemble_keeps_them_and_carries_on(world: Any) -> None:
    w = world([START], group({"max": 1, "backoff": "1m"}), plans={"a": [FAIL, Plan()]}, limits={"max_jobs": 1})
    w.run()
    assert w.engine.final == "halted"
    w.command("resume", limits={"max_jobs": 10})
    w.run()
    assert w.engine.final == "complete"
    assert w.counts()["success"] == 1


def test_halted_while_one_waits_and_resumed_long_after(world: Any) -> None:
    jobs = group({"max": 1, "backoff": "1h"})
    w = world([START], jobs, plans={"a": [FAIL, Plan()]}, limits={"duration": "1m"}).run()
    assert w.engine.final == "halted"
    assert w.counts()["pending"] == 1
    w.run(until=7200)
    assert len(w.submits()) == 1
    w.command("resume", limits={"duration": 86400.0})
    w.run()
    assert (w.engine.final, w.counts()["success"]) == ("complete", 1)


def test_a_job_of_the_end_is_not_tried_again(world: Any) -> None:
    w = world([START, rule("end", act("submit", "b"))], ["a", {"name": "b", "retries": 5}], plans={"b": FAIL}).run()
    assert w.counts("b")["failed"] == 1
    assert w.counts("b")["retried"] == 0


def test_each_set_has_its_own_retries(world: Any) -> None:
    jobs = [{"name": "a", "retries": 1}, {"name": "a"}]
    w = world([START], jobs, plans={"a": FAIL}, failures="all").run()
    assert sorted((s.set, s.key.attempt) for s in w.submits()) == [(0, 0), (0, 1), (1, 0)]


def test_what_the_submit_said_is_said_again(world: Any) -> None:
    submit = rule("start", act("submit", "a", duration="1m", urgency=20))
    w = world([submit], group(1), plans={"a": [FAIL, Plan()]}).run()
    first, second = w.submits()
    assert second == first._replace(key=first.key._replace(attempt=1))


def test_a_rule_may_give_up_on_the_job_that_is_to_be_tried_again(world: Any) -> None:
    rules = [START, *WATCH, rule("job-retry", act("cancel", job="event"), id="no")]
    for backoff in ("0s", "1h"):
        jobs = group({"max": 5, "backoff": backoff}, count=2)
        w = world(rules, jobs, plans={"a": [FAIL, FAIL, Plan()]}).run()
        assert (w.counts()["cancelled"], w.counts()["success"], w.counts()["retried"]) == (1, 1, 2)
        assert [r["count"] for r in w.records("action", rule="no")] == [1]
        assert w.engine.final == "complete"
