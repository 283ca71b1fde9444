# SPDX-License-Identifier: MIT
"""What operators do over gRPC, against a server over the local queue; and what is refused, with which status."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ensemble.server import wire
from ensemble.service.client import connect
from ensemble.service.protocol import MAX_REQUEST
from t.server.served import COMMAND, HELLO, WAITS, Caller, Served, secure


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    one = Served(folder, "--member", "local", "--rundir", str(folder / "run"))
    yield one
    code = one.end()
    client = connect("local")
    client.call("quit")
    client.close()
    assert code == 0


@pytest.fixture
def call(served: Served) -> Iterator[Caller]:
    one = secure(served)
    yield one
    one.close()


def test_an_ensemble_from_its_submission_to_its_end(call: Caller) -> None:
    answer = call("Submit", text=HELLO)
    records = list(call("Watch", id=answer.id))
    kept = [record.seq for record in records if record.type != "metric"]
    assert kept == list(range(1, len(kept) + 1))
    assert json.loads(records[-1].json)["state"] == "complete"
    status = call("Status", id="hello")
    assert (status.summary.id, status.summary.state, status.summary.jobs.success) == (answer.id, "complete", 3)
    assert json.loads(status.json)["groups"]["a"]["success"] == 3
    assert answer.id in [each.id for each in call("List").ensembles]
    jobs = call("Jobs", id=answer.id, max=2)
    assert (len(jobs.jobs), jobs.total) == (2, 3)
    assert [record.seq for record in call("Watch", id=answer.id, since=kept[-2])] == kept[-1:]


def test_signal_put_pause_and_cancel(call: Caller) -> None:
    id = call("Submit", text=WAITS).id
    for record in call("Watch", id=id):
        if record.type == "job" and json.loads(record.json)["event"] == "start":
            break
    put = call("Put", key=f"{id}/rule-1/1/0/0", values={"loss": 0.5, "bad": float("nan")})
    assert (list(put.taken), list(put.refused)) == (["loss"], ["bad"])
    assert call("Pause", id=id).state == "paused"
    assert call("Resume", id=id).state == "running"
    assert call("Signal", id=id, name="nobody").rules == 0
    assert call("Signal", id=id, name="enough", data='{"why": "tested"}', token="t1").rules == 1
    assert json.loads(list(call("Watch", id=id))[-1].json)["state"] == "complete"
    other = call("Submit", text=WAITS, cwd="/", environment={"A": "b"}).id
    assert call("Cancel", id=other).id == other
    assert json.loads(list(call("Watch", id=other))[-1].json)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("method", "fields", "status", "words"),
    [
        ("Status", {"id": "nono"}, "NOT_FOUND", "no ensemble"),
        ("Status", {}, "INVALID_ARGUMENT", "'id' is empty"),
        ("Watch", {"id": "nono"}, "NOT_FOUND", "no ensemble"),
        ("Submit", {"text": "jobs: ["}, "INVALID_ARGUMENT", "ensemble.yaml:"),
        ("Signal", {"id": "hello", "name": "x", "data": "[1]"}, "INVALID_ARGUMENT", "JSON object"),
        ("Signal", {"id": "hello", "name": "x", "data": "{"}, "INVALID_ARGUMENT", "no JSON"),
        ("Jobs", {"id": "hello", "max": -1}, "INVALID_ARGUMENT", "max"),
        ("Put", {"key": "nonsense", "values": {"x": 1.0}}, "NOT_FOUND", "nonsense"),
        ("Resume", {"id": "hello", "limits": {"max_jobs": "many"}}, "INVALID_ARGUMENT", "max_jobs"),
        ("Cancel", {"id": "hello"}, "INVALID_ARGUMENT", "has ended"),
    ],
)  # fmt: skip
def test_refusals_have_a_status_and_a_sentence(call: Caller, method: str, fields: Any, status: str, words: str) -> None:
    if fields.get("id") == "hello":
        list(call("Watch", id=call("Submit", text=HELLO).id))
    code, sentence = call.fault(method, **fields)
    assert code == status, sentence
    assert words in sentence


def test_without_the_token_nothing_is_served(served: Served) -> None:
    cert = served.folder / "state" / "cert.pem"
    for token in (None, "", "wrong", served.token()[:-1], served.token() + "x"):
        caller = Caller(served.port, cert, token)
        for service in wire.SERVICES:
            for method in wire.pool.FindServiceByName(service).methods:
                code, sentence = caller.bytes(f"/{service}/{method.name}", b"")
                assert code == "UNAUTHENTICATED"
                assert "authorization: Bearer" in sentence
        caller.close()
    plain = Caller(served.port, None, served.token(), "127.0.0.1")
    assert plain.fault("List")[0] == "UNAVAILABLE"
    plain.close()


@pytest.mark.parametrize("scheme", ["bearer ", "BEARER ", "Bearer   "])
def test_the_scheme_of_the_token_is_of_any_case(served: Served, scheme: str) -> None:
    caller = Caller(served.port, served.folder / "state" / "cert.pem", None)
    path = f"/{wire.ENSEMBLES}/List"
    assert caller.bytes(path, b"", [("authorization", scheme + served.token())]) == ("OK", "")
    for wrong in (scheme + served.token() + "x", scheme.strip() + served.token(), scheme, "Basic " + served.token()):
        assert caller.bytes(path, b"", [("authorization", wrong)])[0] == "UNAUTHENTICATED", wrong
    caller.close()


def test_bytes_that_are_no_message(call: Caller) -> None:
    path = f"/{wire.ENSEMBLES}/Status"
    code, sentence = call.bytes(path, b"\xff\xff\xff")
    assert (code, "ensemble.v1.EnsembleRequest" in sentence) == ("INVALID_ARGUMENT", True)
    code, sentence = call.bytes(path, b"\x0a" + b"x" * MAX_REQUEST)
    assert (code, "send less" in sentence) == ("RESOURCE_EXHAUSTED", True)
    assert call.bytes(path, b"x" * (3 * MAX_REQUEST))[0] == "RESOURCE_EXHAUSTED"
    assert call.bytes(f"/{wire.ENSEMBLES}/Nonsense", b"")[0] == "UNIMPLEMENTED"
    assert call("List") is not None


def test_the_predecessors_client(call: Caller) -> None:
    def status(**fields: str) -> Any:
        return call("RequestStatus", wire.OPERATOR, **fields)

    def fault(**fields: str) -> Any:
        return call.fault("RequestAction", wire.OPERATOR, **fields)

    id = call("Submit", text=WAITS).id
    answer = status(member="local", name=id)
    assert (answer.status, json.loads(answer.payload)["id"]) == (1, id)
    assert id in [each["id"] for each in json.loads(status().payload)["ensembles"]]
    assert call.fault("RequestStatus", wire.OPERATOR, member="flux")[0] == "NOT_FOUND"
    # the local queue cannot change its size
    for action in ("grow", "shrink"):
        answer = call("RequestAction", wire.OPERATOR, name=id, action=action, payload=json.dumps({action: 2}))
        assert (answer.status, f"no way to {action}" in answer.payload) == (3, True)
    assert fault(name=id, action="dance") == ("INVALID_ARGUMENT", "'dance' is no action; there are grow and shrink")
    assert fault(name=id, action="grow", payload="2")[0] == "INVALID_ARGUMENT"
    assert fault(name=id, action="grow", payload='{"grow": -2}')[0] == "INVALID_ARGUMENT"
    assert fault(name=id, action="grow", payload='{"grow": "two"}')[0] == "INVALID_ARGUMENT"
    for action in ("grow", "shrink"):
        assert fault(name=id, action=action, payload=json.dumps({action: 0}))[0] == "INVALID_ARGUMENT", "not 1"
    assert fault(action="grow")[0] == "INVALID_ARGUMENT"
    call("Cancel", id=id)


def test_health_for_everybody_and_reflection_for_those_with_the_token(call: Caller) -> None:
    check = health_pb2_grpc.HealthStub(call.channel).Check
    for name in ("", *wire.SERVICES):
        assert check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
    ask = reflection_pb2_grpc.ServerReflectionStub(call.channel).ServerReflectionInfo
    request = reflection_pb2.ServerReflectionRequest
    with pytest.raises(grpc.RpcError) as refused:
        next(ask(iter([request(list_services="")])))
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    answer = next(ask(iter([request(list_services="")]), metadata=call.metadata))
    assert {*wire.SERVICES, "grpc.health.v1.Health"} <= {s.name for s in answer.list_services_response.service}
    for name in wire.SERVICES:
        answer = next(ask(iter([request(file_containing_symbol=name)]), metadata=call.metadata))
        assert answer.file_descriptor_response.file_descriptor_proto


class _Token(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Sends the token with each call, as a client does that knows nothing of our metadata."""

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self.metadata), request)

    intercept_stream_stream = intercept_unary_unary


def test_a_client_that_knows_the_service_by_its_reflection_alone(call: Caller) -> None:
    """As grpcurl does it: names, methods and messages all come from the server."""
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    channel = grpc.intercept_channel(call.channel, _Token(call.metadata))
    database = ProtoReflectionDescriptorDatabase(channel)
    names = set(database.get_services())
    operator = "convergedcomputing.org.grpc.v1.EnsembleOperator"
    assert {operator, "ensemble.v1.Ensembles", "grpc.health.v1.Health"} <= names
    pool = DescriptorPool(database)

    def ask(service: str, method: str, /, **fields: Any) -> Any:
        found = pool.FindServiceByName(service).FindMethodByName(method)
        path = f"/{service}/{method}"
        send = channel.unary_unary(path, lambda m: m.SerializeToString(), GetMessageClass(found.output_type).FromString)
        return send(GetMessageClass(found.input_type)(**fields), timeout=PATIENCE)

    id = ask("ensemble.v1.Ensembles", "Submit", text=WAITS).id
    answer = ask(operator, "RequestStatus", member="local", name=id)
    assert (answer.status, json.loads(answer.payload)["id"]) == (1, id)
    answer = ask(operator, "RequestAction", name=id, action="grow", payload='{"grow": 2}')
    assert (answer.status, "no way to grow" in answer.payload) == (3, True)
    assert ask("ensemble.v1.Ensembles", "Cancel", id=id).id == id
    for name in ("", *names - {"grpc.reflection.v1alpha.ServerReflection", "grpc.health.v1.Health"}):
        assert ask("grpc.health.v1.Health", "Check", service=name).status == 1, name
    # a watch of the health begins with what it is
    health = health_pb2_grpc.HealthStub(call.channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    assert next(health).status == health_pb2.HealthCheckResponse.SERVING
    health.cancel()
    with pytest.raises(grpc.RpcError) as unknown:
        ask("grpc.health.v1.Health", "Check", service="nono")
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


def test_secrets_are_the_owners_alone(served: Served) -> None:
    state = served.folder / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for name in ("cert.pem", "key.pem", "token"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    said = served.said()
    assert served.token() not in said
    assert str(state / "cert.pem") in said
    assert str(state / "token") in said


def refused(*options: str) -> str:
    done = subprocess.run([*COMMAND, "--port", "0", *options], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return done.stderr


PATIENCE = 60


def test_what_is_not_safe_is_refused(tmp_path: Path) -> None:
    assert "leave out --insecure" in refused("--host", "0.0.0.0", "--insecure")
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o644)
    state = ("--state", str(tmp_path / "state"))
    assert f"chmod 600 {token}" in refused("--token-file", str(token), *state)
    token.chmod(0o600)
    token.write_text("short\n")
    assert "holds no token" in refused("--token-file", str(token), *state)
    assert "go together" in refused("--tls-cert", str(token), *state)
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o755)
    assert f"chmod 700 {open_folder}" in refused("--state", str(open_folder))
    (tmp_path / "state" / "key.pem").write_text("nonsense")
    assert "no certificate and key" in refused(*state)


def test_insecure_by_the_word_alone(tmp_path: Path, served: Served) -> None:
    one = Served(tmp_path, "--insecure", "--member", "local")
    try:
        caller = Caller(one.port, None, None, "127.0.0.1")
        assert caller("List") is not None
        caller.close()
        assert "WITHOUT TLS AND WITHOUT A TOKEN" in one.said()
        assert not (tmp_path / "state").exists()
    finally:
        assert one.end() == 0


def test_a_port_that_is_taken(served: Served, tmp_path: Path) -> None:
    options = ("--port", str(served.port), "--member", "local", "--state", str(tmp_path / "state"))
    assert "cannot listen" in refused(*options)


def test_there_is_room_for_so_many_streams(tmp_path: Path, served: Served) -> None:
    one = Served(tmp_path, "--streams", "1", "--member", "local", "--rundir", str(served.folder / "run"))
    try:
        call = secure(one)
        id = call("Submit", text=WAITS).id
        first = call("Watch", id=id)
        next(first)
        code, sentence = call.fault("Watch", id=id)
        assert (code, "1 streams are open" in sentence) == ("RESOURCE_EXHAUSTED", True)
        assert call("Status", id=id).summary.state == "running"
        first.cancel()
        call("Cancel", id=id)
        call.close()
    finally:
        assert one.end() == 0


def test_the_compiled_descriptions_are_those_of_the_files(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="ensemble-server: grpcio-tools is not installed")
    folder = wire.DESCRIPTIONS.parent
    out = tmp_path / "all.binpb"
    names = sorted(path.name for path in folder.glob("*.proto"))
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={out}", *names]) == 0
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    made, kept = (FileDescriptorSet.FromString(path.read_bytes()) for path in (out, wire.DESCRIPTIONS))
    assert made == kept, "run `make proto`"


def test_without_grpc_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'grpc':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert done.returncode == 2
    assert "has no grpc: install it with" in done.stderr
    assert "Traceback" not in done.stderr
