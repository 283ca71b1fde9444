# SPDX-License-Identifier: MIT
"""Every error that this package raises on purpose.

::

    EnsembleError
    |-- SpecError          the user's file is wrong: one or more faults with positions
    |-- UsageError         the user's command line is wrong
    |-- ServiceError       the service said no, or cannot be reached (carries an errno)
    |   |-- NoService      none is running where we looked
    |   |-- ServiceLost    it went away half-way
    |   |-- NotFound       no ensemble of that id or name
    |   |-- NotPermitted   the caller does not own the instance
    |   `-- BadRequest     the request makes no sense, or not now
    |-- MemberError        a queue cannot be reached or used
    |-- RuleError          a rule cannot do what its file says: a number that has no value, say
    `-- InternalError      our fault
        |-- TransitionError  an event that the table of a job's life has no entry for
        `-- RecordError      a stored record that this version cannot read

Each message is one sentence (a `SpecError` has one per fault) that says what is wrong, where, and what to do
next. Any other exception that leaves this package is a bug.
"""

from __future__ import annotations

import errno as _errno
from typing import TYPE_CHECKING, Sequence

if TYPE_CHECKING:
    from ensemble.spec.faults import Fault


class EnsembleError(Exception):
    """The root of the tree; never raised itself."""


class SpecError(EnsembleError):
    """The user's file is wrong. `faults` holds every fault of the file, in file order, at least one."""

    def __init__(self, faults: Sequence[Fault], warnings: Sequence[Fault] = ()) -> None:
        self.faults = tuple(faults)
        #: what looks wrong besides, as far as it was looked for
        self.warnings = tuple(warnings)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class UsageError(EnsembleError):
    """The command line is wrong; the message says what would be right."""


class ServiceError(EnsembleError):
    """The service refused a request, or could not be reached. `errno` is a number of `errno(3)`."""

    errno: int = _errno.EIO

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        if errno is not None:
            self.errno = errno


class NoService(ServiceError):
    """No service is running where we looked."""

    errno = _errno.ENOSYS


class ServiceLost(ServiceError):
    """The service went away before it had answered."""

    errno = _errno.ECONNRESET


class NotFound(ServiceError):
    """No ensemble has that id, prefix or name (or more than one has)."""

    errno = _errno.ENOENT


class NotPermitted(ServiceError):
    """The caller does not own the instance that the service runs in."""

    errno = _errno.EPERM


class BadRequest(ServiceError):
    """The request is malformed, or does not fit the ensemble's state."""

    errno = _errno.EINVAL


class MemberError(EnsembleError):
    """A queue cannot be reached, or cannot do what was asked of it at all."""


class RuleError(EnsembleError):
    """A rule cannot do what its file says, as things stand: a number that has no value, or is out of range."""


class InternalError(EnsembleError):
    """A bug of ours, found by our own checks."""


class TransitionError(InternalError):
    """The table of a job's life has no entry for this event in this state."""


class RecordError(InternalError):
    """A stored record is damaged, or was written by a newer version."""


_BY_ERRNO = {cls.errno: cls for cls in (NoService, ServiceLost, NotFound, NotPermitted, BadRequest)}


def service_error(errno: int, message: str) -> ServiceError:
    """The error of the tree that stands for an answer with this errno."""
    return _BY_ERRNO.get(errno, ServiceError)(message, errno)
