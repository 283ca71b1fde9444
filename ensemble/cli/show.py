# SPDX-License-Identifier: MIT
"""How `run` and `watch` show an ensemble: live lines on a terminal, plain lines in a pipe, or JSON lines.

All three take batches of records. On a terminal rich keeps one line a group at the bottom of the screen and what
happens scrolls by above it; where that cannot work (TERM=dumb) the plain lines are used.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

from ensemble.cli.common import clean
from ensemble.cli.narrate import Line, Narrator
from ensemble.spec.units import fsd

if TYPE_CHECKING:
    from rich.table import Table as RichTable

#: seconds between two lines of counts in a pipe
PROGRESS = 30.0
#: columns below which the live lines shed their less telling columns
NARROW = 70
#: columns that the live lines leave free: a Ctrl-C is echoed as ^C, and must not break the line
MARGIN = 6
#: columns that all but the group's name take
ROOM_WIDE, ROOM_NARROW = 54, 28
_STYLES = {"rule": "cyan", "error": "red", "state": "bold", "log": "green", "plain": ""}


class Show:
    """Plain lines; the base of the other two."""

    def __init__(self, status: Dict[str, Any], debug: bool = False) -> None:
        """`status` is how the ensemble stands as the view begins."""
        self._narrator = Narrator(status.get("t_submit"))
        self._debug = debug
        self._groups: Dict[str, Dict[str, Any]] = status.get("groups") or {}
        self._shown_counts = ""
        self._t_counts = time.monotonic()

    def start(self) -> None:
        """Begin to show."""

    def batch(self, records: Sequence[Dict[str, Any]]) -> None:
        """Show new records."""
        for record in records:
            if self._debug and record.get("type") != "metric":
                self._print(Line("plain", clean(json.dumps(record))))
            if record.get("type") == "metric":
                self._groups = record.get("groups") or {}
        for line in self._narrator.lines(records):
            self._print(line)
        self._progress()

    def pause(self) -> None:
        """Leave the terminal alone, for a question."""

    def stop(self) -> None:
        """Nothing more will come."""

    def _print(self, line: Line) -> None:
        sys.stdout.write(line.text + "\n")
        sys.stdout.flush()

    def _progress(self) -> None:
        if time.monotonic() - self._t_counts < PROGRESS:
            return
        self._t_counts = time.monotonic()
        counts = ", ".join(f"{clean(group)}: {_counts(of)}" for group, of in self._groups.items())
        if counts and counts != self._shown_counts:
            self._shown_counts = counts
            self._print(Line("plain", f"{'':9}  {counts}"))


def _counts(of: Dict[str, Any]) -> str:
    text = f"{of.get('pending', 0)} pending, {of.get('running', 0)} running, {of.get('success', 0)} done"
    return text + (f", {of['failed']} failed" if of.get("failed") else "")


class JsonShow(Show):
    """One JSON object a record."""

    def batch(self, records: Sequence[Dict[str, Any]]) -> None:
        for record in records:
            sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


class LiveShow(Show):
    """A terminal: one live line a group below what happens."""

    def __init__(self, status: Dict[str, Any], debug: bool = False) -> None:
        super().__init__(status, debug)
        from rich.console import Console
        from rich.constrain import Constrain
        from rich.live import Live

        self._console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(
            console=self._console,
            get_renderable=lambda: Constrain(self._table(), max(1, self._console.width - MARGIN)),
            auto_refresh=True,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=sys.stderr.isatty(),
        )

    def start(self) -> None:
        self._live.start()

    def batch(self, records: Sequence[Dict[str, Any]]) -> None:
        super().batch(records)
        self._live.refresh()

    def pause(self) -> None:
        self._live.stop()

    stop = pause

    def _print(self, line: Line) -> None:
        from rich.text import Text

        self._console.print(Text(line.text, style=_STYLES[line.style]))

    def _progress(self) -> None:
        """The live lines say it."""

    def _table(self) -> RichTable:
        from rich.table import Table

        width, height = self._console.size
        names = [("PENDING", "pending"), ("RUNNING", "running"), ("DONE", "success"), ("FAILED", "failed")]
        if width < NARROW:
            names = [("PD", "pending"), ("R", "running"), ("OK", "success"), ("F", "failed")]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        room = width - MARGIN - (ROOM_WIDE if width >= NARROW else ROOM_NARROW)
        table.add_column("GROUP", no_wrap=True, overflow="ellipsis", max_width=max(4, room))
        for heading, _ in names:
            table.add_column(heading, justify="right", no_wrap=True)
        if width >= NARROW:
            table.add_column("CANCELLED", justify="right", no_wrap=True)
            table.add_column("MEAN", justify="right", no_wrap=True)
        rows = self._rows(max(1, height - 5))
        for group, of in rows:
            cells = [str(of.get(key, 0)) for _, key in names]
            if width >= NARROW:
                mean = of.get("mean_duration")
                cells += [str(of.get("cancelled", 0)), "-" if mean is None else fsd(mean)]
            table.add_row(clean(group), *cells, style="red" if of.get("failed") else "")
        hidden = len(self._groups) - len(rows)
        if hidden > 0:
            table.add_row(f"and {hidden} more")
        return table

    def _rows(self, room: int) -> List[Any]:
        """The groups that fit: all, or first those with something going on."""
        groups = list(self._groups.items())
        if len(groups) <= room:
            return groups
        groups.sort(key=lambda item: -int(item[1].get("active", 0) or 0))
        return groups[:room]


def choose_show(as_json: bool, status: Dict[str, Any], debug: bool) -> Show:
    """The view that fits standard output."""
    if as_json:
        return JsonShow(status)
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return Show(status, debug)
    return LiveShow(status, debug)
