# SPDX-License-Identifier: MIT
"""`cancel`, `pause`, `purge`, and what `resume` shares with them."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from typing import Any, Dict, Union

from ensemble.cli.common import ask, clean, out, out_json, say
from ensemble.errors import UsageError


def act(args: Namespace) -> int:
    """Send the verb to the ensemble, and print the state that it is in now."""
    payload: Dict[str, Any] = {"id": args.id}
    if args.verb == "resume" and args.limit:
        payload["limits"] = dict(map(limit, args.limit))
    answer = ask(args, args.verb, payload)
    if args.json:
        out_json(answer)
    else:
        out(clean(f"{answer.get('id')}: {answer.get('state')}"))
    return 0


def purge(args: Namespace) -> int:
    """Remove ensembles that have ended, and print which."""
    from ensemble.spec.units import duration

    payload: Dict[str, Any] = {"ids": args.ids, "keep": args.keep}
    if args.older_than is not None:
        words = args.older_than
        try:
            payload["older_than"] = duration(float(words) if words.isdecimal() else words)
        except ValueError as exc:
            raise UsageError(f"--older-than {clean(words)}: {exc}") from None
    answer = ask(args, "purge", payload)
    if args.json:
        out_json(answer)
        return 0
    removed = answer.get("removed") or []
    for summary in removed:
        out(clean(f"{summary.get('id')}: removed ({summary.get('name')}, {summary.get('state')})"))
    if not removed:
        say("there is nothing to remove")
    return 0


def limit(text: str) -> tuple[str, Union[int, float, str, None]]:
    """NAME and value of NAME=VALUE; the value is a number where it looks like one. Raises UsageError."""
    from ensemble.spec.models import Limits

    name, equals, given = text.partition("=")
    if not equals or not given:
        raise UsageError(f"'{text}' is no limit; expected NAME=VALUE, as in max_jobs=200")
    value: Union[int, float, str, None] = None if given == "none" else given
    for kind in (float, int):
        with contextlib.suppress(ValueError):
            value = kind(given)
    try:
        Limits.given({name: value})
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    return name, value
