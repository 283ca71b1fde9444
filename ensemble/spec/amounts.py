# SPDX-License-Identifier: MIT
"""Amounts that a simulation draws: a number, a duration, a distribution, or an expression of a job's parameters.

How to use it. `read(value, names, seconds)` makes an `Amount` of what the file or an option says, and raises PathError,
with an offset into the text, for what is none. `amount.draw(random, scope)` is one value, None where it has none.

A distribution is NAME(argument, ...), with numpy's names. An argument is a number, a duration where seconds are drawn, or
an expression. Where numpy takes parameters of another variable's distribution the table below says what is meant here:
the mean and standard deviation of lognormal are those of what is drawn, not of its logarithm.

In expressions a parameter stands by its name, or as `params.NAME`; what is known of the job besides are the words of
`WORDS`. Nothing here but `random` draws numbers, so that a start of the program stays quick.
"""

from __future__ import annotations

import math
import re
from random import Random
from typing import Any, Callable, Collection, Dict, List, NamedTuple, Optional, Tuple, Union

from ensemble.spec import arithmetic, expression, units
from ensemble.spec.arithmetic import NUMBER
from ensemble.spec.expression import Expression, Read
from ensemble.spec.faults import listed, shown
from ensemble.spec.metrics import PathError
from ensemble.spec.tokens import ExpressionError

#: what an expression knows of the job, and what it is
WORDS: Dict[str, str] = {
    "elapsed": "seconds since the job's start",
    "duration": "seconds that the job takes in all, if nothing ends it before",
    "report": "number of this report of the job, from 1",
    "attempt": "number of the attempt, from 0",
}
PARAMS = "params"


class Kind(NamedTuple):
    """One distribution."""

    #: what its arguments are called; a single `...` stands for any number of them
    arguments: Tuple[str, ...]
    draw: Callable[..., float]
    #: in words
    description: str


def _lognormal(random: Random, mean: float, std: float) -> float:
    if mean <= 0:
        return 0.0
    spread = math.log1p((std / mean) ** 2)
    return random.lognormvariate(math.log(mean) - spread / 2, math.sqrt(spread))


def _exponential(random: Random, mean: float) -> float:
    return random.expovariate(1 / mean) if mean > 0 else 0.0


def _gamma(random: Random, shape: float, scale: float) -> float:
    return random.gammavariate(shape, scale) if shape > 0 and scale > 0 else 0.0


def _weibull(random: Random, shape: float, scale: float) -> float:
    return random.weibullvariate(scale, shape) if shape > 0 else 0.0


def _triangular(random: Random, left: float, mode: float, right: float) -> float:
    return random.triangular(left, right, mode) if right > left else left


DISTRIBUTIONS: Dict[str, Kind] = {
    "uniform": Kind(("low", "high"), lambda r, low, high: r.uniform(low, high), "anything between, all alike"),
    "normal": Kind(
        ("mean", "std"), lambda r, mean, std: r.normalvariate(mean, abs(std)), "mean and standard deviation"
    ),
    "lognormal": Kind(
        ("mean", "std"), _lognormal, "mean and standard deviation of what is drawn, not of its logarithm"
    ),
    "exponential": Kind(("mean",), _exponential, "its mean"),
    "gamma": Kind(("shape", "scale"), _gamma, "the mean is shape * scale"),
    "weibull": Kind(("shape", "scale"), _weibull, "scale times numpy's weibull(shape)"),
    "triangular": Kind(("left", "mode", "right"), _triangular, "least, most likely and greatest value"),
    "choice": Kind(
        ("...",), lambda r, *values: values[int(r.random() * len(values))], "one of the arguments, all alike"
    ),
}

_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*\(", re.ASCII)
#: arguments that are never negative, whatever the distribution
_SIZES = frozenset(("std", "shape", "scale"))
_PERCENT = re.compile(r"\s*([+-]?\d{1,15}(?:\.\d{1,15})?)\s*%\s*", re.ASCII)


class Known:
    """What an expression may read: a job's parameters, by name, and `WORDS`. The scope of one draw."""

    __slots__ = ("attempt", "duration", "elapsed", "params", "report")

    def __init__(self, params: Dict[str, Any], attempt: int = 0) -> None:
        self.params = params
        self.attempt = attempt
        self.elapsed = 0.0
        self.duration: Optional[float] = None
        self.report = 1

    def event(self, words: Tuple[str, ...]) -> Any:
        """The value of a parameter, or of one of WORDS."""
        return self.params.get(words[1]) if words[0] == PARAMS else getattr(self, words[0])

    def metric(self, metric: Any) -> Any:
        """No metric can be read."""
        return None


class Amount(NamedTuple):
    """What is drawn for each job."""

    #: as it was written
    text: str
    #: one value, None where it has none
    draw: Callable[[Random, Known], Optional[float]]
    #: it takes random numbers
    random: bool
    #: it is the same for all jobs, and this; None where it is not
    constant: Optional[float]
    #: offset and path of all that it reads
    reads: Tuple[Read, ...] = ()


def read(value: Union[float, str], names: Optional[Collection[str]], seconds: bool = False) -> Amount:
    """The amount that was written. `names` are the parameters that jobs may have, None where any may be.

    With `seconds` a text may be a duration (`5m`). Raises PathError, with an offset into the text.
    """
    if not isinstance(value, str):
        if not math.isfinite(value):
            raise ExpressionError("this is no finite number", 0, "a number that is finite")
        return _constant(f"{value:g}", float(value))
    match = _CALL.match(value)
    if match is not None and match[1] not in arithmetic.FUNCTIONS:
        return _distribution(value, match, names, seconds)
    return _plain(value, names, seconds)


def share(value: Union[float, str], names: Optional[Collection[str]]) -> Amount:
    """A share of the jobs: "5%", a number from 0 to 1, or an expression of parameters that comes to one, or to a truth.

    Raises PathError.
    """
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        made = _constant(match[0].strip(), float(match[1]) / 100)
    else:
        made = _plain(value, names, False) if isinstance(value, str) else read(value, names)
    if made.constant is not None and not 0 <= made.constant <= 1:
        raise ExpressionError("this is no share", 0, "a share from 0 to 1, or a percentage such as 5%")
    return made


def _constant(text: str, number: float) -> Amount:
    return Amount(text, lambda random, known: number, False, number)


def _plain(text: str, names: Optional[Collection[str]], seconds: bool) -> Amount:
    """A number, a duration, or an expression."""
    if seconds:
        try:
            return _constant(text, units.duration(text))
        except ValueError:
            if text.startswith("-") and text[-1:].isalpha() and _is_duration(text[1:]):
                raise ExpressionError("a duration is never negative", 0, "a duration such as 5m") from None
    made = compile(text, names)
    if made.constant:
        number = _number(made.value(Known({})))
        if number is None:
            raise ExpressionError("this has no value", 0, NUMBER)
        return _constant(text, number)
    return Amount(text, lambda random, known: _number(made.value(known)), False, None, made.reads)


def _is_duration(text: str) -> bool:
    try:
        units.duration(text)
    except ValueError:
        return False
    return True


def _number(value: Any) -> Optional[float]:
    """A finite number; a truth is 0 or 1."""
    if not isinstance(value, (bool, int, float)):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def compile(text: str, names: Optional[Collection[str]]) -> Expression:
    """An expression of parameters and WORDS. Raises ExpressionError."""

    def resolve(path: str, groups: Any, trigger: Any, offset: int = 0) -> Read:
        first, dot, rest = path.partition(".")
        if not dot and first in WORDS:
            return Read(offset, path, None, (first,), NUMBER)
        if first == PARAMS and dot:
            if names is not None and rest not in names:
                raise PathError(f"no parameter is called {shown(rest)}", len(first) + 1, _list(names), rest, names)
            return Read(offset, path, None, (PARAMS, rest), None)
        if dot or (names is not None and first not in names):
            expected = f"{_list(names) + ', or ' if names else ''}one of {', '.join(WORDS)}"
            raise PathError(f"nothing is called {shown(path)} here", 0, expected, path, [*(names or ()), *WORDS])
        return Read(offset, path, None, (PARAMS, first), None)

    return expression.compile(text, (), None, resolve=resolve, words=_ANY)


def _list(names: Collection[str]) -> str:
    return f"one of the parameters {listed(sorted(names))}" if names else "a group with parameters"


class _Any(Dict[str, None]):
    """Any word is a path: `compile` says which are none."""

    def __contains__(self, word: object) -> bool:
        return True


_ANY = _Any()


def _distribution(text: str, match: re.Match[str], names: Optional[Collection[str]], seconds: bool) -> Amount:
    name, at = match[1], match.start(1)
    kind = DISTRIBUTIONS.get(name)
    if kind is None:
        expected = f"one of {', '.join(DISTRIBUTIONS)}"
        raise ExpressionError(f"no distribution is called {shown(name)}", at, expected, name, DISTRIBUTIONS)
    arguments, end = _arguments(text, match.end())
    if text[end:].strip():
        raise ExpressionError(f"something stands behind {name}(...)", end, "the distribution alone")
    wanted = f"{name}({', '.join(kind.arguments)})"
    if len(arguments) != len(kind.arguments) and kind.arguments != ("...",):
        raise ExpressionError(f"{name} has {len(kind.arguments)} arguments, not {len(arguments)}", at, wanted)
    made = []
    for offset, argument in arguments:
        if not argument.strip():
            raise ExpressionError("here an argument is missing", offset, wanted)
        lead = len(argument) - len(argument.lstrip())
        try:
            made.append(_plain(argument.strip(), names, seconds))
        except PathError as exc:
            told = ExpressionError(exc.message, offset + lead + exc.offset, exc.expected, exc.word, exc.known)
            raise told from None
        argument_name = kind.arguments[len(made) - 1] if kind.arguments != ("...",) else ""
        if argument_name in _SIZES and (made[-1].constant or 0.0) < 0:
            raise ExpressionError(f"{argument_name} is never negative", offset + lead, wanted)
    reads = tuple(
        one._replace(offset=one.offset + offset) for (offset, _), part in zip(arguments, made) for one in part.reads
    )
    draw, constants = kind.draw, [part.constant for part in made]
    if None not in constants:
        fixed = tuple(constants)
        return Amount(text, lambda random, known: draw(random, *fixed), True, None)

    def drawn(random: Random, known: Known) -> Optional[float]:
        values = [part.draw(random, known) for part in made]
        return None if None in values else draw(random, *values)

    return Amount(text, drawn, True, None, reads)


def _arguments(text: str, start: int) -> Tuple[List[Tuple[int, str]], int]:
    """The arguments behind an opening parenthesis, each with its offset, and where the text goes on."""
    found: List[Tuple[int, str]] = []
    depth, begin = 0, start
    for at in range(start, len(text)):
        sign = text[at]
        if sign == "(":
            depth += 1
        elif sign == ")" and depth:
            depth -= 1
        elif sign == ")" or (sign == "," and not depth):
            if found or sign == "," or text[begin:at].strip():
                found.append((begin, text[begin:at]))
            begin = at + 1
            if sign == ")":
                return found, begin
    raise ExpressionError("this ( is never closed", start - 1, "a ) behind it")
