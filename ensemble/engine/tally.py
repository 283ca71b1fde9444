# SPDX-License-Identifier: MIT
"""Counts and statistics per group, and which rules read them.

Law of this file: every change of a metric adds the rules that read it to `due`, and a change costs only what is
read. A statistic exists only where a rule reads it or `status` shows it (`SHOWN`).
"""

from __future__ import annotations

import math
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from ensemble.engine.stats import Statistics
from ensemble.errors import RecordError
from ensemble.spec.metrics import GROUPLESS, LEGACY_PENDING, VARIABLES, Metric
from ensemble.spec.models import COUNTS
from ensemble.spec.reports import MOST_VARIABLES, Reported

#: what `status` shows of duration and pending, apart for success and failed
SHOWN = ("n", "mean", "std", "min", "max")
_SHOWN_STATES = ("success", "failed")
_SHOWN_VARIABLES = ("duration", "pending")
#: what `status` shows of a reported variable
SHOWN_REPORTED = (*SHOWN, "last")
#: results that count into `finished`
_FINISHED = ("success", "failed")

Readers = Tuple[int, ...]


class Tally:
    """Counts and statistics of one ensemble."""

    def __init__(
        self,
        groups: Iterable[str],
        reads: Dict[Metric, List[int]],
        shows: Iterable[Metric] = (),
        declared: Optional[Mapping[str, Mapping[str, Reported]]] = None,
    ) -> None:
        """`reads` maps each metric that rules read to the rules' numbers, in file order; `shows` are kept as well.

        `declared` are the variables that the jobs of each group report.
        """
        self.groups = tuple(groups)
        self.declared = declared or {}
        self.counts: Dict[str, Dict[str, int]] = {group: dict.fromkeys(COUNTS, 0) for group in self.groups}
        #: numbers of the rules to look at, because a metric that they read has changed
        self.due: Set[int] = set()
        self._count_readers: Dict[Tuple[str, str], Readers] = {}
        self._stat_readers: Dict[Tuple[str, str, str], Readers] = {}
        #: of metrics of no group, by the two words of their paths
        self._groupless_readers: Dict[Tuple[str, str], Readers] = {}
        wanted: Dict[Tuple[str, str, str], Set[str]] = {}
        for group in self.groups:
            for state in _SHOWN_STATES:
                for variable in _SHOWN_VARIABLES:
                    wanted[group, state, variable] = set(SHOWN)
        for group, variables in self.declared.items():
            for variable in variables:
                wanted[group, "", variable] = set(SHOWN_REPORTED)
        self._wanted = wanted
        #: group -> how many variables it has that its jobs report
        self._variables: Dict[str, int] = {}
        for group, variables in self.declared.items():
            self._variables[group] = len(variables)
        # made at the first value: of a thousand groups most have none yet
        self._stats: Dict[Tuple[str, str, str], Statistics] = {}
        for metric, rules in reads.items():
            self._want(metric, rules)
        self.show(shows)

    def show(self, metrics: Iterable[Metric]) -> None:
        """Keep these from now on, for those who look; they wake no rule."""
        for metric in metrics:
            self._want(metric, ())
        #: groups whose pending jobs' ages are wanted at each heartbeat
        self.aged = tuple(
            g for g in self.groups if any((g, "", v) in self._wanted for v in ("waiting", LEGACY_PENDING))
        )

    def watch(self, metric: Metric, rule: int) -> None:
        """Wake that rule at changes of the metric, and keep it from now on."""
        self._want(metric, (rule,))

    def _want(self, metric: Metric, rules: Iterable[int]) -> None:
        readers: Dict[Any, Readers]
        where: Any
        if metric.stat in GROUPLESS:
            readers, where = self._groupless_readers, (metric.stat, metric.variable)
        elif metric.stat == "count":
            readers, where = self._count_readers, (metric.group, metric.state)
        else:
            readers, where = self._stat_readers, (metric.group, metric.state, metric.variable)
            if metric.reported and not metric.state:
                self._open(metric.group, metric.variable)
            wanted = self._wanted.setdefault(where, set())
            if metric.stat not in wanted:
                wanted.add(metric.stat)
                if where in self._stats:
                    self._stats[where].want(metric.stat)
        if rules:
            readers[where] = tuple(sorted({*readers.get(where, ()), *rules}))

    def bump(self, group: str, state: str, by: int = 1) -> None:
        """Change a count."""
        self.counts[group][state] += by
        readers = self._count_readers.get((group, state))
        if readers:
            self.due.update(readers)

    def touch(self, variable: str, of: str = "ensemble") -> None:
        """`ensemble.<variable>`, or that of another one of GROUPLESS, has changed."""
        readers = self._groupless_readers.get((of, variable))
        if readers:
            self.due.update(readers)

    def ended(self, group: str, result: str, duration: Optional[float], pending: Optional[float]) -> None:
        """A job of the group has ended, with its times in seconds, None for one that never ran."""
        if result not in _FINISHED:
            return
        for variable, value in (("duration", duration), ("pending", pending)):
            if value is not None:
                self._feed(group, result, variable, value)
                self._feed(group, "finished", variable, value)

    def started(self, group: str, wait: float) -> None:
        """A job has started after that many seconds: the predecessor's `-pending` counts it now."""
        self._feed(group, "", LEGACY_PENDING, wait)

    def reported(self, group: str, variable: str, x: Optional[float]) -> bool:
        """A job has reported a value, None for what is no number. False where nothing was fed.

        A variable that the file does not know is kept from its first value on, as long as there is room.
        """
        if not self.has_room(group, variable):
            return False
        self._open(group, variable)
        return self._feed(group, "", variable, math.nan if x is None else x)

    def has_room(self, group: str, variable: str) -> bool:
        """Is the variable known, or may the group have one more?"""
        return (group, "", variable) in self._wanted or self._variables.get(group, 0) < MOST_VARIABLES

    def _open(self, group: str, variable: str) -> None:
        """Keep what `status` shows of a reported variable."""
        if (group, "", variable) not in self._wanted:
            self._variables[group] = self._variables.get(group, 0) + 1
            self._wanted[group, "", variable] = set(SHOWN_REPORTED)

    def kept(self, group: str, result: str, values: Mapping[str, float]) -> None:
        """A job of the group has ended, and these values stand for it."""
        if result in _FINISHED:
            for variable, x in values.items():
                self._feed(group, result, variable, x)
                self._feed(group, "finished", variable, x)

    def aging(self, group: str, ages: Iterable[float]) -> None:
        """The ages, in seconds, of the group's jobs that are pending at this heartbeat."""
        where = (group, "", "waiting")
        if where in self._wanted:
            had = self._stats.pop(where, None) or Statistics(self._wanted[where])
            fresh = self._stats[where] = Statistics(self._wanted[where])
            for age in ages:
                fresh.update(age)
            if had.values() != fresh.values():
                self.due.update(self._stat_readers.get(where, ()))
        for age in ages:
            self._feed(group, "", LEGACY_PENDING, age)

    def get(self, metric: Metric) -> Optional[float]:
        """The value of a count or statistic, None while it has none. (Those of no group are `Values`'.)"""
        if metric.stat == "count":
            return self.counts[metric.group][metric.state]
        stats = self._stats.get((metric.group, metric.state, metric.variable))
        if stats is None:
            return 0 if metric.stat == "n" else None
        return stats.get(metric.stat)

    def mean_duration(self, group: str) -> Optional[float]:
        """Mean seconds that the group's successful jobs ran, None before the first."""
        stats = self._stats.get((group, "success", "duration"))
        return stats.get("mean") if stats is not None else None

    def table(self) -> Dict[str, Any]:
        """All statistics that have a value: group, state, variable, statistic."""
        table: Dict[str, Any] = {}
        for (group, state, variable), stats in self._stats.items():
            values = stats.values()
            if stats.refused:
                values["refused"] = stats.refused
            if values.get("n", 1) or stats.refused:
                name = f"{group}-pending" if variable == LEGACY_PENDING else variable
                state = state or ("pending" if variable in (*VARIABLES, LEGACY_PENDING) else "reported")
                table.setdefault(group, {}).setdefault(state, {})[name] = values
        return table

    def rows(self) -> List[List[Any]]:
        """All statistics that have a value: group, state ('' where it has none), variable, and name to value."""
        return [[*where, stats.values()] for where, stats in self._stats.items() if stats.get_n()]

    def _feed(self, group: str, state: str, variable: str, value: float) -> bool:
        """Feed one value where it is wanted. False where it is not, or no finite number."""
        where = (group, state, variable)
        stats = self._stats.get(where)
        if stats is None:
            wanted = self._wanted.get(where)
            if wanted is None:
                return False
            stats = self._stats[where] = Statistics(wanted)
        if not stats.update(value):
            return False
        readers = self._stat_readers.get(where)
        if readers:
            self.due.update(readers)
        return True

    def to_json(self) -> Dict[str, Any]:
        """The state as JSON-able data."""
        return {
            "counts": self.counts,
            "stats": [[*where, stats.to_json()] for where, stats in self._stats.items()],
        }

    def restore(self, state: Any) -> None:
        """Take up what `to_json` wrote for the same file. Raises RecordError."""
        try:
            for group, counts in state["counts"].items():
                self.counts[group].update({name: int(counts[name]) for name in COUNTS})
            self._stats = {
                (group, kind, variable): Statistics.from_json(stats) for group, kind, variable, stats in state["stats"]
            }
            for group, kind, variable in self._stats:
                if not kind and variable not in (*VARIABLES, LEGACY_PENDING):
                    self._open(group, variable)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as exc:
            raise RecordError(f"this is no state of counts and statistics ({exc!r})") from exc
