# SPDX-License-Identifier: MIT
"""`run`, `submit` and `resume`: check the file, find or start a service, submit; `run` then follows to the end.

On Flux the ensemble lives in the instance's service, and this command merely looks on: Ctrl-C detaches. On the local
queue the service is a child that ends with this command, so Ctrl-C asks what is to become of it.
"""

from __future__ import annotations

import contextlib
import select
import signal
import sys
from argparse import Namespace
from typing import Any, Dict, List, Optional, Sequence

from ensemble.cli.act import act, limit
from ensemble.cli.common import EXIT, clean, connected, hint, load, out, out_json, say, submission
from ensemble.cli.follow import Follower
from ensemble.cli.interrupt import TWICE, Interrupts
from ensemble.cli.local_start import Hosted, background, run_dir, start_background, start_hosted
from ensemble.cli.show import Show, choose_show
from ensemble.cli.summary import final_lines
from ensemble.errors import BadRequest, ServiceError, UsageError
from ensemble.service.client import Client, choose
from ensemble.service.local_client import LocalConnection
from ensemble.service.protocol import ENDS

#: what a SIGTERM or a Ctrl-C leaves as exit status where the ensemble goes on
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


def run(args: Namespace) -> int:
    """`run FILE`. Returns the exit status."""
    told = _warn(args.file)
    member = choose(args.member)
    with Interrupts() as interrupts:
        if member == "flux":
            client = _flux()
            answer = _submitted(client, args.file, told)
            return _Run(args, client, answer["id"], interrupts, None).follow()
        say(
            "no Flux instance here: running on the local queue of this machine"
            if args.member == "auto"
            else "running on the local queue of this machine"
        )
        hosted = start_hosted(args.rundir)
        view = None
        try:
            answer = _submitted(hosted.connection, args.file, told)
            view = _Run(args, hosted.connection, answer["id"], interrupts, hosted)
            return view.follow()
        finally:
            if view is None or not view.detached:
                hosted.end()


def submit(args: Namespace) -> int:
    """`submit FILE`: prints the id and nothing else to standard output."""
    told = _warn(args.file)
    hosted: Optional[Hosted] = None
    if choose(args.member) == "flux":
        client: Client = _flux()
    else:
        found = background()
        if found is None:
            hosted = start_background(args.rundir)
            say(f"started a local service in the background (pid {hosted.pid}); output goes to {run_dir(args.rundir)}")
            found = hosted.connection
        client = found
    with contextlib.closing(client):
        answer = _submitted(client, args.file, told)
    if args.json:
        out_json(answer)
    else:
        out(str(answer["id"]))
    return 0


def watch(args: Namespace) -> int:
    """`watch ID`. Returns the exit status."""
    with Interrupts() as interrupts:
        client = connected(args)
        # by its id from here on: the name might come to mean another
        id = str(client.call("status", {"id": args.id})["id"])
        return _Run(args, client, id, interrupts, None, watching=True, since=args.since).follow()


def resume(args: Namespace) -> int:
    """`resume ID`. Returns the exit status, of `act` where a service has the ensemble, else as `run` does."""
    from ensemble.service.local_files import FileClient, LocalAndFiles

    limits = dict(map(limit, args.limit or []))
    client = connected(args)
    if not isinstance(client, LocalAndFiles):
        client.close()
        return act(args)
    with contextlib.closing(client):
        id, owner = client.owner(args.id)
        if not isinstance(owner, FileClient):
            return act(args)
        status = owner.call("status", {"id": id})
        halted = status["state"] == "halted"
        if halted and not limits:
            raise BadRequest(f"ensemble {id} is halted: {status['reason']}; raise the limit with --limit NAME=N")
        if status["state"] in ENDS and not halted:
            raise BadRequest(f"ensemble {id} ({status['name']}) has ended: {status['state']}")
        since = owner.last(id)
    with Interrupts() as interrupts:
        hosted = start_hosted(args.rundir, id)
        view = None
        try:
            say(f"{id} goes on where its run ended, on the local queue of this machine")
            if halted or limits or status["state"] == "paused":
                hosted.connection.call("resume", {"id": id, "limits": limits})
            view = _Run(args, hosted.connection, id, interrupts, hosted, since=since)
            return view.follow()
        finally:
            if view is None or not view.detached:
                hosted.end()


def _warn(path: str) -> List[str]:
    """Tell what looks wrong with the file; the first lines of what was told: place and sentence."""
    told = [str(warning) for warning in load(path).warnings]
    for text in told:
        print(text, file=sys.stderr)
    return [_head(text) for text in told]


def _head(text: str) -> str:
    return text.split("\n", 1)[0]


def _submitted(client: Client, path: str, told: Sequence[str]) -> Dict[str, Any]:
    """The answer to the submission of a file, whose warnings are told, but for those that were `told`.

    The service knows what its queue can do, and so may have more of them than there are without it.
    """
    try:
        answer = client.call("submit", submission(path))
    except BadRequest as exc:
        # a file that this queue does not take is a wrong file
        raise UsageError(str(exc)) from None
    for text in answer.get("warnings") or []:
        if _head(str(text)) not in told:
            print(clean(str(text)), file=sys.stderr)
    return answer


def _flux() -> Client:
    """A client of the instance's service, which is started if none runs."""
    from ensemble.service.flux_client import FluxClient

    client = FluxClient()
    stats = client.start_service()
    if stats.get("started"):
        say(f"no service was running in this Flux instance: started one (pid {stats.get('pid')})")
    return client


class _Run:
    """One ensemble, followed until its end or until the user has had enough."""

    def __init__(
        self,
        args: Namespace,
        client: Client,
        id: str,
        interrupts: Interrupts,
        hosted: Optional[Hosted],
        watching: bool = False,
        since: int = 0,
    ) -> None:
        self._args = args
        self._hosted = hosted
        self._watching = watching
        self._interrupts = interrupts
        self._cancelled = False
        self._warned = False
        self._follower = Follower(client, id, self._reconnect, since)
        self.id = id
        #: the local service goes on without us
        self.detached = False

    def follow(self) -> int:
        """Show records until the end; the exit status. Raises a ServiceError."""
        status = self._follower.client.call("status", {"id": self.id})
        show = choose_show(self._args.json, status, self._args.debug)
        leave: Optional[int] = None
        show.start()
        try:
            with contextlib.closing(self._follower.batches()) as batches:
                for records in batches:
                    if records:
                        show.batch(records)
                    leave = self._look(show)
                    if leave is not None:
                        break
        finally:
            show.stop()
        if leave is not None:
            return leave
        follower = self._follower
        if not self._args.json:
            for line in self._last_lines(follower.client):
                out(line)
        return EXIT[str(follower.state)]

    def _last_lines(self, client: Client) -> List[str]:
        try:
            return final_lines(client, client.call("status", {"id": self.id}))
        except ServiceError:
            # a local service may end with its `run` before one who merely watches has asked
            reason = self._follower.reason
            return [clean(f"{self.id}: {self._follower.state}{': ' + reason if reason else ''}")]

    def _reconnect(self) -> Client:
        return LocalConnection(self._hosted.connection.path) if self._hosted is not None else connected(self._args)

    def _look(self, show: Show) -> Optional[int]:
        """Deal with signals; the exit status if they mean that we go now."""
        interrupts = self._interrupts
        if self._cancelled:
            return TERMINATED if interrupts.terminated and self._hosted is None else None
        if interrupts.terminated:
            if self._hosted is not None:
                self._cancel()
                return None
            self._farewell()
            return TERMINATED
        if not interrupts.once:
            return None
        if self._watching:
            self._farewell()
            return INTERRUPTED
        if interrupts.twice:
            self._cancel()
            return None
        if self._hosted is not None:
            return self._ask(show, self._hosted)
        if not self._warned:
            self._warned = True
            say(f"Ctrl-C again within {TWICE:g} s cancels the ensemble; else it goes on without this command")
        if interrupts.settled:
            self._farewell()
            return INTERRUPTED
        return None

    def _ask(self, show: Show, hosted: Hosted) -> Optional[int]:
        """What is to become of an ensemble on our own service? The exit status if we go and it goes on."""
        self._interrupts.forget()
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            self._cancel()
            return None
        show.pause()
        say(f"{self.id} runs under this command: go on in the [b]ackground, [c]ancel it, or [w]atch on?")
        answer = self._answer()
        if answer == "b":
            hosted.detach()
            self.detached = True
            say(f"the local service (pid {hosted.pid}) goes on in the background")
            self._farewell()
            return INTERRUPTED
        if answer == "c":
            self._cancel()
        self._interrupts.forget()
        show.start()
        return None

    def _answer(self) -> str:
        """b, c or w. A signal, or the end of the input, is c."""
        while not (self._interrupts.once or self._interrupts.terminated):
            if not select.select([sys.stdin], [], [], 0.25)[0]:
                continue
            line = sys.stdin.readline()
            word = line.strip().lower()[:1]
            if not line:
                break
            if word in ("b", "c", "w"):
                return word
            say("please answer b, c or w")
        return "c"

    def _cancel(self) -> None:
        say(f"cancelling {self.id}")
        try:
            self._follower.client.call("cancel", {"id": self.id})
            self._cancelled = True
        except ServiceError as exc:
            self._interrupts.forget()
            say(f"it could not be cancelled: {exc}")

    def _farewell(self) -> None:
        say(f"{self.id} goes on; watch it with '{hint('watch', self.id)}', end it with '{hint('cancel', self.id)}'")
