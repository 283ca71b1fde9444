# SPDX-License-Identifier: MIT
"""What requests must hold: a model for each shape of `protocol.py`, strict and without room for unknown keys."""

from __future__ import annotations

import errno
from typing import Any, Dict, List, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import Annotated

from ensemble.errors import BadRequest
from ensemble.spec.reports import MOST_VALUES

#: rows or records in one answer
_MOST = 10_000
#: a name, or a value as it was written
_Word = Annotated[str, Field(max_length=200)]


class _Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Submitter(_Payload):
    environment: Dict[str, str] = Field(default_factory=dict)
    cwd: str = "/"
    umask: Optional[int] = Field(None, ge=0, le=0o777)
    rlimits: Dict[str, int] = Field(default_factory=dict)


class Nothing(_Payload):
    """A request without keys."""


class Submission(_Payload):
    text: str
    file: str = Field("ensemble.yaml", max_length=4096)
    files: Dict[str, str] = Field(default_factory=dict)
    submitter: _Submitter


class Id(_Payload):
    id: str = Field(min_length=1, max_length=256)


class Jobs(Id):
    group: Optional[str] = None
    start: int = Field(0, ge=0)
    max: int = Field(1000, ge=1, le=_MOST)


class Since(Id):
    since: int = Field(0, ge=0)


class Log(Since):
    max: int = Field(1000, ge=1, le=_MOST)


class Explain(Id):
    # an empty one is answered as any that is not there: with those that are
    rule: str = Field(max_length=200)


class Events(Id):
    after: int = Field(0, ge=0)
    max: int = Field(1000, ge=1, le=_MOST)


class Resume(Id):
    limits: Dict[str, Any] = Field(default_factory=dict)


class Resize(Id):
    by: int = Field(ge=-1_000_000, le=1_000_000)


class Purge(_Payload):
    ids: List[str] = Field(default_factory=list, max_length=_MOST)
    older_than: Optional[float] = Field(None, ge=0)
    keep: int = Field(0, ge=0)


class Put(_Payload):
    key: str = Field(min_length=1, max_length=500)
    values: Dict[_Word, Union[float, _Word]] = Field(min_length=1, max_length=MOST_VALUES)
    token: str = Field(min_length=1, max_length=100)


class Signal(Id):
    name: str = Field(min_length=1, max_length=100)
    data: Dict[_Word, Any] = Field(default_factory=dict)
    token: str = Field("", max_length=100)


#: what is wrong, by the kind of fault: a sentence behind the place, with the bounds of the model filled in
_SAID = {
    "missing": "is missing",
    "extra_forbidden": "is no key of this request",
    "string_too_short": "is empty; expected a word",
    "string_too_long": "has more than {max_length} characters",
    "too_short": "is empty",
    "too_long": "has more than {max_length} entries",
    "greater_than_equal": "is less than {ge:.12g}",
    "less_than_equal": "is greater than {le:.12g}",
    "string_type": "is no string",
    "int_type": "is no whole number",
    "float_type": "is no number",
    "bool_type": "is neither true nor false",
    "dict_type": "is no object with keys",
    "model_type": "is no object with keys",
    "list_type": "is no list",
    "finite_number": "is no finite number",
}


def parse(model: Any, payload: Any) -> Any:
    """The payload as the model has it. Raises BadRequest with the first thing that is wrong."""
    if payload is None:
        payload = {}
    if not isinstance(payload, dict):
        raise BadRequest("the request's payload is no JSON object", errno.EPROTO)
    try:
        return model.model_validate(payload)
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        said = _SAID.get(fault["type"])
        told = f": {fault['msg']}" if said is None else f" {said.format(**fault.get('ctx', {}))}"
        raise BadRequest(f"bad request: {where}{told}", errno.EPROTO) from None
