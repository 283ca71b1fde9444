# SPDX-License-Identifier: MIT
"""Grow and shrink: what size of the queue an ensemble wants, and what became of it.

Law of this file: called by `Engine.handle` alone, on its way. A rule says how many nodes more or fewer; the queue answers
what size that makes (`Scaled` wanted), and only behind that event, which is kept, is the size asked for (`Size`). So what
a restart asks for again is a size, never a number more. Requests are answered one after the other, each on top of the one
before it. A change is over when the queue says so: `finish`, once the nodes are up or gone, or `fail`. A later request takes
the place of one that is not over. A grow that is not over is an activity of the ensemble; a shrink is where a rule waits for
its outcome. A change that fails is told, and fires the rules that wait for that; the rule that asked goes on.

`engine.scaling` is plain data: `number` of the last request, `asked` (number -> action, by, rule, firing) that are not
answered, the size that is `wanted` (None until the first answer), and the change that is `open` (action, wanted, rule, firing).
For people and for cooldowns: the `size` that was told last, when the last change was over (`t_done`), and what has
`failed` last (t, action, wanted, reason).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional

from ensemble.engine import resources
from ensemble.engine.actions import Cause, Resize, Size
from ensemble.engine.events import Scaled
from ensemble.engine.occasion import Occasion

if TYPE_CHECKING:
    from ensemble.engine.acting import Firing
    from ensemble.engine.engine import Engine
    from ensemble.spec.models import Action


def nothing() -> Dict[str, Any]:
    """The state of an ensemble that has asked for nothing."""
    none = dict.fromkeys(("wanted", "open", "size", "t_done", "failed"))
    return {"number": 0, "asked": {}, **none}


def resize(firing: Firing, action: Action) -> None:
    """`grow`, `shrink`: have the queue say what size that makes."""
    engine = firing.engine
    by = firing.amount(action, "value") or 1
    firing.tell(action, f"{action.name} by {nodes(by)}")
    _ask(engine, action.name, by, firing.rule.id, firing.number)


def by_operator(engine: Engine, by: int) -> None:
    """An operator, not a rule, wants so many more nodes, or fewer."""
    action, many = ("grow" if by > 0 else "shrink"), abs(by)
    text = f"{action} by {nodes(many)}, asked for by an operator"
    engine.record("log", text=text, rule=None)
    _ask(engine, action, many, None, 0)


def _ask(engine: Engine, action: str, by: int, rule: Optional[str], firing: int) -> None:
    state = engine.scaling
    state["number"] += 1
    state["asked"][str(state["number"])] = [action, by, rule, firing]
    if len(state["asked"]) == 1:
        engine.emit(request(engine))


def request(engine: Engine) -> Resize:
    """The request that is to be answered next. There is one."""
    number, (action, by, rule, firing) = next(iter(engine.scaling["asked"].items()))
    return Resize(int(number), by if action == "grow" else -by, engine.scaling["wanted"], _cause(action, rule, firing))


def unfinished(engine: Engine) -> Optional[Size]:
    """The size that is asked for and not reached, None where there is none."""
    change = engine.scaling["open"]
    if change is None:
        return None
    action = change["action"]
    return Size(change["wanted"], action, _cause(action, change["rule"], change["firing"]))


def _cause(action: str, rule: Optional[str], firing: int) -> Cause:
    if rule is None:
        return Cause(None, 0, "asked for by an operator")
    return Cause(rule, firing, f"{action} by rule '{rule}', firing {firing}")


def take(engine: Engine, event: Scaled) -> None:
    """The queue answers a request, or says what became of a change."""
    if engine.final is not None:
        return
    size = event.data.get("size")
    if size is not None:
        engine.scaling["size"] = size
    _TAKERS[event.name](engine, event.data)


def _wanted(engine: Engine, data: Dict[str, Any]) -> None:
    state = engine.scaling
    asked = state["asked"].pop(str(data["number"]), None)
    if asked is None:
        return
    action, _, rule, firing = asked
    size, wanted, before = data["size"], data["wanted"], state["wanted"]
    state["wanted"] = wanted
    state["open"] = {"action": action, "wanted": data["wanted"], "rule": rule, "firing": firing}
    engine.emit(Size(data["wanted"], action, _cause(action, rule, firing)))
    bound = f", and goes no further: {data['reason']}" if data.get("reason") else ""
    if action == "shrink" and wanted >= size:
        # there are not more yet: some of those that were to come are not wanted any more
        text = (
            f"shrink to {nodes(wanted)}, no more to {before}, begins: {nodes(size)} {'is' if size == 1 else 'are'} up"
        )
    else:
        text = f"{action} from {size} to {nodes(wanted)} begins"
    _tell(engine, action, rule, firing, f"{text}{bound}")
    _more(engine)


def _refused(engine: Engine, data: Dict[str, Any]) -> None:
    asked = engine.scaling["asked"].pop(str(data["number"]), None)
    if asked is None:
        return
    action, _, rule, _ = asked
    _failed(engine, action, None, data["reason"])
    engine.record("error", rule=rule, text=f"{action}: {data['reason']}")
    wanted, size = engine.scaling["wanted"], data.get("size")
    # one that has not asked for any size before wants what there is
    _occur(engine, f"{action}-fail", size if wanted is None else wanted, size, data["reason"])
    _more(engine)


def nodes(many: int) -> str:
    """So many nodes, in words."""
    return f"{many} node{'' if many == 1 else 's'}"


def _more(engine: Engine) -> None:
    if engine.scaling["asked"]:
        engine.emit(request(engine))


def _waits(engine: Engine, data: Dict[str, Any]) -> None:
    change = engine.scaling["open"]
    if change is not None and change["wanted"] == data["wanted"]:
        _tell(engine, change["action"], change["rule"], change["firing"], f"{change['action']} waits: {data['reason']}")


def _failed(engine: Engine, action: str, wanted: Optional[int], reason: str) -> None:
    engine.scaling["failed"] = {"t": engine.t, "action": action, "wanted": wanted, "reason": reason}


def _finish(engine: Engine, data: Dict[str, Any]) -> None:
    change = engine.scaling["open"]
    engine.scaling["t_done"] = engine.t
    if change is None or change["wanted"] != data["wanted"]:
        return  # another one has taken its place
    engine.scaling["open"] = None
    # what was to be had may be less than what was wanted: a bound of those who own the nodes
    engine.scaling["wanted"] = data.get("reached", data["wanted"])
    action, size = change["action"], data["size"]
    text = f"{action} is done: {nodes(size)} {'is' if size == 1 else 'are'} up"
    _tell(engine, action, change["rule"], change["firing"], text)
    _occur(engine, f"{action}-finish", data["wanted"], size, "")


def _fail(engine: Engine, data: Dict[str, Any]) -> None:
    change = engine.scaling["open"]
    if "size" in data:
        # else nothing was begun
        engine.scaling["t_done"] = engine.t
    if change is None or change["wanted"] != data["wanted"]:
        return
    engine.scaling["open"] = None
    if data.get("size") is not None:
        # the next request counts from what there is
        engine.scaling["wanted"] = data["size"]
    action = change["action"]
    _failed(engine, action, change["wanted"], data["reason"])
    text = f"{action} to {nodes(change['wanted'])} has failed: {data['reason']}"
    engine.record("error", rule=change["rule"], text=text)
    _occur(engine, f"{action}-fail", data["wanted"], data.get("size"), data["reason"])


def _tell(engine: Engine, action: str, rule: Optional[str], firing: int, text: str) -> None:
    engine.record("action", rule=rule, firing=firing, action=action, label=None, count=None, text=text)


def _occur(engine: Engine, trigger: str, wanted: Optional[int], size: Optional[int], reason: str) -> None:
    occasion = Occasion(trigger, wanted=wanted, size=size, reason=reason)
    resources.occur(engine, engine.book.on(trigger), occasion, resources.look(engine))


_TAKERS = {"wanted": _wanted, "refused": _refused, "waits": _waits, "finish": _finish, "fail": _fail}


def busy(engine: Engine) -> bool:
    """Is there a change that keeps the ensemble from being idle?"""
    state = engine.scaling
    if state["asked"] or state["open"] is None:
        return bool(state["asked"])
    if state["open"]["action"] == "grow":
        return True
    return any(engine.book.rules[n].live for how in ("finish", "fail") for n in engine.book.on(f"shrink-{how}"))


def awaited(engine: Engine) -> bool:
    """Does the end wait? For the answer to a request alone: what was asked for goes on without the ensemble."""
    return bool(engine.scaling["asked"])


def over(engine: Engine) -> None:
    """The ensemble has ended: nothing is waited for any more."""
    if engine.scaling["open"] is not None:
        # it goes on, and nobody will say when it is over: not before now
        engine.scaling["t_done"] = engine.t
    engine.scaling["open"] = None
