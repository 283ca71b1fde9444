# SPDX-License-Identifier: MIT
"""A call of an algorithm, in the worker process of its ensemble: the function that stands behind the label NAME:ID.

Law of this file: an object lives for one call: it is made, restored from the state that is kept for the label, asked, and
saved. So what it keeps is in its state or nowhere, and a worker that was killed makes no difference.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ensemble.algorithms.contract import Told
from ensemble.algorithms.found import load


def function(label: str) -> Callable[..., Any]:
    """The custom function of that label."""
    name, _, id = label.partition(":")
    made = load(name)

    def step(
        event: Dict[str, Any],
        results: List[Dict[str, Any]],
        metrics: Any,
        rule: Any,
        args: Dict[str, Any],
        state: Dict[str, Any],
    ) -> Any:
        options = {**{option.name: None for option in made.OPTIONS}, **args["options"]}
        algorithm = made(name, id, args["group"], options)
        if state:
            algorithm.restore(dict(state))
        rows = [row for row in results if row["group"] == args["group"]]
        told = Told(event, rows, metrics, rule.firing, args.get("given") or {})
        answer = getattr(algorithm, f"on_{args['call'].replace('-', '_')}")(told)
        kept = algorithm.save()
        state.clear()
        state.update(kept)
        return answer

    return step
