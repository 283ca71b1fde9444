# SPDX-License-Identifier: MIT
"""`list`, `status`, `jobs` and `log`."""

from __future__ import annotations

import csv
import sys
import time
from argparse import Namespace
from datetime import datetime
from typing import Any, Dict, List, Optional

from ensemble.cli.common import ask, asked_for_formats, connected, out, out_json, out_table, say
from ensemble.cli.narrate import log_line
from ensemble.cli.summary import (
    AllJobs,
    ended,
    group_lines,
    member_lines,
    metric_lines,
    parameter_lines,
    rule_lines,
    scaling_lines,
    variable_lines,
)
from ensemble.cli.table import Named

LIST_FIELDS = {
    "id": "ID",
    "name": "NAME",
    "state": "STATE",
    "reason": "REASON",
    "t_submit": "T_SUBMIT",
    "t_end": "T_END",
    "elapsed": "TIME",
    "submitted": "JOBS",
    "pending": "PEND",
    "running": "RUN",
    "active": "ACTIVE",
    "finished": "DONE",
    "success": "OK",
    "failed": "FAIL",
    "cancelled": "CANC",
}
_LIST = "{id:>10} +:{name:<10} {state:<9} {submitted:>6} {pending:>6} {running:>6} {success:>6} {failed:>6}"
LIST_FORMATS = {
    "default": Named("Ensembles, oldest first", _LIST + " {elapsed!F:>8h} {reason}"),
    "long": Named("With times", _LIST + " {cancelled:>6} {t_submit!D:>19h} {t_end!D:>19h} {elapsed!F:>8h} {reason}"),
}
JOB_FIELDS = {
    "id": "JOBID",
    "group": "GROUP",
    "state": "STATE",
    "status": "STATUS",
    "result": "RESULT",
    "exit_code": "EXIT",
    "signal": "SIGNAL",
    "cause": "CAUSE",
    "attempt": "ATTEMPT",
    "retry": "RETRY",
    "rule": "RULE",
    "firing": "FIRING",
    "index": "INDEX",
    "t_submit": "T_SUBMIT",
    "t_start": "T_START",
    "t_end": "T_END",
    "duration": "TIME",
    "waited": "WAIT",
    "member": "MEMBER",
    "ranks": "RANKS",
    "where": "OUTPUT",
    "params.": "",
    "values.": "",
}
_JOB = "{id:>12h} +:{group:<8} {status:>10} {exit_code:>4h} ?:{cause:<14} ?:{retry:>5h} {waited!F:>8h} {duration!F:>8h}"
JOB_FORMATS = {
    "default": Named("One row a job", _JOB + " ?:{member:<8} ?+:{rule:<8}"),
    "long": Named(
        "With times and place", _JOB + " ?:{member:<8} ?+:{rule:<8} {firing:>6} {t_submit!D:>19h} {ranks:>5h} {where}"
    ),
    "output": Named("Where the output lies", "{id:>12h} +:{group:<8} {status:>10} {where}"),
}
#: records asked for in one request
PAGE = 1000


def list_(args: Namespace) -> int:
    """`list`, and `status` without an id."""
    if not args.json and asked_for_formats(args, LIST_FORMATS, LIST_FIELDS):
        return 0
    ensembles = ask(args, "list", {}).get("ensembles") or []
    if args.json:
        out_json(ensembles)
    else:
        out_table(args, [_summary_row(summary) for summary in ensembles], LIST_FORMATS, LIST_FIELDS)
    return 0


def status(args: Namespace) -> int:
    """`status [ID]`."""
    if args.id is None:
        return list_(args)
    if args.format is not None and not args.json and asked_for_formats(args, LIST_FORMATS, LIST_FIELDS):
        return 0
    answer = ask(args, "status", {"id": args.id})
    if args.json:
        out_json(answer)
    elif args.format is not None:
        out_table(args, [_summary_row(answer)], LIST_FORMATS, LIST_FIELDS)
    else:
        for line in _status_lines(answer):
            out(line)
    return 0


def _status_lines(answer: Dict[str, Any]) -> List[str]:
    begun = answer.get("t_submit")
    lines = [ended(answer)]
    if begun is not None:
        lines.append(f"submitted {datetime.fromtimestamp(begun).strftime('%Y-%m-%dT%H:%M:%S')}")
    parts = (
        group_lines(answer),
        parameter_lines(answer),
        member_lines(answer),
        scaling_lines(answer),
        rule_lines(answer),
        metric_lines(answer),
    )
    for part in (*parts, variable_lines(answer)):
        if part:
            lines += ["", *part]
    return lines


def _summary_row(summary: Dict[str, Any]) -> Dict[str, Any]:
    begun, end = summary.get("t_submit"), summary.get("t_end")
    elapsed = None if begun is None else (time.time() if end is None else end) - begun
    return {**(summary.get("jobs") or {}), **summary, "elapsed": elapsed}


def jobs(args: Namespace) -> int:
    """`jobs ID`."""
    if not (args.json or args.csv) and asked_for_formats(args, JOB_FORMATS, JOB_FIELDS):
        return 0
    client = connected(args)
    try:
        pages = AllJobs(client, args.id, args.group)
        found = list(pages)
    finally:
        client.close()
    if args.json:
        out_json({"jobs": found, "total": pages.total})
    elif args.csv:
        _csv(found)
    else:
        out_table(args, [_job_row(job) for job in found], _with_parameters(found), JOB_FIELDS)
    if pages.total > len(found):
        say(f"{pages.total - len(found)} more wait to be submitted and are not listed")
    return 0


def _with_parameters(found: List[Dict[str, Any]]) -> Dict[str, Named]:
    """The formats of jobs, with a column for each parameter and value in those that list what a job is."""
    columns = ""
    for part, spec in (("params", ">1h"), ("values", ">1.6gh")):
        names = dict.fromkeys(name for job in found for name in job.get(part) or {})
        columns += "".join(f" +:{{{part}.{name}:{spec}}}" for name in names)
    return {
        name: named if name == "output" else named._replace(format=named.format.replace(_JOB, _JOB + columns))
        for name, named in JOB_FORMATS.items()
    }


def _job_row(job: Dict[str, Any]) -> Dict[str, Any]:
    submitted, started, end = (job.get(key) for key in ("t_submit", "t_start", "t_end"))
    return {
        **job,
        "status": job.get("result") or job.get("state"),
        # the first attempt of a job is none
        "retry": job.get("attempt") or None,
        "waited": _between(submitted, started),
        "duration": _between(started, end if end is not None else time.time() if started is not None else None),
    }


def _between(first: Optional[float], last: Optional[float]) -> Optional[float]:
    return None if first is None or last is None else max(0.0, last - first)


def _csv(found: List[Dict[str, Any]]) -> None:
    """All fields of the jobs, with a column for each parameter and value."""
    plain = ["id", "group", "state", "result", "exit_code", "signal", "cause", "attempt", "rule", "firing", "index"]
    plain += ["t_submit", "t_start", "t_end", "member", "ranks", "where"]
    inner = [
        (part, name)
        for part in ("params", "values")
        for name in dict.fromkeys(n for j in found for n in j.get(part) or {})
    ]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*plain, *(f"{part}.{name}" for part, name in inner)])
    for job in found:
        writer.writerow([job.get(key) for key in plain] + [(job.get(part) or {}).get(name) for part, name in inner])


def log(args: Namespace) -> int:
    """`log ID`: all records so far."""
    client = connected(args)
    since = args.since
    try:
        while True:
            answer = client.call("log", {"id": args.id, "since": since, "max": PAGE})
            records = answer.get("records") or []
            for record in records:
                if args.json:
                    out_json(record)
                else:
                    out(log_line(record, _moment(record.get("at", record.get("t")))))
            if not records or int(records[-1]["seq"]) <= since:
                return 0
            since = int(records[-1]["seq"])
    finally:
        client.close()


def _moment(t: Optional[float]) -> str:
    if t is None:
        return "-"
    moment = datetime.fromtimestamp(t)
    return moment.strftime("%b%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}"
