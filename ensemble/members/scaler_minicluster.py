# SPDX-License-Identifier: MIT
"""Sets `spec.size` of a MiniCluster of the Flux Operator, by the API of Kubernetes.

Law of this file: a program of its own, standard library only, run by path (`python -I -S`); it may wait for the network,
its caller ends it when that takes too long. What it is to bring about stands in its environment (`scaler_program.py`).

How it works. The object is read; the size is set by a merge patch that names the `resourceVersion` that was read, so that a
change by somebody else in between is answered 409, and not overwritten: then all begins anew, `TRIES` times at most. The
size stays within the object's `minSize` and `maxSize`; a grow never makes it smaller, and a shrink never larger. What was
set is printed for the caller. Where it runs in a pod, the address of the API comes from the environment, and the token,
the authority's certificate and the namespace from the service account's folder.

The role of that account needs the verbs get and patch of `miniclusters` in the group `flux-framework.org`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import ssl
import sys
import time
import urllib.parse
from typing import Any, Dict, List, NoReturn, Optional, Tuple

GROUP = "flux-framework.org/v1alpha2"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
#: times that the whole is tried where others change the object as well, or the API is busy
TRIES = 6
#: seconds for one answer, and between the first two tries
PATIENCE, PAUSE = 30.0, 0.2
#: bytes of an answer
_MOST = 8 << 20
#: answers that may be others the next time
_AGAIN = (409, 429, 500, 503, 504)


class Failure(Exception):
    """It cannot be done; the text is a sentence for the user."""


class Again(Failure):
    """It could not be done now."""


class Api:
    """One MiniCluster at the API of Kubernetes."""

    def __init__(self, server: str, path: str, token: str, authority: Optional[str]) -> None:
        self._url = urllib.parse.urlsplit(server)
        self._path = self._url.path.rstrip("/") + path
        self._token = token
        self._authority = authority

    def request(self, method: str, body: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """The object as it is after that. Raises Failure, or Again where another try may help."""
        headers = {"Accept": "application/json", "Authorization": f"Bearer {self._token}"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/merge-patch+json"
        connection = self._connect()
        try:
            connection.request(method, self._path, data, headers)
            answer = connection.getresponse()
            text = answer.read(_MOST)
        except (socket.timeout, TimeoutError):
            raise Again(f"the API of Kubernetes has not answered within {PATIENCE:g} s") from None
        except ssl.SSLCertVerificationError as exc:
            raise Failure(
                f"the API of Kubernetes has no certificate that can be trusted: {exc.verify_message}"
            ) from None
        except (OSError, http.client.HTTPException) as exc:
            raise Again(f"the API of Kubernetes at {self._url.netloc} cannot be reached ({exc})") from None
        finally:
            connection.close()
        if answer.status != 200:
            kind = Again if answer.status in _AGAIN else Failure
            raise kind(self._refusal(method, answer.status, text))
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("spec"), dict):
            raise Failure("the API of Kubernetes has answered what is no MiniCluster")
        return found

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=PATIENCE)
        try:
            context = ssl.create_default_context(cafile=self._authority)
        except (OSError, ssl.SSLError) as exc:
            raise Failure(f"the authority's certificate {self._authority} cannot be read ({exc})") from None
        return http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=context)

    def _refusal(self, method: str, status: int, text: bytes) -> str:
        try:
            message = json.loads(text)["message"]
        except (ValueError, KeyError, TypeError):
            message = text[:200].decode("utf-8", "replace")
        what = f"{method} {self._path} was answered {status}"
        hint = {
            401: "the token is not accepted: is the service account's folder that of this pod?",
            403: "the service account may not do that: its role needs get and patch of miniclusters in "
            "flux-framework.org",
            404: "there is no such MiniCluster: give its name as object, and its namespace",
        }.get(status)
        said = " ".join(str(message).split())
        return f"{what} ({said})" + (f"; {hint}" if hint else "")


def resize(api: Api, action: str, extent: int) -> int:
    """Bring the MiniCluster to that size, within its bounds; the size that it has then. Raises Failure."""
    pause = PAUSE
    for number in range(TRIES):
        try:
            found = api.request("GET")
            size, wanted, bound = _sizes(found, action, extent)
            if wanted == size:
                if bound is not None:
                    raise Failure(f"the MiniCluster has {size} nodes, and its {bound} allows no {action}")
                return size
            version = (found.get("metadata") or {}).get("resourceVersion")
            patch = {"metadata": {"resourceVersion": version}, "spec": {"size": wanted}}
            return _size(api.request("PATCH", patch)["spec"], "size", wanted)
        except Again as exc:
            if number == TRIES - 1:
                raise Failure(f"{exc}; it was tried {TRIES} times") from None
            time.sleep(pause)
            pause *= 2
    raise AssertionError("not reached")


def _sizes(found: Dict[str, Any], action: str, extent: int) -> Tuple[int, int, Optional[str]]:
    """The size that there is, the one to set, and the bound that keeps it from being the wanted one."""
    spec = found["spec"]
    size = _size(spec, "size", 1)
    least, most = _size(spec, "minSize", 0), _size(spec, "maxSize", 0)
    wanted, bound = extent, None
    if most and wanted > most:
        wanted, bound = most, f"maxSize of {most}"
    if wanted < max(least, 1):
        wanted, bound = max(least, 1), f"minSize of {least}"
    if action == "grow":
        return size, max(size, wanted), bound if extent > size else None
    return size, min(size, wanted), bound if extent < size else None


def _size(found: Dict[str, Any], word: str, default: int) -> int:
    value = found.get(word, default)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise Failure(f"the MiniCluster's {word} is {value!r}, which is no number")
    return value


def _api(args: argparse.Namespace) -> Api:
    account = args.account or ACCOUNT
    server = args.server
    if server is None:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise Failure(
                "this is no pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set): give the server, and an account"
            )
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    token = _read(os.path.join(account, "token"))
    namespace = args.namespace or _read(os.path.join(account, "namespace"))
    authority = os.path.join(account, "ca.crt")
    name = args.object or _own_name(socket.gethostname())
    for what, word in (("namespace", namespace), ("object", name)):
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", word):
            raise Failure(f"{word!r} cannot be the {what}: expected lower-case letters, digits, - and .")
    path = f"/apis/{GROUP}/namespaces/{namespace}/miniclusters/{name}"
    return Api(server, path, token, authority if os.path.exists(authority) else None)


def _own_name(host: str) -> str:
    """Pods of a MiniCluster are called NAME-INDEX, with or without letters behind."""
    found = re.fullmatch(r"(.+?)-\d+(?:-[a-z0-9]{5})?(?:\..*)?", host)
    if found is None:
        raise Failure(f"the host's name {host!r} does not tell the MiniCluster's: give it as object")
    return found.group(1)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read().strip()
    except (OSError, ValueError) as exc:
        raise Failure(f"the service account's {path} cannot be read ({exc})") from None
    if not text or "\n" in text:
        raise Failure(f"the service account's {path} holds no single line")
    return text


def main(argv: Optional[List[str]] = None) -> NoReturn:
    """Do what the environment says; exit 0, or 1 behind a sentence."""
    parser = argparse.ArgumentParser()
    for word in ("object", "namespace", "server", "account"):
        parser.add_argument(f"--{word}")
    args = parser.parse_args(argv)
    try:
        size = resize(_api(args), os.environ["ENSEMBLE_ACTION"], int(os.environ["ENSEMBLE_EXTENT"]))
    except Failure as exc:
        print(exc, file=sys.stderr)
        raise SystemExit(1) from None
    print(f"ENSEMBLE_EXTENT={size}")
    raise SystemExit(0)


if __name__ == "__main__":
    main()
