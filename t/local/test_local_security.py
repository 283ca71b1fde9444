# SPDX-License-Identifier: MIT
"""Whatever comes in at the local socket is answered or refused in a sentence, for every endpoint, and harms nobody."""

from __future__ import annotations

import errno
import json
from typing import Any, Callable, Dict, Optional

import pytest
from hosts import Client, Host
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.service.protocol import ENDPOINTS, MAX_REQUEST, STREAMING
from t import hostile

SETTINGS = settings(max_examples=30, suppress_health_check=list(HealthCheck), database=None)


class Place:
    """One service, an honest client, and a hostile one that comes back when it was thrown out."""

    def __init__(self, start: Callable[..., Host], connect: Callable[[Host], Client]) -> None:
        self.host = start()
        self._connect = connect
        self.good = connect(self.host)
        self.pid = self.good.call("stats")["ok"]["pid"]
        self._bad: Optional[Client] = None

    @property
    def bad(self) -> Client:
        if self._bad is None:
            self._bad = self._connect(self.host)
        return self._bad

    def thrown_out(self) -> None:
        if self._bad is not None:
            self._bad.close()
        self._bad = None

    def alive(self) -> None:
        stats = self.good.call("stats")["ok"]
        assert stats["pid"] == self.pid
        assert self.host.process.poll() is None

    def standing(self) -> None:
        """An ensemble of the name that hostile payloads know, active."""
        listed = self.good.call("list")["ok"]["ensembles"]
        if not any(one["name"] == "hostile" and one["state"] == "running" for one in listed):
            text = "name: hostile\n" + hostile.FILE
            assert "ok" in self.good.call("submit", {"text": text, "file": "f.yaml", "submitter": {}})


@pytest.fixture
def place(start: Callable[..., Host], connect: Callable[[Host], Client]) -> Place:
    return Place(start, connect)


def fair(answer: Optional[Dict[str, Any]]) -> None:
    """Is that an answer, or a refusal in a sentence, and no confession of a bug?"""
    assert answer is not None
    if "ok" in answer:
        return
    wanted = (errno.EINVAL, errno.EPROTO, errno.ENOENT, errno.ENODATA, errno.EMSGSIZE, errno.ENOSYS)
    assert answer["errno"] in wanted, answer
    assert 5 < len(answer["error"]) < 5000
    for word in ("Traceback", "bug", "fault of the service"):
        assert word not in answer["error"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_any_payload_is_answered(place: Place, endpoint: str) -> None:
    place.standing()

    @SETTINGS
    @given(hostile.PAYLOADS)
    def payload(payload: Any) -> None:
        if endpoint == "quit" and payload == {}:
            return
        line = json.dumps({"id": 1, "endpoint": endpoint, "payload": payload}).encode() + b"\n"
        place.bad.raw(line)
        answer = place.bad.read()
        fair(answer)
        if endpoint in STREAMING or (answer is not None and answer["id"] is None):
            place.thrown_out()

    @SETTINGS
    @given(hostile.RAW)
    def raw(data: bytes) -> None:
        """Inside of a line that is right but for that."""
        data = data.replace(b"\n", b" ")
        if endpoint == "quit" and data.strip() in (b"{}", b""):
            return
        place.bad.raw(b'{"id": 1, "endpoint": "%s", "payload": %s}\n' % (endpoint.encode(), data))
        answer = place.bad.read()
        fair(answer)
        if endpoint in STREAMING or (answer is not None and answer["id"] is None):
            place.thrown_out()

    payload()
    raw()
    place.alive()


def test_any_envelope_is_answered(place: Place) -> None:
    """What is around the payload: ids, names of endpoints, cancels, keys that nobody knows."""
    place.standing()
    odd = hostile.JSON | st.sampled_from([1, 2, "list", "watch", "quit\0", "__init__", "handle"])

    @settings(max_examples=200, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.dictionaries(st.sampled_from(["id", "endpoint", "payload", "cancel", "x"]), odd, max_size=5) | hostile.JSON
    )
    def envelope(request: Any) -> None:
        place.bad.raw(json.dumps(request).encode() + b"\n")
        fair(place.bad.read())
        place.thrown_out()

    envelope()
    place.alive()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_oversized_payloads_are_refused(place: Place, endpoint: str) -> None:
    for payload in hostile.OVERSIZED.values():
        line = json.dumps({"id": 1, "endpoint": endpoint, "payload": payload}).encode() + b"\n"
        assert len(line) < MAX_REQUEST
        place.bad.raw(line)
        answer = place.bad.read()
        fair(answer)
        assert answer is not None
        assert "errno" in answer
        assert len(answer["error"]) < 1000, "and it is not sent back"
    place.alive()


def test_cancels_of_what_is_not_ones_own(place: Place) -> None:
    """A stream of another connection stays open, whatever is cancelled here."""
    place.standing()
    stream = place.good.send("watch", {"id": "hostile"})
    first = place.good.read()
    assert first is not None
    assert first["id"] == stream
    for wanted in (*range(-5, 50), "x", None, [], {}, 1.0, True):
        place.bad.raw(json.dumps({"id": 1000, "cancel": wanted}).encode() + b"\n")
        fair(place.bad.read())
    assert place.good.call("stats")["ok"]["watchers"] == 1
