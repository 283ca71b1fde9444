# SPDX-License-Identifier: MIT
"""What all verbs share: the name we were called by, messages, JSON, and how a file is read.

Standard output carries results alone; everything said about them goes to standard error, each line headed by the
command's name as Flux's own commands do.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import textwrap
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from ensemble.cli.local_start import run_dir
from ensemble.errors import UsageError
from ensemble.service.client import Client, choose, connect
from ensemble.spec.faults import escape

if TYPE_CHECKING:
    from ensemble.cli.table import Named
    from ensemble.spec.load import Loaded
    from ensemble.spec.machine import Machine
    from ensemble.spec.scaler import Site

#: a terminal is taken to hold so many characters at least, and a column of texts is not narrowed below that
_LEAST, _NARROWEST = 40, 8
#: exit status of run and watch for the state that the ensemble ended in
EXIT = {"complete": 0, "failed": 1, "halted": 3, "cancelled": 4}


def command_name() -> str:
    """flux-ensemble where Flux's `flux ensemble` called us, else ensemble."""
    return "flux-ensemble" if os.path.basename(sys.argv[0]).startswith("flux-ensemble") else "ensemble"


def prog() -> str:
    """What the user types: `flux ensemble` or `ensemble`."""
    return command_name().replace("-", " ")


def hint(*words: str) -> str:
    """A command line of ours that the user can type as it stands."""
    return " ".join([prog(), *map(shlex.quote, words)])


def say(text: str) -> None:
    """A line about what we do, on standard error."""
    for line in text.splitlines() or [""]:
        print(f"{command_name()}: {line}", file=sys.stderr, flush=True)


def clean(text: Any) -> str:
    """Text from a file, a job or a service, so that it cannot steer the terminal; its lines stay lines."""
    return "\n".join(map(escape, str(text).splitlines()))


def flat(text: Any) -> str:
    """`clean` text on one line."""
    return " ".join(clean(text).split("\n"))


def out(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")


def out_json(value: Any) -> None:
    """A result as one line of JSON."""
    out(json.dumps(value))


def connected(args: Namespace) -> Client:
    """A client of the service that `--member` means, and of what `--rundir` holds. Raises MemberError, or NoService."""
    return connect(choose(args.member), run_dir(args.rundir))


def ask(args: Namespace, endpoint: str, payload: Dict[str, Any]) -> Dict[str, Any]:
    """One request, answered."""
    client = connected(args)
    try:
        return client.call(endpoint, payload)
    finally:
        client.close()


def load(path: str, instance: Optional[Machine] = None) -> Loaded:
    """The checked file, held against an instance if there is one. Raises SpecError with all faults, or UsageError for a file that cannot be read."""
    from ensemble.spec.load import load_file

    try:
        return load_file(path, instance, _site())
    except OSError as exc:
        raise UsageError(f"the file '{clean(path)}' cannot be read: {exc.strerror or exc}") from None


def _site() -> Optional[Site]:
    """What the Flux instance of this process says of scalers."""
    if not os.environ.get("FLUX_URI"):
        return None
    from ensemble.service.instance import scaler

    return scaler()


def submitter() -> Dict[str, Any]:
    """Environment, working directory, umask and limits of this process, as `submit` wants them."""
    import resource

    umask = os.umask(0)
    os.umask(umask)
    limits = {
        name[len("RLIMIT_") :].lower(): resource.getrlimit(getattr(resource, name))[0]
        for name in dir(resource)
        # RLIMIT_OFILE is an old name of RLIMIT_NOFILE
        if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
    }
    # what is no UTF-8 would not survive JSON; it is better left out than changed
    environment = {key: value for key, value in os.environ.items() if _is_text(key) and _is_text(value)}
    return {
        "environment": environment,
        "cwd": os.getcwd(),
        "umask": umask,
        "rlimits": {name: -1 if value == resource.RLIM_INFINITY else value for name, value in sorted(limits.items())},
    }


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def submission(path: str) -> Dict[str, Any]:
    """The payload of `submit` for a file that was checked before, with the files that it names."""
    files = load(path).files
    with open(path, encoding="utf-8") as file:
        return {"text": file.read(), "file": path, "files": files, "submitter": submitter()}


def out_table(
    args: Namespace, rows: Sequence[Dict[str, Any]], formats: Dict[str, Named], headings: Dict[str, str]
) -> None:
    """Print the rows as `-o` and `-n` of the command line want them. Raises UsageError."""
    from ensemble.cli.table import pick

    table = pick(args.format, formats, headings)
    assert table is not None, "-o help is answered before the service is asked"
    for line in table.lines(rows, not args.no_header):
        out(flat(line))


def asked_for_formats(args: Namespace, formats: Dict[str, Named], headings: Dict[str, str]) -> bool:
    """Answer `-o help`, and find faults of `-o FORMAT` before the service is asked. Raises UsageError."""
    from ensemble.cli.table import help_lines, pick

    if pick(args.format, formats, headings) is not None:
        return False
    for line in help_lines(formats, headings):
        out(line)
    return True


def room() -> Optional[int]:
    """Characters that a line of the terminal holds; None where standard output is none, and COLUMNS does not say."""
    return shutil.get_terminal_size((0, 0)).columns or None


def wrapped(line: str, indent: int = 4, width: Optional[int] = None) -> List[str]:
    """The line in pieces that the terminal (or that width) holds, all but the first so far to the right."""
    width = width or room()
    if width is None or len(line) <= width:
        return [line]
    more = " " * indent
    return textwrap.wrap(
        line, max(width, _LEAST), subsequent_indent=more, break_on_hyphens=False, break_long_words=False
    )


def columns(headings: Sequence[str], rows: Sequence[Sequence[Any]], width: Optional[int] = None) -> List[str]:
    """Lines of a small table as wide as its content: text to the left, numbers to the right, '-' for None.

    Where a width is given and the content is wider, texts go on below, in their columns; numbers stay whole.
    """
    body = [list(headings), *(["-" if cell is None else flat(cell) for cell in row] for row in rows)]
    right = [all(cell is None or _numeric(cell) for cell in column) for column in zip(*rows)] or [False] * len(headings)
    widths, gap = _fitted(body, right, width)
    found = []
    for line in body:
        cells = [textwrap.wrap(cell, size) if len(cell) > size else [cell] for cell, size in zip(line, widths)]
        for part in range(max(map(len, cells), default=1)):
            shown = [cell[part] if part < len(cell) else "" for cell in cells]
            aligned = (x.rjust(size) if is_right else x.ljust(size) for x, size, is_right in zip(shown, widths, right))
            found.append(gap.join(aligned).rstrip())
    return found


def _fitted(body: Sequence[Sequence[str]], right: Sequence[bool], width: Optional[int]) -> Tuple[List[int], str]:
    """How wide the columns are, and what stands between them: the widest texts are narrowed until it fits, or none can be."""
    widths = [max(map(len, column)) for column in zip(*body)]
    least = [
        size if is_right else min(size, max(_NARROWEST, *map(len, heading.split() or [""])))
        for size, is_right, heading in zip(widths, right, body[0])
    ]
    gap = "  "
    while width is not None and sum(widths) + len(gap) * (len(widths) - 1) > width:
        wide = [i for i, size in enumerate(widths) if size > least[i]]
        if wide:
            widths[max(wide, key=lambda i: widths[i])] -= 1
        elif gap == "  ":
            gap = " "
        else:
            break
    return widths, gap


def _numeric(cell: Any) -> bool:
    return isinstance(cell, (int, float)) or bool(re.fullmatch(r"-|[-+]?\d[\d.e+-]*[smhd%]?", str(cell)))


def number(value: Optional[float]) -> str:
    """A statistic for people: about four digits."""
    return "-" if value is None else f"{value:.4g}"
