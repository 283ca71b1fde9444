# SPDX-License-Identifier: MIT
"""The supervised service of an instance, killed at named points of its work. A program for the tests of this folder.

`python service_that_dies.py FOLDER` supervises; each of its services dies (`os._exit`, no word to anybody, as kill -9)
at the next point of FOLDER/points that is not spent: one line each, `POINT COUNT`, the COUNT-th time that it comes
there. Points:

before-intent   an event with submissions was consumed, and nothing of it is on its way to the store
after-intent    the commit with the submissions is done, and none was sent
after-send      the submission has left, and no answer was read
burst           as many submissions have left, without a pause, and no answer was read
after-ack       the answer was read, and nothing of it is kept
after-event     a job event was consumed, its commit is on its way
in-recovery     a service was brought back, and has not taken anything up
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Callable


def serve(folder: Path) -> int:
    """One life of the service."""
    from ensemble.engine.actions import Submit
    from ensemble.engine.events import JobEvent
    from ensemble.members.flux_requests import Requests
    from ensemble.service import core, main
    from ensemble.service.kvs_store import KvsStore
    from ensemble.service.running import Running

    points = [line.split() for line in (folder / "points").read_text().splitlines()]
    done = (folder / "deaths").read_text().splitlines() if (folder / "deaths").exists() else []
    point, count = points[len(done)] if len(done) < len(points) else ("none", "0")
    seen = 0

    def die(here: str) -> None:
        nonlocal seen
        if here != point:
            return
        seen += 1
        if seen == int(count):
            with (folder / "deaths").open("a") as file:
                file.write(f"{point}\n")
                file.flush()
                os.fsync(file.fileno())
            os._exit(9)

    def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
        plain = getattr(owner, name)
        setattr(owner, name, lambda *args, **more: around(plain, *args, **more))

    def commit(plain: Any, self: Any, id: str, commit: Any, done: Any) -> None:
        submits = any("/" in intent for intent in commit.intents)
        if submits:
            die("before-intent")

        def kept(error: Any) -> None:
            if submits:
                die("after-intent")
            done(error)

        plain(self, id, commit, kept)

    def send(plain: Any, self: Any, submission: Any) -> None:
        plain(self, submission)
        if point == "after-send":
            # what was sent may still be in a buffer: an answer to this shows that the broker has it
            self._handle.rpc("attr.get", {"name": "rank"}).get()
        die("after-send")
        die("burst")

    def acknowledge(plain: Any, self: Any, submission: Any, id: int) -> None:
        die("after-ack")
        plain(self, submission, id)

    def feed(plain: Any, self: Any, event: Any, *args: Any, **more: Any) -> None:
        plain(self, event, *args, **more)
        if isinstance(event, JobEvent):
            die("after-event")

    def take_up(plain: Any, *args: Any) -> None:
        die("in-recovery")
        plain(*args)

    assert Submit
    wrap(KvsStore, "commit", commit)
    wrap(Requests, "_send_submission", send)
    wrap(Requests, "_acknowledge", acknowledge)
    wrap(Running, "feed", feed)
    wrap(core, "take_up", take_up)
    return main.main(sys.argv[3:])


def supervise(folder: Path) -> int:
    """The supervisor, whose patience with quick deaths is endless, and whose pauses are short."""
    from ensemble.service import supervisor

    supervisor.MAX_QUICK = 1000
    supervisor.LONGEST_PAUSE = 0.2

    def command(restarts: int, cause: str) -> Any:
        options = ["--supervisor", str(os.getpid()), "--restarts", str(restarts), "--cause", cause]
        return [sys.executable, __file__, str(folder), "serve", *options]

    return supervisor.Supervisor(command, lambda text: print(text, file=sys.stderr)).run()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    sys.exit(serve(place) if sys.argv[2:3] == ["serve"] else supervise(place))
