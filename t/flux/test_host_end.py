# SPDX-License-Identifier: MIT
"""The service ends when its instance ends, however that happens."""

from __future__ import annotations

import os
import signal

import pytest

from ensemble.service import supervisor
from t.flux.processes import PATIENCE, gone
from t.flux_instance import running

pytestmark = pytest.mark.flux


@pytest.mark.parametrize("size", [1, 2])
def test_with_a_shutdown(size):
    with running(size) as instance:
        stats = supervisor.start_detached(instance.env, PATIENCE)
        assert instance.stop() == 0
        gone(stats["pid"], stats["supervisor_pid"])
        assert "ensemble" not in instance.stderr


def test_with_a_broker_that_is_killed():
    with running() as instance:
        stats = supervisor.start_detached(instance.env, PATIENCE)
        os.kill(int(instance.run("flux", "getattr", "broker.pid").stdout), signal.SIGKILL)
        gone(stats["pid"], stats["supervisor_pid"])
        instance.stop()


def test_also_without_its_supervisor():
    with running() as instance:
        stats = supervisor.start_detached(instance.env, PATIENCE)
        os.kill(stats["supervisor_pid"], signal.SIGKILL)
        gone(stats["supervisor_pid"])
        os.kill(int(instance.run("flux", "getattr", "broker.pid").stdout), signal.SIGKILL)
        gone(stats["pid"])
        instance.stop()
