# SPDX-License-Identifier: MIT
"""The process that drives one Flux instance for a service that lives in another: `python -m ensemble.members.flux_remote`.

Law of this file: one connection to one instance, held as long as it lasts; whatever goes wrong with it ends this process
and no other. It is `FluxMember` at the other end of a line (`line.py`) to `several.py`, which starts the next one.

Theory of operation. Standard input is that line. What comes: `open`, `recover`, `start`, `want`, `perform`, `close`, `hold`,
`freeze`, each with the arguments of the member's method. What goes: `up` (when the instance came up, its URI, and whether it is a new one) at the beginning,
`event` (ensemble, event, where the output of a new job lies), `alive` now and then, `ending` with a sentence before the
end, and `ended` in its place if there will never be anything to connect to again.

For each ensemble it registers a service name of its own in the instance and so is the only one that submits for it there:
when a dead one's name is free again, the broker has read all that the dead one sent. It ends at the word that the broker is
leaving its state `run`, before that cancels all jobs, which would look like somebody's will.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any, Dict

import flux
from flux.constants import FLUX_RPC_STREAMING

from ensemble.engine.events import Event, JobEvent
from ensemble.errors import EnsembleError
from ensemble.members.flux import FluxMember
from ensemble.members.flux_nested import Ended, claim, clear, end, nested, of_job
from ensemble.members.line import Unpacker, packed

#: seconds between two signs of life, and for an answer of the broker
_BEAT, _PATIENCE = 2.0, 20.0
_LEAVING = ("cleanup", "shutdown", "finalize", "goodbye", "unload-builtins", "exit")


class Remote:
    """The loop of this process."""

    def __init__(self, peer: socket.socket, target: Dict[str, Any]) -> None:
        self._peer = peer
        self._in = Unpacker()
        #: holds the name of what is nested there
        self._home = home = flux.Flux(target["home"])
        self._fresh = False
        if "nested" in target:
            uri, self._fresh = nested(home, target["nested"], self._waiting)
        else:
            uri = target.get("uri") or of_job(home, target["job"])
        self._handle = flux.Flux(uri)
        if all(home.attr_get(name) == self._handle.attr_get(name) for name in ("local-uri", "broker.starttime")):
            raise Ended("it is the service's own instance, which is called home")
        state = self._handle.rpc("state-machine.get").get()["state"]
        if state in _LEAVING:
            raise EnsembleError(f"the instance is going down (its broker is in state {state})")
        self._member = FluxMember(self._handle, uri, remote=True)
        self._member.before_cancel = lambda: self._state(self._handle.rpc("state-machine.get"))

    def run(self) -> None:
        """Until either end is gone."""
        self._say("up", self._member.t_up, self._member.uri, self._fresh)
        self._member.watch(self._peer.fileno(), self._readable)
        self._handle.rpc("state-machine.monitor", flags=FLUX_RPC_STREAMING).then(self._changed)
        self._beat()
        try:
            self._handle.reactor_run()
        finally:
            self._end("the connection to its broker is lost")

    def _waiting(self) -> None:
        """There is nothing to connect to yet."""
        try:
            gone = not self._peer.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            gone = False
        if gone:
            os._exit(0)
        self._say("alive")

    def _say(self, *message: Any) -> None:
        try:
            self._peer.sendall(packed(message))
        except OSError:
            os._exit(0)

    def _end(self, why: str) -> None:
        self._say("ending", why)
        os._exit(0)

    def _beat(self) -> None:
        self._say("alive")
        self._handle.rpc("state-machine.get").then(self._state, timeout=_PATIENCE)
        self._member.call_at(time.time() + _BEAT, self._beat)

    def _changed(self, future: Any) -> None:
        try:
            future.get()
        except OSError:
            return  # the beat tells
        future.reset()
        self._handle.rpc("state-machine.get").then(self._state, timeout=_PATIENCE)

    def _state(self, future: Any) -> None:
        try:
            state = future.get()["state"]
        except OSError as exc:
            self._end(f"its broker does not answer ({exc.strerror})")
        else:
            if state in _LEAVING:
                self._end(f"the instance is going down (its broker is in state {state})")

    def _readable(self) -> None:
        try:
            data = self._peer.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            os._exit(0)
        self._in.feed(data)
        while True:
            message = self._in.next()
            if message is None:
                return
            try:
                self._take(*message)
            except (EnsembleError, OSError) as exc:
                self._end(str(exc))

    def _take(self, what: str, *args: Any) -> None:
        if what == "start":
            self._member.start(self._deliver)
        elif what == "open":
            claim(self._handle, _name(args[0]), f"ensemble {args[0]} in this instance")
            self._member.open(*args)
        elif what == "close":
            self._member.close(*args)
            self._handle.service_unregister(_name(args[0])).then(lambda future: None)
        else:
            getattr(self._member, what)(*args)

    def _deliver(self, ensemble: str, event: Event) -> None:
        begins = isinstance(event, JobEvent) and event.name == "submit"
        where = self._member.where(ensemble, event.id) if isinstance(event, JobEvent) and begins else ""
        self._say("event", ensemble, event, where)


def _name(ensemble: str) -> str:
    return f"ensemble-{ensemble}"


def main() -> None:
    """Serve the line at standard input for the target that stands in the first argument, as JSON; or end such (`end`, `clear`)."""
    peer = socket.socket(fileno=0)
    target = json.loads(sys.argv[1])
    if "end" in target:
        end(flux.Flux(target["home"]), target["end"])
        return
    if "clear" in target:
        clear(flux.Flux(target["home"]), target["clear"])
        return
    try:
        remote = Remote(peer, target)
    except Ended as exc:
        peer.sendall(packed(("ended", str(exc))))
    except Exception as exc:
        told = exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
        peer.sendall(packed(("ending", told)))
    else:
        remote.run()


if __name__ == "__main__":
    main()
