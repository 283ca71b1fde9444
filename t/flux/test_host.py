# SPDX-License-Identifier: MIT
"""The Flux transport with a fake service: what reaches it, what is refused before, and what it survives."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Tuple

import pytest

from ensemble.service.protocol import ENDPOINTS, STREAMING
from t.flux.processes import PATIENCE, until

pytestmark = pytest.mark.flux
FLUX_SIZE = 2
FAKE = str(Path(__file__).with_name("fake_service.py"))


@contextlib.contextmanager
def fake_service(env) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, FAKE], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def service(flux_instance):
    with fake_service(flux_instance.env) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


@pytest.fixture
def handle(flux_instance, service):
    import flux

    return flux.Flux(flux_instance.uri)


def ask(handle, endpoint: str, payload: Any = None, flags: int = 0) -> Any:
    """The answer, or the errno and text of the refusal."""
    future = handle.rpc(f"ensemble.{endpoint}", {} if payload is None else payload, flags=flags)
    try:
        return future.wait_for(PATIENCE).get()
    except OSError as exc:
        return exc.errno, future.error_string()


def outcome(future) -> int:
    """0 for an answer, else the errno."""
    try:
        future.wait_for(PATIENCE).get()
    except OSError as exc:
        return exc.errno
    return 0


def ended(process) -> Tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


# First, while nobody serves.
def test_a_guest_cannot_start_a_service(flux_instance):
    env = {**flux_instance.env, "FLUX_HANDLE_ROLEMASK": "0x2", "FLUX_HANDLE_USERID": "4242"}
    with fake_service(env) as process:
        status, _, err = ended(process)
    assert status == 1
    assert err.startswith("NotPermitted")
    assert "flux start" in err


def test_the_payload_reaches_the_service_and_the_answer_the_caller(handle):
    payload = {"text": "ü%s", "n": [1, {"a": None}]}
    first = ask(handle, "log", payload)
    assert first["payload"] == payload
    assert first["caller"] == ask(handle, "log")["caller"], "one connection is one caller"


def test_the_services_refusal_reaches_the_caller(handle):
    assert ask(handle, "cancel") == (errno.ENOENT, "nothing to cancel")


@pytest.mark.parametrize(
    ("payload", "number", "says"),
    [
        ("[1]", errno.EINVAL, "is '[1]'"),
        ("7", errno.EINVAL, "is '7'"),
        ("{x", errno.EPROTO, "not JSON"),
        ('{"x": NaN}', errno.EPROTO, "not JSON"),
        ("[" * 100_000, errno.EPROTO, "not JSON"),
    ],
)
def test_a_payload_that_is_no_object_is_refused(handle, payload, number, says):
    got = ask(handle, "log", payload)
    assert got[0] == number
    assert says in got[1]


def test_a_request_without_payload_is_refused(handle):
    future = handle.rpc("ensemble.log", None)
    with pytest.raises(OSError, match="no payload") as caught:
        future.wait_for(PATIENCE).get()
    assert caught.value.errno == errno.EPROTO


def test_an_unknown_endpoint_is_refused_with_the_known_ones(handle):
    number, text = ask(handle, "summit")
    assert number == errno.ENOSYS
    assert "summit" in text
    assert "submit" in text


def test_the_streaming_flag_must_fit(handle):
    from flux.constants import FLUX_RPC_STREAMING

    number, text = ask(handle, "watch")
    assert number == errno.EPROTO
    assert "FLUX_RPC_STREAMING" in text
    number, text = ask(handle, "log", flags=FLUX_RPC_STREAMING)
    assert number == errno.EPROTO
    assert "without" in text


def test_an_exception_in_a_handler_is_answered_and_logged(flux_instance, service, handle):
    number, text = ask(handle, "list")
    assert number == errno.EIO
    assert "flux dmesg" in text
    assert ask(handle, "log", {"still": "alive"})["payload"] == {"still": "alive"}
    dmesg = flux_instance.run("flux", "dmesg").stdout
    assert "ensemble.err[0]: RuntimeError: injected: 100%s of it" in dmesg
    flux_instance.run("flux", "run", "true")
    assert service.poll() is None


def test_an_answer_that_is_no_json_is_told_as_our_fault(handle):
    number, text = ask(handle, "jobs")
    assert number == errno.EPROTO
    assert "fault" in text


def test_one_request_has_one_answer(handle):
    future = handle.rpc("ensemble.status", {})
    assert future.wait_for(PATIENCE).get() == {"answer": 1}
    # A second answer would be taken for that of the next request.
    assert ask(handle, "log", {"next": 1})["payload"] == {"next": 1}


def test_an_exception_in_the_reactor_does_not_end_it(flux_instance, service, handle):
    assert ask(handle, "pause") == {}
    until(lambda: "injected into the reactor" in flux_instance.run("flux", "dmesg").stdout)
    assert ask(handle, "log", {"still": 1})["payload"] == {"still": 1}
    assert service.poll() is None


def watch(handle, payload) -> Any:
    from flux.constants import FLUX_RPC_STREAMING

    future = handle.rpc("ensemble.watch", payload, flags=FLUX_RPC_STREAMING)
    assert future.wait_for(PATIENCE).get() == {"records": []}
    future.reset()
    return future


def cancel(handle, future) -> None:
    from _flux._core import lib

    handle.rpc("ensemble.watch-cancel", {"matchtag": lib.flux_rpc_get_matchtag(future.pimpl.handle)}, flags=_NORESPONSE)


#: FLUX_RPC_NORESPONSE
_NORESPONSE = 1


def test_a_cancel_ends_the_stream_that_it_names(handle):
    one, other = watch(handle, {"id": "a"}), watch(handle, {"id": "b"})
    cancel(handle, one)
    assert outcome(one) == errno.ENODATA
    told = ask(handle, "stats")
    assert ["watch-cancel", {"id": "a"}] in told["told"]
    assert ["watch-cancel", {"id": "b"}] not in told["told"]
    assert told["open"] == 1
    assert not other.is_ready()
    cancel(handle, other)
    until(lambda: ask(handle, "stats")["open"] == 0)


def test_a_cancel_that_names_nothing_is_harmless(handle):
    for payload in ({"matchtag": 12345}, {"matchtag": "x"}, {}, "[]"):
        handle.rpc("ensemble.watch-cancel", payload, flags=_NORESPONSE)
    assert ask(handle, "log", {"n": 1})["payload"] == {"n": 1}


CALL = """
import flux, sys
h = flux.Flux()
from flux.constants import FLUX_RPC_STREAMING
f = h.rpc("ensemble.watch", {"id": "gone"}, flags=FLUX_RPC_STREAMING)
f.wait_for(60).get()
print(h.rpc("ensemble.log", {}).wait_for(60).get()["caller"])
"""


def test_the_service_is_told_who_is_gone(flux_instance, handle):
    before = ask(handle, "stats")["open"]
    caller = flux_instance.run(sys.executable, "-c", CALL).stdout.strip()
    until(lambda: ["disconnect", caller] in ask(handle, "stats")["told"])
    assert ask(handle, "stats")["open"] == before


def test_ping_is_answered_as_a_module_answers(flux_instance, service):
    done = flux_instance.run("flux", "ping", "--count=1", "--userid", "ensemble")
    assert "ensemble.ping" in done.stdout
    assert f"userid={os.getuid()}" in done.stdout


GUEST = """
import flux, json, sys
from flux.constants import FLUX_RPC_STREAMING
h = flux.Flux()
got = {}
for endpoint in sys.argv[1].split(","):
    f = h.rpc("ensemble." + endpoint, {}, flags=FLUX_RPC_STREAMING if endpoint in sys.argv[2] else 0)
    try:
        got[endpoint] = [0, f.wait_for(60).get()]
    except OSError as exc:
        got[endpoint] = [exc.errno, f.error_string()]
print(json.dumps(got))
"""


def test_a_guest_is_refused_at_every_endpoint(flux_instance, service, handle):
    before = ask(handle, "stats")["told"]
    env = {**flux_instance.env, "FLUX_HANDLE_ROLEMASK": "0x2", "FLUX_HANDLE_USERID": "4242"}
    asked = (*ENDPOINTS, "ping", "no-such")
    done = flux_instance.run(sys.executable, "-c", GUEST, ",".join(asked), ",".join(STREAMING), env=env)
    got = json.loads(done.stdout)
    assert set(got) == set(asked)
    for endpoint, (number, text) in got.items():
        assert number == errno.EPERM, endpoint
        assert "flux alloc" in text
        assert "flux start" in text
    assert [one for one in ask(handle, "stats")["told"] if one not in before and one[0] != "disconnect"] == []


def test_a_second_service_is_refused(flux_instance, service):
    with fake_service(flux_instance.env) as second:
        status, out, err = ended(second)
    assert status == 1
    assert out == ""
    assert "a service already runs in this instance" in err
    assert "service status" in err


def test_another_rank_is_refused(flux_instance, service):
    done = flux_instance.run("flux", "exec", "-r", "1", sys.executable, FAKE, check=False)
    assert done.returncode != 0
    assert "this is rank 1" in done.stderr
    assert "flux exec -r 0" in done.stderr


def test_the_end_is_orderly(flux_instance, service, handle):
    # The last test of the file: quit, with a stream open and requests on their way.
    stream = watch(handle, {"id": "last"})
    # Stopped meanwhile, so that all of them lie in its socket when it reads the first.
    service.send_signal(signal.SIGSTOP)
    answer = handle.rpc("ensemble.quit", {})
    behind = [handle.rpc("ensemble.log", {"n": n}) for n in range(100)]
    handle.rpc("attr.get", {"name": "rank"}).get()
    service.send_signal(signal.SIGCONT)
    assert answer.wait_for(PATIENCE).get() == {}
    assert outcome(stream) == errno.ENODATA
    assert {outcome(future) for future in behind} == {errno.ENOSYS}, "nobody is left waiting"
    status, out, err = ended(service)
    assert (status, err) == (0, "")
    assert out.splitlines()[-2:] == ["stopped", "end quit"]
    flux_instance.run("flux", "run", "true")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_whatever_thread_gets_it(flux_instance, number):
    with fake_service(flux_instance.env) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert ended(process) == (0, "stopped\nend signal\n", "")
