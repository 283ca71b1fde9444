# SPDX-License-Identifier: MIT
"""Points: computed from number and seed, taken one after the other, and carried by their jobs."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tracemalloc
from typing import Any, Dict, List

import pytest

from ensemble.engine.engine import Engine
from ensemble.engine.events import Answered, Begin, JobEvent
from ensemble.engine.points import Points
from ensemble.engine.snapshot import restore, snapshot
from t.engine.harness import OK, T0, Plan, World, act, make_spec, rule

XY = {"x": [1, 2], "y": ["a", "b", "c"]}
UNIFORM = {"x": {"uniform": [-1, 1]}, "y": {"loguniform": [0.001, 1000]}, "z": {"choice": ["p", "q"]}}


def points(parameters: Dict[str, Any], **keys: Any) -> Points:
    group = {"name": "a", "command": "run {x}", "parameters": parameters, "count": 1, **keys}
    (jobs,) = make_spec([rule("start", act("submit", "a"))], [group]).jobs
    assert jobs.parameters is not None
    return Points(jobs, jobs.parameters)


def taken(world: World, group: str = "a") -> List[Dict[str, Any]]:
    return [submit.params for submit in world.submits(group)]


def test_a_grid_goes_as_nested_loops() -> None:
    grid = points(XY)
    assert grid.total == 6
    assert [grid.point(n) for n in range(6)] == [{"x": x, "y": y} for x, y in itertools.product(XY["x"], XY["y"])]


def test_a_zip_goes_in_step() -> None:
    both = points({"x": [1, 2, 3], "y": {"range": [0, 1.5, 0.5]}}, sample="zip")
    assert [both.point(n) for n in range(both.total or 0)] == [
        {"x": 1, "y": 0.0},
        {"x": 2, "y": 0.5},
        {"x": 3, "y": 1.0},
    ]


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ({"range": [0, 5, 2]}, [0, 2, 4]),
        ({"range": [0, 4, 2]}, [0, 2]),
        ({"range": [3, 0, -1]}, [3, 2, 1]),
        ({"range": [1, 4]}, [1, 2, 3]),
        ({"range": [0, 1, 0.1]}, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        ({"linspace": [0, 1, 5]}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"linspace": [0, 0.3, 4]}, [0.0, 0.09999999999999999, 0.19999999999999998, 0.3]),
        ({"linspace": [2, 9, 1]}, [2.0]),
        ([True, "two words", -1.5], [True, "two words", -1.5]),
    ],
)
def test_the_values_of_an_axis(axis: Any, values: List[Any]) -> None:
    made = points({"x": axis})
    found = [made.point(n)["x"] for n in range(made.total or 0)]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_a_grid_of_10_to_the_15_costs_nothing_until_it_is_walked() -> None:
    tracemalloc.start()
    try:
        big = {name: {"linspace": [0, 1, 100_000]} for name in "xyz"}
        world = World(
            make_spec(
                [rule("start", act("submit", "a"))],
                [{"name": "a", "command": "run {x} {y} {z}", "parameters": big}],
                limits={"max_jobs": 10_000_000, "max_active": 5},
            ),
            {"a": Plan()},
        )
        world.run(until=100.0)
        state = json.dumps(snapshot(world.engine))
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert world.engine.samples.of("a", 0).total == 10**15  # type: ignore[union-attr]
    assert taken(world)[:2] == [{"x": 0.0, "y": 0.0, "z": 0.0}, {"x": 0.0, "y": 0.0, "z": 1 / 99_999}]
    assert len(taken(world)) >= 10
    assert len(state) < 20_000
    assert used < 8_000_000
    world.command("cancel")
    world.run()
    world.over()


@pytest.mark.parametrize("sample", ["random", "lhs", "sobol", "halton"])
def test_the_same_seed_gives_the_same_points(sample: str) -> None:
    one, again, other = (points(UNIFORM, sample=sample, samples=600, seed=seed) for seed in (7, 7, 8))
    forwards = [one.point(n) for n in range(600)]
    # as a restart asks: from the middle on, and back
    assert [again.point(n) for n in (300, 299, 511, 512, 0)] == [forwards[n] for n in (300, 299, 511, 512, 0)]
    assert [other.point(n) for n in range(600)] != forwards
    assert len({json.dumps(point) for point in forwards}) == 600
    for point in forwards:
        assert -1 <= point["x"] <= 1  # type: ignore[operator]
        assert 0.001 <= point["y"] <= 1000  # type: ignore[operator]
        assert {type(point["x"]), type(point["y"])} == {float}
    assert {point["z"] for point in forwards} == {"p", "q"}
    # half of it lies in either half; of a logarithm's too
    assert sum(point["x"] < 0 for point in forwards) == pytest.approx(300, abs=60)
    assert sum(point["y"] < 1 for point in forwards) == pytest.approx(300, abs=60)


def test_the_sampler_is_scipys() -> None:
    from scipy.stats import qmc

    made = points({"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}}, sample="sobol", samples=1024, seed=3)
    try:
        sampler = qmc.Sobol(2, rng=3)
    except TypeError:
        sampler = qmc.Sobol(2, seed=3)
    assert [list(made.point(n).values()) for n in range(1024)] == sampler.random(1024).tolist()


def test_a_latin_hypercube_has_each_layer_once() -> None:
    made = points({"x": {"uniform": [0, 50]}, "y": {"uniform": [0, 50]}}, sample="lhs", samples=50, seed=1)
    for name in "xy":
        assert sorted(int(made.point(n)[name]) for n in range(50)) == list(range(50))


def test_scipy_is_loaded_when_it_is_used_alone() -> None:
    code = (
        "import sys, ensemble.engine.engine, ensemble.service.core\n"
        "from ensemble.spec.load import load\nfrom ensemble.engine.engine import Engine\n"
        "text = 'jobs: [{name: a, command: \"x {x}\", parameters: {x: {uniform: [0, 1]}}, samples: 3}]\\n'\n"
        "text += 'rules: [{trigger: start, action: {name: submit, label: a}}]'\n"
        "Engine(load(text, 'a.yaml').spec, 'a').samples.of('a', 0).point(2)\n"
        "print([name for name in sys.modules if name.startswith('scipy.stats')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_submission_takes_the_next_points(world: Any) -> None:
    w = world(
        [
            rule("start", act("submit", "a")),
            rule("group-complete", act("submit", "a", count=1), name="a", repetitions="unlimited"),
        ],
        [{"name": "a", "command": "x {x}{y}", "parameters": XY, "count": 4}],
    )
    w.run()
    assert [(p["x"], p["y"]) for p in taken(w)] == list(itertools.product(XY["x"], XY["y"]))
    told = w.records("action")
    assert [(record["count"], record["text"]) for record in told] == [
        (4, "submit a (4 jobs)"),
        (1, "submit a (1 job)"),
        (1, "submit a (1 job)"),
        (0, "all 6 points of a have been taken, so nothing is submitted"),
    ]
    assert w.engine.final == "complete"
    assert [row["params"] for row in sorted(w.rows(), key=lambda row: (row["firing"], row["index"]))]
    assert {json.dumps(row["params"]) for row in w.rows()} == {json.dumps(params) for params in taken(w)}


def test_all_that_remain_is_the_default(world: Any) -> None:
    w = world(
        [rule("start", act("submit", "a", count=2), act("submit", "a"))],
        [{"name": "a", "command": "x {x}{y}", "parameters": XY}, "b"],
    )
    assert [(s.key.index, s.params["x"], s.params["y"]) for s in w.submits("a")] == [
        (n, x, y) for n, (x, y) in enumerate(itertools.product(XY["x"], XY["y"]))
    ]
    w.run()


def test_each_set_has_points_of_its_own(world: Any) -> None:
    w = world(
        [rule("start", act("submit", "a", count=2))],
        [
            {"name": "a", "command": "x {x}", "parameters": {"x": [1, 2, 3]}},
            {"name": "a", "command": "y {y}", "parameters": {"y": [7]}},
            {"name": "a", "command": "z"},
        ],
    )
    assert [(s.set, s.params) for s in w.submits("a")] == [
        (0, {"x": 1}),
        (0, {"x": 2}),
        (1, {"y": 7}),
        (2, {}),
        (2, {}),
    ]
    w.run()


@pytest.mark.parametrize(
    ("given", "count", "params"),
    [
        ({"x": 5}, None, [{"x": 5}]),
        ([{"x": 5}, {"x": "two words"}], None, [{"x": 5}, {"x": "two words"}]),
        ([{"x": 5}, {"x": 6}], 2, [{"x": 5}, {"x": 6}, {"x": 5}, {"x": 6}]),
    ],
)
def test_an_action_has_points_of_its_own(world: Any, given: Any, count: Any, params: List[Any]) -> None:
    more = {} if count is None else {"count": count}
    w = world(
        [rule("start", act("submit", "a", parameters=given, **more), act("submit", "a", count=1))],
        [{"name": "a", "command": "x {x}", "parameters": {"x": [1, 2]}}],
    )
    # the group's own points are not used up by it
    assert taken(w) == [*params, {"x": 1}]
    w.run()


def test_a_group_may_have_no_points_but_those_of_actions(world: Any) -> None:
    w = world([rule("start", act("submit", "a", parameters={"x": 1}))], [{"name": "a", "command": "x {x}", "count": 9}])
    assert taken(w) == [{"x": 1}]
    w.run()


def test_a_job_that_is_lost_keeps_its_point(world: Any) -> None:
    lost = Plan(status=1 << 8, exception=("node-failure", "node failure on node3"))
    w = world(
        [rule("start", act("submit", "a"))],
        [{"name": "a", "command": "x {x}", "parameters": {"x": [1, 2]}}],
        plans={"a": [lost, Plan(status=OK)]},
    )
    w.run()
    assert [(s.key.index, s.key.attempt, s.params) for s in w.submits("a")] == [
        (0, 0, {"x": 1}),
        (1, 0, {"x": 2}),
        (0, 1, {"x": 1}),
    ]


def test_what_is_held_keeps_its_points_over_a_restart() -> None:
    spec = make_spec(
        [rule("start", act("submit", "a"), act("submit", "a", parameters=[{"x": 8}, {"x": 9}]))],
        [{"name": "a", "command": "x {x}", "parameters": {"x": {"uniform": [0, 1]}}, "samples": 4, "seed": 5}],
        limits={"max_active": 1},
    )
    straight, broken = Engine(spec, "ens"), Engine(spec, "ens")
    found: List[List[Any]] = [[], []]
    for n in range(6):
        for place, engine in enumerate((straight, broken)):
            event = Begin(T0) if n == 0 else JobEvent(T0 + n, n, "clean", {})
            answers = engine.handle(event)
            for submit in (a for a in answers if type(a).__name__ == "Submit"):
                found[place].append(submit.params)
                engine.handle(JobEvent(T0 + n, n + 1, "submit", {}, submit.key))
        broken = restore(spec, json.loads(json.dumps(snapshot(broken))))
    assert len(found[0]) == 6
    assert found[0] == found[1]
    assert found[0][4:] == [{"x": 8}, {"x": 9}]


def test_rules_read_the_point_of_the_job(world: Any) -> None:
    w = world(
        [rule("start", act("submit", "a")), rule("job-success", act("log", value="x"), name="a")],
        [{"name": "a", "command": "x {x}", "parameters": {"x": [3.5]}}],
    )
    seen: List[Any] = []
    fire = w.engine.occasion
    w.engine.occasion = lambda rule, occasion: (seen.append(occasion.event), fire(rule, occasion))[1]
    w.run()
    assert [event["job"]["params"] for event in seen if event.get("job")] == [{"x": 3.5}]


def test_the_end_submits_points_too(world: Any) -> None:
    w = world(
        [rule("start", act("submit", "b")), rule("end", act("submit", "a"))],
        [{"name": "a", "command": "x {x}", "parameters": {"x": [1, 2]}}, "b"],
    )
    w.run()
    assert taken(w) == [{"x": 1}, {"x": 2}]


SOURCE = "def f(**kwargs): pass\n"
ASKED = {"name": "a", "command": "x {x}", "parameters": {"custom": "f"}}


def test_a_function_says_the_points(world: Any) -> None:
    left = [[{"x": 1}, {"x": 2}, {"x": 3}], [{"x": 4, "y": "z"}], []]
    w = world(
        [
            rule("start", act("submit", "a", urgency=7)),
            rule("group-complete", act("submit", "a"), name="a", repetitions="unlimited"),
        ],
        [{**ASKED, "count": 2}],
        custom=SOURCE,
        functions={"f": lambda request: {"answer": left.pop(0)}},
    )
    w.run()
    assert taken(w) == [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 4, "y": "z"}]
    assert [s.overrides for s in w.submits()] == [{"urgency": 7}] * 2 + [{}] * 2
    # what an answer left over is taken without a call
    assert [record["text"] for record in w.records("action")] == [
        "call f for points of a",
        "submit a (2 jobs)",
        "submit a (1 job)",
        "call f for points of a",
        "submit a (1 job)",
        "call f for points of a",
        "f has no more points of a, so nothing is submitted",
    ]
    assert all(request["points"] for request in w.called)
    assert w.called[0]["action"] == {"name": "submit", "label": "a", "urgency": 7, "set": 0}
    assert w.engine.samples.table(w.engine.taken) == {
        "a": [{"set": 0, "names": [], "sample": "custom", "seed": None, "total": None, "taken": 4}]
    }
    assert w.engine.final == "complete"


def test_a_group_that_waits_for_its_points_is_not_complete(world: Any) -> None:
    """The job of the other set ends first; the group is complete once, when nothing is left of either."""
    late = [[{"x": 1}]]
    w = world(
        [rule("start", act("submit", "a")), rule("group-complete", act("log", value="done"), name="a", id="done")],
        [{"name": "a", "command": "y"}, ASKED],
        plans={"a": Plan(wait=0.0, run=0.001, seen=0.0, ack=0.0)},
        custom=SOURCE,
        functions={"f": lambda request: {"answer": late.pop(0)}},
    )
    w.run()
    assert taken(w) == [{}, {"x": 1}]
    assert len(w.fired("done")) == 1
    assert w.fired("done")[0] > 0.01


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"answer": [{"x": [1]}]}, "expected a number, a string, true or false as the value of a parameter"),
        ({"answer": [{"x y": 1}]}, "expected names of parameters"),
        ({"answer": [{"x": 1}, {"y": 1}]}, "point 2 differs in 'x'"),
        ({"answer": [5]}, "expected a point"),
        ({"error": "failed: ValueError: no", "traceback": "Traceback"}, "function 'f' failed: ValueError: no"),
    ],
)
def test_a_wrong_answer_of_points_fails_the_rule(world: Any, answer: Any, told: str) -> None:
    w = world([rule("start", act("submit", "a"), id="r")], [ASKED], custom=SOURCE, functions={"f": lambda _: answer})
    w.run()
    assert taken(w) == []
    assert w.engine.final == "failed"
    assert told in (w.engine.reason or "")


def test_cancelling_a_group_takes_back_the_question(world: Any) -> None:
    w = world(
        [rule("start", act("submit", "a"), act("cancel", "a"))],
        [ASKED],
        custom=SOURCE,
        functions={"f": lambda _: {"answer": [{"x": 1}]}},
    )
    w.run()
    assert (taken(w), w.called, w.engine.final) == ([], [], "complete")


def test_points_that_were_answered_survive_a_restart() -> None:
    spec = make_spec([rule("start", act("submit", "a", count=1))], [ASKED], custom=SOURCE)
    engine = Engine(spec, "ens")
    (call,) = (a.call for a in engine.handle(Begin(T0)) if type(a).__name__ == "Call")
    engine = restore(spec, json.loads(json.dumps(snapshot(engine))))
    engine.handle(Answered(T0 + 1, call, {"answer": [{"x": 1}, {"x": 2}]}))
    engine = restore(spec, json.loads(json.dumps(snapshot(engine))))
    assert engine.answered == {"a/0": [{"x": 2}]}
    assert [job.params for job in engine.jobs.values()] == [{"x": 1}]
