# SPDX-License-Identifier: MIT
"""Reaches the service of the enclosing Flux instance by RPC.

Waiting happens in short slices inside `in_reactor()`: outside of it the bindings set SIGINT to its default action for
the time of a wait, and a Ctrl-C would kill the command before it could say a word.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from typing import Any, Dict, Iterator, Optional

from ensemble.errors import MemberError, NoService, NotPermitted, ServiceError, ServiceLost, service_error
from ensemble.service import last_words
from ensemble.service.client import TIMEOUT, Client
from ensemble.service.protocol import KEEPALIVE, SERVICE

#: errnos that mean: nobody there serves that name
_NOBODY = (errno.ENOSYS, errno.EHOSTUNREACH)
#: errnos of a connection that broke
_BROKEN = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNREFUSED, errno.EBADF)


def load_flux() -> Any:
    """The module `flux`: the one on sys.path, else the installed Flux's own. Raises MemberError with what to do."""
    try:
        import flux

        return flux
    except (ImportError, OSError) as exc:
        first = exc
    if shutil.which("flux") is None:
        raise MemberError(
            f"Flux's Python bindings cannot be loaded ({first}) and there is no flux command in PATH; "
            "install Flux, or use the local queue with --member local"
        ) from None
    for name in [name for name in sys.modules if name.split(".")[0] in ("flux", "_flux")]:
        del sys.modules[name]
    where = _installed_bindings()
    if where:
        sys.path.append(where)
        try:
            import flux

            return flux
        except (ImportError, OSError) as exc:
            sys.path.remove(where)
            first = exc
    version = ".".join(map(str, sys.version_info[:2]))
    raise MemberError(
        f"Flux is installed, but its Python bindings do not load in Python {version} of {sys.executable} ({first}); "
        "install the package flux-python in the version that 'flux version' prints, or use --member local"
    )


def _installed_bindings() -> Optional[str]:
    """The directory that the installed Flux's own Python loads `flux` from, or None."""
    code = "import flux, os; print(os.path.dirname(os.path.dirname(os.path.abspath(flux.__file__))))"
    try:
        done = subprocess.run(["flux", "python", "-c", code], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    path = done.stdout.strip()
    return path if done.returncode == 0 and os.path.isdir(path) else None


def open_handle(uri: Optional[str] = None) -> Any:
    """A handle of the instance at that address, or of the enclosing one. Raises MemberError if none answers."""
    flux = load_flux()
    try:
        return flux.Flux(uri) if uri else flux.Flux()
    except OSError as exc:
        given = os.environ.get("FLUX_URI")
        where = f"at {uri}" if uri else f"at FLUX_URI={given}" if given else "(FLUX_URI is not set)"
        raise MemberError(
            f"no Flux instance answers {where}: {exc.strerror or exc}; "
            "start one with 'flux start', or use the local queue with --member local"
        ) from None


def library_version() -> str:
    """The version of the libflux-core that the bindings have loaded. Raises MemberError."""
    load_flux()
    from flux.core.inner import raw

    return str(raw.flux_core_version_string().decode())


class FluxClient(Client):
    """A handle of the enclosing instance, or of the one at an address."""

    member = "flux"

    def __init__(self, uri: Optional[str] = None) -> None:
        """Raises MemberError if there is no instance to connect to."""
        self._handle: Any = open_handle(uri)

    @property
    def parent(self) -> Optional[str]:
        """The address of the instance that this one is a job of, None for one that is nobody's."""
        return str(self._guarded(lambda: self._handle.attr_get("parent-uri")) or "") or None

    def call(self, endpoint: str, payload: Optional[Dict[str, Any]] = None, timeout: float = TIMEOUT) -> Dict[str, Any]:
        rpc = self._request(endpoint, payload, 0)
        give_up = time.monotonic() + timeout
        while not self._wait(rpc, min(0.25, timeout)):
            if time.monotonic() > give_up:
                raise ServiceLost(f"the ensemble service did not answer '{endpoint}' within {timeout:g} s")
        return self._answer(rpc)

    def stream(
        self, endpoint: str, payload: Optional[Dict[str, Any]] = None, tick: float = 0.25
    ) -> Iterator[Optional[Dict[str, Any]]]:
        from flux.constants import FLUX_RPC_STREAMING

        rpc = self._request(endpoint, payload, FLUX_RPC_STREAMING)
        heard = time.monotonic()
        while True:
            if not self._wait(rpc, tick):
                if time.monotonic() - heard > 3 * KEEPALIVE:
                    raise ServiceLost(f"the ensemble service has been silent for {3 * KEEPALIVE:g} s")
                yield None
                continue
            try:
                answer = self._answer(rpc)
            except ServiceError as exc:
                if exc.errno == errno.ENODATA:
                    return
                raise
            self._guarded(rpc.reset)
            yield answer
            # the time that the caller took is not the service's silence
            heard = time.monotonic()

    def start_service(self, wait: float = 30.0) -> Dict[str, Any]:
        """Start the instance's service if none runs; returns its `stats`, with `started`. Raises NoService."""
        from ensemble.service.supervisor import start_detached

        with self._handle.in_reactor():
            return start_detached(wait=wait)

    def stop_service(self, wait: float = 30.0) -> Dict[str, Any]:
        """Stop the instance's service; returns its last `stats`. Raises NoService if none runs, or a ServiceError."""
        from ensemble.service.supervisor import service_stop

        with self._handle.in_reactor():
            try:
                return service_stop(self._handle, wait)
            except NoService as exc:
                raise _translate(OSError(errno.ENOSYS, str(exc))) from None

    def close(self) -> None:
        # the handle closes with its last reference
        self._handle = None

    def _request(self, endpoint: str, payload: Optional[Dict[str, Any]], flags: int) -> Any:
        return self._guarded(lambda: self._handle.rpc(f"{SERVICE}.{endpoint}", payload or {}, flags=flags))

    def _wait(self, rpc: Any, seconds: float) -> bool:
        """Has an answer (or an error) come within so many seconds?"""
        try:
            with self._handle.in_reactor():
                rpc.wait_for(seconds)
        except OSError as exc:
            if exc.errno == errno.ETIMEDOUT and not rpc.is_ready():
                return False
            if not rpc.is_ready():
                raise _translate(exc) from None
        return True

    def _answer(self, rpc: Any) -> Dict[str, Any]:
        with self._handle.in_reactor():
            try:
                answer = self._guarded(rpc.get)
            except NoService as exc:
                why = last_words.read(self._handle)
                raise NoService(f"{exc}; {why}" if why else str(exc)) from None
        return answer if isinstance(answer, dict) else {}

    @staticmethod
    def _guarded(call: Any) -> Any:
        try:
            return call()
        except OSError as exc:
            raise _translate(exc) from None


def _translate(exc: OSError) -> ServiceError:
    """The error of our tree for an errno from Flux; the service's own sentences pass through."""
    number = exc.errno or errno.EIO
    text = exc.strerror or str(exc)
    if number in _NOBODY:
        return NoService(
            "no ensemble service is running in this Flux instance; 'flux ensemble run FILE' starts one, "
            "and so does 'flux ensemble service start'"
        )
    if number in _BROKEN:
        own = text in ("", os.strerror(number))
        return ServiceLost(f"the connection to the Flux instance is gone ({text})" if own else text, number)
    if number == errno.EPERM and text in ("", os.strerror(errno.EPERM), "Request requires owner credentials"):
        return NotPermitted(
            "only the owner of this Flux instance may use its ensemble service; "
            "run an instance of your own with 'flux start' or 'flux alloc'"
        )
    return service_error(number, text)
