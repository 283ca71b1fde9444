# SPDX-License-Identifier: MIT
"""The arithmetic of rungs, shared by `successive-halving` and `asha`: which resources, how many go on, which reports.

Sources: Li et al., "A system for massively parallel hyperparameter tuning" (MLSys 2020), algorithms 1 and 2: with minimum
resource r, maximum R, reduction factor eta and early-stopping rate s, the rungs are r * eta**(s + k) for k from 0 to
floor(log_eta(R / r)) - s, and jobs are stopped at all but the last. Jamieson and Talwalkar, "Non-stochastic best arm
identification and hyperparameter optimization" (AISTATS 2016), figure 3: with a budget B, n arms and K = ceil(log_eta n)
rounds, each of the |S_k| arms of round k gets floor(B / (|S_k| K)) more resource, and floor(|S_k| / eta) go on.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Tuple

from ensemble.algorithms.contract import Algorithm, Group, Told, WrongOption
from ensemble.algorithms.options import Option

#: rungs of one algorithm: each is a rule
MOST = 64

METRIC = Option("metric", "variable", "the reported variable by which jobs are compared")
MODE = Option("mode", "choice", "min: the least value is the best; max: the greatest", "min", words=("min", "max"))
RESOURCE = Option(
    "resource", "variable", "a reported variable that only grows, such as epoch; without it the number of reports",
    None, alias="time_attr",
)  # fmt: skip
MIN_RESOURCE = Option(
    "min_resource", "number", "resource of the first rung (r)", 1, low=0, above=True, alias="grace_period"
)
MAX_RESOURCE = Option(
    "max_resource", "number", "resource of a job that goes to its end (R)", None, low=0, above=True, alias="max_t"
)
REDUCTION_FACTOR = Option(
    "reduction_factor",
    "number",
    "one in so many goes on at each rung (eta)",
    4,
    low=1,
    above=True,
    high=1e6,
    alias="eta",
)
RATE = Option(
    "min_early_stopping_rate",
    "integer",
    "the first rung is this many factors above min_resource (s)",
    0,
    low=0,
    high=64,
)


def resources(options: Dict[str, Any]) -> List[float]:
    """The resource of each rung, the last one included, where nobody is stopped. Raises WrongOption."""
    r, most, eta, s = (options[o.name] for o in (MIN_RESOURCE, MAX_RESOURCE, REDUCTION_FACTOR, RATE))
    if most is None:
        raise WrongOption("", "max_resource is missing", f"max_resource: {MAX_RESOURCE.description}")
    if not r < most:
        raise WrongOption("max_resource", f"max_resource {most:g} is not above min_resource {r:g}", f"more than {r:g}")
    found: List[float] = []
    # a product that is the maximum but for its rounding is the maximum
    while (resource := _rung(r, eta, s + len(found))) <= most * (1 + 1e-9):
        found.append(resource)
        if len(found) > MOST:
            message = f"there are more than {MOST} rungs between {r:g} and {most:g}"
            raise WrongOption(REDUCTION_FACTOR.name, message, "a greater reduction_factor", value=f"{eta:g}")
    if len(found) < 2:
        message = f"no job is ever stopped: the second rung would be above max_resource, {most:g}"
        raise WrongOption(MAX_RESOURCE.name, message, "a greater max_resource, or a smaller reduction_factor")
    return found


def _rung(r: float, eta: float, k: int) -> float:
    try:
        return float(r * float(eta) ** k)
    except OverflowError:
        return math.inf


def apart(algorithm: Algorithm, found: List[float]) -> List[float]:
    """The rungs themselves. Raises WrongOption where jobs are judged by the number of reports, and two would be at one."""
    numbers = [reports(resource) for resource in found]
    twice = [number for number, after in zip(numbers, numbers[1:]) if number == after]
    if algorithm.options["resource"] is None and twice:
        message = f"two rungs would be at report {twice[0]}"
        raise WrongOption(REDUCTION_FACTOR.name, message, "a greater reduction_factor, or min_resource from 1")
    return found


def reports(resource: float) -> int:
    """The number of the report that reaches the resource."""
    return max(1, math.ceil(resource - 1e-9))


def kept(n: int, eta: float) -> int:
    """How many of n go on: n / eta, rounded down; a whole quotient is not lost to rounding."""
    return math.floor(n / eta * (1 + 1e-12))


def halvings(n: int, eta: float, rungs: int) -> List[int]:
    """The jobs at each rung, floor(n * eta**-k): algorithm 1 of Li et al."""
    return [kept(n, eta**k) for k in range(rungs)]


def budgeted(n: int, eta: float, budget: float) -> Tuple[List[float], List[int]]:
    """Resources and sizes of the rounds of Jamieson and Talwalkar: a budget for all jobs together."""
    rounds = 1
    while eta**rounds < n * (1 - 1e-12):
        rounds += 1
    sizes, found, spent, size = [n], [], 0, n
    for _ in range(rounds):
        spent += int(budget // (size * rounds))
        found.append(float(spent))
        size = max(1, kept(size, eta))
        sizes.append(size)
        if size == 1:
            break
    return found, sizes


def rule(algorithm: Algorithm, group: Group, number: int, resource: float) -> Dict[str, Any]:
    """The rule that calls `on_rung` when a job first reaches that resource, whether its reports hit it or pass it."""
    variable = algorithm.options["resource"]
    if variable is None:
        # the n-th report of the metric
        name, when = algorithm.options["metric"], f"event.n == {reports(resource)}"
    else:
        name = variable
        when = f"event.value >= {resource:.12g} and (event.n == 1 or event.before < {resource:.12g})"
    return algorithm.rule(
        f"rung-{number}", "report", algorithm.call("rung", rung=number), name=f"{group.name}.{name}", when=when,
        repetitions="unlimited",
    )  # fmt: skip


def value(algorithm: Algorithm, told: Told) -> Optional[float]:
    """The metric of the job that has reached a rung: of the same report, or the value that it keeps; the less the better."""
    metric = algorithm.options["metric"]
    found = (told.event.get("data") or {}).get(metric)
    if found is None:
        found = told.event["values"].get(metric)
    return None if found is None else signed(algorithm, float(found))


def signed(algorithm: Algorithm, x: float) -> float:
    """Turned, where more is better, so that less is; and back."""
    return -x if algorithm.options["mode"] == "max" else x
