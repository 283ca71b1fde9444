# SPDX-License-Identifier: MIT
"""Messages are taken as they are, whichever way the system allows, until there shall be no more."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import json
from typing import Any, List, Tuple

import pytest

pytestmark = [pytest.mark.flux, pytest.mark.timeout(120)]
try:
    import flux
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from flux.constants import FLUX_MSGTYPE_EVENT
from flux.core.inner import ffi, lib

from ensemble.members import flux_messages
from ensemble.members.flux_messages import Messages


def forbidden(*_: Any) -> None:
    raise MemoryError("cannot allocate write+execute memory for ffi.callback()")


@pytest.mark.parametrize("allowed", [True, False])
def test_each_message_is_taken_until_the_stop(flux_instance: Any, monkeypatch: Any, allowed: bool) -> None:
    if not allowed:
        monkeypatch.setattr(flux_messages, "_callback", forbidden)
    handle = flux.Flux(flux_instance.uri)
    handle.event_subscribe("ens-test")
    logged: List[Tuple[int, str]] = []
    seen: List[int] = []

    def take(msg: Any) -> None:
        text = ffi.new("char *[1]")
        assert lib.flux_event_decode(msg, ffi.NULL, text) == 0
        seen.append(json.loads(ffi.string(text[0]))["n"])
        if seen[-1] == 2:
            raise ValueError("of the taker")

    messages = Messages(
        handle, FLUX_MSGTYPE_EVENT, b"ens-test.a", lambda level, text: logged.append((level, text)), take
    )
    for n, topic in enumerate(("ens-test.a", "ens-test.b", "ens-test.a", "ens-test.a")):
        handle.event_send(topic, {"n": n})
    turn(handle, lambda: len(seen) == 3)
    assert seen == [0, 2, 3], "one that raises keeps nothing from those after it"
    assert len(logged) == 1
    assert "of the taker" in logged[0][1]
    messages.stop()
    messages.stop()
    handle.event_send("ens-test.a", {"n": 4})
    # the answer comes behind the event
    handle.rpc("broker.ping", {}).get()
    for _ in range(20):
        handle.reactor_run(flags=lib.FLUX_REACTOR_NOWAIT)
    assert seen == [0, 2, 3]


def turn(handle: Any, until: Any) -> None:
    for _ in range(10_000):
        if until():
            return
        handle.reactor_run(flags=lib.FLUX_REACTOR_ONCE)
    raise AssertionError("in vain")
