# SPDX-License-Identifier: MIT
"""`autoscale`: more nodes while jobs wait, fewer while nodes idle, within the bounds of the file's scaler.

Plain rules, and two variables. ID-held is the time (as `ensemble.elapsed`) before which the size is left alone. A grow sets it
to when it has failed at the latest, its end to a cooldown later: so one grow is on its way at a time, and one that another
request took the place of holds nothing back for ever. ID-most is the size at which a grow was refused, for there may be no
more nodes: until the queue may have others (nodes came up, or were undrained), or has fewer, no more are asked for. Between
`shrink_below` and `grow_above` nothing happens.
"""

from __future__ import annotations

from typing import Any, Dict, List

from ensemble.algorithms.contract import Algorithm, Group, WrongOption
from ensemble.algorithms.options import Option
from ensemble.custom import Action

#: seconds after which a grow is given up where the file does not have the scaler's time-out
LONG = 3600
#: more nodes than any queue has
NO_BOUND = 1_000_000_000
#: the scaler's time-out where its table does not say one
TIMEOUT = 600


class Autoscale(Algorithm):
    """Asks for nodes, and gives them back."""

    OPTIONS = (
        Option(
            "metric", "choice", "what is looked at: waiting (mean age of the jobs that wait), pending (mean wait of jobs "
            "that have ended, recent ones before others), backlog (jobs of the group that wait, a node), queue "
            "(everybody's)",
            "waiting", words=("waiting", "pending", "backlog", "queue"),
        ),
        Option("grow_above", "number", "above it the queue grows: seconds, or jobs a node", low=0, above=True),
        Option("shrink_below", "number", "below it, where nodes are free, the queue shrinks", low=0),
        Option("step", "integer", "nodes of one change, at least", 1, low=1, high=1_000_000),
        Option("factor", "number", "a grow makes so many times the nodes, a shrink undoes that", None, low=1, above=True,
               high=1000),
        Option("every", "duration", "time between two looks; without it each heartbeat of the file", None, low=0,
               above=True),
        Option("cooldown", "duration", "time after a change in which there is no other", 60, low=0),
        Option("at_end", "choice", "shrink: the nodes are given back at the end; keep: they stay", "shrink",
               words=("shrink", "keep")),
    )  # fmt: skip

    def expand(self, group: Group) -> List[Dict[str, Any]]:
        options, scaler = self.options, group.scaler
        above, below = options["grow_above"], options["shrink_below"]
        if not below < above:
            raise WrongOption(
                "shrink_below", f"shrink_below {below:g} is not below grow_above {above:g}", f"less than {above:g}",
                value=below,
            )  # fmt: skip
        least, most = scaler.get("min", 1), scaler.get("max")
        pending = "queue.pending" if options["metric"] == "queue" else f"count.{group.name}.pending"
        value = {
            "waiting": f"mean.{group.name}.waiting",
            "pending": f"ewm.{group.name}.finished.pending",
        }.get(options["metric"], f"{pending} / max(nodes.up, 1)")
        held, full = f"var.{self.id}-held", f"var.{self.id}-most"
        grow, shrink = str(options["step"]), f"min(nodes.free, {options['step']})"
        if options["factor"] is not None:
            factor = f"{options['factor']:.12g}"
            grow = f"max({grow}, nodes.up * ({factor} - 1) // 1)"
            shrink = f"min(nodes.free, max({options['step']}, nodes.up * (1 - 1 / {factor}) // 1))"
        bound = "" if most is None else f" and nodes.up < {most:.12g}"
        bound += f" and nodes.up < {full}"
        may = f"ensemble.elapsed >= {held} and"
        looks: Dict[str, Any] = {"repetitions": "unlimited"}
        if options["every"] is not None:
            looks["every"] = options["every"]
        unfinished = scaler.get("timeout", TIMEOUT) + scaler.get("cooldown", 0) if scaler else LONG
        rules = [
            self.rule("start", "enabled", Action("set", label=f"{self.id}-held", value=0).plain(),
                      self._bound(NO_BOUND), repetitions="unlimited"),
            # what has ended holds the next one back by the cooldown alone
            self.rule("grown", "grow-finish", self._hold(options["cooldown"]), repetitions="unlimited"),
            self.rule("not-grown", "grow-fail", self._hold(options["cooldown"]), repetitions="unlimited"),
            # one that has begun wants more than there is; a refusal for another reason tells no size
            self.rule("full", "grow-fail", self._bound("event.size"), repetitions="unlimited",
                      when="event.wanted <= event.size"),
            *(self.rule(word, f"resource-{word}", self._bound(NO_BOUND), repetitions="unlimited",
                        when=f"{full} < {NO_BOUND}") for word in ("up", "undrain")),
            self.rule(
                "grow", "heartbeat", self._hold(unfinished + options["cooldown"]),
                Action("grow", value=grow).plain(),
                when=f"{may} {pending} > 0 and {value} > {above:.12g}{bound}", **looks,
            ),
            self.rule(
                "shrink", "heartbeat", self._hold(options["cooldown"]), Action("shrink", value=shrink).plain(),
                when=f"{may} nodes.free > 0 and nodes.up > {least:.12g} and ({pending} < 1 or {value} < {below:.12g})",
                **looks,
            ),
        ]  # fmt: skip
        if options["at_end"] == "shrink":
            give = Action("shrink", value=f"nodes.up - {least:.12g}").plain()
            rules.append(self.rule("end", "end", give, when=f"nodes.up > {least:.12g}", repetitions="unlimited"))
        return rules

    def _bound(self, nodes: Any) -> Dict[str, Any]:
        """There may be so many nodes."""
        return Action("set", label=f"{self.id}-most", value=nodes).plain()

    def _hold(self, seconds: float) -> Dict[str, Any]:
        """Leave the size alone for so long."""
        return Action("set", label=f"{self.id}-held", value=f"ensemble.elapsed + {seconds:.12g}").plain()
