# SPDX-License-Identifier: MIT
"""The program that sets the size of a MiniCluster, against a server that answers as the API of Kubernetes does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

import pytest

from ensemble.members import scaler_minicluster
from t.unit.kubernetes_api import Api, serving, status

PROGRAM = scaler_minicluster.__file__


class Pod:
    """Runs the program as the service does."""

    def __init__(self, api: Api, server: str, account: Path) -> None:
        self.api = api
        self.server = server
        self.account = account

    def run(
        self, action: str, extent: int, *words: str, server: bool = True, **environment: str
    ) -> Tuple[Optional[int], str]:
        """The size that it says was set, and what it has said of a failure."""
        where = ["--server", self.server] if server else []
        done = subprocess.run(
            [
                sys.executable,
                "-I",
                "-S",
                PROGRAM,
                "--account",
                str(self.account),
                "--object",
                "flux-sample",
                *where,
                *words,
            ],
            env={"ENSEMBLE_ACTION": action, "ENSEMBLE_EXTENT": str(extent), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        size = int(done.stdout.strip().split("=")[1]) if done.returncode == 0 else None
        assert (size is None) == bool(done.stderr)
        return size, done.stderr.strip()

    @property
    def methods(self) -> List[str]:
        return [method for method, _ in self.api.requests]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    with serving(tmp_path / "account") as (api, server):
        yield Pod(api, server, tmp_path / "account")


@pytest.mark.parametrize(
    ("action", "extent", "size"),
    [("grow", 4, 4), ("grow", 9, 6), ("grow", 1, 2), ("shrink", 1, 1), ("shrink", 3, 2), ("grow", 2, 2)],
)
def test_the_size_is_patched_within_the_bounds_of_the_object(pod: Pod, action: str, extent: int, size: int) -> None:
    assert pod.run(action, extent) == (size, "")
    assert pod.api.object["spec"] == {"size": size, "maxSize": 6, "minSize": 1, "tasks": 1}
    if size != 2:
        assert pod.api.requests[1] == ("PATCH", {"metadata": {"resourceVersion": "100"}, "spec": {"size": size}})
    else:
        assert pod.methods == ["GET"], "there is nothing to change"
    assert pod.run(action, extent) == (size, "") or extent > 6, "asked for again, it is the same"
    assert pod.api.object["spec"]["size"] == size


def test_a_bound_that_is_reached_is_a_refusal(pod: Pod) -> None:
    pod.api.object["spec"].update(size=6)
    assert pod.run("grow", 7) == (None, "the MiniCluster has 6 nodes, and its maxSize of 6 allows no grow")
    pod.api.object["spec"].update(size=3, minSize=3)
    assert pod.run("shrink", 2) == (None, "the MiniCluster has 3 nodes, and its minSize of 3 allows no shrink")
    pod.api.object["spec"].update(size=5)
    assert pod.run("shrink", 2) == (3, "")


def test_a_conflict_is_read_again_and_nobody_else_is_overwritten(pod: Pod) -> None:
    changes = iter([{"tasks": 5}, {"maxSize": 3}])

    def before(method: str) -> None:
        if method == "PATCH":
            change = next(changes, None)
            if change is not None:
                pod.api.bump(**change)

    pod.api.before = before
    assert pod.run("grow", 4) == (3, "")
    assert pod.methods == ["GET", "PATCH"] * 3
    assert pod.api.object["spec"] == {"size": 3, "maxSize": 3, "minSize": 1, "tasks": 5}


def test_conflicts_without_an_end_are_given_up(pod: Pod) -> None:
    pod.api.before = lambda method: pod.api.bump() if method == "PATCH" else None
    size, text = pod.run("grow", 4)
    assert size is None
    assert "was answered 409 (the object has been modified" in text
    assert text.endswith(f"it was tried {scaler_minicluster.TRIES} times")
    assert pod.methods == ["GET", "PATCH"] * scaler_minicluster.TRIES
    assert pod.api.object["spec"]["size"] == 2


def test_a_token_that_is_not_accepted_and_rights_that_are_missing(pod: Pod) -> None:
    pod.api.rights.discard("PATCH")
    _, text = pod.run("grow", 4)
    assert (
        "PATCH /apis/flux-framework.org/v1alpha2/namespaces/flux-operator/miniclusters/flux-sample was answered 403"
        in text
    )
    assert "its role needs get and patch of miniclusters in flux-framework.org" in text
    (pod.account / "token").write_text("another")
    _size, text = pod.run("grow", 4)
    assert "was answered 401 (Unauthorized); the token is not accepted" in text
    assert "another" not in text
    assert pod.methods == ["GET", "PATCH", "GET"], "neither is tried again"


def test_an_object_that_is_not_there(pod: Pod) -> None:
    assert "was answered 404" in pod.run("grow", 4, "--object", "other")[1]
    assert "there is no such MiniCluster" in pod.run("grow", 4, "--namespace", "elsewhere")[1]
    assert "'Sample/../x' cannot be the object" in pod.run("grow", 4, "--object", "Sample/../x")[1]


def test_a_content_type_that_is_not_known(pod: Pod) -> None:
    """The server refuses what is no merge patch: the program sends one."""
    api = pod.api
    assert api.answer("PATCH", "/x", {"Authorization": "Bearer eyJhbGciOi.test.token"}, b"{}")[0] == 404
    pod.api.instead = lambda method: (415, status(415, "UnsupportedMediaType", "unknown format"))
    assert "was answered 415 (unknown format)" in pod.run("grow", 4)[1]


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b'{"spec": 3}', b'{"spec": {"size": "two"}}', b"\xff\xfe", b""]
)
def test_garbage_is_told(pod: Pod, body: bytes) -> None:
    pod.api.instead = lambda method: (200, body)
    _size, text = pod.run("grow", 4)
    assert text in (
        "the API of Kubernetes has answered what is no MiniCluster",
        "the MiniCluster's size is 'two', which is no number",
    )
    pod.api.instead = lambda method: (418, body)
    assert "was answered 418" in pod.run("grow", 4)[1]


def test_a_server_that_is_busy_is_asked_again(pod: Pod) -> None:
    answers = iter([(503, b"busy"), (429, b"later")])
    api = pod.api

    def instead(method: str) -> Any:
        found = next(answers, None)
        if found is None:
            api.instead = None
            return 500, b"once more"
        return found

    api.instead = instead
    assert pod.run("grow", 4) == (4, "")


def test_a_server_that_does_not_answer(pod: Pod, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(scaler_minicluster, "PATIENCE", 0.2)
    monkeypatch.setattr(scaler_minicluster, "TRIES", 2)
    pod.api.instead = lambda method: None
    monkeypatch.setenv("ENSEMBLE_ACTION", "grow")
    monkeypatch.setenv("ENSEMBLE_EXTENT", "4")
    with pytest.raises(SystemExit) as ended:
        scaler_minicluster.main(["--account", str(pod.account), "--object", "flux-sample", "--server", pod.server])
    assert ended.value.code == 1
    assert "has not answered within 0.2 s; it was tried 2 times" in capsys.readouterr().err
    assert pod.methods == ["GET", "GET"]


def test_outside_of_a_pod_it_says_what_is_missing(pod: Pod, tmp_path: Path) -> None:
    assert "this is no pod of Kubernetes" in pod.run("grow", 4, server=False)[1]
    host = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    assert "token cannot be read" in pod.run("grow", 4, "--account", str(tmp_path / "none"), server=False, **host)[1]
    assert scaler_minicluster._own_name("flux-sample-3") == "flux-sample"
    assert scaler_minicluster._own_name("flux-sample-0-8vbkx") == "flux-sample"
    with pytest.raises(scaler_minicluster.Failure):
        scaler_minicluster._own_name("laptop")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so there is no certificate to serve with")
    made = tmp_path / "both.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "k"), "-out", str(tmp_path / "c")]
    subprocess.run([*words, *more], check=True, capture_output=True)
    made.write_text((tmp_path / "k").read_text() + (tmp_path / "c").read_text())
    return made


def test_in_a_pod_all_is_found_and_the_server_has_to_prove_itself(tmp_path: Path, certificate: Path) -> None:
    with serving(tmp_path / "account", certificate) as (api, server):
        pod = Pod(api, server, tmp_path / "account")
        host = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": server.rsplit(":", 1)[1]}
        assert pod.run("grow", 4, server=False, **host) == (4, "")
        assert json.dumps(api.requests[-1]) == json.dumps(
            ["PATCH", {"metadata": {"resourceVersion": "100"}, "spec": {"size": 4}}]
        )
        os.remove(tmp_path / "account" / "ca.crt")
        _size, text = pod.run("grow", 5, server=False, **host)
        assert "no certificate that can be trusted" in text
        assert api.object["spec"]["size"] == 4
