# SPDX-License-Identifier: MIT
"""Actions that not every queue can do.

Law of this file: a queue that cannot do what a file asks for is told of before the file runs: as a warning, since the
rest of the file may run all the same, or with `strict: true` as a fault. To grow and shrink a queue needs a scaler: its own,
which it counts among its abilities, or the file's, where it takes one.
"""

from __future__ import annotations

from typing import Collection

from ensemble.spec.faults import Report
from ensemble.spec.models import Spec
from ensemble.spec.reader import Node

#: the ability to take the scaler that a file brings
SCALER = "scaler"
#: what a scaler can do
SCALING = frozenset(("grow", "shrink"))
#: what a queue has to be able to do for the action of that name
ACTIONS = frozenset(("submit", "cancel", "kill", "urgency")) | SCALING
#: what the queues of this release can do; a queue of Flux takes a file's scaler
BUILT_IN = frozenset(("submit", "cancel", "kill", "urgency", SCALER))


def check(spec: Spec, root: Node, report: Report, can: Collection[str]) -> None:
    """Tell which actions of the file a queue with these abilities cannot do. The spec has no faults."""
    able = frozenset(can)
    if spec.scaler is not None and SCALER in able:
        able |= SCALING
    # a scaler is what is missing, or of no use
    hint = "a scaler, in the file or in Flux's configuration" if SCALER in able else None
    rules = root.get("rules")
    for node, rule in zip(rules.items if rules is not None else (), spec.rules):
        actions = node.get("actions")
        for place, action in zip(actions.items if actions is not None else (), rule.actions):
            if action.name in ACTIONS and action.name not in able:
                report.add(
                    place.get("name") or place,
                    f"the queue has no way to {action.name}, so this will be refused whenever the rule fires",
                    value=action.name,
                    expected=hint if action.name in SCALING else None,
                    severity="error" if spec.strict else "warning",
                )
