# SPDX-License-Identifier: MIT
"""`metrics:` of a group: the variables that its jobs report, and how one is parsed from what they print.

Law of this file: what stands between the braces of one variable, and the bounds of what a job or a user may send.
Whose variables a path may name is `metrics.py`'s. A variable that a job reports and that its group does not declare
is taken all the same: `metrics:` says more about it, and lets a misspelt path be told.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Optional, Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator
from typing_extensions import Literal

#: what every job has without reporting it
OF_JOBS = ("duration", "pending", "waiting")
#: variables of one group, declared ones included; a job that reports more is refused the new ones
MOST_VARIABLES = 100
#: values in one report
MOST_VALUES = 100
#: bytes of the data of one signal, as JSON
MOST_DATA = 64 * 1024
#: characters of a line of output that are looked at for values; what stands behind them in a line is not seen
LONGEST_LINE = 4096
#: characters of a regular expression
LONGEST_REGEX = 1000


class Reported(BaseModel):
    """One variable under `metrics:` of a group."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    regex: Optional[str] = Field(
        None, description="a regular expression with one group: finds the value in a line of the job's output"
    )
    keep: Literal["last", "min", "max", "mean"] = Field(
        "last", description="which of a job's values stands for it at its end"
    )

    @field_validator("regex", mode="before")
    @classmethod
    def _regex(cls, value: Any) -> Optional[str]:
        if value is None:
            return None
        if not isinstance(value, str):
            raise ValueError("expected a regular expression in quotes")
        compiled(value)
        return value


def compiled(regex: str) -> re.Pattern[str]:
    """The expression, ready for use. Raises ValueError with what was expected."""
    if len(regex) > LONGEST_REGEX:
        raise ValueError(f"expected a regular expression of at most {LONGEST_REGEX} characters")
    try:
        pattern = re.compile(regex)
    except re.error as exc:
        at = "" if exc.pos is None else f" at character {exc.pos + 1}"
        raise ValueError(f"expected a regular expression as of Python's module re; {exc.msg}{at}") from None
    except (RecursionError, OverflowError):
        raise ValueError("expected a regular expression that is less deeply nested") from None
    if pattern.groups != 1:
        raise ValueError(
            f"expected one pair of parentheses, around the value, and this has {pattern.groups or 'none'}; "
            r"others are written (?:...), and a parenthesis of the text \("
        )
    return pattern


def declared(sets: Sequence[Any]) -> Dict[str, Reported]:
    """The variables that a group declares; of one that several of its sets declare, the first set's."""
    found: Dict[str, Reported] = {}
    for jobs in sets:
        for name, variable in jobs.metrics.items():
            found.setdefault(name, variable)
    return found


def patterns(variables: Mapping[str, Reported]) -> Dict[str, str]:
    """Those that are parsed from the output: variable to its expression."""
    return {name: variable.regex for name, variable in variables.items() if variable.regex is not None}
