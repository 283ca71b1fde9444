# SPDX-License-Identifier: MIT
"""`simulate:` of a file: what `ensemble simulate` is to take for the jobs, the queue, and what comes from outside.

Law of this file: shape and ranges alone. What an amount means (`lognormal(60, 15)`, an expression of parameters) is
`amounts.py`'s, and whether groups and parameters are there `simulate_check.py`'s. None of it changes a real run.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Annotated

from ensemble.spec import units
from ensemble.spec.units import As, Between

#: seconds that a job takes where nothing says how long
DURATION = 60.0
#: seconds that nodes take to come up where nothing says how long
DELAY = 60.0
#: amounts of one group, or signals from outside: more are no table
MOST = 1000


def _amount(value: Any) -> Union[float, str]:
    """A number as a number, a text as it stands: what it says needs the file's parameters."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError('expected a number, a distribution such as "lognormal(60, 15)", or an expression')
    return value if isinstance(value, str) else float(value)


def _signal(value: Any) -> int:
    units.signal_as_written(value)
    return units.signal_number(value)


_AMOUNT = ({"type": "number"}, {"type": "string"})
Amount = Annotated[Union[float, str], As(_amount, _AMOUNT)]
_Duration = Annotated[float, As(units.duration, ({"type": "number", "minimum": 0}, {"type": "string"}))]
_Signal = Annotated[int, As(_signal, ({"type": "string"}, {"type": "integer"}))]
_Plain = Annotated[Any, As(units.jsonable, ({},))]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, hide_input_in_errors=True)


class Fails(_Model):
    """One way in which jobs of a group fail."""

    rate: Amount = Field(description='how many do: a share ("5%", 0.05), or an expression of the parameters')
    exit: Annotated[int, Between(1, 255)] = Field(1, description="their exit code")
    signal: Optional[_Signal] = Field(None, description="the signal that ends them, in place of an exit code")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """A lone number or text is the rate."""
        return {"rate": value} if isinstance(value, (int, float, str)) else value


class Told(_Model):
    """One variable that simulated jobs report."""

    value: Amount = Field(description="an expression of the parameters and the job's time, or a distribution")
    noise: Optional[Amount] = Field(None, description="a distribution: what is drawn from it is added to each value")
    every: Optional[_Duration] = Field(
        None, description="time between two reports of a running job; without it one, at the end of a job that succeeds"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """A lone number or text is the value."""
        return {"value": value} if isinstance(value, (int, float, str)) else value


class Simulated(_Model):
    """What the jobs of one group do."""

    duration: Optional[Amount] = Field(
        None, description="how long a job takes: a duration, a distribution, or an expression (a minute without it)"
    )
    fail: Tuple[Fails, ...] = Field((), description="how many jobs fail: a share, or a mapping with rate, exit, signal")
    metrics: Dict[str, Told] = Field(default_factory=dict, description="what the jobs report, by variable")

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """A lone way to fail needs no list."""
        if isinstance(value, dict) and "fail" in value and not isinstance(value["fail"], (list, tuple)):
            return {**value, "fail": (value["fail"],)}
        return value


class Sent(_Model):
    """A signal from outside."""

    name: Annotated[str, As(units.filled, ({"type": "string", "minLength": 1},))] = Field(
        description="the signal's name"
    )
    at: _Duration = Field(description="when it comes: time from the start of the ensemble")
    data: Dict[str, _Plain] = Field(default_factory=dict, description="what event.data has")


class Outage(_Model):
    """Nodes that go down."""

    at: _Duration = Field(description="when they go down: time from the start of the ensemble")
    ranks: Annotated[Tuple[int, ...], As(units.idset, ({"type": "string"}, {"type": "integer", "minimum": 0}))] = Field(
        description="which, as 0-3,7; those that are not there are left out"
    )
    duration: Optional[_Duration] = Field(None, description="time after which they are up again; without it never")


class Simulate(_Model):
    """`simulate:` of the file."""

    nodes: Optional[Annotated[int, Between(1, 1_000_000)]] = Field(None, description="nodes of the simulated queue")
    cores: Optional[Annotated[int, Between(1, 1_000_000)]] = Field(None, description="cores of a node")
    gpus: Optional[Annotated[int, Between(0, 1_000_000)]] = Field(None, description="GPUs of a node")
    delay: _Duration = Field(
        DELAY, description="time that nodes take to come up where the simulated queue grows (a minute without it)"
    )
    groups: Dict[str, Simulated] = Field(default_factory=dict, description="what jobs do, by group")
    outages: Tuple[Outage, ...] = Field((), description="nodes that go down")
    signals: Tuple[Sent, ...] = Field((), description="signals that come from outside")
