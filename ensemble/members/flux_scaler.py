# SPDX-License-Identifier: MIT
"""The scaler of a Flux instance: which nodes go, that no job runs there, and when nodes are up. Imports flux.

How it works. A node is up where its broker is online, and it is neither drained nor excluded. To add nodes, those that a
scaler has drained are undrained first; for more the owner of the nodes is asked (`Way`), and what comes online counts. To
take nodes some are drained, with a reason that tells them from those that an administrator has drained: no job starts there
any more, and those that run go on. Idle ones are taken first, those of the greatest rank before others, rank 0 never; where
the owner takes the last ones, these. Once no job runs there, at two looks one after the other, for a job may have been on its
way there before the first one (with `force` at once), they are the owner's to take away, and it is done when they are
offline. So all that a change needs to be taken up again is in the instance itself, and after each step the instance is
looked at anew: between two looks `_PAUSE` seconds pass, and more where nothing changes.

A node that was drained and could not be freed in time is given back, but for one that the owner was asked to take, and may
take yet: that stays drained, until it is gone or a grow has told the owner otherwise. The scaler `drain` has no owner to
ask: it undrains what it has drained, and drains again. There are never more nodes than Flux was configured with.
"""

from __future__ import annotations

import os
import syslog
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Optional

import flux

from ensemble.members import scaler_program
from ensemble.members.base import Loop, Submitter, Timer
from ensemble.members.flux_nodes import GIVEN, REASON, Nodes, idset, looked
from ensemble.members.flux_timers import Timers
from ensemble.members.guard import Log, guarded
from ensemble.members.scaler import Change, Order, Scaler, Sized, Way, way
from ensemble.spec.scaler import COMMAND, DRAIN, MINICLUSTER, Site, site
from ensemble.spec.scaler import Scaler as Table

#: seconds between two looks, at first and at most
_PAUSE, _LONGEST = 0.1, 1.0
#: seconds after which a question counts as not answered
_PATIENCE = 15.0


class _Work:
    """An order on its way."""

    def __init__(self, order: Order, done: Sized) -> None:
        self.order = order
        self.done = done
        #: the size to be had; less than was wanted where the owner gives no more
        self.wanted = order.wanted
        #: the owner was asked, and has answered
        self.asked = False
        #: nodes that were free of jobs at the last look
        self.quiet: FrozenSet[int] = frozenset()
        self.pause = _PAUSE
        #: nodes that were up at the last look
        self.size: Optional[int] = None


class FluxScaler(Scaler):
    """The scaler of the instance of `handle`. Without a `way` nodes are undrained and drained alone."""

    def __init__(self, handle: flux.Flux, timers: Timers, log: Log, way: Optional[Way]) -> None:
        self._handle = handle
        #: of the monotonic clock
        self._timers = timers
        self._log = log
        self._way = way
        self._work: Optional[_Work] = None
        #: the owner is being asked; what is ordered meanwhile waits for the answer
        self._asking = False
        self._timer: Optional[Timer] = None
        self._limit: Optional[Timer] = None
        self._stopped = False

    def size(self, then: Sized) -> None:
        def seen(nodes: Optional[Nodes], error: str) -> None:
            if nodes is not None:
                self.most = len(nodes.up | nodes.ready if self._way is None else nodes.all - nodes.others)
            then(None if nodes is None else len(nodes.up), error)

        self._see(seen)

    def resize(self, order: Order, done: Sized) -> None:
        self._work = _Work(order, done)
        self._drop_timers()
        self._limit = self._timers.after(order.timeout, self._too_late)
        if not self._asking:
            self._timer = self._timers.after(0.0, self._look)

    def stop(self) -> None:
        self._stopped = True
        self._work = None
        self._drop_timers()
        if self._way is not None:
            self._way.stop()

    def _drop_timers(self) -> None:
        for timer in (self._timer, self._limit):
            if timer is not None:
                timer.cancel()
        self._timer = self._limit = None

    # ---- looking

    def _see(self, then: Callable[[Optional[Nodes], str], None]) -> None:
        """Have the nodes looked at."""

        def status(future: Any) -> None:
            try:
                found = future.get()
            except OSError as exc:
                then(None, f"the nodes cannot be looked at: {exc.strerror or exc}")
                return
            ask = self._handle.rpc("resource.sched-status", {})
            ask.then(guarded(self._log, lambda answer: scheduled(answer, found)), timeout=_PATIENCE)

        def scheduled(future: Any, found: Dict[str, Any]) -> None:
            try:
                nodes = looked(found, future.get())
            except (OSError, KeyError, TypeError, ValueError) as exc:
                then(None, f"the nodes cannot be looked at: {getattr(exc, 'strerror', None) or exc}")
                return
            then(nodes, "")

        self._handle.rpc("resource.status", {}, nodeid=0).then(guarded(self._log, status), timeout=_PATIENCE)

    def _look(self) -> None:
        """Look at the nodes, and take the next step."""
        self._timer = None
        work = self._work

        def seen(nodes: Optional[Nodes], error: str) -> None:
            if self._stopped or work is None or self._work is not work:
                return
            if nodes is None:
                self._again(work)
            else:
                if work.size != len(nodes.up):
                    work.size, work.pause = len(nodes.up), _PAUSE
                self._step(work, nodes)

        self._see(seen)

    def _again(self, work: _Work) -> None:
        """Look once more, after a while."""
        self._timer = self._timers.after(work.pause, self._look)
        work.pause = min(2 * work.pause, _LONGEST)

    # ---- acting

    def _step(self, work: _Work, nodes: Nodes) -> None:
        size = len(nodes.up)
        if work.order.action == "grow":
            most = len(nodes.all if self._way is None else nodes.all - nodes.others)
            if size < most:
                # who asks for more than there are gets all; who has all gets nowhere
                work.wanted = min(work.wanted, most)
            if size < work.wanted:
                self._add(work, nodes, work.wanted - size)
            elif len(nodes.seen) < work.wanted:
                self._again(work)  # the scheduler hears of it in a moment
            else:
                self._end(work, size, "")
        elif size > work.wanted:
            self._take(work, nodes, size - work.wanted)
        elif size < work.wanted and nodes.ready and work.asked:
            # the owner has left us more than was asked for
            self._drain("undrain", sorted(nodes.ready)[: work.wanted - size], work)
        else:
            self._taken(work, nodes)

    def _add(self, work: _Work, nodes: Nodes, missing: int) -> None:
        # those that the owner may still take are of use once it knows how many there shall be
        back = nodes.ready if work.asked else nodes.ready - nodes.given
        if back:
            self._drain("undrain", sorted(back)[:missing], work)
        elif work.asked:
            self._again(work)
        elif self._way is None:
            self._end(work, len(nodes.up), "no more nodes are there that a shrink has drained")
        elif len(nodes.up) >= len(nodes.all - nodes.others):
            self._end(work, len(nodes.up), "there are no more nodes: Flux has those that it was configured with")
        else:
            self._ask(work, nodes, work.wanted + len(nodes.others), nodes.offline)

    def _take(self, work: _Work, nodes: Nodes, many: int) -> None:
        last = self._way is not None and self._way.last
        order = sorted(nodes.up - {0}, key=lambda rank: (not last and rank in nodes.busy, -rank))
        if len(order) < many:
            self._end(work, len(nodes.up), "the nodes left cannot be taken: rank 0 stays")
            return
        self._drain("drain", order[:many], work)

    def _taken(self, work: _Work, nodes: Nodes) -> None:
        """The nodes to take are drained: once no job runs there they are the owner's."""
        last = self._way is not None and self._way.last
        # where the owner takes the last ones, none of these may have a job, whoever has drained it
        extent = max(nodes.up, default=0) + 1
        going = nodes.ours | {rank for rank in nodes.others if last and rank >= extent}
        quiet, work.quiet = work.quiet, going - nodes.busy
        taken = frozenset(rank for rank in nodes.ready if self._way is not None and (not last or rank >= extent))
        if not work.order.force and not going <= quiet & work.quiet:
            if going <= work.quiet:
                work.pause = _PAUSE
            self._again(work)
        elif taken and not work.asked:
            self._give(work, nodes, extent, taken)
        elif taken:
            self._again(work)  # it was asked for: it is done when they are gone
        else:
            self._end(work, len(nodes.up), "")

    def _give(self, work: _Work, nodes: Nodes, extent: int, ranks: FrozenSet[int]) -> None:
        """Ask the owner to take these, which is written at the nodes themselves first."""
        fresh = ranks - nodes.given

        if fresh:
            marked = self._changed(work, lambda: self._ask(work, nodes, extent, ranks, fresh))
            self._mark(fresh, GIVEN, work.order.ensemble).then(marked, timeout=_PATIENCE)
        else:
            self._ask(work, nodes, extent, ranks)

    def _mark(self, ranks: Iterable[int], reason: str, ensemble: str) -> Any:
        payload = {"targets": idset(ranks), "reason": f"{reason} of ensemble {ensemble}", "mode": "overwrite"}
        return self._handle.rpc("resource.drain", payload, nodeid=0)

    def _ask(
        self, work: _Work, nodes: Nodes, extent: int, ranks: Iterable[int], fresh: FrozenSet[int] = frozenset()
    ) -> None:
        """Ask the owner for nodes, or to take these; `fresh` are those of them that it was not asked to take before."""
        assert self._way is not None
        self._asking = True
        order = work.order._replace(wanted=work.wanted)
        change = Change(order, len(nodes.up), extent, idset(ranks))

        def told(error: str, reached: Optional[int]) -> None:
            if error and fresh and not self._stopped:
                # it has said that it takes none
                ask = self._mark(fresh, REASON, order.ensemble)
                ask.then(guarded(self._log, lambda future: asked(error, reached)), timeout=_PATIENCE)
            else:
                asked(error, reached)

        def asked(error: str, reached: Optional[int]) -> None:
            self._asking = False
            if self._stopped:
                return
            if self._work is not work:
                # something else is wanted by now
                if self._work is not None:
                    self._look()
                return
            work.asked = True
            if error:
                self._give_back(work, error)
                return
            if reached is not None and reached != extent:
                work.wanted = max(1, work.wanted + reached - extent)
            work.pause = _PAUSE
            self._look()

        self._way.change(change, told)

    def _drain(self, how: str, ranks: List[int], work: _Work) -> None:
        payload: Dict[str, Any] = {"targets": idset(ranks)}
        if how == "drain":
            payload.update(reason=f"{REASON} of ensemble {work.order.ensemble}")

        done = self._changed(work, self._look)
        self._handle.rpc(f"resource.{how}", payload, nodeid=0).then(done, timeout=_PATIENCE)

    def _changed(self, work: _Work, then: Callable[[], None]) -> Callable[[Any], None]:
        """Takes the answer to a change of drains, and goes on while that work is wanted."""

        def done(future: Any) -> None:
            if self._stopped or self._work is not work:
                return
            try:
                future.get()
            except OSError:
                # somebody else has drained one of them meanwhile, or the module is away: it is looked at again
                self._again(work)
                return
            then()

        return guarded(self._log, done)

    # ---- the end

    def _too_late(self) -> None:
        self._limit = None
        work = self._work
        if work is None:
            return
        late = f"after {work.order.timeout:g} s"
        if self._asking and self._way is not None:
            self._way.stop()
            self._asking = False
            self._give_back(work, f"{late} the scaler was still busy with it, and was ended")
            return
        done = "up" if work.order.action == "grow" else "gone" if work.asked else "free of jobs"
        self._give_back(work, f"{late} not all of the nodes are {done}")

    def _give_back(self, work: _Work, error: str) -> None:
        """It has failed: nodes that it has drained and that are still there may have jobs again."""
        if work.order.action == "grow":
            self._fail(work, error)
            return

        def seen(nodes: Optional[Nodes], _: str) -> None:
            if self._stopped or self._work is not work:
                return
            # those on which no job runs are taken, if nobody else has to take them
            found = (nodes.ready & nodes.busy if self._way is None else nodes.ready) if nodes else frozenset()
            given = nodes.given if nodes else frozenset()
            back, kept = found - given, found & given
            why = error
            if kept:
                why += f"; ranks {idset(kept)} stay drained, for they may yet be taken, until a grow"
            if not back:
                self._fail(work, why)
                return
            ask = self._handle.rpc("resource.undrain", {"targets": idset(back)}, nodeid=0)
            ask.then(guarded(self._log, lambda future: self._fail(work, why)), timeout=_PATIENCE)

        self._see(seen)

    def _fail(self, work: _Work, error: str) -> None:
        def seen(nodes: Optional[Nodes], _: str) -> None:
            if not self._stopped and self._work is work:
                self._end(work, None if nodes is None else len(nodes.up), error)

        if self._work is work:
            self._see(seen)

    def _end(self, work: _Work, size: Optional[int], error: str) -> None:
        self._work = None
        self._drop_timers()
        work.done(size, error)


def way_of(table: Table, loop: Loop, submitter: Optional[Submitter]) -> Optional[Way]:
    """How the owner of the nodes is asked, as that table says; `submitter` wrote it, None is the site itself.

    Raises MemberError where no scaler of that name is installed.
    """
    if table.name == DRAIN:
        return None
    if table.name == COMMAND:
        environment = os.environ if submitter is None else submitter.environment
        return scaler_program.command(table, loop, environment, "/" if submitter is None else submitter.cwd)
    return scaler_program.minicluster(table, loop) if table.name == MINICLUSTER else way(table, loop)


def configured(handle: flux.Flux, log: Log) -> Optional[Site]:
    """What the instance's configuration says of scaling. A table with a fault is told, and as good as none."""
    try:
        table = handle.conf_get("ensemble.scaler", default=None)
        return None if table is None else site(table)
    except (OSError, TypeError, ValueError) as exc:
        log(syslog.LOG_ERR, f"the configuration cannot be used, so there is no scaler: {exc}")
        return None
