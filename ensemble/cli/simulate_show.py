# SPDX-License-Identifier: MIT
"""What `simulate` prints: one run, the spread of several, and the timeline."""

from __future__ import annotations

import math
from argparse import Namespace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ensemble.cli.common import clean, columns, number, out, room, wrapped
from ensemble.cli.summary import COUNTS, metric_lines, variable_lines
from ensemble.cli.table import Named, Table
from ensemble.engine.actions import Record
from ensemble.service.cluster import Cluster
from ensemble.service.simulation import ENDLESS, MOST_PENDING, Simulation
from ensemble.spec.faults import listed
from ensemble.spec.simulate import DURATION
from ensemble.spec.units import fsd

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
_NARROW_IN_USE = "{pending:>5} {running:>4} {nodes:>5} {cores:>5}"
_NARROW_ROW = "{t!F:>7} {type:<6} {event:<6h} {job:>4h} {group:<8.8h+} {rule:<8.8h+} " + _NARROW_IN_USE + " {text}"
#: columns of a terminal below which the rows are narrow, so that a text has a place behind them
_NARROW = 120
#: where a text goes on that is longer than its line
_BEHIND = 8


def row_formats() -> Dict[str, Named]:
    """The formats of the timeline, for the terminal that there is."""
    row, time = (_NARROW_ROW, "{t!F:>7}") if (room() or _NARROW) < _NARROW else (_ROW, "{t!F:>9}")
    return {
        "default": Named("One row an event, with what is pending and in use behind it", row),
        "seconds": Named("The same, with times in seconds", row.replace(time, "{t:>14.3f}")),
    }


#: rows that are fitted into a table at a time
_PAGE = 10_000


def one_run(
    name: str, results: List[Dict[str, Any]], nodes: Cluster, assumed: Dict[str, Any], lines: List[str]
) -> List[str]:
    result = results[0]
    reason = f": {result['reason']}" if result["reason"] else ""
    found = [
        *wrapped(clean(f"{name}: {result['state']} after {fsd(result['makespan'])}{reason}")),
        *wrapped(f"simulated with seed {result['seed']} on {nodes.text} ({nodes.source})"),
        *_assumptions(assumed),
        "",
        *_group_lines(result),
        "",
        *_rule_lines(result),
        "",
        *wrapped(_use(result)),
    ]
    if result["held_back"]:
        late = f"{result['held_back']} jobs were submitted later than asked for"
        found += wrapped(f"{late}: no more than {MOST_PENDING} wait at a time here")
    for part in (metric_lines(_plain(result)), variable_lines(result), lines, _loop_lines(result)):
        if part:
            found += ["", *part]
    return found


def _assumptions(assumed: Dict[str, Any]) -> List[str]:
    """What the jobs were taken to do, one line a group that has something to say, and one for those that have not."""
    found, silent = [], []
    for group, of in assumed.items():
        if not of["given"]:
            silent.append(group)
        words = [f"durations {_span(of['duration'])}"] if of["given"] else []
        words += [f"fail {rate}" for rate in of["fail"]]
        words += [f"report {', '.join(of['reports'])}"] if of["reports"] else []
        if of["silent"]:
            words.append(f"reports nothing of {', '.join(of['silent'])} (metrics: in the file's table)")
        if words:
            found += wrapped(clean(f"  {group}: {'; '.join(words)}"))
    if silent:
        each = (
            f"a job takes {fsd(DURATION)}, since nothing says how long (--duration GROUP=..., or simulate: in the file)"
        )
        found += wrapped(clean(f"  {listed(silent, 10)}: {each}"))
    return found


def _span(text: str) -> str:
    """A duration as it was given; a lone number is one in seconds."""
    try:
        return fsd(float(text), digits=True)
    except ValueError:
        return text


def _group_lines(result: Dict[str, Any]) -> List[str]:
    """The counts of each group, and when the first of its jobs started and the last one ended."""
    groups = result["groups"]
    # at the end few have jobs that wait or run, and most ensembles try nothing again
    shown = [key for key in (*COUNTS, "retried") if key in _ALWAYS or any(of[key] for of in groups.values())]
    rows = [[group, *(of[key] for key in shown), _at(of["first"]), _at(of["last"])] for group, of in groups.items()]
    return columns(["GROUP", *(key.upper() for key in shown), "FIRST", "LAST"], rows, room())


def _plain(result: Dict[str, Any]) -> Dict[str, Any]:
    """The metrics without the statistics that only functions look at: there are many, and --json has them."""
    metrics = {
        group: {
            state: {name: {stat: x for stat, x in stats.items() if stat in _STATS} for name, stats in of.items()}
            for state, of in states.items()
        }
        for group, states in result["metrics"].items()
    }
    return {"metrics": metrics}


_STATS = ("n", "mean", "std", "min", "max", "last")
#: counts that are shown though they be 0
_ALWAYS = ("submitted", "success", "failed", "cancelled")


def _rule_lines(result: Dict[str, Any]) -> List[str]:
    failed = any(rule["error"] for rule in result["rules"])
    rows = [
        [
            rule["id"],
            rule["trigger"],
            rule["fired"],
            "unlimited" if rule["remaining"] is None else rule["remaining"],
            rule["state"],
            _at(rule["first"]),
            _at(rule["last"]),
            *([rule["error"] or ""] if failed else []),
        ]
        for rule in result["rules"]
    ]
    headings = ["RULE", "TRIGGER", "FIRED", "REMAINING", "STATE", "FIRST", "LAST", *(["ERROR"] if failed else [])]
    return columns(headings, rows, room())


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


def log_lines(simulation: Simulation) -> List[str]:
    """What the rules logged, and errors: the first and the last lines."""
    found = [line for record in simulation.lines for line in _line(record)]
    left = simulation.said - len(simulation.lines) - len(simulation.last_lines)
    if left:
        found.append(f"  ... {left} more: --timeline")
    found += [line for record in simulation.last_lines for line in _line(record)]
    return ["log:", *found] if found else []


def _line(record: Record) -> List[str]:
    first, *more = clean(record.data.get("text", "")).split("\n")
    found = [f"  {fsd(record.t):>8}  {first}", *(" " * 12 + one for one in more)]
    return [piece for one in found for piece in wrapped(one, 12)]


def _loop_lines(result: Dict[str, Any]) -> List[str]:
    """The rules that feed each other, where a run would have gone on for ever."""
    loops = result["loops"]
    if result["state"] not in ("halted", ENDLESS) or not loops:
        return []
    found = ["rules that feed each other:"]
    told = [clean(f"  {loop['text']} ({loop['times']} times)") for loop in loops[:MOST_LOOPS]]
    return found + [piece for one in told for piece in wrapped(one)]


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
                if name not in ("first", "last")
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


def several_runs(
    name: str, results: List[Dict[str, Any]], nodes: Cluster, assumed: Dict[str, Any], lines: List[str]
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
        *wrapped(clean(f"{name}: {states} (of {len(results)} runs, {seeds})")),
        *wrapped(f"simulated on {nodes.text} ({nodes.source})"),
        *_assumptions(assumed),
        *(piece for one in told for piece in wrapped(one)),
        "",
        *columns(["", *(key.upper() for key in _KEYS)], table, room()),
    ]


_KEYS = ("min", "q1", "median", "q3", "max")


class Rows:
    """The rows of the timeline, printed as they come where their columns are as wide as the format says."""

    def __init__(self, args: Namespace, table: Optional[Table]) -> None:
        self._table = table
        self._header = not args.no_header
        formats = row_formats()
        #: the rows are ours to lay out; those of a format of the user's are as wide as that says
        self._width = room() if args.format in (None, *formats) else None
        self._fits = args.format is not None and "+:" in formats.get(args.format, Named("", args.format)).format
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
            for piece in [line] if self._width is None else wrapped(clean(line), _BEHIND, self._width):
                out(clean(piece))
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
