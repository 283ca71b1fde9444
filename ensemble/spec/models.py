# SPDX-License-Identifier: MIT
"""The shape of a file: frozen pydantic models, and the JSON Schema that follows from them.

Law of this file: shape and ranges only. What needs two places of the file at once (labels, metric paths,
conditions) is checked in `check.py`; positions are the reader's. A key of the language that this release does not
carry out yet stands in `NOT_YET`, so that it is told and never ignored. A field's description is what a user reads
in the schema, and behind "expected" where the key is missing. The file has more than 400 lines because the language has
that many words, and this is the one place where they all stand.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Annotated, Literal

from ensemble.engine.events import JOB_EVENTS
from ensemble.spec import units
from ensemble.spec.faults import nearest, shown
from ensemble.spec.parameters import POINTS, SPACE, points_or_none, space_or_none
from ensemble.spec.places import MEMBER_TRIGGERS, Names, Place
from ensemble.spec.reports import OF_JOBS, Reported
from ensemble.spec.retries import Retries
from ensemble.spec.scaler import Scaler
from ensemble.spec.simulate import Simulate
from ensemble.spec.space import MOST_SEED, Point
from ensemble.spec.units import As, Between, OrExpression, Written, number_or_percent

#: a group, a rule's id, a variable
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
#: an ensemble
TITLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

#: counts of jobs (`count.<group>.<one of these>`); as group names they are reserved
COUNTS = (
    "submitted",
    "pending",
    "running",
    "active",
    "finished",
    "success",
    "failed",
    "cancelled",
    "timeout",
    "retried",
)
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
#: how a job ended, or one attempt of it
END_TRIGGERS = ("job-finish", "job-success", "job-fail", "job-cancel", "job-timeout", "job-retry")
#: the other events of RFC 21 by name
EVENT_TRIGGERS = {
    f"job-{name}": name for name in JOB_EVENTS if f"job-{name}" not in STATE_TRIGGERS and name != "finish"
}
JOB_TRIGGERS = (*STATE_TRIGGERS, *END_TRIGGERS, *EVENT_TRIGGERS)
#: nodes of the queue change
RESOURCE_TRIGGERS = ("resource-down", "resource-up", "resource-drain", "resource-undrain")
#: what became of a change of the queue's size
SCALE_TRIGGERS = ("grow-finish", "grow-fail", "shrink-finish", "shrink-fail")
TRIGGERS = (
    "start",
    "enabled",
    "metric",
    *JOB_TRIGGERS,
    "report",
    "signal",
    *RESOURCE_TRIGGERS,
    *MEMBER_TRIGGERS,
    *SCALE_TRIGGERS,
    "group-complete",
    "heartbeat",
    "timer",
    "idle",
    "end",
)

ACTIONS = (
    "submit",
    "cancel",
    "kill",
    "urgency",
    "stop",
    "terminate",
    "log",
    "enable",
    "disable",
    "set",
    "custom",
    "signal",
    "grow",
    "shrink",
)
END_STATES = ("complete", "failed", "cancelled", "halted")

#: what is right in place of one of NOT_YET
LATER = "none of it: the word is kept for a later release, and this one would not act on it"
#: words of the language that a later release carries out: where -> words
NOT_YET: Dict[str, Tuple[str, ...]] = {
    "file": ("models",),
    "job": (),
    "rule": (),
    "trigger": (),
    "action": (),
    "action key": (),
    "limit": (),
}


_STRING = {"type": "string"}
_NUMBER = {"type": "number"}
_SHARE = {"type": "string", "pattern": "%$"}


#: what may stand behind `when`
WHEN = 'a number, a comparator and a number such as "> 5", or an expression'


def _when(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected {WHEN}")
    return value.real


def _failures(value: Any) -> Union[int, str]:
    try:
        return str(value) if value in ("none", "all") else number_or_percent(value)
    except ValueError:
        raise ValueError('expected none, all, a number of jobs, or a share such as "10%"') from None


_COUNT, _NODES, _URGENCY = Between(1, 10_000_000), Between(1, 1_000_000), Between(0, 31)
_DURATION = As(units.duration, ({"type": "number", "minimum": 0}, _STRING))
Count = Annotated[int, _COUNT]
Nodes = Annotated[int, _NODES]
Times = Annotated[int, Between(0, 1_000_000_000)]
Repetitions = Annotated[int, Between(0, 1_000_000_000, ", or unlimited")]
Urgency = Annotated[int, _URGENCY]
#: seconds
Duration = Annotated[float, _DURATION]
#: a second
Rate = Annotated[float, As(units.rate, ({"type": "number", "exclusiveMinimum": 0},))]
Text = Annotated[str, As(units.text, (_STRING, _NUMBER))]
#: a text that is not empty
Filled = Annotated[str, As(units.filled, ({"type": "string", "minLength": 1}, _NUMBER))]
Command = Annotated[
    Tuple[str, ...],
    As(units.command, (_STRING, {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1})),
]
Plain = Annotated[Any, As(units.jsonable, ({},))]
Share = Annotated[Union[int, str], As(number_or_percent, ({"type": "integer", "minimum": 0}, _SHARE))]
Failures = Annotated[
    Union[int, str], As(_failures, ({"enum": ["none", "all"]}, _SHARE, {"type": "integer", "minimum": 0}))
]
When = Annotated[Any, As(_when, (_NUMBER, _STRING))]
Parameters = Annotated[Any, As(space_or_none, (SPACE,))]
Points = Annotated[Optional[Tuple[Point, ...]], As(points_or_none, POINTS)]
Signal = Annotated[Union[int, str], As(units.signal_as_written, (_STRING, {"type": "integer"}))]


#: the same in an action, where a string is an expression
CountOf = Annotated[Union[int, str], OrExpression(_COUNT)]
NodesOf = Annotated[Union[int, str], OrExpression(_NODES)]
UrgencyOf = Annotated[Union[int, str], OrExpression(_URGENCY)]
DurationOf = Annotated[Union[float, str], OrExpression(_DURATION)]
#: the job that a rule fired on, or jobs by RULE/FIRING/INDEX, whichever attempt of theirs it is
Target = Annotated[
    Union[str, Tuple[str, ...]],
    As(units.target, ({"type": "string"}, {"type": "array", "items": _STRING, "minItems": 1})),
]
#: a value of a variable
Variable = Annotated[Any, As(units.variable, ({"type": ["number", "string", "boolean", "null"]},))]

#: action -> numeric key -> what the value of an expression must be; a computed count of 0 submits nothing
NUMBERS: Dict[str, Dict[str, Written]] = {
    "submit": {
        "count": Between(0, 10_000_000),
        "duration": _DURATION,
        "nodes": _NODES,
        "tasks": _NODES,
        "urgency": _URGENCY,
    },
    "urgency": {"value": _URGENCY},
    "grow": {"value": _NODES},
    "shrink": {"value": _NODES},
}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, hide_input_in_errors=True)


class Logging(_Model):
    """`logging:` of the file."""

    debug: StrictBool = Field(False, description="show every event of the ensemble's jobs")
    heartbeat: Duration = Field(0.0, description="time between two heartbeats; 0 is off")


class Limits(_Model):
    """`limits:` of the file; None is no limit. Reaching one halts the ensemble."""

    max_jobs: Count = Field(100_000, description="jobs that may be submitted in all")
    max_active: Optional[Count] = Field(None, description="jobs that may be pending or running at a time")
    submit_rate: Optional[Rate] = Field(None, description="jobs that may be submitted in a second")
    max_firings: Count = Field(100_000, description="firings of one rule that submits")
    max_failures: Optional[Share] = Field(
        None, description='failed jobs, as a number or as a share of the finished ones ("10%")'
    )
    duration: Optional[Duration] = Field(None, description="time from the start of the ensemble")

    @classmethod
    def given(cls, limits: Mapping[str, Any]) -> Dict[str, Any]:
        """Those of `limits`, checked and in the units of the file's. Raises ValueError with a sentence for people."""
        for name in limits:
            if name not in cls.model_fields:
                near = nearest(name, cls.model_fields)
                hint = f"did you mean '{near}'?" if near else f"expected one of {', '.join(cls.model_fields)}"
                raise ValueError(f"no limit is called '{name[:50]}'; {hint}")
        try:
            return cls.model_validate(dict(limits)).model_dump(include=set(limits))
        except ValidationError as exc:
            fault = exc.errors()[0]
            # pydantic says before our own sentences what class of exception brought them
            text = fault["msg"].replace("Value error, ", "", 1)
            given = limits[str(fault["loc"][0])]
            value = shown("none" if given is None else given)
            raise ValueError(f"limit {fault['loc'][0]} cannot be {value}: {text}") from None


class JobSet(_Model):
    """One entry of `jobs:`. Entries of the same name are the sets of one group."""

    name: Text = Field(description="the group's name: letters, digits, _ and -")
    command: Command = Field(
        default=(), description="a command line, split as a shell splits words, or a list of words"
    )
    script: Optional[StrictStr] = Field(None, description="lines for /bin/sh, in place of a command")
    count: Count = Field(
        1, description="jobs that one submission of the group makes; with parameters all the points that remain"
    )
    nodes: Optional[Nodes] = Field(None, description="nodes of a job; without it the queue chooses")
    tasks: Optional[Nodes] = Field(
        None, description="tasks of a job; without it one, or one per node where nodes is given"
    )
    cores: Nodes = Field(1, description="cores per task")
    gpus: Annotated[int, Between(0, 1_000_000)] = Field(0, description="GPUs per task")
    exclusive: StrictBool = Field(False, description="take whole nodes")
    duration: Duration = Field(0.0, description="time limit of a job; 0 is none")
    workdir: Optional[Filled] = Field(None, description="working directory; without it the submitter's")
    environment: Dict[str, Optional[Text]] = Field(
        default_factory=dict,
        description="variables set on top of the submitter's environment; null takes one out",
    )
    queue: Optional[Filled] = Field(None, description="queue to submit to")
    bank: Optional[Filled] = Field(None, description="bank to charge")
    urgency: Urgency = Field(16, description="urgency of a job; 0 holds it")
    input: Optional[Filled] = Field(None, description="file for standard input")
    output: Optional[Filled] = Field(None, description="file for standard output; without it the queue's default")
    error: Optional[Filled] = Field(None, description="file for standard error; without it where the output goes")
    shell: Dict[str, Plain] = Field(default_factory=dict, description="options of the Flux job shell")
    attributes: Dict[str, Plain] = Field(
        default_factory=dict,
        description="attributes of the jobspec, by dotted keys; a key without a prefix is under system.",
    )
    retries: Optional[Retries] = Field(
        None, description="what is tried again when it fails: a number of times, or a mapping with max, causes, backoff"
    )
    parameters: Parameters = Field(
        None, description="what its jobs differ in: names, each with a list of values or a distribution"
    )
    sample: Optional[Literal["grid", "zip", "random", "lhs", "sobol", "halton"]] = Field(
        None, description="how points are chosen; without it grid, or random where there is a distribution"
    )
    samples: Optional[Count] = Field(None, description="points that are drawn in all")
    seed: Optional[Annotated[int, Between(0, MOST_SEED)]] = Field(
        None, description="what draws the points; without it one is drawn when the file is submitted, and kept"
    )
    metrics: Dict[str, Reported] = Field(default_factory=dict, description="variables that the jobs report")
    member: Names = Field(
        (), description="where its jobs run: one of members, or a list of them, best first; without it home"
    )

    @property
    def wanted(self) -> Optional[int]:
        """Jobs of one submission; None is all the points that remain."""
        return self.count if self.parameters is None or "count" in self.model_fields_set else None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, "a group's name")

    @field_validator("script")
    @classmethod
    def _script(cls, value: Optional[str]) -> Optional[str]:
        if value is not None and (not value.strip() or "\0" in value):
            raise ValueError("expected lines for /bin/sh, this is empty" if not value.strip() else "expected no NUL")
        return value

    @field_validator("environment")
    @classmethod
    def _environment(cls, value: Dict[str, Optional[str]]) -> Dict[str, Optional[str]]:
        for name in value:
            if not name or "=" in name or "\0" in name:
                raise ValueError(f"expected names of variables without '=', not {shown(name)}")
        return value

    @field_validator("metrics", mode="before")
    @classmethod
    def _metrics(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # the names are checked in `heard.py`, which can point at one
        return {name: {} if variable is None else variable for name, variable in value.items()}

    @model_validator(mode="after")
    def _one_command(self) -> JobSet:
        if bool(self.command) == (self.script is not None):
            raise PydanticCustomError("one_command", "expected one of command and script")
        return self


def check_name(value: str, what: str) -> str:
    """The name itself, if it is one and not reserved. Raises ValueError."""
    if not NAME.fullmatch(value) or len(value) > 100:
        raise ValueError(f"expected {what}: letters, digits, _ and -, not first a digit or -, at most 100")
    if value in RESERVED:
        raise ValueError(f"expected {what}, and '{value}' is a word of the language")
    return value


def check_id(value: str, what: str) -> str:
    """The id itself, if it is one. Raises ValueError."""
    if not NAME.fullmatch(value) or len(value) > 100:
        raise ValueError(f"expected {what}: letters, digits, _ and -, not first a digit or -, at most 100")
    return value


def check_variable(value: str) -> str:
    """The name of a variable that jobs report, if it can be one. Raises ValueError."""
    check_name(value, "a variable's name")
    if value in OF_JOBS:
        raise ValueError(f"expected a variable's name, and '{value}' is known of every job without being reported")
    return value


class Action(_Model):
    """One action of a rule. Which keys go with which name is checked in `check.py`."""

    name: Text = Field(description=f"one of {', '.join(ACTIONS)}")
    label: Optional[Text] = Field(
        None,
        description="what it acts on: a group, for enable and disable the id of a rule or algorithm, for set a variable, for custom a "
        "function, for signal the signal's name",
    )
    job: Optional[Target] = Field(
        None,
        description="cancel, kill, urgency: event, the job that the rule fired on, in place of a label; where a function "
        "answers it, RULE/FIRING/INDEX of a job, or a list of these",
    )
    count: Optional[CountOf] = Field(None, description="submit: jobs of each set, in place of the group's count")
    parameters: Points = Field(None, description="submit: a point or a list of points, in place of the group's")
    duration: Optional[DurationOf] = Field(None, description="submit: time limit, in place of the group's")
    nodes: Optional[NodesOf] = Field(None, description="submit: nodes, in place of the group's")
    tasks: Optional[NodesOf] = Field(None, description="submit: tasks, in place of the group's")
    urgency: Optional[UrgencyOf] = Field(None, description="submit: urgency, in place of the group's")
    state: Optional[Literal["pending", "running"]] = Field(
        None, description="cancel, kill, urgency: only jobs in that state"
    )
    signal: Optional[Signal] = Field(
        None, description="kill: a signal by name (SIGTERM, TERM) or number; without it SIGTERM"
    )
    status: Optional[Literal["success", "failure"]] = Field(None, description="terminate: how the ensemble ends")
    data: Optional[Dict[str, Plain]] = Field(None, description="signal: what event.data has")
    value: Optional[Plain] = Field(
        None,
        description="log: the line; {paths} in braces are filled in. set: the value, or an expression. "
        "urgency: 0 to 31; 0 holds a job. grow, shrink: nodes, 1 without it. "
        "custom: what action.value() answers",
    )
    args: Optional[Plain] = Field(None, description="custom: what the function gets as args")


class Rule(_Model):
    """One entry of `rules:`."""

    id: Text = Field(description="names the rule; without it rule-N, counted from 1 in file order")
    trigger: Text = Field(description="what makes the rule fire")
    name: Optional[Text] = Field(
        None,
        description="metric: the path; job-* and group-complete: the group; report: GROUP.VARIABLE or the group; "
        "signal: the signal's name; end: the state; member-*: the member",
    )
    when: When = Field(
        None,
        description='the condition: an expression; on a metric also a number (equality), or a comparison such as "> 5"',
    )
    actions: Tuple[Action, ...] = Field(
        description="what the rule does, in this order; a lone one may stand under action"
    )
    enabled: StrictBool = Field(True, description="false: rests until an action enables it")
    algorithm: Optional[Text] = Field(
        None, description="the algorithm that it is part of: enable and disable take its id for all rules that name it"
    )
    every: Optional[Duration] = Field(None, description="heartbeat: time between two, in place of logging.heartbeat")
    topic: Optional[Filled] = Field(
        None, description="signal: a topic of events on the Flux bus, in place of a name; * stands for anything"
    )
    after: Optional[Duration] = Field(None, description="timer: time from the start of the ensemble")
    keep_alive: Optional[StrictBool] = Field(
        None,
        description="keeps the ensemble from ending while the rule can fire; without it signal rules do, and heartbeat "
        "rules that submit or call a function",
    )
    repetitions: Optional[Repetitions] = Field(1, description="firings in all; unlimited has no end")
    backoff: Times = Field(0, description="occasions skipped between two firings")
    cooldown: Duration = Field(0.0, description="time after a firing in which occasions are dropped")
    on_error: Literal["fail", "disable", "ignore"] = Field(
        "fail", description="what follows when the rule, or a function that it called, fails"
    )

    @field_validator("id")
    @classmethod
    def _id(cls, value: str) -> str:
        return check_id(value, "a rule's id")

    @field_validator("algorithm")
    @classmethod
    def _algorithm(cls, value: Optional[str]) -> Optional[str]:
        return None if value is None else check_id(value, "an algorithm's id")


class Custom(_Model):
    """`custom:` of the file, as `spec.custom` brings it into shape."""

    source: Optional[StrictStr] = Field(None, description="Python source, as it stands in the file or in `file`")
    file: Optional[Filled] = Field(None, description="a file of Python source, relative to the ensemble's file")
    module: Optional[Filled] = Field(None, description="a module that can be imported where the functions run")


class Tree:
    """The tree of a file, in which later rules are read as its own were. All are equal: it adds nothing to a spec."""

    def __init__(self, root: Any) -> None:
        self.root = root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree)

    def __hash__(self) -> int:
        return 0


class Spec(_Model):
    """A file, checked. The objects are frozen; `groups` gives the sets of each group in file order."""

    name: Text = Field(description="names the ensemble; without it the file's stem")
    description: Text = Field("", description="for readers")
    logging: Logging = Field(default=Logging(), description="what is logged, and how often the heart beats")
    algorithm: Optional[Plain] = Field(
        None, description="an algorithm that drives a group, or a list of them: it expands to groups and rules"
    )
    variables: Dict[str, Variable] = Field(
        default_factory=dict, description="variables, which set changes, and their values at the start"
    )
    jobs: Tuple[JobSet, ...] = Field(description="the groups of jobs")
    rules: Tuple[Rule, ...] = Field(description="what happens when")
    limits: Limits = Field(default=Limits(), description="what the ensemble may use; reaching one halts it")
    failures: Failures = Field(
        "none",
        description='failed jobs that a complete ensemble may have: none, all, a number, or a share such as "10%"',
    )
    strict: StrictBool = Field(
        False, description="true: an action that the queue cannot do (grow, shrink) is a fault, and no warning alone"
    )
    custom: Optional[Custom] = Field(None, description="functions for the action custom: Python source, or where it is")
    members: Dict[str, Place] = Field(
        default_factory=dict, description="Flux instances besides the service's own in which groups may run, by name"
    )
    scaler: Optional[Scaler] = Field(None, description="how the queue grows and shrinks")
    simulate: Optional[Simulate] = Field(None, description="what simulate takes for the jobs and the queue")
    #: kept where functions may answer rules
    _tree: Optional[Tree] = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not TITLE.fullmatch(value) or len(value) > 100:
            raise ValueError("expected a name of letters, digits, _, - and ., not first - or ., at most 100")
        return value

    @property
    def steered(self) -> bool:
        """Do functions take part in it, which may answer any action and rule?"""
        return any(action.name == "custom" for rule in self.rules for action in rule.actions)

    @property
    def asks(self) -> bool:
        """Does it call functions, for what rules do or for points?"""
        return self.steered or any(jobs.parameters is not None and jobs.parameters.custom for jobs in self.jobs)

    @property
    def groups(self) -> Dict[str, Tuple[JobSet, ...]]:
        """Group name to its sets."""
        groups: Dict[str, List[JobSet]] = {}
        for jobs in self.jobs:
            groups.setdefault(jobs.name, []).append(jobs)
        return {name: tuple(sets) for name, sets in groups.items()}
