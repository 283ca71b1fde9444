# SPDX-License-Identifier: MIT
"""How the commands reach a service: the one interface, and the choice between its two carriers.

`FluxClient` asks the service of the enclosing Flux instance by RPC, `LocalClient` the services of this user on this
machine by unix socket. Both are imported only once chosen, so that a command that needs neither starts fast.
Every error leaves as one of the tree in `ensemble.errors`.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

from ensemble.errors import MemberError

MEMBERS = ("auto", "flux", "local")
#: seconds that a request may take before the service is given up
TIMEOUT = 60.0


class Client(ABC):
    """A connection to a service. Used from one thread."""

    #: flux or local
    member: str

    @abstractmethod
    def call(self, endpoint: str, payload: Optional[Dict[str, Any]] = None, timeout: float = TIMEOUT) -> Dict[str, Any]:
        """The answer to one request. Raises a ServiceError; ServiceLost after `timeout` seconds without an answer."""

    @abstractmethod
    def stream(
        self, endpoint: str, payload: Optional[Dict[str, Any]] = None, tick: float = 0.25
    ) -> Iterator[Optional[Dict[str, Any]]]:
        """The answers of a streaming request until it ends, and None whenever `tick` seconds passed without one.

        The ticks are the caller's chance to look at signals. Raises a ServiceError; ServiceLost when the service
        gave no sign of life for three of its keepalives.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the connection; the service ends its streams. Harmless when called twice."""


def choose(member: str = "auto") -> str:
    """flux or local: the carrier that `member` (one of MEMBERS) stands for here and now.

    `auto` is flux where FLUX_URI is set or the default connection (a system instance) works, else local. Raises
    MemberError where Flux is meant and cannot be used.
    """
    if member != "auto":
        return member
    if os.environ.get("FLUX_URI"):
        return "flux"
    if find_spec("flux") is None and shutil.which("flux") is None:
        return "local"
    try:
        connect("flux").close()
    except MemberError:
        return "local"
    return "flux"


def connect(member: str, rundir: Optional[Path] = None) -> Client:
    """A client of that member, flux or local. Raises MemberError, or NoService where that is known at once.

    With `rundir` one of the local queue also answers for the ensembles that lie there and have no service any more.
    """
    if member == "flux":
        from ensemble.service.flux_client import FluxClient

        return FluxClient()
    if rundir is not None:
        from ensemble.service.local_files import LocalAndFiles

        return LocalAndFiles(rundir)
    from ensemble.service.local_client import LocalClient

    return LocalClient()
