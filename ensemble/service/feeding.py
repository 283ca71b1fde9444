# SPDX-License-Identifier: MIT
"""Which rules feed each other: what was seen of it while an ensemble ran.

Law of this file: what is remembered grows with rules and groups, not with firings. A rule feeds another one where the
other has fired on what came of the first: an event of a job that it submitted, a signal that it sent, a variable that it
set. A loop is a way along this that comes back.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple


class Cause(NamedTuple):
    """What an event came of."""

    #: the rule that did it
    rule: str
    #: the group of the job that the event is about; '' where it is about none
    group: str


class Feeding:
    """Who has fed whom, and how often."""

    def __init__(self) -> None:
        #: rule -> (group, fed rule) -> times
        self._edges: Dict[str, Dict[Tuple[str, str], int]] = {}

    def fired(self, rule: str, causes: Iterable[Cause]) -> None:
        """That rule has fired on what came of these."""
        for cause in causes:
            edges = self._edges.setdefault(cause.rule, {})
            edge = (cause.group, rule)
            edges[edge] = edges.get(edge, 0) + 1

    def loops(self) -> List[Dict[str, Any]]:
        """The loops, each once, those of the most turns first: `rules` and `groups` in order, `times`, `text`.

        `groups[n]` is the group through which `rules[n]` feeds the next one, '' where no jobs are between.
        """
        found: Dict[Tuple[str, ...], Dict[str, Any]] = {}
        for rule in self._edges:
            steps = self._back(rule)
            if steps is not None:
                rules = [step[0] for step in steps]
                first = rules.index(min(rules))
                name = tuple(rules[first:] + rules[:first])
                if name not in found:
                    steps = steps[first:] + steps[:first]
                    found[name] = _told(steps)
        return sorted(found.values(), key=lambda loop: (-loop["times"], loop["rules"]))

    def _back(self, rule: str) -> Optional[List[Tuple[str, str, int]]]:
        """The shortest way from the rule back to itself: rule, group and times of each step. None where there is none."""
        came: Dict[str, Tuple[str, str, int]] = {}
        todo = deque([rule])
        while todo:
            at = todo.popleft()
            best: Dict[str, Tuple[str, int]] = {}
            for (group, to), times in self._edges.get(at, {}).items():
                if to not in best or times > best[to][1]:
                    best[to] = (group, times)
            for to, (group, times) in best.items():
                if to == rule:
                    steps = [(at, group, times)]
                    while at != rule:
                        steps.insert(0, came[at])
                        at = came[at][0]
                    return steps
                if to not in came:
                    came[to] = (at, group, times)
                    todo.append(to)
        return None


def _told(steps: List[Tuple[str, str, int]]) -> Dict[str, Any]:
    rules, groups = [step[0] for step in steps], [step[1] for step in steps]
    times = min(step[2] for step in steps)
    parts = []
    for rule, group in zip(rules, groups):
        parts.append(f"'{rule}' -> {'jobs of ' + group if group else 'signal or variable'}")
    text = " -> ".join([*parts, f"'{rules[0]}'"])
    return {"rules": rules, "groups": groups, "times": times, "text": text}
