# SPDX-License-Identifier: MIT
"""The real service as a process: how it is started and stopped, and what kills of it, of its supervisor and of its
broker leave behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import Any, Dict

import pytest

from ensemble.errors import NoService, NotPermitted
from ensemble.service import supervisor
from t.flux.processes import PATIENCE, alive, gone, until

pytestmark = pytest.mark.flux
FLUX_SIZE = 2
MAIN = [sys.executable, "-m", "ensemble.service.main"]


def connect(instance) -> Any:
    import flux

    return flux.Flux(instance.uri)


def answering(handle) -> Dict[str, Any]:
    """What the service says of itself, {} while none answers. Who asks a dying one gets no answer, ever."""
    try:
        return supervisor.service_status(handle, 2.0)
    except NoService:
        return {}


@pytest.fixture
def handle(flux_instance):
    """A handle of an instance without a service; one that the test started is ended."""
    handle = connect(flux_instance)
    yield handle
    stats = answering(handle)
    if stats:
        supervisor.service_stop(handle, PATIENCE)
        gone(*filter(None, (stats["pid"], stats["supervisor_pid"])))


@pytest.fixture
def stats(flux_instance, handle):
    """A supervised service."""
    return supervisor.start_detached(flux_instance.env, PATIENCE)


def test_start_says_what_runs_and_a_second_start_finds_it(flux_instance, handle, stats):
    assert stats["started"] is True
    assert stats["host"] == "process"
    assert stats["restarts"] == 0
    assert alive(stats["pid"])
    assert alive(stats["supervisor_pid"])
    again = supervisor.start_detached(flux_instance.env, PATIENCE)
    assert again["started"] is False
    assert again["pid"] == stats["pid"]


def test_it_is_detached_from_who_started_it(stats):
    for pid in (stats["pid"], stats["supervisor_pid"]):
        assert os.getsid(pid) == stats["supervisor_pid"]
        for fd in (0, 1, 2):
            assert os.readlink(f"/proc/{pid}/fd/{fd}") == os.devnull
        assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_the_supervisor_holds_nothing_of_its_starter(stats):
    """An open pipe would keep the starter's reader waiting, a socket would keep the service's name taken."""
    held = os.listdir(f"/proc/{stats['supervisor_pid']}/fd")
    assert sorted(held, key=int) == ["0", "1", "2"]


def test_stop_ends_both_and_the_next_stop_says_so(handle, stats):
    last = supervisor.service_stop(handle, PATIENCE)
    assert last["pid"] == stats["pid"]
    gone(stats["pid"], stats["supervisor_pid"])
    with pytest.raises(NoService, match="flux ensemble service start"):
        supervisor.service_stop(handle, PATIENCE)


def test_kill_9_of_the_service_is_healed_and_harms_nobody(flux_instance, handle, stats):
    job = flux_instance.run("flux", "submit", "sleep", "300").stdout.strip()
    os.kill(stats["pid"], signal.SIGKILL)
    again = until(lambda: answering(handle), "the restart")
    assert again["pid"] != stats["pid"]
    assert again["supervisor_pid"] == stats["supervisor_pid"]
    assert again["restarts"] == 1
    flux_instance.run("flux", "run", "true")
    assert flux_instance.run("flux", "jobs", "-no", "{status}", job).stdout.strip() == "RUN"
    flux_instance.run("flux", "cancel", job)
    assert "restarted because it was killed by SIGKILL (restart 1)" in flux_instance.run("flux", "dmesg").stdout


def test_sigterm_to_the_supervisor_ends_both(handle, stats):
    os.kill(stats["supervisor_pid"], signal.SIGTERM)
    gone(stats["pid"], stats["supervisor_pid"])
    assert answering(handle) == {}


def test_sigterm_to_the_service_is_an_end_not_a_death(handle, stats):
    os.kill(stats["pid"], signal.SIGTERM)
    gone(stats["pid"], stats["supervisor_pid"])
    assert answering(handle) == {}


def test_the_service_outlives_its_supervisor(handle, stats):
    os.kill(stats["supervisor_pid"], signal.SIGKILL)
    gone(stats["supervisor_pid"])
    assert answering(handle)["pid"] == stats["pid"]


def test_a_guest_cannot_see_or_end_it(flux_instance, handle, stats):
    env = {**flux_instance.env, "FLUX_HANDLE_ROLEMASK": "0x2", "FLUX_HANDLE_USERID": "4242"}
    for verb in ("--status", "--stop"):
        done = flux_instance.run(*MAIN, verb, env=env, check=False)
        assert done.returncode == 1
        assert "flux alloc" in done.stderr
        assert "Traceback" not in done.stderr
    assert answering(handle)["pid"] == stats["pid"]


def test_a_guest_cannot_start_it(flux_instance, handle):
    env = {**flux_instance.env, "FLUX_HANDLE_ROLEMASK": "0x2", "FLUX_HANDLE_USERID": "4242"}
    done = flux_instance.run(*MAIN, "--start", env=env, check=False)
    assert done.returncode == 1
    assert "only the owner" in done.stderr
    assert answering(handle) == {}


def test_a_start_from_another_rank_says_where_it_runs(flux_instance, handle):
    done = flux_instance.run("flux", "exec", "-r", "1", *MAIN, "--start", check=False)
    assert done.returncode != 0
    assert "this is rank 1" in done.stderr
    assert answering(handle) == {}


def test_a_start_that_fails_gives_the_reason_and_leaves_nothing(flux_instance, handle, tmp_path):
    broken = tmp_path / "river"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('injected: broken library')\n")
    # Found before the real one by the service, as a broken installation would be.
    env = {**flux_instance.env, "PYTHONPATH": str(tmp_path)}
    done = flux_instance.run(*MAIN, "--start", env=env, check=False)
    assert done.returncode == 1
    assert "injected: broken library" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert answering(handle) == {}


def test_the_command_line_of_the_rc_scripts(flux_instance, handle):
    for verb, status, says in (
        ("--stop", 1, "no service runs"),
        ("--start", 0, ""),
        ("--start", 0, ""),
        ("--status", 0, '"host": "process"'),
        ("--stop", 0, ""),
        ("--status", 1, "no service runs"),
    ):
        done = flux_instance.run(*MAIN, verb, check=False)
        assert done.returncode == status, (verb, done.stderr)
        assert says in done.stdout + done.stderr


def test_without_an_instance_there_is_one_sentence(tmp_path):
    env = {**os.environ, "FLUX_URI": f"local://{tmp_path}/none"}
    for verb in ("--start", "--stop", "--supervised"):
        done = subprocess.run([*MAIN, verb], env=env, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode != 0
        assert "no Flux instance can be reached" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_report_reaches_the_log(flux_instance):
    flux_instance.run(*MAIN, "--report", "given up at 100%s")
    assert "ensemble.err[0]: given up at 100%s" in flux_instance.run("flux", "dmesg").stdout


def test_no_service_is_an_errno_of_its_own(handle):
    with pytest.raises(NoService) as caught:
        supervisor.service_status(handle, PATIENCE)
    assert caught.value.errno == errno.ENOSYS
    assert not isinstance(caught.value, NotPermitted)
