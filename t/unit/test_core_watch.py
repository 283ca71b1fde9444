# SPDX-License-Identifier: MIT
"""Watching: stored records, then live ones, each once and in order, to the end of the stream."""

from __future__ import annotations

import errno
from typing import Any, List

import pytest

from ensemble.service import endpoints, watchers
from ensemble.service.protocol import KEEPALIVE, WATCH_MESSAGES, WATCH_RECORDS
from t.unit.fake_member import CHAIN, THREE, FakeReply, House


@pytest.fixture
def house() -> House:
    return House()


def seqs(reply: FakeReply) -> List[int]:
    return [r["seq"] for r in reply.records]


def all_records(house: House, id: str) -> List[Any]:
    return list(house.ask("log", {"id": id, "max": 10_000}).answer["records"])


def finish(house: House, id: str, jobs: int = 3) -> None:
    for n in range(jobs):
        house.member.run(id, house.member.submit(id, n))


def test_stored_then_live_then_the_end(house: House) -> None:
    id = house.submit(THREE)
    job = house.member.submit(id)
    reply = house.watch(id)
    assert reply.records == all_records(house, id), "what is stored comes at once"
    house.member.run(id, job)
    house.member.advance(1)
    assert reply.records == all_records(house, id)
    assert not reply.ended
    for n in (1, 2):
        house.member.run(id, house.member.submit(id, n))
    assert reply.ended
    assert reply.records == all_records(house, id)
    assert seqs(reply) == list(range(1, len(reply.records) + 1))
    assert reply.records[-1]["type"] == "state"
    assert reply.records[-1]["state"] == "complete"


@pytest.mark.parametrize("since", [0, 1, 3, 5, 1000])
def test_since(house: House, since: int) -> None:
    id = house.submit(THREE)
    reply = house.watch(id, since=since)
    finish(house, id)
    assert reply.ended
    last = all_records(house, id)[-1]["seq"]
    assert seqs(reply) == list(range(since + 1, last + 1))


@pytest.mark.parametrize("since", [0, 4, 1000])
def test_an_ensemble_that_has_ended(house: House, since: int) -> None:
    id = house.submit(THREE)
    finish(house, id)
    reply = house.watch(id, since=since)
    assert reply.ended
    assert reply.records == [r for r in all_records(house, id) if r["seq"] > since]


def test_a_halted_one_has_ended_until_it_carries_on(house: House) -> None:
    id = house.submit(CHAIN + "limits: {max_jobs: 1}\n")
    first = house.watch(id)
    house.member.run(id, house.member.submit(id))
    assert first.ended
    second = house.watch(id)
    assert second.ended
    last = seqs(second)[-1]
    house.ask("resume", {"id": id, "limits": {"max_jobs": 2}})
    third = house.watch(id, since=last)
    assert not third.ended
    house.member.run(id, house.member.submit(id, 1))
    assert third.ended
    assert seqs(third) == list(range(last + 1, last + 1 + len(third.records)))


def test_two_watchers_each_get_all(house: House) -> None:
    id = house.submit(THREE)
    one = house.watch(id, caller="one")
    house.member.submit(id)
    two = house.watch(id, caller="two", since=3)
    house.member.advance(1)
    finish(house, id)
    assert one.ended
    assert two.ended
    assert one.records[3:] == two.records


def test_many_records_come_in_messages_of_a_bounded_size(house: House) -> None:
    id = house.submit(THREE.replace("count: 3", "count: 700"))
    live = house.watch(id)
    for n in range(700):
        house.member.submit(id, n)
    house.member.advance(1)
    late = house.watch(id, caller="late")
    assert seqs(live) == seqs(late) == [r["seq"] for r in all_records(house, id)]
    assert len(seqs(late)) > 700
    assert max(len(message["records"]) for message in (*live.sent, *late.sent)) <= 501


def test_records_are_gathered(house: House) -> None:
    """Many events at once make one message, not one each."""
    id = house.submit(THREE)
    reply = house.watch(id)
    before = len(reply.sent)
    jobs = [house.member.submit(id, n) for n in range(3)]
    assert jobs
    assert len(reply.sent) == before
    house.member.advance(0.2)
    assert len(reply.sent) == before + 1


def test_signs_of_life(house: House) -> None:
    id = house.submit(THREE)
    reply = house.watch(id)
    house.member.advance(1)
    before = len(reply.sent)
    house.member.advance(10 * KEEPALIVE)
    empty = [message for message in reply.sent[before:] if message == {"records": []}]
    assert len(empty) == 10
    finish(house, id)
    ended = len(reply.sent)
    house.member.advance(10 * KEEPALIVE)
    assert len(reply.sent) == ended
    assert [t for t in house.member.timers if not t.cancelled] == [], "with nobody there nothing beats"


def test_signs_of_life_begin_again_with_a_new_watcher(house: House) -> None:
    id = house.submit(THREE)
    house.watch(id, caller="one")
    house.service.disconnect("one")
    house.member.advance(10)
    two = house.watch(id, caller="two")
    house.member.advance(KEEPALIVE + 0.1)
    assert two.sent[-1] == {"records": []}


def test_pictures_of_the_counts(house: House) -> None:
    id = house.submit(THREE)
    reply = house.watch(id)
    for n in range(3):
        house.member.run(id, house.member.submit(id, n), seconds=3.0)
    pictures = [r for message in reply.sent for r in message["records"] if r["type"] == "metric"]
    assert pictures
    groups = pictures[-1]["groups"]
    assert groups["a"]["success"] == 3
    assert groups["a"]["mean_duration"] == 3.0
    everything = [r for message in reply.sent for r in message["records"]]
    assert everything[-1]["type"] == "state", "the record of the end is the last"
    assert [r["seq"] for r in everything] == sorted(r["seq"] for r in everything)
    assert all(r["type"] != "metric" for r in all_records(house, id)), "not stored"


def test_disconnect_ends_the_streams_of_that_caller(house: House) -> None:
    id = house.submit(THREE)
    gone, stays = house.watch(id, caller="gone"), house.watch(id, caller="stays")
    house.service.disconnect("gone")
    house.service.disconnect("nobody")
    before = len(gone.sent)
    finish(house, id)
    assert len(gone.sent) == before
    assert gone.errors == []
    assert stays.ended


def test_watch_cancel_ends_the_stream_that_it_names(house: House) -> None:
    id, other = house.submit(THREE), house.submit(CHAIN)
    one, two = house.watch(id, caller="c"), house.watch(other, caller="c")
    foreign = house.watch(id, caller="d")
    house.service.watch_cancel("c", {"id": id})
    assert (one.ended, two.ended, foreign.ended) == (True, False, False)
    house.service.watch_cancel("c", None)
    assert (two.ended, foreign.ended) == (True, False)
    house.service.watch_cancel("c", None)
    house.service.watch_cancel("nobody", {"id": "x"})
    finish(house, id)
    assert foreign.ended


def test_the_end_of_the_service_is_told(house: House) -> None:
    id = house.submit(THREE)
    reply = house.watch(id)
    house.service.stop()
    assert reply.errors
    assert not reply.ended


def test_frozen_streams_stay_open(house: House) -> None:
    id = house.submit(THREE)
    reply = house.watch(id)
    house.service.freeze("the instance is shutting down")
    house.member.advance(3 * KEEPALIVE)
    assert reply.errors == []
    assert reply.sent[-1] == {"records": []}


def follow(house: House, id: str, since: int = 0) -> List[FakeReply]:
    """What one does who reads all: ask again whenever the stream is cut, until its end."""
    replies = [house.watch(id, since=since)]
    while replies[-1].errors and not replies[-1].ended:
        number, text = replies[-1].errors[0]
        assert number == errno.EOVERFLOW
        last = seqs(replies[-1])[-1] if seqs(replies[-1]) else since
        assert f"since={last}" in text
        replies.append(house.watch(id, since=last))
    return replies


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_one_request_buys_a_bounded_number_of_records(house: House, monkeypatch: Any, ended: bool) -> None:
    monkeypatch.setattr(watchers, "WATCH_RECORDS", 100)
    monkeypatch.setattr(watchers, "MESSAGE", 30)
    id = house.submit(THREE.replace("count: 3", "count: 200"))
    finish(house, id, 200 if ended else 150)
    replies = follow(house, id)
    told = [seq for reply in replies for seq in seqs(reply)]
    assert told == [r["seq"] for r in all_records(house, id)]
    assert len(replies) == len(told) // 100 + 1
    assert all(sum(len(m["records"]) for m in reply.sent) <= 100 for reply in replies)
    assert max(len(m["records"]) for reply in replies for m in reply.sent) == 30
    assert replies[-1].ended == ended
    assert house.service.watchers == (0 if ended else 1)


def test_who_does_not_read_costs_a_bounded_number_of_records(house: House) -> None:
    """10000 records pass by one who never asks again: it is cut with a reason, and the service forgets it."""
    id = house.submit(CHAIN)
    deaf = house.watch(id)
    for n in range(3000):
        house.member.run(id, house.member.submit(id, n), seconds=0.01)
    assert len(all_records(house, id)) > 2 * WATCH_RECORDS
    assert house.service.watchers == 0
    assert house.ask("stats").answer["watchers"] == 0
    ((number, text),) = deaf.errors
    assert number == errno.EOVERFLOW
    assert "ask again with since=" in text
    assert sum(len(message["records"]) for message in deaf.sent) == WATCH_RECORDS
    assert len(deaf.sent) <= WATCH_MESSAGES
    told = seqs(deaf)
    assert told == list(range(1, len(told) + 1)), "pictures left out, there is no gap before the cut"
    rest = [seq for reply in follow(house, id, told[-1]) for seq in seqs(reply)]
    assert rest[0] == told[-1] + 1


def test_signs_of_life_are_bounded_too(house: House) -> None:
    id = house.submit(THREE)
    reply = house.watch(id)
    house.member.advance(3 * WATCH_MESSAGES * KEEPALIVE)
    assert len(reply.sent) == WATCH_MESSAGES
    assert reply.errors[0][0] == errno.EOVERFLOW
    assert house.service.watchers == 0
    assert [t for t in house.member.timers if not t.cancelled] == [], "with nobody there nothing beats"


def test_streams_are_bounded_in_number(house: House, monkeypatch: Any) -> None:
    monkeypatch.setattr(endpoints, "_WATCHERS", 3)
    id = house.submit(THREE)
    for n in range(3):
        house.watch(id, caller=f"c{n}")
    number, text = house.watch(id, caller="one too many").refusal
    assert number == errno.EMFILE
    assert "3 streams are open" in text
    house.service.disconnect("c1")
    assert house.watch(id).sent


def test_a_picture_hides_no_record(house: House, monkeypatch: Any) -> None:
    """A picture carries the seq of the newest record, which the store may not have kept yet."""
    id = house.submit(THREE)
    reply = house.watch(id)
    kept = house.store.records
    monkeypatch.setattr(house.store, "records", lambda id, since, most: kept(id, since, most)[:-1])
    house.member.run(id, house.member.submit(id))
    house.member.advance(1)
    monkeypatch.undo()
    finish_rest = [house.member.submit(id, n) for n in (1, 2)]
    for job in finish_rest:
        house.member.run(id, job)
    assert reply.ended
    assert reply.records == all_records(house, id)
