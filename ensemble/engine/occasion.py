# SPDX-License-Identifier: MIT
"""What gives a rule its occasion, and what `event.*` reads of it.

Law of this file: plain data about one event, for conditions, actions and functions; nothing here changes anything.
What `event` has depends on the trigger (the table of triggers in the language): `group`, `job`, `value`, `name`,
`data`, `state`, `ranks`. A field that the trigger does not have is absent.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

from ensemble.engine.jobs import Job


class Occasion:
    """One occasion. `text` is for people: the trigger with its group, or a metric and its value."""

    __slots__ = ("_fields", "job", "text")

    def __init__(self, text: str, job: Optional[Job] = None, **fields: Any) -> None:
        """`fields` are JSON-able; a `job` adds `group` and `job`."""
        self.text = text
        #: the job that the event is about; None where it is about none
        self.job = job
        self._fields = fields

    @property
    def event(self) -> Dict[str, Any]:
        """What `event.*` reads, as JSON-able data made anew at each call."""
        if self.job is None:
            return dict(self._fields)
        return {"group": self.job.group, "job": self.job.facts(), **self._fields}

    def to_json(self) -> Any:
        return [self.text, None if self.job is None else self.job.to_json(), self._fields]

    @classmethod
    def from_json(cls, state: Any) -> Occasion:
        """The occasion that `to_json` wrote. Raises RecordError, or what damaged data makes Python raise."""
        text, job, fields = state
        return cls(text, None if job is None else Job.from_json(job), **fields)
