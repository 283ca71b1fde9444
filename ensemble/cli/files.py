# SPDX-License-Identifier: MIT
"""`validate`, `example` and `schema`: what needs no service."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from importlib import resources
from typing import Any, Dict, List, Tuple

from ensemble.cli.common import clean, columns, hint, load, out, out_json
from ensemble.errors import SpecError, UsageError
from ensemble.spec import writing
from ensemble.spec.faults import Fault, nearest


def validate(args: Namespace) -> int:
    """`validate FILE`: 0 if it may run, 2 with all faults if not."""
    if args.json:
        return _validate_json(args.file, args.expand)
    loaded = load(args.file)
    if args.expand:
        sys.stdout.write(writing.text(loaded.written.root))
        return 0
    for warning in loaded.warnings:
        print(warning, file=sys.stderr)
    spec = loaded.spec
    count = len(loaded.warnings)
    found = f", {count} warning{'' if count == 1 else 's'}" if count else ""
    out(f"{clean(args.file)}: no faults{found} (groups: {len(spec.groups)}, rules: {len(spec.rules)})")
    return 0


def _validate_json(path: str, expand: bool) -> int:
    faults: Tuple[Fault, ...] = ()
    warnings: Tuple[Fault, ...] = ()
    expanded = {}
    try:
        loaded = load(path)
        warnings = loaded.warnings
        if expand:
            expanded = {"expanded": writing.text(loaded.written.root)}
    except SpecError as exc:
        faults = exc.faults
    out_json(
        {
            "file": path,
            "valid": not faults,
            "faults": [_fault(fault) for fault in faults],
            "warnings": [_fault(fault) for fault in warnings],
            **expanded,
        }
    )
    return 2 if faults else 0


def _fault(fault: Fault) -> Dict[str, Any]:
    return {key: getattr(fault, key) for key in ("line", "column", "message", "value", "expected", "suggestion")}


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
