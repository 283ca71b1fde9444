# SPDX-License-Identifier: MIT
"""Scalars as users write them: durations (RFC 23), whole numbers, shares, texts, command lines, signals.

Each function returns the value or raises ValueError with "expected ..." and what would be right; the models use
them as validators. A number of the file remembers how it was written, so that `1.10` is a text of four characters.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import signal
from dataclasses import dataclass
from typing import Any, Callable, Dict, Set, Tuple, Union

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ensemble.spec import arithmetic

_FSD = re.compile(r"(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?P<unit>ms|s|m|h|d)?", re.ASCII)
_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BY_SIZE = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s"))
#: RULE/FIRING/INDEX
_JOB = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}/[0-9]{1,10}/[0-9]{1,10}", re.ASCII)
_DURATION = "expected a duration such as 30s, 5m or 1.5h, or a number of seconds"
#: seconds, about 30 years; clocks of operating systems end somewhere behind it
LONGEST = 1e9


def rate(value: Any) -> float:
    """A number a second, greater than 0. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e6:
        raise ValueError("expected a number a second, greater than 0 and at most 1000000")
    return float(value)


def duration(value: Any) -> float:
    """Seconds of a Flux Standard Duration (`30s`, `5m`, `1.5h`, `2d`, `100ms`) or of a number of seconds.

    Raises ValueError for anything else, for a negative one, and for one above LONGEST.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(_DURATION)
    if isinstance(value, str):
        match = _FSD.fullmatch(value.strip())
        if not match:
            raise ValueError(_DURATION)
        seconds = float(match["number"]) * _UNITS[match["unit"]]
    else:
        seconds = _real(value)
    if math.isnan(seconds) or seconds < 0 or seconds > LONGEST:
        raise ValueError(f"expected a duration from 0 to {LONGEST:.0f} seconds")
    return seconds


def fsd(seconds: float, digits: bool = False) -> str:
    """Seconds as a Flux Standard Duration: below ten seconds three decimals, beyond about four digits; `digits`: four always."""
    if digits and seconds < 60:
        return f"{seconds:.4g}s"
    if seconds < 1e-3:
        return "0s"
    if seconds < 10:
        return f"{seconds:.3f}s"
    divisor, unit = next(entry for entry in _BY_SIZE if seconds >= entry[0])
    return f"{seconds / divisor:.4g}{unit}"


def _real(value: Union[int, float]) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole(value: Any) -> int:
    """A whole number; 5.0 is one, True is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(_real(value)):
        raise ValueError("expected a whole number")
    if value != int(value):
        raise ValueError("expected a whole number")
    return int(value)


def number_or_percent(value: Any) -> Union[int, str]:
    """A whole number from 0, or a string such as "10%" (0 to 100, spaces dropped). Raises ValueError."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*%", value.strip(), re.ASCII)
        if match and float(match.group(1)) <= 100:
            return f"{match.group(1)}%"
        raise ValueError('expected a number of jobs, or a share such as "10%"')
    try:
        number = whole(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError('expected a number of jobs from 0 on, or a share such as "10%"')
    return number


def text(value: Any) -> str:
    """A string; numbers are taken as they were written."""
    if isinstance(value, bool):
        raise ValueError("expected a string; with quotes around it this would be one")
    if not isinstance(value, (str, int, float)):
        raise ValueError("expected a string")
    return str(getattr(value, "text", value))


def filled(value: Any) -> str:
    """A string that is not empty."""
    if not text(value).strip():
        raise ValueError("expected a string that is not empty")
    return text(value)


def target(value: Any) -> Union[str, Tuple[str, ...]]:
    """`event`, or jobs as functions name them: RULE/FIRING/INDEX, or a list of such."""
    names = value if isinstance(value, (list, tuple)) else [value]
    if value == "event":
        return "event"
    if not names or not all(isinstance(name, str) and _JOB.fullmatch(name) for name in names):
        raise ValueError("expected event")
    return tuple(names)


def command(value: Any) -> Tuple[str, ...]:
    """The words of a command: of a string, split as a shell splits it, or of a list."""
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as exc:
            raise ValueError(f"expected a command line that a shell could split ({str(exc).lower()})") from None
    elif isinstance(value, (list, tuple)):
        try:
            words = [text(word) for word in value]
        except ValueError:
            raise ValueError("expected a list of words; with quotes around it any word is one") from None
    else:
        raise ValueError("expected a command line, or a list of words")
    if not words or not words[0]:
        raise ValueError("expected a command, this one is empty")
    if any("\0" in word for word in words):
        raise ValueError("expected a command without NUL characters")
    return tuple(words)


def signal_number(value: Union[int, str, None]) -> int:
    """The number of a signal given as SIGTERM, TERM, term or 15; SIGTERM for None. Raises ValueError."""
    if value is None:
        return int(signal.SIGTERM)
    expected = "expected a signal such as SIGTERM, USR1 or 9"
    if isinstance(value, str) and not value.isdecimal():
        name = value.strip().upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        if name not in signal.Signals.__members__:
            raise ValueError(expected)
        return int(signal.Signals[name])
    number = whole(int(value) if isinstance(value, str) and len(value) < 5 else value)
    if not 1 <= number < signal.NSIG:
        raise ValueError(f"{expected} (1 to {signal.NSIG - 1})")
    return number


def signal_name(number: int) -> str:
    """The name of a signal by its number, such as SIGTERM; `signal 40` where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def idset(value: Any) -> Tuple[int, ...]:
    """The numbers of an idset such as `0-3,7` (RFC 22), in order. Raises ValueError; one above a million is none."""
    text_of = value if isinstance(value, str) else str(value)
    found: Set[int] = set()
    for part in "" if isinstance(value, bool) else text_of.strip().strip("[]").split(","):
        match = re.fullmatch(r"\s*(\d{1,7})(?:-(\d{1,7}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= 1_000_000:
            break
        found.update(range(first, last + 1))
    else:
        if found:
            return tuple(sorted(found))
    raise ValueError("expected ranks, such as 0-3,7")


def jsonable(value: Any) -> Any:
    """The value in plain types, if JSON has them all."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        raise ValueError("expected numbers that are finite, strings, lists and mappings") from None


class Written:
    """Base of the markers below: a validator that runs first, and the JSON Schema of what it takes."""

    def check(self, value: Any) -> Any:
        raise NotImplementedError

    def schema(self) -> Dict[str, Any]:
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Dict[str, Any]:
        return self.schema()


@dataclass(frozen=True)
class Between(Written):
    """`Annotated[int, Between(1, 5)]`: a whole number in these bounds."""

    low: int
    high: int
    #: what else a user may write there, which is taken care of before
    also: str = ""

    def check(self, value: Any) -> Any:
        expected = f"expected a whole number from {self.low} to {self.high}{self.also}"
        try:
            number = whole(value)
        except ValueError:
            raise ValueError(expected) from None
        if not self.low <= number <= self.high:
            raise ValueError(expected)
        return number

    def schema(self) -> Dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, eq=False)
class As(Written):
    """`Annotated[T, As(function, *schemas)]`: what the function makes of a value that fits one of the schemas."""

    function: Callable[[Any], Any]
    schemas: Tuple[Dict[str, Any], ...]

    def check(self, value: Any) -> Any:
        return self.function(value)

    def schema(self) -> Dict[str, Any]:
        return dict(self.schemas[0]) if len(self.schemas) == 1 else {"anyOf": [dict(one) for one in self.schemas]}


@dataclass(frozen=True)
class OrExpression(Written):
    """`Annotated[Union[T, str], OrExpression(written)]`: what `written` takes, or a string that is an expression.

    Whether it is one needs the file's groups, and is looked at in `computed.py`.
    """

    written: Written

    def check(self, value: Any) -> Any:
        try:
            return self.written.check(value)
        except ValueError:
            if isinstance(value, str):
                return str(value)
            raise

    def schema(self) -> Dict[str, Any]:
        own = self.written.schema()
        shapes = own.get("anyOf", [own])
        text = {"type": "string", "description": "an expression"}
        return {"anyOf": [*(one for one in shapes if one != {"type": "string"}), text]}


def variable(value: Any) -> Any:
    """What a variable may hold: a number that is finite, a string, true, false, or None, which is no value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (int, float)):
        if not math.isfinite(_real(value)):
            raise ValueError("expected a number that is finite")
        return arithmetic.scalar(int(value) if isinstance(value, int) else float(value))
    raise ValueError("expected a number, a string, true, false or null")


def signal_as_written(value: Any) -> Union[int, str]:
    """The signal as it was written, once it is known to be one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("expected a signal such as SIGTERM, USR1 or 9")
    signal_number(value if isinstance(value, str) else whole(value))
    return value if isinstance(value, str) else int(value)
