# SPDX-License-Identifier: MIT
"""Who is no owner learns nothing and ends nothing; who sends nonsense is told so: the real service, every endpoint."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest
from hypothesis import HealthCheck, given, settings

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]
try:
    import flux
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from _flux._core import ffi, lib
from flux.constants import FLUX_NODEID_ANY, FLUX_RPC_NORESPONSE, FLUX_RPC_STREAMING
from flux.future import Future

from ensemble.service.protocol import ENDPOINTS, MAX_REQUEST, STREAMING
from t import hostile
from t.flux.processes import PATIENCE, until
from t.flux.real_service import RealService, serving

#: what the transport answers besides the service's endpoints
MORE = ("watch-cancel", "disconnect", "ping", "no-such", "")
SECRET = "xyzzy-plugh"
PRIVATE = f"""
name: {SECRET}
jobs: [{{name: {SECRET}, command: sleep 600, environment: {{KEY: {SECRET}}}}}]
rules: [{{trigger: start, action: {{name: submit, label: {SECRET}}}}}]
"""


@pytest.fixture(scope="module")
def service(flux_instance: Any) -> Iterator[RealService]:
    with serving(flux_instance) as made:
        pid = made.pid
        yield made
        assert made.pid == pid, "it was the same one all the time"
        logged = flux_instance.run("flux", "dmesg").stdout
        assert "Traceback" not in logged
        assert "going on" not in logged


def send(handle: Any, endpoint: str, data: bytes, flags: int = 0) -> Any:
    """A request with just these bytes."""
    future = lib.flux_rpc_raw(handle.handle, f"ensemble.{endpoint}".encode(), data, len(data), FLUX_NODEID_ANY, flags)
    assert future != ffi.NULL
    return Future(future)


def outcome(future: Any) -> Tuple[int, str]:
    """0 and the answer, or the errno and its sentence."""
    future.wait_for(PATIENCE)
    text = ffi.new("char *[1]")
    if lib.flux_rpc_get(future.pimpl.handle, text) == 0:
        return 0, ffi.string(text[0]).decode() if text[0] != ffi.NULL else ""
    number = ffi.errno
    return number, future.error_string()


def flags_of(endpoint: str) -> int:
    return int(FLUX_RPC_STREAMING) if endpoint in STREAMING else 0


# guests

GUEST = """
import json, sys
sys.path.insert(0, sys.argv[1])
import flux
from t.flux.test_security import outcome, send, flags_of
requests = json.loads(sys.stdin.read())
handle = flux.Flux()
print(json.dumps([outcome(send(handle, endpoint, text.encode(), flags_of(endpoint))) for endpoint, text in requests]))
for text in sys.argv[2:]:
    send(handle, "watch-cancel", text.encode(), 1)
    send(handle, "disconnect", b"{}", 1)
handle.rpc("attr.get", {"name": "rank"}).get()
"""


def as_guest(instance: Any, requests: List[List[str]], *cancels: str, roles: str = "0x2") -> List[Any]:
    env = {**instance.env, "FLUX_HANDLE_ROLEMASK": roles, "FLUX_HANDLE_USERID": "4242"}
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", GUEST, root, *cancels],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        env=env,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: List[Any] = json.loads(done.stdout)
    return found


def test_a_guest_gets_a_sentence_and_nothing_else(flux_instance: Any, service: RealService) -> None:
    """Right, wrong and malformed requests to every endpoint: the answer is the same, whatever there is."""
    id = service.submit(PRIVATE)
    until(lambda: service.ask("status", {"id": id})["jobs"]["running"])
    before = service.ask("stats"), service.ask("list")
    payloads = ["{}", json.dumps({"id": id}), json.dumps({"id": SECRET}), "[", '{"id": 5}']
    payloads.append(json.dumps({"text": hostile.FILE, "file": "f.yaml", "submitter": {}}))
    payloads.append(json.dumps({"id": "x" * (1 << 20)}))
    requests = [[endpoint, text] for endpoint in (*ENDPOINTS, *MORE) if endpoint for text in payloads]
    answers = as_guest(flux_instance, requests)
    assert len(answers) == len(requests) > 100
    told = {tuple(answer) for answer in answers}
    assert len(told) == 1, f"what is said tells one thing from another: {told}"
    ((number, text),) = told
    assert number == errno.EPERM
    assert "only the owner" in text
    for word in (id, SECRET, os.getcwd()):
        assert word not in text
    after = service.ask("stats"), service.ask("list")
    assert after == before


def test_a_guest_ends_no_stream_of_the_owner(flux_instance: Any, service: RealService) -> None:
    id = service.submit(PRIVATE)
    stream = service.handle.rpc("ensemble.watch", {"id": id}, flags=FLUX_RPC_STREAMING)
    stream.wait_for(PATIENCE).get()
    stream.reset()
    tag = lib.flux_rpc_get_matchtag(stream.pimpl.handle)
    as_guest(flux_instance, [], json.dumps({"matchtag": tag}), *(json.dumps({"matchtag": n}) for n in range(20)))
    assert service.ask("stats")["watchers"] >= 1
    service.ask("cancel", {"id": id})
    states: List[str] = []
    while states[-1:] != ["cancelled"]:
        states += [r["state"] for r in stream.wait_for(PATIENCE).get()["records"] if r["type"] == "state"]
        stream.reset()
    with pytest.raises(OSError, match="end of stream"):
        stream.wait_for(PATIENCE).get()


# nonsense from the owner


def alive(service: RealService) -> None:
    assert isinstance(service.ask("list")["ensembles"], list)


def standing(service: RealService) -> str:
    """An ensemble of the name that hostile payloads know, active."""
    for one in service.ask("list")["ensembles"]:
        if one["name"] == "hostile" and one["state"] == "running":
            return str(one["id"])
    return service.submit("name: hostile\n" + hostile.FILE)


def fair(number: int, text: str) -> None:
    """Is that an answer, or a refusal in a sentence, and no confession of a bug?"""
    assert text
    if number == 0:
        json.loads(text)
        return
    assert number in (errno.EINVAL, errno.EPROTO, errno.ENOENT, errno.ENODATA, errno.EMSGSIZE, errno.ENOSYS), (
        number,
        text,
    )
    assert "Traceback" not in text
    assert "bug" not in text
    assert "fault of the service" not in text


def ends(endpoint: str, data: bytes) -> bool:
    """Would that end the service?"""
    return endpoint == "quit" and data.strip() in (b"", b"{}")


def tried(service: RealService, endpoint: str, data: bytes) -> None:
    if ends(endpoint, data):
        return
    if endpoint in STREAMING:
        # a connection of its own: its end ends the stream
        handle = flux.Flux(service.instance.uri)
        fair(*outcome(send(handle, endpoint, data, flags_of(endpoint))))
        return
    fair(*outcome(send(service.handle, endpoint, data)))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_any_payload_is_answered(service: RealService, endpoint: str) -> None:
    standing(service)

    @settings(max_examples=60, suppress_health_check=list(HealthCheck), database=None)
    @given(hostile.PAYLOADS)
    def payload(payload: Any) -> None:
        tried(service, endpoint, json.dumps(payload).encode())

    @settings(max_examples=30, suppress_health_check=list(HealthCheck), database=None)
    @given(hostile.RAW)
    def raw(data: bytes) -> None:
        tried(service, endpoint, data)

    payload()
    raw()
    alive(service)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_oversized_payloads_are_refused(service: RealService, endpoint: str) -> None:
    for name, payload in hostile.OVERSIZED.items():
        number, text = outcome(send(service.handle, endpoint, json.dumps(payload).encode(), flags_of(endpoint)))
        assert number in (errno.EPROTO, errno.EINVAL, errno.ENOENT, errno.EMSGSIZE), name
        assert len(text) < 1000, "and it is not sent back"
    data = json.dumps({"id": "x" * MAX_REQUEST}).encode()
    number, text = outcome(send(service.handle, endpoint, data, flags_of(endpoint)))
    assert number == errno.EMSGSIZE
    assert "4 MiB" in text
    alive(service)


@pytest.mark.parametrize("endpoint", ["watch-cancel", "ping", "no-such", "", "submit.more", "disconnect"])
def test_what_is_no_endpoint_of_the_service(service: RealService, endpoint: str) -> None:
    """The transport's own, and none: nothing is harmed, and the stream of another connection stays open."""
    id = standing(service)
    until(lambda: service.ask("stats")["watchers"] == 0)
    watching = flux.Flux(service.instance.uri)
    stream = watching.rpc("ensemble.watch", {"id": id}, flags=FLUX_RPC_STREAMING)
    stream.wait_for(PATIENCE).get()
    silent = endpoint in ("watch-cancel", "disconnect")

    @settings(max_examples=80, suppress_health_check=list(HealthCheck), database=None)
    @given(hostile.PAYLOADS.map(lambda payload: json.dumps(payload).encode()) | hostile.RAW)
    def any_payload(data: bytes) -> None:
        if silent:
            send(service.handle, endpoint, data, FLUX_RPC_NORESPONSE)
        else:
            fair(*outcome(send(service.handle, endpoint, data)))

    any_payload()
    if silent:
        for payload in hostile.OVERSIZED.values():
            send(service.handle, endpoint, json.dumps(payload).encode(), FLUX_RPC_NORESPONSE)
        for tag in range(200):
            send(service.handle, endpoint, json.dumps({"matchtag": tag}).encode(), FLUX_RPC_NORESPONSE)
    alive(service)
    assert service.ask("stats")["watchers"] == 1
    del stream, watching
    until(lambda: service.ask("stats")["watchers"] == 0)


def test_a_stream_that_is_never_read_and_whose_client_is_killed(flux_instance: Any, service: RealService) -> None:
    id = standing(service)
    until(lambda: service.ask("stats")["watchers"] == 0)
    code = (
        "import flux, os, signal, sys\n"
        "from flux.constants import FLUX_RPC_STREAMING\n"
        "h = flux.Flux()\n"
        "fs = [h.rpc('ensemble.watch', {'id': sys.argv[1]}, flags=FLUX_RPC_STREAMING) for _ in range(50)]\n"
        "[f.wait_for(60).get() for f in fs]\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = flux_instance.run(sys.executable, "-c", code, id, check=False)
    assert done.returncode == -9, done.stderr
    until(lambda: service.ask("stats")["watchers"] == 0)
