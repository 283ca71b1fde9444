# SPDX-License-Identifier: MIT
"""The expansion of an algorithm: name, options and group in, rules or faults out, all of it plain data.

Law of this file: standard library only. `expand` imports the algorithm, and so runs here for shipped ones alone; for one
of a package it runs in a process of its own (`main`, started by `foreign.py`), which ends within a time limit whatever
the package does.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, Dict, List, NoReturn

from ensemble.algorithms.contract import Group, WrongOption
from ensemble.algorithms.found import load
from ensemble.algorithms.options import Wrong, check

#: rules of one algorithm
MOST_RULES = 1000
#: bytes of them, as JSON
MOST = 1 << 20


class Broken(Exception):
    """The algorithm itself is at fault; a sentence."""


def expand(name: str, id: str, group: Dict[str, Any], options: Dict[str, Any]) -> Dict[str, Any]:
    """{"rules": [...]} or {"wrong": [Wrong, ...]}. Raises Broken for an algorithm that does not keep the contract."""
    about = Group(**{**group, "variables": tuple(group["variables"])})
    try:
        made = load(name)
    except Exception as exc:
        raise Broken(f"cannot be loaded: {_summary(exc)}") from exc
    found, wrong = check(made.OPTIONS, options, name, about.variables)
    if wrong:
        return {"wrong": [list(one) for one in wrong]}
    texts: List[str] = []
    # two objects, so that what depends on more than it is told is seen
    for _ in range(2):
        try:
            rules = made(name, id, group["name"], json.loads(json.dumps(found))).expand(about)
        except WrongOption as exc:
            option = exc.option if exc.option in options else _alias(made.OPTIONS, exc.option, options)
            value = None if exc.value is None else str(exc.value)
            return {"wrong": [list(Wrong(option, str(exc), exc.expected, exc.known, value))]}
        except Exception as exc:
            raise Broken(f"failed to expand: {_summary(exc)}") from exc
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules) or not rules:
            raise Broken("gave a wrong answer: expected a list of rules, which are mappings")
        try:
            texts.append(json.dumps(rules, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as exc:
            raise Broken(f"gave rules that hold more than plain data: {exc}") from None
    if len(rules) > MOST_RULES or len(texts[0]) > MOST:
        raise Broken(f"gave {len(rules)} rules of {len(texts[0])} bytes; {MOST_RULES} of {MOST} are the most")
    if texts[0] != texts[1]:
        raise Broken("is not deterministic: asked twice, it gave different rules")
    return {"rules": json.loads(texts[0])}


def _alias(options: Any, name: str, given: Dict[str, Any]) -> str:
    """The word by which the file gives that option; '' where it does not."""
    for option in options:
        if option.name == name and option.alias in given:
            return str(option.alias)
    return ""


def _summary(exc: BaseException) -> str:
    return "".join(traceback.format_exception_only(type(exc), exc)).strip().splitlines()[-1][:500]


def main() -> NoReturn:
    """One request from standard input, one answer to where standard output was; what the package prints goes nowhere."""
    request = json.load(sys.stdin)
    answer = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    try:
        said = expand(**request)
    except Broken as exc:
        said = {"broken": str(exc)}
    except BaseException as exc:
        said = {"broken": f"failed: {_summary(exc)}"}
    with os.fdopen(answer, "w") as file:
        json.dump(said, file)
    os._exit(0)
