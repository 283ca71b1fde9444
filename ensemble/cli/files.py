# SPDX-License-Identifier: MIT
"""`validate`, `example` and `schema`: what needs no service."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from importlib import resources
from typing import Any, Dict, List, Optional, Sequence

from ensemble.cli.common import clean, columns, hint, load, out, out_json, say
from ensemble.errors import EnsembleError, SpecError, UsageError
from ensemble.service.client import choose
from ensemble.spec import writing
from ensemble.spec.faults import Fault, nearest
from ensemble.spec.machine import Machine


def validate(args: Namespace) -> int:
    """`validate FILE`: 0 if it may run, with warnings or without, 2 with all faults if not."""
    instance = None if args.no_instance or (args.expand and not args.json) else _instance()
    try:
        loaded = load(args.file, instance)
    except SpecError as exc:
        if args.json:
            out_json(_told(args.file, exc.faults, exc.warnings, instance))
            return 2
        for fault in sorted((*exc.faults, *exc.warnings), key=lambda fault: (fault.line, fault.column)):
            print(fault, file=sys.stderr)
        return 2
    if args.json:
        expanded = {"expanded": writing.text(loaded.written.root)} if args.expand else {}
        out_json({**_told(args.file, (), loaded.warnings, instance), **expanded})
        return 0
    for warning in loaded.warnings:
        print(warning, file=sys.stderr)
    if args.expand:
        sys.stdout.write(writing.text(loaded.written.root))
        return 0
    spec = loaded.spec
    count = len(loaded.warnings)
    found = f", {count} warning{'' if count == 1 else 's'}" if count else ""
    against = "" if instance is None else f"; held against an instance of {instance}"
    out(f"{clean(args.file)}: no faults{found} (groups: {len(spec.groups)}, rules: {len(spec.rules)}{against})")
    return 0


def _instance() -> Optional[Machine]:
    """What the running Flux instance has; None where there is none, or where it does not tell, which is said."""
    try:
        if choose() != "flux":
            return None
        from ensemble.service.instance import machine

        return machine()
    except EnsembleError as exc:
        say(f"the file is not held against the running instance: {exc}")
        return None


def _told(path: str, faults: Sequence[Fault], warnings: Sequence[Fault], instance: Optional[Machine]) -> Dict[str, Any]:
    return {
        "file": path,
        "valid": not faults,
        "faults": [_fault(fault) for fault in faults],
        "warnings": [_fault(fault) for fault in warnings],
        "instance": None if instance is None else instance.facts(),
    }


def _fault(fault: Fault) -> Dict[str, Any]:
    names = ("severity", "line", "column", "message", "value", "expected", "suggestion")
    return {name: getattr(fault, name) for name in names}


def examples() -> Dict[str, str]:
    """Name to text of the packaged examples."""
    folder = resources.files("ensemble") / "examples"
    found = {}
    if folder.is_dir():
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith((".yaml", ".yml")):
                found[entry.name.rsplit(".", 1)[0]] = entry.read_text(encoding="utf-8")
    return found


def described(text: str) -> str:
    """The first sentence of the comment that an example opens with."""
    words: List[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# SPDX-"):
            words += line.lstrip("#").split()
    return re.split(r"(?<=\.) ", " ".join(words), maxsplit=1)[0]


def example(args: Namespace) -> int:
    """`example [NAME]`: the list, or one as it stands."""
    known = examples()
    if args.name is None:
        if args.json:
            out_json([{"name": name, "description": described(text)} for name, text in known.items()])
            return 0
        lines: List[str] = columns(["NAME", "DESCRIPTION"], [[name, described(text)] for name, text in known.items()])
        for line in lines:
            out(line)
        return 0
    name = args.name[: -len(".yaml")] if args.name.endswith(".yaml") else args.name
    if name not in known:
        near = nearest(name, known)
        raise UsageError(
            f"there is no example '{clean(args.name)}'; "
            + (f"did you mean '{near}'?" if near else f"'{hint('example')}' lists them")
        )
    if args.json:
        out_json({"name": name, "description": described(known[name]), "text": known[name]})
    else:
        sys.stdout.write(known[name])
    return 0


def schema(args: Namespace) -> int:
    """`schema`: the JSON Schema of the language."""
    from ensemble.spec.schema import schema as language

    out(json.dumps(language(), indent=2))
    return 0
