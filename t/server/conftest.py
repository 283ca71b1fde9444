# SPDX-License-Identifier: MIT
"""Tests of `ensemble-server` are skipped where gRPC is not installed, and say so."""

from __future__ import annotations

from importlib.util import find_spec
from typing import List

import pytest

collect_ignore = [] if find_spec("grpc") else ["remote_driver.py", "served.py"]
WHY = "ensemble-server: grpcio is not installed ('make setup' says why it cannot be)"


class _Missing(pytest.Module):
    """A file of tests that cannot even be read here."""

    def collect(self) -> List[pytest.Item]:
        pytest.skip(WHY, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):  # type: ignore[no-untyped-def]
    """Without gRPC each file is one skip."""
    return None if find_spec("grpc") else _Missing.from_parent(parent, path=module_path)
