# SPDX-License-Identifier: MIT
"""Simulated runs: the real engine on jobs that only pass virtual time.

It has more than 400 lines, because all of it is told by one kind of file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.engine.actions import Record
from ensemble.members.base import Submitter
from ensemble.service.fates import Fates
from ensemble.service.simulation import CUT, ENDLESS, STALLED, Setting, Simulation
from ensemble.spec.load import load, load_file
from ensemble.spec.simulate import Simulate

TOP = Path(__file__).resolve().parents[2]


class Run:
    """One run of a text, with the records that it wrote."""

    def __init__(self, text: str, nodes: Optional[List[Tuple[int, int]]] = None, seed: int = 1, **more: Any) -> None:
        spec = load(text, "f.yaml").spec
        said = spec.simulate.groups if spec.simulate is not None else {}
        table = spec.simulate or Simulate()
        self.records: List[Record] = []
        #: nodes and cores in use at each record
        self.used: List[Tuple[int, int]] = []
        setting = Setting(
            nodes or [(4, 0)],
            Fates(spec, said, seed),
            seed,
            signals=table.signals,
            outages=table.outages,
            watch=self._watch,
            **more,
        )
        self.simulation = Simulation(spec, setting)
        self.simulation.run()
        self.result = self.simulation.result()

    def _watch(self, record: Record, counts: Dict[str, Dict[str, int]]) -> None:
        self.records.append(record)
        self.used.append((counts["nodes"]["allocated"], counts["cores"]["allocated"]))

    def times(self, rule: str) -> List[float]:
        return next(one["times"] for one in self.result["rules"] if one["id"] == rule)

    def jobs(self, event: str, group: Optional[str] = None) -> List[Tuple[float, int]]:
        return [
            (record.t, record.data["job"])
            for record in self.records
            if record.type == "job" and record.data["event"] == event and group in (None, record.data["group"])
        ]

    def counts(self, group: str) -> Dict[str, int]:
        return {name: n for name, n in self.result["groups"][group].items() if n and name not in ("first", "last")}


def file(
    rules: str, simulate: str = "", jobs: str = "  - {name: g, command: sleep 7, count: 3}", more: str = ""
) -> str:
    head = f"jobs:\n{jobs}\nrules:\n{rules}\n{more}\n"
    return head + (f"simulate:\n{simulate}\n" if simulate else "")


START = "  - {id: begin, trigger: start, action: {name: submit, label: g}}"


def test_a_job_takes_a_minute_whatever_its_command() -> None:
    run = Run(file(START), nodes=[(1, 0)])
    assert run.result["state"] == "complete"
    assert run.result["makespan"] == 180
    assert run.counts("g") == {"submitted": 3, "finished": 3, "success": 3}
    assert run.jobs("start") == [(0, 1), (60, 2), (120, 3)]
    assert run.result["utilisation"] == {"nodes": 1.0, "cores": 1.0}


def test_durations_and_the_time_limit() -> None:
    jobs = "  - {name: g, command: 'true', parameters: {x: [10, 20, 30]}, duration: 25}"
    run = Run(file(START, "  groups: {g: {duration: 'x'}}", jobs, "failures: all"))
    assert [t for t, _ in run.jobs("finish")] == [10, 20, 25]
    assert run.counts("g") == {"submitted": 3, "finished": 3, "success": 2, "failed": 1}
    assert run.records[-1].data["state"] == "complete"


def test_failures_by_parameter_exit_code_and_signal() -> None:
    jobs = "  - {name: g, command: 'true', parameters: {x: [1, 2, 3]}}"
    rules = (
        START
        + "\n  - {trigger: job-fail, name: g, repetitions: unlimited, action: {name: log, value: 'code {event.job.exit_code} signal {event.job.signal}'}}"
    )
    run = Run(file(rules, "  groups: {g: {fail: [{rate: x == 1, exit: 7}, {rate: x == 2, signal: SEGV}]}}", jobs))
    assert [record.data["text"] for record in run.records if record.type == "log"] == [
        "code 7 signal no value",
        "code 139 signal 11",
    ]
    assert run.result["groups"]["g"]["success"] == 1


def test_retries_have_a_luck_of_their_own() -> None:
    jobs = "  - {name: g, command: 'true', count: 200, retries: 20}"
    run = Run(file(START, "  groups: {g: {fail: 50%}}", jobs))
    assert run.counts("g")["success"] == 200
    assert 120 < run.counts("g")["retried"] < 300


def test_reports_over_time_and_a_rule_that_ends_the_poor() -> None:
    jobs = "  - {name: g, command: 'true', parameters: {x: [1, 2, 3]}, metrics: {loss: {keep: min}}}"
    rules = (
        START
        + """
  - id: poor
    trigger: report
    name: g.loss
    when: event.value > 25
    repetitions: unlimited
    action: {name: kill, job: event}"""
    )
    run = Run(file(rules, "  groups: {g: {duration: 60, metrics: {loss: {value: 10 * x - report, every: 7}}}}", jobs))
    assert run.times("poor") == [7]
    assert run.counts("g") == {"submitted": 3, "finished": 3, "success": 2, "cancelled": 1}
    # eight reports each of the two, one of the third
    assert run.result["metrics"]["g"]["reported"]["loss"]["n"] == 17
    assert run.result["metrics"]["g"]["reported"]["loss"]["min"] == 2


def test_a_value_that_is_reported_at_the_end_comes_from_jobs_that_succeed() -> None:
    simulate = "  groups: {g: {fail: x > 2, metrics: {score: x * duration}}}"
    jobs = "  - {name: g, command: 'true', parameters: {x: [1, 2, 3]}, metrics: {score: {}}}"
    rules = (
        START
        + "\n  - {id: heard, trigger: report, name: g.score, repetitions: unlimited, action: {name: log, value: '{event.value}'}}"
    )
    run = Run(file(rules, simulate, jobs, "failures: all"))
    assert [record.data["text"] for record in run.records if record.type == "log"] == ["60", "120"]


def test_timers_heartbeats_and_cooldowns_on_virtual_time() -> None:
    rules = (
        START
        + """
  - {id: beat, trigger: heartbeat, every: 10s, repetitions: unlimited, action: {name: log, value: x}}
  - {id: late, trigger: timer, after: 100s, action: {name: log, value: x}}
  - {id: cool, trigger: metric, name: count.g.success, when: "> 0", repetitions: unlimited, cooldown: 50s, action: {name: log, value: x}}"""
    )
    run = Run(file(rules, "  groups: {g: {duration: 30}}"), nodes=[(1, 0)])
    assert run.times("beat") == list(range(10, 130, 10))
    assert run.times("late") == [100]
    # at the first success, and at the end of each cooldown in which one was missed
    assert run.times("cool") == [30, 80, 130]
    assert run.result["makespan"] == 130


def test_signals_of_actions_and_from_outside() -> None:
    rules = (
        START
        + """
  - {id: told, trigger: signal, name: more, repetitions: 2, actions: [{name: submit, label: g, count: "event.data.n"}, {name: signal, label: echo}]}
  - {id: echo, trigger: signal, name: echo, keep_alive: false, repetitions: unlimited, action: {name: log, value: x}}"""
    )
    simulate = "  signals: [{name: more, at: 1h, data: {n: 2}}, {name: more, at: 2h, data: {n: 1}}]"
    run = Run(file(rules, simulate))
    assert run.times("told") == run.times("echo") == [3600, 7200]
    assert run.counts("g")["submitted"] == 6
    assert run.result["state"] == "complete"


def test_more_jobs_than_may_wait_are_submitted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.service.simulation.MOST_PENDING", 10)
    jobs = "  - {name: g, command: 'true', count: 50}\n  - {name: h, command: 'true'}"
    rules = START + "\n  - {trigger: start, action: {name: submit, label: h}}"
    run = Run(file(rules, "", jobs))
    assert run.result["held_back"] == 41
    pending = [record for record in run.records if record.type == "job" and record.data["event"] == "submit"]
    assert [record.t for record in pending] == sorted(record.t for record in pending)
    assert sum(record.t == 0 for record in pending) == 10 + 4
    assert run.jobs("start", "h") == [(720, 51)]
    assert (run.result["makespan"], run.counts("g")["success"]) == (13 * 60, 50)
    # and those that wait for their answers end with the rest
    ended = Run(file(rules + "\n  - {trigger: timer, after: 70, action: {name: terminate}}", "", jobs))
    assert (ended.result["state"], ended.result["makespan"]) == ("complete", 70)


def test_urgency_and_cancel_by_rules() -> None:
    jobs = "  - {name: g, command: 'true', count: 3}\n  - {name: held, command: 'true', urgency: 0, count: 2}"
    rules = """
  - {trigger: start, actions: [{name: submit, label: held}, {name: submit, label: g}]}
  - {trigger: group-complete, name: g, action: {name: urgency, label: held, value: 20}}
  - {trigger: job-start, name: held, action: {name: cancel, label: held, state: pending}}"""
    run = Run(file(rules, "", jobs), nodes=[(1, 0)])
    assert run.jobs("start", "held") == [(180, 1)]
    assert run.counts("held") == {"submitted": 2, "finished": 2, "success": 1, "cancelled": 1}


def test_what_can_never_run_is_refused() -> None:
    run = Run(file(START, "", "  - {name: g, command: 'true', nodes: 5}"))
    assert run.result["state"] == "failed"
    assert "it asks for 5 nodes, and there are 1" in run.simulation.lines[0].data["text"]


def test_resources_are_the_simulated_ones() -> None:
    rules = (
        START
        + '\n  - {id: low, trigger: heartbeat, every: 10s, when: nodes.free == 1 and cores.free == 6, action: {name: log, value: "{queue.running}"}}'
    )
    run = Run(file(rules), nodes=[(4, 0), (4, 0), (4, 0)])
    # the numbers are those of the beat before
    assert run.times("low") in ([], [20])


def test_nodes_go_down_and_come_back() -> None:
    jobs = "  - {name: g, command: 'true', count: 4, cores: 4}"
    rules = (
        START
        + """
  - {id: down, trigger: resource-down, repetitions: unlimited, action: {name: log, value: "down {event.ranks}"}}
  - {id: up, trigger: resource-up, repetitions: unlimited, action: {name: log, value: "up {event.ranks}"}}
  - {id: lost, trigger: job-retry, repetitions: unlimited, action: {name: log, value: "{event.job.cause} on {event.job.ranks}"}}
  - {id: few, trigger: metric, name: nodes.down, when: "> 0", action: {name: log, value: "{cores.up} left"}}"""
    )
    outages = "  outages: [{at: 30, ranks: '1-2,9', duration: 60}]\n  groups: {g: {duration: 50}}"
    run = Run(file(rules, outages, jobs), nodes=[(4, 0)] * 4)
    logged = [record.data["text"] for record in run.records if record.type == "log"]
    assert logged == ["down 1-2", "infrastructure on 1", "infrastructure on 2", "8 left", "up 1-2"]
    # two go on, one of the others starts when they have ended, and so does the other
    assert [t for t, _ in run.jobs("start")] == [0, 0, 0, 0, 50, 50]
    assert run.counts("g") == {"submitted": 4, "finished": 4, "success": 4, "retried": 2}
    assert run.result["makespan"] == 100
    # 200 seconds of four nodes, and what was lost
    assert run.result["utilisation"]["nodes"] == pytest.approx((2 * 50 + 2 * 30 + 2 * 50) / (100 * 4))


def test_a_queue_without_nodes_waits_for_one() -> None:
    jobs = "  - {name: g, command: 'true', nodes: 2}"
    run = Run(file(START, "  outages: [{at: 0, ranks: 0, duration: 1h}]", jobs), nodes=[(4, 0)] * 2)
    assert [t for t, _ in run.jobs("start")] == [3600]
    never = Run(file(START, "  outages: [{at: 0, ranks: 0}]", jobs), nodes=[(4, 0)] * 2)
    assert (never.result["state"], never.jobs("start")) == (STALLED, [])


def test_one_that_waits_for_ever_is_stalled() -> None:
    run = Run(file(START + "\n  - {id: told, trigger: signal, name: more, action: {name: stop}}"))
    assert run.result["state"] == STALLED
    assert run.result["reason"] == "nothing more happens: rule 'told' waits for what does not come"
    held = Run(file(START, "", "  - {name: g, command: 'true', urgency: 0}"))
    assert (held.result["state"], held.result["reason"]) == (
        STALLED,
        "nothing more happens: 1 jobs cannot start",
    )


def test_one_that_only_beats_on_is_endless() -> None:
    rules = (
        START
        + "\n  - {trigger: heartbeat, every: 10s, keep_alive: true, repetitions: unlimited, action: {name: log, value: x}}"
    )
    assert Run(file(rules)).result["state"] == ENDLESS


def test_a_long_job_beside_heartbeats_is_not_endless() -> None:
    """A year of heartbeats passes while it runs, and a rule waits for a week after it."""
    rules = (
        START.replace("label: g", "label: g, count: 1")
        + "\n  - {trigger: heartbeat, every: 1m, repetitions: unlimited, when: event.x == 1, action: {name: log, value: x}}"
        + "\n  - {trigger: timer, after: 200d, action: {name: submit, label: g, count: 1}}"
    )
    rules = rules.replace("when: event.x == 1", "when: count.g.success == 9")
    run = Run(file(rules, "  groups: {g: {duration: 100d}}"))
    assert (run.result["state"], run.result["makespan"]) == ("complete", 300 * 86400)


def test_cut_off() -> None:
    run = Run(file(START), until=90.0, nodes=[(1, 0)])
    assert (run.result["state"], run.result["reason"]) == (CUT, "cut off after 1.5m")
    assert (run.result["makespan"], run.result["utilisation"]["cores"]) == (90, 1.0)
    assert run.counts("g") == {"submitted": 3, "running": 1, "active": 2, "finished": 1, "success": 1, "pending": 1}


# ---- who feeds whom

AGAIN = (
    START
    + "\n  - {id: again, trigger: job-success, name: g, repetitions: unlimited, action: {name: submit, label: g, count: 1}}"
)


def test_a_runaway_ends_at_its_limit_and_the_loop_is_named() -> None:
    run = Run(file(AGAIN, more="limits: {max_jobs: 50}"))
    assert run.result["state"] == "halted"
    (loop,) = run.result["loops"]
    assert (loop["rules"], loop["groups"]) == (["again"], ["g"])
    assert loop["text"] == "'again' -> jobs of g -> 'again'"
    # the three at first are the first rule's
    assert loop["times"] == 50 - 3
    assert Run(file(AGAIN), limits={"max_jobs": 5}).result["jobs"]["submitted"] == 5


def test_a_loop_over_two_groups_and_one_over_a_variable() -> None:
    jobs = "  - {name: g, command: 'true'}\n  - {name: h, command: 'true'}"
    rules = (
        START
        + """
  - {id: there, trigger: group-complete, name: g, repetitions: unlimited, action: {name: submit, label: h}}
  - {id: back, trigger: metric, name: count.h.success, when: "> 0", repetitions: unlimited, action: {name: submit, label: g}}"""
    )
    (loop,) = Run(file(rules, "", jobs, "limits: {max_firings: 20}")).result["loops"]
    assert (loop["rules"], loop["groups"]) == (["back", "there"], ["g", "h"])
    rules = (
        START
        + """
  - {id: up, trigger: metric, name: var.n, when: "> 0", repetitions: unlimited, action: {name: set, label: n, value: "var.n + 1"}}
  - {id: off, trigger: job-success, name: g, action: {name: set, label: n, value: 1}}"""
    )
    run = Run(file(rules, more="variables: {n: 0}\nlimits: {max_firings: 30}"))
    assert [loop["rules"] for loop in run.result["loops"]] == [["up"]]


def test_a_file_without_a_loop_names_none() -> None:
    rules = START + "\n  - {trigger: job-success, name: g, repetitions: 2, action: {name: submit, label: h}}"
    assert Run(file(rules, "", "  - {name: g, command: 'true'}\n  - {name: h, command: 'true'}")).result["loops"] == []


# ---- functions

CUSTOM = (
    START
    + "\n  - {id: ask, trigger: group-complete, name: g, repetitions: unlimited, action: {name: custom, label: think, on_error: fail}}"
)


def test_functions_run_beside_the_virtual_clock() -> None:
    rules = CUSTOM.replace(", on_error: fail", "")
    code = """
custom: |
  def think(results, state, event, metrics, **more):
      state["calls"] = state.get("calls", 0) + 1
      print(state["calls"], [round(row["duration"]) for row in results], [row["t_end"] for row in results])
      if state["calls"] < 3:
          return Action("submit", label="g", count=state["calls"])
"""
    run = Run(
        file(rules, "  groups: {g: {duration: 1d}}", "  - {name: g, command: 'true', count: 2}", code),
        submitter=Submitter(),
    )
    day = 86400
    assert run.times("ask") == [day, 2 * day, 3 * day]
    assert [line.data["text"] for line in run.simulation.lines] == [
        f"1 [{day}, {day}] [{day}.0, {day}.0]",
        f"2 [{day}] [{2 * day}.0]",
        f"3 [{day}, {day}] [{3 * day}.0, {3 * day}.0]",
    ]
    assert run.result["state"] == "complete"
    assert [loop["rules"] for loop in run.result["loops"]] == [["ask"]]


def test_a_function_that_fails_fails_its_rule() -> None:
    rules = CUSTOM.replace(", on_error: fail", "")
    code = "custom: |\n  def think(**more):\n      raise ValueError('no idea')\n"
    run = Run(file(rules, more=code), submitter=Submitter())
    assert run.result["state"] == "failed"
    assert "no idea" in run.result["reason"]


def test_a_function_that_adds_a_rule() -> None:
    rules = CUSTOM.replace(", on_error: fail", "").replace("unlimited", "1")
    code = """
custom: |
  def think(**more):
      return [Rule("timer", after=30, action={"name": "submit", "label": "g", "count": 1}), None]
"""
    run = Run(file(rules, more=code), submitter=Submitter())
    assert run.counts("g")["submitted"] == 4
    added = next(rule for rule in run.result["rules"] if rule["trigger"] == "timer")
    assert added["times"] == [90.0]


# ---- chance


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    text = (TOP / "examples" / "rehearsal.yaml").read_text()
    one, two, other = (Run(text, seed=seed) for seed in (4, 4, 5))
    assert json.dumps(one.result) == json.dumps(two.result)
    assert one.records == two.records
    assert one.result["metrics"] != other.result["metrics"]


def test_a_jobs_luck_does_not_depend_on_the_others() -> None:
    """The same job takes the same time whatever else runs, on whatever queue."""
    simulate = "  groups: {g: {duration: 'lognormal(60, 30)', fail: 30%}}"
    jobs = "  - {name: g, command: 'true', count: 30}\n  - {name: h, command: 'true', count: 5}"
    alone = Run(file(START, simulate, jobs, "failures: all"))
    beside = Run(
        file(
            START.replace("actions:", "").replace(
                "action: {name: submit, label: g}", "actions: [{name: submit, label: g}, {name: submit, label: h}]"
            ),
            simulate,
            jobs,
            "failures: all",
        ),
        nodes=[(7, 0)],
    )

    def lives(run: Run) -> Dict[int, float]:
        begun = {job: t for t, job in run.jobs("start", "g")}
        return {job: round(t - begun[job], 6) for t, job in run.jobs("finish", "g")}

    assert lives(alone) == lives(beside)


def pairs(*values: Any) -> Any:
    return st.tuples(st.sampled_from(values), st.sampled_from(values))


#: of two groups: jobs, cores, nodes, durations, urgencies; and firings of a rule
FILES = st.tuples(
    pairs(1, 2, 5),
    pairs(1, 2, 3),
    pairs(None, 1, 2),
    pairs("30", "uniform(10, 90)", "lognormal(60, 40)", "exponential(20)"),
    pairs(3, 16, 20),
    st.integers(1, 4),
)


@settings(max_examples=60, deadline=None)
@given(FILES, st.integers(0, 1000), st.lists(st.integers(3, 5), min_size=2, max_size=4))
def test_never_more_in_use_than_there_is_and_first_come_first_served(drawn: Any, seed: int, nodes: List[int]) -> None:
    counts, cores, asked, durations, urgencies, times = drawn
    jobs = "\n".join(
        f"  - {{name: {name}, command: 'true', count: {counts[n]}, cores: {cores[n]}, urgency: {urgencies[n]}"
        + (f", nodes: {asked[n]}" if asked[n] else "")
        + "}"
        for n, name in enumerate(("g", "h"))
    )
    rules = f"""{START}
  - {{trigger: start, action: {{name: submit, label: h}}}}
  - {{trigger: job-finish, name: g, repetitions: {times}, action: {{name: submit, label: h}}}}"""
    simulate = f"  groups: {{g: {{duration: '{durations[0]}', fail: 20%}}, h: {{duration: '{durations[1]}'}}}}"
    run = Run(file(rules, simulate, jobs, "failures: all"), nodes=[(n, 0) for n in nodes], seed=seed)
    assert run.result["state"] == "complete"
    assert all(used[0] <= len(nodes) and used[1] <= sum(nodes) for used in run.used)
    assert run.result["most"]["cores"] <= sum(nodes)
    use = run.result["utilisation"]
    assert 0 < use["cores"] <= 1.0000001
    assert 0 < use["nodes"] <= 1.0000001
    # at each start no job waits that is more urgent, or as urgent and submitted earlier
    waiting: Dict[int, int] = {}
    for record in run.records:
        job, event = record.data.get("job"), record.data.get("event")
        if event == "submit":
            waiting[job] = urgencies["gh".index(record.data["group"])]
        elif event == "start":
            urgency = waiting.pop(job)
            assert not [other for other, of in waiting.items() if (-of, other) < (-urgency, job)]
    assert not waiting
    # and what the jobs had in all is what was in use
    width = {name: cores[n] * (asked[n] or 1) for n, name in enumerate(("g", "h"))}
    had = 0.0
    for name in ("g", "h"):
        begun = {job: t for t, job in run.jobs("start", name)}
        had += sum((t - begun[job]) * width[name] for t, job in run.jobs("finish", name))
    assert use["cores"] * run.result["makespan"] * sum(nodes) == pytest.approx(had)


@pytest.mark.parametrize("name", sorted(path.stem for path in (TOP / "examples").glob("*.yaml")))
def test_examples(name: str) -> None:
    spec = load_file(TOP / "examples" / f"{name}.yaml").spec
    said = spec.simulate.groups if spec.simulate is not None else {}
    simulation = Simulation(
        spec, Setting([(8, 1)] * 4, Fates(spec, said, 1), 1, submitter=Submitter(), file=f"{name}.yaml")
    )
    simulation.run()
    expected = {"foreign-event": STALLED}
    assert simulation.state == expected.get(name, "complete"), simulation.reason
