# SPDX-License-Identifier: MIT
"""The last lines of `run` and `watch`, and what `status ID` prints: counts, metrics, variables, rules, failed jobs, output."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ensemble.cli.common import clean, columns, hint, number, room
from ensemble.cli.narrate import why
from ensemble.service.client import Client
from ensemble.spec.reports import OF_JOBS
from ensemble.spec.units import fsd

#: failed jobs that are listed
MOST_FAILED = 10
#: jobs asked for in one request
PAGE = 1000
#: jobs that wait to be submitted and are listed; there may be any number of them
HELD = 1000
COUNTS = ("submitted", "pending", "running", "success", "failed", "cancelled")
#: statistics in the order in which they are shown; others follow
STATS = ("n", "mean", "std", "min", "max", "last", "sum", "median")


def ended(status: Dict[str, Any]) -> str:
    """Name, id, state, reason and time taken, as one line."""
    reason = status.get("reason")
    t_submit, t_end = status.get("t_submit"), status.get("t_end")
    took = f" after {fsd(t_end - t_submit)}" if t_submit is not None and t_end is not None else ""
    return clean(
        f"{status.get('name')} ({status.get('id')}): {status.get('state')}{took}{': ' + str(reason) if reason else ''}"
    )


def group_lines(status: Dict[str, Any]) -> List[str]:
    """The counts of each group, as a table."""
    groups: Dict[str, Dict[str, Any]] = status.get("groups") or {}
    # most ensembles try nothing again
    shown = (*COUNTS, "retried") if any(of.get("retried") for of in groups.values()) else COUNTS
    rows = [[group, *(of.get(key, 0) for key in shown)] for group, of in groups.items()]
    return columns(["GROUP", *(key.upper() for key in shown)], rows)


def parameter_lines(status: Dict[str, Any]) -> List[str]:
    """The parameters of each set that has some: how its points are chosen, and how many are taken. Else empty."""
    rows = [
        [group, ", ".join(of["names"]), of["sample"], of["taken"], _points(of), of["seed"]]
        for group, sets in (status.get("parameters") or {}).items()
        for of in sets
    ]
    return columns(["GROUP", "PARAMETERS", "SAMPLE", "TAKEN", "POINTS", "SEED"], rows) if rows else []


def _points(of: Dict[str, Any]) -> Optional[str]:
    if of["total"] is None:
        return None if of["sample"] == "custom" else "no end"
    return str(of["total"])


def metric_lines(status: Dict[str, Any]) -> List[str]:
    """One line a variable of a state of a group, one column a statistic. Empty where nothing was measured."""
    rows: List[Tuple[str, str, str, Dict[str, Any]]] = [
        (group, state or "-", variable, stats)
        for group, states in (status.get("metrics") or {}).items()
        for state, variables in states.items()
        for variable, stats in variables.items()
        if stats and stats.get("n") != 0
    ]
    if not rows:
        return []
    present = {name for row in rows for name in row[3]}
    names = [name for name in STATS if name in present] + sorted(present - set(STATS))
    table = [
        [
            group,
            state,
            variable,
            *(_stat(name, stats.get(name), variable in (*OF_JOBS, f"{group}-pending")) for name in names),
        ]
        for group, state, variable, stats in rows
    ]
    return columns(["GROUP", "STATE", "VARIABLE", *(name.upper() for name in names)], table, room())


def _stat(name: str, value: Optional[float], time: bool) -> str:
    if value is None:
        return "-"
    if name == "n":
        return str(int(value))
    # a variance is of squares of seconds
    return fsd(value, digits=True) if time and name != "variance" else number(value)


def rule_lines(status: Dict[str, Any]) -> List[str]:
    """The rules: what each waits for, how often it has fired, how often it still may, and why not."""
    rows = [
        [
            rule.get("id"),
            rule.get("trigger"),
            rule.get("fired"),
            "unlimited" if rule.get("remaining") is None else rule["remaining"],
            rule.get("state"),
            rule.get("error") or "",
        ]
        for rule in status.get("rules") or []
    ]
    return columns(["RULE", "TRIGGER", "FIRED", "REMAINING", "STATE", "ERROR"], rows, room()) if rows else []


def member_lines(status: Dict[str, Any]) -> List[str]:
    """The members and whether each is there, as a table. Empty where there are none."""
    rows = [list(member) for member in (status.get("members") or {}).items()]
    return columns(["MEMBER", "STATE"], rows) if rows else []


def scaling_lines(status: Dict[str, Any]) -> List[str]:
    """The size that is wanted, what is under way, and what has failed last. Empty where there is no scaler."""
    of = status.get("scaling")
    if not of:
        return []
    change, failed, until = of.get("change"), of.get("failed"), of.get("cooling_until")
    state = "-"
    if change:
        why = {"cooldown": " waits for the cooldown", "ensemble": " waits: another ensemble wants more"}
        state = f"{change['action']} to {change['wanted']}{why.get(change['waits'], ' is under way')}"
    cells = [of.get("scaler"), *(of.get(name) for name in ("wanted", "size", "min", "max")), state]
    lines = columns(["SCALER", "WANTED", "NODES", "MIN", "MAX", "CHANGE"], [cells])
    if until is not None:
        lines.append(f"no other change before {_clock(until)} (cooldown {fsd(of['cooldown'])})")
    if failed:
        to = "" if failed["wanted"] is None else f" to {failed['wanted']} nodes"
        lines.append(clean(f"failed last, {_clock(failed['t'])}: {failed['action']}{to}: {failed['reason']}"))
    return lines


def _clock(t: float) -> str:
    return datetime.fromtimestamp(t).strftime("%Y-%m-%dT%H:%M:%S")


def variable_lines(status: Dict[str, Any]) -> List[str]:
    """The variables and their values, as a table. Empty where there are none."""
    rows = [[name, _value(value)] for name, value in (status.get("variables") or {}).items()]
    return columns(["VARIABLE", "VALUE"], rows, room()) if rows else []


def _value(value: Any) -> str:
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return "true" if value else "false"
    return number(value) if isinstance(value, float) else str(value)


class AllJobs:
    """The ensemble's jobs in order of submission, fetched page by page while one iterates. Raises a ServiceError.

    Of those that are not submitted yet, which come last, the first HELD; `total` counts them all.
    """

    def __init__(self, client: Client, id: str, group: Optional[str] = None) -> None:
        self._client = client
        self._payload = {"id": id, "max": PAGE, **({} if group is None else {"group": group})}
        #: as the last page said
        self.total = 0

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        start = held = 0
        while True:
            answer = self._client.call("jobs", {**self._payload, "start": start})
            jobs = answer.get("jobs") or []
            self.total = int(answer.get("total") or 0)
            yield from jobs
            start += len(jobs)
            held += sum(job.get("state") == "held" for job in jobs)
            if not jobs or start >= self.total or held >= HELD:
                return


def failed_lines(client: Client, status: Dict[str, Any]) -> List[str]:
    """The jobs that failed: the first MOST_FAILED, then how many more. Empty where none did."""
    total = int((status.get("jobs") or {}).get("failed") or 0)
    if not total:
        return []
    found = []
    for job in AllJobs(client, str(status["id"])):
        if job.get("result") == "failed":
            found.append(job)
            if len(found) == min(MOST_FAILED, total):
                break
    lines = ["failed jobs:"]
    rows = [[job.get("id"), job.get("group"), why(job), job.get("where") or ""] for job in found]
    lines += [f"  {line}" for line in columns(["JOB", "GROUP", "CAUSE", "OUTPUT"], rows)]
    if total > len(found):
        lines.append(f"  ... and {total - len(found)} more: {hint('jobs', str(status['id']))}")
    return lines


def output_line(client: Client, status: Dict[str, Any]) -> str:
    """Where the output of the jobs lies; empty where there is none."""
    answer = client.call("jobs", {"id": status["id"], "start": 0, "max": 20})
    places = [str(job["where"]) for job in answer.get("jobs") or [] if job.get("where")]
    if not places:
        return ""
    if len(places) == 1 or len(set(places)) == 1:
        return f"output: {clean(places[0])}"
    if all(os.path.isabs(place) for place in places):
        return f"output: in {clean(os.path.commonpath(places))}"
    every = hint("jobs", str(status["id"]), "-o", "{id} {where}")
    return f"output: {clean(places[0])}; the other jobs: {every}"


def final_lines(client: Client, status: Dict[str, Any]) -> List[str]:
    """All of the last lines of `run` and `watch`."""
    lines = ["", ended(status), "", *group_lines(status)]
    for part in (metric_lines(status), variable_lines(status)):
        if part:
            lines += ["", *part]
    failed = failed_lines(client, status)
    if failed:
        lines += ["", *failed]
    output = output_line(client, status)
    if output:
        lines += ["", output]
    return lines
