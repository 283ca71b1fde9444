# SPDX-License-Identifier: MIT
"""Where ensembles are kept. (Being written.)"""

from __future__ import annotations

from abc import ABC


class Store(ABC):
    """Keeps what must outlive the service."""


class MemoryStore(Store):
    """Keeps it for the life of the process."""
