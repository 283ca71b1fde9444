# SPDX-License-Identifier: MIT
"""The shape of a file: frozen pydantic models, and the JSON Schema that follows from them.

Law of this file: shape and ranges only. What needs two places of the file at once (labels, metric paths,
conditions) is checked in `check.py`; positions are the reader's. A key of the language that this release does not
carry out yet stands in `NOT_YET`, so that it is told and never ignored.
"""

from __future__ import annotations

import math
import re
import shlex
from typing import Any, Dict, List, Optional, Tuple, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, field_validator, model_validator
from typing_extensions import Annotated, Literal

from ensemble.engine.events import JOB_EVENTS
from ensemble.spec.units import duration

#: a group, a rule's id, a variable
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

#: counts of jobs (`count.<group>.<one of these>`); as group names they are reserved
COUNTS = ("submitted", "pending", "running", "active", "finished", "success", "failed", "cancelled", "timeout", "retried")
RESERVED = frozenset(COUNTS) | {"all"}

#: a job enters that state of RFC 21, and the journal event that says so
STATE_TRIGGERS = {
    "job-depend": "validate",
    "job-priority": "depend",
    "job-sched": "priority",
    "job-run": "alloc",
    "job-cleanup": "finish",
    "job-inactive": "clean",
}
#: how a job ended
END_TRIGGERS = ("job-finish", "job-success", "job-fail", "job-cancel", "job-timeout")
#: the other events of RFC 21 by name
EVENT_TRIGGERS = {
    f"job-{name}": name for name in JOB_EVENTS if f"job-{name}" not in STATE_TRIGGERS and name != "finish"
}
JOB_TRIGGERS = (*STATE_TRIGGERS, *END_TRIGGERS, *EVENT_TRIGGERS)
TRIGGERS = ("start", "metric", *JOB_TRIGGERS, "group-complete", "heartbeat", "timer", "idle", "end")

ACTIONS = ("submit", "cancel", "kill", "stop", "terminate", "log", "enable", "disable")
END_STATES = ("complete", "failed", "cancelled", "halted")

#: words of the language that a later release carries out: where -> words
NOT_YET: Dict[str, Tuple[str, ...]] = {
    "file": ("variables", "custom", "strict", "algorithm", "models", "members", "simulate"),
    "job": ("parameters", "sample", "samples", "seed", "metrics", "retries"),
    "rule": ("topic", "on_error", "keep_alive"),
    "trigger": ("job-retry", "report", "signal", "resource-down", "resource-up", "resource-drain", "resource-undrain"),
    "action": ("urgency", "grow", "shrink", "custom", "signal", "set"),
    "action key": ("parameters", "args", "data", "job"),
    "limit": ("submit_rate",),
}


def _whole(value: Any) -> Any:
    """A whole number; 5.0 is one, True is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("expected a whole number")
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            raise ValueError("expected a whole number")
        value = int(value)
    return value


def _text(value: Any) -> Any:
    """A string; numbers are taken as they were written."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("expected a string")
    return str(value)


def _command(value: Any) -> Any:
    """A string, split as a shell splits words, or a list of words."""
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as exc:
            raise ValueError(f"expected a command line that a shell could split ({exc})") from None
    elif isinstance(value, list) and all(isinstance(word, (str, int, float)) for word in value):
        words = [str(word) for word in value]
    else:
        raise ValueError("expected a command line, or a list of words")
    if not words or not words[0]:
        raise ValueError("expected a command, this one is empty")
    if any("\0" in word for word in words):
        raise ValueError("expected a command without NUL characters")
    return tuple(words)


_INT = {"type": "integer"}
_FSD_SCHEMA = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}],
    "description": "Flux Standard Duration (30s, 5m, 1.5h) or seconds",
}


def _int_between(low: int, high: int) -> Any:
    return Annotated[int, BeforeValidator(_whole, json_schema_input_type=int), Field(ge=low, le=high)]


Count = _int_between(1, 10_000_000)
Nodes = _int_between(1, 1_000_000)
Times = _int_between(0, 1_000_000_000)
Urgency = _int_between(0, 31)
Duration = Annotated[float, BeforeValidator(duration, json_schema_input_type=Union[float, str])]
Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=Union[str, float])]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, hide_input_in_errors=True)


class Logging(_Model):
    """`logging:` of the file."""

    debug: StrictBool = False
    #: seconds between two heartbeats; 0 is off
    heartbeat: Duration = 0.0


class Limits(_Model):
    """`limits:` of the file; None is no limit. Reaching one halts the ensemble."""

    max_jobs: Count = 100_000
    max_active: Optional[Count] = None
    #: firings of one rule that submits
    max_firings: Count = 100_000
    #: failed jobs, as a number or as a share of the finished ones ("10%")
    max_failures: Optional[Union[int, str]] = None
    #: seconds from the start
    duration: Optional[Duration] = None

    @field_validator("max_failures", mode="before")
    @classmethod
    def _failures(cls, value: Any) -> Any:
        return value if value is None else number_or_percent(value)


def number_or_percent(value: Any) -> Union[int, str]:
    """A whole number from 0, or a string such as "10%" (0 to 100, spaces dropped). Raises ValueError."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip())
        if match and float(match.group(1)) <= 100:
            return f"{match.group(1)}%"
        raise ValueError('expected a number of jobs, or a share such as "10%"')
    number: int = _whole(value)
    if number < 0:
        raise ValueError("expected a number that is not negative")
    return number


class JobSet(_Model):
    """One entry of `jobs:`. Entries of the same name are the sets of one group."""

    name: Text
    #: words of the command; empty where `script` is given
    command: Annotated[Tuple[str, ...], BeforeValidator(_command, json_schema_input_type=Union[str, List[str]])] = ()
    #: lines for /bin/sh
    script: Optional[str] = None
    count: Count = 1
    #: None lets the queue choose
    nodes: Optional[Nodes] = None
    #: None is one, or one per node where `nodes` is given
    tasks: Optional[Nodes] = None
    #: per task
    cores: Nodes = 1
    #: per task
    gpus: _int_between(0, 1_000_000) = 0
    #: whole nodes
    exclusive: StrictBool = False
    #: time limit in seconds; 0 is none
    duration: Duration = 0.0
    #: None is the submitter's
    workdir: Optional[Text] = None
    #: set on top of the submitter's environment; None takes a variable out
    environment: Dict[str, Optional[Text]] = Field(default_factory=dict)
    queue: Optional[Text] = None
    bank: Optional[Text] = None
    urgency: Urgency = 16
    #: paths; None is the queue's default
    input: Optional[Text] = None
    output: Optional[Text] = None
    error: Optional[Text] = None
    #: options of the Flux job shell
    shell: Dict[str, Any] = Field(default_factory=dict)
    #: dotted keys into the jobspec's attributes; a key without a prefix is under `system.`
    attributes: Dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, "a group's name")

    @model_validator(mode="after")
    def _one_command(self) -> JobSet:
        if bool(self.command) == (self.script is not None):
            raise ValueError("expected one of command and script")
        return self


def check_name(value: str, what: str) -> str:
    """The name itself, if it is one and not reserved. Raises ValueError."""
    if not NAME.fullmatch(value) or len(value) > 100:
        raise ValueError(f"expected {what}: letters, digits, _ and -, not first a digit or -, at most 100")
    if value in RESERVED:
        raise ValueError(f"'{value}' is a word of the language and cannot be {what}")
    return value


class Action(_Model):
    """One action of a rule. Which keys go with which name is checked in `check.py`."""

    name: str
    label: Optional[Text] = None
    count: Optional[Count] = None
    #: seconds
    duration: Optional[Duration] = None
    nodes: Optional[Nodes] = None
    tasks: Optional[Nodes] = None
    urgency: Optional[Urgency] = None
    #: cancel, kill: only jobs in that state
    state: Optional[Literal["pending", "running"]] = None
    #: kill: a name (SIGTERM, TERM) or a number; None is SIGTERM
    signal: Optional[Union[int, str]] = None
    #: terminate
    status: Optional[Literal["success", "failure"]] = None
    #: log: the line
    value: Optional[Any] = None


class Rule(_Model):
    """One entry of `rules:`."""

    #: rule-N, counted from 1 in file order, where the file gives none
    id: str
    trigger: str
    name: Optional[Text] = None
    #: as written: a number, or a comparator and a number
    when: Optional[Union[StrictBool, int, float, str]] = None
    #: at least one; a lone `action:` is a list of one
    actions: Tuple[Action, ...]
    enabled: StrictBool = True
    #: heartbeat: seconds; None is the file's heartbeat
    every: Optional[Duration] = None
    #: timer: seconds from the start
    after: Optional[Duration] = None
    #: firings; None is unlimited
    repetitions: Optional[Times] = 1
    #: occasions skipped between two firings
    backoff: Times = 0
    #: seconds after a firing in which occasions are dropped
    cooldown: Duration = 0.0


class Spec(_Model):
    """A file, checked. The objects are frozen; `groups` gives the sets of each group in file order."""

    name: str
    description: str = ""
    logging: Logging = Logging()
    jobs: Tuple[JobSet, ...]
    rules: Tuple[Rule, ...]
    limits: Limits = Limits()
    #: how many failed jobs the ensemble may have and still be complete: none, all, a number, or "N%"
    failures: Union[int, str] = "none"

    @field_validator("failures", mode="before")
    @classmethod
    def _failures(cls, value: Any) -> Any:
        return value if value in ("none", "all") else number_or_percent(value)

    @property
    def groups(self) -> Dict[str, Tuple[JobSet, ...]]:
        """Group name to its sets."""
        groups: Dict[str, Tuple[JobSet, ...]] = {}
        for jobs in self.jobs:
            groups[jobs.name] = (*groups.get(jobs.name, ()), jobs)
        return groups
