# SPDX-License-Identifier: MIT
"""The local transport around a service that misbehaves, streams without end, or belongs to somebody else."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from ensemble.service import local_server
from ensemble.service.local_server import MAX_UNREAD, LocalServer
from ensemble.service.protocol import Reply


class Odd:
    """Plays the service: does with each request what the test says, and notes who has gone."""

    def __init__(self) -> None:
        self.replies: List[Reply] = []
        self.gone: List[str] = []
        self.act: Callable[[Reply], None] = lambda reply: reply.send({"fine": True})

    def handle(self, endpoint: str, payload: Dict[str, Any], reply: Reply) -> None:
        self.replies.append(reply)
        self.act(reply)

    def disconnect(self, caller: str) -> None:
        self.gone.append(caller)


class World:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.service = Odd()
        self.log: List[str] = []
        self.server = LocalServer(self.service, self.loop, lambda level, text: self.log.append(text))  # type: ignore[arg-type]
        self.path = self.server.open()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 60))

    def connect(self) -> Tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        pair: Tuple[asyncio.StreamReader, asyncio.StreamWriter] = self.run(
            asyncio.open_unix_connection(str(self.path), limit=64 << 20)
        )
        return pair

    def ask(self, endpoint: str, id: int = 1) -> Dict[str, Any]:
        """One request on a connection of its own, and the first line that comes back."""
        reader, writer = self.connect()
        writer.write(json.dumps({"id": id, "endpoint": endpoint}).encode() + b"\n")
        answer: Dict[str, Any] = json.loads(self.run(reader.readline()))
        writer.close()
        return answer


@pytest.fixture
def world(runtime_dir: Path) -> Iterator[World]:
    made = World()
    yield made
    made.server.close()
    made.loop.close()
    assert not made.path.exists()


def test_a_service_that_raises(world: World) -> None:
    def act(reply: Reply) -> None:
        raise RuntimeError("injected")

    world.service.act = act
    answer = world.ask("list")
    assert (answer["id"], answer["errno"]) == (1, errno.EIO)
    assert "injected" in world.log[0]
    world.service.act = lambda reply: reply.send({})
    assert world.ask("list") == {"id": 1, "ok": {}}


@pytest.mark.parametrize("payload", [{"x": float("nan")}, {"x": object()}])
def test_an_answer_that_is_no_json(world: World, payload: Dict[str, Any]) -> None:
    world.service.act = lambda reply: reply.send(payload)
    assert world.ask("list")["errno"] == errno.EPROTO
    assert "cannot be written as JSON" in world.log[0]


def test_words_that_are_no_utf_8(world: World) -> None:
    world.service.act = lambda reply: reply.error(errno.EINVAL, "caf\udce9")
    assert world.ask("list")["error"].startswith("caf")


def test_nothing_follows_an_answer(world: World) -> None:
    def act(reply: Reply) -> None:
        reply.send({"n": 1})
        reply.send({"n": 2})
        reply.error(errno.EIO, "too late")

    world.service.act = act
    reader, writer = world.connect()
    for id in (1, 2):
        writer.write(json.dumps({"id": id, "endpoint": "list"}).encode() + b"\n")
        assert json.loads(world.run(reader.readline())) == {"id": id, "ok": {"n": 1}}
    writer.close()


def test_a_stream_that_nobody_reads_is_cut(world: World) -> None:
    """At a bounded size, with a reason; the service hears of it, later; other requests are still answered."""
    world.service.act = lambda reply: None
    reader, writer = world.connect()
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b'{"id": 5, "endpoint": "watch"}\n')
    world.run(asyncio.sleep(0.1))
    (stream,) = world.service.replies
    piece = {"x": "y" * (64 << 10)}
    (connection,) = world.server.connections
    for _ in range(200):
        stream.send(piece)
        world.run(asyncio.sleep(0))
        assert connection.unread() < MAX_UNREAD + 1024
    assert world.service.gone == [stream.caller]
    assert not connection.replies
    reader._transport.resume_reading()  # type: ignore[attr-defined]
    lines = 0
    while True:
        answer = json.loads(world.run(reader.readline()))
        if "errno" in answer:
            break
        lines += 1
    assert (answer["id"], answer["errno"]) == (5, errno.EOVERFLOW)
    assert "since" in answer["error"]
    assert MAX_UNREAD // (64 << 10) - 2 < lines < 200
    writer.close()


def test_the_service_hears_of_a_closed_connection(world: World) -> None:
    world.service.act = lambda reply: None
    _, writer = world.connect()
    writer.write(b'{"id": 1, "endpoint": "watch"}\n{"id": 2, "endpoint": "watch"}\n{"id": 3, "endpoint": "list"}\n')
    world.run(asyncio.sleep(0.1))
    first, second, third = world.service.replies
    assert len({first.caller, second.caller, third.caller}) == 3
    writer.close()
    world.run(asyncio.sleep(0.1))
    assert sorted(world.service.gone) == sorted([first.caller, second.caller, third.caller])
    for reply in world.service.replies:
        reply.send({"nobody": "there"})
        reply.error(errno.EIO, "nobody there")
    assert not world.server.connections
    assert not world.log


def test_another_user_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = world.connect()
    uid = os.geteuid()
    monkeypatch.setattr(local_server.os, "geteuid", lambda: uid + 1)
    strange_reader, strange = world.connect()
    monkeypatch.undo()
    answer = json.loads(world.run(strange_reader.readline()))
    assert (answer["id"], answer["errno"]) == (None, errno.EPERM)
    assert world.run(strange_reader.read()) == b""
    assert not world.service.replies
    writer.write(b'{"id": 1, "endpoint": "list"}\n')
    assert json.loads(world.run(reader.readline())) == {"id": 1, "ok": {"fine": True}}
    strange.close()
    writer.close()


def test_only_requests_count_as_use(world: World) -> None:
    before = world.server.last_request
    _, writer = world.connect()
    world.run(asyncio.sleep(0.05))
    assert world.server.last_request == before
    writer.write(b'{"id": 1, "endpoint": "list"}\n')
    world.run(asyncio.sleep(0.05))
    assert world.server.last_request > before
    writer.close()
