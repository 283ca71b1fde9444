# SPDX-License-Identifier: MIT
"""Ensembles of the local queue that no service has any more: read from their files, with the same answers.

How it works. `FileClient` loads the files of a folder into a service that never starts: it has no queue, and writes
nothing. An ensemble that has not ended, and that no process runs, has died with its run; it is shown where it stood.
`LocalAndFiles` is what the commands use: a request about an ensemble goes to the living service that has it, else to
the files.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Mapping, NoReturn, Optional, Sequence, Tuple

from ensemble.engine.actions import Action, Submit
from ensemble.engine.events import JobId, Key
from ensemble.errors import BadRequest, NoService, NotFound, ServiceError, ServiceLost, service_error
from ensemble.members.base import Deliver, Member, Submitter, Timer
from ensemble.service.client import TIMEOUT, Client
from ensemble.service.core import Service
from ensemble.service.file_store import FileStore
from ensemble.service.local_client import LocalClient, LocalConnection
from ensemble.service.protocol import ENDS, Host, Reply
from ensemble.service.purge import purgeable
from ensemble.service.recovery import damaged_status
from ensemble.spec.models import Spec

#: records read at a time
_PAGE = 500


def died(id: str) -> str:
    """The sentence about an ensemble whose service is gone."""
    return f"its run died; `ensemble resume {id}` continues it"


class _NoQueue(Member):
    """Runs nothing and tells nothing."""

    name = "local"
    capabilities: FrozenSet[str] = frozenset(("submit", "cancel", "kill"))

    def start(self, deliver: Deliver) -> None:
        return

    def open(self, ensemble: str, spec: Spec, submitter: Submitter, events: FrozenSet[str]) -> None:
        return

    def recover(self, ensemble: str, known: Mapping[JobId, Key], doubtful: Sequence[Submit], t: float) -> None:
        return

    def perform(self, ensemble: str, action: Action) -> None:
        return

    def close(self, ensemble: str) -> None:
        return

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        raise NotImplementedError("there is no event loop where files are merely read")

    def stop(self) -> None:
        return


class _Answer(Reply):
    """Keeps what a request was answered; all answers come before `handle` returns."""

    caller = "files"

    def __init__(self) -> None:
        self.payload: Dict[str, Any] = {}
        self.refusal: Optional[ServiceError] = None

    def send(self, payload: Dict[str, Any]) -> None:
        self.payload = payload

    def error(self, errno: int, text: str) -> None:
        self.refusal = service_error(errno, text)


class _Shelf(Service):
    """A service that shows what is stored, and lets no ensemble move."""

    def __init__(self, store: FileStore) -> None:
        super().__init__(
            _NoQueue(), store, Host("local"), log=lambda level, text: None, on_quit=lambda: None, clock=time.time
        )
        for stored in store.load():
            self._stored[stored.id] = stored
            if stored.damaged is None and stored.status is None:
                self._restore(stored)
            if stored.damaged is not None:
                stored.status = damaged_status(stored)
            stored.snapshot, stored.events = None, []
        for id, running in self._running.items():
            if running.engine.final is None and not store.alive(id):
                running.engine.reason = died(id)

    def _command(self, id: str, name: str, data: Dict[str, Any], reply: Reply, revives: bool = False) -> None:
        self._active(id)

    def _active(self, wanted: str) -> NoReturn:
        """Nothing acts on what is merely read."""
        stored, running = self._find(wanted)
        about = f"ensemble {stored.id} ({stored.given['name']})"
        if running is None or running.engine.final is not None:
            state = running.engine.final if running is not None else (stored.status or {}).get("state")
            raise BadRequest(f"{about} has ended: {state}")
        raise BadRequest(f"{about} cannot be reached: {running.engine.reason or 'its service does not answer here'}")


class FileClient(Client):
    """Reads the ensembles in a folder. Knows what was there when it was made."""

    member = "local"

    def __init__(self, rundir: Path) -> None:
        self._store = FileStore(rundir, take=None)
        self._service = _Shelf(self._store)

    def call(self, endpoint: str, payload: Optional[Dict[str, Any]] = None, timeout: float = TIMEOUT) -> Dict[str, Any]:
        answer = _Answer()
        self._service.handle(endpoint, payload, answer)
        if answer.refusal is not None:
            raise answer.refusal
        return answer.payload

    def stream(
        self, endpoint: str, payload: Optional[Dict[str, Any]] = None, tick: float = 0.25
    ) -> Iterator[Optional[Dict[str, Any]]]:
        """What is kept; then the end of the stream, or BadRequest for an ensemble that has not ended."""
        payload = payload or {}
        status = self.call("status", {"id": payload.get("id")})
        since = int(payload.get("since") or 0)
        while True:
            records = self._store.records(status["id"], since, _PAGE)
            if not records:
                break
            since = records[-1]["seq"]
            yield {"records": records}
        if status["state"] not in ENDS:
            raise BadRequest(f"ensemble {status['id']}: {status['reason'] or 'its service does not answer here'}")

    def last(self, id: str) -> int:
        """The seq of the last record that is kept."""
        return self._store.load_one(id).seq

    def close(self) -> None:
        self._store.close()


class LocalAndFiles(Client):
    """All ensembles of the local queue: those that services have, and those that lie in a folder."""

    member = "local"

    def __init__(self, rundir: Path) -> None:
        """Raises NoService where there is neither a service nor an ensemble."""
        self._rundir = rundir
        self._files: Optional[FileClient] = None
        self._known: Dict[str, Tuple[str, Client]] = {}
        self._live: List[LocalConnection] = []
        #: the services, where there is nothing but them
        self._only: Optional[LocalClient] = None
        empty = not FileStore(rundir).ids()
        try:
            client = LocalClient()
        except NoService:
            if empty:
                raise
        else:
            self._live = client.connections
            self._only = client if empty else None

    def call(self, endpoint: str, payload: Optional[Dict[str, Any]] = None, timeout: float = TIMEOUT) -> Dict[str, Any]:
        payload = payload or {}
        if endpoint == "purge":
            return {"removed": self._purge(**payload)}
        if self._only is not None:
            return self._only.call(endpoint, payload, timeout)
        if endpoint == "list":
            return {"ensembles": [summary for summary, _ in self._all()]}
        id, owner = self.owner(str(payload.get("id")))
        return owner.call(endpoint, {**payload, "id": id}, timeout)

    def stream(
        self, endpoint: str, payload: Optional[Dict[str, Any]] = None, tick: float = 0.25
    ) -> Iterator[Optional[Dict[str, Any]]]:
        payload = payload or {}
        id, owner = self.owner(str(payload.get("id")))
        return owner.stream(endpoint, {**payload, "id": id}, tick)

    def close(self) -> None:
        for connection in self._live:
            connection.close()
        if self._files is not None:
            self._files.close()

    def owner(self, wanted: str) -> Tuple[str, Client]:
        """The id of the ensemble of that id, name or beginning of an id, and who answers for it. Raises NotFound."""
        if self._only is not None:
            return wanted, self._only
        if wanted not in self._known:
            summary, owner = self._find(wanted, self._all())
            self._known[wanted] = str(summary["id"]), owner
        return self._known[wanted]

    @staticmethod
    def _find(wanted: str, found: List[Tuple[Dict[str, Any], Client]]) -> Tuple[Dict[str, Any], Client]:
        exact = [entry for entry in found if entry[0]["id"] == wanted]
        named = [entry for entry in found if entry[0]["name"] == wanted]
        begin = [entry for entry in found if entry[0]["id"].startswith(wanted)]
        if exact or named:
            return (exact or named)[-1]
        if len(begin) == 1:
            return begin[0]
        if begin:
            ids = ", ".join(summary["id"] for summary, _ in begin[:10])
            raise NotFound(f"'{wanted}' is the beginning of more than one id: {ids}")
        raise NotFound(f"no ensemble has the id or name '{wanted}'; `ensemble list` shows those there are")

    def _all(self) -> List[Tuple[Dict[str, Any], Client]]:
        """Summaries, oldest first, and who answers for each. The services first: what they let go of is in a file."""
        found: Dict[str, Tuple[Dict[str, Any], Client]] = {}
        for connection in list(self._live):
            try:
                for summary in connection.call("list", {})["ensembles"]:
                    found[summary["id"]] = summary, connection
            except ServiceLost:
                # one that ends while we ask
                self._live.remove(connection)
        for summary in self._from_files().call("list", {})["ensembles"]:
            found.setdefault(summary["id"], (summary, self._from_files()))
        return sorted(found.values(), key=lambda entry: float(entry[0].get("t_submit") or 0.0))

    def _from_files(self) -> FileClient:
        if self._files is None:
            self._files = FileClient(self._rundir)
        return self._files

    def _purge(
        self, ids: Sequence[str] = (), older_than: Optional[float] = None, keep: int = 0
    ) -> List[Dict[str, Any]]:
        found = self._all()
        asked = [self._find(id, found) for id in ids] if ids else found
        owners = {summary["id"]: owner for summary, owner in asked}
        chosen = {summary["id"]: summary for summary, _ in asked}
        removed: List[Dict[str, Any]] = []
        for summary in purgeable(list(chosen.values()), time.time(), older_than, keep, bool(ids)):
            removed += owners[summary["id"]].call("purge", {"ids": [summary["id"]]})["removed"]
        return removed
