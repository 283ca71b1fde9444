# SPDX-License-Identifier: MIT
"""`algorithm:` of a file: what it expands to, that the expansion is a file, and each fault at its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.algorithms.found import SHIPPED
from ensemble.algorithms.found import load as load_class
from ensemble.cli.main import main
from ensemble.errors import SpecError
from ensemble.spec import writing
from ensemble.spec.beside import Beside, Folder
from ensemble.spec.flow import flow
from ensemble.spec.load import load, load_file

TOP = Path(__file__).resolve().parents[2]
JOBS = """jobs:
  - name: sim
    command: sim {x} {y}
    parameters: {x: {uniform: [0, 1]}, y: [1, 2, 3, 4]}
    samples: 64
    metrics: {loss: {}, epoch: {}}
"""
#: one good entry of each, whose group is `sim`
GOOD = {
    "sweep": "{name: sweep, group: sim, max_concurrent: 8}",
    "asha": "{name: asha, group: sim, metric: loss, resource: epoch, max_resource: 64}",
    "successive-halving": "{name: successive-halving, group: sim, metric: loss, max_resource: 64}",
    "adaptive-sampling": "{name: adaptive-sampling, group: sim, metric: loss, rtol: 0.05, max_samples: 50}",
    "evolve": "{name: evolve, group: sim, metric: loss}",
    "autoscale": "{name: autoscale, group: probe, grow_above: 60, shrink_below: 10}",
    "bisect": "{name: bisect, group: probe, parameter: z, bracket: [0, 1], xtol: 1e-3}",
}
SCALER = "scaler: {name: drain, min: 2, max: 9, timeout: 2m, cooldown: 5}\n"
SUBMIT = "{name: submit, label: probe}"
PROBE = "  - {name: probe, command: 'probe {z}'}\n"


def text(*entries: str, more: str = "") -> str:
    listed = f"algorithm: {entries[0]}\n" if len(entries) == 1 else f"algorithm: [{', '.join(entries)}]\n"
    if "autoscale" in listed:
        # it submits nothing
        more = SCALER + "rules:\n  - trigger: start\n    actions: [" + SUBMIT + ", {name: submit, label: sim}]\n"
    return JOBS + PROBE + listed + (more or f"rules: [{{trigger: start, action: {SUBMIT}}}]\n")


def faults(source: str) -> List[Any]:
    with pytest.raises(SpecError) as raised:
        load(source, "it.yaml", Folder("."))
    return list(raised.value.faults)


@pytest.mark.parametrize("name", SHIPPED)
def test_each_expands_to_a_file_that_means_the_same(name: str) -> None:
    loaded = load(text(GOOD[name]), "it.yaml", Folder("."))
    assert not loaded.warnings, "\n".join(map(str, loaded.warnings))
    assert {rule.algorithm for rule in loaded.spec.rules} == {None, name}
    again = load(writing.text(loaded.written.root), "other.yaml", Folder("."))
    assert again.spec == loaded.spec
    assert not again.warnings
    assert again.files == {}, "it has no algorithm any more"
    assert writing.text(again.written.root) == writing.text(loaded.written.root)


#: autoscale submits nothing: the jobs are others' affair
@pytest.mark.parametrize("name", sorted(set(SHIPPED) - {"autoscale"}))
def test_a_file_needs_no_rules_of_its_own(name: str) -> None:
    jobs = "jobs:\n" + PROBE if name == "bisect" else JOBS
    entry = GOOD[name].replace("group: sim, ", "").replace("group: probe, ", "")
    loaded = load(f"{jobs}algorithm: {entry}\n", "it.yaml", Folder("."))
    assert loaded.spec.rules
    assert not loaded.warnings, "\n".join(map(str, loaded.warnings))


@pytest.mark.parametrize("name", SHIPPED)
def test_options_have_sentences_and_defaults_that_are_values(name: str) -> None:
    for option in load_class(name).OPTIONS:
        assert option.description, option.name
        assert (
            option.required
            or option.default is None
            or option.kind in ("choice", "variable", "boolean")
            or (
                (option.low is None or option.default >= option.low)
                and (option.high is None or option.default <= option.high)
            )
        )


def test_rules_of_the_file_stay_before_those_of_algorithms() -> None:
    loaded = load(text(GOOD["sweep"], GOOD["bisect"]), "it.yaml", Folder("."))
    assert [rule.id for rule in loaded.spec.rules][:3] == ["rule-1", "sweep-start", "sweep-next"]
    assert [rule.id for rule in loaded.spec.rules][-2:] == ["bisect-start", "bisect-round"]


def test_one_that_rests_has_rules_that_rest() -> None:
    more = "rules: [{trigger: signal, name: sweep-done, action: {name: enable, label: second}}]\n"
    two = "{name: asha, id: second, enabled: false, group: sim, metric: loss, max_resource: 64}"
    loaded = load(text(GOOD["sweep"], two, more=more), "it.yaml", Folder("."))
    rest = {rule.id: rule.enabled for rule in loaded.spec.rules}
    assert rest["sweep-start"] is True
    assert {on for id, on in rest.items() if id.startswith("second-")} == {False}


def test_the_service_takes_what_the_command_has_sent_along() -> None:
    source = text(GOOD["asha"])
    sent = load(source, "it.yaml", Folder(".")).files
    assert list(sent) == ["algorithm asha"]
    changed = {key: value.replace("asha-rung-0", "asha-rung-first") for key, value in sent.items()}
    loaded = load(source, "it.yaml", Beside(changed))
    assert "asha-rung-first" in [rule.id for rule in loaded.spec.rules]
    assert loaded.files == changed
    # what was sent for another one, or is damaged, is not taken; a shipped one is expanded
    for wrong in ('["sweep", []]', "[", '{"a": 1}', '["asha", [1]]'):
        assert "asha-rung-0" in [
            rule.id for rule in load(source, "it.yaml", Beside({"algorithm asha": wrong})).spec.rules
        ]


def test_the_service_expands_none_of_a_package() -> None:
    with pytest.raises(SpecError) as raised:
        load(text("{name: theirs, group: sim}"), "it.yaml", Beside())
    (fault,) = raised.value.faults
    assert fault.message == "the rules of the algorithm 'theirs' were not sent along with the file"
    rules = '["theirs", [{"id": "theirs-go", "trigger": "start", "action": {"name": "submit", "label": "sim"}}]]'
    loaded = load(text("{name: theirs, group: sim}"), "it.yaml", Beside({"algorithm theirs": rules}))
    assert loaded.spec.rules[-1].id == "theirs-go"


LINE = 8
CASES: List[Tuple[str, int, str, str]] = [
    # entry, column, message, expected or suggestion
    ("{name: ahsa, group: sim}", 19, "no algorithm is called 'ahsa'", "asha"),
    ("{nme: asha}", 12, "an algorithm has no name", "name: one of"),
    ("asha", 12, "algorithm cannot be 'asha'", "a mapping such as"),
    ("[]", 12, "algorithm cannot be an empty list", "a mapping such as"),
    ("[asha]", 13, "an algorithm cannot be 'asha'", "a mapping such as"),
    ("{name: [asha]}", 19, "name cannot be a list", "one of adaptive-sampling"),
    ("{name: sweep}", 12, "the algorithm does not say which group it drives", "group: one of sim, probe"),
    ("{name: sweep, group: smi}", 33, "no group is called 'smi'", "sim"),
    ("{name: sweep, group: [sim]}", 33, "group cannot be a list", "one of sim"),
    ("{name: sweep, group: sim, max_concurent: 3}", 38, "sweep has no option 'max_concurent'", "max_concurrent"),
    ("{name: sweep, group: sim, max_concurrent: 0}", 54, "max_concurrent cannot be '0'", "a whole number from 1 up to 1e+06"),
    ("{name: sweep, group: sim, max_concurrent: many}", 54, "max_concurrent cannot be 'many'", "a whole number"),
    ("{name: sweep, group: sim, max_concurrent: 1.5}", 54, "max_concurrent cannot be '1.5'", "a whole number"),
    ("{name: sweep, group: sim, max_concurrent: true}", 54, "max_concurrent cannot be 'true'", "a whole number"),
    ("{name: sweep, group: sim, num_samples: 65}", 51, "the group 'sim' has 64 points", "at most 64"),
    ("{name: sweep, group: probe}", 19, "sweep cannot tell how many jobs 'probe' is to have", "num_samples"),
    ("{name: sweep, group: sim, enabled: 1}", 47, "enabled cannot be '1'", "true or false"),
    ("{name: sweep, group: sim, id: 1st}", 42, "id cannot be '1st'", "an algorithm's id"),
    ("{name: sweep, group: sim, id: }", 38, "the key 'id' has no value", "a value"),
    ("{name: asha, group: sim, metric: los, max_resource: 9}", 45, "the group declares no variable 'los'", "loss"),
    ("{name: asha, group: sim, max_resource: 9}", 19, "asha has no metric", "metric: the reported variable"),
    ("{name: asha, group: sim, metrc: loss, max_resource: 9}", 37, "asha has no option 'metrc'", "metric"),
    ("{name: asha, group: sim, metric: loss}", 19, "max_resource is missing", "max_resource: "),
    ("{name: asha, group: sim, metric: loss, max_t: 1}", 58, "max_resource 1 is not above min_resource 1", "more than 1"),
    ("{name: asha, group: sim, metric: loss, max_resource: 3}", 65, "no job is ever stopped", "a greater max_resource"),
    ("{name: asha, group: sim, metric: loss, max_resource: 9, mode: mn}", 74, "mode cannot be 'mn'", "min"),
    ("{name: asha, group: sim, metric: loss, max_t: 9, max_resource: 9}", 75, "max_resource and max_t are the same option", ""),
    ("{name: asha, group: sim, metric: loss, max_resource: 9, eta: 1}", 73, "eta cannot be '1'", "a number above 1"),
    ("{name: asha, group: sim, metric: loss, max_resource: 9, eta: 1.1}", 73, "two rungs would be at report 2", "min_resource from 1"),
    ("{name: asha, group: sim, metric: loss, max_t: 1e308, grace_period: 1e300, eta: 1e6, min_early_stopping_rate: 9}", 58, "no job is ever stopped", ""),
    ("{name: bisect, group: probe, parameter: z, bracket: [-1e308, 1e308], xtol: 1}", 64, "too far apart", "a number"),
    ("{name: successive-halving, group: sim, metric: loss, max_resource: 1e3}", 19, "64 jobs are too few for 5 rungs", "at least 256"),
    ("{name: successive-halving, group: sim, metric: loss, budget: 9}", 73, "a budget of 9 gives 64 jobs nothing", "a greater"),
    ("{name: successive-halving, group: sim, metric: loss, budget: 900, max_resource: 9}", 92, "budget says it all", "one of them"),
    ("{name: adaptive-sampling, group: sim, metric: loss, max_samples: 50}", 19, "adaptive-sampling has no bound", "atol or rtol"),
    ("{name: adaptive-sampling, group: sim, metric: loss, atol: 1, max_samples: 3}", 86, "max_samples 3 is below", "from 5"),
    ("{name: adaptive-sampling, group: sim, metric: loss, atol: -1, max_samples: 9}", 70, "atol cannot be '-1'", "a number from 0"),
    ("{name: bisect, group: sim, parameter: x, bracket: [0, 1], xtol: 1}", 50, "has other parameters (y)", "this one alone"),
    ("{name: bisect, group: probe, parameter: z, bracket: [1, 0], xtol: 1}", 64, "1 is not below 0", "[low, high]"),
    ("{name: bisect, group: probe, parameter: z, bracket: 1, xtol: 1}", 64, "bracket cannot be '1'", "two numbers"),
    ("{name: bisect, group: probe, parameter: z-z, bracket: [0, 1], xtol: 1}", 52, "parameter cannot be 'z-z'", "letters"),
    ("{name: bisect, group: probe, parameter: z, bracket: [0, 1], xtol: 1}", 78, "no wider than xtol", "a smaller one"),
    ("{name: bisect, group: probe, parameter: z, bracket: [0, 8], xtol: 0.1, integer: true}", 92, "whole numbers has", "false"),
    ("{name: bisect, group: probe, parameter: z, bracket: [0, 8], xtol: 0.1, target: 2}", 91, "go together", "both"),
    ("{name: evolve, group: probe, metric: duration}", 19, "has no parameters of its own", "parameters in the group"),
    ("{name: evolve, group: sim, metric: loss, elite: 30}", 60, "elite 30 is above the population, 20", ""),
    ("{name: evolve, group: sim, metric: loss, population: 65}", 65, "has 64 points alone", "at most 64"),
    ("{name: autoscale, group: probe, grow_above: 5, shrink_below: 5}", 73, "shrink_below 5 is not below grow_above 5", "less than 5"),
    ("{name: autoscale, group: probe, grow_above: 5, shrink_below: -1}", 73, "shrink_below cannot be '-1'", "a number from 0"),
    ("{name: autoscale, group: probe, grow_above: 0, shrink_below: 0}", 56, "grow_above cannot be '0'", "a number above 0"),
    ("{name: autoscale, group: probe, grow_above: 5}", 19, "autoscale has no shrink_below", "shrink_below: below it"),
    ("{name: autoscale, group: probe, grow_above: 5, shrink_below: 1, metric: wait}", 84, "metric cannot be 'wait'", "waiting"),
    ("{name: autoscale, group: probe, grow_above: 5, shrink_below: 1, cooldown: soon}", 86, "cooldown cannot be 'soon'", "a duration such as 30s"),
    ("{name: autoscale, group: probe, grow_above: 5, shrink_below: 1, every: 0}", 83, "every cannot be '0'", "above 0"),
    ("{name: autoscale, group: probe, grow_above: 5, shrink_below: 1, factor: 1}", 84, "factor cannot be '1'", "a number above 1"),
    ("{name: autoscale, group: probe, grow_above: 5, shrink_below: 1, step: 1.5}", 82, "step cannot be '1.5'", "a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "column", "message", "hint"), CASES, ids=[case[0][:60] for case in CASES])
def test_faults_have_their_places(entry: str, column: int, message: str, hint: str) -> None:
    (fault,) = faults(text(entry))
    assert message in fault.message
    assert (fault.line, fault.column) == (LINE, column), str(fault)
    assert hint in (fault.suggestion or "") or hint in (fault.expected or ""), str(fault)


def test_all_faults_of_one_are_told_at_once() -> None:
    found = faults(text("{name: asha, group: sim, metric: los, mode: mx, max_t: x}"))
    assert [fault.message for fault in found] == [
        "the group declares no variable 'los'", "mode cannot be 'mx'", "max_t cannot be 'x'",
    ]  # fmt: skip


def test_ids_are_given_once() -> None:
    (fault,) = faults(text(GOOD["sweep"], "{name: sweep, group: probe, num_samples: 2}"))
    assert fault.message == "two algorithms have the id 'sweep'; the first one is in line 8"
    more = "rules: [{id: sweep-start, trigger: start, action: {name: submit, label: probe}}]\n"
    assert [f.message for f in faults(text(GOOD["sweep"], more=more))] == [
        "the id 'sweep-start' is given twice; the first one is in line 9"
    ]
    more = "rules: [{id: sweep, trigger: start, action: {name: submit, label: probe}}]\n"
    assert [f.message for f in faults(text(GOOD["sweep"], more=more))] == ["the id 'sweep' is that of an algorithm"]


def test_an_action_names_an_algorithm_or_a_rule() -> None:
    more = "rules: [{trigger: start, action: {name: enable, label: swep}}]\n"
    (fault,) = faults(text(GOOD["sweep"], more=more))
    assert fault.message == "no rule or algorithm has the id 'swep'"
    assert fault.suggestion == "sweep"


def test_a_group_of_two_sets_is_none_that_an_algorithm_drives() -> None:
    twice = JOBS + "  - {name: sim, command: other}\n" + f"algorithm: {GOOD['sweep']}\n"
    (fault,) = faults(twice)
    assert fault.message == "the group 'sim' has 2 sets, and an algorithm drives a group of one"


def test_faults_of_the_group_are_told_and_nothing_else() -> None:
    source = text(GOOD["sweep"]).replace("{uniform: [0, 1]}", "{uniform: [1, 0]}")
    assert [fault.message for fault in faults(source)] == ["uniform of 'x' is wrong: 1 is not below 0"]


def test_a_called_algorithm_must_be_one() -> None:
    more = "rules: [{trigger: start, action: {name: custom, label: 'ahsa:x'}}]\n"
    (fault,) = faults(text(GOOD["sweep"], more=more))
    assert fault.message == "no algorithm is called 'ahsa'"


def test_rules_may_make_an_algorithm_of_their_own() -> None:
    """What an expansion shows can be written by hand."""
    more = "rules: [{id: a, algorithm: mine, trigger: enabled, action: {name: disable, label: mine}}]\n"
    loaded = load(JOBS + more, "it.yaml", Folder("."))
    assert loaded.spec.rules[0].algorithm == "mine"


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("'1e-5'", "1e-5"), ("1e-5", 1e-5), ("0700", 700), ("'yes'", "yes"), ("yes", "yes"), ("'0o17'", "0o17"), ("1:30", "1:30"),
        ("'~'", "~"), ("''", ""), ("'#x'", "#x"), ('"a\\tb"', "a\tb"), ("'true'", "true"), ("1.10", 1.1), ("'- a'", "- a"),
        ("|\n    a b \n    c", "a b \nc\n"), ("|\n    a\n      b\n", "a\n  b\n"), ("'null'", "null"), ("'a: b'", "a: b"), ("'{x}'", "{x}"),
    ],
)  # fmt: skip
def test_what_is_written_reads_back(written: str, means: Any) -> None:
    source = f"description: {written}\n" + JOBS + "rules: [{trigger: start, action: {name: submit, label: sim}}]\n"
    first = load(source, "it.yaml", Folder("."))
    again = load(writing.text(first.written.root), "it.yaml", Folder("."))
    assert again.spec == first.spec
    node = first.written.root.get("description")
    back = again.written.root.get("description")
    assert node is not None
    assert back is not None
    assert node.plainly() == means == back.plainly()
    assert node.text == back.text


@pytest.mark.parametrize("path", sorted((TOP / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_can_be_written_again(path: Path) -> None:
    first = load_file(path)
    again = load(writing.text(first.written.root), str(path), Folder(str(path.parent)))
    assert again.spec == first.spec


def options_of(name: str) -> Dict[str, Any]:
    return {option.name: option for option in load_class(name).OPTIONS}


def test_names_are_those_of_the_literature() -> None:
    assert {"min_resource", "max_resource", "reduction_factor", "min_early_stopping_rate"} <= set(options_of("asha"))
    aliases = {option.alias for option in options_of("asha").values()}
    assert {"grace_period", "max_t", "time_attr", "eta"} <= aliases
    assert {"xtol", "bracket", "maxiter"} <= set(options_of("bisect"))


def test_a_graph_leads_from_the_rule_that_enables_an_algorithm_to_where_it_begins() -> None:
    drawn = flow(load_file(TOP / "examples" / "explore-refine.yaml").spec)
    edges = {(edge.source, edge.target, edge.kind) for edge in drawn.edges}
    assert ("rule:turn", "rule:refine-start", "enables") in edges
    assert ("rule:turn", "rule:explore-start", "disables") in edges
    assert ("begin:start", "rule:explore-start", "triggers") in edges
    assert not any(target == "rule:refine" for _, target, _ in edges)


def test_the_command_prints_the_file_as_plain_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(text(GOOD["sweep"]))
    assert main(["validate", "--expand", str(path)]) == 0
    shown = capsys.readouterr().out
    assert load(shown, "it.yaml", Folder(".")).spec == load_file(path).spec
    assert main(["validate", "--expand", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["expanded"] == shown
    path.write_text(text("{name: sweep}"))
    assert main(["validate", "--expand", str(path)]) == 2
    assert capsys.readouterr().out == ""


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["loss", "duration", "x", "min", "max"]),
    st.integers(1, 100), st.floats(0, 10), st.lists(st.floats(-10, 10), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(SHIPPED)), data=st.data())
def test_whatever_stands_in_options_is_a_file_or_faults(name: str, data: st.DataObject) -> None:
    words = [option.name for option in load_class(name).OPTIONS] + ["strange"]
    options = data.draw(st.dictionaries(st.sampled_from(words), VALUES, max_size=len(words)))
    # most of them good, so that more than the first look is reached
    base = {**yaml.safe_load(GOOD[name]), **(options if data.draw(st.booleans()) else dict(list(options.items())[:1]))}
    source = f"{JOBS}{PROBE}algorithm: {json.dumps(base)}\n"
    try:
        loaded = load(source, "it.yaml", Folder("."))
    except SpecError:
        return
    assert all(rule.algorithm == name for rule in loaded.spec.rules)
    assert load(writing.text(loaded.written.root), "it.yaml", Folder(".")).spec == loaded.spec


def rules_of(source: str) -> Dict[str, Any]:
    return {rule.id: rule for rule in load(source, "it.yaml", Folder(".")).spec.rules}


@pytest.mark.parametrize(
    ("metric", "looked"),
    [
        ("waiting", "count.probe.pending > 0 and mean.probe.waiting > 60"),
        ("pending", "count.probe.pending > 0 and ewm.probe.finished.pending > 60"),
        ("backlog", "count.probe.pending > 0 and count.probe.pending / max(nodes.up, 1) > 60"),
        ("queue", "queue.pending > 0 and queue.pending / max(nodes.up, 1) > 60"),
    ],
)
def test_autoscale_keeps_to_the_bounds_and_times_of_the_scaler(metric: str, looked: str) -> None:
    entry = GOOD["autoscale"].replace("}", f", metric: {metric}, every: 1.5m, cooldown: 20, step: 3}}")
    source = text(entry).replace(SUBMIT, SUBMIT.replace("}", ", count: 900}"))
    loaded = load(source, "it.yaml", Folder("."))
    assert not loaded.warnings, "\n".join(map(str, loaded.warnings))
    rules = {rule.id: rule for rule in loaded.spec.rules}
    grow, shrink, end = (rules[f"autoscale-{word}"] for word in ("grow", "shrink", "end"))
    held = "ensemble.elapsed >= var.autoscale-held"
    assert str(grow.when) == f"{held} and {looked} and nodes.up < 9 and nodes.up < var.autoscale-most"
    assert f"{held} and nodes.free > 0 and nodes.up > 2 and " in str(shrink.when)
    waits, above = looked.split(" and ")
    low = above.replace("> 60", "< 10")
    assert str(shrink.when).endswith(f"({waits.replace('> 0', '< 1')} or {low})"), "between both bounds it stays"
    assert (grow.every, shrink.every) == (90, 90)
    # until the grow has failed at the latest: time-out, and both cooldowns
    assert [str(action.value) for action in grow.actions] == ["ensemble.elapsed + 145", "3"]
    assert [str(action.value) for action in shrink.actions] == ["ensemble.elapsed + 20", "min(nodes.free, 3)"]
    assert str(end.when) == "nodes.up > 2"
    assert not any(rule.keep_alive for rule in rules.values())
    assert dict(loaded.spec.variables) == {"autoscale-held": None, "autoscale-most": None}


def test_autoscale_without_a_maximum_and_an_end() -> None:
    entry = GOOD["autoscale"].replace("}", ", factor: 2, at_end: keep}")
    rules = rules_of(text(entry).replace(", max: 9", ""))
    assert "autoscale-end" not in rules
    assert str(rules["autoscale-grow"].when).endswith("mean.probe.waiting > 60 and nodes.up < var.autoscale-most")
    assert str(rules["autoscale-grow"].actions[1].value) == "max(1, nodes.up * (2 - 1) // 1)"


def test_variables_of_algorithms_are_declared_beside_those_of_the_file() -> None:
    two = (
        text(GOOD["autoscale"].replace("name: autoscale", "name: autoscale, id: nodes"))
        + "variables: {n: 3, nodes-held: 7}\n"
    )
    two = two.replace(SUBMIT, "{name: submit, label: probe, count: var.n}")
    loaded = load(two, "it.yaml", Folder("."))
    assert dict(loaded.spec.variables) == {"n": 3, "nodes-held": 7, "nodes-most": None}
    assert not loaded.warnings
