# SPDX-License-Identifier: MIT
"""`graph FILE`: its groups, rules and signals as a picture, for a terminal, for Graphviz, or drawn by it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from typing import Optional

from ensemble.cli.common import clean, load, out_json, say
from ensemble.errors import UsageError
from ensemble.spec.flow import Flow, flow

#: cells of a line where there is no terminal to ask
_WIDTH = 80
#: what a file's name says of its format
_SUFFIXES = {".dot": "dot", ".gv": "dot", ".svg": "svg", ".txt": "text"}
#: names of pictures that somebody would open in vain
_OTHERS = (".png", ".pdf", ".jpg", ".gif", ".ps", ".eps", ".webp")


def graph(args: Namespace) -> int:
    """Draw a file: on a terminal as text, elsewhere for Graphviz, unless `--format` or the name of `-o` says otherwise."""
    made = flow(load(args.file).spec)
    if args.json:
        out_json(made.to_json())
        return 0
    form = args.format or _by_name(args.output) or ("text" if sys.stdout.isatty() and not args.output else "dot")
    drawn = _drawn(made, form, None if args.output is None else "utf-8")
    if args.output is None:
        sys.stdout.write(drawn)
        return 0
    try:
        with open(args.output, "w", encoding="utf-8") as file:
            file.write(drawn)
    except OSError as exc:
        raise UsageError(f"the file '{clean(args.output)}' cannot be written: {exc.strerror}") from None
    say(f"wrote {clean(args.output)} ({form})")
    return 0


def _by_name(path: Optional[str]) -> Optional[str]:
    """The format that a file's name says, None where it says none. Raises UsageError for one that is not drawn here."""
    suffix = "" if path is None else os.path.splitext(path)[1].lower()
    if suffix in _OTHERS:
        raise UsageError(
            f"no {suffix} is drawn here: name the file .svg, .dot or .txt, or take --format; "
            f"Graphviz makes others of a .dot: dot -T{suffix[1:]}"
        )
    return _SUFFIXES.get(suffix)


def _drawn(made: Flow, form: str, encoding: Optional[str]) -> str:
    """The picture. `encoding` is that of where it goes, None for standard output."""
    if form == "text":
        from ensemble.cli import boxes

        width = shutil.get_terminal_size((_WIDTH, 24)).columns if sys.stdout.isatty() and encoding is None else _WIDTH
        signs = boxes.FINE if _can(encoding or sys.stdout.encoding, boxes.FINE) else boxes.PLAIN
        return "\n".join(boxes.lines(made, min(width, 120), signs)) + "\n"
    from ensemble.cli import dot

    text = dot.text(dot.dot(made))
    return text if form == "dot" else _svg(text)


def _can(encoding: Optional[str], signs: object) -> bool:
    """Can these signs be written so?"""
    try:
        str(signs).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _svg(text: str) -> str:
    program = shutil.which("dot")
    if program is None:
        raise UsageError(
            "an SVG is drawn by 'dot' of Graphviz, which is not in PATH; install the package graphviz, or take "
            "--format dot and draw it elsewhere: dot -Tsvg"
        )
    done = subprocess.run([program, "-Tsvg"], input=text.encode(), capture_output=True)
    if done.returncode != 0 or not done.stdout:
        why = " ".join(done.stderr.decode(errors="replace").split())[:300]
        raise UsageError(f"'dot' of Graphviz has drawn nothing: {why or f'exit status {done.returncode}'}")
    return done.stdout.decode()
