# SPDX-License-Identifier: MIT
"""The server over a real instance: a service that is killed harms nobody, and is told as what it is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ensemble.server.wire import OPERATOR
from t.server.served import HELLO, WAITS, Served, secure

pytestmark = pytest.mark.flux
FLUX_SIZE = 2
#: seconds
PATIENCE = 90


def wait_for(what: Callable[[], Any]) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, what
        time.sleep(0.1)


def test_the_service_of_an_instance(flux_instance: Any, tmp_path: Path) -> None:
    served = Served(tmp_path, env=flux_instance.env)
    try:
        call = secure(served)
        assert json.loads(list(call("Watch", id=call("Submit", text=HELLO).id))[-1].json)["state"] == "complete"
        id = call("Submit", text=WAITS).id
        stats = json.loads(call("RequestStatus", OPERATOR, member="flux").payload)
        assert stats["member"] == "flux"
        stream = call("Watch", id=id)
        next(stream)
        check = health_pb2_grpc.HealthStub(call.channel).Check

        def health() -> int:
            return int(check(health_pb2.HealthCheckRequest()).status)

        for pid in (stats["supervisor_pid"], stats["pid"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code, sentence = call.fault("Status", id=id)
        assert code == "UNAVAILABLE", sentence
        assert "service" in sentence
        with pytest.raises(Exception, match="watch again with since"):
            list(stream)
        wait_for(lambda: health() == health_pb2.HealthCheckResponse.NOT_SERVING)
        # the next submission starts a service, which goes on where the dead one was
        other = call("Submit", text=HELLO).id
        assert json.loads(list(call("Watch", id=other))[-1].json)["state"] == "complete"
        assert call("Status", id=id).summary.state == "running"
        wait_for(lambda: health() == health_pb2.HealthCheckResponse.SERVING)
        call("Signal", id=id, name="enough")
        assert json.loads(list(call("Watch", id=id))[-1].json)["state"] == "complete"
        call.close()
    finally:
        assert served.end() == 0


def test_the_predecessors_client_grows_and_shrinks_an_instance(flux_instance: Any, tmp_path: Path) -> None:
    served = Served(tmp_path, env=flux_instance.env)
    try:
        call = secure(served)
        # on rank 0, so that the other one can go
        id = call("Submit", text="scaler: {name: drain, min: 1}\n" + WAITS).id

        def told(text: str) -> bool:
            records = json.loads(call("RequestStatus", OPERATOR, name=id).payload)
            assert records["state"] == "running"
            return text in flux_instance.run("flux", "ensemble", "log", id).stdout

        def ask(action: str, n: int) -> int:
            answer = call("RequestAction", OPERATOR, name=id, action=action, payload=json.dumps({action: n}))
            assert json.loads(answer.payload)["id"] == id
            return int(answer.status)

        assert ask("shrink", -1) == 1
        wait_for(lambda: told("shrink is done: 1 node"))
        assert ask("grow", 1) == 1
        wait_for(lambda: told("grow is done: 2 nodes"))
        assert ask("shrink", 5) == 1
        wait_for(lambda: told("shrink is done: 1 node is up") and told("shrink from 2 to 1"))
        call("Cancel", id=id)
        call.close()
    finally:
        assert served.end() == 0
