# SPDX-License-Identifier: MIT
"""Which ensembles a `purge` removes, and removing them.

Law of this file: never one that has not ended. One that halted may still carry on, and one whose record cannot be
read may be read by another release: these go only where they are named.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence

from ensemble.errors import BadRequest
from ensemble.service.protocol import ENDS
from ensemble.service.store import Store


def purgeable(
    summaries: Sequence[Dict[str, Any]],
    now: float,
    older_than: Optional[float] = None,
    keep: int = 0,
    named: bool = False,
) -> List[Dict[str, Any]]:
    """Those of the summaries that go: ended `older_than` seconds ago, save the `keep` that ended last.

    `named` says that the user has named each of them. Raises BadRequest where one of those has not ended.
    """
    found = []
    for summary in summaries:
        if summary["state"] not in ENDS:
            if named:
                raise BadRequest(
                    f"ensemble {summary['id']} ({summary['name']}) has not ended, it is {summary['state']}: "
                    "only ended ones are purged"
                )
        elif named or (summary["state"] != "halted" and summary["t_end"] is not None):
            found.append(summary)
    found.sort(key=lambda summary: float(summary["t_end"] or 0.0))
    found = found[: max(0, len(found) - keep)]
    if older_than is None:
        return found
    return [summary for summary in found if now - float(summary["t_end"] or 0.0) >= older_than]


def remove_all(store: Store, ids: Sequence[str], done: Callable[[Dict[str, str]], None]) -> None:
    """Let the store forget them all; `done` is then told which it could not forget, and why."""
    left = set(ids)
    errors: Dict[str, str] = {}

    def forgotten(id: str, error: Optional[str]) -> None:
        left.discard(id)
        if error is not None:
            errors[id] = error
        if not left:
            done(errors)

    if not ids:
        done(errors)
    for id in ids:
        store.remove(id, partial(forgotten, id))
