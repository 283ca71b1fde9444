# SPDX-License-Identifier: MIT
"""`adaptive-sampling`: submit jobs until the standard error of what they measure is small enough.

Plain rules: batch after batch, and after each the standard error of the mean (`sem`) over the jobs that have succeeded is
compared with max(atol, rtol * |mean|). Both names are those of numpy and scipy.
"""

from __future__ import annotations

from typing import Any, Dict, List

from ensemble.algorithms.contract import Algorithm, Group, WrongOption
from ensemble.algorithms.options import Option
from ensemble.custom import Action


class AdaptiveSampling(Algorithm):
    """Submits in batches."""

    OPTIONS = (
        Option(
            "metric", "variable", "what is measured: a reported variable, or duration", words=("duration", "pending")
        ),
        Option("atol", "number", "the standard error that is small enough", 0, low=0),
        Option("rtol", "number", "the same as a share of the mean", 0, low=0),
        Option("min_samples", "integer", "jobs before the first look", 5, low=2, high=10_000_000),
        Option("max_samples", "integer", "jobs at most", low=2, high=10_000_000),
        Option(
            "batch_size", "integer", "jobs of each further batch; without it min_samples", None, low=1, high=10_000_000
        ),
    )

    def expand(self, group: Group) -> List[Dict[str, Any]]:
        name, options = group.name, self.options
        least, most = options["min_samples"], options["max_samples"]
        batch = options["batch_size"] or least
        if not options["atol"] and not options["rtol"]:
            raise WrongOption("", f"{self.name} has no bound", "atol or rtol, greater than 0")
        if most < least:
            raise WrongOption("max_samples", f"max_samples {most} is below min_samples {least}", f"from {least}")
        if group.points is not None and group.points < most:
            message = f"the group '{name}' has {group.points} points alone"
            raise WrongOption("max_samples", message, f"at most {group.points}", value=most)
        path = f"{name}.success.{options['metric']}"
        bounds = []
        if options["atol"]:
            bounds.append(f"{options['atol']:.12g}")
        if options["rtol"]:
            bounds.append(f"{options['rtol']:.12g} * abs(mean.{path})")
        bound = bounds[0] if len(bounds) == 1 else f"max({', '.join(bounds)})"
        ended = f"count.{name}.finished"
        wide = f"(n.{path} < {least} or sem.{path} > {bound})"
        log = Action("log", value=f"{{mean.{path}}} +- {{sem.{path}}} from {{n.{path}}} jobs").plain()
        return [
            # where it is enabled again, the jobs so far still count
            self.rule(
                "start", "enabled", self.submit(count=f"min(max({least} - {ended}, 1), {most} - {ended})"),
                when=f"count.{name}.active == 0 and {ended} < {most} and {wide}", repetitions="unlimited",
            ),
            self.rule(
                "more", "group-complete", log, self.submit(count=f"min({batch}, {most} - {ended})"), name=name,
                when=f"{ended} < {most} and {wide}", repetitions="unlimited",
            ),
            self.rule(
                "done", "group-complete", log, Action("signal", label=f"{self.id}-done").plain(), name=name,
                when=f"{ended} >= {most} or (n.{path} >= {least} and sem.{path} <= {bound})", repetitions=1,
            ),
        ]  # fmt: skip
