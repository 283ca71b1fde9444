# SPDX-License-Identifier: MIT
"""`retries:` of a group: which ends of a job are tried again, how often, and after which wait.

Law of this file: shape, ranges and the arithmetic of waits; who is tried again when is the engine's
(`ensemble.engine.retries`). A loss for no fault of the job (cause `infrastructure`) is counted apart from the rest.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Annotated

from ensemble.spec import units
from ensemble.spec.units import As, Between

#: what may stand under `causes`, besides exit codes -> what it means
CAUSES: Dict[str, str] = {
    "fail": "the job ended with an exit code other than 0",
    "signal": "a signal ended it that no rule had sent",
    "timeout": "it ran into its time limit",
    "exec": "its program could not be started",
    "exception": "the queue raised another fatal exception of it",
    "cancel": "somebody cancelled it, neither a rule nor a cancel of the ensemble",
}
#: a job of `causes` that a file leaves out
_USUAL = ("fail", "signal", "timeout")
#: attempts of a job that may be lost for no fault of its own (a node, the instance, the queue) and are tried again
LOSSES = 3
#: seconds before the first attempt after one that was lost with its node; doubled with each such loss
LOSS_WAIT = 2.0

_DURATION = As(units.duration, ({"type": "number", "minimum": 0}, {"type": "string"}))


def _cause(value: Any) -> Union[int, str]:
    if isinstance(value, str) and value in CAUSES:
        return value
    try:
        code = units.whole(value)
    except ValueError:
        code = 0
    if isinstance(value, str) or not 1 <= code <= 255:
        raise ValueError(f"expected one of {', '.join(CAUSES)}, or an exit code from 1 to 255")
    return code


Cause = Annotated[
    Union[int, str], As(_cause, ({"enum": list(CAUSES)}, {"type": "integer", "minimum": 1, "maximum": 255}))
]


class Retries(BaseModel):
    """`retries:` of a set of jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, hide_input_in_errors=True)

    max: Annotated[int, Between(0, 1000)] = Field(description="times that a job is tried again; 0 is never")
    causes: Tuple[Cause, ...] = Field(
        _USUAL, description=f"what is tried again: {', '.join(CAUSES)}, or exit codes; a lone one needs no list"
    )
    backoff: Annotated[float, _DURATION] = Field(
        0.0, description="time before the first retry; doubled with each one that follows"
    )
    max_backoff: Annotated[float, _DURATION] = Field(3600.0, description="where the doubling of backoff ends")
    infrastructure: Annotated[int, Between(0, 1000)] = Field(
        LOSSES, description="times that a job lost for no fault of its own is tried again; they do not count into max"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """A lone number is that of `max`, a lone cause is a list of one."""
        if isinstance(value, (int, float, str)):
            return {"max": value}
        if isinstance(value, dict) and isinstance(value.get("causes"), (int, float, str)):
            return {**value, "causes": (value["causes"],)}
        return value

    def wait(self, tries: int) -> float:
        """Seconds before the next attempt of a job that was tried again so many times already."""
        return min(self.backoff * 2.0 ** min(tries, 100), max(self.backoff, self.max_backoff))


#: of a set that says nothing
NONE = Retries(max=0)
