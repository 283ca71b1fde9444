# SPDX-License-Identifier: MIT
"""Requests on the local socket as they come: malformed, too long, too many, cancelled, never read."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from hosts import PATIENCE, Client, Host, until


@pytest.mark.parametrize(
    "line",
    [
        b"this is no JSON\n",
        b"\xff\xfe\n",
        b"\n",
        b"[]\n",
        b'{"endpoint": "list"}\n',
        b'{"id": "one", "endpoint": "list"}\n',
        b'{"id": true, "endpoint": "list"}\n',
        b'{"id": NaN, "endpoint": "list"}\n',
        b"[" * 100_000 + b"\n",
        b'{"id": ' + b"9" * 10_000 + b"}\n",
    ],
)
def test_what_is_no_request_ends_its_connection_alone(
    start: Callable[..., Host], connect: Callable[[Host], Client], line: bytes
) -> None:
    host = start()
    good, bad = connect(host), connect(host)
    bad.raw(line)
    answer = bad.read()
    assert answer is not None
    assert answer["id"] is None
    assert answer["errno"] == errno.EPROTO
    assert answer["error"]
    assert bad.read() is None
    assert good.call("list") == {"id": 1, "ok": {"ensembles": []}}
    good.call("quit")
    assert host.wait() == 0


def test_a_line_without_end(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    host = start()
    good, bad = connect(host), connect(host)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(64):
            bad.raw(b"x" * (1 << 20))
    answer = bad.read()
    # The refusal may be lost behind what was still being sent: the end is not.
    assert answer is None or (answer["errno"] == errno.EMSGSIZE and "4 MiB" in answer["error"])
    assert "ok" in good.call("stats")


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        ({"endpoint": "no-such"}, errno.ENOSYS),
        ({"endpoint": "__class__"}, errno.ENOSYS),
        ({"endpoint": 7}, errno.ENOSYS),
        ({}, errno.ENOSYS),
        ({"endpoint": "status", "payload": [1]}, errno.EINVAL),
        ({"endpoint": "status", "payload": {"id": "nobody"}}, errno.ENOENT),
        ({"endpoint": "status", "payload": {}}, errno.EPROTO),
        ({"cancel": 17}, errno.ENOENT),
        ({"cancel": []}, errno.ENOENT),
    ],
)
def test_a_bad_request_is_refused_and_the_connection_lives(
    start: Callable[..., Host], connect: Callable[[Host], Client], request_: Dict[str, Any], number: int
) -> None:
    client = connect(start())
    client.raw(json.dumps({"id": 41, **request_}).encode() + b"\n")
    answer = client.read()
    assert answer is not None
    assert (answer["id"], answer["errno"]) == (41, number)
    assert len(answer["error"]) > 10
    assert "ok" in client.call("list")


def test_many_requests_in_one_piece_and_one_in_many(
    start: Callable[..., Host], connect: Callable[[Host], Client]
) -> None:
    client = connect(start())
    client.raw(b"".join(b'{"id": %d, "endpoint": "list"}\n' % id for id in range(100, 200)))
    assert [client.read() for _ in range(100)] == [{"id": id, "ok": {"ensembles": []}} for id in range(100, 200)]
    for byte in b'{"id": 7, "endpoint": "list"}\n':
        client.raw(bytes([byte]))
    assert client.read() == {"id": 7, "ok": {"ensembles": []}}


def test_cancel_ends_one_stream_and_not_its_like(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    client = connect(start())
    id = client.submit("sleep 300")
    first, second = client.send("watch", {"id": id}), client.send("watch", {"id": id})
    client.last += 1
    client.raw(json.dumps({"id": client.last, "cancel": first}).encode() + b"\n")
    ended, answered, alive = False, False, 0
    until_ = time.monotonic() + PATIENCE
    while alive < 2 and time.monotonic() < until_:
        answer = client.read()
        assert answer is not None
        if answer["id"] == first and answer.get("errno") == errno.ENODATA:
            ended = True
        elif answer["id"] == client.last:
            answered = answer["ok"] == {}
        else:
            assert not (ended and answer["id"] == first)
            alive += ended and answer["id"] == second and "ok" in answer
    assert ended
    assert answered


def test_an_id_in_use_ends_the_connection(start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
    client = connect(start())
    id = client.submit("sleep 300")
    watch = client.send("watch", {"id": id})
    client.raw(json.dumps({"id": watch, "endpoint": "list"}).encode() + b"\n")
    while True:
        answer = client.read()
        assert answer is not None
        if answer["id"] is None:
            break
    assert "no open request has" in answer["error"]
    assert client.read() is None


def test_who_does_not_read_is_not_read_from_and_harms_nobody(
    start: Callable[..., Host], connect: Callable[[Host], Client]
) -> None:
    host = start()
    deaf, good = connect(host), connect(host)
    id = good.submit("true", 200)
    until(lambda: good.call("status", {"id": id})["ok"]["state"] == "complete")
    request = json.dumps({"id": 1, "endpoint": "jobs", "payload": {"id": id}}).encode() + b"\n"
    deaf.socket.settimeout(3)
    sent = 0
    with contextlib.suppress(socket.timeout):
        while sent < 50_000:
            deaf.raw(request * 100)
            sent += 100
    assert sent < 50_000
    memory = int(Path(f"/proc/{host.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert memory < 400 << 20
    assert "ok" in good.call("stats")
    # When it reads at last, it gets its answers.
    deaf.socket.settimeout(PATIENCE)
    for _ in range(50):
        answer = deaf.read()
        assert answer is not None
        assert len(answer["ok"]["jobs"]) == 200
