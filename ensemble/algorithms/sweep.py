# SPDX-License-Identifier: MIT
"""`sweep`: run all points of a group, so many at a time.

Plain rules: as long as fewer jobs than wanted are active, and points are left, the difference is submitted.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from ensemble.algorithms.contract import Algorithm, Group, WrongOption
from ensemble.algorithms.options import Option
from ensemble.custom import Action

MAX_CONCURRENT = Option(
    "max_concurrent", "integer", "jobs that are active (wait or run) at a time; without it all are submitted at once",
    None, low=1, high=1_000_000,
)  # fmt: skip
NUM_SAMPLES = Option(
    "num_samples", "integer", "jobs in all; without it as many as the group's sample has points",
    None, low=1, high=10_000_000,
)  # fmt: skip


class Sweep(Algorithm):
    """Submits."""

    OPTIONS = (MAX_CONCURRENT, NUM_SAMPLES)

    def expand(self, group: Group) -> List[Dict[str, Any]]:
        return feeding(self, group)


def total(algorithm: Algorithm, group: Group) -> Optional[int]:
    """Jobs in all, None where only the sample itself will tell. Raises WrongOption."""
    wanted = algorithm.options["num_samples"]
    if group.points is not None and wanted is not None and wanted > group.points:
        message = f"the group '{group.name}' has {group.points} points"
        raise WrongOption("num_samples", message, f"at most {group.points}, or none", value=wanted)
    if wanted is None and group.points is None and not group.parameters:
        raise WrongOption(
            "", f"{algorithm.name} cannot tell how many jobs '{group.name}' is to have", "num_samples, a number of jobs"
        )
    return wanted if wanted is not None else group.points


def feeding(algorithm: Algorithm, group: Group) -> List[Dict[str, Any]]:
    """The rules that submit the group, as both options say. Raises WrongOption."""
    number, most, name = total(algorithm, group), algorithm.options["max_concurrent"], group.name
    if number is None:
        raise WrongOption("", f"there is no end of points of '{name}'", "num_samples here, or samples in the group")
    most = number if most is None else min(most, number)
    left = f"{number} - count.{name}.active - count.{name}.finished"
    count = f"min({most} - count.{name}.active, {left})"
    rules = [
        # where it is enabled again, what is active still counts
        algorithm.rule(
            "start", "enabled", algorithm.submit(count=count), when=f"count.{name}.active < {most} and {left} > 0",
            repetitions="unlimited",
        )
    ]  # fmt: skip
    if most < number:
        rules.append(
            algorithm.rule(
                "next", "metric", algorithm.submit(count=count), name=f"count.{name}.finished",
                when=f"count.{name}.active < {most} and {left} > 0", repetitions="unlimited",
            )
        )  # fmt: skip
    rules.append(
        algorithm.rule(
            "done", "group-complete", Action("signal", label=f"{algorithm.id}-done").plain(), name=name,
            when=f"{left} <= 0", repetitions=1,
        )
    )  # fmt: skip
    return rules
