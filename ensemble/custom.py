# SPDX-License-Identifier: MIT
"""What custom functions work with: `Action` and `Rule` to answer, `Metrics` to read.

Law of this file: standard library only, since it is loaded in the workers of functions, beside whatever the user brings.
Nothing is checked here but what could not be sent: an answer is read as the ensemble's file was, by the service. In
source that stands in a file or beside it `Action` and `Rule` are there already; a module imports them:

    from ensemble.custom import Action, Rule
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Mapping, Optional, Union


class Action:
    """An action as a file has it: `Action("submit", label="echo")`, or of a mapping, `Action({"name": "submit", ...})`."""

    def __init__(self, action: Union[str, Mapping[str, Any]], **keys: Any) -> None:
        self.keys: Dict[str, Any] = {**_mapping(action, "name"), **keys}

    @property
    def name(self) -> Any:
        return self.keys.get("name")

    @property
    def label(self) -> Any:
        return self.keys.get("label")

    def value(self, default: Any = 1) -> Any:
        """Its `value`, or the default."""
        return self.keys.get("value", default)

    def __getattr__(self, name: str) -> Any:
        return _key(self, name)

    def __repr__(self) -> str:
        return f"Action({self.keys})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Action) and self.keys == other.keys

    __hash__ = None  # type: ignore[assignment]

    def plain(self) -> Dict[str, Any]:
        """As a file has it."""
        return dict(self.keys)


class Rule:
    """A rule as a file has it: `Rule("start", action=Action(...))`, or of a mapping. It joins those of the file.

    Without an `id` it gets one made of those of the rule and firing that the function was called for.
    """

    def __init__(self, rule: Union[str, Mapping[str, Any]], **keys: Any) -> None:
        self.keys: Dict[str, Any] = {**_mapping(rule, "trigger"), **keys}

    @property
    def trigger(self) -> Any:
        return self.keys.get("trigger")

    @property
    def name(self) -> Any:
        """Its name, or the trigger where it has none."""
        return self.keys.get("name") or self.trigger

    @property
    def actions(self) -> List[Action]:
        given = self.keys.get("actions") or ([self.keys["action"]] if "action" in self.keys else [])
        return [one if isinstance(one, Action) else Action(one) for one in given]

    @property
    def action(self) -> Optional[Action]:
        """The first of its actions."""
        return self.actions[0] if self.actions else None

    def __getattr__(self, name: str) -> Any:
        return _key(self, name)

    def __repr__(self) -> str:
        return f"Rule({self.plain()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self.plain() == other.plain()

    __hash__ = None  # type: ignore[assignment]

    def plain(self) -> Dict[str, Any]:
        """As a file has it."""
        keys = dict(self.keys)
        for key in ("action", "actions"):
            given = keys.get(key)
            if isinstance(given, Action):
                keys[key] = given.plain()
            elif isinstance(given, (list, tuple)):
                keys[key] = [one.plain() if isinstance(one, Action) else one for one in given]
        return keys


def _mapping(given: Union[str, Mapping[str, Any]], first: str) -> Dict[str, Any]:
    if isinstance(given, str):
        return {first: given}
    if isinstance(given, Mapping):
        return dict(given)
    raise TypeError(f"expected a {first} or a mapping, not {given!r}")


def _key(described: Any, name: str) -> Any:
    """A key that was not given is None; what begins with _ is no key."""
    if name.startswith("_"):
        raise AttributeError(name)
    return vars(described)["keys"].get(name)


class Value:
    """A statistic at the moment of the call."""

    __slots__ = ("_value",)

    def __init__(self, value: Optional[float]) -> None:
        self._value = value

    def get(self) -> Optional[float]:
        """The value, None where it has none."""
        return self._value

    def __repr__(self) -> str:
        return f"Value({self._value!r})"


_STATES = ("success", "failed", "finished")
#: statistics that are there for functions; others only where a rule reads them
_KEPT = ("n", "last", "sum", "mean", "variance", "std", "sem", "min", "max", "iqr", "mad", "median")
_MORE = re.compile(r"ewm|p\d\d")


class Metrics:
    """The metrics of an ensemble at the moment of the call.

    `get("mean.work.duration")` takes any path of the language. `models[STAT][KEY].get()` are the same by statistic: for
    `count` KEY is a group, with its states one level below; else it is GROUP-VARIABLE. What has no data is not in there.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._counts: Dict[str, Dict[str, int]] = data["counts"]
        self._ensemble: Dict[str, Any] = data["ensemble"]
        self._variables: Dict[str, Any] = data.get("variables") or {}
        self._statistics = {(group, state, name): stats for group, state, name, stats in data["statistics"]}
        self.models: Dict[str, Dict[str, Any]] = {"count": {}}
        for group, states in self._counts.items():
            if any(states.values()):
                self.models["count"][group] = {state: Value(number) for state, number in states.items()}
        for group, name, stats in self._plainly():
            for stat, value in stats.items():
                self.models.setdefault(stat, {})[f"{group}-{name}"] = Value(value)
                if stat == "n":
                    self.models["count"][f"{group}-{name}"] = Value(value)
        for stat in ("variance", "mean", "iqr", "max", "min", "mad"):
            self.models.setdefault(stat, {})

    def _plainly(self) -> Iterator[Any]:
        """Group, variable and statistics of those that `models` has: of successes, where they have a state."""
        for (group, state, name), stats in self._statistics.items():
            if name == "-pending":
                yield group, "pending", stats
                continue
            alone = not state and (group, "success", name) not in self._statistics
            if alone or (state == "success" and name != "pending"):
                yield group, name, stats

    def get(self, path: str) -> Optional[float]:
        """The value of a metric, None where it has none. Raises KeyError for a path that names nothing that is kept."""
        parts = path.split(".")
        if parts[0] == "ensemble" and len(parts) == 2 and parts[1] in self._ensemble:
            return _number(self._ensemble[parts[1]])
        if parts[0] == "var" and len(parts) == 2 and parts[1] in self._variables:
            return _number(self._variables[parts[1]])
        if parts[0] == "count" and len(parts) == 3 and parts[2] in self._counts.get(parts[1], ()):
            return self._counts[parts[1]][parts[2]]
        if parts[0] not in _KEPT and not _MORE.fullmatch(parts[0]):
            raise KeyError(f"no metric is called '{path}'")
        if len(parts) == 2:
            for group in self._counts:
                if parts[1] == f"{group}-duration":
                    return self._statistic(path, parts[0], (group, "success", "duration"))
                if parts[1] == f"{group}-pending":
                    return self._statistic(path, parts[0], (group, "", "-pending"))
        if len(parts) in (3, 4) and parts[1] in self._counts and (len(parts) == 3 or parts[2] in _STATES):
            where = (parts[1], parts[2] if len(parts) == 4 else "", parts[-1])
            if len(parts) == 3 and parts[-1] in ("duration", "pending"):
                where = (parts[1], "success", parts[-1])
            return self._statistic(path, parts[0], where)
        raise KeyError(f"no metric is called '{path}'")

    def _statistic(self, path: str, stat: str, where: Any) -> Optional[float]:
        stats = self._statistics.get(where)
        if stats is None:
            return 0 if stat == "n" else None
        if stat not in stats and stat not in _KEPT:
            raise KeyError(f"'{path}' is not kept: a rule of the file on that metric makes the ensemble keep it")
        return _number(stats.get(stat))


def _number(value: Any) -> Optional[float]:
    return value  # type: ignore[no-any-return]
