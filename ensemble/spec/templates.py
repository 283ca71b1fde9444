# SPDX-License-Identifier: MIT
"""`{x}` in the keys of a set: which places there are, and what stands there for a point.

Law of this file: only `{name}` or `{name:format}` that names a parameter of the job is replaced, in each word by itself
once the command is split, so that a value never becomes two words. All else is literal: `{{id}}` is the job shell's,
`${x}` the shell's. What has been filled in is not looked at again.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Collection, Dict, Iterator, List, Mapping, NamedTuple, Tuple, Union

from ensemble.spec.space import Value

#: keys of a set in which parameters are filled in
TEXTS = ("workdir", "input", "output", "error", "script", "queue", "bank")

#: how the names of their environment variables begin
PARAM = "ENSEMBLE_PARAM_"
#: one of ours, or what only looks like it and is passed over
_PLACE = re.compile(r"\{\{[^{}]*\}\}|\$\{[^{}]*\}|\{([A-Za-z_][A-Za-z0-9_]*)(?::([^{}]*))?\}")
#: a width or precision of four digits would make texts that no job can take
_WIDE = re.compile(r"\d{4}")


class Hole(NamedTuple):
    """A place for a parameter."""

    name: str
    #: as `format` takes it; '' is the value in full
    format: str
    #: where in the text it begins
    offset: int


def holes(text: str) -> Iterator[Hole]:
    """The places of a text that look like parameters, declared or not."""
    for match in _PLACE.finditer(text):
        if match[1] is not None:
            yield Hole(match[1], match[2] or "", match.start())


def pieces(text: str, names: Collection[str]) -> List[Union[str, Hole]]:
    """The text as literal parts and places for these parameters."""
    found: List[Union[str, Hole]] = []
    at = 0
    for match in _PLACE.finditer(text):
        if match[1] in names:
            if match.start() > at:
                found.append(text[at : match.start()])
            found.append(Hole(match[1], match[2] or "", match.start()))
            at = match.end()
    if at < len(text):
        found.append(text[at:])
    return found


def fill(text: str, params: Mapping[str, Value]) -> str:
    """The text with the values of the parameters in their places. Raises ValueError as `formatted` does."""
    if not params or "{" not in text:
        return text
    parts = pieces(text, params)
    return "".join(part if isinstance(part, str) else formatted(params[part.name], part) for part in parts)


def written(value: Value) -> str:
    """A value as a job gets it: a number so that it reads back as the same number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def formatted(value: Value, hole: Hole) -> str:
    """A value as that place wants it. Raises ValueError with a sentence where it has no such format."""
    if not hole.format:
        return written(value)
    try:
        if _WIDE.search(hole.format):
            raise ValueError("it is too wide")
        return format(written(value) if isinstance(value, bool) else value, hole.format)
    except (ValueError, OverflowError) as exc:
        shown = written(value)[:60]
        raise ValueError(f"{hole.name} is '{shown}', which cannot be written as '{hole.format[:30]}': {exc}") from None


def variables(params: Mapping[str, Value]) -> Dict[str, str]:
    """The environment variables that carry the parameters."""
    return {variable(name): written(value) for name, value in params.items()}


def variable(name: str) -> str:
    """The environment variable that carries that parameter."""
    return PARAM + name.upper()


def texts(jobs: Any) -> Iterator[Tuple[str, str]]:
    """Every text of a `JobSet` in which parameters are filled in, with its key."""
    seen: List[Tuple[str, str]] = []

    def look(key: str) -> Callable[[str], str]:
        def see(text: str) -> str:
            seen.append((key, text))
            return text

        return see

    _changed(jobs, look)
    yield from seen


def filled(jobs: Any, change: Callable[[str], str]) -> Any:
    """The `JobSet` with each of those texts changed by the function."""
    return jobs.model_copy(update=_changed(jobs, lambda key: change))


def _changed(jobs: Any, change: Callable[[str], Callable[[str], str]]) -> Dict[str, Any]:
    made: Dict[str, Any] = {key: change(key)(getattr(jobs, key)) for key in TEXTS if getattr(jobs, key) is not None}
    made["command"] = tuple(change("command")(word) for word in jobs.command)
    made["environment"] = {
        name: None if text is None else change("environment")(text) for name, text in jobs.environment.items()
    }
    for key in ("shell", "attributes"):
        made[key] = {name: _inside(value, change(key)) for name, value in getattr(jobs, key).items()}
    return made


def _inside(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_inside(one, change) for one in value]
    if isinstance(value, dict):
        return {name: _inside(one, change) for name, one in value.items()}
    return value
