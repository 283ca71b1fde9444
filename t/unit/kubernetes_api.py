# SPDX-License-Identifier: MIT
"""A server on this machine that answers as the API of Kubernetes does for one MiniCluster.

It knows a token, the rights of its account (403 without), the name of the object (404 for others), merge patches (415 for
another content type), and `resourceVersion` (409 where it is another one). A test may have it change the object in
between, answer what it likes, or not at all.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

PATH = "/apis/flux-framework.org/v1alpha2/namespaces/flux-operator/miniclusters/flux-sample"
TOKEN = "eyJhbGciOi.test.token"


class Api:
    """The server's state; its handler runs in other threads."""

    def __init__(self) -> None:
        self.object: Dict[str, Any] = {
            "apiVersion": "flux-framework.org/v1alpha2",
            "kind": "MiniCluster",
            "metadata": {"name": "flux-sample", "namespace": "flux-operator", "resourceVersion": "100"},
            "spec": {"size": 2, "maxSize": 6, "minSize": 1, "tasks": 1},
        }
        self.rights = {"GET", "PATCH"}
        self.requests: List[Tuple[str, Any]] = []
        #: called before a request is answered
        self.before: Callable[[str], None] = lambda method: None
        #: status and body in place of what would be answered; None hangs
        self.instead: Optional[Callable[[str], Any]] = None
        self.released = threading.Event()

    def bump(self, **spec: Any) -> None:
        """Somebody else changes the object."""
        self.object["spec"].update(spec)
        self.object["metadata"]["resourceVersion"] = str(int(self.object["metadata"]["resourceVersion"]) + 1)

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> Tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, status(401, "Unauthorized", "Unauthorized")
        if method not in self.rights:
            what = 'miniclusters.flux-framework.org "flux-sample" is forbidden: User "system:serviceaccount" cannot'
            return 403, status(403, "Forbidden", f'{what} {method.lower()} resource "miniclusters"')
        if path != PATH:
            return 404, status(404, "NotFound", f'miniclusters.flux-framework.org "{path.split("/")[-1]}" not found')
        if method == "PATCH":
            if headers.get("Content-Type") != "application/merge-patch+json":
                return 415, status(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
            patch = json.loads(body)
            version = patch.get("metadata", {}).get("resourceVersion")
            if version is not None and version != self.object["metadata"]["resourceVersion"]:
                return 409, status(
                    409, "Conflict", "the object has been modified; please apply your changes to the latest"
                )
            self.bump(**patch["spec"])
        return 200, self.object


def status(code: int, reason: str, message: str) -> Dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


@contextlib.contextmanager
def serving(folder: Path, certificate: Optional[Path] = None) -> Iterator[Tuple[Api, str]]:
    """The API and its URL; `folder` becomes a service account's."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            api.requests.append((self.command, json.loads(body) if body else None))
            api.before(self.command)
            if api.instead is not None:
                found = api.instead(self.command)
                if found is None:
                    api.released.wait(60)
                    return
                code, answer = found
            else:
                code, answer = api.answer(self.command, self.path, self.headers, body)
            text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            with contextlib.suppress(OSError):
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        do_GET = do_PATCH = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "namespace").write_text("flux-operator")
    if certificate is not None:
        text = certificate.read_text()
        (folder / "ca.crt").write_text(text[text.index("-----BEGIN CERTIFICATE") :])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api, f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        api.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
