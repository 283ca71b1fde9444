# SPDX-License-Identifier: MIT
"""The same events give the same actions: from the start, and from a snapshot taken behind any event.

Files are put together at random from small blocks, and so is what becomes of their jobs; every world keeps all that
`harness.World.check` asks for on the way.
"""

from __future__ import annotations

import json
import random
from typing import Any, Dict, List

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.engine.actions import Action, Submit
from ensemble.engine.engine import Engine
from ensemble.engine.events import Command, Event, from_json, to_json
from ensemble.engine.snapshot import restore, snapshot
from ensemble.spec.models import END_TRIGGERS, STATE_TRIGGERS, Spec
from t.engine.harness import EXIT1, Plan, World, act, make_spec, rule

GROUPS = ("a", "b")
PATHS = (
    "count.a.success", "count.a.failed", "count.b.finished", "count.b.active", "mean.a.duration", "std.b.pending",
    "median.a.finished.duration", "mad.a.duration", "iqr.b.duration", "ewm.a.failed.pending", "p90.b.duration",
    "max.a.waiting", "mean.b-pending", "n.b-duration", "ensemble.active", "ensemble.submitted", "ensemble.elapsed",
)  # fmt: skip
SPACED = ("job-memo", "job-exception", "job-start", "job-clean", "job-submit", "job-invalidate", "job-alloc")

group = st.sampled_from(GROUPS)
maybe_group = st.one_of(st.none(), group)
action = st.one_of(
    st.builds(lambda g, n: act("submit", g, count=n), group, st.integers(1, 3)),
    st.builds(lambda g: act("submit", g), group),
    st.builds(
        lambda g, s: act("cancel", g, **({"state": s} if s else {})),
        st.sampled_from((*GROUPS, "all")),
        st.sampled_from((None, "pending", "running")),
    ),
    st.builds(lambda g, s: act("kill", g, signal=s), group, st.sampled_from(("TERM", "USR1", 9, 40))),
    st.builds(lambda name, n: act(name, f"r{n}"), st.sampled_from(("enable", "disable")), st.integers(0, 1)),
    st.sampled_from([act("log", value="{mean.a.duration} {max.b.waiting}"), act("stop"), act("terminate")]),
)
gates = st.fixed_dictionaries(
    {},
    optional={
        "repetitions": st.sampled_from((1, 2, 5, "unlimited")),
        "backoff": st.integers(0, 2),
        "cooldown": st.sampled_from((0.5, 7, 40)),
        "enabled": st.booleans(),
    },
)


def _named(trigger: str, name: Any) -> Dict[str, Any]:
    return {"trigger": trigger, **({"name": name} if name else {})}


trigger = st.one_of(
    st.just({"trigger": "start"}),
    st.builds(_named, st.sampled_from((*STATE_TRIGGERS, *END_TRIGGERS, *SPACED, "group-complete")), maybe_group),
    st.builds(
        lambda p, w: {**_named("metric", p), **({"when": w} if w is not None else {})},
        st.sampled_from(PATHS),
        st.sampled_from((None, 0, 2, "> 1", "<= 3", "!= 2", "> 10")),
    ),
    st.builds(lambda n: {"trigger": "timer", "after": n}, st.sampled_from((0, 3, 30))),
    st.sampled_from([{"trigger": "heartbeat"}, {"trigger": "heartbeat", "every": 6}, {"trigger": "idle"}]),
    st.builds(_named, st.just("end"), st.sampled_from((None, "complete", "failed", "cancelled", "halted"))),
)
rules = st.lists(st.tuples(trigger, gates, st.lists(action, min_size=1, max_size=3)), min_size=1, max_size=6)
limits = st.fixed_dictionaries(
    {"max_jobs": st.integers(1, 25), "max_firings": st.integers(1, 12)},
    optional={
        "max_active": st.integers(1, 4),
        "max_failures": st.sampled_from((1, 3, "20%")),
        "duration": st.sampled_from((15, 60)),
    },
)


def build(drawn: Any, limits: Dict[str, Any], heartbeat: float) -> Spec:
    written = [rule("start", act("submit", "a"), act("submit", "b"), id="r0")]
    for number, (trigger, gates, actions) in enumerate(drawn, 1):
        written.append({"id": f"r{number}", **trigger, **gates, "actions": actions})
    jobs = [{"name": "a", "count": 3}, {"name": "b"}, {"name": "a", "command": "y", "count": 1}]
    return make_spec(written, jobs, limits=limits, logging={"heartbeat": heartbeat})


def plans(seed: int) -> Any:
    """What becomes of each job, drawn from the seed and its key alone."""

    def plan(submit: Submit, number: int) -> Plan:
        r = random.Random(f"{seed}/{submit.key}")
        return Plan(
            wait=r.choice((0.0, 0.05, 3.0, 20.0)),
            run=r.choice((0.0, 2.0, 15.0, 70.0)),
            status=r.choice((0, 0, 0, EXIT1, 9)),
            exception=r.choice((None, None, None, ("timeout", "expired"), ("cancel", ""), ("exec", "x"))),
            handles=r.choice(((), (10, 15))),
            refuse=r.choice((None,) * 9 + ("before", "after", "late")),
            ack=r.choice((0.0, 0.02, 5.0)),
            seen=r.choice((0.0, 0.01, 4.0)),
            twice=r.random() < 0.1,
        )

    return {"a": plan, "b": plan}


def live(spec: Spec, seed: int, checks: bool = True) -> World:
    """A world from begin to end, with a user who now and then says something."""
    r = random.Random(seed)
    w = World(spec, plans(seed), checks=checks)
    for _ in range(r.randrange(3)):
        t = r.uniform(0, 60)
        name = r.choice(("pause", "resume", "cancel"))
        data = {"limits": {"max_jobs": 100}} if name == "resume" and r.random() < 0.5 else {}
        w.at(t, lambda name=name, data=data: None if w.engine.final else Command(w.t, name, data))
    for _ in range(1500):
        if w.engine.final is not None or not w.step():
            break
    if w.engine.final == "halted":
        w.command("resume", limits={"max_jobs": 40, "max_firings": 20, "duration": None})
    for _ in range(1500):
        if w.engine.final is not None or not w.step():
            break
    if w.engine.final is None:
        w.command("cancel")
        w.run()
    w.over()
    return w


def told(answer: List[Action]) -> List[str]:
    """With their types: tuples of different kinds may be equal."""
    return [repr(action) for action in answer]


worlds = given(rules, limits, st.sampled_from((0, 5)), st.integers(0, 2**32))
common = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@common
@worlds
def test_the_same_events_give_the_same_actions(drawn: Any, limits: Any, heartbeat: float, seed: int) -> None:
    spec = build(drawn, limits, heartbeat)
    w = live(spec, seed)
    recorded = json.dumps([to_json(event) for event in w.events], allow_nan=False)
    events: List[Event] = [from_json(record) for record in json.loads(recorded)]
    assert events == w.events
    assert [type(e) for e in events] == [type(e) for e in w.events]
    engine = Engine(spec, "ens")
    for event, answer in zip(events, w.answers):
        assert told(engine.handle(event)) == told(answer)
    assert snapshot(engine) == snapshot(w.engine)


@common
@worlds
def test_a_restored_engine_goes_on_like_one_that_never_stopped(
    drawn: Any, limits: Any, heartbeat: float, seed: int
) -> None:
    spec = build(drawn, limits, heartbeat)
    w = live(spec, seed, checks=False)
    engine = Engine(spec, "ens")
    every = 1 + seed % 7
    for number, (event, answer) in enumerate(zip(w.events, w.answers)):
        if number % every == 0:
            state = json.dumps(snapshot(engine), allow_nan=False)
            engine = restore(spec, json.loads(state))
        assert told(engine.handle(event)) == told(answer), f"event {number}: {event}"
    assert snapshot(engine) == snapshot(w.engine)


def test_a_snapshot_is_not_touched_by_what_comes_after() -> None:
    spec = build([({"trigger": "job-memo"}, {"repetitions": 2}, [act("log", value="x")])], {"max_active": 2}, 5)
    w = World(spec, plans(3))
    w.run(until=4.0)
    state = snapshot(w.engine)
    kept = json.dumps(state)
    engine = restore(spec, state)
    for event in [*w.events[-3:], Command(w.t, "cancel")]:
        engine.handle(event)
    assert json.dumps(state) == kept
    w.command("cancel")
    w.run()
    assert json.dumps(state) == kept
