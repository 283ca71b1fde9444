# SPDX-License-Identifier: MIT
"""Points that a function says: `parameters: {custom: f}`.

Law of this file: called by `Engine.handle` alone, on its way. A submission first takes what earlier answers have left;
when nothing is left it calls the function and waits for its answer, as an activity of its group. The answer's points
are taken as the points of a file are; a function that answers none has no more, and nothing is submitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional

from ensemble.engine import calls
from ensemble.engine.points import Taken
from ensemble.spec import parameters
from ensemble.spec.models import Action, JobSet

if TYPE_CHECKING:
    from ensemble.engine.acting import Firing
    from ensemble.engine.engine import Engine


def function(jobs: JobSet) -> Optional[str]:
    """The function that says the points of the set, if one does."""
    return None if jobs.parameters is None else jobs.parameters.custom


def take(firing: Firing, action: Action, asked: Optional[int], number: int, jobs: JobSet) -> Optional[Taken]:
    """What this submission takes of the points that were answered before; None where the function has to be called."""
    engine, name = firing.engine, f"{action.label}/{number}"
    left = engine.answered.get(name)
    if not left:
        return None
    count = jobs.wanted if asked is None else asked
    points, rest = (left, []) if count is None else (left[:count], left[count:])
    if rest:
        engine.answered[name] = rest
    else:
        del engine.answered[name]
    engine.taken[action.label or ""][number] += len(points)
    return Taken(len(points), 0, points)


def ask(
    firing: Firing, action: Action, asked: Optional[int], overrides: Dict[str, Any], number: int, name: str
) -> None:
    """Call the function: what was to be computed for the submission is computed."""
    said = action.model_copy(update={**overrides, "count": asked}).model_dump(exclude_none=True)
    calls.ask(firing, name, {**said, "set": number})
    firing.tell(action, f"call {name} for points of {action.label}")


def answer(firing: Firing, pending: calls.Pending, points: Any) -> None:
    """The function has answered its points: submit them. Raises FunctionFailed."""
    said = dict(pending.action)
    number = said.pop("set")
    action = Action.model_validate(said)
    group = action.label or ""
    try:
        made: List[Any] = list(parameters.points(points)) if points else []
    except ValueError as exc:
        raise calls.FunctionFailed(f"function '{pending.function}' gave a wrong answer: {exc}") from None
    if not made:
        firing.tell(action, f"{pending.function} has no more points of {group}, so nothing is submitted", 0)
        return
    firing.engine.answered[f"{group}/{number}"] = made
    firing.engine.hands["submit"](firing, action, only=number)


def awaited(engine: Engine, group: str) -> bool:
    """Is a submission of the group waiting for a function? Then the group is not complete."""
    return any(
        one.action.get("name") == "submit" and one.action.get("label") == group for one in engine.calls.pending.values()
    )


def forget(engine: Engine, group: Optional[str]) -> int:
    """Submissions of that group, or of all, that wait for functions are not made any more; how many there were."""
    waiting = [
        id
        for id, one in engine.calls.pending.items()
        if one.action.get("name") == "submit" and group in (None, one.action.get("label"))
    ]
    engine.calls.forget(waiting)
    return len(waiting)
