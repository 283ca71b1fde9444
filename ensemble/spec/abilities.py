# SPDX-License-Identifier: MIT
"""Actions that not every queue can do.

Law of this file: a queue that cannot do what a file asks for is told of before the file runs: as a warning, since the
rest of the file may run all the same, or with `strict: true` as a fault.
"""

from __future__ import annotations

from typing import Collection

from ensemble.spec.faults import Report
from ensemble.spec.models import Spec
from ensemble.spec.reader import Node

#: what a queue has to be able to do for the action of that name
ACTIONS = frozenset(("submit", "cancel", "kill", "urgency", "grow", "shrink"))
#: what the queues of this release can do
BUILT_IN = frozenset(("submit", "cancel", "kill", "urgency"))


def check(spec: Spec, root: Node, report: Report, can: Collection[str]) -> None:
    """Tell which actions of the file a queue with these abilities cannot do. The spec has no faults."""
    rules = root.get("rules")
    for node, rule in zip(rules.items if rules is not None else (), spec.rules):
        actions = node.get("actions")
        for place, action in zip(actions.items if actions is not None else (), rule.actions):
            if action.name in ACTIONS and action.name not in can:
                report.add(
                    place.get("name") or place,
                    f"the queue has no way to {action.name}, so this will be refused whenever the rule fires",
                    value=action.name,
                    severity="error" if spec.strict else "warning",
                )
