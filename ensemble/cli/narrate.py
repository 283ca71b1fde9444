# SPDX-License-Identifier: MIT
"""Turns the records of an ensemble into lines for people.

A firing and what it does are one line: a `rule` record is held until the first of its `action` records, which the
service sends right behind it. Jobs that went well are not told one by one; of those that failed, the first few of
each group. A file with `logging.debug` has every event of its jobs told.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ensemble.cli.common import clean

#: times that the same error is told
TOLD_ERRORS = 3
#: failed jobs of one group that are told one by one while it runs
TOLD_FAILURES = 10


class Line(NamedTuple):
    """A line without its end. `style` is a word for the terminal's view: rule, log, error, state or plain."""

    style: str
    text: str


class Narrator:
    """Remembers what a line needs of the records before it."""

    def __init__(self, t_start: Optional[float] = None) -> None:
        #: seconds since the epoch; lines carry the time since then
        self._t_start = t_start
        #: the file has `logging.debug`
        self._debug = False
        self._held: Optional[Dict[str, Any]] = None
        self._failures: Dict[str, int] = {}
        self._errors: Dict[str, int] = {}
        self._width = 8

    def lines(self, records: Iterable[Dict[str, Any]]) -> List[Line]:
        """The lines for one batch of records."""
        lines = [line for record in records for line in self._one(record)]
        return lines + list(self._release())

    def _one(self, record: Dict[str, Any]) -> Iterator[Line]:
        if self._t_start is None:
            self._t_start = record.get("t")
        kind = record.get("type")
        if kind == "metric":
            return
        if kind == "action":
            held, self._held = self._held, None
            if held is not None and _firing(held) != _firing(record):
                yield self._rule_line(held, "")
                held = None
            yield self._rule_line(held or {**record, "text": ""}, f"-> {clean(action_text(record))}")
            return
        yield from self._release()
        if kind == "rule":
            self._held = record
        elif kind == "submitted":
            self._debug = bool(record.get("debug"))
            yield self._line("state", record, f"{record.get('name')} ({record.get('id')}) submitted")
        elif kind == "state":
            reason = record.get("reason")
            yield self._line("state", record, f"{record.get('state')}{': ' + str(reason) if reason else ''}")
        elif kind == "job":
            yield from self._job(record)
        elif kind == "log":
            yield self._line(kind, record, _said(record))
        elif kind == "error":
            yield from self._error(record)

    def _error(self, record: Dict[str, Any]) -> Iterator[Line]:
        text = _said(record)
        told = self._errors[text] = self._errors.get(text, 0) + 1
        if told <= TOLD_ERRORS:
            again = "; from here on the same error is not told again" if told == TOLD_ERRORS else ""
            yield self._line("error", record, text + again)

    def _job(self, record: Dict[str, Any]) -> Iterator[Line]:
        group = str(record.get("group"))
        name = f"job {record.get('job')} of {group}" if record.get("job") is not None else f"a job of {group}"
        event, result = record.get("event"), record.get("result")
        # of a refused job an error record has told already
        if event != "finish" or result != "failed" or record.get("cause") == "refused":
            if self._debug:
                yield self._line(
                    "plain", record, f"{name}: {event}{f' ({result})' if result else ''}{_reported(record)}"
                )
            return
        told = self._failures[group] = self._failures.get(group, 0) + 1
        if told <= TOLD_FAILURES or self._debug:
            yield self._line("error", record, f"{name} failed: {why(record)}")
        elif told == TOLD_FAILURES + 1:
            yield self._line("error", record, f"more jobs of {group} fail; they are only counted from here on")

    def _release(self) -> Iterator[Line]:
        held, self._held = self._held, None
        if held is not None:
            yield self._rule_line(held, "")

    def _rule_line(self, record: Dict[str, Any], action: str) -> Line:
        rule = str(record.get("rule") or "")
        self._width = max(self._width, min(len(rule), 24))
        parts = [f"{rule:<{self._width}}", str(record.get("text") or ""), action]
        return self._line("rule", record, "  ".join(part for part in parts if part).rstrip())

    def _line(self, style: str, record: Dict[str, Any], text: str) -> Line:
        # of a job that a member tells of late, the time at which it happened
        return Line(
            style, f"{(record.get('at') or record.get('t') or 0.0) - (self._t_start or 0.0):8.1f}s  {clean(text)}"
        )


def _firing(record: Dict[str, Any]) -> Tuple[Any, Any]:
    return record.get("rule"), record.get("firing")


def _said(record: Dict[str, Any]) -> str:
    rule = record.get("rule")
    return f"{record.get('type')}: {str(rule) + ': ' if rule else ''}{record.get('text') or ''}"


def action_text(record: Dict[str, Any]) -> str:
    """What an action record says it does: its own text, else made of name, label and count."""
    text = record.get("text")
    if text:
        return str(text)
    words = [str(record.get("action") or "")]
    if record.get("label"):
        words.append(str(record["label"]))
    count = record.get("count")
    if count is not None:
        words.append(f"({count} job{'' if count == 1 else 's'})")
    return " ".join(words)


def _reported(record: Dict[str, Any]) -> str:
    """The values of a report, which a file with `logging.debug` has in its records."""
    return "".join(f" {name}={x:.6g}" for name, x in (record.get("values") or {}).items())


def why(job: Dict[str, Any]) -> str:
    """Why a job did not succeed, from a `job` record or a JOB."""
    cause, code, signal, text = (job.get(key) for key in ("cause", "exit_code", "signal", "text"))
    if cause == "timeout":
        said = "time limit"
    elif cause in ("fail", None) and code is not None:
        said = f"exit code {code}"
    elif cause == "signal" and signal is not None:
        said = f"signal {signal}"
    else:
        said = str(cause or "unknown cause")
    return f"{said} ({text})" if text and str(text) != said else said


def log_line(record: Dict[str, Any], when: str) -> str:
    """One record as `log` prints it, whatever its type."""
    kind = str(record.get("type"))
    if kind == "rule":
        text = f"{record.get('rule')} fires ({record.get('firing')}): {record.get('text') or record.get('trigger')}"
    elif kind == "action":
        text = f"{record.get('rule') or '-'}: {action_text(record)}"
    elif kind == "job":
        result = record.get("result")
        ended = f" {result}" if result else ""
        ended += f": {why(record)}" if result in ("failed", "cancelled") else _reported(record)
        text = f"{record.get('job') if record.get('job') is not None else '-'} {record.get('group')} {record.get('event')}{ended}"
    elif kind == "submitted":
        text = f"{record.get('name')} ({record.get('id')}) from {record.get('file')}"
    elif kind == "state":
        reason = record.get("reason")
        text = f"{record.get('state')}{': ' + str(reason) if reason else ''}"
    else:
        rule = record.get("rule")
        text = f"{rule + ': ' if rule else ''}{record.get('text') or ''}"
    return f"{when}  {kind:<9}  {clean(text)}"
