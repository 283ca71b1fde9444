# SPDX-License-Identifier: MIT
"""What the jobs of the simulated queue have had of its nodes: how much, for how long, and the most at a time.

Law of this file: sums over virtual time. `account` is called before anything of the nodes changes, so that what lies
behind is counted as it was.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

from ensemble.members.simulated_nodes import Nodes


class Usage:
    """Adds up, from a time on."""

    def __init__(self, nodes: Nodes, start: float) -> None:
        self._nodes = nodes
        #: seconds times cores, and times nodes, that jobs have had so far, by the time of `_counted`
        self._core_seconds = 0.0
        self._node_seconds = 0.0
        #: the same of those that were up
        self._cores_up = 0.0
        self._nodes_up = 0.0
        self._counted = start
        #: most jobs that have been running at a time, and most nodes and cores in use
        self.most_running = 0
        self.most_nodes = 0
        self.most_cores = 0
        #: group -> when the first of its jobs started, and the last of them that ran ended
        self.spans: Dict[str, List[float]] = {}

    def account(self, now: float) -> None:
        """Add up what is in use since the last change of it; to be called before nodes come or go."""
        passed = now - self._counted
        if passed > 0:
            nodes = self._nodes
            self._counted = now
            self._node_seconds += passed * nodes.busy
            self._core_seconds += passed * nodes.used_cores
            # those of a node that is lost are counted as idle ones
            self._nodes_up += passed * (len(nodes.sizes) - len(nodes.closed))
            self._cores_up += passed * (nodes.cores - nodes.cores_closed)

    def begun(self, group: str, now: float, running: int) -> None:
        """A job of the group has its nodes, and so many run now."""
        self.most_running = max(self.most_running, running)
        self.most_nodes = max(self.most_nodes, self._nodes.busy)
        self.most_cores = max(self.most_cores, self._nodes.used_cores)
        if group not in self.spans:
            self.spans[group] = [now, now]

    def ended(self, group: str, now: float) -> None:
        """A job of the group that had nodes has ended."""
        self.spans[group][1] = now

    def used(self, now: float) -> Tuple[float, float]:
        """Seconds times nodes, and seconds times cores, that jobs have had so far."""
        self.account(now)
        return self._node_seconds, self._core_seconds

    def had(self, now: float) -> Tuple[float, float]:
        """Seconds times nodes, and seconds times cores, that were up so far."""
        self.account(now)
        return self._nodes_up, self._cores_up
