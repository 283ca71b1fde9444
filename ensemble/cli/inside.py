# SPDX-License-Identifier: MIT
"""`put` and `signal`: what jobs, and users, tell an ensemble while it runs.

Law of this file: inside a job neither fails for want of a service: what cannot be delivered is dropped with a warning, and
the exit status is 0, since a job under `set -e` must not end for a metric. Whoever names the ensemble is a user like
any other, inside a job too, and hears an error.
"""

from __future__ import annotations

import json
import math
import os
from argparse import Namespace
from typing import Any, Dict, List, Optional, Tuple

from ensemble.cli.common import ask, clean, out, out_json, say
from ensemble.errors import MemberError, NoService, NotFound, ServiceError, UsageError
from ensemble.service.inside import WAIT, Inside, refused


def put(args: Namespace) -> int:
    """`put NAME=VALUE ...`, inside a job."""
    inside = _inside(args, "put")
    values, faults = _values(args.values)
    for fault in faults:
        say(f"{fault}; it is left out")
    if not values:
        return 0
    answer = _deliver(lambda: inside.put(values), f"{', '.join(values)} dropped")
    for text in refused(answer or {}):
        say(clean(text))
    if args.json:
        out_json(answer or {"taken": [], "refused": {}})
    return 0


def signal(args: Namespace) -> int:
    """`signal [ID] NAME key=value ...`."""
    words, data = _words(args.words)
    if not 1 <= len(words) <= 2:
        raise UsageError("expected an ensemble, the signal's name, and data: signal ID NAME key=value ...")
    name = words[-1]
    if len(words) == 1:
        inside = _inside(args, "signal")
        answer = _deliver(lambda: inside.signal(name, data), f"signal {name} dropped")
        if answer is None:
            return 0
    else:
        answer = _to_ensemble(args, words[0], name, data)
    if args.json:
        out_json(answer)
    elif not answer.get("rules"):
        say(clean(f"{answer.get('id')}: no rule waits for the signal '{name}'"))
    elif len(words) == 2:
        out(clean(f"{answer.get('id')}: {name}"))
    return 0


def _to_ensemble(args: Namespace, id: str, name: str, data: Dict[str, Any]) -> Dict[str, Any]:
    """To the ensemble of that id or name: here, or from inside a job in an instance around this one."""
    try:
        return ask(args, "signal", {"id": id, "name": name, "data": data})
    except (NoService, NotFound):
        if not os.environ.get("ENSEMBLE_JOB"):
            raise
        return Inside(wait=0.0).signal(name, data, to=id)


def _inside(args: Namespace, verb: str) -> Inside:
    """This job's connection. Raises UsageError outside of one."""
    try:
        return Inside(wait=WAIT if args.wait is None else args.wait)
    except UsageError as exc:
        if verb == "signal":
            raise UsageError("outside of a job the ensemble has to be named: signal ID NAME key=value ...") from None
        raise exc


def _deliver(send: Any, lost: str) -> Optional[Dict[str, Any]]:
    """The answer; None, with a warning, where there was none."""
    try:
        answer: Dict[str, Any] = send()
    except (ServiceError, MemberError) as exc:
        say(clean(f"warning: {lost}: {exc}"))
        return None
    return answer


def _values(words: List[str]) -> Tuple[Dict[str, Any], List[str]]:
    """NAME=VALUE words as values, and sentences about those that are none. What is not finite is sent all the same."""
    values: Dict[str, Any] = {}
    faults = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            faults.append(f"'{clean(word)}' is no value; expected NAME=VALUE, as in loss=0.3")
            continue
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = text[:100]
    return values, faults


def _words(words: List[str]) -> Tuple[List[str], Dict[str, Any]]:
    """The words in front, and the key=value words behind them. Raises UsageError."""
    front = [word for word in words if "=" not in word]
    data: Dict[str, Any] = {}
    for word in words[len(front) :]:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(f"'{clean(word)}' stands behind data; expected ID NAME key=value ...")
        data[key] = _datum(text)
    return front, data


def _datum(text: str) -> Any:
    """A number, true, false, null, or a text; JSON in brackets or braces is read as such."""
    if text in ("true", "false", "null") or text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        # what JSON has no number for stays a text
        return number if math.isfinite(number) and "_" not in text else text
    return text
