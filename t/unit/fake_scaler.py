# SPDX-License-Identifier: MIT
"""A scaler without nodes: writes down what is ordered, and answers when a test says so."""

from __future__ import annotations

from typing import Any, List, Optional

from ensemble.members.scaler import Order, Scaler, Sized


class FakeScaler(Scaler):
    """Answers when a test says so."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.orders: List[Order] = []
        self.done: Optional[Sized] = None
        self.stopped = False

    def size(self, then: Sized) -> None:
        queue = self.queue
        queue.call_at(
            queue.t, lambda: then(queue.size, "" if queue.size is not None else "the nodes cannot be counted")
        )

    def resize(self, order: Order, done: Sized) -> None:
        self.orders.append(order)
        self.done = done

    def stop(self) -> None:
        self.stopped = True
