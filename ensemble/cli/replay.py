# SPDX-License-Identifier: MIT
"""`replay ID [--rules FILE]` or `replay --events SAVED`: when the rules of a past run fired, or when others would have."""

from __future__ import annotations

from argparse import Namespace
from datetime import datetime
from typing import Any, Dict, Iterator, List, Optional

from ensemble.cli.common import columns, connected, flat, load, out, out_json, room, wrapped
from ensemble.engine.explain import moment
from ensemble.errors import UsageError


def replay(args: Namespace) -> int:
    """Print it. 1 where a run against its own rules is not what was recorded."""
    from ensemble.service import replay_file
    from ensemble.service.replay import fetch
    from ensemble.service.replay import replay as replayed

    if (args.id is None) == (args.events is None):
        raise UsageError("give the ID of an ensemble, or a file of saved events with --events")
    other = None if args.rules is None else load(args.rules).spec
    if args.events is not None:
        log = replay_file.read(args.events)
    else:
        client = connected(args)
        try:
            log = fetch(client, args.id)
        finally:
            client.close()
    if args.save is not None:
        replay_file.save(log, args.save)
    answer = replayed(log, other, args.rules)
    if args.json:
        out_json(answer)
    else:
        for line in lines(answer, args.timeline):
            out(line)
    return 1 if answer["check"] is not None and not answer["check"]["same"] else 0


def lines(answer: Dict[str, Any], timeline: bool = False) -> List[str]:
    """What people read."""
    found = [*(piece for line in _head(answer) for piece in wrapped(line)), "", *_table(answer)]
    if timeline:
        found += ["", *_timeline(answer)]
    if not answer["own"]:
        found += ["", *_groups(answer)]
    if answer["notes"]:
        notes = (f"  - {flat(note)}" for note in answer["notes"])
        found += ["", "what this rests on:", *(piece for note in notes for piece in wrapped(note))]
    return found


def _at(t: Optional[float], answer: Dict[str, Any]) -> Optional[str]:
    return None if t is None else moment(t - (answer["t_begin"] or t))


def _head(answer: Dict[str, Any]) -> Iterator[str]:
    begin = answer["t_begin"]
    began = datetime.fromtimestamp(begin).strftime("%Y-%m-%dT%H:%M:%S") if begin is not None else "never"
    run = f"{flat(answer['name'])} ({answer['id']})"
    last = _at(answer["t_last"], answer)
    yield f"{run}: {answer['events']} events from {began} to {last}, against {'its own rules' if answer['own'] else flat(answer['file'])}"
    if answer["own"]:
        check = answer["check"]
        if check["same"]:
            yield (
                f"The replay is what was recorded: the same {check['firings']} firings at the same times, and the same "
                f"actions at each of the {check['events']} events."
            )
        else:
            yield "The replay is NOT what was recorded:"
            yield from (f"  {flat(difference)}" for difference in check["differences"])
        return
    yield "Nothing was carried out: jobs are those of the run, and took the fate that they had."
    end = answer["end"]
    if end is None:
        yield f"By {last} the ensemble would not have ended."
    else:
        yield f"At {_at(end['t'], answer)} the ensemble would have ended {end['state']}: {flat(end['reason'])}."


def _table(answer: Dict[str, Any]) -> List[str]:
    rows = []
    for rule in answer["rules"]:
        row = [rule["rule"], rule["trigger"], rule["firings"], _at(rule["first"], answer), _at(rule["last"], answer)]
        if not answer["own"]:
            row.append(_then(rule["recorded"], answer))
        rows.append([*row, "; ".join(rule["did"])])
    recorded = [] if answer["own"] else ["RECORDED"]
    did = "DID" if answer["own"] else "WOULD HAVE DONE"
    return columns(["RULE", "TRIGGER", "FIRINGS", "FIRST", "LAST", *recorded, did], rows, room())


def _then(recorded: Optional[Dict[str, Any]], answer: Dict[str, Any]) -> str:
    """What the rule of that id did in the run."""
    if recorded is None:
        return "no such rule"
    if not recorded["firings"]:
        return "none" + (", as here" if recorded["same"] else "")
    first, last = _at(recorded["first"], answer), _at(recorded["last"], answer)
    span = f"{first}" if recorded["firings"] == 1 else f"{first} to {last}"
    return f"{recorded['firings']}, {'at the same times' if recorded['same'] else span}"


def _timeline(answer: Dict[str, Any]) -> List[str]:
    rows = []
    for fired in answer["timeline"]:
        row = [_at(fired["t"], answer), fired["rule"], fired["firing"], fired["event"]]
        if not answer["own"]:
            row.append(_at(fired["recorded"], answer))
        rows.append([*row, "; ".join(fired["did"])])
    recorded = [] if answer["own"] else ["RECORDED"]
    did = "DID" if answer["own"] else "WOULD HAVE DONE"
    return columns(["AT", "RULE", "FIRING", "ON", *recorded, did], rows, room())


def _groups(answer: Dict[str, Any]) -> List[str]:
    rows = [
        [group["group"], group["would"], group["recorded"], "and what a function says" if group["unknown"] else ""]
        for group in answer["groups"]
    ]
    return columns(["GROUP", "WOULD SUBMIT", "RECORDED", ""], rows, room())
