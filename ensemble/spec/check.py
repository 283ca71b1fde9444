# SPDX-License-Identifier: MIT
"""What needs two places of a file at once: labels, names, metric paths, conditions, keys of an action."""

from __future__ import annotations

from ensemble.spec import metrics
from ensemble.spec.faults import Report
from ensemble.spec.models import Spec
from ensemble.spec.reader import Node

#: seconds, where a file needs heartbeats and sets no period
HEARTBEAT = 60.0


def heartbeat_period(spec: Spec) -> float:
    """Seconds between two heartbeats of the ensemble; 0 where it has none."""
    if spec.logging.heartbeat > 0:
        return spec.logging.heartbeat
    for rule in spec.rules:
        if rule.trigger == "heartbeat" and not rule.every:
            return HEARTBEAT
        if rule.trigger == "metric" and rule.name is not None:
            variable = metrics.parse(rule.name, spec.groups).variable
            if variable in ("waiting", metrics.LEGACY_PENDING):
                return HEARTBEAT
    return 0.0


def check(root: Node, report: Report) -> None:
    """Tell every fault between places."""


def settle(spec: Spec, root: Node, report: Report) -> Spec:
    return spec
