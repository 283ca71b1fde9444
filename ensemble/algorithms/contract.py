# SPDX-License-Identifier: MIT
"""What an algorithm is: a class that becomes rules when a file is loaded, and that some of these rules call.

Law of this file: standard library only, since it is loaded in the workers of functions. An algorithm lives twice, and
shares nothing between its lives but what it says here:

- At load, `expand` answers rules as plain data. They depend on the options and on the group alone: no clock, no
  draw without a seed, no file, no network. Where plain rules suffice, that is all of it.
- While the ensemble runs, a rule whose action is `self.call("word")` makes the worker process of the ensemble make a
  new object, `restore` it, call its method `on_word(told)`, and `save` it. The answer and what was saved become one
  event of the ensemble's log: nothing is lost, and nothing takes effect twice, whoever is killed in between. A call
  may be made again after a crash, so `on_word` must answer the same when told the same, and change nothing outside.
"""

from __future__ import annotations

from typing import Any, ClassVar, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ensemble.algorithms.options import Option
from ensemble.custom import Action, Metrics


class WrongOption(Exception):
    """Raised by `expand`: an option does not fit the others, or the group. The fault is told where the option stands."""

    def __init__(
        self, option: str, message: str, expected: Optional[str] = None, known: Sequence[str] = (), value: Any = None
    ) -> None:
        """`known` are the words of which one may have been meant. Option '' is the algorithm as a whole."""
        super().__init__(message)
        self.option, self.expected, self.known, self.value = option, expected, tuple(known), value


class Failed(Exception):
    """Raised by `on_...`: the algorithm cannot go on; a sentence for people. Its rule fails as `on_error` says."""

    #: it is no accident that needs a traceback
    for_people = True


class Group(NamedTuple):
    """The group of jobs that an algorithm drives, as the file has it."""

    name: str
    #: entries of `jobs:` with that name
    sets: int = 1
    #: variables that it declares under `metrics`
    variables: Tuple[str, ...] = ()
    #: parameter -> what it may be: {"kind": "uniform" or "loguniform", "low", "high"}, {"kind": "list", "values"} (the
    #: first 1000 of them), or {"kind": "file"}, for columns that vary together; empty where a function says the points
    parameters: Mapping[str, Mapping[str, Any]] = {}
    #: points that its sample has in all; None where there is no end of them, or nobody knows
    points: Optional[int] = None
    #: `min`, `max`, `timeout` and `cooldown` (in seconds) of the file's `scaler`, where these are known; empty
    #: without one
    scaler: Mapping[str, float] = {}


class Told(NamedTuple):
    """What `on_...` is told."""

    #: what the rule fired on, as `event` of functions: `trigger`, `group`, `job`, `name`, `value`, `n`, `data`, ...;
    #: where it is about a job also `key` (names the job in actions: `job=key`), `values` (reported so far), `result`
    event: Dict[str, Any]
    #: the jobs of the group that have ended since this algorithm was last told of any, in the order in which they ended
    results: List[Dict[str, Any]]
    metrics: Metrics
    #: number of the rule's firing, from 1
    firing: int
    #: what `self.call(word, **given)` was given at load
    given: Dict[str, Any]


class Algorithm:
    """The class that an algorithm is made from."""

    #: what may stand in the file beside name, id, group and enabled
    OPTIONS: ClassVar[Sequence[Option]] = ()

    def __init__(self, name: str, id: str, group: str, options: Mapping[str, Any]) -> None:
        """`options` has a value for each of OPTIONS, checked."""
        self.name = name
        self.id = id
        self.group = group
        self.options = dict(options)
        #: what `on_...` keeps from one call to the next: JSON-able, at most 256 KiB
        self.state: Dict[str, Any] = {}

    # ---- for the author to write

    def expand(self, group: Group) -> List[Dict[str, Any]]:
        """The rules that the algorithm consists of, as a file has them. Raises WrongOption."""
        raise NotImplementedError

    def save(self) -> Dict[str, Any]:
        """What `restore` needs, JSON-able; kept with the answer."""
        return self.state

    def restore(self, state: Dict[str, Any]) -> None:
        """Take up what `save` answered last; not called before the first time."""
        self.state = state

    # ---- for the author to use

    def rule(self, suffix: str, trigger: str, *actions: Dict[str, Any], **keys: Any) -> Dict[str, Any]:
        """A rule of the algorithm; its id is the algorithm's with the suffix."""
        head: Dict[str, Any] = {"id": f"{self.id}-{suffix}", "trigger": trigger, **keys}
        return {**head, "actions": list(actions)} if len(actions) != 1 else {**head, "action": actions[0]}

    def call(self, word: str, **given: Any) -> Dict[str, Any]:
        """The action that calls `on_word`; `given` is JSON-able, and comes back as `told.given`."""
        if not callable(getattr(self, f"on_{word.replace('-', '_')}", None)):
            raise TypeError(f"{type(self).__name__} has no method on_{word.replace('-', '_')}")
        options = {name: value for name, value in self.options.items() if value is not None}
        args = {"call": word, "group": self.group, "options": options, "given": given}
        return {"name": "custom", "label": f"{self.name}:{self.id}", "args": args}

    def submit(self, **keys: Any) -> Dict[str, Any]:
        """The action that submits the group."""
        return {"name": "submit", "label": self.group, **keys}

    def idle(self, told: Told) -> bool:
        """Has no job of the group anything left to do?"""
        return not told.metrics.get(f"count.{self.group}.active")

    def log(self, text: str) -> Action:
        """For answers: a line in the ensemble's log, once for each time that it takes effect."""
        # braces would be filled in
        return Action("log", value=text.replace("{", "(").replace("}", ")"))

    def done(self, **data: Any) -> Action:
        """For answers: the signal ID-done, by which rules of the file learn the outcome."""
        return Action("signal", label=f"{self.id}-done", data=data)
