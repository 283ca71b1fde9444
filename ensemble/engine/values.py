# SPDX-License-Identifier: MIT
"""What metrics, variables and events are worth now: the one place where the engine looks up a path.

Law of this file: it answers and changes nothing, save `set`, which wakes the rules that read the variable, and that a
rule remembers the event that its condition has read. What has no value is None. Metrics of groups are the tally's; those of no group have an entry each in `Values._groupless`, by the
first word of their paths.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple

from ensemble.engine import enabling, resources
from ensemble.engine.occasion import Occasion
from ensemble.errors import RuleError
from ensemble.spec import arithmetic
from ensemble.spec.arithmetic import Maybe, Value
from ensemble.spec.expression import Expression
from ensemble.spec.metrics import OF_QUEUE, Metric
from ensemble.spec.models import NUMBERS, Action

if TYPE_CHECKING:
    from ensemble.engine.engine import Engine
    from ensemble.engine.rules import RuleState


class Values:
    """The values of one ensemble."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: first word of a path that names no group -> its value by the second word
        self._groupless: Dict[str, Callable[[str], Any]] = {"ensemble": self._of_ensemble, "var": self._variable}
        for stat in OF_QUEUE:
            self._groupless[stat] = partial(resources.value, engine, stat)

    def metric(self, metric: Metric) -> Any:
        """The present value of a metric or variable, None while it has none."""
        if metric.group:
            return self._engine.tally.get(metric)
        return self._groupless[metric.stat](metric.variable)

    def at(self, occasion: Optional[Occasion]) -> Moment:
        """A scope for expressions that also knows the event."""
        return Moment(self, occasion)

    def due(self, rule: RuleState, value: Any) -> Optional[Occasion]:
        """The occasion of a rule whose metric has that value, or that was enabled, None if its condition does not hold."""
        if rule.metric is None:
            occasion = enabling.occasion(rule)
            return occasion if self.holds(rule, occasion) else None
        condition = rule.condition
        if isinstance(condition, Expression):
            if not condition.holds(Moment(self, Occasion("", value=value))):
                return None
        elif condition is not None and not condition.holds(value):
            return None
        return Occasion(told(rule, value), value=value)

    def holds(self, rule: RuleState, occasion: Occasion) -> bool:
        """Does the condition of a rule that is not on a metric hold at that occasion?"""
        if rule.condition is None:
            return True
        moment = Moment(self, occasion)
        holds = rule.condition.holds(moment)
        if rule.events:
            rule.seen = moment.facts
        return holds

    def number(self, action: Action, key: str, occasion: Optional[Occasion]) -> Any:
        """The number behind a numeric key of an action, None where the action has no such key.

        Raises RuleError where an expression has no value, or one that the key does not take.
        """
        written = getattr(action, key)
        if not isinstance(written, str):
            return written
        value = self._engine.book.expression(written).value(self.at(occasion))
        if value is None:
            raise RuleError(f"{action.name}: {key} has no value: {self._why(written, occasion)}")
        try:
            return NUMBERS[action.name][key].check(value)
        except ValueError as exc:
            raise RuleError(f"{action.name}: {key} is {shown(value)} ({written}); {exc}") from None

    def computed(self, text: str, what: str, occasion: Optional[Occasion]) -> Value:
        """The value of an expression. Raises RuleError where it has none; `what` says whose value it is."""
        value = self._engine.book.expression(text).value(self.at(occasion))
        if value is None:
            raise RuleError(f"{what} has no value: {self._why(text, occasion)}")
        return value

    def set(self, name: str, value: Maybe) -> None:
        """Give a variable that value; rules that read it are woken if that changes it."""
        engine = self._engine
        before = engine.variables.get(name)
        engine.variables[name] = value
        if before != value or type(before) is not type(value):
            engine.tally.touch(name, "var")

    def _why(self, text: str, occasion: Optional[Occasion]) -> str:
        """An expression without a value, and the paths in it that have none."""
        scope = self.at(occasion)
        reads = self._engine.book.expression(text).reads
        none = [read.path for read in reads if read.value(scope) is None]
        return f"{text}, where {', '.join(dict.fromkeys(none))} has none" if none else text

    def _variable(self, name: str) -> Any:
        return self._engine.variables.get(name)

    def _of_ensemble(self, name: str) -> Optional[float]:
        engine = self._engine
        if name == "elapsed":
            return None if engine.t_begin is None else engine.t - engine.t_begin
        return sum(engine.unfinished.values()) if name == "active" else engine.sent


class Moment:
    """A scope of expressions: the values of an ensemble, and one event."""

    __slots__ = ("_event", "_occasion", "metric")

    def __init__(self, values: Values, occasion: Optional[Occasion]) -> None:
        self.metric = values.metric
        self._occasion = occasion
        self._event: Optional[Dict[str, Any]] = None

    @property
    def facts(self) -> Dict[str, Any]:
        """All that the event has, as it was when it was first read."""
        if self._event is None:
            self._event = {} if self._occasion is None else self._occasion.event
        return self._event

    def event(self, words: Tuple[str, ...]) -> Any:
        """What the event has there, None where it has nothing."""
        found: Any = self.facts
        for word in words:
            if not isinstance(found, dict):
                return None
            found = found.get(word)
        return found


def told(rule: RuleState, value: Any) -> str:
    """The text of an occasion of a rule on a metric, its path and its value, or of one that was enabled."""
    if rule.metric is None:
        return enabling.occasion(rule).text
    return str(rule.metric) if value is None else f"{rule.metric} = {shown(value)}"


def shown(value: Any) -> str:
    """A value as records and `log` lines have it."""
    value = arithmetic.scalar(value)
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
