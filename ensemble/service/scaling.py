# SPDX-License-Identifier: MIT
"""One queue, and the sizes that ensembles want of it.

Law of this file: this is the one place where the wishes of ensembles meet; nothing here is kept. What an ensemble wants is
in its engine, which is told of the outcome by events, and says it again after a restart (`take_up`); so is when a change was
over, which those that have ended say by their last picture (`recall`).

Theory of operation. An ensemble wants a size from its first `grow` or `shrink` to its end. A grow counts from what it wants or
from what there is, whichever is more; a shrink from what it wants, if it has said so, else from what there is. The queue is
to have the greatest of the sizes that are wanted. So it grows for whoever wants most, and shrinks when a shrink is open
(asked for and not done) and all others want no more than that; a shrink to which somebody objects waits, until that
one ends or wants less. A shrink that was begun goes on when its ensemble has ended. The last size stays.

One change is on its way at a time; another size takes its place. Between the end of a change and the next one lies the
cooldown, the longest of those that are waited for. A queue has one scaler at a time: that of the ensembles that want a size.
"""

from __future__ import annotations

import syslog
from typing import Any, Callable, Dict, List, Optional

from ensemble.engine import scaling
from ensemble.engine.actions import Resize, Size
from ensemble.engine.engine import Engine
from ensemble.engine.events import Event, Scaled
from ensemble.errors import MemberError
from ensemble.members.base import Member, Submitter, Timer
from ensemble.members.guard import Log, guarded
from ensemble.members.scaler import Order, Scaler
from ensemble.spec.scaler import Scaler as Table
from ensemble.spec.scaler import chosen


class _Wish:
    """What one ensemble wants."""

    __slots__ = ("action", "open", "table", "told", "wanted")

    def __init__(self, table: Table, wanted: int, action: str, open: bool) -> None:
        self.table = table
        self.wanted = wanted
        self.action = action
        #: it is asked for and not done yet
        self.open = open
        #: it was told what it waits for
        self.told = False


class Scaling:
    """The sizes that are wanted of one member. `feed(ensemble, event)` takes the outcomes, and must not raise."""

    def __init__(
        self, member: Member, feed: Callable[[str, Event], None], log: Log, clock: Callable[[], float]
    ) -> None:
        self._member = member
        self._feed = feed
        self._log = log
        self._clock = clock
        self._wishes: Dict[str, _Wish] = {}
        #: the scaler in use, and how it changes the size
        self._scaler: Optional[Scaler] = None
        self._way: Any = None
        #: what is on its way
        self._order: Optional[Order] = None
        #: when the last change was over, seconds since the epoch
        self._t_done: Optional[float] = None
        self._cooling: Optional[Timer] = None
        self._frozen = False
        #: all that want something are known, be it from before
        self._started = False

    def start(self) -> None:
        """All ensembles of an earlier service were taken up: now what they want is known."""
        self._started = True
        self._pursue()

    # ---- what ensembles ask for

    def ask(self, engine: Engine, submitter: Optional[Submitter], action: Resize) -> None:
        """Answer with the size that so many nodes more or fewer make."""
        name = "grow" if action.by > 0 else "shrink"
        try:
            table = self.able(engine, name)
            scaler = self._get(engine, table, submitter)
        except MemberError as exc:
            self._later(engine.id, "refused", number=action.number, reason=str(exc))
            return

        def sized(size: Optional[int], error: str) -> None:
            if size is None:
                self._tell(engine.id, "refused", number=action.number, reason=error)
                return
            self._met(engine.id, size)
            reason = ""
            wish = self._wishes.get(engine.id)
            coming = wish is not None and wish.open and wish.action == "grow"
            if action.by > 0:
                base = max(size, action.held or 0)
                wanted = base + action.by
                if table.max is not None and wanted > table.max:
                    wanted, reason = table.max, f"there may be no more than {scaling.nodes(table.max)}"
                if scaler.most is not None and wanted > scaler.most:
                    wanted, reason = scaler.most, f"this queue can have no more than {scaling.nodes(scaler.most)}"
                # where nodes were lost since, there are fewer than it wants, and a bound is no reason not to have them back
                wrong = wanted <= (base if coming else size)
            else:
                base = size if action.held is None else action.held
                wanted = base + action.by
                if wanted < table.min:
                    wanted, reason = table.min, f"there may be no fewer than {scaling.nodes(table.min)}"
                wrong = wanted >= base
            if wrong:
                self._tell(engine.id, "refused", number=action.number, size=size, reason=reason)
            else:
                bound = {"reason": reason} if reason else {}
                self._tell(engine.id, "wanted", number=action.number, size=size, wanted=wanted, **bound)

        scaler.size(guarded(self._log, sized))

    def _met(self, id: str, size: int) -> None:
        """A grow whose nodes are up is over, also where something else is asked for before its scaler has seen them."""
        wish = self._wishes.get(id)
        if wish is not None and wish.open and wish.action == "grow" and size >= wish.wanted:
            wish.open = False
            self._tell(id, "finish", wanted=wish.wanted, size=size)

    def want(self, engine: Engine, submitter: Optional[Submitter], action: Size) -> None:
        """From now on the ensemble wants that size, and is told when it is there."""
        try:
            table = self.able(engine, action.action)
            self._get(engine, table, submitter)
        except MemberError as exc:
            self._later(engine.id, "fail", wanted=action.wanted, reason=str(exc))
            return
        self._wishes[engine.id] = _Wish(table, action.wanted, action.action, True)
        self._pursue()

    def take_up(self, engine: Engine, submitter: Optional[Submitter]) -> None:
        """An ensemble of an earlier service: what it wants, and what it waits for."""
        state = engine.scaling
        self._recall(state["t_done"])
        if engine.final is not None or (state["wanted"] is None and not state["asked"]):
            return
        change = scaling.unfinished(engine)
        if change is not None:
            self.want(engine, submitter, change)
        elif state["wanted"] is not None:
            try:
                table = self.able(engine, "grow")
                self._get(engine, table, submitter)
            except MemberError as exc:
                self._log(syslog.LOG_WARNING, f"ensemble {engine.id} wants {state['wanted']} nodes: {exc}")
            else:
                self._wishes[engine.id] = _Wish(table, state["wanted"], "grow", False)
        if state["asked"]:
            self.ask(engine, submitter, scaling.request(engine))

    def recall(self, status: Dict[str, Any]) -> None:
        """The last STATUS of an ensemble of an earlier service that has ended: its last change counts for the cooldown."""
        self._recall((status.get("scaling") or {}).get("t_done"))

    def _recall(self, t: Optional[float]) -> None:
        if t is not None:
            # the clock may have been set back since
            self._t_done = max(min(t, self._clock()), self._t_done or 0.0)

    def told(self, engine: Engine) -> Optional[Dict[str, Any]]:
        """`scaling` of STATUS: None where the file has no scaler and nothing was asked for."""
        state, now = engine.scaling, self._clock()
        if engine.spec.scaler is None and not state["number"]:
            return None
        table = chosen(engine.spec.scaler, self._member.site)
        wish = self._wishes.get(engine.id)
        waits = None
        if wish is not None and wish.open and self._order is None:
            waits = "cooldown" if self._cooling is not None else "ensemble"
        elif wish is not None and wish.open and wish.action == "shrink" and self._order is not None:
            waits = None if self._order.wanted <= wish.wanted else "ensemble"
        change = state["open"]
        until = None if table is None or self._t_done is None else self._t_done + table.cooldown
        return {
            "scaler": None if table is None else table.name,
            "min": None if table is None else table.min,
            "max": None if table is None else table.max,
            "cooldown": None if table is None else table.cooldown,
            "wanted": state["wanted"],
            "size": state["size"],
            "change": None
            if change is None
            else {"action": change["action"], "wanted": change["wanted"], "waits": waits},
            "cooling_until": until if until is not None and until > now else None,
            "t_done": state["t_done"],
            "failed": state["failed"],
        }

    def release(self, id: str) -> None:
        """The ensemble has ended, and wants nothing any more."""
        if self._wishes.pop(id, None) is not None:
            self._pursue()

    def freeze(self) -> None:
        """The instance is going down: leave it as it is."""
        self._frozen = True
        self.stop()

    def stop(self) -> None:
        """Ask for nothing more."""
        self._order = None
        if self._cooling is not None:
            self._cooling.cancel()
            self._cooling = None
        if self._scaler is not None:
            self._scaler.stop()
            self._scaler = None
        self._wishes.clear()

    # ---- the scaler

    def able(self, engine: Engine, action: str) -> Table:
        """The scaler that counts for the ensemble. Raises MemberError where there is none."""
        table = chosen(engine.spec.scaler, self._member.site)
        able = self._member.capabilities
        if table is None or not ("scaler" in able or action in able):
            raise MemberError(f"the queue '{self._member.name}' has no way to {action}, so nothing was done")
        return table

    def _get(self, engine: Engine, table: Table, submitter: Optional[Submitter]) -> Scaler:
        """The scaler of that table. Raises MemberError where another one is in use, or there is none of that name."""
        site = self._member.site
        own = site is not None and table is site.scaler
        whose = None if own or submitter is None else submitter
        # scripts of two users' folders are two
        way = (*table.way, None if whose is None else whose.cwd)
        if self._scaler is not None and self._way != way:
            users = [id for id in self._wishes if id != engine.id]
            if users or self._order is not None:
                by = f"ensemble {users[0]}" if users else "an ensemble that has ended"
                raise MemberError(f"this queue is being scaled by '{self._way[0]}', for {by}: one scaler at a time")
            self._scaler.stop()
            self._scaler = None
        if self._scaler is None:
            if self._frozen:
                raise MemberError("the instance is going down")
            self._scaler = self._member.scaler(table, whose)
            self._way = way
        return self._scaler

    # ---- the size to be had

    def _pursue(self) -> None:
        """Have the queue get the size that is wanted now, if it is not on its way there."""
        open = {id: wish for id, wish in self._wishes.items() if wish.open}
        if not open or self._scaler is None or self._frozen or not self._started:
            return
        target = max(wish.wanted for wish in self._wishes.values())
        leader = max(open, key=lambda id: open[id].wanted)
        objecting = [id for id, wish in self._wishes.items() if wish.wanted == target]
        for wish_id, wish in open.items():
            if wish.action == "shrink" and wish.wanted < target and not wish.told:
                wish.told = True
                reason = f"ensemble {objecting[0]} wants {target} nodes"
                self._later(wish_id, "waits", wanted=wish.wanted, reason=reason)
        ready = [wish for wish in open.values() if wish.action == "grow" or wish.wanted == target]
        if not ready:
            return
        # a grow below the target is there when the target is; then no one has asked to go up to the target itself
        actions = {wish.action for wish in ready}
        action = "grow" if "grow" in actions else "shrink"
        wanted = target if action == "shrink" else max(wish.wanted for wish in ready if wish.action == "grow")
        order = self._order
        if order is not None and (order.wanted, order.action) == (wanted, action):
            return
        wait = 0.0
        if self._t_done is not None and order is None:
            wait = self._t_done + max(wish.table.cooldown for wish in ready) - self._clock()
        if self._cooling is not None:
            self._cooling.cancel()
            self._cooling = None
        if wait > 0:
            self._cooling = self._member.call_at(self._clock() + wait, self._cooled)
            return
        self._begin(leader, ready, wanted, action)

    def _cooled(self) -> None:
        self._cooling = None
        self._t_done = None
        self._pursue()

    def _begin(self, leader: str, ready: List[_Wish], wanted: int, action: str) -> None:
        assert self._scaler is not None
        tables = [wish.table for wish in ready]
        bounds = [table.max for table in tables if table.max is not None]
        order = Order(
            wanted,
            action,
            leader,
            min(table.min for table in tables),
            max(bounds) if len(bounds) == len(tables) else None,
            max(table.timeout for table in tables),
            all(table.force for table in tables),
        )
        self._order = order

        def done(size: Optional[int], error: str) -> None:
            if self._order is order:
                self._over(order, size, error)

        self._log(syslog.LOG_INFO, f"{action} to {wanted} nodes, for ensemble {leader}")
        self._scaler.resize(order, guarded(self._log, done))

    def _over(self, order: Order, size: Optional[int], error: str) -> None:
        """A change is over: tell those that have waited for it."""
        self._order = None
        self._t_done = self._clock()
        if error:
            self._log(syslog.LOG_WARNING, f"{order.action} to {order.wanted} nodes has failed: {error}")
        told = []
        for id, wish in self._wishes.items():
            if not wish.open or wish.action != order.action:
                continue
            if order.action == "grow":
                there = size is not None and (size >= wish.wanted or not error)
                concerned = wish.wanted <= order.wanted
            else:
                there = size is not None and not error
                concerned = wish.wanted >= order.wanted
            if not concerned:
                continue
            wish.open = False
            data: Dict[str, Any] = {"wanted": wish.wanted, "size": size}
            short = size is not None and (size < wish.wanted if order.action == "grow" else size > wish.wanted)
            if not there:
                data["reason"] = error
            elif short:
                # whoever owns the nodes has set a bound
                data["reached"] = size
            told.append((id, "finish" if there else "fail", data))
            if size is not None and (short or not there):
                wish.wanted = size
        for id, name, data in told:
            self._tell(id, name, **data)
        self._pursue()

    # ---- telling of it

    def _tell(self, id: str, name: str, **data: Any) -> None:
        self._feed(id, Scaled(self._clock(), name, data))

    def _later(self, id: str, name: str, **data: Any) -> None:
        """From the event loop: the engine is in the middle of something."""
        self._member.call_at(self._clock(), lambda: self._tell(id, name, **data))
