# SPDX-License-Identifier: MIT
"""How the server reaches the ensemble service: as every command does, by a connection for each request.

Law of this file: nothing of the service runs in this process, and nothing is kept between two requests. So the
outside can block or kill neither, and a service that was restarted is found again without a word.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Any, Callable, Dict, Iterator, Optional

from ensemble.cli import local_start
from ensemble.errors import BadRequest, ServiceError
from ensemble.service.client import Client, connect

#: seconds for an answer: of a service that is killed in the middle none ever comes, and a caller has a limit of its own
PATIENCE = 20.0


class Backend:
    """The service that is offered. Used from any thread."""

    def __init__(self, kind: str, rundir: Optional[str]) -> None:
        """`kind` is flux or local."""
        self.kind = kind
        self._rundir = rundir

    def call(self, endpoint: str, payload: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """The answer to one request. Raises EnsembleError."""
        if endpoint == "submit":
            client = self._submitting()
        else:
            # about a service, not about an ensemble that may lie in a folder
            client = connect(self.kind) if endpoint == "stats" else self._connect()
        with contextlib.closing(client):
            if endpoint == "put":
                return self._put(client, payload or {})
            return client.call(endpoint, payload, PATIENCE)

    def watch(self, id: str, since: int, wanted: Callable[[], bool]) -> Iterator[Dict[str, Any]]:
        """The records after `since`, until the end of the ensemble, or nobody wants them. Raises EnsembleError."""
        with contextlib.closing(self._connect()) as client:
            # by its id from here on: the name might come to mean another
            id = str(client.call("status", {"id": id}, PATIENCE)["id"])
            while True:
                try:
                    for answer in client.stream("watch", {"id": id, "since": since}):
                        if not wanted():
                            return
                        for record in (answer or {}).get("records", ()):
                            # a picture of the counts carries the seq of the last record
                            since = max(since, int(record["seq"]))
                            yield record
                    return
                except ServiceError as exc:
                    # one request buys so many records; who has read them asks again
                    if exc.errno != errno.EOVERFLOW:
                        raise type(exc)(f"{exc}; watch again with since: {since}", exc.errno) from None

    def start(self) -> Dict[str, Any]:
        """Start the service where none runs; its `stats`. Raises EnsembleError."""
        with contextlib.closing(self._submitting()) as client:
            return client.call("stats", None, PATIENCE)

    def _connect(self) -> Client:
        return connect(self.kind, None if self.kind == "flux" else local_start.run_dir(self._rundir))

    def _submitting(self) -> Client:
        """A connection to the service that takes submissions, which is started where none runs."""
        if self.kind == "flux":
            from ensemble.service.flux_client import FluxClient

            client = FluxClient()
            client.start_service()
            return client
        return local_start.background() or local_start.start_background(self._rundir).connection

    def _put(self, client: Client, payload: Dict[str, Any]) -> Dict[str, Any]:
        from ensemble.service.local_files import FileClient, LocalAndFiles

        if not isinstance(client, LocalAndFiles):
            return client.call("put", payload, PATIENCE)
        # there are many services of the local queue, and a key begins with the ensemble that it is of
        id, owner = client.owner(str(payload["key"]).split("/")[0])
        if isinstance(owner, FileClient):
            raise BadRequest(f"no service runs ensemble {id} any more, so its jobs' values are not taken")
        return owner.call("put", payload, PATIENCE)
