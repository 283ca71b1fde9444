# SPDX-License-Identifier: MIT
"""The contract's driver for a remote member: the server's end on a loop here, `Processes` at the far end of a real line."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any, Callable, List

import grpc

from ensemble.engine.events import JobId
from ensemble.members.contract import MemberDriver
from ensemble.members.remote import RemoteMember
from ensemble.server import remote, wire
from ensemble.server.attach import Members
from ensemble.server.processes import Processes


class _Host:
    """What the line's servicer needs of a server."""

    def __init__(self, member: RemoteMember) -> None:
        self.member = member

    def hand(self, call: Callable[[], Any]) -> None:
        if not self.member.loop.is_closed():
            self.member.loop.call_soon_threadsafe(call)


class RemoteDriver(MemberDriver):
    """A member, its server, and a thread that is the queue's side."""

    name = "remote"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        folder.mkdir(parents=True)
        self.lines: List[str] = []
        log: Callable[[int, str], None] = lambda level, text: self.lines.append(text)  # noqa: E731
        self.member: RemoteMember = RemoteMember("remote", folder, asyncio.new_event_loop(), log, "one")
        self.member.start(lambda ensemble, event: self.deliver(ensemble, event))
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        handlers = wire.handlers(wire.MEMBERS, Members(_Host(self.member), log, 2), 1 << 22)  # type: ignore[arg-type]
        self.server.add_generic_rpc_handlers((handlers,))
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        far = folder / "far"
        self.far = remote.RemoteMember(
            f"127.0.0.1:{port}", "remote", Processes(far, self.cores), far, log=self.lines.append
        )
        self.thread = threading.Thread(target=self.far.run, daemon=True)
        self.thread.start()
        self.wait_for(lambda: self.member.link is not None, "the line")

    def run_for(self, seconds: float) -> None:
        self.member.loop.run_until_complete(asyncio.sleep(seconds))

    def output(self, ensemble: str, id: JobId) -> str:
        return (self.folder / "far" / "jobs" / str(id) / "out").read_text()

    def close(self) -> None:
        # jobs outlive their queue: what a case has left running is ended by the keepers of the jobs
        kept = [job for job in (self.folder / "far" / "jobs").iterdir() if (job / "begun").exists()]
        for job in kept:
            (job / "cancel").touch()
        until = time.monotonic() + 20
        while not all((job / "end").exists() for job in kept):
            assert time.monotonic() < until, kept
            time.sleep(0.05)
        self.far.stop()
        self.thread.join(30)
        self.server.stop(1).wait()
        self.member.stop()
        self.member.loop.run_until_complete(asyncio.sleep(0))
        self.member.loop.close()
