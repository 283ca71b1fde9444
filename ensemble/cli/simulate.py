# SPDX-License-Identifier: MIT
"""`simulate FILE`: the real rules on simulated jobs, before any real job runs.

What it prints follows from the file, the options and the seed alone, so that two runs can be compared line by line; there
is no time of day in it, all times count from the start of the ensemble.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from typing import Any, Dict, List, Optional, Sequence

from ensemble.cli.act import limit
from ensemble.cli.common import EXIT, clean, load, out, out_json, submitter
from ensemble.cli.simulate_show import ROW_FIELDS, Rows, log_lines, one_run, row_formats, several_runs, spread
from ensemble.cli.table import Table, help_lines, pick
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
from ensemble.spec.reports import declared
from ensemble.spec.simulate import Fails, Simulate, Simulated

#: of an ensemble that came to no end: it would wait for ever, go on for ever, or was cut off
STOPPED = 3


def simulate(args: Namespace) -> int:
    """`simulate FILE`. Returns the exit status."""
    columns = _table(args)
    if args.timeline and args.format == "help" and not args.json:
        return 0
    loaded = load(args.file)
    for warning in loaded.warnings:
        print(warning, file=sys.stderr)
    spec = loaded.spec
    table = spec.simulate or Simulate()
    said = _said(spec, args)
    nodes = _cluster(args, spec)
    given = dict(limit(text) for text in args.limit or ())
    try:
        limits = Limits.given(given)
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    try:
        until = math.inf if args.until is None else units.duration(args.until)
    except ValueError as exc:
        raise UsageError(f"--until cannot be '{clean(args.until)}': {exc}") from None
    rows = Rows(args, columns) if args.timeline else None
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
                signals=table.signals,
                outages=table.outages,
                file=args.file,
                submitter=Submitter(**submitter()) if spec.asks else None,
                watch=None if rows is None else rows.add,
            ),
        )
        simulation.run()
        results.append(simulation.result())
        lines = log_lines(simulation)
    assumed = _assumed(spec, fates)
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
        for line in (several_runs if args.runs > 1 else one_run)(spec.name, results, nodes, assumed, lines):
            out(line)
    return max(EXIT.get(result["state"], STOPPED) for result in results)


def _table(args: Namespace) -> Optional[Table]:
    if args.format is not None and not args.timeline:
        raise UsageError("-o is for the rows of --timeline")
    if args.timeline and args.runs > 1:
        raise UsageError("--timeline shows one run: leave out --runs")
    if not args.timeline or args.json:
        return None
    formats = row_formats()
    table = pick(args.format, formats, ROW_FIELDS)
    if table is None:
        for line in help_lines(formats, ROW_FIELDS):
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


def _assumed(spec: Spec, fates: Fates) -> Dict[str, Any]:
    """What was taken for each group."""
    return {
        name: {
            "duration": group.duration.text,
            "given": group.given,
            "fail": [way.rate.text for way in group.fails],
            "reports": [one.name for one in group.reports],
            "silent": [one for one in declared(spec.groups[name]) if one not in {told.name for told in group.reports}],
        }
        for name, group in fates.groups.items()
    }
