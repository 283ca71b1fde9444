# SPDX-License-Identifier: MIT
"""Jobs that ended while nobody listened, where their ids are known: they are looked up, and the past of others is not read."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import errno
import json
import time
from typing import Any, Callable, Dict, FrozenSet, List, Set

import pytest

pytestmark = pytest.mark.flux
try:
    import flux  # noqa: F401
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from ensemble.engine.events import InDoubt, JobEvent, Lost, Recovered
from ensemble.members import flux_lookup
from ensemble.members.flux_lookup import Lookup
from t.contract.flux_driver import LIFE, MOCK, FluxDriver, ended


def successor(predecessor: FluxDriver, known: Dict[int, Any], events: FrozenSet[str] = frozenset()) -> Any:
    """A member that takes up those jobs, and the streams that it asked for: were they asked for the whole past?"""
    asked: List[bool] = []

    class Successor(FluxDriver):
        def begin(self) -> None:
            journal = self.member._journal
            plain = journal._request

            def request(names: FrozenSet[str], full: bool) -> int:
                asked.append(full)
                return plain(names, full)

            journal._request = request  # type: ignore[method-assign]
            self.open("e", MOCK, events=events)
            self.member.recover("e", known, [], time.time())
            super().begin()

    return Successor(instance=predecessor.instance), asked


def test_what_ended_meanwhile_is_told_and_what_goes_on_too(driver: FluxDriver) -> None:
    driver.open("e", MOCK)
    keys = [driver.submit("e", "mock") for _ in range(100)]
    waiting = driver.submit("e", "mock", urgency=0)
    driver.wait_for(lambda: ended(driver) == 100)
    held = driver.id(waiting)
    known = {driver.id(key): key for key in keys[:70]}
    driver.member.stop()
    late, asked = successor(driver, {**known, held: waiting})
    late.wait_for(lambda: late.of(Recovered))
    assert asked == [False]
    assert {event.id for event in late.of(JobEvent)} == {*known, held}, "of what is not asked for nothing is told"
    for id in known:
        assert late.names(id) == LIFE
    assert late.names(held) == ["submit"]
    times = [event.t for event in late.of(JobEvent)]
    assert times == sorted(times)
    late.urgency("e", held, 16)
    late.wait_event(held, "clean")
    assert late.names(held) == LIFE
    late.close()


def test_where_one_is_missing_all_of_the_past_is_read(driver: FluxDriver) -> None:
    driver.open("e", MOCK)
    keys = [driver.submit("e", "mock") for _ in range(10)]
    driver.wait_for(lambda: ended(driver) == 10)
    known = {driver.id(key): key for key in keys}
    driver.member.stop()
    nobody = keys[0]._replace(index=77)
    late, asked = successor(driver, {**known, 1 << 40: nobody})
    late.wait_for(lambda: late.of(Recovered))
    assert asked == [False, True]
    assert [event.id for event in late.of(Lost)] == [1 << 40]
    for id in known:
        assert late.names(id) == LIFE, "once each, though it was looked up before"
    late.close()


def test_more_events_than_the_base_need_the_whole_past(driver: FluxDriver) -> None:
    driver.open("e", MOCK, events=["alloc"])
    key = driver.submit("e", "mock")
    driver.wait_for(lambda: ended(driver) == 1)
    driver.member.stop()
    late, asked = successor(driver, {driver.id(key): key}, frozenset(["alloc"]))
    late.wait_for(lambda: late.of(Recovered))
    assert asked == [True, True]
    assert late.names(driver.id(key)) == ["submit", "alloc", "start", "finish", "clean"]
    late.close()


def detained(monkeypatch: Any, id: int) -> Callable[[], None]:
    """Keep a job's last event back from whoever looks it up, until what is returned is called."""
    plain, kept = flux_lookup._message, [True]

    def message(job: Any) -> Any:
        data = plain(job)
        if kept and job.id == id and data is not None:
            data["events"] = [entry for entry in data["events"] if entry["name"] != "clean"]
        return data

    monkeypatch.setattr(flux_lookup, "_message", message)
    monkeypatch.setattr(flux_lookup, "_TIMES", 1_000_000)
    return kept.clear


@pytest.mark.parametrize("how", ["held", "lost"])
def test_a_search_that_is_broken_off_begins_anew(driver: FluxDriver, monkeypatch: Any, how: str) -> None:
    driver.open("e", MOCK)
    keys = [driver.submit("e", "mock") for _ in range(10)]
    waiting = driver.submit("e", "mock", urgency=0)
    driver.wait_for(lambda: ended(driver) == 10)
    held = driver.id(waiting)
    known = {held: waiting, **{driver.id(key): key for key in keys}}
    driver.member.stop()
    let_go = detained(monkeypatch, driver.id(keys[0]))
    late, asked = successor(driver, known)
    journal = late.member._journal
    late.wait_for(lambda: len(journal._there) == 10, "all but the one that is detained")
    if how == "held":
        late.member.hold(True)
    # what the first stream told of as active ends before the second is asked for
    driver.instance.run("flux", "job", "urgency", str(held), "16")
    driver.instance.run("flux", "job", "wait-event", str(held), "clean")
    let_go()
    if how == "held":
        late.member.hold(False)
    else:
        journal._lost(errno.ECONNRESET, "the test said so")
    late.wait_for(lambda: late.of(Recovered))
    assert asked == [False, False]
    for id in known:
        assert late.names(id) == LIFE
    assert late.of((InDoubt, Lost)) == []  # type: ignore[arg-type]
    late.close()


def test_jobs_that_are_purged_while_they_are_looked_up_are_in_doubt(driver: FluxDriver, monkeypatch: Any) -> None:
    """Some were found before, and had ended before the service did: that does not show that none was purged."""
    driver.open("e", MOCK)
    keys = [driver.submit("e", "mock") for _ in range(10)]
    driver.wait_for(lambda: ended(driver) == 10)
    known = {driver.id(key): key for key in keys}
    driver.member.stop()
    detained(monkeypatch, driver.id(keys[0]))
    late, asked = successor(driver, known)
    late.wait_for(lambda: len(late.member._journal._there) == 9, "all but the one that is detained")
    driver.instance.run("flux", "job", "purge", "--force", "--num-limit=0")
    late.wait_for(lambda: late.of(Recovered))
    assert asked == [False, True]
    assert sorted(event.key for event in late.of(InDoubt)) == sorted(keys), "each once"
    assert late.of(Lost) == []
    late.close()


class TestLookup:
    def test_found_and_not_found(self, driver: FluxDriver, monkeypatch: Any) -> None:
        monkeypatch.setattr(flux_lookup, "WINDOW", 3)
        monkeypatch.setattr(flux_lookup, "_TIMES", 3)
        driver.open("e", MOCK)
        keys = [driver.submit("e", "mock") for _ in range(20)]
        held = driver.submit_id("e", "mock", urgency=0)
        driver.wait_for(lambda: ended(driver) == 20)
        ids = {driver.id(key) for key in keys}
        found: List[Dict[str, Any]] = []
        over: List[Set[int]] = []
        lookup = Lookup(driver.handle, driver.member._internal, lambda level, text: pytest.fail(text))
        lookup.begin({*ids, 1 << 40, held}, found.append, over.append)
        driver.wait_for(lambda: over)
        assert over == [{1 << 40, held}], "one that has not ended is not one that ended"
        assert sorted(data["id"] for data in found) == sorted(ids)
        for data in found:
            assert {"submit", "alloc", "clean"} <= {entry["name"] for entry in data["events"]}
            assert data["jobspec"]["attributes"]["user"]["ensemble"]
            assert data["R"]["execution"]

    def test_the_last_event_comes_a_moment_later(self, driver: FluxDriver) -> None:
        driver.open("e", MOCK)
        held = driver.submit_id("e", "mock", urgency=0)
        found: List[Dict[str, Any]] = []
        over: List[Set[int]] = []
        lookup = Lookup(driver.handle, driver.member._internal, lambda level, text: pytest.fail(text))
        lookup.begin({held}, found.append, over.append)
        driver.run_for(0.05)
        driver.urgency("e", held, 16)
        driver.wait_for(lambda: over)
        assert over == [set()]
        assert json.dumps(found[0]["events"]).count('"clean"') == 1

    def test_one_that_cannot_be_taken_in_keeps_neither_the_others_nor_the_end(self, driver: FluxDriver) -> None:
        driver.open("e", MOCK)
        keys = [driver.submit("e", "mock") for _ in range(3)]
        driver.wait_for(lambda: ended(driver) == 3)
        found: List[int] = []
        over: List[Set[int]] = []
        logged: List[str] = []

        def take(data: Dict[str, Any]) -> None:
            found.append(data["id"])
            raise RuntimeError("broken")

        lookup = Lookup(driver.handle, driver.member._internal, lambda level, text: logged.append(text))
        lookup.begin({driver.id(key) for key in keys}, take, over.append)
        driver.wait_for(lambda: over)
        assert over == [set()]
        assert len(found) == len(logged) == 3
        assert "broken" in logged[0]

    def test_given_up(self, driver: FluxDriver) -> None:
        driver.open("e", MOCK)
        key = driver.submit("e", "mock")
        driver.wait_for(lambda: ended(driver) == 1)
        called: List[Any] = []
        lookup = Lookup(driver.handle, driver.member._internal, lambda level, text: pytest.fail(text))
        lookup.begin({driver.id(key), 1 << 40}, called.append, called.append)
        lookup.cancel()
        driver.run_for(0.3)
        assert called == []
