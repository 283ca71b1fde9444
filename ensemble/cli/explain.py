# SPDX-License-Identifier: MIT
"""`explain ID RULE`: the service's account of a rule, for people or as JSON."""

from __future__ import annotations

import json
import shutil
import textwrap
from argparse import Namespace
from datetime import datetime
from typing import Any, Dict, Iterator, List, Optional

from ensemble.cli.common import ask, columns, flat, out, out_json
from ensemble.engine.explain import moment
from ensemble.spec.units import fsd

#: columns of the sentence on top: at most, and at least, whatever the terminal says
_WIDTH = 100
_LEAST = 40


def explain(args: Namespace) -> int:
    """Print it."""
    answer = ask(args, "explain", {"id": args.id, "rule": args.rule})
    if args.json:
        out_json(answer)
        return 0
    for line in lines(answer):
        out(line)
    return 0


def lines(answer: Dict[str, Any]) -> List[str]:
    """What people read."""
    begin = answer["ensemble"]["t_begin"]
    width = max(_LEAST, min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns))
    found = textwrap.wrap(flat(answer["answer"]), width, break_long_words=False, break_on_hyphens=False)
    found += ["", *_facts(answer, begin)]
    if answer["condition"] is not None:
        found += ["", *_condition(answer)]
    if answer["firings"]:
        found += ["", *_firings(answer, begin)]
    return found


def _at(t: Optional[float], begin: Optional[float]) -> str:
    """A time since the begin, and by the clock."""
    if t is None:
        return "-"
    return f"{moment(t - (t if begin is None else begin))} ({datetime.fromtimestamp(t).strftime('%H:%M:%S')})"


def _facts(answer: Dict[str, Any], begin: Optional[float]) -> Iterator[str]:
    repetitions, remaining = answer["repetitions"], answer["remaining"]
    looked, backoff, cooldown = answer["looked"], answer["backoff"], answer["cooldown"]
    of = (
        "unlimited"
        if repetitions is None
        else f"{repetitions}, of which {remaining} {'is' if remaining == 1 else 'are'} left"
    )
    rows = [
        ("rule", f"{answer['rule']}, number {answer['number']} of ensemble {answer['ensemble']['name']} ({answer['ensemble']['id']})"),
        ("state", f"{answer['state']} (the ensemble is {answer['ensemble']['state']})"),
        ("trigger", f"{answer['trigger']} {answer['name'] or ''}".rstrip()),
        ("does", "; ".join(_action(action) for action in answer["actions"])),
        ("waits for", answer["waits_for"] + (f", due at {_at(answer['next'], begin)}" if answer["next"] is not None else "")),
        ("repetitions", f"{of}; fired {answer['fired']}"),
    ]  # fmt: skip
    if backoff["of"]:
        rows.append(("backoff", f"{backoff['of']} occasions, of which {backoff['left']} are still to pass"))
    if cooldown["of"]:
        left = f"{fsd(cooldown['left'])} left" if cooldown["left"] else "not in it"
        rows.append(("cooldown", f"{fsd(cooldown['of'])}, {left}"))
    rows.append(("enabled", _enabled(answer, begin)))
    if looked is None:
        rows.append(("last look", "none yet"))
    else:
        rows.append(("last look", f"{_at(looked['t'], begin)} at {looked['event']}: {looked['text']}"))
    if answer["error"]:
        rows.append(("error", answer["error"]))
    yield from (f"{name:<12} {flat(text)}" for name, text in rows)


def _action(action: Dict[str, Any]) -> str:
    more = [f"{key}: {json.dumps(value)}" for key, value in action.items() if key not in ("name", "label")]
    return f"{action['name']} {action.get('label') or ''}".rstrip() + (f" ({', '.join(more)})" if more else "")


def _enabled(answer: Dict[str, Any], begin: Optional[float]) -> str:
    by, word = answer["enabled_by"], "yes" if answer["enabled"] else "no"
    if by["by"] == "file":
        return f"{word}, as the file says"
    if by["by"] == "on_error":
        return f"{word}, since it failed at {_at(by['t'], begin)} (on_error: disable)"
    return f"{word}, by rule {by['rule']} at its firing {by['firing']}, {_at(by['t'], begin)}"


def _condition(answer: Dict[str, Any]) -> Iterator[str]:
    """The terms, each within the one that it belongs to, with their present values."""
    yield f"condition ({'holds' if answer['holds'] else 'does not hold'}):"
    for line in columns(["VALUE", "TERM"], list(_terms(answer["condition"], 0))):
        yield f"  {line}".rstrip()


def _terms(term: Dict[str, Any], depth: int) -> Iterator[List[str]]:
    why = f"  ({term['why']})" if term["why"] else ""
    yield [_value(term["value"]), "  " * depth + flat(term["text"]) + why]
    for inner in term["terms"]:
        yield from _terms(inner, depth + 1)


def _value(value: Any) -> str:
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _firings(answer: Dict[str, Any], begin: Optional[float]) -> Iterator[str]:
    rows = []
    for firing in answer["firings"]:
        event = firing["event"] if firing["event"] is not None else "(its record is not kept any more)"
        did: List[str] = firing["did"] or ["-" if firing["event"] is not None else ""]
        rows.append([firing["firing"], _at(firing["t"], begin), event, did[0]])
        rows += [["", "", "", more] for more in did[1:]]
    title = "firings" if len(answer["firings"]) == answer["fired"] else f"firings (the last {len(answer['firings'])})"
    yield f"{title}:"
    for line in columns(["NUMBER", "AT", "ON", "DID"], rows):
        yield f"  {line}".rstrip()
