# SPDX-License-Identifier: MIT
"""Where the sizes that ensembles want of one queue meet: who wins, who waits, and for how long."""

from __future__ import annotations

import syslog
from typing import Any, Dict, List, Optional, Tuple

import pytest

from ensemble.engine.actions import Cause, Resize, Size
from ensemble.engine.engine import Engine
from ensemble.engine.events import Event
from ensemble.members.base import Submitter
from ensemble.service.scaling import Scaling
from ensemble.spec.load import load
from ensemble.spec.scaler import Scaler as Table
from ensemble.spec.scaler import site
from t.unit.fake_member import FakeMember
from t.unit.fake_scaler import FakeScaler

FILE = """
scaler: {name: drain%s}
jobs: [{name: a, command: x}]
rules: [{trigger: start, action: {name: log, value: x}}]
"""
CAUSE = Cause("r", 1, "the test said so")


class Queue(FakeMember):
    capabilities = FakeMember.capabilities | {"scaler"}

    def __init__(self) -> None:
        super().__init__()
        self.size: Optional[int] = 4
        self.scalers: List[FakeScaler] = []

    def scaler(self, table: Table, submitter: Optional[Submitter]) -> FakeScaler:
        self.scalers.append(FakeScaler(self))
        return self.scalers[-1]


class House:
    def __init__(self, start: bool = True) -> None:
        self.queue = Queue()
        self.told: List[Tuple[str, str, Dict[str, Any]]] = []
        self.engines: Dict[str, Engine] = {}
        self.lines: List[Tuple[int, str]] = []
        self.scaling = Scaling(self.queue, self._feed, lambda *line: self.lines.append(line), lambda: self.queue.t)
        if start:
            self.scaling.start()

    def _feed(self, id: str, event: Event) -> None:
        self.told.append((id, event.name, event.data))  # type: ignore[union-attr]

    def add(self, id: str, more: str = "") -> Engine:
        text = FILE % f", {more}" if more else FILE % ""
        self.engines[id] = Engine(load(text, "f.yaml").spec, id)
        return self.engines[id]

    def ask(self, id: str, by: int, held: Optional[int] = None) -> Tuple[str, Dict[str, Any]]:
        self.scaling.ask(self.engines[id], Submitter(), Resize(7, by, held, CAUSE))
        self.queue.advance(0.0)
        name, data = self.told.pop()[1:]
        assert data.pop("number") == 7
        return name, data

    def want(self, id: str, wanted: int, action: str = "grow") -> None:
        self.scaling.want(self.engines[id], Submitter(), Size(wanted, action, CAUSE))
        self.queue.advance(0.0)

    @property
    def orders(self) -> List[Tuple[str, int]]:
        return [(order.action, order.wanted) for scaler in self.queue.scalers for order in scaler.orders]

    def done(self, size: Optional[int], error: str = "") -> None:
        done = self.queue.scalers[-1].done
        assert done is not None
        self.queue.size = size
        done(size, error)

    def take(self) -> List[Tuple[str, str, Dict[str, Any]]]:
        told, self.told = self.told, []
        return told


@pytest.fixture
def house() -> House:
    made = House()
    for id in "abc":
        made.add(id)
    return made


@pytest.mark.parametrize(
    ("by", "held", "answer"),
    [
        (2, None, ("wanted", {"size": 4, "wanted": 6})),
        (2, 6, ("wanted", {"size": 4, "wanted": 8})),
        (2, 3, ("wanted", {"size": 4, "wanted": 6})),
        (-1, None, ("wanted", {"size": 4, "wanted": 3})),
        (-1, 3, ("wanted", {"size": 4, "wanted": 2})),
        (-9, None, ("wanted", {"size": 4, "wanted": 2, "reason": "there may be no fewer than 2 nodes"})),
        (9, None, ("wanted", {"size": 4, "wanted": 8, "reason": "there may be no more than 8 nodes"})),
        # there were so many: those that went since are asked for again
        (1, 8, ("wanted", {"size": 4, "wanted": 8, "reason": "there may be no more than 8 nodes"})),
        (-1, 2, ("refused", {"size": 4, "reason": "there may be no fewer than 2 nodes"})),
    ],
)
def test_from_a_number_of_nodes_to_a_size(by: int, held: Optional[int], answer: Any) -> None:
    house = House()
    house.add("a", "min: 2, max: 8")
    assert house.ask("a", by, held) == answer


def test_a_queue_that_cannot_have_more(house: House) -> None:
    reason = "this queue can have no more than 6 nodes"
    house.ask("a", 1)
    house.queue.scalers[-1].most = 6
    assert house.ask("a", 9) == ("wanted", {"size": 4, "wanted": 6, "reason": reason})
    assert house.ask("a", 2) == ("wanted", {"size": 4, "wanted": 6})
    house.want("a", 6)
    assert house.ask("a", 1, 6) == ("refused", {"size": 4, "reason": reason}), "these are on their way"
    house.queue.size = 6
    assert house.ask("a", 1) == ("refused", {"size": 6, "reason": reason})


def test_what_cannot_be_done_is_refused(house: House) -> None:
    house.queue.size = None
    assert house.ask("a", 1) == ("refused", {"reason": "the nodes cannot be counted"})
    house.queue.capabilities = FakeMember.capabilities
    assert house.ask("a", 1) == ("refused", {"reason": "the queue 'fake' has no way to grow, so nothing was done"})
    house.want("a", 5)
    assert house.take() == [
        ("a", "fail", {"wanted": 5, "reason": "the queue 'fake' has no way to grow, so nothing was done"})
    ]


def test_the_largest_size_wins(house: House) -> None:
    house.want("a", 6)
    house.want("b", 5)
    assert house.orders == [("grow", 6)], "what b wants is on its way already"
    house.want("c", 9)
    assert house.orders == [("grow", 6), ("grow", 9)]
    house.done(9)
    assert house.take() == [(id, "finish", {"wanted": n, "size": 9}) for id, n in (("a", 6), ("b", 5), ("c", 9))]


def test_a_grow_whose_nodes_are_up_is_over_when_something_else_is_asked_for(house: House) -> None:
    house.want("a", 6)
    house.queue.size = 5
    assert house.ask("a", -1, 6) == ("wanted", {"size": 5, "wanted": 5})
    assert house.take() == [], "one is still to come"
    house.want("a", 6)
    house.queue.size = 6
    assert house.ask("a", -1, 6) == ("wanted", {"size": 6, "wanted": 5})
    assert house.take() == [("a", "finish", {"wanted": 6, "size": 6})]


def test_it_shrinks_only_when_nobody_objects(house: House) -> None:
    house.want("a", 8)
    house.want("b", 6)
    house.done(8)
    house.take()
    house.want("b", 3, "shrink")
    assert house.orders == [("grow", 8)]
    assert house.take() == [("b", "waits", {"wanted": 3, "reason": "ensemble a wants 8 nodes"})]
    house.want("a", 5, "shrink")
    assert house.orders[1:] == [("shrink", 5)]
    house.done(5)
    assert house.take() == [("a", "finish", {"wanted": 5, "size": 5})]
    assert house.orders[2:] == []
    house.scaling.release("a")
    assert house.orders[2:] == [("shrink", 3)]
    house.done(3)
    assert house.take() == [("b", "finish", {"wanted": 3, "size": 3})]


def test_whoever_has_only_grown_loses_nothing_when_others_end(house: House) -> None:
    house.want("a", 8)
    house.want("b", 6)
    house.done(8)
    house.scaling.release("a")
    house.scaling.release("b")
    assert house.orders == [("grow", 8)]


def test_a_shrink_that_was_begun_goes_on_without_its_ensemble(house: House) -> None:
    house.want("a", 2, "shrink")
    house.scaling.release("a")
    assert not house.queue.scalers[0].stopped
    house.done(2)
    assert house.orders == [("shrink", 2)]
    assert house.take() == []


def test_a_grow_takes_the_place_of_a_shrink_that_is_not_over(house: House) -> None:
    house.want("a", 2, "shrink")
    house.want("b", 6)
    assert house.orders == [("shrink", 2), ("grow", 6)]
    assert house.take() == [("a", "waits", {"wanted": 2, "reason": "ensemble b wants 6 nodes"})]
    house.done(6)
    house.scaling.release("b")
    assert house.orders[2:] == [("shrink", 2)]


def test_a_failed_grow_leaves_what_there_is(house: House) -> None:
    house.want("a", 6)
    house.want("b", 9)
    house.done(7, "after 9 s not all of the nodes are up")
    assert house.take() == [
        ("a", "finish", {"wanted": 6, "size": 7}),
        ("b", "fail", {"wanted": 9, "size": 7, "reason": "after 9 s not all of the nodes are up"}),
    ]
    assert house.lines[-1] == (
        syslog.LOG_WARNING, "grow to 9 nodes has failed: after 9 s not all of the nodes are up"
    )  # fmt: skip
    house.want("a", 5, "shrink")
    assert house.take() == [("a", "waits", {"wanted": 5, "reason": "ensemble b wants 7 nodes"})]


def test_an_owner_that_gives_less_is_told(house: House) -> None:
    house.want("a", 9)
    house.done(6)
    assert house.take() == [("a", "finish", {"wanted": 9, "size": 6, "reached": 6})]
    house.want("b", 2, "shrink")
    assert house.take() == [("b", "waits", {"wanted": 2, "reason": "ensemble a wants 6 nodes"})]


def test_between_two_changes_lies_the_cooldown() -> None:
    house = House()
    house.add("a", "cooldown: 60s, timeout: 5s, force: true, max: 20")
    house.want("a", 5)
    order = house.queue.scalers[0].orders[0]
    assert (order.ensemble, order.min, order.max, order.timeout, order.force) == ("a", 1, 20, 5.0, True)
    house.done(5)
    house.queue.advance(10.0)
    house.want("a", 6)
    house.queue.advance(49.0)
    assert house.orders == [("grow", 5)]
    house.want("a", 8)
    house.queue.advance(1.0)
    assert house.orders == [("grow", 5), ("grow", 8)], "what was asked for last"
    house.want("a", 9)
    assert house.orders[2:] == [("grow", 9)], "one that is on its way may become another"


def test_a_queue_has_one_scaler_at_a_time(house: House) -> None:
    house.engines["d"] = Engine(load(FILE.replace("drain", "cloud") % "", "f.yaml", can=None).spec, "d")
    house.want("a", 6)
    assert house.ask("d", 1) == (
        "refused",
        {"reason": "this queue is being scaled by 'drain', for ensemble a: one scaler at a time"},
    )
    house.scaling.release("a")
    assert house.ask("d", 1)[0] == "refused", "its last change is not over"
    house.done(6)
    assert house.ask("d", 1) == ("wanted", {"size": 6, "wanted": 7})
    assert [scaler.stopped for scaler in house.queue.scalers] == [True, False]


def test_the_scaler_of_the_site_is_everybodys(house: House) -> None:
    house.queue.site = site({"name": "cloud", "max": 5, "fixed": True})
    assert house.ask("a", 3) == ("wanted", {"size": 4, "wanted": 5, "reason": "there may be no more than 5 nodes"})
    house.queue.capabilities = FakeMember.capabilities | {"grow", "shrink"}
    house.queue.site = site({"name": "cloud"})
    text = "\n".join(line for line in (FILE % "").splitlines() if "scaler" not in line)
    house.engines["n"] = Engine(load(text, "f.yaml").spec, "n")
    assert house.ask("n", 3) == ("wanted", {"size": 4, "wanted": 7})


def test_after_a_restart_nothing_begins_before_all_are_known() -> None:
    house = House(start=False)
    for id, wanted, change in (("a", 3, "shrink"), ("b", 8, None), ("c", None, None)):
        state = house.add(id).scaling
        state["wanted"] = wanted
        if change:
            state["open"] = {"action": change, "wanted": wanted, "rule": "r", "firing": 1}
    house.engines["c"].scaling["asked"] = {"7": ["grow", 2, "r", 1]}
    for id in "abc":
        house.scaling.take_up(house.engines[id], Submitter())
    house.queue.advance(0.0)
    assert house.orders == []
    assert house.take() == [("c", "wanted", {"number": 7, "size": 4, "wanted": 6})], "it is asked again"
    house.scaling.start()
    house.queue.advance(0.0)
    assert house.orders == []
    assert house.take() == [("a", "waits", {"wanted": 3, "reason": "ensemble b wants 8 nodes"})]
    house.scaling.release("b")
    assert house.orders == [("shrink", 3)]


def test_one_that_grew_before_the_restart_goes_on() -> None:
    house = House(start=False)
    house.add("a").scaling.update(wanted=9, open={"action": "grow", "wanted": 9, "rule": "r", "firing": 1})
    house.scaling.take_up(house.engines["a"], Submitter())
    house.scaling.start()
    assert house.orders == [("grow", 9)]
    house.done(9)
    assert house.take() == [("a", "finish", {"wanted": 9, "size": 9})]


def test_an_instance_that_goes_down_is_left_as_it_is(house: House) -> None:
    house.want("a", 9)
    house.scaling.freeze()
    assert house.queue.scalers[0].stopped
    house.done(2, "the brokers go")
    house.want("b", 9)
    assert [name for _, name, _ in house.take()] == ["fail"]
    assert house.orders == [("grow", 9)]


def test_a_cooldown_goes_on_after_a_restart() -> None:
    """The last change may be that of an ensemble that runs on, or of one that has ended."""
    for ended in (False, True):
        house = House(start=False)
        engine = house.add("a", "cooldown: 60s")
        engine.scaling.update(wanted=4, t_done=house.queue.t - (50.0 if ended else 10.0))
        if ended:
            last: Any = {"scaling": {"t_done": house.queue.t - 10.0}}
            house.scaling.recall(last)
            house.scaling.recall({"scaling": None})
        house.scaling.take_up(engine, Submitter())
        house.scaling.start()
        house.want("a", 5)
        house.queue.advance(49.0)
        assert house.orders == []
        house.queue.advance(1.0)
        assert house.orders == [("grow", 5)]


def test_a_cooldown_lasts_no_longer_where_the_clock_was_set_back() -> None:
    house = House(start=False)
    engine = house.add("a", "cooldown: 60s")
    engine.scaling.update(t_done=house.queue.t + 86400.0)
    house.scaling.take_up(engine, Submitter())
    house.scaling.start()
    house.want("a", 5)
    house.queue.advance(60.0)
    assert house.orders == [("grow", 5)]


def test_what_status_tells_of_the_size() -> None:
    house = House()
    engine = house.add("a", "cooldown: 60s, min: 2, max: 9")
    house.add("b")
    begin = {"scaler": "drain", "min": 2, "max": 9, "cooldown": 60.0, "wanted": None, "size": None, "change": None,
             "cooling_until": None, "t_done": None, "failed": None}  # fmt: skip
    assert house.scaling.told(engine) == begin
    engine.scaling.update(wanted=5, size=4, open={"action": "grow", "wanted": 5, "rule": "r", "firing": 1})

    def change() -> Any:
        told = house.scaling.told(engine)
        assert told is not None
        return told["change"], told["cooling_until"]

    house.want("a", 5)
    grow = {"action": "grow", "wanted": 5, "waits": None}
    assert change() == (grow, None)
    house.done(5)
    assert change()[1] == house.queue.t + 60.0
    house.want("a", 6)
    assert change()[0]["waits"] == "cooldown"
    house.queue.advance(61.0)
    assert change() == (grow, None)
    house.done(6)
    house.queue.advance(61.0)
    house.want("b", 7)
    house.done(7)
    house.queue.advance(61.0)
    engine.scaling["open"] = {"action": "shrink", "wanted": 3, "rule": "r", "firing": 2}
    house.want("a", 3, "shrink")
    assert change() == ({"action": "shrink", "wanted": 3, "waits": "ensemble"}, None)
    house.want("b", 8)
    assert change()[0]["waits"] == "ensemble", "while that one grows, too"
    plain = Engine(load((FILE % "").replace("scaler: {name: drain}\n", ""), "f.yaml").spec, "p")
    assert house.scaling.told(plain) is None
    plain.scaling.update(number=1)
    assert house.scaling.told(plain) == {**begin, **dict.fromkeys(("scaler", "min", "max", "cooldown"))}
