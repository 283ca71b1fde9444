# SPDX-License-Identifier: MIT
"""A channel to another process: it sends what is more than a socket takes, hears what comes, and tells an end once."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from typing import Any, Iterator, List

import pytest

from ensemble.members.channel import Channel, Frames, Lines, framed, inherited, started
from ensemble.members.loop_timers import watch

MANY = bytes(range(256)) * 8192


class Ends:
    """A channel, the other end of its socket, and what was heard."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        ours, self.theirs = socket.socketpair()
        self.heard: List[bytes] = []
        self.logged: List[str] = []
        self.channel = Channel(ours, self.watch, self.hear, lambda level, text: self.logged.append(text))

    def watch(self, fd: int, callback: Any, *, write: bool = False) -> Any:
        return watch(self.loop, fd, callback, write)

    def hear(self, data: bytes) -> None:
        self.heard.append(data)

    def watched(self) -> int:
        """Descriptors that the loop watches, besides its own."""
        return len(self.loop._selector.get_map()) - 1  # type: ignore[attr-defined]

    def turn(self, seconds: float = 0.02) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.channel.close()
    assert not made.channel.open
    made.theirs.close()
    assert made.watched() == 0
    made.loop.close()


def test_all_of_it_arrives_in_order(ends: Ends) -> None:
    ends.channel.send(b"first ")
    ends.channel.send(MANY)
    ends.channel.send(b" last")
    ends.theirs.setblocking(False)
    got = bytearray()
    while len(got) < len(MANY) + 11:
        ends.turn(0.001)
        try:
            got += ends.theirs.recv(1 << 16)
        except BlockingIOError:
            continue
    assert bytes(got) == b"first " + MANY + b" last"
    assert ends.heard == []


def test_what_comes_is_heard_and_the_end_once(ends: Ends) -> None:
    ends.theirs.sendall(b"one")
    ends.turn()
    ends.theirs.sendall(b"two")
    ends.theirs.close()
    ends.turn()
    ends.turn()
    assert ends.heard == [b"one", b"two", b""]
    ends.channel.listen(True)
    ends.channel.send(MANY)
    ends.turn()
    assert ends.heard == [b"one", b"two", b""]
    assert ends.channel.open, "it is closed by who made it"


def test_one_that_is_dead_is_found_by_reading(ends: Ends) -> None:
    ends.theirs.close()
    ends.channel.send(MANY)
    assert (ends.heard, ends.watched()) == ([], 1)
    ends.turn()
    assert (ends.heard, ends.watched()) == ([b""], 0)


def test_what_is_not_listened_to_waits(ends: Ends) -> None:
    ends.channel.listen(False)
    ends.theirs.sendall(b"later")
    ends.turn()
    assert ends.heard == []
    ends.channel.listen(True)
    ends.turn()
    assert ends.heard == [b"later"]


def test_an_error_of_the_listener_is_logged(ends: Ends, monkeypatch: Any) -> None:
    monkeypatch.setattr(ends.channel, "_heard", lambda data: 1 / 0)
    ends.theirs.sendall(b"x")
    ends.turn()
    assert "ZeroDivisionError" in ends.logged[0]


def test_a_loop_that_watches_nothing_leaves_no_socket() -> None:
    ours, theirs = socket.socketpair()

    def refuse(fd: int, callback: Any, *, write: bool = False) -> Any:
        raise RuntimeError("no")

    with theirs, pytest.raises(RuntimeError):
        Channel(ours, refuse, print)
    assert ours.fileno() == -1


def test_lines() -> None:
    lines = Lines()
    assert [lines.feed(data) for data in (b"a", b"b\nc\n\nd", b"", b"\n")] == [[], [b"ab", b"c", b""], [], [b"d"]]
    assert lines.rest == b""


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_frames(step: int) -> None:
    bodies = [b"", b"x", b"y" * 300]
    data = b"".join(map(framed, bodies))
    frames, found = Frames(300), []
    for at in range(0, len(data), step):
        frames.feed(data[at : at + step])
        while True:
            body = frames.next()
            if body is None:
                break
            found.append(body)
    assert found == bodies
    frames.feed(framed(b"z" * 301)[:4])
    with pytest.raises(ValueError, match="301 bytes"):
        frames.next()


def test_a_process_at_the_other_end(ends: Ends) -> None:
    ours, theirs = socket.socketpair()
    program = "import os, socket, json; s = socket.socket(fileno=0); s.sendall(json.dumps([os.getsid(0) == os.getpid(), os.environ['X']]).encode())"
    process = started(["-c", program], theirs, inherited({"X": "1"}))
    assert theirs.fileno() == -1
    heard: List[bytes] = []
    channel = Channel(ours, ends.watch, heard.append)
    assert process.wait(60) == 0
    ends.turn()
    ends.turn()
    channel.close()
    assert json.loads(heard[0]) == [True, "1"]
    assert heard[1:] == [b""]


def test_a_process_that_cannot_be_started_leaves_no_end_open(monkeypatch: Any) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with ours, pytest.raises(OSError, match="No such file"):
        started(["-c", ""], theirs, stderr=subprocess.DEVNULL)
    assert theirs.fileno() == -1
