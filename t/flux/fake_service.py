# SPDX-License-Identifier: MIT
"""A service that does as it is told, on the real Flux transport: run as a program, for the tests of the transport.

Its endpoints: `stats` tells what it was told so far, `list` raises, `jobs` answers what is no JSON, `watch` sends one
record and stays open, `log` answers what came, `pause` throws an exception into the reactor, `status` answers twice,
`quit` ends it. The last line that it prints says why it ended.
"""

from __future__ import annotations

import errno
import os
import sys
import threading

import flux

from ensemble.errors import EnsembleError
from ensemble.service.flux_host import FluxHost


class FakeService:
    def __init__(self, host):
        self.host = host
        self.told = []
        self.streams = []

    def start(self):
        self.told.append(["start"])

    def handle(self, endpoint, payload, reply):
        if endpoint == "stats":
            reply.send({"told": self.told, "pid": os.getpid(), "open": len(self.host._streams)})
        elif endpoint == "list":
            raise RuntimeError("injected: 100%s of it")
        elif endpoint == "jobs":
            reply.send({"value": float("nan")})
        elif endpoint == "watch":
            self.streams.append((reply, payload))
            reply.send({"records": []})
        elif endpoint == "log":
            reply.send({"payload": payload, "caller": reply.caller})
        elif endpoint == "pause":
            self.host.handle.timer_watcher_create(0.0, self.burst).start()
            reply.send({})
        elif endpoint == "status":
            reply.send({"answer": 1})
            reply.send({"answer": 2})
            reply.error(errno.EINVAL, "too late")
        elif endpoint == "quit":
            reply.send({})
            self.host.stop()
        else:
            reply.error(errno.ENOENT, f"nothing to {endpoint}")

    def burst(self, *_):
        raise RuntimeError("injected into the reactor")

    def disconnect(self, caller):
        self.told.append(["disconnect", caller])

    def watch_cancel(self, caller, payload):
        self.told.append(["watch-cancel", payload])
        for reply, its in self.streams:
            if reply.caller == caller and its == payload:
                reply.end()

    def freeze(self, reason):
        print("frozen", reason, flush=True)

    def stop(self):
        for reply, _ in self.streams:
            reply.end()
        print("stopped", flush=True)


def main():
    # Numbers crunched in other threads, as numpy does it: signals may come to these.
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    try:
        print("end", FluxHost(flux.Flux()).run(FakeService, lambda: print("ready", flush=True)), flush=True)
    except EnsembleError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")


if __name__ == "__main__":
    main()
