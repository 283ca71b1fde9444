# SPDX-License-Identifier: MIT
"""One ensemble with very much to do holds up no other; a store that is behind holds the queue, not the service."""

from __future__ import annotations

import errno
from collections import deque
from typing import Any, Deque, Dict, List, Tuple

from ensemble.engine.actions import Action, Submit
from ensemble.engine.ending import WINDOW
from ensemble.engine.events import Acknowledged, JobEvent, Key
from ensemble.service.store import MemoryStore
from t.unit.fake_member import CHAIN, THREE, FakeMember, House

MANY = 100_000
BAG = f"""
name: bag
jobs: [{{name: a, command: x, count: {MANY}}}]
rules: [{{trigger: start, action: {{name: submit, label: a}}}}]
"""


class Counting(MemoryStore):
    """Notes how much each commit held."""

    def __init__(self) -> None:
        super().__init__()
        self.intents: List[int] = []

    def commit(self, id: str, commit: Any, done: Any) -> None:
        self.intents.append(len(commit.intents))
        super().commit(id, commit, done)


class Batching(FakeMember):
    """A queue that takes submissions in the order in which they came, so many in one turn, as Flux does."""

    BATCH = 100

    def __init__(self) -> None:
        super().__init__()
        self.waiting: Deque[Tuple[str, Key]] = deque()
        self.turns = 0
        self.most = 0

    def perform(self, ensemble: str, action: Action) -> None:
        assert isinstance(action, Submit)
        self.waiting.append((ensemble, action.key))
        self.most = max(self.most, len(self.waiting))

    def turn(self) -> List[Tuple[str, int]]:
        """Take one batch; the jobs that came of it."""
        self.turns += 1
        taken = [self.waiting.popleft() for _ in range(min(self.BATCH, len(self.waiting)))]
        jobs = []
        for ensemble, key in taken:
            self._id += 1
            jobs.append((ensemble, self._id))
            self.tell(ensemble, JobEvent(self.t, self._id, "submit", {}, key))
            self.tell(ensemble, Acknowledged(self.t, key, self._id))
        return jobs


class Busy(House):
    """A service whose queue takes batches."""

    def __init__(self) -> None:
        self.counting = Counting()
        super().__init__(self.counting)

    def use(self, member: Batching) -> None:
        self.member = member
        self.service._member = member
        member.start(self.service.deliver)


def test_100000_submissions_hold_up_another_ensemble_by_a_few_batches() -> None:
    house = Busy()
    member = Batching()
    house.use(member)
    house.submit(BAG)
    for _ in range(20):
        member.turn()
    assert member.most <= WINDOW, "of what it has to submit only a window lies in the queue"
    assert max(house.counting.intents) <= WINDOW, "and what one event costs is bounded so"
    other = house.submit(CHAIN)
    waits = []
    begun = member.turns
    while len(waits) < 10:
        jobs = [job for ensemble, job in member.turn() if ensemble == other]
        if jobs:
            waits.append(member.turns - begun)
            begun = member.turns
            # its end makes the next submission of that chain
            member.run(other, jobs[0], seconds=0.0)
    assert max(waits) <= WINDOW // member.BATCH + 2, waits
    assert len(member.waiting) <= WINDOW + 1


def test_a_store_that_is_behind_holds_the_queue_and_refuses_what_acts() -> None:
    house = House()
    id = house.submit(THREE)
    told: List[bool] = []
    house.member.hold = told.append  # type: ignore[method-assign]
    house.store.pressure(True)
    assert told == [True]
    requests: Dict[str, Any] = {
        "submit": {"text": THREE, "submitter": {}},
        "cancel": {"id": id},
        "pause": {"id": id},
        "resume": {"id": id},
        "purge": {},
    }
    for endpoint, payload in requests.items():
        number, text = house.ask(endpoint, payload).refusal
        assert number == errno.EAGAIN, endpoint
        assert "behind with its writing" in text
    for endpoint in ("status", "jobs", "log"):
        assert house.ask(endpoint, {"id": id}).answer
    assert house.watch(id).sent
    house.store.pressure(False)
    assert told == [True, False]
    assert house.ask("pause", {"id": id}).answer
    assert ["behind" in text or "caught up" in text for _, text in house.logged] == [True, True]
