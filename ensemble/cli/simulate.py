# SPDX-License-Identifier: MIT
"""`simulate FILE`: the real rules on simulated jobs, before any real job runs.

What it prints follows from the file, the options and the seed alone, so that two runs can be compared line by line; there
is no time of day in it, all times count from the start of the ensemble.
"""

from __future__ import annotations

import math
from argparse import Namespace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ensemble.cli.act import limit
from ensemble.cli.common import EXIT, clean, columns, load, number, out, out_json, say, submitter
from ensemble.cli.summary import group_lines, metric_lines, variable_lines
from ensemble.cli.table import Named, Table, fsd, help_lines, pick
from ensemble.engine.actions import Record
from ensemble.errors import UsageError
from ensemble.members.base import Submitter
from ensemble.service.client import choose
from ensemble.service.cluster import Cluster, cluster, instance
from ensemble.service.fates import Fates
from ensemble.service.simulation import Setting, Simulation
from ensemble.spec import simulate_check, units
from ensemble.spec.faults import listed, nearest
from ensemble.spec.metrics import PathError
from ensemble.spec.models import Limits, Spec
from ensemble.spec.simulate import DURATION, Fails, Simulated

#: of an ensemble that came to no end: it would wait for ever, go on for ever, or was cut off
STOPPED = 3
#: lines of the log and of errors that are shown
MOST_LINES = 10
#: loops that are shown
MOST_LOOPS = 5
ROW_FIELDS = {
    "t": "TIME",
    "type": "TYPE",
    "event": "EVENT",
    "job": "JOB",
    "group": "GROUP",
    "rule": "RULE",
    "firing": "FIRING",
    "result": "RESULT",
    "pending": "PEND",
    "running": "RUN",
    "nodes": "NODES",
    "cores": "CORES",
    "text": "TEXT",
}
_IN_USE = "{pending:>6} {running:>6} {nodes:>6} {cores:>6}"
_ROW = "{t!F:>9} {type:<6} {event:<7h} {job:>7h} {group:<10.10h+} {rule:<12.12h+} " + _IN_USE + " {text}"
ROW_FORMATS = {
    "default": Named("One row an event, with what is pending and in use behind it", _ROW),
    "seconds": Named("The same, with times in seconds", _ROW.replace("{t!F:>9}", "{t:>14.3f}")),
    "rules": Named("What fired when", "{t!F:>9} {type:<6} +:{rule:<4h} {firing:>7h} {text}"),
}
#: rows that are fitted into a table at a time
_PAGE = 10_000


def simulate(args: Namespace) -> int:
    """`simulate FILE`. Returns the exit status."""
    table = _table(args)
    if args.timeline and args.format == "help":
        return 0
    loaded = load(args.file)
    for warning in loaded.warnings:
        say(str(warning))
    spec = loaded.spec
    said = _said(spec, args)
    nodes = _cluster(args, spec)
    given = dict(limit(text) for text in args.limit or ())
    try:
        limits = Limits.given(given)
        until = math.inf if args.until is None else units.duration(args.until)
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    rows = _Rows(args, table) if args.timeline else None
    results: List[Dict[str, Any]] = []
    for seed in range(args.seed, args.seed + args.runs):
        try:
            fates = Fates(spec, said, seed)
        except PathError as exc:
            raise UsageError(str(exc)) from None
        simulation = Simulation(
            spec,
            Setting(
                nodes.nodes,
                fates,
                seed,
                limits=limits,
                until=until,
                signals=spec.simulate.signals if spec.simulate is not None else (),
                file=args.file,
                submitter=Submitter(**submitter()) if spec.asks else None,
                watch=None if rows is None else rows.add,
            ),
        )
        simulation.run()
        results.append(simulation.result())
        lines = simulation.lines
    assumed = _assumed(fates)
    head = {"name": spec.name, "file": args.file, "cluster": _cluster_json(nodes), "assumed": assumed}
    if rows is not None:
        rows.end()
    if args.json:
        if args.runs > 1:
            out_json({**head, "runs": results, "spread": spread(results)})
        else:
            timeline = {} if rows is None else {"timeline": rows.found}
            out_json({**head, **results[0], **timeline})
    elif rows is None:
        for line in (_runs if args.runs > 1 else _one)(spec.name, results, nodes, assumed, lines):
            out(line)
    return max(EXIT.get(result["state"], STOPPED) for result in results)


def _table(args: Namespace) -> Optional[Table]:
    if args.format is not None and not args.timeline:
        raise UsageError("-o is for the rows of --timeline")
    if args.timeline and args.runs > 1:
        raise UsageError("--timeline shows one run: leave out --runs")
    if not args.timeline or args.json:
        return None
    table = pick(args.format, ROW_FORMATS, ROW_FIELDS)
    if table is None:
        for line in help_lines(ROW_FORMATS, ROW_FIELDS):
            out(line)
    return table


def _said(spec: Spec, args: Namespace) -> Dict[str, Simulated]:
    """What is to be taken for each group: the file's table, and options over it. Raises UsageError."""
    said = dict(spec.simulate.groups) if spec.simulate is not None else {}
    names = simulate_check.parameters(spec)
    for option, key, shape in (
        ("--duration", "duration", lambda text: text),
        ("--fail", "fail", lambda text: (Fails(rate=text),)),
    ):
        given: Sequence[str] = getattr(args, key) or ()
        for word in given:
            group, sign, text = word.partition("=")
            if not sign or not text.strip():
                raise UsageError(f"{option} {clean(word)}: expected GROUP=..., or all=...")
            if group != "all" and group not in spec.groups:
                near = nearest(group, spec.groups)
                expected = f"did you mean '{near}'?" if near else f"expected one of {listed(spec.groups)}, or all"
                raise UsageError(f"{option} {clean(word)}: no group is called '{clean(group)}'; {expected}")
            for name in spec.groups if group == "all" else (group,):
                made = said.get(name, Simulated()).model_copy(update={key: shape(text.strip())})
                try:
                    # looked at here, where it can be told which option is wrong
                    simulate_check.amounts_of(made, names[name])
                except PathError as exc:
                    near = exc.suggestion
                    hint = f"; did you mean '{near}'?" if near else ""
                    raise UsageError(f"{option} {clean(word)}: {exc}{hint}") from None
                said[name] = made
    return said


def _cluster(args: Namespace, spec: Spec) -> Cluster:
    given = {name: getattr(args, name) for name in ("nodes", "cores", "gpus")}
    return cluster(given, spec.simulate, lambda: instance() if choose(args.member) == "flux" else None)


def _cluster_json(nodes: Cluster) -> Dict[str, Any]:
    return {
        "nodes": len(nodes.nodes),
        "cores": sum(cores for cores, _ in nodes.nodes),
        "gpus": sum(gpus for _, gpus in nodes.nodes),
        "source": nodes.source,
    }


def _assumed(fates: Fates) -> Dict[str, Any]:
    """What was taken for each group."""
    return {
        name: {
            "duration": group.duration.text,
            "given": group.given,
            "fail": [way.rate.text for way in group.fails],
            "reports": [one.name for one in group.reports],
        }
        for name, group in fates.groups.items()
    }


# ---- one run


def _one(
    name: str, results: List[Dict[str, Any]], nodes: Cluster, assumed: Dict[str, Any], lines: List[Record]
) -> List[str]:
    result = results[0]
    reason = f": {result['reason']}" if result["reason"] else ""
    found = [
        clean(f"{name}: {result['state']} after {fsd(result['makespan'])}{reason}"),
        f"simulated with seed {result['seed']} on {nodes.text} ({nodes.source})",
        *_assumptions(assumed),
        "",
        *group_lines(result),
        "",
        *_rule_lines(result),
        "",
        _use(result),
    ]
    for part in (metric_lines(result), variable_lines(result), _log_lines(lines), _loop_lines(result)):
        if part:
            found += ["", *part]
    return found


def _assumptions(assumed: Dict[str, Any]) -> List[str]:
    """What the jobs were taken to do, one line a group that has something to say, and one for those that have not."""
    found, silent = [], []
    for group, of in assumed.items():
        if not of["given"]:
            silent.append(group)
        words = [f"durations {of['duration']}"] if of["given"] else []
        words += [f"{rate} fail" for rate in of["fail"]]
        words += [f"report {', '.join(of['reports'])}"] if of["reports"] else []
        if words:
            found.append(clean(f"  {group}: {'; '.join(words)}"))
    if silent:
        each = (
            f"a job takes {fsd(DURATION)}, since nothing says how long (--duration GROUP=..., or simulate: in the file)"
        )
        found.append(clean(f"  {listed(silent, 10)}: {each}"))
    return found


def _rule_lines(result: Dict[str, Any]) -> List[str]:
    rows = [
        [
            rule["id"],
            rule["trigger"],
            rule["fired"],
            "unlimited" if rule["remaining"] is None else rule["remaining"],
            rule["state"],
            _at(rule["first"]),
            _at(rule["last"]),
            rule["error"] or "",
        ]
        for rule in result["rules"]
    ]
    return columns(["RULE", "TRIGGER", "FIRED", "REMAINING", "STATE", "FIRST", "LAST", "ERROR"], rows)


def _at(t: Optional[float]) -> Optional[str]:
    return None if t is None else fsd(t)


def _use(result: Dict[str, Any]) -> str:
    use, most = result["utilisation"], result["most"]
    if use["nodes"] is None:
        return "no time has passed, and so nothing was used"
    return (
        f"in use: {100 * use['nodes']:.3g}% of the nodes, {100 * use['cores']:.3g}% of the cores; "
        f"at most {most['nodes']} node{'' if most['nodes'] == 1 else 's'}, {most['cores']} core"
        f"{'' if most['cores'] == 1 else 's'}, {most['running']} job{'' if most['running'] == 1 else 's'} at a time"
    )


def _log_lines(lines: List[Record]) -> List[str]:
    """What the rules logged, and errors."""
    found = [clean(f"  {fsd(line.t):>8}  {line.data.get('text', '')}") for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        found.append("  ... more: --timeline")
    return ["log:", *found] if found else []


def _loop_lines(result: Dict[str, Any]) -> List[str]:
    """The rules that feed each other, where a run came to no good end."""
    loops = result["loops"]
    if result["state"] in ("complete", "failed", "cancelled") or not loops:
        return []
    found = ["rules that feed each other:"]
    found += [clean(f"  {loop['text']} ({loop['times']} times)") for loop in loops[:MOST_LOOPS]]
    return found


# ---- several runs


def spread(results: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """How the runs differ: how many ended in which state, and of each number least, quartiles and greatest."""
    states: Dict[str, int] = {}
    for result in results:
        states[result["state"]] = states.get(result["state"], 0) + 1
    jobs = results[0]["jobs"]
    rules = dict.fromkeys(rule["id"] for result in results for rule in result["rules"])
    return {
        "states": states,
        "makespan": _quartiles(results, lambda result: result["makespan"]),
        "utilisation": {
            name: _quartiles(results, lambda result, name=name: result["utilisation"][name])  # type: ignore[misc]
            for name in ("nodes", "cores")
        },
        "jobs": {name: _quartiles(results, lambda result, name=name: result["jobs"][name]) for name in jobs},  # type: ignore[misc]
        "groups": {
            group: {
                name: _quartiles(results, lambda result, name=name, group=group: result["groups"][group][name])  # type: ignore[misc]
                for name in counts
            }
            for group, counts in results[0]["groups"].items()
        },
        "rules": {id: _quartiles(results, lambda result, id=id: _fired(result, id)) for id in rules},  # type: ignore[misc]
    }


def _fired(result: Mapping[str, Any], id: str) -> int:
    return sum(rule["fired"] for rule in result["rules"] if rule["id"] == id)


def _quartiles(
    results: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], Optional[float]]
) -> Optional[Dict[str, float]]:
    """Least, quartiles (numpy's default: linear between neighbours) and greatest; None where there is no value."""
    values = sorted(value for value in map(of, results) if value is not None)
    if not values:
        return None

    def at(share: float) -> float:
        place = share * (len(values) - 1)
        low = math.floor(place)
        high = min(low + 1, len(values) - 1)
        return values[low] + (values[high] - values[low]) * (place - low)

    return {"min": values[0], "q1": at(0.25), "median": at(0.5), "q3": at(0.75), "max": values[-1]}


def _runs(
    name: str, results: List[Dict[str, Any]], nodes: Cluster, assumed: Dict[str, Any], lines: List[Record]
) -> List[str]:
    found = spread(results)
    states = ", ".join(f"{state} {count}" for state, count in sorted(found["states"].items()))
    seeds = f"seeds {results[0]['seed']} to {results[-1]['seed']}"
    rows: List[Tuple[str, Optional[Dict[str, float]], Callable[[float], str]]] = [("makespan", found["makespan"], fsd)]
    for what, of in found["utilisation"].items():
        rows.append((f"{what} in use", of, lambda share: f"{100 * share:.3g}%"))
    for group, counts in found["groups"].items():
        for count in ("submitted", "success", "failed", "cancelled", "retried"):
            if count in ("submitted", "success") or counts[count]["max"]:
                rows.append((f"{group}: {count}", counts[count], number))
    rows += [(f"rule {id}: fired", of, number) for id, of in found["rules"].items()]
    table = [[what, *(None if of is None else shown(of[key]) for key in _KEYS)] for what, of, shown in rows]
    reasons = {result["reason"]: result for result in results if result["state"] != "complete" and result["reason"]}
    told = [
        clean(f"  seed {result['seed']}: {result['state']}: {reason}") for reason, result in list(reasons.items())[:5]
    ]
    return [
        clean(f"{name}: {states} (of {len(results)} runs, {seeds})"),
        f"simulated on {nodes.text} ({nodes.source})",
        *_assumptions(assumed),
        *told,
        "",
        *columns(["", *(key.upper() for key in _KEYS)], table),
    ]


_KEYS = ("min", "q1", "median", "q3", "max")


# ---- the timeline


class _Rows:
    """The rows of the timeline, printed as they come where their columns are as wide as the format says."""

    def __init__(self, args: Namespace, table: Optional[Table]) -> None:
        self._table = table
        self._header = not args.no_header
        self._fits = args.format is not None and "+:" in ROW_FORMATS.get(args.format, Named("", args.format)).format
        self.found: List[Dict[str, Any]] = []

    def add(self, record: Record, counts: Dict[str, Dict[str, int]]) -> None:
        data = record.data
        self.found.append(
            {
                "t": record.t,
                "type": record.type,
                "event": data.get("event") or data.get("action"),
                "job": data.get("job"),
                "group": data.get("group") or (data.get("label") if data.get("action") == "submit" else None),
                "rule": data.get("rule"),
                "firing": data.get("firing"),
                "result": data.get("result"),
                "pending": counts["queue"]["pending"],
                "running": counts["queue"]["running"],
                "nodes": counts["nodes"]["allocated"],
                "cores": counts["cores"]["allocated"],
                "text": _text(record),
            }
        )
        if self._table is not None and not self._fits and len(self.found) >= _PAGE:
            self._print()

    def end(self) -> None:
        if self._table is not None:
            self._print()

    def _print(self) -> None:
        assert self._table is not None
        for line in self._table.lines(self.found, self._header):
            out(clean(line))
        self._header = False
        self.found.clear()


def _text(record: Record) -> str:
    data = record.data
    if record.type == "state":
        return f"{data.get('state')}{': ' + str(data['reason']) if data.get('reason') else ''}"
    if record.type == "job":
        parts = [str(data[key]) for key in ("result", "cause") if data.get(key) and data.get(key) != "success"]
        return " ".join(dict.fromkeys(parts)) or ("success" if data.get("result") else "")
    return str(data.get("text") or "")
