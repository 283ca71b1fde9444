# SPDX-License-Identifier: MIT
"""What is kept of a run as a file, so that it can be replayed where no service knows it any more.

JSON lines: the first says what it is, `{format, ensemble, given, first_record, broken}`; then one for each event,
`[number, event, intents]`, and one for each recorded firing, an object. A greater format was written by a newer release.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, List, Union

from ensemble.errors import UsageError
from ensemble.service.replay import Log
from ensemble.spec.faults import escape

FORMAT = 1


def save(log: Log, path: Union[str, Path]) -> None:
    """Write it. Raises UsageError."""
    head = {"format": FORMAT, "ensemble": log.summary, "given": log.given}
    head.update(first_record=log.first_record, broken=log.broken)
    try:
        with open(path, "x", encoding="utf-8") as file:
            for line in (head, *log.events, *log.fired):
                file.write(json.dumps(line) + "\n")
    except OSError as exc:
        raise UsageError(f"the file '{escape(str(path))}' cannot be written: {exc.strerror or exc}") from None


def read(path: Union[str, Path]) -> Log:
    """What `save` has written. Raises UsageError for anything else."""
    told = escape(str(path))
    try:
        with open(path, encoding="utf-8") as file:
            lines: List[Any] = [json.loads(line) for line in file]
        head, *rest = lines
        if head["format"] > FORMAT:
            raise UsageError(
                f"'{told}' was written by a newer release, in format {head['format']}; this one reads {FORMAT}"
            )
        events = [line for line in rest if isinstance(line, list)]
        fired = [line for line in rest if isinstance(line, dict)]
        summary = {**head["ensemble"], "id": str(head["ensemble"]["id"])}
        return Log(summary, dict(head["given"]), events, fired, int(head["first_record"]), head["broken"])
    except OSError as exc:
        raise UsageError(f"the file '{told}' cannot be read: {exc.strerror or exc}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as exc:
        raise UsageError(f"'{told}' is no file that `replay ID --save FILE` has written ({exc!r})") from None
