# SPDX-License-Identifier: MIT
"""What a queue is scaled by: the contract of scalers, and of the ways that installed packages may bring.

Two parts. A `Scaler` belongs to one queue: it knows how many of the queue's nodes are up, and has the number changed. A
queue of Flux has one that looks after the nodes (`flux_scaler.py`: which ones go, that no job runs there, when they are
up) and leaves the change itself to a `Way`: a site's script, a MiniCluster, or what an installed package names under the
entry points `ensemble.scalers`. Such an entry point is called as `make(table, loop)` and answers a `Way`; `table` is the
`ensemble.spec.scaler.Scaler` that the file or the site has written, with its `options`, `loop` what calls back
(`ensemble.members.base.Loop`).

What all of them promise: nothing blocks, nothing raises for the queue's reasons, and what was asked for twice is as good as
asked for once, for it is a size and never a number more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Callable, NamedTuple, Optional

from ensemble.errors import MemberError
from ensemble.spec import scaler as spec
from ensemble.spec.scaler import Scaler as Table
from ensemble.spec.scaler import installed

#: gets the number of nodes that are up, None where it cannot be told; and why it failed, '' if it did not
Sized = Callable[[Optional[int], str], None]


class Order(NamedTuple):
    """A size to be had."""

    wanted: int
    #: whether nodes are to be added or taken; where there are as many already, nothing is done
    action: str
    #: the ensemble that wants it
    ensemble: str
    #: the smallest and the greatest size that may be; None: all that there are
    min: int
    max: Optional[int]
    #: seconds after which it has failed
    timeout: float
    #: take nodes with jobs on them as well
    force: bool


class Scaler(ABC):
    """Changes the size of one queue. Callbacks come from the event loop, never from inside a call."""

    #: the greatest size that the queue can have, as of the last answer of `size`; None where that is not known
    most: Optional[int] = None

    @abstractmethod
    def size(self, then: Sized) -> None:
        """How many nodes are up and may run jobs, once that is known."""

    @abstractmethod
    def resize(self, order: Order, done: Sized) -> None:
        """Have that size. `done` gets the number of nodes once they are up or gone, or why they are not.

        An order takes the place of one that is not done, which is not answered any more.
        """

    @abstractmethod
    def stop(self) -> None:
        """Leave all as it is, and call back no more."""


class Change(NamedTuple):
    """What a `Way` has to bring about."""

    order: Order
    #: nodes that are up now; where nodes are taken, those that are to go count no more
    current: int
    #: what the owner of the nodes has to have in all for that: those that are out of use for other reasons count too
    extent: int
    #: an idset: the nodes to take, on which no job runs or starts; where nodes are added, ranks without a node
    ranks: str


#: gets why it failed, '' if it did not; and the extent that was to be had, where that is another than asked for
Done = Callable[[str, Optional[int]], None]


class Way(ABC):
    """How the owner of the nodes is asked for more or fewer of them."""

    #: takes away the nodes of the greatest ranks, whatever it is told; others take those of `Change.ranks`
    last = False

    @abstractmethod
    def change(self, change: Change, done: Done) -> None:
        """Ask. `done` is called once, from the event loop, when it was asked for; the nodes may come later.

        The next change is asked for after that. After `stop` nothing is called.
        """

    def stop(self) -> None:  # noqa: B027 - most have nothing to let go
        """Give up what is under way."""


def known(table: Optional[Table]) -> None:
    """Is a scaler of that name installed? Raises MemberError."""
    if table is not None and table.name not in spec.BUILT_IN and table.name not in installed():
        raise MemberError(spec.known(table.name, installed()))


def way(table: Table, loop: Any) -> Way:
    """The way that an installed package brings under that name. Raises MemberError where there is none, or it is broken."""
    known(table)
    try:
        made = installed()[table.name].load()(table, loop)
    except Exception as exc:
        raise MemberError(f"the scaler '{table.name}' cannot be made ({type(exc).__name__}: {exc})") from exc
    if not isinstance(made, Way):
        raise MemberError(f"the scaler '{table.name}' is no ensemble.members.scaler.Way but {type(made).__name__}")
    return made
